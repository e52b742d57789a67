"""What a plugin must offer: Transport, Serializer, Scheduler, Launcher.

These are structural types; a plugin subclasses nothing. The built-in plugins satisfy them and get no back door.
The per-message path calls the bound methods of a link and of a serializer directly: no hook, no wrapper.

Each text says four things: what a method may assume, what it must guarantee, whose the buffers are afterwards, and what an
exception does. `constellation.testing` has a check for every guarantee.

`CONTRACT_VERSION` counts these texts. It is raised when something that was right becomes wrong. What is added is optional,
in a class of its own (`RemoteTransport`, `DiallingTransport`, `BufferingLink`, `WaitingLink`, `SerializesTyped`,
`PlacesAmong`): a plugin without it stays right.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from constellation.core.resources import Resources

if TYPE_CHECKING:
    import ssl  # for the checkers only: who imports the contracts imports no socket

CONTRACT_VERSION = 1
"""The version of what stands in this module and of the hooks. A plugin may say for which one it was written, by a
module's (or plugin object's) attribute ``contract_version = 1``; one that does not fit is refused by name. It is raised
when a plugin that satisfied the contracts no longer would; what is only added does not raise it."""

OLDEST_CONTRACT = 1
"""The oldest version for which plugins still work."""

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Contiguous bytes. A memoryview has items of one byte."""


class Link(Protocol):
    """One open, ordered, reliable, duplex path for bytes, with the calling convention of a non-blocking socket.

    Every byte that is taken on one side comes out on the other, once, in order, unless the path ends before. Where the
    bytes of one call end means nothing.

    No call blocks. Each raises BlockingIOError where it can do nothing now; any other OSError, or ``b""`` or 0 from
    reading, means that the path has ended, for good. After either the caller reads no more and closes. An exception of
    another type is a fault of the plugin: it ends the link.

    Readiness is level-triggered by ``fileno()``, watched by epoll: it is readable as long as reading would give
    something or tell the end, and not for ever when reading raises BlockingIOError; the same for writing, after a call
    that raised BlockingIOError. One call a wake is enough.

    Threads: at most one is in `send` or `send_many`, and at most one in `receive` or `receive_into`; one of each may be
    there at once. `close` is called when nobody is in a call, or to break the path off.

    A signal handler of the program (Ctrl-C) may raise in a method written in Python, at any of its instructions: the
    link must be as before the call or as after it, or end. The built-in one calls C, where no exception comes between.
    """

    def fileno(self) -> int:
        """The descriptor that epoll watches for reading and writing; the same one until `close`."""
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
        """Give the path and its descriptor back, at once.

        Bytes that `send` has taken still arrive, and then the other side sees the end. What had come in and was not
        read is lost, and may cost the other side what it was sending. Afterwards every other call raises OSError or
        ValueError, and nothing reaches the other side any more. A second call does nothing. Does not raise.
        """
        ...


class SendOne(Protocol):
    """Take the first n >= 1 bytes of ``data`` and return n; BlockingIOError when there is no room for any.

    ``data`` is not empty. It is the caller's again when the call returns: it may be changed at once, and no view of it
    is kept. What is not taken is not sent; the next call begins with it. After BlockingIOError, too, the next call, of
    this or of `send_many`, begins with the same bytes, and may have more: a link may have begun to send them, and tells of
    it then.

    Without a reader, what is taken is bounded (64 MiB at most): the runtime counts on it that a slow peer is felt.
    """

    def __call__(self, data: Buffer, /) -> int: ...


class SendMany(Protocol):
    """The same for the joined ``buffers``: 1 to 1,000 of them, some may be empty, not all are.

    They should not be joined by the link where that can be avoided: large values are written from where they lie.
    """

    def __call__(self, buffers: Sequence[Buffer], /) -> int: ...


