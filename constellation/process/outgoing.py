"""The sending half of one incarnation of a channel: what is accepted, and what may leave.

A value is *accepted* while the accepted bytes that the receiver has not taken are within the credit; it may *leave*
while the sent bytes are within what the receiver has granted (core/credit.py has both rules and their tests). What is
accepted and may not leave yet waits in `_queue`.

Three ways out, cheapest first:

* Combined: after a few quick sends in a row, exact scalars, short str and bytes, and small flat tuples of them are queued
  as they are (nobody can change them), flat dicts as a copy, and serialized as one list; other small values are
  serialized at once, and their frames leave together.
* Alone: one frame, written at once.
* Large: a layout and then chunks, written from where the value lies. A buffer that its owner could change makes the
  send wait until its last byte has left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from constellation.core import credit, framing, settings
from constellation.core.errors import ChannelClosed, TypeMismatch
from constellation.process.faults import blame_encode, is_of_program, words

if TYPE_CHECKING:
    from constellation.core.contracts import Buffer, Codec
    from constellation.process.peer import Peer
    from constellation.process.wire import Wire

SCALARS = frozenset((int, float, bool, type(None)))
SCALAR_BYTES = 16
"""What a scalar counts for: more than it takes in a pickled list, so that a lot has at most 4,096 of them."""
_HEADER = framing.HEADER
_INLINE = settings.INLINE
_QUICK = settings.QUICK
_COMBINE_AFTER = settings.COMBINE_AFTER
_COMBINE_ITEM = settings.COMBINE_ITEM
_COMBINE_BYTES = settings.COMBINE_BYTES
_COMBINE_TIME = settings.COMBINE_TIME
_COMBINE_ROOM = 4 * settings.COMBINE_BYTES
"""Combine only while so much may leave: the size of what is queued is an estimate."""

_FLAT_MEMBERS = 16

WAITS, QUEUED, STARTED, LEFT = range(4)


def _flat_size(kind: type, value: Any) -> int:
    """About how many bytes a small flat dict or tuple has; 0 where it is not flat: nobody can change its members."""
    if len(value) > _FLAT_MEMBERS:
        return 0
    size = 1
    for member in value.values() if kind is dict else value:
        its = type(member)
        if its is str or its is bytes:
            size += len(member)
        elif its not in SCALARS:
            return 0
    if kind is dict:
        for key in value:
            if type(key) is not str:
                return 0
            size += len(key)
    return size + SCALAR_BYTES * len(value)


class Large:
    """An encoded value that is not accepted at once, or does not fit into one frame."""

    __slots__ = ("_at", "_channel", "_part", "_parts", "awaited", "borrowed", "number", "size", "state", "what")

    def __init__(self, channel: Outgoing, what: int, parts: Sequence[Buffer], *, borrowed: bool) -> None:
        self._channel = channel
        self._parts = [memoryview(part).cast("B") for part in parts]
        self._part = self._at = 0
        self.what = what
        self.size = sum(map(len, self._parts))
        self.borrowed = borrowed
        self.awaited = False  # an operation has found it incomplete
        self.number: int = channel.number
        self.state = WAITS

    @property
    def at_end(self) -> bool:
        """Whether every piece has been given."""
        return self._part >= len(self._parts)

    @property
    def is_one_part(self) -> bool:
        """Whether it may travel as one frame; parts must arrive as parts."""
        return len(self._parts) == 1

    @property
    def sizes(self) -> list[int]:
        """The size of each part."""
        return [len(part) for part in self._parts]

    def give(self, out: deque[Buffer]) -> None:
        """Put the next chunk into ``out``. Moves on."""
        part, at = self._parts[self._part], self._at
        piece = part[at : at + settings.CHUNK]
        header = _HEADER.pack(len(piece), self.number, framing.CHUNK)
        number, at = self._part, at + len(piece)
        if at >= len(part):
            number, at = self._next_part(number + 1), 0
        out += (header, piece)
        self._part = number
        self._at = at  # commit, from `out` on

    def _next_part(self, number: int) -> int:
        while number < len(self._parts) and not len(self._parts[number]):
            number += 1
        return number

    def start(self) -> None:
        """The layout has been queued; chunks follow."""
        self._part = self._next_part(0)
        self.state = STARTED

    def own(self) -> None:
        """Copy what is borrowed: its owner goes on before the last byte has left."""
        if self.borrowed:
            self._parts = [memoryview(bytes(part)) for part in self._parts]
            # A chunk that is under way, too.
            wire = self._channel.peer.wire
            wire.out = deque([bytes(each) if type(each) is memoryview else each for each in wire.out])
            self.borrowed = False

    def whole(self) -> bytes:
        """All bytes, for a value that fits into one frame."""
        return b"".join(self._parts)

    def leave(self, bulk: deque[Large]) -> None:
        """Called by the wire when the last chunk has been written and this stands first in ``bulk``."""
        channel = self._channel
        del bulk[0]
        self.state = LEFT
        channel._current = None  # commit, from `del` on
        channel.follow()
        self._parts = []
        if self.awaited or channel.waiters:
            channel.reactor.touch(channel)


class Outgoing:
    """One incarnation of a channel, at its sender. What changes it holds the peer's lock."""

    __slots__ = (
        "_accepted", "_alone", "_combines", "_consumed", "_current", "_encode", "_granted", "_last", "_queue", "_room",
        "_sealing", "_sent", "_since", "_streak", "_turn", "_wanted", "closed", "combined", "incarnation", "is_told", "lock",
        "lot", "lot_ends", "name", "number", "over", "peer", "reactor", "stated_type", "waiters",
    )  # fmt: skip

    def __init__(self, peer: Peer, name: str, incarnation: int) -> None:
        self.peer = peer
        self.reactor = peer.reactor
        self.lock = peer.lock
        self.name = name
        self.incarnation = incarnation
        self.number: int = 0  # 0: not opened on the wire yet
        self.stated_type = ""
        self.closed = False  # by us
        self.over: BaseException | None = None  # what a send raises
        self.is_told = False  # an operation has raised it
        self.waiters: list[Callable[[], None]] = []
        self._encode = peer.runtime.serializer.encode
        self._combines = getattr(peer.runtime.serializer, "takes_all_plain", False)
        if hasattr(peer.runtime.serializer, "for_type"):
            self._combines = False  # a value that is checked is checked by itself, whatever this end states
        self._alone = True  # False while a send of a select is offered, by the thread that has the lock
        self._accepted = self._sent = self._consumed = 0
        self._granted = settings.WINDOW
        self._room = 0  # bytes that may be accepted and leave at once
        self._queue: deque[Large] = deque()  # accepted, may not leave yet
        self._current: Large | None = None
        self._wanted = 0
        self.combined: list[Any] = []
        self._sealing: list[Any] | None = None  # what is being serialized, should a Ctrl-C come
        self.lot = 0
        self.lot_ends = 0.0
        self._since = self._last = 0.0
        self._streak = 0
        self._turn = -1

    def encode_by(self, codec: Codec | None) -> None:
        """The type of the values is known: they are encoded as such. Before the first one."""
        if codec is not None:
            self._encode = codec.encode

    # Accepting

    def offer_one_of(self, value: Any) -> Large | None:
        """`offer` for a select: see `retry`."""
        with self.lock:
            self._alone = False
            try:
                return self.offer(value)
            finally:
                self._alone = True

    def offer(self, value: Any) -> Large | None:
        """Accept a value; None when that is done, else what must wait (see `retry`).

        Raises:
            ChannelError: The channel is over.
            SerializationError: The value cannot be encoded.
        """
        kind = type(value)
        now = perf_counter()
        reactor = self.reactor
        if reactor.turn == self._turn and now - self._last < _QUICK:
            self._streak += 1
        else:
            self._streak = 0
            self._turn = reactor.turn
        self._last = now
        if self._streak > _COMBINE_AFTER and self._combines:
            # Queued as it is? Only what nobody can change, and whose size is known without looking into it.
            if kind in SCALARS:
                size = SCALAR_BYTES
            elif kind is str or kind is bytes:
                size = len(value)
            elif kind is dict or kind is tuple:
                size = _flat_size(kind, value)
                if kind is dict and size:
                    value = value.copy()
            else:
                size = 0
            if not 0 < size <= _COMBINE_ITEM:
                return self._offer_encoded(kind, value, now)
            if size < self.lot and now < self.lot_ends:
                self.combined += (value,)
                self.lot -= size  # commit, from the look on
                return None
            with self.lock:
                if size >= self.lot or now >= self.lot_ends:
                    if self.combined:
                        self.peer.wire.release()
                        self._turn = reactor.turn
                    self._begin_lot(now)
                if size < self.lot:
                    self.combined += (value,)
                    self.lot -= size  # commit
                    return None
        return self._offer_encoded(kind, value, now)

    def _begin_lot(self, now: float) -> None:
        """Begin to combine, if so much may leave: `lot` is how many bytes may still be added until `lot_ends`.

        While `lot` is above zero the channel is open and in order, and a send may add to `combined` without a lock.
        """
        self.lot = 0
        lot = min(_COMBINE_BYTES, self._room - _COMBINE_ROOM)
        if lot > 0 and self.over is None and not self._queue and self._sealing is None:
            self.lot_ends = now + _COMBINE_TIME
            self._defer(self.peer.wire, True)
            self.lot = lot

    def _offer_encoded(self, kind: type, value: Any, now: float) -> Large | None:
        if kind is bytes:
            if len(value) > _COMBINE_ITEM:
                return self._offer_bytes(value)
        elif kind is bytearray or kind is memoryview:
            return self._offer_buffer(kind, value)
        buffers: Sequence[Buffer] | None = None
        try:
            buffers = self._encode(value)
            body = buffers[0]
            size = len(body)
        except Exception as error:  # a plugin's, or its refusal
            blame_encode(self.peer.runtime.serializer, error, buffers)
        if len(buffers) > 1 or size > _INLINE:
            return self._offer_large(framing.ENCODED, buffers)
        with self.lock:
            if self.combined or self._sealing is not None:
                self.seal()
            if size > self._room or self._queue or self._current is not None:
                return self._offer_slow(Large(self, framing.ENCODED, buffers, borrowed=False))
            try:
                frame = _HEADER.pack(size, self.number, framing.VALUE) + body
            except TypeError as error:
                blame_encode(self.peer.runtime.serializer, error, buffers)
            wire = self.peer.wire
            wire.out += (frame,)
            self._accepted += size
            self._sent += size
            self._room -= size  # commit, from `wire.out` on
            if self._streak > _COMBINE_AFTER and len(wire.out) < 64:
                if wire.deferred is False:
                    self._since = now
                    self._defer(wire, False)
                elif now - self._since > _COMBINE_TIME:
                    wire.release()
                    self._turn = self.reactor.turn
            elif len(wire.out) == 1 and wire.link is not None and not wire.sent:
                # `Wire.flush` written out for a frame that is alone: half of a round trip.
                try:
                    wire.sent += map(wire.link.send, (frame,))
                except OSError:
                    wire.flush()
                except Exception as error:  # a plugin's
                    wire.fail(error)
                    raise self._error() from error
                else:
                    if wire.sent[0] == len(frame):
                        del wire.out[0], wire.sent[0]  # commit
                    else:
                        wire.flush()
            else:
                wire.flush()
            return None

    def _offer_bytes(self, value: bytes) -> Large | None:
        """A message that is bytes: as it is, written from where it lies."""
        size = len(value)
        if size > _INLINE:
            return self._settle(Large(self, framing.BYTES, (value,), borrowed=False))
        with self.lock:
            if self.combined or self._sealing is not None:
                self.seal()
            if size > self._room or self._queue or self._current is not None:
                return self._offer_slow(Large(self, framing.BYTES, (value,), borrowed=False))
            wire = self.peer.wire
            wire.out += (_HEADER.pack(size, self.number, framing.RAW), value)
            self._accepted += size
            self._sent += size
            self._room -= size
            wire.flush()
            return None

    def _offer_buffer(self, kind: type, value: Any) -> Large | None:
        view = memoryview(value)
        if kind is memoryview and (not view.c_contiguous or view.format != "B"):
            view = memoryview(view.tobytes())
        small = view.nbytes <= _INLINE
        what = framing.BYTEARRAY if kind is bytearray else framing.MEMORYVIEW
        part = bytes(view) if small else view
        return self._settle(Large(self, what, (part,), borrowed=not small))

    def _offer_large(self, what: int, buffers: Sequence[Buffer]) -> Large | None:
        try:
            apart = sum(memoryview(buffer).nbytes for buffer in buffers[1:])
            borrowed = apart > _INLINE
            parts = buffers if borrowed or not apart else [buffers[0], *map(bytes, buffers[1:])]
            large = Large(self, what, parts, borrowed=borrowed)
        except TypeError as error:
            blame_encode(self.peer.runtime.serializer, error, buffers)
        return self._settle(large)

    def _settle(self, large: Large) -> Large | None:
        with self.lock:
            if self.combined or self._sealing is not None:
                self.seal()
            return self._offer_slow(large)

    def _offer_slow(self, large: Large) -> Large | None:
        return None if self.retry(large, alone=self._alone) else large

    def retry(self, large: Large, *, alone: bool = True) -> bool:
        """Try to accept what had to wait; True when its send is complete.

        Not ``alone``, it is one of a select's: what cannot complete in the step that accepts it is accepted only when it may
        leave at once, because from then on it cannot be taken back.

        Raises:
            ChannelError: The channel is over.
        """
        with self.lock:
            if large.state == LEFT:
                return True
            if self.over is not None:
                raise self._error()
            if large.state == WAITS:
                if self.closed:
                    raise self._error()
                self._open()
                size = large.size
                most = self.peer.runtime.credit
                if not credit.accepts(size, self._accepted, self._consumed, most):
                    return False
                large.number = self.number
                if size > most:
                    large.borrowed = True  # complete when it has left: more than the credit is never held for a sender
                if large.borrowed and not alone:
                    if self._queue or self._current is not None:
                        return False
                    if self._sent + size > self._granted:
                        self._ask_for(size)
                        self.peer.wire.flush()
                        return False
                self._queue += (large,)
                self._accepted += size
                large.state = QUEUED
                self._room = 0  # commit, from `_queue` on
                self._pump()
            large.awaited = large.borrowed and large.state != LEFT
            return not large.awaited

    def withdraw(self, large: Large) -> bool:
        """Take back a send that has not completed. False when it has begun to leave: it is then accepted, as a copy."""
        with self.lock:
            if large.state == WAITS or self.over is not None:
                return True
            if large.state == QUEUED and large.borrowed:
                self._queue.remove(large)
                self._accepted -= large.size
                large.state = WAITS
                self._pump()
                self.reactor.touch(self)  # another that waits for credit may go on
                return True
            large.own()
            return False

    def keep(self) -> None:
        """An exception came into a send: what it has accepted leaves as it is now, and soon."""
        with self.lock:
            if self._current is not None:
                self._current.own()
            for large in self._queue:
                large.own()
        self.reactor.rouse()

    def seal(self) -> None:
        """Serialize the combined values as one frame. The lock must be held."""
        while True:
            values = self._sealing
            if values is None:
                values = self.combined
                if not values:
                    self.lot = 0  # commit, from `values` on: nothing more may join a lot that nobody will seal
                    return
                self._sealing = values
                self.combined = []
                self.lot = (
                    0  # commit, from `_sealing` on: what is added without a lock goes into the new list, or nowhere
                )
            try:
                body = self._encode(values)[0]
                size = len(body)
                is_one = size <= settings.LARGEST_FRAME and size <= self._room
                frame = _HEADER.pack(size, self.number, framing.LIST) + body if is_one else b""
                singles = deque(
                    [Large(self, framing.ENCODED, self._encode(value), borrowed=False) for value in values]
                    if not is_one
                    else ()
                )
            except Exception as error:  # a plugin's, that has stated that it takes all of these
                self._cannot_seal(error)
                return
            if not is_one:  # a few huge ints: one by one then
                # They have been accepted, whatever the credit says now.
                size = 0
                for single in singles:
                    single.state = QUEUED
                    size += single.size
                self._queue += singles
                self._accepted += size
                self._room = 0
                self._sealing = None  # commit, from `_queue` on
                self._pump()
                continue
            self.peer.wire.out += (frame,)
            self._accepted += size
            self._sent += size
            self._room -= size
            self._sealing = None  # commit, from `out` on

    def _cannot_seal(self, error: Exception) -> None:
        """Values that have been accepted cannot be encoded: nobody may take the rest of the stream for all of it."""
        if is_of_program(error):
            raise error
        name = self.peer.runtime.serializer.name
        self.peer.on_failed(f"serializer {name!r} takes all plain values, as it states, and {words(error)}, in encode")

    def _defer(self, wire: Wire, combined: bool) -> None:
        if wire.deferred is False:
            wire.deferred = [self] if combined else []
            self.reactor.defer(wire)
            self._turn = self.reactor.turn
        elif combined:
            wire.deferred.append(self)  # type: ignore[union-attr]  # True is never stored

    # Leaving

    def _open(self) -> None:
        """Give the channel its number on the wire."""
        if not self.number:
            self.number = self.peer.open_outgoing(self)
            self._update_room()

    def _pump(self) -> None:
        """Let leave what may. The lock must be held."""
        self._line_up()
        self.peer.wire.flush()
        self._update_room()
        self._close_when_drained()

    def _line_up(self) -> None:
        """Give to the wire what may leave, for its next flush."""
        queue, wire = self._queue, self.peer.wire
        while queue and self._current is None:
            large = queue[0]
            size = large.size
            if self._sent + size > self._granted:
                self._ask_for(size)
                return
            if size <= _INLINE and large.what <= framing.BYTES and large.is_one_part:
                kind = framing.RAW if large.what == framing.BYTES else framing.VALUE
                frame = _HEADER.pack(size, self.number, kind) + large.whole()
                large.state = LEFT
                self._sent += size
                del queue[0]
                wire.out += (frame,)  # commit, from `state` on
            else:
                layout = framing.encode_parts(self.number, large.what, large.sizes)
                if not size:  # the value is whole with its last chunk, which is taken in by one commit, unlike a layout
                    layout += framing.encode_frame(framing.CHUNK, self.number)
                large.start()
                self._current = large
                self._sent += size
                del queue[0]
                wire.out += (layout,)
                wire.bulk += (large,)  # commit, from `_current` on

    def _ask_for(self, size: int) -> None:
        """Tell the receiver, once, that so many bytes wait; all that do, where the process is leaving."""
        if self._wanted != self._sent + size:
            leaving, wire = self.peer.runtime.leaving, self.peer.wire
            wanted = framing.WANTED.pack(sum(large.size for large in self._queue) if leaving else size, leaving)
            frame = _HEADER.pack(len(wanted), self.number, framing.WANT) + wanted
            wire.out += (frame,)
            self._wanted = self._sent + size  # commit, from `wire.out` on

    def want_again(self) -> None:
        """The process is leaving: ask for all that is still held."""
        with self.lock:
            self._wanted = 0
            self._pump()

    def follow(self) -> None:
        """After a large value has left, inside of the flush that wrote it: line up what comes next, which it writes too.

        Not by a flush of its own, which would come here again for each value that waits.
        """
        self._line_up()
        self._update_room()
        self._close_when_drained()

    def go_on(self) -> None:
        """Let leave what may now, after an exception came into the middle. With the lock."""
        if self._queue:
            self._pump()
        else:
            self._update_room()
            self._close_when_drained()

    def _update_room(self) -> None:
        if self.over is not None or self.closed or self._queue or self._current is not None or not self.number:
            self._room = 0
        else:
            most = self.peer.runtime.credit
            self._room = credit.room(self._accepted, self._sent, self._consumed, self._granted, most)

    def granted(self, total: int, consumed: int) -> None:
        """A GRANT frame has come."""
        with self.lock:
            self._granted = max(self._granted, total)
            self._consumed = max(self._consumed, min(consumed, self._sent))
            if self._queue:
                self._pump()
            self._update_room()
        if self.waiters:
            self.reactor.touched += (self,)

    @property
    def is_drained(self) -> bool:
        """Whether all that was accepted has been given to the wire, or nobody will take it."""
        return self.over is not None or not (self._queue or self.combined or self._sealing or self._current)

    @property
    def held(self) -> int:
        """Bytes that have been accepted and have not begun to leave, about; of a large value that is leaving all."""
        current = self._current
        return max(0, self._accepted - self._sent) + (0 if current is None else current.size)

    @property
    def accepted(self) -> int:
        """Bytes that have been accepted, about."""
        return self._accepted

    # Ending

    def refused(self, receiver_type: str) -> None:
        """The receiver has closed its end, or states another type."""
        if receiver_type:
            error: BaseException = TypeMismatch(self.stated_type, receiver_type)
        else:
            error = ChannelClosed(f"the receiver {self.peer.pid} has closed {self.describe()}")
        self.finish(error)

    def finish(self, error: BaseException) -> None:
        """No send will succeed any more."""
        with self.lock:
            if self.over is None:
                self.over = error
            self._room = 0
            self._queue.clear()
            self._accepted += SCALAR_BYTES * len(self.combined)
            self.combined = []
            self._sealing = None
            self.lot = 0
            if self._current is not None and self._current in self.peer.wire.bulk:
                self.peer.wire.bulk.remove(self._current)  # the rest of it interests nobody
            self._current = None
        self.reactor.touched += (self,)

    def close(self) -> None:
        """Say that no value follows."""
        with self.lock:
            if self.closed:
                return
            if self.combined or self._sealing is not None:
                self.seal()
            self.closed = True
            self._room = 0
            self._close_when_drained()

    def _close_when_drained(self) -> None:
        if self.closed and self.over is None and not self._queue and self._current is None:
            self.peer.close_outgoing(self)

    def prepare(self) -> None:
        """First use: open the channel and look whether it is over.

        Raises:
            ChannelError: It is.
        """
        with self.lock:
            if self.over is not None:
                raise self._error()
            self._open()

    def _error(self) -> BaseException:
        if self.over is not None:
            self.is_told = True
            return self.over
        return ChannelClosed(f"{self.describe()} to {self.peer.pid} has been closed at this end")

    def describe(self) -> str:
        """For messages."""
        return f"channel {self.name!r}" if self.name else "the channel"
