"""What the fabric keeps of each process while it lives: a `Process` on its own computer, a `Member` for the coordinator.

Two records, because the two roles may be on two computers, and each must be able to do its part without the other's.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from constellation.core.lifecycle import KillOrder

if TYPE_CHECKING:
    from constellation.core.messages import Spawn
    from constellation.core.pid import Pid
    from constellation.core.resources import Resources
    from constellation.fabric.computer import Computer
    from constellation.fabric.packets import Packets
    from constellation.fabric.templates import Template

TAIL_BYTES = 32 << 10
"""Of what a process wrote to stderr: enough for the ten lines of its certificate, or for the last stack that Python wrote."""


class Process:
    """A process on the computer that runs it, from the moment in which it is forked until its certificate is written."""

    __slots__ = (
        "connection", "exception", "fault", "full_stack", "function", "is_alive", "is_attached", "is_ready", "key",
        "last_stack", "last_stack_fd", "number", "order", "os_pid", "outputs", "parent", "pid",
        "pidfd", "place", "reaped", "reason", "resources", "tail", "template", "undelivered",
    )  # fmt: skip

    def __init__(
        self, number: int, pid: Pid, parent: Pid | None, function: str, resources: Resources, place: str | None
    ) -> None:
        self.number = number
        self.pid = pid
        self.key = pid.to_bytes()
        self.parent = parent
        self.function = function
        self.resources = resources
        self.place = place
        self.connection: Packets | None = None
        self.template: Template | None = None
        self.os_pid = 0
        self.pidfd = -1
        self.outputs: dict[int, int] = {}
        """Read ends of its pipes, with 1 for stdout and 2 for stderr."""
        self.tail = bytearray()
        self.order = KillOrder()
        self.is_alive = True
        self.is_ready = False
        self.is_attached = False
        self.reaped: tuple[int | None, int | None] | None = None
        """Code and signal, where the fabric itself has waited for it."""
        self.exception: tuple[str, str] | None = None
        self.undelivered: tuple[str, ...] = ()
        """Channels that it gives up delivering, in words."""
        self.fault: str | None = None
        self.reason: str | None = None
        """What it said of its end."""
        self.last_stack_fd = -1
        """Read end of the pipe in which Python writes its last stack."""
        self.last_stack = bytearray()
        self.full_stack: int | None = None
        """Size of its C stack, where that was full when Python began to write there."""

    def remember(self, data: bytes) -> None:
        """Keep the end of what it writes to stderr."""
        self.tail += data
        if len(self.tail) > TAIL_BYTES:
            del self.tail[: len(self.tail) - TAIL_BYTES]

    def __repr__(self) -> str:
        return f"<Process {self.pid} {self.function}>"


class Member:
    """A process as the coordinator sees it, from the moment in which it is placed until its end is known."""

    __slots__ = (
        "computer", "draining", "function", "has_room", "is_alive", "is_asked", "is_attached", "is_ready", "key", "number", "parent",
        "peers", "pid", "place", "resources", "spawner", "waiting_for_end", "watchers", "wish", "wishes",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        pid: Pid,
        parent: Pid | None,
        function: str,
        resources: Resources,
        place: str | None,
        spawner: tuple[Member, int] | None,
        computer: Computer,
    ) -> None:
        self.number = number
        self.pid = pid
        self.key = pid.to_bytes()
        self.parent = parent
        self.function = function
        self.resources = resources
        self.place = place
        self.spawner = spawner
        """Who waits for its beginning, and the number of the request."""
        self.computer = computer
        self.has_room = False
        """Whether the master counts its demand."""
        self.is_alive = True
        self.is_ready = False
        self.is_asked = False
        """Whether it has been asked to end, or killed."""
        self.is_attached = False
        self.draining = ""
        """What it still delivers, in words; empty: it has not returned, or has nothing left."""
        self.wishes: dict[int, None] = {}
        """Numbers of its spawns that are queued."""
        self.wish: Wish | None = None
        """What its spawner asked for, until it has begun: for the case that its computer is lost."""
        self.watchers: list[tuple[Member, int]] = []
        self.peers: set[bytes] = set()
        """Keys of the processes that it was linked with."""
        self.waiting_for_end: list[Member] = []
        """Processes that asked for a link when this one could not take one any more."""

    def forget_wish(self) -> None:
        """It has begun, or never will."""
        if self.wish is not None:
            close_fds(self.wish.payload)
            self.wish = None

    def __repr__(self) -> str:
        return f"<Member {self.pid} {self.function}>"


class Wish:
    """A spawn that has been asked for and has not begun."""

    __slots__ = ("message", "payload", "resources", "spawner")

    def __init__(self, spawner: Member, message: Spawn, resources: Resources, payload: list[int]) -> None:
        self.spawner = spawner
        self.message = message
        self.resources = resources
        self.payload = payload
        """The memfd that holds the call where it does not stand in the message; open."""


def close_fds(fds: list[int]) -> None:
    """Close descriptors that were received or made; each is open."""
    for fd in fds:
        os.close(fd)
    fds.clear()
