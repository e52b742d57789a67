"""The thread that does the work of all WebSocket connections of one transport: there while there is one, and no longer."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from constellation_websocket.stream import Phase, Stream

GREETING_S = 10.0
"""Seconds that the handshakes may take on the side that was dialled."""
MOST_GREETING = 256
"""Connections without a finished handshake; beyond, the oldest gives way. Strangers must not use up the descriptors."""

_log = logging.getLogger("constellation_websocket")


class Door(Protocol):
    """What accepts connections."""

    @property
    def sock(self) -> socket.socket: ...

    def accepted(self, sock: socket.socket, now: float) -> Stream: ...


class Relay:
    """Runs streams and doors in a thread of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = -1
        self._selector: selectors.BaseSelector
        self._streams: dict[Stream, tuple[int, int]] = {}  # what is watched at each: the net, the local end
        self._greeting: dict[Stream, float] = {}  # since when, the oldest first
        self._doors: set[Door] = set()
        self._resting: float | None = None  # until when nobody is let in: there are no descriptors

    # In any thread

    def run_stream(self, stream: Stream) -> None:
        """Take a stream over."""
        self._do(lambda: self._add(stream))

    def refuse(self, stream: Stream, error: OSError) -> None:
        """Let go of a stream that has not ended its handshakes."""
        self._do(lambda: self._refuse(stream, error))

    def open_door(self, door: Door) -> None:
        """Let connections in."""
        self._do(lambda: self._open_door(door))

    def close_door(self, door: Door) -> None:
        """Let nobody in any more; returns when that is so."""
        done = threading.Event()
        self._do(lambda: self._close_door(door, done))
        done.wait()

    def _do(self, command: Callable[[], None]) -> None:
        with self._lock:
            self._commands.append(command)
            if self._thread is None:
                self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._thread = threading.Thread(target=self._run, name="constellation websocket", daemon=True)
                self._thread.start()
            else:
                os.eventfd_write(self._wake, 1)

    # In the thread

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            self._selector = selector
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                while self._commands:
                    self._commands.popleft()()
                with self._lock:
                    if not (self._commands or self._streams or self._doors):
                        os.close(self._wake)
                        self._thread = None
                        return
                self._step(selector)

    def _step(self, selector: selectors.BaseSelector) -> None:
        events = selector.select(self._wait())
        now = time.monotonic()
        for key, mask in events:
            if key.fd == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            elif isinstance(key.data, Stream):
                self._on_stream(key.data, key.fd, mask, now)
            else:
                self._on_door(key.data, now)
        for stream in list(self._streams):
            deadline = stream.next_deadline()
            if deadline is not None and now >= deadline:
                with self._apart(stream):
                    stream.on_time(now)
        for stream, since in list(self._greeting.items()):
            if now < since + GREETING_S:
                break
            self._refuse(stream, TimeoutError("the handshake has not ended in time"))
        if self._resting is not None and now >= self._resting:
            self._resting = None
            for door in self._doors:
                selector.register(door.sock, selectors.EVENT_READ, door)

    def _wait(self) -> float | None:
        deadlines = [deadline for stream in self._streams if (deadline := stream.next_deadline()) is not None]
        deadlines += [since + GREETING_S for since in list(self._greeting.values())[:1]]
        if self._resting is not None:
            deadlines.append(self._resting)
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _on_stream(self, stream: Stream, fd: int, mask: int, now: float) -> None:
        if stream not in self._streams:  # over since an event before this one
            return
        with self._apart(stream):
            if fd == stream.net.fileno():
                if mask & selectors.EVENT_READ and stream.reads_net:
                    stream.on_net(now)
            elif mask & selectors.EVENT_READ and stream.reads_local:
                stream.on_local(now)
            if mask & selectors.EVENT_WRITE and stream.phase is not Phase.OVER:
                stream.flush(now)

    def _add(self, stream: Stream) -> None:
        now = time.monotonic()
        self._streams[stream] = (-1, -1)
        if stream.door is not None:  # who dials looks at the time itself
            self._greeting[stream] = now
        with self._apart(stream):
            stream.flush(now)

    def _refuse(self, stream: Stream, error: OSError) -> None:
        if stream in self._streams:
            with self._apart(stream):
                stream.refuse(error)

    @contextlib.contextmanager
    def _apart(self, stream: Stream) -> Iterator[None]:
        """Do something with a stream: what goes wrong with it ends this one, and none of the others."""
        try:
            yield
        except Exception:
            _log.exception("a WebSocket connection is given up")
            stream.abandon()
        self._settle(stream)

    def _settle(self, stream: Stream) -> None:
        """Watch what is to be watched now; forget what is over."""
        if stream.phase is not Phase.GREETING:
            self._greeting.pop(stream, None)
        net, local = self._streams[stream]
        if stream.phase is Phase.OVER:
            for fd in (net, local):
                self._watch(fd, -1, 0, stream)
            del self._streams[stream]
            return
        wanted = stream.reads_net * selectors.EVENT_READ | stream.writes_net * selectors.EVENT_WRITE
        net = self._watch(net, stream.net.fileno(), wanted, stream)
        wanted = stream.reads_local * selectors.EVENT_READ | stream.writes_local * selectors.EVENT_WRITE
        local = self._watch(local, -1 if stream.local is None else stream.local.fileno(), wanted, stream)
        self._streams[stream] = (net, local)

    def _watch(self, before: int, fd: int, events: int, stream: Stream) -> int:
        """Watch a descriptor for events; none: not at all, for epoll would tell of a hang-up again and again."""
        selector = self._selector
        if before >= 0 and (before != fd or not events):
            with contextlib.suppress(KeyError, OSError):
                selector.unregister(before)
            before = -1
        if fd < 0 or not events:
            return -1
        if before < 0:
            selector.register(fd, events, stream)
        elif selector.get_key(fd).events != events:
            selector.modify(fd, events, stream)
        return fd

    # Doors

    def _open_door(self, door: Door) -> None:
        self._doors.add(door)
        self._selector.register(door.sock, selectors.EVENT_READ, door)

    def _close_door(self, door: Door, done: threading.Event) -> None:
        if door in self._doors:
            self._doors.discard(door)
            with contextlib.suppress(KeyError):
                self._selector.unregister(door.sock)
        for stream in [each for each in self._greeting if each.door is door]:
            self._refuse(stream, ConnectionAbortedError("nobody is let in any more"))
        door.sock.close()
        done.set()

    def _on_door(self, door: Door, now: float) -> None:
        try:
            sock, _ = door.sock.accept()
        except (BlockingIOError, ConnectionError, InterruptedError):
            return
        except OSError:
            # Out of descriptors: rest, instead of being told again and again.
            self._resting = now + 0.1
            for each in self._doors:
                self._selector.unregister(each.sock)
            return
        try:
            stream = door.accepted(sock, now)
        except OSError:
            sock.close()
            return
        self._add(stream)
        while len(self._greeting) > MOST_GREETING:
            self._refuse(next(iter(self._greeting)), ConnectionAbortedError("too many at the door"))
