"""What a plugin must offer: Transport, Serializer, Scheduler, Launcher.

These are structural types; a plugin subclasses nothing. The built-in plugins satisfy them and get no back door.
The per-message path calls the bound methods of a link and of a serializer directly: no hook, no wrapper.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from constellation.core.resources import Resources

CONTRACT_VERSION = 1

Buffer: TypeAlias = bytes | bytearray | memoryview


class Link(Protocol):
    """One open, ordered, reliable, duplex path for bytes, with the calling convention of a non-blocking socket.

    Readiness is edge-triggered by ``fileno()``: after a call that raised BlockingIOError the descriptor becomes ready
    again. Methods never block. Any other OSError, or ``b""`` from `receive`, means that the path has ended.
    """

    def fileno(self) -> int:
        """The descriptor that epoll watches for reading and writing."""
        ...

    @property
    def send(self) -> SendOne: ...

    @property
    def send_many(self) -> SendMany: ...

    @property
    def receive(self) -> Receive: ...

    @property
    def receive_into(self) -> ReceiveInto: ...

    def close(self) -> None:
        """Give the path back. Bytes that `send` has taken still arrive. A second call does nothing."""
        ...


class SendOne(Protocol):
    """Take the first n >= 1 bytes of ``data`` and return n; BlockingIOError when there is no room for any."""

    def __call__(self, data: Buffer, /) -> int: ...


class SendMany(Protocol):
    """Take the first n >= 1 bytes of the joined ``buffers`` (at most 1,000) and return n, without joining them.

    The buffers belong to the caller again when the call returns.
    """

    def __call__(self, buffers: Sequence[Buffer], /) -> int: ...


class Receive(Protocol):
    """Return between 1 and ``size`` bytes; ``b""`` at the end; BlockingIOError when there are none now."""

    def __call__(self, size: int, /) -> bytes: ...


class ReceiveInto(Protocol):
    """Write between 1 and ``len(view)`` bytes into ``view`` and return how many; 0 at the end."""

    def __call__(self, view: memoryview, /) -> int: ...


class Transport(Protocol):
    """Makes links. One object per process, made by the `register_transports` hook."""

    name: str

    def pair(self) -> tuple[int, int]:
        """Make the two ends of a link between two processes of one computer, as descriptors.

        Called in the node, which passes one to each process (SCM_RIGHTS) and closes its own copies.
        """
        ...

    def adopt(self, fd: int) -> Link:
        """Make a link of one of these descriptors, or of an accepted one. Called in the process; takes ``fd`` over."""
        ...


class Serializer(Protocol):
    """Turns values into bytes and back. One object per process, made by the `register_serializers` hook.

    One with a true attribute ``takes_all_plain`` states that it can encode every list whose members are exact int, float,
    bool, None, str or bytes, or flat dicts and tuples of these: quick sends of such values are then encoded together, after
    the send has returned. Without it each value is encoded in its own send, which is where a refusal belongs.
    """

    name: str
    foreign_safe: bool
    """Whether `decode` runs no code of the sender's choice, whatever the bytes are."""

    def encode(self, value: Any) -> Sequence[Buffer]:
        """Turn a value into one or more buffers, the first one without large binary parts where they can travel apart.

        A buffer after the first may borrow the value's own memory; the caller copies or sends it before it says that
        the value is accepted.

        Raises:
            SerializationError: The value cannot be encoded; names the member.
        """
        ...

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        """Turn buffers of the same number and sizes back into the value. May keep the buffers after the first.

        Raises:
            SerializationError: The bytes are not those of a value.
        """
        ...


class NodeView(NamedTuple):
    """What a scheduler sees of a node. Given anew at each change; never changed in place."""

    id: int
    name: str
    capacity: Resources
    free: Resources
    labels: tuple[tuple[str, str], ...] = ()
    """What the node says of itself (``--label rack=a``), sorted by name; the same as long as the node is there."""


class Scheduler(Protocol):
    """Answers "where". Told of each change, so that it can keep an index; made by the `register_schedulers` hook."""

    name: str

    def node_changed(self, node: NodeView) -> None:
        """A node has joined, or its free resources have changed."""
        ...

    def node_removed(self, node_id: int) -> None:
        """A node has gone."""
        ...

    def place(self, demand: Resources) -> int | None:
        """Choose a node for a demand: its id, or None when no node has room now. Changes nothing.

        The caller subtracts the demand and tells it by `node_changed`. Equal histories must give equal answers.
        """
        ...


class PlacesAmong(Scheduler, Protocol):
    """A scheduler that also chooses out of some nodes, for ``spawn(..., on=...)``.

    The method is optional: for a scheduler without it the core looks at the nodes that come into question itself, one
    by one, and takes the one that the demand fills most (`constellation.core.among`).
    """

    def place_among(self, demand: Resources, allowed: Collection[int], near: int | None = None) -> int | None:
        """Choose a node for a demand out of ``allowed``: its id, or None when none of these has room now.

        Changes nothing, like `place`.

        Args:
            demand: What is asked for.
            allowed: Ids of nodes. Counting them and asking whether one is among them is quick, however many they are;
                walking through them is not. Only valid during the call.
            near: The node of the process near which the new one is wanted; a wish and no condition, and maybe gone.
        """
        ...


class Launcher(Protocol):
    """Starts and stops nodes on somebody else's engine; made by the `register_launchers` hook."""

    name: str

    def start(self, count: int, options: dict[str, str]) -> list[str]:
        """Start ``count`` nodes; return what `stop` needs for each."""
        ...

    def stop(self, handle: str) -> None:
        """Stop one node and wait for its end."""
        ...
