"""One connection between two daemons: messages in frames over TLS, on the fabric's loop.

A frame is its length, u32 big endian, then so many bytes of msgpack. There are none before TLS has been agreed on and
the peer's certificate checked. TLS works on memory (`ssl.MemoryBIO`): so all that the socket has is taken in one read, and
all frames that a turn of the loop has produced leave in one write, in as few records as they fit in.

Nothing is shed: what `send` takes is sent, or the connection ends. Where the peer reads too slowly `is_full` becomes
true, and those whose messages can wait wait for `on_room`; past a second limit `send` refuses.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any, Final

import msgpack

from constellation.core.errors import HandshakeError
from constellation.core.role import Role, read_role
from constellation.fabric import alive
from constellation.fabric.loop import Loop, Timer

LARGEST_FRAME: Final = 16 << 20
"""Bytes of msgpack in one frame. What is larger, such as files and output, travels in pieces."""

HANDSHAKE_TIME: Final = 10.0
"""Seconds that the handshake may take; it takes milliseconds."""

FULL: Final = 4 << 20
"""Unsent bytes from which on `Conduit.is_full` is true."""

LIMIT: Final = 64 << 20
"""Unsent bytes from which on `Conduit.send` refuses: whatever does not wait for room has limits of its own before this."""

_LENGTH = struct.Struct(">I")
_READ = 256 << 10
_READS_PER_TURN = 4
_ENCRYPT = 256 << 10
_RECORD = 16 << 10
_CLOSE_TIME = 5.0


class Conduit:
    """One end of a connection between daemons.

    After `on_ready` the peer is known; as a TLS 1.3 client it is known here before the peer has looked at *our*
    certificate: that it has accepted us shows with its first message, a refusal with `on_end`.

    Args:
        loop: Where the connection is watched.
        sock: Connected; its preamble has been sent or checked. Taken over, made non-blocking.
        context: Of `NodeCredential.context` or `DeployerCredential.context`.
        server: Whether this side accepted the connection.
        read: Makes a message of a plain form; ValueError or TypeError refuse it.
        fields_of: Makes the plain form of a message.
        on_ready: Called once, when the peer's certificate has been verified, with its role. HandshakeError refuses it.
        on_message: Called with each message.
        on_end: Called once when the connection ends by itself, with the reason, a whole sentence for the log. Not called
            after `close`.
        label: Who is at the other end, for reasons: ``node a (10.0.0.1:7000)``.
        on_room: Called when there is room again after `is_full` was true.
        largest: Bytes of msgpack in one frame of the peer: as a message it may take seventy times as many.
    """

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server: bool,
        read: Callable[[Any], Any],
        fields_of: Callable[[Any], Any],
        on_ready: Callable[[Role], None],
        on_message: Callable[[Any], None],
        on_end: Callable[[str], None],
        label: str,
        on_room: Callable[[], None] | None = None,
        largest: int = LARGEST_FRAME,
    ) -> None:
        sock.setblocking(False)
        alive.prepare(sock)
        self.label = label
        self.role: Role | None = None
        self.is_open = True
        self.on_room = on_room
        self._largest = largest
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._read = read
        self._fields_of = fields_of
        self._on_ready = on_ready
        self._on_message = on_message
        self._on_end = on_end
        self._encrypted_in = ssl.MemoryBIO()
        self._encrypted_out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._encrypted_in, self._encrypted_out, server_side=server)
        self._plain_in = bytearray()
        self._plain_out = bytearray()
        self._leaving = b""  # encrypted, of which the socket has not yet taken all
        self._is_flush_due = False
        self._wants_room = False
        self._was_full = False
        self._is_paused = False
        self._ended: str | None = None  # why nothing comes after what has been read
        self._is_closing = False  # what was sent still leaves, then it closes
        self._timer: Timer | None = loop.call_later(HANDSHAKE_TIME, self._too_slow)
        loop.watch(self._fd, self._on_readable)
        loop.call_later(0, self._shake_hands)

    # Sending

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not yet taken."""
        return len(self._plain_out) + len(self._leaving)

    @property
    def is_full(self) -> bool:
        """Whether those whose messages can wait should wait for `on_room`."""
        return self.unsent >= FULL

    def send(self, message: Any) -> bool:
        """Send a message as soon as there is room; before the handshake is over it waits.

        Returns:
            Whether it was taken: not after the end, and not where the peer leaves `LIMIT` bytes unread.

        Raises:
            ValueError: The message is larger than a frame may be.
        """
        if not self.is_open or self._is_closing or self._ended is not None or self.unsent >= LIMIT:
            return False
        packed = msgpack.packb(self._fields_of(message))
        if len(packed) > LARGEST_FRAME:
            raise ValueError(f"a {type(message).__name__} of {len(packed)} bytes: expected at most {LARGEST_FRAME}")
        self._plain_out += _LENGTH.pack(len(packed))
        self._plain_out += packed
        self._was_full = self._was_full or self.is_full
        if not self._is_flush_due:
            # At the end of this turn, so that what else it has to say travels in the same record.
            self._is_flush_due = True
            self._loop.call_later(0, self._flush_due)
        return True

    def _flush_due(self) -> None:
        self._is_flush_due = False
        self._flush()

    def _flush(self) -> None:
        if not self.is_open:
            return
        try:
            while self._leaving or self._encrypt():
                sent = self._sock.send(self._leaving)
                self._leaving = self._leaving[sent:]
            self._want_room(wanted=False)
        except BlockingIOError:
            self._want_room(wanted=True)
        except OSError as error:
            # What the peer sent before it went may say why: the reader finds it, then the end.
            if isinstance(error, ssl.SSLError):
                self._ended = self._ended or self._end_of(error)
            else:
                self._ended = f"the connection to {self.label} has ended: {_reason(error)}"
            self._leaving = b""
            self._plain_out = bytearray()  # what was to be encrypted is held by the error
            self._want_room(wanted=False)
            self._loop.call_later(0, self._on_readable)
            return
        if self._is_closing and not self.unsent:
            self._say_end()
        elif self._was_full and self.unsent < FULL // 2:
            self._was_full = False
            if self.on_room is not None:
                self.on_room()

    def _encrypt(self) -> bool:
        """Make `_leaving` of what waits, up to what one write of the socket is given. Whether there was anything."""
        if self._plain_out and self.role is not None:
            taken = 0
            with memoryview(self._plain_out) as view:
                while taken < len(view) and taken < _ENCRYPT:
                    taken += self._tls.write(view[taken : taken + _RECORD])
            del self._plain_out[:taken]
        self._leaving = self._encrypted_out.read()
        return bool(self._leaving)

    def _want_room(self, *, wanted: bool) -> None:
        if wanted != self._wants_room:
            self._wants_room = wanted
            self._loop.watch_room(self._fd, self._flush if wanted else None)

    # Receiving

    def pause(self) -> None:
        """Read no more for now, so that the peer has to wait: for whoever cannot take more messages."""
        if self.is_open and not self._is_paused:
            self._is_paused = True
            self._loop.unwatch(self._fd)
            if self._wants_room:
                self._loop.watch_room(self._fd, self._flush)

    def resume(self) -> None:
        """Read again; messages that are here already come at the end of this turn."""
        if self.is_open and self._is_paused:
            self._is_paused = False
            self._loop.watch(self._fd, self._on_readable)
            self._loop.call_later(0, self._on_readable)

    def _on_readable(self) -> None:
        """Take in what is there."""
        for _ in range(_READS_PER_TURN):
            if not self.is_open or self._is_paused:
                return
            try:
                data = self._sock.recv(_READ)
            except BlockingIOError:
                break
            except OSError as error:
                self._ended = self._ended or f"the connection to {self.label} has ended: {_reason(error)}"
                break
            if data:
                self._encrypted_in.write(data)
            else:
                self._encrypted_in.write_eof()
            self._take_in()
            if not data:
                break
        if self.is_open and self._cut_frames() and self._ended is not None and not self._is_paused:
            self._end(self._ended)

    def _take_in(self) -> None:
        """Decrypt and handle what has come."""
        if self.role is None and not self._shake_hands():
            return
        ended = None
        try:
            while True:
                data = self._tls.read(_RECORD)
                if not data:
                    ended = f"{self.label} has closed the connection"
                    break
                self._plain_in += data
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            ended = self._end_of(error)
        self._ended = self._ended or ended
        if self._encrypted_out.pending:  # an alert, or the answer to a change of keys
            self._flush()
        self._cut_frames()

    def _cut_frames(self) -> bool:
        """Handle the frames that are whole. Whether the connection is still open."""
        data, start = self._plain_in, 0
        while len(data) - start >= _LENGTH.size and not self._is_paused:
            (length,) = _LENGTH.unpack_from(data, start)
            if length > self._largest:
                self._end(
                    f"{self.label} sent a frame of {length} bytes: expected at most {self._largest}; it is cut off"
                )
                return False
            stop = start + _LENGTH.size + length
            if stop > len(data):
                break
            try:
                with memoryview(data) as view:
                    plain = msgpack.unpackb(view[start + _LENGTH.size : stop])
                message = self._read(plain)
            except (ValueError, TypeError, msgpack.UnpackException) as error:
                self._end(f"{self.label} sent what is no message: {error}; it is cut off")
                return False
            start = stop
            if not self._is_closing:
                self._on_message(message)
            if not self.is_open:
                return False
        del data[:start]
        return True

    # Beginning and ending

    def _shake_hands(self) -> bool:
        """Go on with the handshake. Whether it is over."""
        if not self.is_open or self.role is not None:
            return self.is_open
        try:
            self._tls.do_handshake()
            self.role = read_role(self._tls.getpeercert())
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._on_ready(self.role)
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as error:
            self._flush()  # the alert
            self._end(self._end_of(error))
            return False
        except HandshakeError as error:
            self._end(f"{self.label} is refused: {error}")
            return False
        self._flush()
        return self.is_open

    def _end_of(self, error: ssl.SSLError) -> str:
        # In some versions of Python a cut connection is no SSLEOFError with OpenSSL 3: only the reason says so.
        is_cut = isinstance(error, ssl.SSLEOFError) or error.reason == "UNEXPECTED_EOF_WHILE_READING"
        if is_cut or isinstance(error, ssl.SSLZeroReturnError):
            when = " during the handshake" if self.role is None else " without saying so: cut off, or killed"
            return f"{self.label} has closed the connection{when}"
        if "ALERT" in (error.reason or ""):
            return f"{self.label} has refused this side: {tls_reason(error)}"
        return f"{self.label} is refused: {tls_reason(error)}"

    def _too_slow(self) -> None:
        if self._is_closing:
            self._close_now()
        else:
            self._end(f"{self.label} is refused: its TLS handshake took more than {HANDSHAKE_TIME:.0f} s")

    def _end(self, reason: str) -> None:
        if self.is_open:
            was_closing = self._is_closing
            self._close_now()
            if not was_closing:
                self._on_end(reason)

    def close(self, *, after_flush: bool = False) -> None:
        """Close; `on_end` is not called any more. A second call does nothing.

        Args:
            after_flush: What was sent leaves before, within five seconds; messages that still come are dropped.
        """
        if not self.is_open:
            return
        if after_flush and not self._is_closing:
            self._is_closing = True
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(_CLOSE_TIME, self._too_slow)
            self._flush()
        elif not after_flush:
            self._say_end()

    def _say_end(self) -> None:
        """Tell the peer in TLS that nothing follows, as far as there is room for that; then close."""
        if self.role is not None and not self._leaving:
            try:
                self._tls.unwrap()
            except (ssl.SSLError, ValueError):
                pass  # it waits for the peer's, which we do not
            try:
                self._sock.send(self._encrypted_out.read())
            except OSError:
                pass
        self._close_now()

    def _close_now(self) -> None:
        if not self.is_open:
            return
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
        self._loop.unwatch(self._fd)
        self._sock.close()
        self._plain_in = bytearray()
        self._plain_out = bytearray()
        self._leaving = b""


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def tls_reason(error: ssl.SSLError) -> str:
    """What a TLS error says, in words, with what to do where that is known."""
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"its certificate is not accepted: {error.verify_message}"
        if "expired" in text or "not yet valid" in text:
            return text + "; compare the clocks of both computers"
        return text + "; do both have the credential of the same fabric?"
    return (error.reason or str(error)).lower().replace("_", " ")
