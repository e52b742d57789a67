"""The fabric's event loop: one thread, one level-triggered epoll, timers in a heap.

Callbacks take no argument and find out for themselves what is ready: descriptor numbers are used again within one batch
of events, so a callback may be called for the event of a predecessor. Every descriptor is non-blocking, and such a call
finds nothing and returns.
"""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable

Callback = Callable[[], object]

_BATCH = 256


class Timer:
    """One call in the future; `cancel` makes it a no-op."""

    __slots__ = ("call",)

    def __init__(self, call: Callback) -> None:
        self.call: Callback | None = call

    def cancel(self) -> None:
        """Forget the call."""
        self.call = None


_LONGEST_WAIT = 1e6
"""The kernel counts milliseconds in an int, which ends after 24 days; who is woken too early waits again."""


class Loop:
    """Calls callbacks when descriptors are ready or times have come, until `stop`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_count = 0
        self._is_stopped = False

    @staticmethod
    def now() -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    def watch(self, fd: int, on_readable: Callback) -> None:
        """Call ``on_readable`` whenever ``fd`` has something to read, or its other end has gone."""
        if fd in self._readers:
            self._readers[fd] = on_readable
            return
        self._readers[fd] = on_readable
        self._set(fd, is_new=fd not in self._writers)

    def watch_room(self, fd: int, on_writable: Callback | None) -> None:
        """Call ``on_writable`` whenever ``fd`` has room to write; None ends that."""
        known = fd in self._writers or fd in self._readers
        if on_writable is not None:
            self._writers[fd] = on_writable
            self._set(fd, is_new=not known)
        elif self._writers.pop(fd, None) is not None:
            if fd in self._readers:
                self._set(fd, is_new=False)
            else:
                self._epoll.unregister(fd)

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor. To be called before it is closed: its number is soon used again."""
        known = self._readers.pop(fd, None) is not None
        known |= self._writers.pop(fd, None) is not None
        if known:
            self._epoll.unregister(fd)

    def _set(self, fd: int, *, is_new: bool) -> None:
        wanted = (select.EPOLLIN if fd in self._readers else 0) | (select.EPOLLOUT if fd in self._writers else 0)
        if is_new:
            self._epoll.register(fd, wanted)
        else:
            self._epoll.modify(fd, wanted)

    def call_at(self, when: float, call: Callback) -> Timer:
        """Call once at a time of the monotonic clock."""
        timer = Timer(call)
        self._timer_count += 1
        heapq.heappush(self._timers, (when, self._timer_count, timer))
        return timer

    def call_later(self, delay: float, call: Callback) -> Timer:
        """Call once after ``delay`` seconds; 0 means after the events that are ready now."""
        return self.call_at(time.monotonic() + delay, call)

    def stop(self) -> None:
        """Let `run` return after the current batch."""
        self._is_stopped = True

    def run(self) -> None:
        """Blocks. Run until `stop`."""
        while not self._is_stopped:
            self.step(None)

    def step(self, timeout: float | None) -> None:
        """Blocks. Handle one batch of events and the timers that are due.

        Args:
            timeout: Longest wait in seconds; None waits for an event or a timer.
        """
        timers = self._timers
        while timers and timers[0][2].call is None:
            heapq.heappop(timers)
        if timers:
            until_timer = min(max(0.0, timers[0][0] - time.monotonic()), _LONGEST_WAIT)
            timeout = until_timer if timeout is None else min(timeout, until_timer)
        events = self._epoll.poll(-1 if timeout is None else timeout, _BATCH)
        for fd, mask in events:
            if mask & ~select.EPOLLOUT:
                reader = self._readers.get(fd)
                if reader is not None:
                    reader()
            if mask & (select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP):
                writer = self._writers.get(fd)
                if writer is not None:
                    writer()
        if timers and timers[0][0] <= (now := time.monotonic()):
            while timers and timers[0][0] <= now:
                timer = heapq.heappop(timers)[2]
                if timer.call is not None:
                    timer.call()

    def close(self) -> None:
        """Give the epoll descriptor back."""
        self._epoll.close()
