"""A master that has been started again takes its deployments up: from what the nodes and the bridge have kept.

Nothing is decided while it is not known what there is: what the nodes tell waits here until the bridge has said what it has,
and all nodes of the file have come back, or have had the time of a lease for it. Then each deployment gets its members,
then what holds and what is unanswered, then what may or may not have been handled before, in its order. An event that
the bridge has already is not written again; a spawn that was carried out is known by its process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from constellation.core import messages, trunk
from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.core.status import ExitStatus
from constellation.fabric.books import Member

if TYPE_CHECKING:
    from constellation.fabric.deployments import Deployment


LOST = "node lost: the master was killed, and with it what ran on its computer"


class Held(NamedTuple):
    """A message of a node that waits."""

    node_id: int
    number: int
    message: trunk.StationMessage
    payload: bytes


class Rebuild:
    """One deployment that is being taken up."""

    def __init__(self) -> None:
        self.processes: list[tuple[int, list[Any]]] = []
        self.links: dict[tuple[bytes, bytes], int] = {}
        self.held: list[Held] = []
        self.handled: dict[int, int] = {}
        """By node: the last of its messages of which the bridge has an event."""
        self.open: list[bytes] = []
        """Pids of those that the bridge believes to live."""
        self._gone: dict[int, str] = {}
        """By node: why what it told of does not run any more."""

    def part_gone(self, node_id: int, cause: str) -> None:
        """What ran on a node has ended meanwhile: only what it wrote still counts."""
        self._gone[node_id] = cause
        self.held = [
            held for held in self.held if held.node_id != node_id or isinstance(held.message, trunk.Wrote | trunk.Words)
        ]

    def inventory(self, node_id: int, message: trunk.Inventory) -> None:
        """A node has said what it knows."""
        self.processes += [(node_id, row) for row in message.processes]
        for one, two, number in message.links:
            pair = (bytes(one), bytes(two)) if one < two else (bytes(two), bytes(one))
            self.links[pair] = max(int(number), self.links.get(pair, 0))

    def carry_out(self, deployment: Deployment) -> None:
        """Fill a deployment's books, then handle what has waited."""
        spawns = self._members(deployment)
        deployment.coordinator.links.take_up(self.links)
        causes = {bytes(row[0]): self._gone.get(node_id, "") for node_id, row in self.processes}
        lost = [
            ExitStatus(Pid.from_bytes(key), None, None, causes.get(key) or LOST)
            for key in self.open
            if causes.get(key) != ""
        ]
        deployment.coordinator.take_up_lost(lost, self.links)
        replayed: set[tuple[bytes, int]] = set()
        for held in self.held:
            if held.number and deployment.events.has_handled(held.node_id, held.number):
                continue
            request = _spawn_of(held.message)
            if request is not None:
                if request in spawns or request in replayed:
                    continue
                replayed.add(request)
            if held.number:
                deployment.on_message(*held)
            else:
                deployment.replay(held.node_id, held.message, held.payload)
        deployment.taken_up(was_begun=bool(lost))

    def _members(self, deployment: Deployment) -> set[tuple[bytes, int]]:
        """Take up the living and the dead; the requests that have led to a process."""
        living: list[Member] = []
        requests: set[tuple[bytes, int]] = set()
        for node_id, (key, order, began, over, status) in self.processes:
            handled = self.handled.get(node_id, 0)
            start = trunk.Start(*order)
            pid = Pid.from_bytes(bytes(key))
            deployment.room.count_from(start.number)
            has_begun = bool(began) and began <= handled
            if node_id in self._gone and not has_begun:
                continue  # nobody has been told of it: whoever asked for it gets it elsewhere
            requests.add((start.parent, start.request))
            if over and over <= handled:
                end = ExitStatus(pid, 0, None) if status is None else ExitStatus.from_fields(status)
                deployment.take_up_dead(end, is_first=not start.parent)
                continue
            if node_id in self._gone:
                continue
            computer = deployment.room.computer(node_id)
            member = Member(
                start.number,
                pid,
                Pid.from_bytes(start.parent) if start.parent else None,
                start.function,
                Resources.from_fields(start.resources),
                start.place or None,
                None,
                computer,
            )
            member.is_ready = has_begun
            living.append(member)
        deployment.take_up(living)
        by_key = {member.key: member for member in living}
        for _, (key, order, began, _, _) in self.processes:
            start = trunk.Start(*order)
            member_found, spawner = by_key.get(bytes(key)), by_key.get(start.parent)
            if member_found is not None and spawner is not None and not began:
                member_found.spawner = (spawner, start.request)
        return requests


def _spawn_of(message: trunk.StationMessage) -> tuple[bytes, int] | None:
    """Process and request of a spawn."""
    if isinstance(message, trunk.Said):
        said = messages.read(message.message)
        if isinstance(said, messages.Spawn):
            return message.key, said.request
    return None
