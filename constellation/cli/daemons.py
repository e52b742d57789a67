"""``constellation node`` and ``constellation master``: the daemons of a fabric."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any, NoReturn

import click

from constellation.cli import completion
from constellation.cli.options import Shared, shared_options, split_pair
from constellation.cli.run import read_capacity
from constellation.core.address import parse_address
from constellation.core.errors import UsageError
from constellation.core.finding import refuse_unknown
from constellation.core.role import NAME_RULE, is_name
from constellation.fabric.master import this_computer
from constellation.fabric.nodesfile import load

LOG_FORMATS = ("text", "json")


def _daemon_options(function: Any) -> Any:
    for option in (
        click.option("--mem", metavar="M", help="Memory that it may give away, such as '100 GiB'; else what there is."),
        click.option("--cpu", metavar="C", type=float, help="Cores that it may give away; else what there are."),
        click.option(
            "--resource", "custom", metavar="NAME=VALUE", multiple=True, help="An amount by name, such as gpu=2."
        ),
        click.option(
            "--label", "labels", metavar="NAME=VALUE", multiple=True, help="A label to place by, such as rack=a."
        ),
        click.option("--name", metavar="NAME", help="What it is called; else its address."),
        click.option("--advertise", metavar="ADDR", help="Where others dial it, if that is not ADDR."),
        click.option(
            "--credential",
            metavar="FILE",
            help="The fabric's node.pem; else in the configuration folder.",
            shell_complete=completion.files,
        ),
        click.option(
            "--users",
            metavar="FILE",
            help="Who runs as whom, where it is started as root; else /etc/constellation/users.toml.",
        ),
        click.option(
            "--state",
            metavar="FOLDER",
            help="For its files; else XDG_STATE_HOME/constellation, and for root /var/lib/constellation.",
        ),
        click.option("--log-format", type=click.Choice(LOG_FORMATS), default="text", help="How it logs on stderr."),
    ):
        function = option(function)
    return shared_options(function)


@click.command()
@click.argument("address", metavar="[ADDR]", required=False)
@click.option(
    "--join",
    metavar="MASTER",
    help="Instead of ADDR, for a computer that nobody can dial: listen nowhere, and dial the master at MASTER.",
)
@_daemon_options
@click.pass_context
def node(context: click.Context, /, address: str | None, join: str | None, **options: Any) -> NoReturn:
    """Be a node of a fabric, listening on ADDR (HOST:PORT), until you are stopped.

    \b
    Examples:
        constellation node 10.0.0.2:5000 --mem '100 GiB' --cpu 16 --resource gpu=2 --label rack=a
        constellation node --join 10.0.0.1:5000 --name laptop

    With --join the node needs no line in nodes.toml. Links to nodes that listen are dialled from here; links to others that
    only dial out are relayed by the master's node.

    On loopback no credential is needed; elsewhere see `constellation keygen`. Exit codes: 0 stopped, 2 wrong use,
    3 the address or the credential cannot be used.
    """  # noqa: D301  # the mark is click's
    if join is not None:
        config = _config(context, join, options, None)
        sys.exit(serve(config | {"join": join, "name": _joining_name(address, join, options)}))
    if address is None:
        raise UsageError(
            "cannot be a node of no address: expected ADDR, where it listens (10.0.0.2:5000), or, on a computer that "
            "nobody can dial, --join with the address of the master"
        )
    sys.exit(serve(_config(context, address, options, None)))


@click.command()
@click.argument("address", metavar="ADDR")
@click.argument("nodes", metavar="NODES.TOML", required=False, shell_complete=completion.files)
@click.option("--bridge", metavar="ADDR", help="Where the bridge listens, when the file does not say it.")
@click.option(
    "--lease", metavar="SECONDS", type=float, default=5.0, help="How long a node may go on without the master."
)
@click.option("--scheduler", metavar="NAME", help="The scheduler; else best fit.")
@_daemon_options
@click.pass_context
def master(context: click.Context, /, address: str, nodes: str | None, **options: Any) -> NoReturn:
    """Be the master of the fabric that NODES.TOML describes, and one of its nodes, listening on ADDR.

    \b
    Example:
        constellation master 10.0.0.1:5000 nodes.toml

    \b
    nodes.toml:
        [[nodes]]
        fabric_addr = "10.0.0.1:5000"
        bridge_bind = "10.0.0.1:5001"
        [[nodes]]
        fabric_addr = "10.0.0.2:5000"
        mem = "100 GiB"
        cpu = 16

    Exit codes: 0 stopped, 2 wrong use, 3 the address or the credential cannot be used.
    """  # noqa: D301  # the mark is click's
    entries = list(load(nodes).nodes) if nodes is not None else []
    config = _config(context, address, options, [entry._asdict() for entry in entries])
    config |= {key: options[key] for key in ("lease", "scheduler")} | {"file": nodes or ""}
    own = parse_address(address)
    next_port = None if nodes is not None or own.url else f"{own.host}:{own.port + 1}"
    config["bridge_bind"] = options["bridge"] or next_port
    if options["lease"] < 1:
        raise UsageError(f"cannot use --lease {options['lease']:g}: expected at least one second")
    sys.exit(serve(config))


def _joining_name(address: str | None, join: str, options: dict[str, Any]) -> str:
    """What a node that can only dial out is called.

    Raises:
        UsageError: What was said does not go together.
    """
    if address is not None:
        raise UsageError(
            f"cannot listen on {address} and join {join}: a node that listens stands in nodes.toml, and its master dials "
            "it; leave ADDR or --join away"
        )
    if options["advertise"] is not None:
        raise UsageError(f"cannot advertise {options['advertise']} with --join: such a node listens nowhere")
    target = parse_address(join)
    if target.is_any or (target.port == 0 and not target.url):
        raise UsageError(f"cannot join {join}: it cannot be dialled; expected the address of the master")
    name = str(options["name"] or socket.gethostname())
    if not is_name(name):
        raise UsageError(f"cannot join as {name!r}: expected a --name of {NAME_RULE}")
    return name


def state_folder(given: str | None) -> str:
    """Where daemons keep their files."""
    # What runs as other users must get at its files, and nobody gets into root's home.
    own = "/var/lib" if os.geteuid() == 0 else os.path.expanduser("~/.local/state")
    return given or os.path.join(os.environ.get("XDG_STATE_HOME") or own, "constellation")


def _config(context: click.Context, address: str, options: dict[str, Any], nodes: list[Any] | None) -> dict[str, Any]:
    parse_address(address)
    before: Shared = context.obj or Shared()
    shared = before.joined(Shared(options["format_"], options["plugins"], options["plugin_options"]))
    refuse_unknown(shared.plugins)
    state = state_folder(options["state"])
    if os.pathsep in os.path.abspath(state):
        raise UsageError(f"cannot keep files in {state!r}: expected a folder without a colon, with --state")
    capacity = read_capacity(options["mem"], options["cpu"], options["custom"]) or this_computer()
    return {
        "address": address,
        "join": None,
        "advertise": options["advertise"],
        "name": options["name"],
        "capacity": capacity.to_fields(),
        "labels": [list(split_pair(text, "NAME=VALUE, such as rack=a")) for text in options["labels"]],
        "folder": os.path.abspath(state),
        "credential": options["credential"],
        "users": options["users"] and os.path.abspath(options["users"]),
        "plugins": list(shared.plugins),
        "plugin_options": dict(shared.plugin_options),
        "log_format": options["log_format"],
        "nodes": nodes,
        "file": "",
        "lease": 5.0,
        "scheduler": None,
        "bridge_bind": None,
    }


def serve(config: dict[str, Any]) -> int:
    """Blocks. Be the keeper of a daemon, which runs in a child.

    Returns:
        The exit code.
    """
    from constellation.fabric import keeper  # late, like all that only daemons need

    read_end, write_end = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    os_pid = os.fork()
    if os_pid == 0:
        os.close(write_end)
        from constellation.fabric.serving import serve as be

        code = 1
        try:
            code = be(config, read_end)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(read_end)
    return keeper.main(os_pid, write_end, of_all_users=os.geteuid() == 0)
