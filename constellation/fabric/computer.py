"""What the coordinator of a deployment and the nodes that run its processes say to each other.

A deployment has one `Coordinator`, on the master, and on each computer that runs some of its processes a `Computer`. In
local mode both are objects of one interpreter and call each other; on a fabric of many nodes each call is a message. So
no call gives an answer: what comes of it is told by a call the other way, and each side must bear that the other has
not yet heard of something.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from constellation.core.where import ANYWHERE, Where

if TYPE_CHECKING:
    from constellation.core.messages import Message
    from constellation.core.placement import Effect, Placement
    from constellation.core.resources import Resources
    from constellation.core.status import ExitStatus
    from constellation.fabric.books import Member


class Order(NamedTuple):
    """A process to be started: all that its computer must know. Pids as bytes, resources as fields."""

    number: int
    pid: bytes
    parent: bytes
    request: int
    resources: list[object]
    function: str
    place: str
    payload: bytes
    """Empty where the payload is in a memfd beside the order."""


class Computer(Protocol):
    """One computer's part of a deployment, as the coordinator sees it."""

    @property
    def id(self) -> int:
        """The number of its node, which stands in the Pids of its processes."""
        ...

    @property
    def name(self) -> str: ...

    @property
    def may_be_lost(self) -> bool:
        """Whether it can go while the coordinator stays."""
        ...

    def start(self, order: Order, payload: Sequence[int]) -> None:
        """Start a process; `Events.began` or `Events.failed` follows. Takes the descriptors over."""
        ...

    def tell(self, key: bytes, message: Message) -> None:
        """Send a message to a process."""
        ...

    def pair(self, one: bytes, two: bytes, number: int) -> None:
        """Make a link between two processes of this computer; `Events.not_linked` where one cannot take it."""
        ...

    def dial(self, one: bytes, two: bytes, number: int, other: Computer) -> None:
        """Make a link between a process here and one of another computer; `Events.not_linked` where that fails."""
        ...

    def way_to(self, other: Computer) -> str:
        """Which way links between processes here and of another computer go, in words."""
        ...

    def ask(self, key: bytes, cause: str, grace: float) -> None:
        """Ask a process to end, and kill it after ``grace`` seconds."""
        ...

    def signal(self, key: bytes, signum: int, cause: str) -> None:
        """Send a signal whose consequences are somebody else's decision."""
        ...

    def kill(self, key: bytes, cause: str) -> None:
        """Kill a process now."""
        ...

    def is_at_rest(self, key: bytes) -> bool:
        """Whether a process is not seen to run, or to be about to. What cannot be seen from here is at rest."""
        ...

    def insist(self) -> None:
        """Kill everything below: all have been killed, and nothing is heard of their ends."""
        ...


class Events(Protocol):
    """What a computer tells the coordinator. The order of what it tells of one process is the order in which it was."""

    def said(self, key: bytes, message: Message, fds: list[int]) -> bool:
        """A process has sent a message; takes descriptors out of ``fds`` that it keeps. False: it may not send that."""
        ...

    def began(self, key: bytes, os_pid: int, *, is_running: bool) -> None:
        """A process runs; or it has ended before it could say so, and `ended` follows."""
        ...

    def failed(self, key: bytes, text: str) -> None:
        """A process could not be started: as if it had never been."""
        ...

    def ended(self, key: bytes, status: ExitStatus, *, counts: bool) -> None:
        """A process has ended, and all its output has been told; ``counts`` is False for an attached client."""
        ...

    def not_linked(self, one: bytes, two: bytes, number: int, *, ending: bytes, reason: str) -> None:
        """A link could not be made: process ``ending`` is about to end; or, where that is empty, for a reason."""
        ...


class Chronicle(Protocol):
    """Where the coordinator writes what happens: the bridge, or what leads to it."""

    def spawned(self, member: Member) -> None:
        """A process runs."""
        ...

    def exited(self, status: ExitStatus) -> None:
        """A process has ended and its output has been told."""
        ...

    def draining(self, member: Member) -> None:
        """A process has returned and still delivers what it sent."""
        ...


class Room(Protocol):
    """The master as the coordinator of one deployment sees it: who gets room where."""

    @property
    def placement(self) -> Placement: ...

    @property
    def capacity(self) -> Resources:
        """What all nodes together have."""
        ...

    def count_from(self, number: int) -> None:
        """Give out only numbers above this one."""
        ...

    def next_number(self) -> int:
        """A number for a new process."""
        ...

    def computer(self, node_id: int) -> Computer:
        """The computer of a node."""
        ...

    def name_of(self, node_id: int) -> str:
        """The name of a node."""
        ...

    def submit(
        self, demand_id: int, demand: Resources, now: float, *, wait: bool, where: Where = ANYWHERE
    ) -> list[Effect]:
        """Ask for room."""
        ...

    def released(self, demand_id: int, now: float) -> list[Effect]:
        """Give the room of a demand back."""
        ...

    def cancel(self, demand_id: int, now: float) -> list[Effect]:
        """Withdraw a demand that is queued."""
        ...

    def lend(self, demand_id: int, now: float) -> list[Effect]:
        """The process of a demand waits: it lends its cpu share."""
        ...
