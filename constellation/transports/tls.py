"""A link over TCP with TLS, for the default transport.

OpenSSL reads and writes the socket itself: one record of up to 16 KiB at a time. That is faster than TLS in memory with
larger reads and writes beside it (measured: 790 against 500 MiB/s, 24 against 27 us a round trip), and it leaves what has
not been read in the kernel, where epoll sees it; only the rest of a record that was read in part is told by `pending`.

A Ctrl-C may raise between any two calls here. So the results of what OpenSSL has done are stored by C code, before Python
can run (``results += map(call, arguments)``), and given out by lines without a call, marked ``# commit``; what an exception
came into is given out by the next call. `ssl.SSLSocket` has methods written in Python around these calls, in which a result
could be lost: that is why they are called past it.

OpenSSL's objects stand no two threads at once: one lock for each link.
"""

from __future__ import annotations

import _thread
import errno
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
"""The most that one record carries."""

MOST_AT_ONCE: Final = 256 << 10
"""What one call encrypts and writes at most: the reading side of the link waits for so long."""

_WAITING = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class TlsLink:
    """One side of an encrypted link.

    Args:
        sock: Connected; taken over.
        context: What accepts the other side.
        server: Whether this side was dialled.
    """

    __slots__ = (
        "_ahead", "_closed", "_counts", "_finished", "_got", "_lock", "_read", "_sent", "_stuck", "_tls", "_until", "_view", "_write",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server: bool) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tls = context.wrap_socket(sock, server, do_handshake_on_connect=False)
        # Typeshed does not know it; it has been there, with these methods, since Python 3.7.
        plain: Any = self._tls._sslobj  # type: ignore[attr-defined]
        self._read = plain.read
        self._write = plain.write
        self._lock = _thread.RLock()  # a handler of a signal may come back to the same link
        self._until: float | None = time.monotonic() + HANDSHAKE_TIME  # None: the handshake is over
        self._closed = False
        self._got: list[bytes] = []  # read, not yet given out
        self._counts: list[int] = []  # read into `_view`, not yet told
        self._view: memoryview | None = None
        self._sent: list[int] = []  # written, not yet counted
        self._ahead = 0  # written and counted, not yet told
        self._stuck = b""  # the record that OpenSSL is in the middle of writing
        self._finished: list[int] = []  # its length, when it has been written and is not yet counted
        if not server:
            try:
                self._tls.do_handshake()  # the client's hello: else two that only wait to read would wait for ever
            except OSError:
                pass  # there is no answer yet; or the path is broken, which the next call shows

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._tls.fileno()

    def pending(self) -> bool:
        """Whether there is something to read that the descriptor does not tell of."""
        return bool(self._got or self._counts) or (self._until is None and not self._closed and self._tls.pending() > 0)

    # Writing

    def send(self, data: Buffer) -> int:
        """Encrypt and write the first bytes of ``data``."""
        if self._stuck or self._sent or self._ahead:
            return self._catch_up(len(data))
        if len(data) <= RECORD:
            return self._put((data,))
        view = memoryview(data)
        return self._put([view[at : at + RECORD] for at in range(0, min(len(view), MOST_AT_ONCE), RECORD)])

    def send_many(self, buffers: Sequence[Buffer]) -> int:
        """Encrypt and write the first bytes of all buffers; small ones share a record."""
        if self._stuck or self._sent or self._ahead:
            return self._catch_up(sum(map(len, buffers)))
        return self._put(records_of(buffers))

    def _put(self, records: Sequence[Buffer]) -> int:
        with self._lock:
            self._check_open()
            try:
                if self._until is not None:
                    self._shake_hands()
                self._sent += map(self._write, records)
            except _WAITING:
                if self._until is None:
                    # OpenSSL holds this record, encrypted, and must be called with it again.
                    self._stuck = b"".join(records[len(self._sent) : len(self._sent) + 1])
        sent = self._sent
        total = sum(sent)
        if self._sent is not sent or not total:
            raise BlockingIOError(errno.EAGAIN, "there is no room")
        self._sent = []  # commit
        return total

    def _catch_up(self, offered: int) -> int:
        """Finish what an earlier call has begun, and tell of it: it is what the caller's bytes begin with.

        Args:
            offered: How many bytes the caller has: maybe fewer than the record that was begun.
        """
        with self._lock:
            self._check_open()
            sent = self._sent
            total = sum(sent)
            if total and self._sent is sent:
                self._ahead += total
                self._sent = []  # commit, from `_ahead` on
            if self._stuck:
                if not self._finished:
                    try:
                        self._finished += map(self._write, (self._stuck,))
                    except _WAITING:
                        pass
                if self._finished:
                    self._ahead += self._finished[0]
                    self._stuck = b""
                    self._finished = []  # commit, from `_ahead` on
        ahead = self._ahead
        if not ahead:
            raise BlockingIOError(errno.EAGAIN, "there is no room")
        if ahead > offered:
            self._ahead = ahead - offered  # commit
            return offered
        self._ahead = 0  # commit
        return ahead

    # Reading

    def receive(self, size: int) -> bytes:
        """Read and decrypt what is there, up to the end of a record."""
        if self._counts:
            self._rescue()
        if not self._got:
            with self._lock:
                self._check_open()
                try:
                    if self._until is not None:
                        self._shake_hands()
                    self._got += map(self._read, (size,))
                except _WAITING:
                    raise BlockingIOError(errno.EAGAIN, "nothing has come") from None
        got = self._got
        if not got:
            raise BlockingIOError(errno.EAGAIN, "a signal handler has read meanwhile")
        data = got[0]
        if len(data) > size:
            part = data[:size]
            got[0] = data[size:]  # commit
            return part
        del got[0]  # commit
        return data

    def receive_into(self, view: memoryview) -> int:
        """Read and decrypt what is there into ``view``, up to the end of a record."""
        if self._counts:
            self._rescue()
        if self._got:
            data = self._got[0]
            count = min(len(data), len(view))
            view[:count] = data[:count]
            self._got[:1] = (data[count:],) if count < len(data) else ()  # commit
            return count
        with self._lock:
            self._check_open()
            try:
                if self._until is not None:
                    self._shake_hands()
                self._view = view
                self._counts += map(self._read, (len(view),), (view,))
            except _WAITING:
                self._view = None
                raise BlockingIOError(errno.EAGAIN, "nothing has come") from None
        counts = self._counts
        if not counts:
            raise BlockingIOError(errno.EAGAIN, "a signal handler has read meanwhile")
        count = counts[0]
        self._view = None
        del counts[0]  # commit
        return count

    def _rescue(self) -> None:
        """A Ctrl-C came between the reading of bytes into a view and the telling: keep them for whoever asks now."""
        view = self._view
        assert view is not None
        data = bytes(view[: self._counts[0]])
        self._got += (data,)
        self._view = None
        del self._counts[0]  # commit, from `_got` on

    # Beginning and ending

    def _shake_hands(self) -> None:
        """Go on with the handshake; the lock must be held. Returns when it is over."""
        assert self._until is not None
        try:
            self._tls.do_handshake()
        except _WAITING:
            if time.monotonic() > self._until:
                raise TimeoutError(
                    errno.ETIMEDOUT, f"the TLS handshake took more than {HANDSHAKE_TIME:.0f} s"
                ) from None
            raise
        self._until = None

    def _check_open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "the link is closed")

    def close(self) -> None:
        """Say in TLS that nothing follows, and close; what the kernel has taken still arrives."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._until is None and not self._stuck:
                try:
                    self._tls._sslobj.shutdown()  # type: ignore[attr-defined]
                except (OSError, ValueError):
                    pass  # the peer has not said so too, or is gone
            self._tls.close()


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
        while length - at >= RECORD:
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
