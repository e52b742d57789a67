"""One link with its frames: what is queued to be written, and the straight loop that reads.

`core/framing.py` has the format and the reference decoder. This file is the hot path: it is written out straight, and
says where a choice is for speed. See `process/reactor.py` for the rule behind the lines marked ``# commit``.

Writing. `out` holds buffers in order; `flush` writes them until the socket is busy. Large values stand in `bulk` and
give one chunk whenever `out` has run empty, in turn, so that they never stand before another channel's message.

Reading. Small frames are cut out of one read of up to `READ`; the body of a chunk is read straight into its place.
"""

from __future__ import annotations

import select
from collections import deque
from typing import TYPE_CHECKING, Any

from constellation.core import framing
from constellation.core.linklife import LinkLife
from constellation.process.alarm import Alarm
from constellation.process.control import Blocked
from constellation.process.faults import is_of_program, words
from constellation.process.reactor import EPOLLIN, EPOLLOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from constellation.core.contracts import Buffer, Link
    from constellation.process.incoming import Incoming
    from constellation.process.outgoing import Large, Outgoing
    from constellation.process.peer import Peer
    from constellation.process.reactor import Reactor

READ = 128 << 10
_READ = (READ,)
_READ_HEADER = (framing.HEADER_BYTES,)
_HEADER = framing.HEADER
_HEADER_BYTES = framing.HEADER_BYTES
_CHUNK = framing.CHUNK
_JOIN_BELOW = 16 << 10
_GATHER = 256
_MOST_READS = 10_000
"""A drain ends by itself: this is for a plugin whose descriptor is readable for ever."""


class _WrongAnswer(Exception):
    """A method of a link has returned what its contract does not allow."""


