"""Plugins without fault, written as strangers would: the suites pass them, and faulty ones are derived from them."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any

from constellation.plugin import Buffer, Transport


class PlainLink:
    """A link over a stream socket, in Python, so that a fault can be planted in each method."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, data: Buffer) -> int:
        return self.sock.send(data)

    def send_many(self, buffers: Sequence[Buffer]) -> int:
        return self.sock.sendmsg(buffers)

    def receive(self, size: int) -> bytes:
        return self.sock.recv(size)

    def receive_into(self, view: memoryview) -> int:
        return self.sock.recv_into(view)

    def close(self) -> None:
        self.sock.close()


class TlsLink:
    """An encrypted link: OpenSSL between two buffers in memory, and a stream socket."""

    RECORD = 16 << 10

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server: bool) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=server)
        self.lock = threading.RLock()
        self.unsent = b""
        self.taken = 0
        self.is_open = False
        self.is_closed = False

    def fileno(self) -> int:
        return self.sock.fileno()

    def pending(self) -> bool:
        with self.lock:
            return not self.is_closed and self.is_open and (self.tls.pending() > 0 or self.incoming.pending > 0)

    def send(self, data: Buffer) -> int:
        with self.lock:
            self._flush()
            if not self.taken:
                if not self._handshake():
                    raise BlockingIOError
                self.taken = self.tls.write(memoryview(data)[: self.RECORD])
            self._flush()
            taken, self.taken = self.taken, 0
            return taken

    def send_many(self, buffers: Sequence[Buffer]) -> int:
        joined = bytearray()
        for buffer in buffers:
            joined += memoryview(buffer)[: self.RECORD - len(joined)]
            if len(joined) >= self.RECORD:
                break
        return self.send(joined)

    def receive(self, size: int) -> bytes:
        with self.lock:
            for _ in range(2):
                if self._handshake():
                    try:
                        data = self.tls.read(size)
                    except ssl.SSLWantReadError:
                        pass
                    except ssl.SSLZeroReturnError:
                        return b""
                    else:
                        return data
                cipher = self.sock.recv(64 << 10)
                if not cipher:
                    return b""
                self.incoming.write(cipher)
            raise BlockingIOError

    def receive_into(self, view: memoryview) -> int:
        data = self.receive(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.is_closed = True
        self.sock.close()

    def _handshake(self) -> bool:
        if not self.is_open:
            try:
                self.tls.do_handshake()
                self.is_open = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                self.is_closed = True
                raise
            finally:
                try:
                    self._flush()
                except BlockingIOError:
                    pass
        return self.is_open

    def _flush(self) -> None:
        self.unsent += self.outgoing.read()
        while self.unsent:
            self.unsent = self.unsent[self.sock.send(self.unsent) :]


class PlainTransport:
    """For one computer."""

    name = "plain"
    link: Callable[[socket.socket], Any] = PlainLink

    def pair(self) -> tuple[int, int]:
        one, other = socket.socketpair()
        return one.detach(), other.detach()

    def adopt(self, fd: int) -> Any:
        return type(self).link(socket.socket(fileno=fd))


class RightRemote(PlainTransport):
    """For several."""

    name = "right-remote"
    remote = True
    tls: Callable[..., Any] = TlsLink

    def open(self, fd: int, *, server: bool, context: ssl.SSLContext) -> Any:
        return type(self).tls(socket.socket(fileno=fd), context, server=server)


class LineListener:
    """Lets in who says the word."""

    WORD = b"let me in\n"

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.sock = socket.create_server((host, int(port)))
        self.sock.setblocking(False)
        self.poll = select.epoll()
        self.poll.register(self.sock, select.EPOLLIN)
        self.address = "line://{}:{}".format(*self.sock.getsockname())
        self.visitors: dict[int, socket.socket] = {}

    def fileno(self) -> int:
        return self.poll.fileno()

    def accept(self) -> tuple[int, str]:
        for fd, _ in self.poll.poll(0):
            if fd == self.sock.fileno():
                visitor, _ = self.sock.accept()
                visitor.setblocking(False)
                self.visitors[visitor.fileno()] = visitor
                self.poll.register(visitor, select.EPOLLIN)
                continue
            visitor = self.visitors[fd]
            word = visitor.recv(len(self.WORD), socket.MSG_PEEK)
            if word == self.WORD:
                visitor.recv(len(self.WORD))
                del self.visitors[fd]
                self.poll.unregister(fd)
                address = "{}:{}".format(*visitor.getpeername())
                return visitor.detach(), address
            if not self.WORD.startswith(word) or not word:
                self.poll.unregister(fd)
                self.visitors.pop(fd).close()
        raise BlockingIOError

    def close(self) -> None:
        self.sock.close()
        for visitor in self.visitors.values():
            visitor.close()
        self.visitors.clear()
        self.poll.close()


class LineTransport(RightRemote):
    """Listens and dials itself: who dials begins with a word."""

    name = "line"
    listener: Callable[[str], Any] = LineListener

    def listen(self, address: str) -> Any:
        return type(self).listener(address)

    def dial(self, address: str, timeout: float) -> int:
        host, _, port = address.removeprefix("line://").rpartition(":")
        sock = socket.create_connection((host, int(port)), timeout)
        sock.sendall(LineListener.WORD)
        sock.setblocking(True)
        return sock.detach()


_: tuple[type[Transport], ...] = (PlainTransport, RightRemote, LineTransport)
