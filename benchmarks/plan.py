"""What is run: workloads, their commands and peers, and the rows with the targets of the project's figure table."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import (
    BULKS,
    BURST,
    COMPUTING,
    CROWD,
    CROWD_NODES,
    ENDED,
    FABRIC_NODES,
    IDLE_S,
    PLACING_NODES,
    PLUGGED_STREAM,
    PLUGGED_TRIPS,
    PLUGINS,
    ROUND_TRIPS,
    SLOW,
    STREAMS,
)
from benchmarks.table import OURS, Row, Target

FOLDER = Path(__file__).resolve().parent
PLUGGED = str(FOLDER / "plugged.py")
BARE_TLS = "bare TLS socket"
TRACKED = 0.98
"""At most 2 % slower."""
UNCHANGED = 0.95
"""Of what is to stay as it is, a round's ratio within the noise."""


@dataclass(frozen=True, slots=True)
class Command:
    """One process tree that measures one peer."""

    peer: str
    """Empty if the program names its peers itself."""
    arguments: tuple[str, ...]
    """After the interpreter; the scale is added at the end."""
    needs: str = ""
    """A module without which this peer is left out."""
    repeats: int = 1
    """How often in a round; the median counts."""
    names: tuple[str, ...] = ()
    """The peers that the program names itself, as far as rows name them."""
    rounds: int = 1_000
    """Only the first rounds run it: for what takes minutes and hardly varies."""
    limit_s: float = 120.0
    """A run that takes longer is ended and counts as failed."""


def ours(workload: str, needs: str = "", repeats: int = 1) -> Command:
    """Give the command of one of our workloads.

    Args:
        workload: A name that ours.py knows.
        needs: As in `Command`.
        repeats: As in `Command`.
    """
    return Command(OURS, (str(FOLDER / "ours.py"), workload), needs, repeats)


def peers(workload: str, *names: str, repeats: int = 1) -> list[Command]:
    """Give the commands of peers.

    Args:
        workload: A name that the peers know.
        names: The peers.
        repeats: As in `Command`.
    """
    modules = {"zmq": "zmq", "uvloop": "uvloop", "dask": "distributed", "ray": "ray"}
    needs = {name: modules.get(name.split("-")[0], "") for name in names}
    return [Command(name, ("-m", "benchmarks.peers", name, workload), needs[name], repeats) for name in names]


def needing(module: str, commands: list[Command]) -> list[Command]:
    """Give commands that are left out without a module, whatever they need besides.

    Args:
        module: The module.
        commands: Commands without needs of their own are the ones that are marked.
    """
    return [Command(one.peer, one.arguments, one.needs or module, one.repeats) for one in commands]


WORKLOADS: dict[str, list[Command]] = {
    "import": [Command("", ("-m", "benchmarks.importing"))],
    "init": [ours("init", repeats=5), *peers("init", "forkserver", repeats=5)],
    "rtt": [ours("rtt"), *peers("rtt", "tcp", "unix", "pipe", "zmq-tcp", "zmq-ipc", "unix-polling")],
    "stream": [ours("stream"), *peers("stream", "tcp", "unix", "pipe", "zmq-tcp", "zmq-ipc", "tcp-joined")],
    "bulk": needing(
        "numpy", [ours("bulk"), *peers("bulk", "tcp", "unix", "pipe", "zmq-tcp", "zmq-ipc", "tcp-buffers")]
    ),
    "computes": [ours("computes"), *peers("computes", "tcp", "unix", "pipe")],
    "await": [ours("await"), ours("await-uvloop", "uvloop"), *peers("await", "asyncio", "uvloop")],
    "spawn": [ours("spawn"), *peers("spawn", "fork", "forkserver", "spawn")],
    "waiting": [ours("waiting"), *peers("waiting", "fork", "forkserver", "spawn")],
    "tracking": [Command("", (str(FOLDER / "tracking.py"),), names=(OURS, "untracked"))],
    "standing": [Command(OURS, (str(FOLDER / "standing.py"),), rounds=2)],
    "ending": [Command(OURS, (str(FOLDER / "ending.py"),))],
    "placing": [Command(OURS, (str(FOLDER / "placing.py"),), rounds=1, limit_s=900.0)],
    "fabric": [
        Command("", (str(FOLDER / "fabric.py"),), limit_s=300.0, names=(OURS, BARE_TLS)),
        *peers("ready", "dask", "ray"),
    ],
    "plugins": [
        Command(OURS, (PLUGGED, "enabled")),
        Command("none enabled", (PLUGGED, "none")),
        Command("", (PLUGGED, "installed"), names=(OURS, "none installed")),
    ],
}
"""Each workload's commands in the order of the first round."""


def latency(what: str, unit: str, base: str, *targets: Target) -> list[Row]:
    """Give the rows of a latency: the median with its targets, and the 99th percentile.

    Args:
        what: As in `Row`.
        unit: As in `Row`.
        base: As in `Row`.
        targets: Of the median.
    """
    return [Row(what, unit, True, base, targets), Row(f"{what}, p99", unit, True, base)]


