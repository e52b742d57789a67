"""Drive two ends of a link as the runtime does: one call a wake, and nothing but what the descriptor tells.

A fault in readiness therefore shows in every check: where a link has bytes and its descriptor does not say so, nobody reads.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any, Final

from constellation.core.contracts import Buffer, Link
from constellation.testing.promises import Trial, expect

READ: Final = 128 << 10
"""What the runtime asks for at a time."""

MOST_TAKEN: Final = 64 << 20
"""What a link may take without a reader."""

_MOST_SPURIOUS: Final = 1000
"""Wakes for nothing in a row: what a handshake needs, and no spinning driver."""
_GATHER: Final = 256
_READABLE = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP


class End:
    """One end of a link, with what it has to send and what it has got."""

    def __init__(self, link: Link, trial: Trial, name: str) -> None:
        self.link = link
        self.name = name
        self.out: list[Buffer] = []
        self.sent = 0
        self.got = bytearray()
        self.end: str | None = None
        """How reading has ended: the empty bytes, or an OSError in words."""
        self.broken: OSError | None = None
        """What a send has raised."""
        self.busy = False
        self.wakes_for_nothing = 0
        self._tried = 0
        self._trial = trial
        self._pending: Callable[[], Any] | None = getattr(link, "pending", None)
        trial.at_end(link.close)

    def fileno(self) -> int:
        """The descriptor, checked."""
        fd = self.link.fileno()
        expect(type(fd) is int and fd >= 0, f"{self.name}: fileno() gives {fd!r}: expected a descriptor")
        return fd

    def is_pending(self) -> bool:
        """Whether the link holds bytes that its descriptor does not tell of."""
        return self._pending is not None and bool(self._pending())

    def read(self) -> bool:
        """Read once. False when there is nothing now."""
        chance = self._trial.chance
        size = READ if chance.random() < 0.7 else chance.randrange(1, 64)
        try:
            if chance.random() < 0.5:
                data = self.link.receive(size)
                expect(type(data) is bytes, f"{self.name}: receive({size}) gives {type(data).__name__}: expected bytes")
                expect(
                    len(data) <= size, f"{self.name}: receive({size}) gives {len(data)} bytes: expected at most {size}"
                )
            else:
                room = bytearray(size)
                count = self.link.receive_into(memoryview(room))
                expect(
                    type(count) is int and 0 <= count <= size,
                    f"{self.name}: receive_into of {size} bytes gives {count!r}: expected a count from 0 to {size}",
                )
                expect(
                    not any(room[count:]),
                    f"{self.name}: receive_into gives {count} and has written behind them: expected these bytes as they were",
                )
                data = bytes(room[:count])
        except BlockingIOError:
            return False
        except OSError as error:
            self.end = f"{type(error).__name__}: {error}"
            return True
        finally:
            self._trial.progress()
        if data:
            self.got += data
        else:
            self.end = "the end"
        return True

    def write(self) -> bool:
        """Write once. False when there is no room now."""
        chance = self._trial.chance
        several = len(self.out) > 1 and chance.random() < 0.7
        buffers = self.out[: chance.choice((2, 3, 16, _GATHER)) if several else 1]
        # A call that found no room is made again with the same bytes, or with these and more.
        while sum(map(len, buffers)) < self._tried and len(buffers) < len(self.out):
            buffers.append(self.out[len(buffers)])
        several, most = len(buffers) > 1, sum(map(len, buffers))
        try:
            count = self.link.send_many(buffers) if several else self.link.send(buffers[0])
            self._tried = 0
        except BlockingIOError:
            self._tried = most
            return False
        except OSError as error:
            self.broken = error
            self.out = []
            return True
        finally:
            self._trial.progress()
        call = "send_many" if several else "send"
        expect(
            type(count) is int and 1 <= count <= most,
            f"{self.name}: {call} of {most} bytes gives {count!r}: expected a count from 1 to {most}",
        )
        self.sent += count
        while self.out and count >= len(self.out[0]):
            count -= len(self.out[0])
            del self.out[0]
        if count:
            self.out[0] = memoryview(self.out[0])[count:]
        while self.out and not len(self.out[0]):
            del self.out[0]
        return True


def carry(trial: Trial, *ends: End, until: Callable[[], bool], why: str) -> None:
    """Read and write on all ends until something holds. Blocks.

    Args:
        trial: Whose patience it is.
        *ends: Who reads; those with something in ``out`` write.
        until: What is waited for.
        why: What has not happened, for the failure.
    """
    with select.epoll() as poll:
        asked = dict.fromkeys(ends, 0)
        by_fd = {}
        for end in ends:
            end.busy = False
            end.wakes_for_nothing = 0
            by_fd[end.fileno()] = end
            poll.register(end.fileno(), 0)
        deadline = time.monotonic() + trial.patience
        while not until():
            for end in ends:
                while end.out and not end.busy:
                    end.busy = not end.write()
                    deadline = time.monotonic() + trial.patience
                wanted = (0 if end.end is not None else select.EPOLLIN) | (select.EPOLLOUT if end.out else 0)
                if asked[end] != wanted:
                    poll.modify(end.fileno(), wanted)
                    asked[end] = wanted
            # In halves, so that a wait is told from a call that hangs.
            ready = poll.poll(0 if any(end.is_pending() for end in ends) else trial.patience / 2)
            trial.progress()
            events = dict(ready)
            for fd, end in by_fd.items():
                event = events.get(fd, 0)
                got_on = False
                if event & select.EPOLLOUT and end.out:
                    end.busy = False
                    got_on = end.write()
                    end.busy = not got_on
                if (event & _READABLE or end.is_pending()) and end.end is None:
                    got_on = end.read() or got_on
                if got_on:
                    deadline = time.monotonic() + trial.patience
                    end.wakes_for_nothing = 0
                elif event:
                    end.wakes_for_nothing += 1
                    if end.wakes_for_nothing > _MOST_SPURIOUS:
                        time.sleep(0.001)  # a handshake may take its time
            if time.monotonic() > deadline:
                raise AssertionError(f"{why} ({_state(ends, events)})")


def _state(ends: tuple[End, ...], events: dict[int, int]) -> str:
    parts = []
    for end in ends:
        ready = events.get(end.fileno(), 0)
        says = " and ".join([*["readable"] * bool(ready & _READABLE), *["writable"] * bool(ready & select.EPOLLOUT)])
        left = sum(map(len, end.out))
        parts.append(
            f"{end.name}: {end.sent} bytes taken, {left} waiting, {len(end.got)} read, "
            f"descriptor {says or 'neither readable nor writable'}"
        )
    return "; ".join(parts)
