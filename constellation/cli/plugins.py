"""``constellation plugins``: what is found, what enables it, what it provides; and ``plugins new``, which begins one."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import click

from constellation.cli.options import Shared, shared_options
from constellation.cli.skeleton import KINDS, write
from constellation.core import enabling
from constellation.core.errors import UsageError
from constellation.core.listing import UNUSABLE, PluginInfo, listing


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.option("--options", "with_options", is_flag=True, help="Show the options that each plugin takes.")
@click.option(
    "--import", "import_all", is_flag=True, help="Import those that are not enabled too, to see what they provide."
)
@shared_options
@click.pass_context
def plugins(
    context: click.Context,
    *,
    as_json: bool,
    with_options: bool,
    import_all: bool,
    format_: str | None,
    plugins: tuple[str, ...],
    plugin_options: tuple[tuple[str, str], ...],
) -> None:
    """List the plugins that are found: the defaults, those enabled here, and those that could be.

    Enabled are those named by --plugin, CONSTELLATION_PLUGINS and [tool.constellation] plugins in pyproject.toml. What is
    not enabled is not imported, so what it provides is not known.

    \b
    Example:
        constellation plugins --import --options

    Exit codes: 0 listed, 1 an enabled one cannot be used, 2 wrong use.
    """  # noqa: D301  # the mark is click's
    if context.invoked_subcommand is not None:
        return
    before: Shared = context.obj or Shared()
    shared = before.joined(Shared(format_, plugins, plugin_options))
    found = enabling.look(os.getcwd(), os.environ)
    names = {
        **dict.fromkeys(shared.plugins, "--plugin"),
        **{n: how for n, how in found.names.items() if n not in shared.plugins},
    }
    given = {**found.options_of(names), **dict(shared.plugin_options)}
    lines = listing(names, given, import_all=import_all)
    if as_json or shared.format == "json":
        click.echo(json.dumps([as_data(line) for line in lines], indent=2))
    else:
        click.echo(table(lines))
        if with_options:
            click.echo(f"\n{option_table(lines)}")
    if any(line.state == UNUSABLE and line.enabled_by for line in lines):
        context.exit(1)


@plugins.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), required=True, help="What the plugin offers.")
@click.option("--folder", metavar="PATH", help="Where to write it; constellation-NAME by default.")
def new(name: str, kind: str, folder: str | None) -> None:
    """Write a distribution for a new plugin NAME: package, entry point, README and tests that pass.

    Go on from what it does: install it with `pip install -e`, run its tests with pytest, and change it step by step.

    \b
    Example:
        constellation plugins new meter --kind news

    Exit codes: 0 written, 2 wrong use, or the folder is there already.
    """  # noqa: D301  # the mark is click's
    folder = folder or f"constellation-{name}"
    try:
        files = write(name, kind, folder)
    except FileExistsError as error:
        raise UsageError(f"cannot write {folder!r}: it is there already; name another with --folder") from error
    for file in files:
        click.echo(file)
    click.echo(f"\nnext: cd {folder} && pip install -e '.[test]' && pytest")


def as_data(line: PluginInfo) -> dict[str, Any]:
    """Turn a line into plain values."""
    options = [
        {"name": each.name, "type": each.type.__name__, "default": each.default, "help": each.help,
         "choices": list(each.choices)}
        for each in line.options
    ]  # fmt: skip
    return {**line._asdict(), "options": options}


def table(lines: list[PluginInfo]) -> str:
    """Lay out a listing in columns under headings; reasons stand below, for they are long."""
    rows = [("NAME", "KIND", "PACKAGE", "VERSION", "ENABLED BY", "HOOKS", "STATE")]
    for line in lines:
        kinds, hooks = ",".join(line.kinds) or "-", ",".join(line.hooks) or "-"
        package = line.package or line.module
        rows.append((line.name, kinds, package, line.version or "-", line.enabled_by or "-", hooks, line.state))
    reasons = [f"\n{line.name}: {line.reason}" for line in lines if line.reason]
    return grid(rows) + "".join(reasons)


def option_table(lines: list[PluginInfo]) -> str:
    """Lay out the options of all plugins, as ``--plugin-option`` takes them."""
    rows = [("OPTION", "TYPE", "DEFAULT", "MEANS")]
    for line in lines:
        for option in line.options:
            kind = "|".join(map(str, option.choices)) or option.type.__name__
            default = "-" if option.default is None else repr(option.default)
            rows.append((f"{line.name}.{option.name}", kind, default, option.help))
    return grid(rows) if len(rows) > 1 else "no plugin that is imported takes options"


def grid(rows: Sequence[tuple[str, ...]]) -> str:
    """Set rows in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
