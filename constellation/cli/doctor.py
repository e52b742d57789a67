"""``constellation doctor``: what is wrong with this computer, with a fabric, or with the way to one, and what mends it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from constellation.cli.completion import bridges_or_files, files
from constellation.cli.daemons import state_folder
from constellation.cli.deploy import ask_bridge, reaching
from constellation.cli.options import Shared, shared_options
from constellation.core import enabling, health
from constellation.core.address import parse_address
from constellation.core.errors import HandshakeError, UsageError
from constellation.core.health import NOTE, OK, WRONG, Finding, NodeFacts, Tried

if TYPE_CHECKING:
    from constellation.core.nodesfile import NodesFile

_LIMIT_S = 12.0
"""For the whole fabric to answer a bridge that is there; its master takes eight of them at most."""
_COLOURS = {OK: "green", NOTE: "yellow", WRONG: "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of all that was looked at.")
@click.option("--all", "-a", "show_all", is_flag=True, help="Show also what is well, line by line.")
@click.option(
    "--listen", "ports", metavar="ADDR", multiple=True, help="See whether a daemon could listen there; may be repeated."
)
@click.option(
    "--credential", metavar="FILE", help="Your deployer's file; else in the configuration folder.", shell_complete=files
)
@click.option(
    "--node-credential", metavar="FILE", help="The fabric's node.pem, to knock at nodes of a file; else in the folder."
)
@click.option("--state", metavar="FOLDER", help="Where a daemon on this computer has its files, as for node.")
@shared_options
@click.argument("subject", metavar="[BRIDGE | NODES.TOML]", required=False, shell_complete=bridges_or_files)
@click.pass_context
def doctor(
    context: click.Context,
    *,
    as_json: bool,
    show_all: bool,
    ports: tuple[str, ...],
    credential: str | None,
    node_credential: str | None,
    state: str | None,
    format_: str | None,
    plugins: tuple[str, ...],
    plugin_options: tuple[tuple[str, str], ...],
    subject: str | None,
) -> None:
    """Say what is wrong, and the command that mends it.

    Without an argument it looks at this computer. With BRIDGE (HOST:PORT) at the fabric behind it: each node looks at its
    computer, and dials every other one as processes do. With NODES.TOML, where the fabric is not up, it tries each address
    from here, step by step: name, route, port, TLS, role, credential.

    \b
    Example:
        constellation doctor --listen 10.0.0.2:5000
        constellation doctor 10.0.0.1:5001
        constellation doctor nodes.toml

    Exit codes: 0 all is well, 1 something is wrong, 2 wrong use, 3 the bridge cannot be reached or refuses.
    """  # noqa: D301  # the mark is click's
    shared = (context.obj or Shared()).joined(Shared(format_, plugins, plugin_options))
    context.obj = shared
    if subject is None:
        findings = _this_computer(state, (credential, node_credential), ports, shared)
    elif os.path.isfile(subject) or subject.endswith(".toml"):
        findings = _file(subject, credential, node_credential, shared)
    else:
        findings = _fabric(subject, credential)
    if as_json or shared.format == "json":
        click.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        click.echo(report(findings, show_all=show_all))
    context.exit(0 if health.is_well(findings) else 1)


def report(findings: Sequence[Finding], *, show_all: bool) -> str:
    """Lay findings out for a terminal: what is not well with what mends it, then how much is well.

    Args:
        findings: All of them.
        show_all: Whether what is well has lines too.
    """
    shown = [each for each in findings if show_all or each.state != OK]
    lines = []
    if shown:
        rows = [("", "WHERE", "LOOKED AT", "FOUND", "EXPECTED")]
        rows += [(each.state, each.where, each.what, each.value, each.expected) for each in shown]
        widths = [max(len(row[at]) for row in rows) for at in range(3)]
        for number, row in enumerate(rows):
            state = click.style(row[0].ljust(widths[0]), fg=_COLOURS.get(row[0]))
            begun = f"{state}  {row[1].ljust(widths[1])}  {row[2].ljust(widths[2])}"
            lines.append(f"{begun}  {row[3]}" + (f"  ({row[4]})" if number and row[0] != OK else ""))
            if number and shown[number - 1].mend:
                lines.append(" " * (widths[0] + 2) + f"mend: {shown[number - 1].mend}")
        lines[0] = f"{' ' * widths[0]}  {'WHERE'.ljust(widths[1])}  {'LOOKED AT'.ljust(widths[2])}  FOUND (EXPECTED)"
        lines.append("")
    counts = {state: sum(each.state == state for each in findings) for state in (OK, NOTE, WRONG)}
    rest = "" if show_all else "; --all shows everything"
    lines.append(f"{counts[WRONG]} wrong, {counts[NOTE]} worth knowing, {counts[OK]} well{rest}")
    return "\n".join(lines)


def _this_computer(
    state: str | None,
    credentials: tuple[str | None, str | None],
    ports: tuple[str, ...],
    shared: Shared,
) -> list[Finding]:
    from constellation.fabric import checkup

    found = enabling.look(os.getcwd(), os.environ)
    names = {**found.names, **dict.fromkeys(shared.plugins, "--plugin")}
    facts = checkup.look(
        state_folder(state),
        plugins=names,
        options={**found.options_of(names), **dict(shared.plugin_options)},
        ports=[parse_address(text) for text in ports],
    )
    deployer, node = credentials
    facts["credentials"] = [checkup.of_credential("node", node), checkup.of_credential("deployer", deployer)]
    return health.judge_computer("here", facts)


def _fabric(bridge: str, credential: str | None) -> list[Finding]:
    from constellation.fabric import checkup

    rows = ask_bridge(bridge, credential, "doctor", limit_s=_LIMIT_S)
    facts = {"credentials": [checkup.of_credential("deployer", credential)]}
    return [*health.judge_computer("here", facts), *health.judge_fabric(*read_rows(rows))]


def read_rows(rows: Sequence[Sequence[Any]]) -> tuple[list[NodeFacts], list[Tried], list[Tried]]:
    """Sort the rows of the answer: nodes, those that have not joined, and who dialled whom."""
    nodes, absent, dials = [], [], []
    for kind, *row in rows:
        if kind == "node":
            name, address, state, clock, facts = row
            offset, doubt = clock or (None, 0.0)
            nodes.append(NodeFacts(name, address, state, offset, doubt, None if facts is None else dict(facts)))
        elif kind == "absent":
            name, address, step, text = row
            absent.append(Tried("the master", name, address, step, text, 0.0))
        elif kind == "dial":
            source, target, address, step, text, seconds = row
            dials.append(Tried(source, target, address, step, text, seconds))
    return nodes, absent, dials


def _file(path: str, credential: str | None, node_credential: str | None, shared: Shared) -> list[Finding]:
    from constellation.fabric import checkup
    from constellation.fabric.nodesfile import load

    file = load(path)
    facts = {
        "credentials": [checkup.of_credential("node", node_credential), checkup.of_credential("deployer", credential)]
    }
    findings = [each for each in health.judge_computer("here", facts) if each.state != NOTE]
    return findings + health.judge_file(_knock(file, credential, node_credential, shared))


def _knock(file: NodesFile, credential: str | None, node_credential: str | None, shared: Shared) -> list[Tried]:
    """Try all addresses of a file at once."""
    from constellation.fabric.credential import load_deployer, load_node
    from constellation.fabric.knocking import Knocks
    from constellation.fabric.loop import Loop

    def usable(load: Any, path: str | None) -> Any:
        try:
            return load(path, is_loopback=False)
        except (UsageError, HandshakeError):
            return None  # what is wrong with it is a finding of its own

    loop = Loop()
    addresses = [each for entry in file.nodes for each in (entry.dialled, entry.bridge_bind) if each is not None]
    foreign = None
    for address in addresses:
        if address.url:
            foreign = reaching(loop, address, shared, "doctor")
    return Knocks(loop, usable(load_node, node_credential), usable(load_deployer, credential), foreign).run(file.nodes)
