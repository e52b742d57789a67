"""The default transport: stream sockets watched by epoll; a socketpair on one computer, TCP with TLS between computers.

A link's methods *are* the C methods of its socket: nothing of ours runs per message here. Encrypted ones are in `tls.py`,
which is loaded with the first of them.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from constellation.core.contracts import Buffer, Link, RemoteTransport, Transport
from constellation.core.hooks import hookimpl

if TYPE_CHECKING:
    import ssl

SOCKET_BUFFER = 1 << 20
"""One chunk leaves in one call, and a reader that is late by one scheduling slice does not stop the writer."""


class SocketLink:
    """A link over one stream socket."""

    __slots__ = ("_socket", "receive", "receive_into", "send", "send_many")

    send: Callable[[Buffer], int]
    send_many: Callable[[Sequence[Buffer]], int]
    receive: Callable[[int], bytes]
    receive_into: Callable[[memoryview], int]

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self.send = sock.send
        self.send_many = sock.sendmsg
        self.receive = sock.recv
        self.receive_into = sock.recv_into

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket; what the kernel has taken still arrives."""
        self._socket.close()


class TcpTransport:
    """Socketpairs on one computer, TCP between computers."""

    name = "tcp"
    remote = True

    def pair(self) -> tuple[int, int]:
        """Make a connected pair of stream sockets."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        for end in (left, right):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
        return left.detach(), right.detach()

    def adopt(self, fd: int) -> Link:
        """Make a link of one end of a pair."""
        return SocketLink(socket.socket(fileno=fd))

    def open(self, fd: int, *, server: bool, context: ssl.SSLContext | None) -> Link:
        """Make a link of a connected TCP socket."""
        sock = socket.socket(fileno=fd)
        if context is not None:
            from constellation.transports.tls import TlsLink

            return TlsLink(sock, context, server=server)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return SocketLink(sock)


_: type[RemoteTransport] = TcpTransport


@hookimpl
def register_transports() -> list[Transport]:
    """The default transport."""
    return [TcpTransport()]
