"""The command ``constellation``: its group, and how plugins add commands to it.

Exit codes of our own: 2 wrong use, 3 nobody answers, 4 refused before it ran. Else the exit code of what was run.
"""

from __future__ import annotations

import difflib
import os
import sys

import click

from constellation.cli import completion as completing
from constellation.cli import deploy as deploying
from constellation.cli.daemons import master, node
from constellation.cli.doctor import doctor
from constellation.cli.keygen import keygen
from constellation.cli.options import Shared, shared_options
from constellation.cli.plugins import plugins
from constellation.cli.run import run
from constellation.cli.why import why
from constellation.core import enabling
from constellation.core.errors import ConstellationError
from constellation.core.finding import own_version
from constellation.core.plugins import make_plugin_manager

_LOADED = "constellation.plugins_loaded"


class _Commands(click.Group):
    """A group that asks the enabled plugins for commands when its own do not answer."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        self._load(ctx)
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._load(ctx)
        return super().list_commands(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if ctx.resilient_parsing and ":" not in name:  # a shell asks what could come next
            return super().resolve_command(ctx, args)
        if ":" in name and name not in self.commands:
            # As in the original: an address alone is a node's, with a file behind it the master's.
            role = "master" if any(each.endswith(".toml") for each in args[1:]) else "node"
            return role, self.commands[role], args
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.commands, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(sorted(self.commands))}"
            if os.path.exists(name):
                hint = f"to run a program: constellation run {' '.join(args)}"
            ctx.fail(f"no such command {name!r}; {hint}")
        return super().resolve_command(ctx, args)

    def _load(self, ctx: click.Context) -> None:
        if _LOADED in ctx.meta:
            return
        ctx.meta[_LOADED] = True
        # ctx.obj is not there yet: click looks for the command before it calls the group.
        found = enabling.look(os.getcwd(), os.environ)
        names = [*ctx.params.get("plugins", ()), *found.names]
        if names:
            given = {**found.options_of(names), **dict(ctx.params.get("plugin_options", ()))}
            make_plugin_manager(names, given).register_commands(self)


def _show_version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:  # click's form
    if wanted and not context.resilient_parsing:
        click.echo(f"constellation {own_version()}")
        context.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@shared_options
@click.pass_context
def cli(
    context: click.Context,
    format_: str | None,
    plugins: tuple[str, ...],  # the command of this name is added below, where it is not hidden
    plugin_options: tuple[tuple[str, str], ...],
) -> None:
    """Write, debug and deploy distributed programs of processes that talk over channels.

    \b
    Example:
        constellation run prog.py ARGS
        constellation deploy 10.0.0.1:5001 prog.py ARGS

    Exit codes: those of the program where one is run; 130 after Ctrl-C; and of our own 2 wrong use, 3 the fabric cannot be
    reached or refuses, 4 the program was refused before it ran. Each command has its own: constellation COMMAND --help.
    """  # noqa: D301  # the mark is click's
    context.obj = Shared(format_, plugins, plugin_options)


cli.add_command(run)
cli.add_command(plugins)
cli.add_command(keygen)
cli.add_command(node)
cli.add_command(master)
for _command in deploying.COMMANDS:
    cli.add_command(_command)
cli.add_command(why)
cli.add_command(doctor)
cli.add_command(completing.completion)


def main() -> None:
    """Run the command line and exit."""
    if completing.VARIABLE in os.environ:
        completing.prepare()
    try:
        cli(prog_name="constellation")
    except ConstellationError as error:
        click.echo(f"constellation: {error}", err=True)
        sys.exit(2)
