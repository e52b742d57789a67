"""The master's part in local mode: who gets room, by the placement machine and the scheduler plugin."""

from __future__ import annotations

import os

from constellation.core.contracts import NodeView, Scheduler
from constellation.core.placement import Effect, Placement
from constellation.core.resources import MILLIONTHS, Resources


class Master:
    """Book of nodes and demands.

    Args:
        scheduler: Answers where.
        capacity: What the node is said to have; None: what the computer has, and then nothing is queued or refused.
        node_id: The only node.
        node_name: Its name.
    """

    def __init__(self, scheduler: Scheduler, capacity: Resources | None, node_id: int, node_name: str) -> None:
        self._scheduler = scheduler
        self.placement = Placement(scheduler, limited=capacity is not None)
        whole = capacity if capacity is not None else computer()
        self.node = NodeView(node_id, node_name, whole, whole)
        self.placement.node_joined(self.node)

    def submit(self, demand_id: int, demand: Resources, now: float, *, wait: bool) -> list[Effect]:
        """Ask for room."""
        return self.placement.submit(demand_id, demand, wait, now)

    def released(self, demand_id: int, now: float) -> list[Effect]:
        """Give the room of a demand back."""
        return self.placement.released(demand_id, now)

    def cancel(self, demand_id: int, now: float) -> list[Effect]:
        """Withdraw a demand that is queued."""
        return self.placement.cancel(demand_id, now)

    def again(self, capacity: Resources | None) -> Master:
        """Give the master of the next deployment, with empty books."""
        self.placement.node_left(self.node.id)
        return Master(self._scheduler, capacity, self.node.id, self.node.name)


def computer() -> Resources:
    """What this computer has: its memory, and the cores that this process may use."""
    mem = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Resources.exact(mem, len(os.sched_getaffinity(0)) * MILLIONTHS)
