"""``constellation node`` and ``constellation master``: the daemons of a fabric."""

from __future__ import annotations

import importlib.util
import os
import shlex
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from constellation.cli import completion
from constellation.cli.options import Shared, shared_options, split_pair
from constellation.cli.run import read_capacity
from constellation.core.address import parse_address
from constellation.core.errors import ConstellationError, UsageError
from constellation.core.finding import refuse_unknown
from constellation.core.gauges import EXPECTED as METRICS_EXPECTED
from constellation.core.leaving import DRAIN_LIMIT
from constellation.core.role import NAME_RULE, is_name
from constellation.fabric.journal import ERROR, FORMATS, Journal
from constellation.fabric.master import this_computer
from constellation.fabric.nodesfile import load


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
        click.option(
            "--drain-limit",
            metavar="SECONDS",
            type=float,
            default=DRAIN_LIMIT,
            show_default=True,
            help="How long what runs may go on after SIGTERM, before it is asked to end; 0: not at all.",
        ),
        click.option(
            "--metrics",
            metavar="ADDR",
            help="Serve Prometheus metrics at ADDR, on loopback (127.0.0.1:9464); needs prometheus-client.",
        ),
        click.option("--log-format", type=click.Choice(FORMATS), default="text", help="How it logs on stderr."),
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

    On loopback no credential is needed; elsewhere see `constellation keygen`. SIGTERM has it drain first (--drain-limit),
    Ctrl-C ends it at once. Exit codes: 0 stopped, 2 wrong use, 3 the address or the credential cannot be used, 1 it was
    killed.
    """  # noqa: D301  # the mark is click's
    sys.exit(_run("node", address or join or "", options, lambda: _node_config(context, address, join, options)))


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

    SIGTERM has its own node drain first (--drain-limit), Ctrl-C ends it at once. Exit codes: 0 stopped, 2 wrong use, 3 the
    address or the credential cannot be used, 1 it was killed.
    """  # noqa: D301  # the mark is click's
    sys.exit(_run("master", address, options, lambda: _master_config(context, address, nodes, options)))


def _run(role: str, address: str, options: dict[str, Any], config: Callable[[], dict[str, Any]]) -> int:
    """Blocks. Be a daemon; what is wrong is said in the form of its log."""
    if options["log_format"] == "text":
        return serve(config())
    try:
        made = config()
    except ConstellationError as error:
        Journal("json", role, lambda: options["name"] or address).write(str(error), level=ERROR)
        return 2
    return serve(made)


def _node_config(
    context: click.Context, address: str | None, join: str | None, options: dict[str, Any]
) -> dict[str, Any]:
    if join is not None:
        config = _config(context, join, options, None)
        return config | {"join": join, "name": _joining_name(address, join, options)}
    if address is None:
        raise UsageError(
            "cannot be a node of no address: expected ADDR, where it listens (10.0.0.2:5000), or, on a computer that "
            "nobody can dial, --join with the address of the master"
        )
    return _config(context, address, options, None)


def _master_config(context: click.Context, address: str, nodes: str | None, options: dict[str, Any]) -> dict[str, Any]:
    entries = list(load(nodes).nodes) if nodes is not None else []
    config = _config(context, address, options, [entry._asdict() for entry in entries])
    config |= {key: options[key] for key in ("lease", "scheduler")} | {"file": nodes or ""}
    own = parse_address(address)
    next_port = None if nodes is not None or own.url else f"{own.host}:{own.port + 1}"
    config["bridge_bind"] = options["bridge"] or next_port
    if options["lease"] < 1:
        raise UsageError(f"cannot use --lease {options['lease']:g}: expected at least one second")
    return config


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
    if not 0 <= options["drain_limit"] < float("inf"):
        raise UsageError(f"cannot use --drain-limit {options['drain_limit']:g}: expected seconds, 0 or more")
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
        "drain_limit": options["drain_limit"],
        "metrics": _checked_metrics(options["metrics"]),
        "nodes": nodes,
        "file": "",
        "lease": 5.0,
        "scheduler": None,
        "bridge_bind": None,
    }


def _checked_metrics(text: str | None) -> str | None:
    """See that metrics can be served there, before anything is started.

    Raises:
        UsageError: They cannot; says what to do.
    """
    if text is None:
        return None
    try:
        address = parse_address(text)
    except UsageError as error:
        raise UsageError(f"cannot serve metrics: {error}") from error
    if address.url or not address.is_loopback:
        raise UsageError(f"cannot serve metrics at {text}: {METRICS_EXPECTED}")
    if importlib.util.find_spec("prometheus_client") is None:
        raise UsageError(
            "cannot serve metrics: the package prometheus-client is not installed in this Python: "
            f"{shlex.quote(sys.executable)} -m pip install prometheus-client"
        )
    return text


def serve(config: dict[str, Any]) -> int:
    """Blocks. Be the keeper of a daemon, which runs in a child.

    Returns:
        The exit code.
    """
    from constellation.fabric import keeper, notices  # late, like all that only daemons need

    read_end, write_end = os.pipe()
    manager, watchdog = notices.take(os.environ)
    sys.stdout.flush()
    sys.stderr.flush()
    # What asks for an end while the daemon is being loaded waits until it can hear it.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGHUP, signal.SIGINT))
    os_pid = os.fork()
    if os_pid == 0:
        os.close(write_end)
        from constellation.fabric.serving import serve as be

        code = 1
        try:
            code = be({**config, "watchdog": watchdog}, read_end, None if manager is None else manager.daemon_end)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(read_end)
    name = config["name"] or config["address"]
    journal = Journal(config["log_format"], "keeper", lambda: name)
    return keeper.main(
        os_pid,
        write_end,
        of_all_users=os.geteuid() == 0,
        manager=manager,
        say=lambda text: journal.write(text, level=ERROR),
    )
