"""`Sender` and `Receiver`: the two ends of a channel, as a program holds them.

The state of a channel lives in `process/outgoing.py` and `process/incoming.py` and outlives its ends: an end dropped
without `close()` parks its channel, and the next end of the same name goes on where it left.

A stream of a million values makes a million operations; so an end keeps the operation that was run last and uses it
again when nobody else holds it.
"""

from __future__ import annotations

import _thread
import sys
import types
import typing
from collections.abc import AsyncIterator, Iterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from constellation.core.errors import ChannelClosed, ChannelInUse, UsageError, WouldBlock
from constellation.core.pid import Pid
from constellation.core.settings import LARGEST_NAME
from constellation.process import runtime as runtimes
from constellation.process.incoming import NOTHING, Incoming
from constellation.process.operations import FRESH, RUNNING, Operation, Source
from constellation.process.outgoing import QUEUED, SCALAR_BYTES, SCALARS, STARTED, WAITS, Large, Outgoing

if TYPE_CHECKING:
    from typing import Self

    from constellation.core.contracts import Codec
    from constellation.core.why import Need
    from constellation.process.peer import Peer
    from constellation.process.runtime import Runtime

T = TypeVar("T")
_getrefcount = sys.getrefcount
_get_ident = _thread.get_ident
_SIZE_OF = dict.fromkeys(SCALARS, SCALAR_BYTES)
_NEVER = 1 << 62
_ALONE = 2  # the local name and the argument of getrefcount
# An end keeps its last operation for the next one (`_spare`). It must not keep the end in turn: an end that is dropped
# parks its channel at once, not when the garbage collector comes by. So `_end` of a spare operation is None.


class _End:
    """What both ends have in common."""

    __slots__ = ("__orig_class__", "__weakref__", "_claim", "_name", "_open", "_peer", "_runtime")

    _kind = ""

    def __init__(self, pid: Pid | None, name: str = "") -> None:
        self._open = False
        kind = type(self).__name__
        if not isinstance(pid, Pid):
            hint = ": this is the first process, it has no parent" if pid is None else ""
            raise TypeError(f"{kind}(pid) takes the Pid of the process at the other end, not {pid!r}{hint}")
        if not isinstance(name, str):
            raise TypeError(f"{kind}(pid, name) takes a str as the channel's name, not {name!r}")
        if len(name.encode()) > LARGEST_NAME or "\0" in name:
            raise UsageError(f"cannot name a channel {name[:50]!r}: expected at most {LARGEST_NAME} bytes and no NUL")
        self._runtime: Runtime = runtimes.current()
        self._peer: Peer = self._runtime.peer(pid)
        self._name = name
        self._claim = (self._kind, name)
        if self._claim in self._peer.claimed:
            which = f" named {name!r}" if name else ""
            raise ChannelInUse(
                f"a {kind} for process {pid}{which} is open: use that one, close() it first, or give this one another name"
            )
        self._peer.claimed.add(self._claim)
        self._open = True

    @property
    def pid(self) -> Pid:
        """The process at the other end."""
        return self._peer.pid

    @property
    def name(self) -> str:
        """The channel's name; empty for the one without."""
        return self._name

    def _leave(self) -> None:
        self._open = False
        self._peer.claimed.discard(self._claim)

    def _refuse(self) -> NoReturn:
        if self._runtime.is_foreign:
            runtimes.current()
        raise ChannelClosed(f"this {type(self).__name__} has been closed: make another to go on")

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} belongs to its process: send the Pid, and make the end there")

    def __repr__(self) -> str:
        which = f", {self._name!r}" if self._name else ""
        return f"<{type(self).__name__} {self._peer.pid}{which}{'' if self._open else ', closed'}>"


