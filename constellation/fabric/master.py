"""The master: the book of nodes and of demands. Who gets room is decided by the placement machine and the scheduler plugin.

Processes are numbered by the master over all deployments, so the number of a process is also that of its demand.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from constellation.core.contracts import NodeView, Scheduler
from constellation.core.placement import Effect, Placement
from constellation.core.resources import MILLIONTHS, Resources
from constellation.core.where import ANYWHERE, Where

if TYPE_CHECKING:
    from constellation.fabric.computer import Computer


class Master:
    """Nodes and demands, as one deployment sees them; in local mode there are no others.

    Args:
        scheduler: Answers where.
        capacity: What the node is said to have; None: what the computer has, and then nothing is queued or refused.
        node_id: The only node.
        node_name: Its name.
        computer: Gives the only node.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        capacity: Resources | None,
        node_id: int,
        node_name: str,
        computer: Callable[[], Computer],
    ) -> None:
        self._scheduler = scheduler
        self._computer = computer
        self._count = 1
        self.placement = Placement(scheduler, limited=capacity is not None)
        whole = capacity if capacity is not None else this_computer()
        self.node = NodeView(node_id, node_name, whole, whole)
        self.placement.node_joined(self.node)

    @property
    def capacity(self) -> Resources:
        """What all nodes have together."""
        return self.node.capacity

    def count_from(self, number: int) -> None:
        """Give out only numbers above this one."""
        self._count = max(self._count, number)

    def next_number(self) -> int:
        """A number for a new process."""
        self._count += 1
        return self._count

    def computer(self, node_id: int) -> Computer:  # there is one
        """The computer of a node."""
        return self._computer()

    def name_of(self, node_id: int) -> str:  # there is one
        """The name of a node."""
        return self.node.name

    def submit(
        self,
        demand_id: int,
        demand: Resources,
        now: float,
        *,
        wait: bool,
        where: Where = ANYWHERE,
    ) -> list[Effect]:
        """Ask for room. There is one node: what was said for a fabric is not asked of it."""
        return self.placement.submit(demand_id, demand, wait, now)

    def released(self, demand_id: int, now: float) -> list[Effect]:
        """Give the room of a demand back."""
        return self.placement.released(demand_id, now)

    def cancel(self, demand_id: int, now: float) -> list[Effect]:
        """Withdraw a demand that is queued."""
        return self.placement.cancel(demand_id, now)

    def lend(self, demand_id: int, now: float) -> list[Effect]:
        """The process of a demand waits: it lends its cpu share."""
        return self.placement.lend(demand_id, now)

    def again(self, capacity: Resources | None) -> Master:
        """Give the master of the next deployment, with empty books; numbers go on."""
        self.placement.node_left(self.node.id)
        master = Master(self._scheduler, capacity, self.node.id, self.node.name, self._computer)
        master.count_from(self._count)
        return master


def this_computer() -> Resources:
    """What this computer has: its memory, and the cores that this process may use."""
    mem = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Resources.exact(mem, len(os.sched_getaffinity(0)) * MILLIONTHS)
