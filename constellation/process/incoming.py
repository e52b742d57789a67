"""The receiving half of one incarnation of a channel: what has arrived, and how much more may.

Credit (core/credit.py has the rule and its tests): the sender may have sent `granted` bytes in all. `granted` begins at
one window and grows with what has been taken; a channel whose sender says that it wants more gets the whole credit as
its window if the runtime's budget has room, and what a posted recv needs in any case.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from constellation.core import credit, framing, settings
from constellation.core.errors import ChannelClosed, TypeMismatch
from constellation.process.faults import blame_decode, is_of_program
from constellation.process.memory import BytesRoom

if TYPE_CHECKING:
    from constellation.core.contracts import Codec
    from constellation.core.why import Need
    from constellation.process.peer import Peer

LARGE = -1
NOTHING: Any = type("Nothing", (), {"__repr__": lambda _self: "NOTHING"})()
"""What `Incoming.take` gives when no value is there."""

_RAW = framing.RAW
_LIST = framing.LIST


class Assembly:
    """A large value on its way in: one place per part."""

    __slots__ = ("_rooms", "_value", "_views", "_what", "total")

    def __init__(self, peer: Peer, what: int, sizes: tuple[int, ...]) -> None:
        self._what = what
        self.total = sum(sizes)
        self._value: Any = NOTHING
        self._rooms: list[Any] = []
        self._views: list[memoryview] = []
        for size in sizes:
            if what == framing.BYTES:
                room = BytesRoom(size)
                self._rooms.append(room)
                self._views.append(room.view)
            elif what == framing.BYTEARRAY:
                array = bytearray(size)
                self._rooms.append(array)
                self._views.append(memoryview(array))
            else:
                view = peer.runtime.pool.take(size)
                self._rooms.append(view)
                self._views.append(view)

    def room(self, at: int, length: int) -> memoryview:
        """The place of ``length`` bytes from ``at`` on: a chunk lies within one part."""
        for view in self._views:
            if at < len(view) or not self.total:  # a value of no bytes has one chunk of none
                if at + length > len(view):
                    break
                return view[at : at + length]
            at -= len(view)
        raise framing.FrameError(f"a chunk of {length} bytes that does not fit its value")

    def give_up(self) -> None:
        """The rest of the value never comes."""
        for room in self._rooms:
            if isinstance(room, BytesRoom):
                room.give_up()

    def finish(self, decode: Callable[[Any], Any], check: Callable[[Any], None] | None) -> Any:
        """The value; the same each time."""
        if self._value is NOTHING:
            if self._what == framing.ENCODED:
                self._value = decode(self._rooms)
            else:
                self._value = self._rooms[0].finish() if self._what == framing.BYTES else self._rooms[0]
        if check is not None and self._what != framing.ENCODED:
            check(self._value)
        return self._value


class Incoming:
    """One incarnation of a channel, at its receiver."""

    __slots__ = (
        "_assembly", "_check_raw", "_decode", "_lock", "_reported", "_want", "_widened", "discarding", "ended", "filled", "granted",
        "incarnation", "mismatched", "name", "number", "peer", "queue", "received", "sender_type", "stated_type", "taken", "used",
        "values", "waiters", "window",
    )  # fmt: skip

    def __init__(self, peer: Peer, name: str, incarnation: int) -> None:
        self.peer = peer
        self.name = name
        self.incarnation = incarnation
        self.number: int | None = None
        self.queue: deque[tuple[int, Any, int]] = deque()
        self.values: deque[Any] = deque()
        self.received = self.taken = self._reported = 0
        self.window = self.granted = settings.WINDOW
        self.sender_type = self.stated_type = ""
        self.mismatched = False
        self.used = False
        self.discarding = False  # the receiving end of this incarnation is closed
        self.ended: BaseException | None = None  # what a recv raises after the last value
        self.waiters: list[Callable[[], None]] = []
        self.filled = 0
        self._assembly: Assembly | None = None
        self._want = 0
        self._widened = 0  # bytes of the budget
        self._lock = peer.lock  # one order of locks: what is taken may be reported in the same breath
        self._decode = peer.runtime.serializer.decode
        self._check_raw: Callable[[Any], None] | None = None

    def decode_by(self, codec: Codec | None) -> None:
        """The type of the values is known: they are decoded and checked as such. Before the first one."""
        if codec is not None:
            self._decode = codec.decode
            self._check_raw = codec.check

    # Taking

    def take(self) -> Any:
        """The next value, or NOTHING. It leaves the channel in the very step that returns it.

        Several threads may take at once. There is no lock: what is first is decoded, and taken by a commit if it still is
        first. A lock's release would be a call, after which a Ctrl-C could lose the value.

        Raises:
            ChannelError: There is no value, and none will come.
            SerializationError: The next value cannot be decoded; it is passed over.
        """
        queue = self.queue
        while True:
            values = self.values
            if values:
                value = values[0]
                del values[0]
                return value  # commit, from `if values` on
            if not queue:
                return self.take_none()
            if self.mismatched:
                raise self._mismatch()
            entry = queue[0]
            kind, payload, size = entry
            if kind == _RAW and self._check_raw is None:
                value = payload
            else:
                try:
                    if kind == LARGE:
                        value = payload.finish(self._decode, self._check_raw)
                    elif kind == _RAW:
                        value = payload
                        self._check_raw(value)  # type: ignore[misc]  # not None, see above
                    else:
                        value = self._decode((payload,))
                        if kind == _LIST:
                            more = deque(value)
                            value = more[0]
                except Exception as error:  # a plugin's, or its refusal
                    if queue and queue[0] is entry and not is_of_program(error):
                        del queue[0]
                        self.taken += size  # commit
                    blame_decode(self.peer.runtime.serializer, error)
            if self.taken + size - self._reported >= self.window >> 2:  # credit.is_due, written out
                self._report(size)
            if kind == _LIST:
                del more[0]
                if queue and queue[0] is entry and not self.values:
                    del queue[0]
                    self.values = more
                    self.taken += size
                    return value  # commit, from `if queue` on
            elif queue and queue[0] is entry and not self.values:
                del queue[0]
                self.taken += size
                return value  # commit, from `elif queue` on

    def take_none(self) -> Any:
        """Nothing is there: NOTHING, or the error that says why nothing will come. Asks for what the sender holds."""
        if self.mismatched:
            raise self._mismatch()
        if self._want > self.granted:
            self._grant(self._want, self.taken)
        if self.ended is not None and not self.queue:
            raise self.ended  # before the peer's end: closed is closed, however the process ended after that
        if self.peer.gone is not None and self._assembly is None and not self.queue:
            raise self.peer.error()
        if self.discarding:
            raise ChannelClosed(f"{self.describe()} from {self.peer.pid} has been closed at this end")
        return NOTHING

    def poll(self) -> bool:
        """Whether `take` would give a value or an error. What the driver asks between batches of frames."""
        return bool(
            self.queue
            or self.values
            or self._want > self.granted
            or self.ended is not None
            or self.peer.gone is not None
            or self.mismatched
            or self.discarding
        )

    def explain(self) -> str:
        """What a recv waits for."""
        which = f" on {self.name!r}" if self.name else ""
        return f"recv from {self.peer.pid}{which}"

    def need(self) -> Need:
        """Whose doing can end that."""
        return self.peer.pid.to_bytes()

    def give_back(self, value: Any) -> None:
        """A value that was taken for an operation that did not end: it is the next one again."""
        self.values.appendleft(value)

    def _mismatch(self) -> TypeMismatch:
        self.peer.refuse(self, self.stated_type)
        return TypeMismatch(self.sender_type, self.stated_type)

    def post(self) -> None:
        """A recv waits on this channel: connect, so that the end of the peer is seen."""
        self.used = True
        self.compare_types()
        self.peer.ensure_link()

    def compare_types(self) -> None:
        """Both ends may have stated a type now."""
        self.mismatched = bool(self.sender_type and self.stated_type and self.sender_type != self.stated_type)

    @property
    def is_over(self) -> bool:
        """Whether every value has been taken and none will come."""
        return not self.queue and not self.values and (self.ended is not None or self.peer.gone is not None)

    # Granting

    def _report(self, more: int = 0) -> None:
        """Tell the sender what has been taken, ``more`` included, and let it send as much again."""
        taken = self.taken + more
        if self.peer.runtime.is_drain_full:
            self.peer.runtime.drain_more()
        if self.ended is None and self.peer.gone is None:
            self._grant(taken + self.window, taken)
        else:
            self._reported = taken

    def _grant(self, total: int, taken: int) -> None:
        """Let the sender have sent ``total`` bytes; tell it what has been taken."""
        if self.number is None:
            return
        with self._lock:
            total = max(total, self.granted)
            wire = self.peer.back
            frame = (framing.encode_frame(framing.GRANT, self.number, framing.COUNTS.pack(total, taken)),)
            wire.out += frame
            self.granted = total
            self._reported = taken  # commit, from `wire.out` on
            wire.flush()

    def wanted(self, size: int, leaving: bool) -> None:
        """The sender holds ``size`` bytes that do not fit into what it was granted."""
        with self._lock:
            self._want = self.received + size
            runtime = self.peer.runtime
            if not self._widened and not self._widen(runtime.credit):
                # Not beyond the credit: what is taken is reported by the window, and a sender that waits for its credit
                # would not hear of it.
                self._widen(min(self._want - self.taken, runtime.credit))
            is_whole = self.taken + self.window < self._want and bool(
                self.waiters or (leaving and runtime.may_drain(self, self._want - self.taken))
            )
            total = credit.total_for(self._want, self.taken, self.window, is_whole)
            if total >= self._want or self.taken != self._reported or self._widened:
                self._grant(total, self.taken)
            # A driver that waits for this very channel looks again after each batch of frames, and grants then.

    def _widen(self, window: int) -> bool:
        """Take a wider window out of the budget, if that has room: for the whole credit, or for one value at least."""
        more = window - settings.WINDOW
        if more <= 0 or not self.peer.runtime.widen(more):
            return False
        self._widened = more
        self.window = window
        return True

    def drain(self) -> None:
        """The sender is leaving and was refused: there may be room for what it holds now."""
        with self._lock:
            if self._want > self.granted and self.peer.runtime.may_drain(self, self._want - self.taken):
                self._grant(self._want, self.taken)

    @property
    def may_come(self) -> int:
        """Bytes that are held here or were granted and may still come."""
        return 0 if self.is_over else self.granted - self.taken

    @property
    def is_live(self) -> bool:
        """Whether a receiving end uses this incarnation and more may come."""
        return self.used and self.ended is None and not self.discarding

    def lose_rest(self) -> None:
        """The peer is gone: what has arrived whole stays, the rest never comes."""
        self._give_up()
        self.settle()
        self.peer.reactor.touched += (self,)

    def _give_up(self) -> None:
        """The rest of a large value never comes."""
        assembly, self._assembly = self._assembly, None
        if assembly is not None:
            assembly.give_up()

    def settle(self) -> None:
        """Give the budget back: the channel is over."""
        if self._widened:
            self.peer.runtime.widen(-self._widened)
            self._widened = 0

    # Arriving

    def check(self) -> None:
        """After values have arrived: drop them if the receiver has closed; end a peer that sends more than granted."""
        if self.discarding:
            with self._lock:
                self.queue.clear()
                self.taken = self.received
        elif self.received > self.granted:
            raise framing.FrameError(f"{self.received} bytes in a channel that was granted {self.granted}")

    def begin_large(self, what: int, sizes: tuple[int, ...]) -> None:
        """A PARTS frame: take memory for what was granted."""
        total = sum(sizes)
        if self._assembly is not None:
            if self.filled == 0 and self._assembly.total == total:
                return  # the same frame again, after a Ctrl-C
            raise framing.FrameError("a large value inside another")
        if self.received + total > self.granted:
            raise framing.FrameError(
                f"a value of {total} bytes in a channel that was granted {self.granted - self.received}"
            )
        try:
            assembly = Assembly(self.peer, what, sizes)
        except (MemoryError, OverflowError, OSError) as error:
            raise framing.FrameError(f"a value of {total} bytes, for which there is no memory") from error
        self.filled = 0
        self._assembly = assembly
        self.received += total  # commit, from `filled` on

    def next_room(self, length: int) -> memoryview:
        """Where the next chunk belongs."""
        if self._assembly is None:
            raise framing.FrameError("a chunk without a layout before it")
        return self._assembly.room(self.filled, length)

    def filled_to(self, count: int) -> None:
        """``count`` bytes of the large value are in place."""
        assembly = self._assembly
        if assembly is None:
            return
        entry = ((LARGE, assembly, assembly.total),)
        if count < assembly.total:
            self.filled = count
            return
        self.filled = 0
        self._assembly = None
        self.queue += entry  # commit, from `filled` on
        if self.waiters:
            self.peer.reactor.touched += (self,)
        if self.discarding:
            self.check()

    def end(self) -> None:
        """The sender has closed this incarnation."""
        if self.ended is None:
            self.ended = ChannelClosed(f"the sender {self.peer.pid} has closed {self.describe()}")
        self._give_up()  # begun, and given up where this end has been closed
        self.settle()
        self.peer.reactor.touched += (self,)

    def discard(self) -> None:
        """The receiver has closed its end: what is here and what comes is dropped."""
        with self._lock:
            self.discarding = True
            self.queue.clear()
            self.values.clear()
            self.taken = self.received
            self.settle()
        self.peer.reactor.touch(self)  # a thread that waits for it

    def describe(self) -> str:
        """For messages."""
        return f"channel {self.name!r}" if self.name else "the channel"
