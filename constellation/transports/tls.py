"""A link over TCP with TLS, for the default transport.

OpenSSL works on memory here, and this file moves the bytes, so that a Ctrl-C loses none. Python's `ssl` runs signal handlers
inside of its calls, after OpenSSL has done its work and before the result is given: what was decrypted, or whether something
was encrypted, is then lost with the call. But it can be found out. What was encrypted lies in the outgoing memory; what was
decrypted lies in a buffer of ours, and how much it is the record's header says: so records are handed over one by one.

All other results are stored by C code before Python can run (``results += map(call, arguments)``) and accounted for by lines
without a call, marked ``# commit``. Arguments that a handler could make stale, by using the link itself, stand in lists
that are read when the call is made.

What `send` has told of is in the kernel. Small buffers share records, records share writes, and one read takes many
records: it is as fast as OpenSSL on the socket, which makes two calls to read each record.

OpenSSL's objects stand no two threads at once: one lock for each link.
"""

from __future__ import annotations

import _thread
import errno
import os
import socket
import ssl
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from constellation.core.contracts import Buffer

HANDSHAKE_TIME: Final = 10.0
"""Seconds that a handshake may take."""

RECORD: Final = 16 << 10
"""The most that one record carries (RFC 8446, 5.1)."""

MOST_AT_ONCE: Final = 64 << 10
"""What one call encrypts and writes. More would be memory that malloc maps anew for each call, which costs twice the time."""

_READ = 64 << 10
"""How much is read at a time where there is much."""
_ALL = (1 << 20,)
_HEADER = 5
_OVERHEAD = 17
"""Of an encrypted record, beside its header: the tag, and the byte that says what kind of record it is."""
_LARGEST = RECORD + 256
"""The most that a header may announce (RFC 8446, 5.2)."""
_FIRST_KIND, _LAST_KIND = 20, 23
_MOST_INTO = 256 << 10
"""What one call decrypts to somebody's memory."""
_DIRECT = 1 << 10
"""Records from so many bytes on are decrypted into their place."""
_MARKED = slice(0, 16)
_MARK = os.urandom(16)
"""Is put where a record is about to be decrypted to: it is still there when the record had no data for us."""


