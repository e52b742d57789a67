"""What a daemon can be measured by: the table of all metrics, and one reading of them.

Names and units are Prometheus' conventions: a prefix, base units (bytes, seconds), ``_total`` for what only grows. What begins
with ``constellation_node_`` is about the node of the daemon that tells it, what begins with ``constellation_fabric_`` about all
nodes together and told by the master only: so nothing is counted twice where all daemons are added up.
"""

from __future__ import annotations

from typing import Final, NamedTuple

COUNTER: Final = "counter"
GAUGE: Final = "gauge"

ENDS: Final = ("success", "failure", "signal", "unknown")
"""How a process can end: with 0, with another code, by a signal, or nobody knows, because its node or monitor is gone."""

STATES: Final[tuple[str, ...]] = ("present", "draining", "not connected", "absent")
"""Of a node; absent is one of the master's file that has not joined, or is lost."""

STREAMS: Final = {1: "stdout", 2: "stderr"}

EXPECTED: Final = (
    "expected an address of this computer only, such as 127.0.0.1:9464, because nobody is asked who they are there; "
    "let a Prometheus on this computer read it, or a proxy that asks for a certificate or a password"
)
"""Of an address to serve them at."""


class Metric(NamedTuple):
    """One line of the table."""

    name: str
    """As it stands on the page."""
    kind: str
    """`COUNTER` or `GAUGE`."""
    text: str
    """What it is, in a sentence."""
    labels: tuple[str, ...] = ()


METRICS: Final = (
    Metric("constellation_build_info", GAUGE, "1, labelled by what this daemon is.", ("version", "python", "role")),
    Metric("constellation_snapshot_age_seconds", GAUGE, "Since the daemon's loop has made what this page tells."),
    Metric("constellation_node_in_fabric", GAUGE, "1 while a master is connected that has taken the node in, else 0."),
    Metric(
        "constellation_node_draining", GAUGE, "1 while nothing more is placed here because the node is to end, else 0."
    ),
    Metric(
        "constellation_node_lease_age_seconds", GAUGE, "Since the last answer that the master is known to have heard."
    ),
    Metric("constellation_node_lease_seconds", GAUGE, "Age of the lease at which all that runs here is killed."),
    Metric("constellation_node_deployments", GAUGE, "Deployments that have a part here."),
    Metric("constellation_node_processes", GAUGE, "Processes that run here, or were ordered."),
    Metric("constellation_node_spawns_total", COUNTER, "Processes that have begun to run here."),
    Metric("constellation_node_exits_total", COUNTER, "Processes that have ended here, by how.", ("end",)),
    Metric("constellation_node_output_bytes_total", COUNTER, "Bytes that processes have written here.", ("stream",)),
    Metric(
        "constellation_node_unacknowledged_bytes", GAUGE, "Bytes of messages, output most of all, kept for the master."
    ),
    Metric(
        "constellation_node_refused_connections_total",
        COUNTER,
        "Connections to the node's port that were closed, by the step at which.",
        ("step",),
    ),
    Metric("constellation_fabric_nodes", GAUGE, "Nodes, by their state.", ("state",)),
    Metric("constellation_fabric_nodes_lost_total", COUNTER, "How often a node was given up, or has left."),
    Metric("constellation_fabric_capacity_mem_bytes", GAUGE, "Memory that a node offers.", ("node",)),
    Metric("constellation_fabric_held_mem_bytes", GAUGE, "Memory that processes on a node have asked for.", ("node",)),
    Metric("constellation_fabric_capacity_cpu_cores", GAUGE, "Cores that a node offers.", ("node",)),
    Metric(
        "constellation_fabric_held_cpu_cores",
        GAUGE,
        "Cores that processes on a node have asked for, without those that wait and lend theirs.",
        ("node",),
    ),
    Metric("constellation_fabric_capacity_custom", GAUGE, "Amounts by name that a node offers.", ("node", "resource")),
    Metric(
        "constellation_fabric_held_custom",
        GAUGE,
        "Amounts by name that processes on a node have asked for.",
        ("node", "resource"),
    ),
    Metric("constellation_fabric_processes", GAUGE, "Processes, running or still starting.", ("state",)),
    Metric("constellation_fabric_demands_queued", GAUGE, "Demands, of spawns and first runs, that wait for room."),
    Metric("constellation_fabric_spawns_total", COUNTER, "Processes that have begun to run."),
    Metric("constellation_fabric_exits_total", COUNTER, "Processes that have ended, by how.", ("end",)),
    Metric("constellation_fabric_deployments", GAUGE, "Deployments that are not over."),
    Metric("constellation_fabric_deployments_started_total", COUNTER, "Deployments that were sent."),
    Metric("constellation_fabric_events_waiting", GAUGE, "Events that the bridge has not stored yet."),
    Metric("constellation_fabric_bridge_connected", GAUGE, "1 while the bridge is connected to the master, else 0."),
    Metric("constellation_fabric_relayed_links", GAUGE, "Links that the master's node relays."),
)
"""All of them, in the order of the page."""

BY_NAME: Final = {metric.name: metric for metric in METRICS}


class Sample(NamedTuple):
    """One value."""

    name: str
    value: float
    labels: tuple[str, ...] = ()
    """Values of the metric's labels, in their order."""


def kind_of_end(code: int | None, signal: str | None) -> str:
    """Which of `ENDS` an end is."""
    if code is not None:
        return "success" if code == 0 else "failure"
    return "signal" if signal is not None else "unknown"


class Tally:
    """What has happened so far, counted where it happens: an addition each."""

    __slots__ = ("exits", "spawns", "written")

    def __init__(self) -> None:
        self.spawns = 0
        self.exits: dict[str, int] = dict.fromkeys(ENDS, 0)
        self.written = dict.fromkeys(STREAMS, 0)

    def ended(self, code: int | None, signal: str | None) -> None:
        """A process has ended."""
        self.exits[kind_of_end(code, signal)] += 1

    def wrote(self, fd: int, size: int) -> None:
        """A process has written; what a monitor process says of another descriptor is not believed."""
        if fd in self.written:
            self.written[fd] += size

    def samples(self, whose: str) -> list[Sample]:
        """Its values, as the metrics of ``node`` or ``fabric``."""
        prefix = f"constellation_{whose}_"
        made = [Sample(f"{prefix}spawns_total", self.spawns)]
        made += [Sample(f"{prefix}exits_total", count, (end,)) for end, count in self.exits.items()]
        if whose == "node":
            made += [Sample(f"{prefix}output_bytes_total", size, (STREAMS[fd],)) for fd, size in self.written.items()]
        return made
