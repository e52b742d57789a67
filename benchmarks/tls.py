"""The encrypted link of the default transport beside a bare blocking TLS socket: `python -m benchmarks.tls`.

Two processes, one TCP connection over loopback for each, in turn. Ours is driven as the runtime drives it: one epoll, level
triggered, one call a wake. Round trips of a pickled int, and 64 MiB read by recv_into into memory that was used before.
"""

from __future__ import annotations

import os
import pickle
import select
import socket
import statistics
import sys
import time
from collections.abc import Callable
from typing import Protocol

from constellation.testing.certificates import Contexts, make_contexts
from constellation.transports.tls import TlsLink

BULK = 64 << 20
BULKS = 5
ROUNDS = 5
ROUND_TRIPS = 3000


class Path(Protocol):
    """One end of an encrypted path, with blocking calls."""

    def send(self, data: bytes | memoryview) -> None:
        """Send all. Blocks."""

    def receive(self) -> bytes:
        """Give what comes next. Blocks."""

    def receive_into(self, view: memoryview) -> None:
        """Fill a view. Blocks."""


class Bare:
    """The standard library's socket."""

    def __init__(self, sock: socket.socket, contexts: Contexts, *, server: bool) -> None:
        context = contexts.server if server else contexts.client
        self.tls = context.wrap_socket(sock, server_side=server)

    def send(self, data: bytes | memoryview) -> None:
        self.tls.sendall(data)

    def receive(self) -> bytes:
        return self.tls.recv(4096)

    def receive_into(self, view: memoryview) -> None:
        while view:
            view = view[self.tls.recv_into(view) :]


class Ours:
    """A link of ours in a loop such as the runtime's."""

    def __init__(self, sock: socket.socket, contexts: Contexts, *, server: bool) -> None:
        self.link = TlsLink(sock, contexts.server if server else contexts.client, server=server)
        self.reading, self.writing = select.epoll(), select.epoll()
        self.reading.register(self.link.fileno(), select.EPOLLIN)
        self.writing.register(self.link.fileno(), select.EPOLLOUT)

    def send(self, data: bytes | memoryview) -> None:
        while data:
            try:
                taken = self.link.send(data)
            except BlockingIOError:
                self.writing.poll(-1, 1)
                continue
            if taken == len(data):
                return
            data = memoryview(data)[taken:]

    def receive(self) -> bytes:
        while True:
            try:
                if not self.link.pending():
                    self.reading.poll(-1, 1)
                return self.link.receive(128 << 10)
            except BlockingIOError:
                pass

    def receive_into(self, view: memoryview) -> None:
        while view:
            try:
                view = view[self.link.receive_into(view) :]
            except BlockingIOError:
                self.reading.poll(-1, 1)


KINDS: dict[str, Callable[..., Path]] = {"bare TLS socket": Bare, "TlsLink": Ours}


def far(path: Path) -> None:
    """Answer the round trips, then take the bulk."""
    place = memoryview(bytearray(BULK))
    for _ in range(ROUND_TRIPS + 100):
        path.send(pickle.dumps(pickle.loads(path.receive()) + 1, 5))
    for _ in range(BULKS + 1):
        path.receive_into(place)
        path.send(b"done")


def near(path: Path) -> tuple[float, float]:
    """Measure: microseconds a round trip (median), MiB/s (median; the first is not counted)."""
    times = []
    for number in range(ROUND_TRIPS + 100):
        began = time.perf_counter()
        path.send(pickle.dumps(number, 5))
        pickle.loads(path.receive())
        times.append(time.perf_counter() - began)
    data = memoryview(os.urandom(BULK))
    speeds = []
    for _ in range(BULKS + 1):
        began = time.perf_counter()
        path.send(data)
        path.receive()
        speeds.append(BULK / (1 << 20) / (time.perf_counter() - began))
    return 1e6 * statistics.median(times[100:]), statistics.median(speeds[1:])


def measure(kind: str, contexts: Contexts) -> tuple[float, float]:
    """Run one kind in two processes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        child = os.fork()
        if not child:
            try:
                far(KINDS[kind](_tuned(socket.create_connection(listener.getsockname())), contexts, server=False))
            finally:
                os._exit(0)
        sock = _tuned(listener.accept()[0])
    figures = near(KINDS[kind](sock, contexts, server=True))
    os.waitpid(child, 0)
    return figures


def _tuned(sock: socket.socket) -> socket.socket:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def main() -> None:
    """Measure all kinds in turn, and print the medians and what they are to each other."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    contexts = make_contexts()
    got: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind in KINDS:
            got[kind].append(measure(kind, contexts))
    medians = {
        kind: (statistics.median(each[0] for each in figures), statistics.median(each[1] for each in figures))
        for kind, figures in got.items()
    }
    for kind, (trip, speed) in medians.items():
        print(f"{kind:16} round trip int {trip:6.1f} us   bulk 64 MiB {speed:6.0f} MiB/s")
    (bare_trip, bare_speed), (trip, speed) = medians.values()
    print(
        f"TlsLink / bare   round trip {trip / bare_trip:.2f} (at most 1.3)   bulk {speed / bare_speed:.2f} (at least 0.9)"
    )


if __name__ == "__main__":
    main()