class Sender(_End, Generic[T]):
    """The sending end of an ordered, typed, one-way channel to another process.

    ``Sender[int](pid)`` states the type; both ends compare it at the first operation. Making one does no I/O.

    Args:
        pid: The process at the other end; this process itself is allowed. None is what `parent` gives in the first
            process, and refused.
        name: Tells several channels between the same two processes apart.

    Raises:
        ChannelInUse: A Sender of that name for that process is open.
        TypeError: ``pid`` is no Pid, or ``name`` no str.
        UsageError: Before `init`, or in a process that the program forked itself.
    """

    __slots__ = ("_channel", "_spare")

    _kind = "sender"

    def __init__(self, pid: Pid | None, name: str = "") -> None:
        super().__init__(pid, name)
        self._channel: Outgoing = self._peer.sending(name)
        self._spare: _Send | None = None

    def send(self, value: T) -> Operation[None]:
        """An operation: put a value into the channel. It completes when the value is accepted within the credit.

        The value is as it was when the operation ran: later changes do not reach the receiver.

        The operation raises:
            ChannelClosed: The receiver has closed, or its process ended with 0.
            PeerDied: The process at the other end ended otherwise.
            TypeMismatch: The receiver states another type.
            SerializationError: The value cannot be encoded; names the member.
        """
        spare = self._spare
        if spare is not None:
            self._spare = None
            if _getrefcount(spare) == _ALONE:
                spare._end = self
                spare._value = value
                spare._state = FRESH
                return spare
        return _Send(self, value)

    def try_send(self, value: T) -> None:
        """Put a value into the channel if that can be done at once.

        Raises:
            WouldBlock: The credit does not allow it now; nothing has been sent.
            ChannelClosed, PeerDied, TypeMismatch, SerializationError: As for `send`.
        """
        channel = self._ready()
        try:
            waiting = channel.offer(value)
            if waiting is None or self._settle_now(waiting):
                return
            self._runtime.reactor.poll_now()
            accepted = channel.retry(waiting) or self._settle_now(waiting)
        except BaseException:
            channel.reactor.deferred += (channel.reactor.redo,)
            channel.keep()
            raise
        if not accepted:
            raise WouldBlock(f"cannot send to {self.pid} now: {channel.describe()} has no credit left")

    def _settle_now(self, waiting: Large) -> bool:
        """Whether what has been accepted can be left to itself; what has not is withdrawn."""
        if waiting.state == WAITS or (waiting.state == QUEUED and waiting.size > self._runtime.credit):
            self._channel.withdraw(waiting)
            return False
        if waiting.state in (QUEUED, STARTED):
            waiting.own()
        return True

    def _ready(self) -> Outgoing:
        channel = self._channel
        if not self._open or self._runtime.is_foreign:
            self._refuse()
        if not channel.number:
            channel.stated_type = _stated(self)
            channel.encode_by(_codec(self))
            channel.prepare()
        return channel

    def close(self) -> None:
        """Say that no value follows; what was sent still arrives. A second call does nothing."""
        if self._open:
            self._leave()
            if not self._runtime.is_foreign:
                self._channel.close()
                self._peer.end_sending(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_open", False):
            self._leave()
            channel = getattr(self, "_channel", None)  # a signal handler may have raised before it was set
            if channel is not None and channel.over is not None and self._peer.gone is None:
                self._peer.end_sending(channel)


class _Send(Operation[None]):
    """A value on its way into a channel."""

    __slots__ = ("_chooses", "_end", "_large", "_value")

    keeps_order = True

    def __init__(self, end: Sender[Any], value: Any) -> None:
        self._end = end
        self._value = value
        self._large: Large | None = None
        self._chooses = False
        self._state = FRESH
        self._result = None

    def block(self, timeout: float | None = None) -> None:
        # `Operation.block` written out: a send that is accepted at once is the hot path.
        if self._state:
            self.begin()
        self._state = RUNNING
        end = self._end
        channel = end._channel
        value = self._value
        kind = type(value)
        size = _SIZE_OF.get(kind)
        if size is None:
            size = len(value) if kind is str or kind is bytes else _NEVER
        now = perf_counter()
        if size < channel.lot and now < channel.lot_ends:
            # A stream: the value is queued as it is, to be serialized with others. From the look on without a call, so
            # that no other thread and no signal handler comes between (reactor.py).
            channel.combined += (value,)
            channel.lot -= size
            end._spare = self
            self._end = None  # type: ignore[assignment]  # see _ALONE
            return
        if not channel.number or not end._open or end._runtime.is_foreign:
            end._ready()
        try:
            large = channel.offer(value)
        except BaseException:
            channel.reactor.deferred += (channel.reactor.redo,)
            channel.keep()
            raise
        if large is None:
            self._value = None
            end._spare = self
            self._end = None  # type: ignore[assignment]  # see _ALONE
            return
        self._large = large
        self._block_slowly(timeout)
        self._value = None

    def poll(self) -> bool:
        channel = self._end._ready()
        if self._large is None:
            self._large = channel.offer_one_of(self._value) if self._chooses else channel.offer(self._value)
            return self._large is None
        return channel.retry(self._large, alone=not self._chooses)

    def choose(self, chooses: bool) -> None:
        self._chooses = chooses

    def sources(self) -> Sequence[Source]:
        return (self._end._channel,)

    def withdraw(self) -> bool:
        large = self._large
        if large is None or self._end._channel.withdraw(large):
            self._large = None
            return True
        return False

    def can_rewind(self) -> bool:
        return self._large is None or self._large.state in (WAITS, QUEUED)

    def runtime(self) -> Runtime:
        return self._end._runtime

    def describe(self) -> str:
        end: _End | None = self._end
        if end is None:
            return "send"
        which = f" on {end._name!r}" if end._name else ""
        return f"send to {end.pid}{which}"

    def need(self) -> Need:
        end: _End | None = self._end
        return None if end is None else end.pid.to_bytes()


class Receiver(_End, Generic[T]):
    """The receiving end of an ordered, typed, one-way channel from another process.

    An iterator, and an async iterator, until the other end has closed.

    Args:
        pid: The process at the other end; this process itself is allowed. None is what `parent` gives in the first
            process, and refused.
        name: Tells several channels between the same two processes apart.

    Raises:
        ChannelInUse: A Receiver of that name for that process is open.
        TypeError: ``pid`` is no Pid, or ``name`` no str.
        UsageError: Before `init`, or in a process that the program forked itself.
    """

    __slots__ = ("_channel", "_spare")

    _kind = "receiver"

    def __init__(self, pid: Pid | None, name: str = "") -> None:
        super().__init__(pid, name)
        self._channel: Incoming = self._peer.receiving(name)
        self._spare: _Recv[T] | None = None

    def recv(self) -> Operation[T]:
        """An operation: take the next value. One that is cancelled takes nothing.

        The operation raises:
            ChannelClosed: The sender has closed, or its process ended with 0, and every value has been taken.
            PeerDied: The process at the other end ended otherwise, and every value that arrived has been taken.
            TypeMismatch: The sender states another type.
            SerializationError: The next value cannot be decoded; it is passed over.
        """
        spare = self._spare
        if spare is not None:
            self._spare = None
            if _getrefcount(spare) == _ALONE:
                spare._end = self
                spare._state = FRESH
                return spare
        return _Recv(self)

    def try_recv(self) -> T:
        """Take the next value if one is there.

        Raises:
            WouldBlock: There is none now.
            ChannelClosed, PeerDied, TypeMismatch, SerializationError: As for `recv`.
        """
        channel = self._ready()
        reactor = self._runtime.reactor
        try:
            value = channel.take()
            if value is NOTHING:
                reactor.poll_now()
                value = channel.take()
        except BaseException:
            reactor.deferred += (reactor.redo,)
            reactor.rouse()
            raise
        if value is NOTHING:
            raise WouldBlock(f"nothing to receive from {self.pid} now: {channel.describe()} is empty")
        result: T = value
        return result

    def _ready(self) -> Incoming:
        channel = self._channel
        if not self._open or self._runtime.is_foreign:
            self._refuse()
        if not channel.used:
            channel.stated_type = _stated(self)
            channel.decode_by(_codec(self))
            channel.post()
        return channel

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        values = self._channel.values
        if values and self._open:
            # Without a call or a jump back, so no other thread and no signal handler comes between (reactor.py).
            following: T = values[0]
            del values[0]
            return following
        channel = self._ready()
        try:
            value = channel.take()
            if value is NOTHING:
                return self.recv().block()
        except ChannelClosed:
            raise StopIteration from None
        except BaseException:
            reactor = self._runtime.reactor
            reactor.deferred += (reactor.redo,)
            reactor.rouse()
            raise
        result: T = value
        return result

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.recv()
        except ChannelClosed:
            raise StopAsyncIteration from None

    def close(self) -> None:
        """Take no more: values that are here or on their way are dropped, and the sender is told."""
        if self._open:
            self._leave()
            if not self._runtime.is_foreign:
                self._peer.end_receiving(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_open", False):
            self._leave()
            channel = getattr(self, "_channel", None)  # a signal handler may have raised before it was set
            if channel is not None and channel.ended is not None and channel.is_over and self._peer.gone is None:
                self._peer.end_receiving(channel)


class _Recv(Operation[T]):
    """A value on its way out of a channel."""

    __slots__ = ("_end",)

    def __init__(self, end: Receiver[T]) -> None:
        self._end = end
        self._state = FRESH

    def block(self, timeout: float | None = None) -> T:
        # `Operation.block` written out, and the result is not kept: a round trip ends here.
        if self._state:
            self.begin()
        self._state = RUNNING
        end = self._end
        channel = end._channel
        values = channel.values
        value: T
        if values and end._open:
            value = values[0]
            end._spare = self
            self._end = None  # type: ignore[assignment]  # see _ALONE
            del values[0]
            return value  # commit, from `if values` on
        if not channel.used or not end._open or end._runtime.is_foreign:
            end._ready()
        reactor = end._runtime.reactor
        try:
            value = channel.take()
        except BaseException:
            reactor.deferred += (reactor.redo,)
            reactor.rouse()
            raise
        if value is not NOTHING:
            end._spare = self
            self._end = None  # type: ignore[assignment]  # see _ALONE
            return value
        if timeout is not None or _get_ident() != reactor.main:
            value = self._block_slowly(timeout)
            del self._result
            return value
        try:
            while value is NOTHING:
                # The driver only looks; taking is the last step here, so that a Ctrl-C on the way out loses nothing.
                reactor.drive(channel, None)
                value = channel.take()
        except BaseException:
            reactor.deferred += (reactor.redo,)
            reactor.rouse()
            raise
        end._spare = self
        self._end = None  # type: ignore[assignment]  # see _ALONE
        return value

    def poll(self) -> bool:
        value = self._end._ready().take()
        if value is NOTHING:
            return False
        self._result = value
        return True

    def withdraw(self) -> bool:
        if hasattr(self, "_result"):  # taken, but the wait did not end: by Ctrl-C, or as a member of a select
            self._end._channel.give_back(self._result)
            del self._result
        return True

    def sources(self) -> Sequence[Source]:
        return (self._end._channel,)

    def runtime(self) -> Runtime:
        return self._end._runtime

    def describe(self) -> str:
        end: _End | None = self._end
        if end is None:
            return "recv"
        which = f" on {end._name!r}" if end._name else ""
        return f"recv from {end.pid}{which}"

    def need(self) -> Need:
        end: _End | None = self._end
        return None if end is None else end.pid.to_bytes()


def _stated(end: _End) -> str:
    """The type that an end states, as canonical text; empty where it states none, or one that matches all."""
    made = getattr(end, "__orig_class__", None)
    if made is None:
        return ""
    return type_text(typing.get_args(made)[0])


def _codec(end: _End) -> Codec | None:
    """What encodes and decodes values as the type that an end states, where its serializer looks at types."""
    for_type = getattr(end._runtime.serializer, "for_type", None)
    if for_type is None or not _stated(end):
        return None
    codec: Codec = for_type(typing.get_args(getattr(end, "__orig_class__", None))[0])
    return codec


def type_text(stated: Any) -> str:
    """A type as canonical text: the same in every process of a program; empty for what matches all."""
    if stated is object or stated is Any or isinstance(stated, TypeVar):
        return ""
    if stated is None or stated is types.NoneType:
        return "None"
    if isinstance(stated, str):
        return stated
    if isinstance(stated, typing.ForwardRef):
        return stated.__forward_arg__
    origin = typing.get_origin(stated)
    if origin is not None:
        inner = [
            "[" + ", ".join(map(type_text, one)) + "]" if isinstance(one, list) else type_text(one) or "Any"
            for one in typing.get_args(stated)
        ]
        if origin is typing.Union or origin is types.UnionType:
            return " | ".join(sorted(inner))  # Optional[int], int | None and None | int are one type
        return f"{type_text(origin)}[{', '.join(inner)}]" if inner else type_text(origin)
    if isinstance(stated, type):
        module = stated.__module__
        return stated.__qualname__ if module == "builtins" else f"{module}.{stated.__qualname__}"
    return repr(stated)