class Receive(Protocol):
    """Return between 1 and ``size`` bytes; ``b""`` at the end, each time; BlockingIOError when there are none now.

    ``size`` is at least 1. The result is the caller's, and does not change any more.
    """

    def __call__(self, size: int, /) -> bytes: ...


class ReceiveInto(Protocol):
    """Write between 1 and ``len(view)`` bytes to the front of ``view`` and return how many; 0 at the end.

    ``view`` is writable and not empty; bytes behind the count stay as they were, and no view of it is kept.
    """

    def __call__(self, view: memoryview, /) -> int: ...


class BufferingLink(Link, Protocol):
    """A link that may hold bytes that its descriptor does not tell of, as encryption does with the rest of a record.

    The method is optional: without it the descriptor tells all.
    """

    def pending(self) -> bool:
        """Whether reading would give something although the descriptor is not readable. Asked after each wake."""
        ...


class WaitingLink(Link, Protocol):
    """A link of which `send` may wait for something to read, as it does during a handshake.

    The method is optional: without it a link that raises BlockingIOError in `send` is tried again whenever its descriptor is
    writable, which costs a whole core for as long as it is so.
    """

    def waits_to_read(self) -> bool:
        """Whether `send` would give something once more has come in, and not before. Asked after its BlockingIOError.

        While it is so, `send` is called again after each read, and once a second, in which it may say that it took too long.
        """
        ...


class Transport(Protocol):
    """Makes links. One object per process, made by the `register_transports` hook.

    One with an attribute ``link_version`` (text, as in ``link_version = "2"``) states which version of it travels: both ends
    of a link compare it in their first frame, and refuse another. Without it every version goes with every other.

    With these members alone it works within one computer. The `RemoteTransport` is for links between computers.
    """

    name: str
    """What ``init(transport=...)`` selects. Both sides of a link compare it in their first frame."""

    def pair(self) -> tuple[int, int]:
        """Make the two ends of a link between two processes of one computer, as descriptors.

        Called in the node (in local mode: the fabric) for each link, so it must not block; in a process only for a
        channel to itself. The node passes one to each process (SCM_RIGHTS) and closes its own copies, so a descriptor
        must be all that the other process needs. They are not inherited by programs that are started.

        Raises:
            OSError: No descriptor can be had now. The node says so once and tries again.
        """
        ...

    def adopt(self, fd: int) -> Link:
        """Make a link of one end of a `pair`. Called in the process, maybe in its background thread.

        Takes ``fd`` over: it is the link's to close. The number is not the one that `pair` gave, and the transport is
        not the object that made it.
        """
        ...


class RemoteTransport(Transport, Protocol):
    """A transport whose links also lead to other computers.

    Who does what: the process asks its node for a link. The node dials the other node's one port, by TCP unless the
    transport dials itself (`DiallingTransport`), and both nodes settle who is to be linked with whom. Then each passes its
    end of the stream to its process (SCM_RIGHTS), and the processes call `open`.
    """

    remote: bool
    """True: `open` is there. Without the attribute, or with False, the transport is for one computer only."""

    def open(self, fd: int, *, server: bool, context: ssl.SSLContext) -> Link:
        """Make an encrypted link of a connected stream socket to another computer. Called in the process, does not block.

        Takes ``fd`` over, as `adopt` does. Nothing has been read beyond what the nodes settled, and nothing been written.

        Args:
            fd: The stream.
            server: Whether this is the side that was dialled: the server's part in a handshake.
            context: Encrypts the link and says whom to accept: not a byte of what is sent may be read on the way, and
                nothing of a side that the context does not accept is ever given out of reading.
                The handshake is driven by the usual calls: they raise BlockingIOError until it is done, and OSError
                (ssl.SSLError is one) when it has failed. While it goes on, and only then, the descriptor may be writable
                though `send` raises BlockingIOError.
        """
        ...