class TlsLink:
    """One side of an encrypted link.

    Args:
        sock: Connected; taken over.
        context: What accepts the other side.
        server: Whether this side was dialled.
    """

    __slots__ = (
        "_ahead", "_base", "_closed", "_counts", "_decrypt", "_drain", "_encrypt", "_feed", "_feeds", "_filled", "_got",
        "_in", "_known", "_leaving", "_lock", "_out", "_raw", "_reads", "_record", "_recv_into", "_room", "_scratch", "_send",
        "_sent", "_sock", "_start", "_stop", "_tls", "_to_encrypt", "_to_feed", "_to_read", "_until", "_view", "_wrote",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server: bool) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._send, self._recv_into = sock.send, sock.recv_into
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._feed, self._drain = self._in.write, self._out.read
        self._tls = context.wrap_bio(self._in, self._out, server)
        # SSLObject's own methods are written in Python: a result could be lost in them.
        plain: Any = self._tls._sslobj  # type: ignore[attr-defined]  # there, with these methods, since Python 3.7
        self._encrypt, self._decrypt = plain.write, plain.read
        self._lock = _thread.RLock()  # a handler of a signal may come back to the same link
        self._until: float | None = time.monotonic() + HANDSHAKE_TIME  # None: the handshake is over
        self._closed = False
        # Writing, in the order of the way out.
        self._to_encrypt: list[Buffer] = []
        self._wrote: list[int] = []
        self._leaving: list[bytes] = []  # one at most, out of `_out`: what the kernel has not yet taken
        self._sent: list[int] = []  # how much of it the kernel has taken now
        self._known: int | None = 0  # the caller's bytes in what is on its way; None: to be seen from the records
        self._ahead = 0  # the caller's bytes that are in the kernel and have not been told
        # Reading, in the order of the way in.
        self._raw = bytearray(_HEADER + _LARGEST)  # what has come and was not given to OpenSSL: from
        self._start = self._stop = 0  # here to there
        self._room = memoryview(self._raw)
        self._to_read: list[memoryview] = []
        self._reads: list[int] = []
        self._to_feed: list[memoryview] = []
        self._feeds: list[int] = []
        self._record = 0  # length of the record that OpenSSL has been given
        self._scratch = memoryview(bytearray(_LARGEST))
        self._view = self._scratch  # where it is decrypted to
        self._counts: list[int] = []  # how much came of it; 0: the end
        self._base: memoryview | None = None  # where several records are decrypted to
        self._filled = 0  # how much of that is there
        self._got: list[bytes] = []  # decrypted, and not yet given out
        if not server:
            try:
                self._shake_hands()  # the client's hello: else two that only wait to read would wait for ever
            except OSError:
                pass  # there is no answer yet; or the path is broken, which the next call shows

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def pending(self) -> bool:
        """Whether there is something to read that the descriptor does not tell of."""
        if self._got or self._counts or self._record or self._reads or self._filled:
            return True
        start = self._start
        have = self._stop - start
        return have >= _HEADER and have >= _HEADER + (self._raw[start + 3] << 8 | self._raw[start + 4])

    def waits_to_read(self) -> bool:
        """Whether `send` waits for the other side's part of the handshake."""
        return self._until is not None and not (self._leaving or self._out.pending)

    # Writing

    def send(self, data: Buffer) -> int:
        """Encrypt and write the first bytes of ``data``."""
        if len(data) <= RECORD:
            return self._put((data,), len(data))
        view = memoryview(data)[:MOST_AT_ONCE]
        return self._put([view[at : at + RECORD] for at in range(0, len(view), RECORD)], len(view))

    def send_many(self, buffers: Sequence[Buffer]) -> int:
        """Encrypt and write the first bytes of all buffers; small ones share a record."""
        records = records_of(buffers)
        return self._put(records, sum(map(len, records)))

    def _put(self, records: Sequence[Buffer], size: int) -> int:
        """Send records, or finish what an earlier call has begun: it is what the caller's bytes begin with.

        Args:
            records: Of the caller's bytes.
            size: How many these are: maybe fewer than were begun with.
        """
        with self._lock:
            if self._until is not None:
                self._shake_hands()
            leaving = self._leaving
            if not (leaving or self._ahead or self._out.pending):
                wrote, todo = self._wrote, self._to_encrypt
                self._known = None
                del wrote[:]
                todo[:] = records
                wrote += map(self._encrypt, todo)
                if wrote:
                    leaving += map(self._drain, _ALL)
                    self._known = size
                del todo[:]
            try:
                self._flush()
            except BlockingIOError:
                pass
        ahead = self._ahead
        if not ahead:
            raise BlockingIOError(errno.EAGAIN, "there is no room")
        if ahead > size:
            self._ahead = ahead - size  # commit
            return size
        self._ahead = 0  # commit
        return ahead

    def _flush(self) -> None:
        """Write what is encrypted; the lock must be held.

        Raises:
            BlockingIOError: There is no room for all of it.
        """
        sent, leaving = self._sent, self._leaving
        while True:
            if not sent:
                if not leaving:
                    if not self._out.pending:
                        return
                    leaving += map(self._drain, _ALL)
                if self._known is None and leaving:
                    self._known = data_in(leaving[0])
                sent += map(self._send, leaving)
            first = leaving[0] if leaving else b""
            length = len(first)
            if not sent or not leaving or leaving[0] is not first:
                continue  # a signal handler has written meanwhile
            if sent[0] < length:
                leaving[0] = first[sent[0] :]
                del sent[0]  # commit, from `leaving` on
            else:
                self._ahead += self._known or 0
                self._known = 0
                del leaving[0], sent[0]  # commit, from `_ahead` on

    # Reading

    def receive(self, size: int) -> bytes:
        """Decrypt the next record, or give the rest of one."""
        got = self._got
        if not got:
            with self._lock:
                self._fill()
            if not got:
                if self._counts:
                    return b""  # the end, each time
                raise BlockingIOError(errno.EAGAIN, "a signal handler has read meanwhile")
        data = got[0]
        if len(data) > size:
            part = data[:size]
            got[0] = data[size:]  # commit
            return part
        del got[0]  # commit
        return data

    def receive_into(self, view: memoryview) -> int:
        """Decrypt the next records into ``view``, or give the rest of one."""
        got = self._got
        if not got:
            with self._lock:
                if self._filled:
                    self._fill()
                elif len(view) >= _DIRECT:
                    self._fill_view(view)
                if not self._filled and not got:
                    self._fill()
            if self._filled and self._base is view:
                count = self._filled
                self._base = None
                self._filled = 0  # commit, from `_base` on
                return count
            if not got:
                if self._counts:
                    return 0  # the end, each time
                raise BlockingIOError(errno.EAGAIN, "a signal handler has read meanwhile")
        data = got[0]
        count = min(len(data), len(view))
        view[:count] = data[:count]
        got[:1] = (data[count:],) if count < len(data) else ()  # commit
        return count

    def _fill(self) -> None:
        """Decrypt the next record and keep it, at the end keep nothing; the lock must be held."""
        if self._filled:
            # A Ctrl-C came before it was told that so much had been decrypted to somebody's memory.
            assert self._base is not None
            data = bytes(self._base[: self._filled])
            if self._filled:
                self._got += (data,)
                self._base = None
                self._filled = 0  # commit, from `_got` on
            return
        view = self._pull(None)
        counts = self._counts
        data = bytes(view[: counts[0]]) if counts else b""
        if data and counts:
            self._got += (data,)
            self._view = self._scratch
            self._record = 0
            del counts[0]  # commit, from `_got` on

    def _fill_view(self, view: memoryview) -> None:
        """Decrypt into ``view`` as many records as are there and fit; the lock must be held.

        Raises:
            OSError: As `_pull`, where there is none.
        """
        counts, most = self._counts, min(len(view), _MOST_INTO)
        self._base = view
        while True:
            place = view[self._filled :]
            try:
                if self._pull(place) is not place or not counts or not counts[0]:
                    return  # a small one, or the end: for `_fill`
            except OSError:
                if not self._filled:
                    raise
                return  # the next call finds it again
            self._filled += counts[0]
            self._view = self._scratch
            self._record = 0
            del counts[0]  # commit, from `_filled` on
            if self._filled + _DIRECT > most:
                return

    def _pull(self, into: memoryview | None) -> memoryview:
        """Decrypt the next record that has data for us; the lock must be held.

        Args:
            into: Where to, if it fits; else to the link's own memory.

        Returns:
            Where it lies, which is elsewhere after an earlier call was interrupted; `_counts` has how much it is.
        """
        counts = self._counts
        while not counts:
            if self._until is not None:
                self._shake_hands()
            if not self._record:
                self._next_record()
                continue
            if self._in.pending:
                size = self._record - _OVERHEAD
                place = into if into is not None and _DIRECT <= size <= len(into) else self._scratch
                place[_MARKED] = _MARK
                self._view = place
                try:
                    counts += map(self._decrypt, _ALL, (place,))
                except ssl.SSLWantReadError:
                    self._record = 0  # one that was for OpenSSL itself
            elif self._view[_MARKED] == _MARK:
                self._record = 0  # a Ctrl-C came, and it was such a one
            else:
                counts += (self._record - _OVERHEAD,)  # a Ctrl-C came before it was told
        return self._view

    def _next_record(self, *, exact: bool = False) -> None:
        """Give OpenSSL the next record; the lock must be held.

        Args:
            exact: Read no more than the record has.

        Raises:
            BlockingIOError: It has not come yet.
            OSError: The path has ended without a word, or what has come is no TLS.
        """
        reads, feeds = self._reads, self._feeds
        while not self._record:
            start = self._start
            have = self._stop - start
            missing = _HEADER - have
            if missing <= 0:
                raw = self._raw
                length = raw[start + 3] << 8 | raw[start + 4]
                if length > _LARGEST or not _FIRST_KIND <= raw[start] <= _LAST_KIND:
                    raise ssl.SSLError(1, f"this is no TLS record: {bytes(raw[start : start + _HEADER])!r}")
                missing += length
                if missing <= 0:
                    if not feeds:
                        self._to_feed[:] = (self._room[start : start + _HEADER + length],)
                        feeds += map(self._feed, self._to_feed)
                    if feeds:
                        self._start = start + _HEADER + length
                        self._record = length
                        del self._to_feed[:], feeds[:]  # commit, from `_start` on
                    continue
            if not reads:
                room = self._room
                if start:
                    if have:
                        room[:have] = room[start : self._stop]
                    self._start = 0
                    self._stop = have  # commit, from `room` on
                self._to_read[:] = (room[have : have + missing] if exact else room[have:] if have else room,)
                reads += map(self._recv_into, self._to_read)
            if not reads:
                continue  # a signal handler has read meanwhile
            if not reads[0]:
                self._end()
                return
            self._stop += reads[0]
            del self._to_read[:], reads[0]  # commit, from `_stop` on
            if self._stop >= _HEADER + _LARGEST and len(self._raw) < _READ:
                self._make_room()

    def _make_room(self) -> None:
        """Much comes: have memory for more than a record at a time; the lock must be held."""
        raw = bytearray(len(self._raw) + _READ)
        room = memoryview(raw)
        room[: self._stop] = self._room[: self._stop]
        self._raw = raw
        self._room = room  # commit, from the copy on

    def _end(self) -> None:
        """The connection has ended: as it should, if the other side had said so before.

        Raises:
            ssl.SSLEOFError: It had not.
        """
        self._in.write_eof()
        if self._until is not None:
            raise ssl.SSLEOFError(8, "the other side has closed the connection in the handshake")
        self._view = self._scratch
        self._counts += map(self._decrypt, _ALL, (self._scratch,))

    # Beginning and ending

    def _shake_hands(self) -> None:
        """Go on with the handshake, or say that the link is closed; the lock must be held. Returns when it is over.

        Reads no more than the handshake's own records: what follows must not lie here unnoticed if it was a send that
        has brought the handshake to its end.
        """
        until = self._until
        if self._closed:
            raise OSError(errno.EBADF, "the link is closed")
        while until is not None:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._record = 0
                self._known = 0
                self._flush()
                if time.monotonic() > until:
                    raise TimeoutError(
                        errno.ETIMEDOUT, f"the TLS handshake took more than {HANDSHAKE_TIME:.0f} s"
                    ) from None
                self._next_record(exact=True)
            except ssl.SSLError:
                self._known = 0
                try:
                    self._flush()  # why, for the other side
                except OSError:
                    pass
                raise
            else:
                self._known = 0
                self._flush()
                self._record = 0
                self._until = None  # commit, from `_record` on
                return

    def close(self) -> None:
        """Say in TLS that nothing follows, and close; what the kernel has taken still arrives."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            until, self._until = self._until, 0.0  # each call looks there first
            if until is None and not (self._leaving or self._out.pending):
                try:
                    self._tls._sslobj.shutdown()  # type: ignore[attr-defined]
                except (OSError, ValueError):
                    pass  # the other side has not said so too
                try:
                    self._sock.send(self._out.read())
                except OSError:
                    pass  # it is gone, or does not read
            del self._got[:], self._counts[:], self._reads[:]
            self._sock.close()


def data_in(records: bytes) -> int:
    """How many bytes of data there are in encrypted records that have nothing else in them.

    Args:
        records: Whole ones.
    """
    count = at = 0
    while at < len(records):
        length = records[at + 3] << 8 | records[at + 4]
        count += length - _OVERHEAD
        at += _HEADER + length
    return count


def records_of(buffers: Sequence[Buffer]) -> list[Buffer]:
    """Cut buffers into records: at most 16 KiB each, as few as can be, and large buffers not copied.

    Small ones before a large one have a record of their own where that makes no more of them up to there: the large one then
    arrives in records of its own, which are decrypted into their place.

    Args:
        buffers: At least one of them not empty.

    Returns:
        The records of the first `MOST_AT_ONCE` bytes, or a few more; none empty.
    """
    records: list[Buffer] = []
    held: list[Buffer] = []
    size = taken = 0
    for buffer in buffers:
        length = len(buffer)
        if size + length < RECORD:
            held.append(buffer)
            size += length
            continue
        view = memoryview(buffer)
        at = 0
        if size:
            rest = length % RECORD
            if length >= RECORD and (not rest or size + rest > RECORD):
                records.append(b"".join(held))
                taken += size
            else:
                at = RECORD - size
                records.append(b"".join([*held, view[:at]]))
                taken += RECORD
        held, size = [], 0
        while taken < MOST_AT_ONCE and length - at >= RECORD:
            records.append(view[at : at + RECORD])
            at += RECORD
            taken += RECORD
        if taken >= MOST_AT_ONCE:
            return records
        if at < length:
            held.append(view[at:])
            size = length - at
    if size:
        records.append(held[0] if len(held) == 1 else b"".join(held))
    return records
