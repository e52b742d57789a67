"""Two processes' halves of their channels, the wires between them and the node, without a socket, a thread or a clock.

The peers, wires and channels are the real ones (`constellation/process/`); links, the reactor and the runtime are as
little as they need. Who delivers what next is the test's choice.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

from constellation.core import messages, settings
from constellation.core.contracts import Buffer
from constellation.core.handshake import offer_of
from constellation.core.linklife import number_of
from constellation.core.pid import Pid
from constellation.process.memory import Pool
from constellation.process.peer import Peer
from constellation.process.reactor import EPOLLIN, EPOLLOUT
from constellation.serializers.pickle import PickleSerializer


class Pipe:
    """One direction of a link, with room for a number of bytes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.data = bytearray()
        self.is_ended = False  # by its writer
        self.is_closed = False  # by its reader


class MemoryLink:
    """One end of a link in memory. `cut` says how many bytes the next read may give."""

    def __init__(self, fd: int, out: Pipe, into: Pipe) -> None:
        self.fd, self.out, self.into = fd, out, into
        self.cut: Callable[[], int] = lambda: 1 << 30

    def fileno(self) -> int:
        """A number of its own."""
        return self.fd

    def send(self, data: Buffer, /) -> int:
        """As a socket's."""
        return self.send_many([data])

    def send_many(self, buffers: Sequence[Buffer], /) -> int:
        """As a socket's sendmsg."""
        if self.out.is_closed:
            raise BrokenPipeError
        data = b"".join(buffers)
        taken = min(len(data), self.out.room - len(self.out.data))
        if data and not taken:
            raise BlockingIOError
        self.out.data += data[:taken]
        return taken

    def receive(self, size: int, /) -> bytes:
        """As a socket's recv."""
        size = min(size, max(1, self.cut()))
        if not self.into.data and not self.into.is_ended:
            raise BlockingIOError
        data = bytes(self.into.data[:size])
        del self.into.data[:size]
        return data

    def receive_into(self, view: memoryview, /) -> int:
        """As a socket's recv_into."""
        data = self.receive(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """What was written still arrives; what was not read is lost."""
        self.out.is_ended = self.into.is_closed = True


class Epoll:
    """Remembers who asks for room to write."""

    def __init__(self) -> None:
        self.asked: dict[int, int] = {}

    def modify(self, fd: int, events: int) -> None:
        """As epoll's."""
        self.asked[fd] = events


class Owned:
    """A role that is always held."""

    def _is_owned(self) -> bool:
        return True


class FakeReactor:
    """What peers need of a reactor, driven by the test."""

    def __init__(self) -> None:
        self.handlers: dict[int, Any] = {}
        self.epoll = Epoll()
        self.touched: list[Any] = []
        self.deferred: list[Any] = []
        self.role = Owned()
        self.turn = 0

    def watch(self, fd: int, handler: Any) -> None:
        """Call it when there is something to read."""
        self.handlers[fd] = handler

    def forget(self, fd: int) -> None:
        """Do not."""
        self.handlers.pop(fd, None)

    def touch(self, source: Any) -> None:
        """Note it."""
        self.touched.append(source)

    def defer(self, wire: Any) -> None:
        """Flush it at the next wait."""
        if wire not in self.deferred:
            self.deferred.append(wire)

    def rouse(self) -> None:
        """Nobody sleeps."""

    def flush(self) -> None:
        """What a driver does before it sleeps."""
        while self.deferred:
            self.deferred.pop(0).release()


class Named:
    """A transport, as far as HELLO goes."""

    name = "memory"

    def __init__(self) -> None:
        self.links: dict[int, MemoryLink] = {}

    def adopt(self, fd: int) -> MemoryLink:
        """The link of a number."""
        return self.links[fd]


class Process:
    """One of the two."""

    def __init__(self, pair: Pair, number: int, credit: int) -> None:
        self.pid = Pid(1, number, bytes(16))
        self.pair = pair
        self.reactor = FakeReactor()
        self.transport = Named()
        self.serializer = PickleSerializer()
        self.credit = credit
        self.offer = offer_of(self.transport, self.serializer, credit)  # type: ignore[arg-type]  # as far as it goes
        self.leaving = False
        self.pool = Pool()
        self.is_drain_full = False
        self.budget = 1 << 40
        self.control = self
        self.is_open = True
        self.asks: deque[messages.Connect] = deque()
        self.told: deque[tuple[int, int]] = deque()
        self.lost: list[Peer] = []
        self.failed: list[tuple[Pid, str]] = []

    def packages(self) -> tuple[str, str]:
        """Nobody knows."""
        return "", ""

    def tell_lost(self, pid: Pid, reason: str) -> None:
        """To the node, about a link."""
        self.failed.append((pid, reason))

    def send(self, message: messages.Connect) -> None:
        """To the node."""
        self.asks.append(message)

    def widen(self, size: int) -> bool:
        """As the runtime's."""
        if size > self.budget:
            return False
        self.budget -= size
        return True

    def may_drain(self, channel: object, size: int) -> bool:
        """As the runtime's."""
        return size <= settings.DRAIN_LIMIT

    def watch_peer(self, peer: Peer) -> None:
        """A link has ended, and nobody had agreed to it."""
        self.lost.append(peer)


class Pair:
    """Two processes of one node."""

    def __init__(self, *, credit: int = settings.CREDIT, room: int = 1 << 20) -> None:
        self.room = room
        self.processes = [Process(self, number, credit) for number in (1, 2)]
        # A peer and its wires know a runtime and a reactor by what they call: these have it.
        self.peers = [Peer(self.processes[me], self.processes[1 - me].pid) for me in (0, 1)]  # type: ignore[arg-type]
        self.made = 0
        self._fds = itertools.count(1000)

    def enabled(self) -> list[Callable[[], None]]:
        """All that may happen next by itself."""
        steps: list[Callable[[], None]] = []
        for me in (0, 1):
            process = self.processes[me]
            for fd, handler in process.reactor.handlers.items():
                link = process.transport.links[fd]
                writable = process.reactor.epoll.asked.get(fd, EPOLLIN) & EPOLLOUT
                events = EPOLLIN if link.into.data or link.into.is_ended else 0
                if writable and (len(link.out.data) < link.out.room or link.out.is_closed):
                    events |= EPOLLOUT
                if events:
                    steps.append(lambda handler=handler, events=events: handler.on_ready(events))  # type: ignore[misc]
            if process.asks:
                steps.append(lambda me=me: self._node(me))  # type: ignore[misc]
            if process.told:
                steps.append(lambda me=me: self._tell(me))  # type: ignore[misc]
            if process.reactor.deferred:
                steps.append(process.reactor.flush)
        return steps

    def settle(self) -> None:
        """Until nothing happens by itself."""
        for _ in range(100_000):
            steps = self.enabled()
            if not steps:
                return
            for step in steps:
                step()
        raise AssertionError("the two keep each other busy for ever")

    def _node(self, me: int) -> None:
        message = self.processes[me].asks.popleft()
        number = number_of(self.made, message.after)
        if not number:
            return
        self.made = number
        ways = Pipe(self.room), Pipe(self.room)
        for at in (0, 1):
            fd = next(self._fds)
            self.processes[at].transport.links[fd] = MemoryLink(fd, ways[at], ways[1 - at])
            self.processes[at].told.append((number, fd))

    def _tell(self, me: int) -> None:
        number, fd = self.processes[me].told.popleft()
        with mock.patch("os.dup", lambda fd: fd):  # a link in memory has a number and no descriptor
            self.peers[me].on_link(number, fd)

    def links(self) -> int:
        """How many links are open at either end."""
        return sum(len(process.reactor.handlers) for process in self.processes)