class Listener(Protocol):
    """Where other computers' streams come in; what `DiallingTransport.listen` gives.

    Its methods are called in one thread of the daemon, but for `close`, which may come from another at any time.
    """

    address: str
    """Where it listens, as `DiallingTransport.dial` takes it; with the port that was chosen where 0 was asked for."""

    def fileno(self) -> int:
        """A descriptor that is readable when `accept` would give something."""
        ...

    def accept(self) -> tuple[int, str]:
        """Give the next stream: its descriptor, and the address of the other side for messages. Does not block.

        The descriptor is of a connected stream socket and is the caller's. A stranger who does not speak the transport's
        language, or says nothing, is dropped and holds nobody else up.

        Raises:
            BlockingIOError: There is none now.
        """
        ...

    def close(self) -> None:
        """Let nobody in any more. Streams that were accepted go on. A second call does nothing."""
        ...


class DiallingTransport(RemoteTransport, Protocol):
    """A transport that listens and dials itself, for networks that let no plain TCP through.

    Both members are optional together; without them the fabric listens and dials by TCP. What comes out of them is a plain
    stream of bytes, and all else stays as it is: the nodes settle who is to be linked, and the processes `open` the two
    ends, encrypted from process to process. Where a way needs work of its own for each byte (frames, a proxy's TLS), it
    gives one end of a socketpair and does that work in a thread behind the other, until either side ends.

    Which transport an address is for says its scheme: ``NAME://HOST:PORT`` is for the transport NAME, which is given
    ``HOST:PORT``. One with an attribute ``schemes`` (a tuple of texts in lower case, as in ``schemes = ("ws", "wss")``) also gets
    the addresses with these, whole, as they were written.

    An exception of another type than OSError, an answer that is none, or none in time is a fault of the plugin: what was tried
    fails and names it, and the daemon goes on.
    """

    def listen(self, address: str) -> Listener:
        """Let other computers in at an address. Called in a thread of the node, master or bridge as it starts.

        Raises:
            OSError: It cannot be done; the daemon ends with these words.
        """
        ...

    def dial(self, address: str, timeout: float) -> int:
        """Reach another node's `Listener`: a descriptor of a connected stream socket, which is the caller's. Blocks.

        Called in threads of a daemon, or of `constellation deploy` and the like; in several at once.

        Raises:
            OSError: Nobody is there, or not within ``timeout`` seconds (TimeoutError is one).
        """
        ...


class Serializer(Protocol):
    """Turns values into bytes and back. One object per process, made by the `register_serializers` hook.

    It takes at least None, bool, int of any size, float, str, bytes, list and dict with keys of str. What it takes comes out
    equal and of the same type, all the way down; what would not is refused by `encode`. No call depends on another, and
    several threads call at once.

    One with a true attribute ``takes_all_plain`` states that it can encode every list whose members are exact int, float,
    bool, None, str or bytes, or flat dicts and tuples of these: quick sends of such values are then encoded together, after
    the send has returned. Without it each value is encoded in its own send, which is where a refusal belongs.

    One with an attribute ``link_version`` states the version of its bytes, as a `Transport` does.

    An exception of another type than the one that is named ends the operation that called, and nothing else.
    """

    name: str
    """What ``init(serializer=...)`` selects. Both sides of a link compare it in their first frame."""
    foreign_safe: bool
    """Whether `decode` runs no code of the sender's choice, whatever the bytes are, and takes no memory that they do not
    account for."""

    def encode(self, value: Any) -> Sequence[Buffer]:
        """Turn a value into one or more buffers, the first one without large binary parts where they can travel apart.

        Does not change the value. A buffer after the first may borrow the value's own memory; the caller copies or sends it
        before it says that the value is accepted, and then lets go of it.

        Raises:
            SerializationError: The value cannot be encoded; names the member.
        """
        ...

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        """Turn buffers of the same number and sizes back into the value.

        The buffers are bytes, or views of any memory. The first must not be used after the call; the others are the
        value's from now on, and nobody else writes to them.

        Raises:
            SerializationError: The bytes are not those of a value.
        """
        ...


