"""``constellation plugins``: what is found, where from, what it provides."""

from __future__ import annotations

import json
import os

import click

from constellation.cli.options import Shared, shared_options
from constellation.core.plugins import PluginInfo, configured_plugins, make_plugin_manager


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@shared_options
@click.pass_context
def plugins(
    context: click.Context,
    *,
    as_json: bool,
    format_: str | None,
    plugins: tuple[str, ...],
    plugin_options: tuple[tuple[str, str], ...],
) -> None:
    """List the plugins that are found: the defaults, those enabled here, and those that could be.

    Enabled are those named by --plugin, CONSTELLATION_PLUGINS and [tool.constellation] plugins in pyproject.toml. What is
    not enabled is not imported, so what it provides is not known.
    """
    before: Shared = context.obj or Shared()
    shared = before.joined(Shared(format_, plugins, plugin_options))
    names = [*shared.plugins, *configured_plugins(os.getcwd(), os.environ)]
    lines = make_plugin_manager(names, dict(shared.plugin_options)).listing()
    if as_json or shared.format == "json":
        click.echo(json.dumps([line._asdict() for line in lines], indent=2))
    else:
        click.echo(table(lines))


def table(lines: list[PluginInfo]) -> str:
    """Lay out a listing in columns under headings."""
    rows = [("NAME", "ENABLED", "FROM", "MODULE", "PROVIDES")]
    for line in lines:
        source = line.distribution or line.source
        rows.append((line.name, "yes" if line.enabled else "no", source, line.module, ", ".join(line.provides)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