def rows() -> list[Row]:
    """Give all rows in the order in which they are printed."""
    out = [
        Row("import above a bare interpreter", "ms", True, None, (Target(40),)),
        Row("a bare interpreter", "ms", True),
        Row("unwanted modules imported", "", True, None, (Target(0),)),
        Row("init() to the next line", "ms", True, "forkserver", (Target(150),)),
    ]
    for name, _ in ROUND_TRIPS:
        out += latency(f"round trip {name}", "µs", "tcp", Target(1.6, "tcp"), Target(1, "unix"))
    for (name, _), times in zip(STREAMS, (4, 2, 4), strict=True):
        out.append(Row(f"stream {name}", "/s", False, "tcp", (Target(times, "tcp"),)))
    out += [Row(f"bulk {name}", "MiB/s", False, "pipe", (Target(3, "pipe"),)) for name, _, _ in BULKS]
    for how, *_ in COMPUTING:
        out.append(Row(f"peer computes, {how}", "MiB/s", False, "pipe"))
        out.append(Row(f"peer computes, {how}: its speed kept", "%", False, "pipe"))
    for name, _ in ROUND_TRIPS:
        out += latency(f"await round trip {name}", "µs", "asyncio", Target(2.5, "asyncio"))
    out += latency("spawn to Pid", "ms", "fork", Target(3))
    out.append(Row(f"spawn burst of {BURST}", "/s", False, "fork", (Target(500),)))
    out.append(Row("waiting process, PSS", "MiB", True, "forkserver", (Target(3),)))
    out.append(Row(f"waiting process, wake-ups in {IDLE_S:.0f} s", "", True, None, (Target(0),)))
    for what, unit in (("round trip int", "µs"), ("stream int", "/s"), ("await round trip int", "µs")):
        goal = (Target(TRACKED, "untracked"),)
        out.append(Row(f"waits tracked: {what}", unit, unit == "µs", "untracked", goal))
    out.append(Row("a planted deadlock is named after", "s", True, None, (Target(6),)))
    out.append(Row(f"alarms in {SLOW} slow programs", "", True, None, (Target(0),)))
    out.append(Row(f"Ctrl-C: {ENDED} processes gone after", "s", True, None, (Target(1),)))
    out.append(Row(f"Ctrl-C: {ENDED} with handlers of 0.5 s, gone after these and", "s", True, None, (Target(1),)))
    for nodes in PLACING_NODES:
        goals = (Target(25),) if nodes == max(PLACING_NODES) else ()
        out.append(Row(f"placement on {nodes:,} nodes", "µs", True, None, goals))
        out.append(Row(f"placement on {nodes:,} nodes: given back", "µs", True, None, goals))
    least, most = min(PLACING_NODES), max(PLACING_NODES)
    growth = f"placement: times as long on {most:,} nodes as on {least:,}"
    out.append(Row(growth, "", True, None, (Target(round(math.log(most) / math.log(least), 2)),)))
    out.append(Row(f"fabric of {FABRIC_NODES} nodes, start to ready", "s", True, "dask", (Target(1),)))
    out.append(Row("deploy hello world, until its line", "s", True, None, (Target(0.6),)))
    out.append(Row("far spawn to Pid", "ms", True, None, (Target(5),)))
    out.append(Row("far round trip int", "µs", True, BARE_TLS, (Target(round(1 / 1.3, 2), BARE_TLS),)))
    out.append(Row("far bulk 64 MiB", "MiB/s", False, BARE_TLS, (Target(0.9, BARE_TLS),)))
    out.append(Row("lost node noticed, beyond the lease", "s", True, None, (Target(1),)))
    out.append(Row(f"{CROWD:,} processes over {CROWD_NODES} nodes, all running", "s", True, None, (Target(10),)))
    out += latency(
        f"{PLUGINS} plugins: round trip {PLUGGED_TRIPS[0]}", "µs", "none enabled", Target(UNCHANGED, "none enabled")
    )
    stream = f"{PLUGINS} plugins: stream {PLUGGED_STREAM[0]}"
    out.append(Row(stream, "/s", False, "none enabled", (Target(UNCHANGED, "none enabled"),)))
    out += latency(f"{PLUGINS} plugins: spawn to Pid", "ms", "none enabled")
    for what in ("import above a bare interpreter", "a program of init() alone"):
        name, base = f"{PLUGINS} plugins installed: {what}", "none installed"
        out.append(Row(name, "ms", True, base, (Target(UNCHANGED, base),)))
    return out


def interpreter(command: Command, scale: float) -> list[str]:
    """Give the whole command line.

    Args:
        command: The command.
        scale: As in `measure.scaled`.
    """
    return [sys.executable, *command.arguments, str(scale)]