class Codec(Protocol):
    """Turns values of one type into bytes and back. One for each end of a channel that states its type."""

    def encode(self, value: Any) -> Sequence[Buffer]:
        """As `Serializer.encode`."""
        ...

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        """As `Serializer.decode`.

        Raises:
            SerializationError: The bytes are not those of a value of the type; names the member.
        """
        ...

    def check(self, value: Any) -> None:
        """Look at a value that is bytes, bytearray or memoryview: these travel as they are, past `decode`.

        Raises:
            SerializationError: It is not of the type.
        """
        ...


class SerializesTyped(Serializer, Protocol):
    """A serializer that looks at the type that an end of a channel states: at T of ``Sender[T]`` and ``Receiver[T]``.

    The method is optional. With it, every value is encoded in its own send, whatever ``takes_all_plain`` says.
    """

    def for_type(self, stated: Any) -> Codec:
        """Give what encodes and decodes values as a type. Called at the first operation of an end, never per message.

        Not called for an end without a type, or with one that matches all (object, Any); its values pass through the
        serializer itself. So what `Serializer.encode` makes may reach a codec, and the other way round.

        Args:
            stated: The type, as the program wrote it: a class, a union, list[int], or text that names a type.

        Raises:
            UsageError: Values cannot be encoded, or checked, as this; says what can.
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
    """Answers "where". Told of each change, so that it can keep an index; made by the `register_schedulers` hook.

    Called in one thread of the master (in local mode: the fabric), which waits for it: no call blocks, and none looks at
    every node. When is not its question: the queue is the master's, with the turn of big demands (core/placement.py).
    An exception ends the spawn that asked with a PluginError, and nothing else.
    """

    name: str
    """What ``init(scheduler=...)`` selects."""

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


class NodeCommand(NamedTuple):
    """What a launcher is to run: the fabric's own command for one node."""

    name: str
    """Of the node; for messages and for whatever names the engine gives."""
    argv: tuple[str, ...]
    """The program and its arguments, each to arrive exactly as it is: no shell may read them."""
    environment: Mapping[str, str]
    """To be set in addition to what the place has."""
    stdin: bytes
    """What the node is to read from its standard input, up to the end: its credential. Never to be shown, nor to stand in a
    command line, an environment or a file that others may read."""


class Launcher(Protocol):
    """Starts and stops nodes on somebody else's engine; made by the `register_launchers` hook.

    Used by the command line, which ends while the nodes run on: a node belongs to its engine, not to the process that
    started it, and whoever has the handle may stop it, days later, from another process. Calls block; several threads may
    call at once.

    An exception of another type than LaunchError is a fault of the plugin; the command goes on with the other nodes.
    """

    name: str

    def start(self, command: NodeCommand, place: str) -> str:
        """Start one node and return its handle: text that can be stored, and tells all that is needed to find it again.

        Returns when the engine has taken the command on; whether the node has joined the fabric, the caller sees for
        itself. No descriptor of this process gets into the node.

        Args:
            command: What to run.
            place: Where, in the engine's words (a host of ssh, a partition of Slurm); may be empty.

        Raises:
            LaunchError: It cannot be started: what was tried, where, and what the engine said. Nothing is left of it.
        """
        ...

    def ended(self, handle: str) -> str | None:
        """Say how a node has ended, with the last that it said, or None while it runs or waits to.

        Raises:
            LaunchError: The engine cannot be asked.
        """
        ...

    def stop(self, handle: str, grace: float) -> None:
        """Ask a node to end (SIGTERM), kill it after ``grace`` seconds, and wait for its end.

        Nothing of it is left when this returns. A node that has ended is no fault, nor is a second call.

        Raises:
            LaunchError: It cannot be stopped, or the engine cannot be asked; the handle stays good.
        """
        ...
