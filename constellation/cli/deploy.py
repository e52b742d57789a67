"""``constellation deploy`` and what asks a bridge: ``ps``, ``nodes``, ``logs``, ``attach``, ``kill``, ``drain``."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import click

from constellation.cli.completion import bridges, deployments, files
from constellation.cli.completion import nodes as named_nodes
from constellation.cli.options import Shared, shared_options, split_pair
from constellation.core import enabling
from constellation.core.address import Address, parse_address
from constellation.core.errors import ConstellationError, DeployError, HandshakeError, UsageError
from constellation.core.specification import fields_of_installation
from constellation.core.trunk import Specification

_CREDENTIAL = click.option(
    "--credential", metavar="FILE", help="Your deployer's file; else in the configuration folder.", shell_complete=files
)
_BRIDGE = click.argument("bridge", metavar="BRIDGE", shell_complete=bridges)
_ID = click.argument("deployment", metavar="ID", shell_complete=deployments)


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("-m", "as_module", is_flag=True, help="PROGRAM is a module's name, as in python -m.")
@click.option("--env", "environment", metavar="K=V", multiple=True, help="A variable for the program; may be repeated.")
@click.option("--detach", is_flag=True, help="Print the deployment's name and let it go on alone.")
@click.option("--env-of-node", is_flag=True, help="Use the node's own Python as it is: install nothing.")
@click.option("--in-place", is_flag=True, help="Send no files: every node has them in the same folder.")
@_CREDENTIAL
@shared_options
@_BRIDGE
@click.argument("program", shell_complete=files)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]...")
@click.pass_context
def deploy(
    context: click.Context,
    *,
    as_module: bool,
    environment: tuple[str, ...],
    detach: bool,
    env_of_node: bool,
    in_place: bool,
    credential: str | None,
    format_: str | None,
    plugins: tuple[str, ...],
    plugin_options: tuple[tuple[str, str], ...],
    bridge: str,
    program: str,
    arguments: tuple[str, ...],
) -> NoReturn:
    """Run PROGRAM with ARGS on the fabric behind BRIDGE (HOST:PORT, or a plugin's URL), as `python PROGRAM ARGS` runs it here.

    \b
    Example:
        constellation deploy 10.0.0.1:5001 prog.py --size 10

    Sends the program's folder as git sees it, shows what the processes write, and passes stdin and Ctrl-C on. Exit codes:
    the program's (see the tutorial), 130 after Ctrl-C, 2 wrong use, 3 bridge unreachable or refused, 4 the program was
    refused before it ran.
    """  # noqa: D301  # the mark is click's
    from constellation.fabric import requirements
    from constellation.fabric.client import Client
    from constellation.fabric.loop import Loop
    from constellation.fabric.sending import collect, installation

    before: Shared = context.obj or Shared()
    shared = before.joined(Shared(format_, plugins, plugin_options))
    address = parse_address(bridge)
    try:
        sent = collect(program, as_module=as_module, in_place=in_place, note=_note)
    except DeployError as error:
        _refuse(error, 4)
    try:
        python = requirements.stated(sent.source, sent.script).python
    except DeployError as error:
        _refuse(error, 4)
    specification = Specification(
        owner="",
        program=[*sent.program, *arguments],
        script=sent.script,
        folder=sent.folder,
        search=sent.search,
        environment=[list(split_pair(text, "NAME=VALUE")) for text in environment],
        manifest=sent.manifest,
        root=sent.root,
        plugins=list(shared.plugins),
        options=[list(pair) for pair in shared.plugin_options],
        settings=_settings(),
        is_forced=env_of_node,
        client=fields_of_installation(installation("here", shared.plugins)),
        python=python,
    )
    loop = Loop()
    client = Client(
        loop,
        address,
        _credential(credential, address.is_loopback),
        shared.format or os.environ.get("CONSTELLATION_FORMAT") or "human",
        specification=specification,
        chunk=sent.chunk,
        is_detached=detach,
        foreign=reaching(loop, address, shared, "deploy"),
    )
    _leave(client.run())


def reaching(loop: Any, address: Address, shared: Shared, command: str) -> Any:
    """What reaches a bridge whose address is a URL; None where it is none. Refuses one that no enabled plugin reaches."""
    if not address.url:
        return None
    from constellation.core.plugins import make_plugin_manager
    from constellation.fabric.foreign import ForeignTransports

    found = enabling.look(os.getcwd(), os.environ)
    names = [*shared.plugins, *found.names]
    plugins = make_plugin_manager(names, {**found.options_of(names), **dict(shared.plugin_options)})
    foreign = ForeignTransports(loop, plugins, command, _note)
    foreign.named(address)
    return foreign


def _settings() -> list[list[str]]:
    """What our variables say here and is meant for the deployment."""
    names = ("grace", "linger", "credit")
    given = ((name, os.environ.get(f"CONSTELLATION_{name.upper()}")) for name in names)
    return [[name, value] for name, value in given if value]


def _credential(path: str | None, is_loopback: bool) -> Any:
    from constellation.fabric.credential import load_deployer

    try:
        return load_deployer(path, is_loopback=is_loopback)
    except HandshakeError as error:
        _refuse(error)


def _refuse(error: ConstellationError, code: int = 3) -> NoReturn:
    click.echo(f"constellation: {error}", err=True)
    sys.exit(code)


def _note(text: str) -> None:
    click.echo(f"constellation: {text}", err=True)


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a thread may still wait for a terminal that takes nothing


def _watch(bridge: str, name: str, credential: str | None, format_: str | None, *, is_following: bool) -> NoReturn:
    context = click.get_current_context()
    from constellation.fabric.client import Client
    from constellation.fabric.loop import Loop

    address = parse_address(bridge)
    try:
        deployment = bytes.fromhex(name if len(name) % 2 == 0 else name[:-1])
    except ValueError as error:
        raise UsageError(
            f"cannot read the deployment {name!r}: expected hex digits, as `constellation ps` shows"
        ) from error
    loop = Loop()
    client = Client(
        loop,
        address,
        _credential(credential, address.is_loopback),
        format_ or "human",
        deployment=deployment,
        is_following=is_following,
        foreign=reaching(loop, address, context.obj or Shared(), str(context.info_name)),
    )
    _leave(client.run())


@click.command()
@_CREDENTIAL
@click.option("--format", "format_", type=click.Choice(("human", "json", "raw")), help="As for deploy.")
@_BRIDGE
@_ID
def attach(*, credential: str | None, format_: str | None, bridge: str, deployment: str) -> NoReturn:
    """Show what deployment ID has written, and what it writes, until its end; its exit code is ours.

    \b
    Example:
        constellation attach 10.0.0.1:5001 3fecd01

    Exit codes: the deployment's; 130 after Ctrl-C, which ends the showing and not the deployment; 2 wrong use, 3 the bridge cannot
    be reached or refuses.
    """  # noqa: D301  # the mark is click's
    _watch(bridge, deployment, credential, format_, is_following=True)


@click.command()
@_CREDENTIAL
@click.option("--format", "format_", type=click.Choice(("human", "json", "raw")), help="As for deploy.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is still to come.")
@_BRIDGE
@_ID
def logs(*, credential: str | None, format_: str | None, follow: bool, bridge: str, deployment: str) -> NoReturn:
    """Show what deployment ID has written so far.

    \b
    Example:
        constellation logs 10.0.0.1:5001 3fecd01

    Exit codes: 0 done, 2 wrong use or no such deployment or node, 3 the bridge cannot be reached or refuses.
    """  # noqa: D301  # the mark is click's
    _watch(bridge, deployment, credential, format_, is_following=follow)


def ask_bridge(
    bridge: str, credential: str | None, kind: str, argument: str = "", limit_s: float | None = None
) -> list[list[Any]]:
    """Ask the bridge, and give the rows of its answer; who is told no, or not at all, leaves here."""
    from constellation.fabric.client import Questioner
    from constellation.fabric.loop import Loop

    address = parse_address(bridge)
    context, loop = click.get_current_context(), Loop()
    foreign = reaching(loop, address, context.obj or Shared(), str(context.info_name))
    try:
        return Questioner(loop, address, _credential(credential, address.is_loopback), foreign).ask(
            kind, argument, limit_s=limit_s
        )
    except UsageError:
        raise
    except ConstellationError as error:
        _refuse(error)


def _show(columns: tuple[str, ...], rows: list[list[Any]]) -> None:
    table = [columns, *(tuple(str(value) for value in row) for row in rows)]
    widths = [max(len(row[at]) for row in table) for at in range(len(columns))]
    for row in table:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


@click.command()
@_CREDENTIAL
@_BRIDGE
def nodes(*, credential: str | None, bridge: str) -> None:
    """Show the nodes of the fabric behind BRIDGE, and what is taken of each.

    \b
    Example:
        constellation nodes 10.0.0.1:5001

    Exit codes: 0 done, 2 wrong use or no such deployment or node, 3 the bridge cannot be reached or refuses.
    """  # noqa: D301  # the mark is click's
    _show(("NODE", "ADDRESS", "STATE", "MEMORY", "CORES", "LABELS", "VERSION"), ask_bridge(bridge, credential, "nodes"))


@click.command()
@_CREDENTIAL
@_BRIDGE
def ps(*, credential: str | None, bridge: str) -> None:
    """Show the processes of your deployments.

    \b
    Example:
        constellation ps 10.0.0.1:5001

    Exit codes: 0 done, 2 wrong use or no such deployment or node, 3 the bridge cannot be reached or refuses.
    """  # noqa: D301  # the mark is click's
    columns = ("DEPLOYMENT", "PROGRAM", "PROCESS", "FUNCTION", "NODE", "RESOURCES", "STATE")
    _show(columns, ask_bridge(bridge, credential, "ps"))


@click.command()
@_CREDENTIAL
@_BRIDGE
@_ID
def kill(*, credential: str | None, bridge: str, deployment: str) -> None:
    """Ask all processes of deployment ID to end, and kill them after the grace time.

    \b
    Example:
        constellation kill 10.0.0.1:5001 3fecd01

    Exit codes: 0 done, 2 wrong use or no such deployment or node, 3 the bridge cannot be reached or refuses.
    """  # noqa: D301  # the mark is click's
    ask_bridge(bridge, credential, "kill", deployment)


@click.command()
@_CREDENTIAL
@_BRIDGE
@click.argument("name", metavar="NODE", shell_complete=named_nodes)
def drain(*, credential: str | None, bridge: str, name: str) -> None:
    """Place nothing more on NODE; what runs there goes on to its end.

    \b
    Example:
        constellation drain 10.0.0.1:5001 big

    Exit codes: 0 done, 2 wrong use or no such deployment or node, 3 the bridge cannot be reached or refuses.
    """  # noqa: D301  # the mark is click's
    ask_bridge(bridge, credential, "drain", name)


COMMANDS = (deploy, attach, logs, nodes, ps, kill, drain)
