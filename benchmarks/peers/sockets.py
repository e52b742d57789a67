"""Blocking sockets with pickle, length first: what a program without a framework would write.

Three more show what is to be had with more effort, as a mark for us and not as a peer of the issue: `tcp-joined` joins
its writes to 64 KiB, `unix-polling` asks for up to 200 µs before it sleeps in the kernel, `tcp-buffers` sends large
values beside the pickle and reads them into memory that it uses again.
"""

from __future__ import annotations

import os
import pickle
import select
import socket
import struct
import tempfile
from typing import TYPE_CHECKING

from benchmarks import links
from benchmarks.measure import MIB, now

if TYPE_CHECKING:
    from collections.abc import Callable

LENGTH = struct.Struct("<Q")
READ = 1 << 16
JOINED = 1 << 16
POLL_NS = 200_000
LARGE = 1 << 16


class SocketLink:
    """Pickles with their length before them, one write for each small value."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = b""
        self.at = 0
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, value: object) -> None:
        """Send one value."""
        body = pickle.dumps(value, 5)
        if len(body) < LARGE:
            self.sock.sendall(LENGTH.pack(len(body)) + body)
        else:
            self.sock.sendall(LENGTH.pack(len(body)))
            self.sock.sendall(body)

    def flush(self) -> None:
        """Do nothing: each send has left."""

    def recv(self) -> object:
        """Take the next value."""
        while True:
            begin = self.at + LENGTH.size
            if len(self.data) >= begin:
                (size,) = LENGTH.unpack_from(self.data, self.at)
                if len(self.data) >= begin + size:
                    self.at = begin + size
                    return pickle.loads(memoryview(self.data)[begin : self.at])
                if size > LARGE:
                    return pickle.loads(self.rest_of(begin, size))
            more = self.read()
            if not more:
                raise EOFError
            self.data, self.at = self.data[self.at :] + more, 0

    def rest_of(self, begin: int, size: int) -> bytearray:
        """Read what is missing of a large value straight into its place."""
        whole = bytearray(size)
        got = len(self.data) - begin
        whole[:got] = self.data[begin:]
        view = memoryview(whole)
        while got < size:
            count = self.sock.recv_into(view[got:])
            if not count:
                raise EOFError
            got += count
        self.data, self.at = b"", 0
        return whole

    def read(self) -> bytes:
        """Read once. Blocks."""
        return self.sock.recv(READ)

    def ready(self) -> bool:
        """Tell whether bytes are there."""
        return self.at < len(self.data) or bool(select.select([self.sock], [], [], 0)[0])


class JoinedLink(SocketLink):
    """Joins small values to one write."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.out = bytearray()

    def send(self, value: object) -> None:
        """Hold one value back until there is enough for a write."""
        body = pickle.dumps(value, 5)
        self.out += LENGTH.pack(len(body))
        self.out += body
        if len(self.out) >= JOINED:
            self.flush()

    def flush(self) -> None:
        """Write what is held back."""
        self.sock.sendall(self.out)
        self.out.clear()


class PollingLink(SocketLink):
    """Asks for a while before it sleeps in the kernel: to wake a sleeper on another core is dear."""

    def read(self) -> bytes:
        """Read once, without sleeping if the bytes come soon."""
        until = now() + POLL_NS
        while now() < until:
            try:
                return self.sock.recv(READ, socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass
        return self.sock.recv(READ)


class BufferLink(SocketLink):
    """Large parts go beside the pickle, and arrive in memory that is used again for the next value."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.room = memoryview(bytearray(64 * MIB))

    def send(self, value: object) -> None:
        """Send the parts from where they lie."""
        buffers: list[pickle.PickleBuffer] = []
        if isinstance(value, bytes):
            head = b""
            parts = [memoryview(value)]
        else:
            head = pickle.dumps(value, 5, buffer_callback=buffers.append)
            parts = [buffer.raw() for buffer in buffers]
        sizes = [len(head), *map(len, parts)]
        self.sock.sendall(struct.pack(f"<Q{len(sizes)}Q", len(sizes), *sizes) + head)
        for part in parts:
            self.sock.sendall(part)

    def recv(self) -> object:
        """Take the next value, as views of the one reused buffer."""
        (count,) = LENGTH.unpack(self.exactly(LENGTH.size))
        head_size, *sizes = struct.unpack(f"<{count}Q", self.exactly(8 * count))
        head = self.exactly(head_size)
        views = []
        for size in sizes:
            view, got = self.room[:size], 0
            while got < size:
                got += self.sock.recv_into(view[got:])
            views.append(view)
        return pickle.loads(head, buffers=views) if head else views[0]

    def exactly(self, size: int) -> bytes:
        """Read so many bytes."""
        return self.sock.recv(size, socket.MSG_WAITALL) if size else b""


KINDS: dict[str, Callable[[socket.socket], SocketLink]] = {
    "tcp": SocketLink,
    "unix": SocketLink,
    "tcp-joined": JoinedLink,
    "unix-polling": PollingLink,
    "tcp-buffers": BufferLink,
}


def fork(run: Callable[[], None]) -> int:
    """Fork a child that runs a function and ends.

    Args:
        run: What the child does.

    Returns:
        The child's number, in the parent.
    """
    os_pid = os.fork()
    if os_pid:
        return os_pid
    code = 1
    try:
        run()
        code = 0
    finally:
        os._exit(code)


def run(peer: str, workload: str, scale: float) -> None:
    """Measure one workload between this process and a forked one.

    Args:
        peer: One of `KINDS`.
        workload: As in `links.near`.
        scale: As in `measure.scaled`.
    """
    make = KINDS[peer]
    family = socket.AF_UNIX if peer.startswith("unix") else socket.AF_INET
    with tempfile.TemporaryDirectory() as folder, socket.socket(family) as listener:
        listener.bind(os.path.join(folder, "s") if family == socket.AF_UNIX else ("127.0.0.1", 0))
        listener.listen()
        address = listener.getsockname()

        def far() -> None:
            sock = socket.socket(family)
            sock.connect(address)
            links.far(make(sock), workload, scale)

        os_pid = fork(far)
        sock, _ = listener.accept()
        links.near(make(sock), workload, scale)
        os.waitpid(os_pid, 0)
