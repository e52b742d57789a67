"""All errors, one tree.

    ConstellationError
     +-- UsageError                 wrong use of the API
     +-- SpawnError
     |    +-- NoCapacity            try_spawn: no room now
     |    +-- Infeasible            no node could hold the demand, even empty
     |    +-- SpawnStalled          all that hold capacity wait for spawns that have no room
     +-- ChannelError
     |    +-- ChannelClosed         the other end has closed, or ended well
     |    +-- PeerDied              the other process ended in another way; carries its ExitStatus
     |    +-- ChannelInUse          a second end of the same channel
     |    +-- TypeMismatch          the two ends state different types
     |    +-- WouldBlock            try_send or try_recv could not be done at once
     +-- NameInUse                  register: another process has the name
     +-- SupervisionError           a supervisor has given up; names the child and how it ended
     +-- DeployError                a program was refused before it ran; says what mends it
     +-- HandshakeError             two sides do not agree on version, transport, serializer or credential
     +-- SerializationError         a value cannot be encoded or decoded; names the member
     +-- PluginError                a plugin is unknown, broken or in conflict
     +-- LaunchError                a launcher could not start or stop a node, or ask for it
     +-- InternalError              a bug of ours

Every error is a record first: what was tried, with which value, what was expected, what to do. All survive pickling.
"""

from __future__ import annotations

from typing import Any

from constellation.core.pid import Pid
from constellation.core.status import ExitStatus


class ConstellationError(Exception):
    """Root of all errors of constellation."""


class UsageError(ConstellationError):
    """The API was used in a way that cannot work; the text says what to do instead."""


class SpawnError(ConstellationError):
    """A process could not be spawned."""


class NoCapacity(SpawnError):
    """There is no room for the demand now. Raised by `try_spawn` only; `spawn` waits."""


class Infeasible(SpawnError):
    """No node could hold the demand, even empty."""


class SpawnStalled(SpawnError):
    """Every process that holds capacity waits, and the spawns that wait cannot get any."""


class ChannelError(ConstellationError):
    """An operation on a channel failed."""


class ChannelClosed(ChannelError):
    """The other end has closed the channel, or its process ended with 0; every delivered value has been taken."""


class PeerDied(ChannelError):
    """The process at the other end ended in another way than with 0.

    Attributes:
        pid: The process that ended.
        status: Its death certificate.
    """

    def __init__(self, pid: Pid, status: ExitStatus) -> None:
        super().__init__(pid, status)
        self.pid = pid
        self.status = status

    def __str__(self) -> str:
        status = self.status
        if status.code is None and status.signal is None and status.cause:
            return f"process {self.pid} is lost: {status.cause}"  # it may live on, on the other side of what has failed
        return f"process {self.pid} has died: {status.describe()}"


class ChannelInUse(ChannelError):
    """A second end of a channel was made while the first is open."""


class TypeMismatch(ChannelError):
    """The two ends of a channel state different types.

    Attributes:
        sender: The type that the Sender states, as canonical text.
        receiver: The type that the Receiver states.
    """

    def __init__(self, sender: str, receiver: str) -> None:
        super().__init__(sender, receiver)
        self.sender = sender
        self.receiver = receiver

    def __str__(self) -> str:
        return f"the sender states {self.sender}, the receiver states {self.receiver}: state the same type on both ends, or none on one"


class WouldBlock(ChannelError):
    """`try_send` or `try_recv` could not be done at once; nothing has changed."""


class NameInUse(ConstellationError):
    """Another process that lives has the name."""


class SupervisionError(ConstellationError):
    """A supervisor has given up: a child could not be started, or had to be restarted too often.

    Attributes:
        supervisor: The name of the supervisor, empty where it has none.
        child: The id of the child, or None where it is not known here.
        reason: What happened to it.
        status: How its last process ended; None where none had begun, or where the supervisor itself was killed.
    """

    def __init__(self, supervisor: str, child: str | None, reason: str, status: ExitStatus | None = None) -> None:
        super().__init__(supervisor, child, reason, status)
        self.supervisor = supervisor
        self.child = child
        self.reason = reason
        self.status = status

    def __str__(self) -> str:
        who = f"supervisor {self.supervisor!r}" if self.supervisor else "the supervisor"
        which = f": child {self.child!r}" if self.child is not None else ""
        return f"{who} has given up{which}: {self.reason}"


class DeployError(ConstellationError):
    """A program was refused before it ran: its files, its requirements or its Python do not do; the text says what mends it."""


class HandshakeError(ConstellationError):
    """Two sides do not agree on version, transport, serializer or credential."""


class SerializationError(ConstellationError):
    """A value could not be encoded or decoded.

    Attributes:
        path: Where in the value the fault lies, such as ``args[0].lock``.
        reason: What is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class PluginError(ConstellationError):
    """A plugin is unknown, broken or in conflict with another."""


class LaunchError(ConstellationError):
    """A launcher could not start or stop a node, or ask its engine for it; what was tried, where, what the engine said."""


class InternalError(ConstellationError):
    """A bug in constellation itself; please report it with this text."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
