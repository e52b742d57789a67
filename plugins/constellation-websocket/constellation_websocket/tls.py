"""TLS between us and whoever stands at the other end of the TCP connection, without a socket: bytes in, bytes out."""

from __future__ import annotations

import contextlib
import ssl


class Tls:
    """One side of a TLS connection.

    Args:
        context: Says who is trusted, and who we are.
        server: Whether this is the side that was dialled.
        host: The name that the other side must prove; for a client.
    """

    def __init__(self, context: ssl.SSLContext, *, server: bool, host: str | None = None) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._in, self._out, server_side=server, server_hostname=host)
        self._is_ready = False
        self._waiting = bytearray()
        self.begin()

    def begin(self) -> None:
        """Go on with the handshake.

        Raises:
            ssl.SSLError: It has failed.
        """
        if not self._is_ready:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._object.do_handshake()
                self._is_ready = True
                if self._waiting:
                    self._object.write(self._waiting)
                    self._waiting.clear()

    def read(self, data: bytes) -> bytes:
        """What the other side says with ``data``. Empty bytes are the end of the connection.

        Raises:
            ssl.SSLError: It says what it must not.
        """
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()
        self.begin()
        said = bytearray()
        if self._is_ready:
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError, ssl.SSLEOFError):
                while part := self._object.read(1 << 18):
                    said += part
        return bytes(said)

    def write(self, data: bytes) -> None:
        """Say something; it leaves when the handshake is done."""
        if self._is_ready:
            self._object.write(data)
        else:
            self._waiting += data

    def leave(self) -> None:
        """Say that nothing follows."""
        if self._is_ready:
            with contextlib.suppress(ssl.SSLError):
                self._object.unwrap()

    def to_send(self) -> bytes:
        """What is to be written to the connection now."""
        return self._out.read()
