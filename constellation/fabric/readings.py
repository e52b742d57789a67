"""Reads a daemon for its metrics: the table is core/gauges.py, how a page is made of it is pages.py.

Called in the daemon's loop once a second: it looks at each node, deployment and process once, and waits for nothing.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Final, NamedTuple

from constellation.core.gauges import STATES, Sample
from constellation.core.resources import MILLIONTHS, Resources

if TYPE_CHECKING:
    from constellation.fabric.daemon import NodeDaemon
    from constellation.fabric.fabricmaster import FabricMaster

_NODE: Final = "constellation_node_"
_FABRIC: Final = "constellation_fabric_"


class Reading(NamedTuple):
    """What a daemon's loop has seen at one time."""

    samples: tuple[Sample, ...]
    made_at: float
    """By the clock of the loop."""
    heard: float
    """When the master last heard the node: the lease ages also while the loop stands still."""


def read(node: NodeDaemon, master: FabricMaster | None, refused: dict[str, int], now: float) -> Reading:
    """Take one reading.

    Args:
        node: The daemon's node.
        master: Its master, where it is one.
        refused: Connections so far that were closed, by the step at which.
        now: By the clock of the loop.
    """
    role = "node" if master is None else "master"
    samples = [
        Sample("constellation_build_info", 1, (node.settings.version, platform.python_version(), role)),
        *_of_node(node, refused),
    ]
    if master is not None:
        samples += _of_fabric(master)
    return Reading(tuple(samples), now, node.heard)


def _of_node(node: NodeDaemon, refused: dict[str, int]) -> list[Sample]:
    parts = node.parts
    return [
        Sample(f"{_NODE}in_fabric", node.is_in),
        Sample(f"{_NODE}draining", node.is_draining),
        Sample(f"{_NODE}lease_seconds", node.lease),
        Sample(f"{_NODE}deployments", len(parts)),
        Sample(f"{_NODE}processes", node.count),
        Sample(f"{_NODE}unacknowledged_bytes", sum(part.kept_bytes for part in parts)),
        *node.tally.samples("node"),
        *(Sample(f"{_NODE}refused_connections_total", count, (step,)) for step, count in refused.items()),
    ]


def _of_fabric(master: FabricMaster) -> list[Sample]:
    records = list(master.nodes.values())
    known = {record.address for record in records}
    states = dict.fromkeys(STATES, 0)
    for record in records:
        states[record.state] += 1
    states["absent"] = sum(address not in known for _, address, *_ in master.absent())
    going_on = [each for each in master.deployments.values() if not each.is_over]
    living = running = 0
    for deployment in going_on:
        members = deployment.coordinator.living
        living += len(members)
        running += sum(member.is_ready for member in members)
    samples = [Sample(f"{_FABRIC}nodes", count, (state,)) for state, count in states.items()]
    for record in records:
        samples += _amounts("capacity", record.name, record.view.capacity)
        samples += _amounts("held", record.name, master.placement.held_on(record.id))
    return [
        *samples,
        Sample(f"{_FABRIC}nodes_lost_total", master.lost),
        Sample(f"{_FABRIC}processes", running, ("running",)),
        Sample(f"{_FABRIC}processes", living - running, ("starting",)),
        Sample(f"{_FABRIC}demands_queued", len(master.placement.waiting())),
        *master.tally.samples("fabric"),
        Sample(f"{_FABRIC}deployments", len(going_on)),
        Sample(f"{_FABRIC}deployments_started_total", master.sent),
        Sample(f"{_FABRIC}events_waiting", sum(each.events.waiting for each in master.deployments.values())),
        Sample(f"{_FABRIC}bridge_connected", master.has_bridge),
        Sample(f"{_FABRIC}relayed_links", 0 if master.relaying is None else master.relaying.count),
    ]


def _amounts(what: str, node: str, amount: Resources) -> list[Sample]:
    return [
        Sample(f"{_FABRIC}{what}_mem_bytes", amount.mem, (node,)),
        Sample(f"{_FABRIC}{what}_cpu_cores", amount.cpu_millionths / MILLIONTHS, (node,)),
        *(
            Sample(f"{_FABRIC}{what}_custom", millionths / MILLIONTHS, (node, name))
            for name, millionths in amount.custom_millionths
        ),
    ]