class Wire:
    """One link of a peer. All that writes holds `lock`; all that reads holds the reactor's role."""

    __slots__ = (
        "_alarm", "_body", "_body_of", "_counts", "_data", "_got", "_left", "_pending", "_pos", "_refusal", "_until",
        "_waits_to_read", "_wants_write", "_watched", "bulk", "cut", "deferred", "fd", "is_far", "life", "link", "lock",
        "number", "out", "peer", "reactor", "sent",
    )  # fmt: skip

    def __init__(self, peer: Peer, reactor: Reactor) -> None:
        self.peer = peer
        self.reactor = reactor
        self.lock = peer.lock
        self.link: Link | None = None
        self.fd = -1
        self.number = 0
        self.is_far = False  # to another computer
        self.cut = ""  # what reading has raised, where it has ended so: nobody has closed it
        self.out: deque[Buffer] = deque()
        self.bulk: deque[Large] = deque()
        self.deferred: list[Outgoing] | bool = False
        self.life = LinkLife()
        self.sent: list[int] = []
        self._got: list[bytes] = []
        self._pending: Callable[[], bool] | None = None  # asks for what the descriptor does not tell of
        self._waits_to_read: Callable[[], bool] | None = None  # asks whether a write waits for something to read
        self._wants_write = False
        self._watched = EPOLLIN
        self._alarm: Alarm | None = None
        self._refusal: OSError | None = None  # what a write has raised
        self._data = b""
        self._pos = 0
        self._body: memoryview | None = None
        self._body_of: Incoming | None = None
        self._left = 0
        self._until = 0
        self._counts: list[int] = []

    def open(self, link: Link, number: int) -> None:
        """The node has made the link: begin to read and write."""
        with self.lock:
            fd = link.fileno()
            self._pending = getattr(link, "pending", None)
            self._waits_to_read = getattr(link, "waits_to_read", None)
            with Blocked():
                self.link, self.number, self.fd = link, number, fd
                self.reactor.watch(fd, self)
            self.flush()

    def close(self) -> None:
        """Give the link back; the wire is of no further use."""
        # As a whole: a link that is there and not watched would never be seen to end.
        with self.lock, Blocked():
            link = self.link
            if link is not None:
                self.reactor.forget(self.fd)
                self.link = None
                self._body = self._body_of = None
                if self._alarm is not None:
                    self._alarm.close()
                try:
                    link.close()
                except Exception as error:  # a plugin's; there is nothing more to lose
                    if is_of_program(error):
                        raise

    def fail(self, error: Exception) -> None:
        """The transport has raised what it may not, or answered so: the link is lost. A signal handler's goes on."""
        if is_of_program(error):
            raise error
        what = str(error) if isinstance(error, _WrongAnswer) else words(error)
        self.peer.on_failed(f"transport {self.peer.runtime.transport.name!r}: {what}")

    # Writing

    def put(self, *buffers: Buffer) -> None:
        """Queue buffers and write what the socket takes."""
        with self.lock:
            self.out += buffers  # commit
            self.flush()

    def release(self) -> None:
        """Write out what was deferred, combined values included."""
        with self.lock:
            if self.deferred:
                for channel in self.deferred:  # type: ignore[union-attr]  # True is never stored
                    channel.seal()
            self.deferred = False
            self.flush()

    def flush(self) -> None:
        """Write until all has left or the socket is busy. The lock must be held."""
        link, sent = self.link, self.sent
        if link is None:
            return
        try:
            while True:
                if sent:  # also after a Ctrl-C that came between the call and what follows it
                    self._account(sent[0])
                out = self.out  # anew: accounting replaces it, and so does a flush inside `_next_chunk`
                if not out:
                    if not self.bulk:
                        break
                    self._next_chunk()
                    continue
                count = len(out)
                if count == 1:
                    sent += map(link.send, (out[0],))
                elif count > 2 and len(out[0]) < _JOIN_BELOW and len(out[1]) < _JOIN_BELOW:
                    # Many small frames: one copy is cheaper than a long gather list.
                    joined: deque[Buffer] = deque((b"".join(out),))
                    self.out = joined  # commit
                else:
                    sent += map(link.send_many, ([out[at] for at in range(min(count, _GATHER))],))
        except BlockingIOError:
            # First this: who reads looks at it after what it has read, and what that has brought is asked for after this.
            self._wants_write = True
            self._await_room()
            return
        except OSError as error:
            if is_of_program(error):
                raise
            # The peer is gone. What it had written before can still be read; the reader sees the end.
            self.out.clear()
            self.bulk.clear()
            sent.clear()
            self._refusal = error
            self._watch(EPOLLIN | EPOLLOUT)  # look once, whether the reader really does
            return
        except Exception as error:  # a plugin's
            self.fail(error)
            return
        if self._wants_write:
            self._wants_write = False
            self._watch(EPOLLIN)
            if self._alarm is not None:
                with Blocked():
                    self._alarm.close()
                    self._alarm = None

    def _await_room(self) -> None:
        """Have what is unsent tried again: when there is room, or during a handshake when something has come."""
        events = EPOLLIN | EPOLLOUT
        waits = self._waits_to_read
        if waits is not None:
            try:
                if waits():
                    if self._alarm is None:
                        with Blocked():
                            self._alarm = Alarm(self.reactor, self)
                    events = EPOLLIN
            except OSError as error:
                if is_of_program(error):
                    raise
                # No descriptor for the clock: the socket has room, so that the link is looked at all the time.
            except Exception as error:  # a plugin's
                self.fail(error)
                return
        if events != self._watched:
            self._watch(events)

    def _watch(self, events: int) -> None:
        self._watched = events
        try:
            self.reactor.epoll.modify(self.fd, events)
        except FileNotFoundError:
            pass  # not yet watched, or no longer: a handler's exception came in between, and whoever it was goes on

    def _account(self, count: int) -> None:
        """Take ``count`` written bytes off the front of `out`."""
        out, sent = self.out, self.sent
        if count == len(out[0]):
            del out[0], sent[0]  # commit
            return
        if type(count) is not int or not 0 < count <= sum(map(len, out)):
            raise _WrongAnswer(f"send returned {count!r}: expected the number of bytes that it has taken")
        left = deque(out)
        while left and count >= len(left[0]):
            count -= len(left.popleft())
        if count:
            left[0] = memoryview(left[0])[count:]
        self.out = left  # commit
        del sent[0]

    def _next_chunk(self) -> None:
        """Put the next chunk of the large value whose turn it is into `out`; tell a value that it has left."""
        large = self.bulk[0]
        if large.at_end:
            large.leave(self.bulk)
        else:
            large.give(self.out)
            if not large.at_end:  # else it is told as soon as this chunk has left, and not after another's
                self.bulk.rotate(-1)

    # Reading

    def on_ready(self, events: int) -> None:
        """Read, and write if the socket was busy."""
        if events & EPOLLOUT:
            with self.lock:
                self.flush()
            if events == EPOLLOUT and self._refusal is None:
                return
        if self._read() and self._pending is not None:
            self._read_pending()
        if self._wants_write and self._watched == EPOLLIN:
            with self.lock:
                self.flush()

    def _read_pending(self) -> None:
        """Read what the link holds and its descriptor does not tell of: nothing else would wake anybody for it."""
        pending = self._pending
        assert pending is not None
        while self.link is not None:
            try:
                more = pending()
            except Exception as error:  # a plugin's
                self.fail(error)
                return
            if not more or not self._read():
                return

    def _read(self) -> bool:
        """Read once, and take in what has come. False when there is nothing now, or nothing more."""
        link, got = self.link, self._got
        if link is None:
            return False
        try:
            if self._body is not None:
                if self._read_body(link):
                    return False
                size = _READ_HEADER  # most likely the next chunk's: do not copy that one's body twice
            else:
                size = _READ
            got += map(link.receive, size)
        except BlockingIOError:
            if self._refusal is not None:  # ended for writing and not for reading: nobody would ever hear of it
                self.fail(self._refusal)
            return False
        except OSError as error:
            if is_of_program(error):
                raise
            self.cut = _how_cut(error)
            got += (b"",)
        except Exception as error:  # a plugin's
            self.fail(error)
            return False
        self._take_in_checked()
        return True

    def _take_in_checked(self) -> None:
        try:
            self._take_in()
        except framing.FrameError as error:
            self.peer.on_broken(error)
        except _WrongAnswer as error:
            self.fail(error)

    def resume(self) -> None:
        """After an exception of a signal handler: write what was queued, and take in what had been read."""
        self.release()
        self.peer.resume()
        if self.link is None:
            return
        try:
            if self._body is not None and self._read_body(self.link):
                return
        except BlockingIOError:
            return
        except OSError as error:
            if is_of_program(error):
                raise
            self.cut = _how_cut(error)
            self._got += (b"",)
        except Exception as error:  # a plugin's
            self.fail(error)
            return
        self._take_in_checked()
        if self._pending is not None:
            self._read_pending()

    def drain(self) -> None:
        """Take in what has come. The role is held; the peer writes no more."""
        ready = select.poll()
        for _ in range(_MOST_READS):
            if self.link is None:
                return
            ready.register(self.fd, select.POLLIN)
            if not ready.poll(0):
                return
            self.on_ready(EPOLLIN)

    def _read_body(self, link: Link) -> bool:
        """Read into the chunk that is under way. False when it is whole."""
        body, counts = self._body, self._counts
        assert body is not None
        while True:
            if counts:
                count = counts[0]
                if type(count) is not int or not 0 <= count <= self._left:
                    raise _WrongAnswer(f"receive_into returned {count!r}: expected 0 to {self._left}")
                if not count:
                    self._got += (b"",)
                    self._body = None
                    self._take_in()
                    return True
                self._left -= count
                del counts[0]  # commit, from `_left` on
            if not self._left:
                break
            counts += map(link.receive_into, (body[len(body) - self._left :],))
        self._finish_chunk()
        return False

    def _finish_chunk(self) -> None:
        channel = self._body_of
        assert channel is not None
        channel.filled_to(self._until)  # does nothing the second time, should a Ctrl-C come before the next line
        self._body = self._body_of = None

    def _take_in(self) -> None:
        """Handle what has been read: the straight loop. A frame is taken in by one commit, so an exception costs none."""
        got = self._got
        while got:
            data = got[0]
            if type(data) is not bytes:
                raise _WrongAnswer(f"receive returned {data!r:.100}: expected bytes")
            if not data:
                self.peer.on_end(self)
                del got[:1]
                return
            if self._pos < len(self._data):
                data = self._data[self._pos :] + data
            self._data = data
            self._pos = 0
            del got[0]  # commit, from `data` on
        data, pos = self._data, self._pos
        end = len(data)
        channels = self.peer.incoming_by_number
        unpack = _HEADER.unpack_from
        while end - pos >= _HEADER_BYTES:
            length, number, kind = unpack(data, pos)
            start = pos + _HEADER_BYTES
            stop = start + length
            if kind <= framing.RAW:
                if stop > end:
                    framing.check_header(length, kind)
                    break
                channel = channels.get(number)
                if channel is None:
                    raise framing.FrameError(f"a value for channel {number}, which was never opened")
                entry = ((kind, data[start:stop], length),)
                channel.queue += entry
                channel.received += length
                if channel.waiters:
                    self.reactor.touched += (channel,)
                self._pos = pos = stop  # commit, from `channel.queue` on
                if channel.received > channel.granted or channel.discarding:
                    channel.check()
            elif kind == _CHUNK:
                channel = channels.get(number)
                framing.check_header(length, kind)
                if channel is None:
                    raise framing.FrameError(f"a chunk for channel {number}, which was never opened")
                self._begin_chunk(channel, data, start, min(stop, end), length)
                pos = self._pos
                if self._body is not None:
                    break
            else:
                framing.check_header(length, kind)
                if stop > end:
                    break
                # The frame is handled before it is passed over: each handler may be run twice (peer.py).
                self.peer.on_frame(self, kind, number, data[start:stop])
                self._pos = pos = stop
                if self.link is None:
                    return
        if pos >= end:
            self._data = b""
            self._pos = 0

    def _begin_chunk(self, channel: Incoming, data: bytes, start: int, stop: int, length: int) -> None:
        """Copy what has come of a chunk to its place; read the rest straight into it."""
        place = channel.next_room(length)
        have = stop - start
        if have:
            place[:have] = memoryview(data)[start:stop]
        self._until = channel.filled + length
        self._left = length - have
        self._body = place
        self._body_of = channel
        self._pos = stop  # commit, from `_until` on
        if have == length:
            self._finish_chunk()

    def describe(self) -> dict[str, Any]:
        """For messages about why a process waits."""
        return {"fd": self.fd, "unsent": len(self.out) + len(self.bulk), "number": self.number}


def _how_cut(error: OSError) -> str:
    """How a link has ended that nobody has closed, in words; never empty."""
    text = error.strerror or str(error) or type(error).__name__
    return "it has ended without being closed" if "EOF" in text else text  # OpenSSL's words help nobody
