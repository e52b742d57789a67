"""What this process waits for, told to the node when it takes long. Nothing here runs for a short wait.

A wait is noted where a driver is about to sleep for long (`Reactor.sleep`), or a while after an await has been parked.
The place in the program is looked up only then: the innermost frame of the thread or task that is not ours.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` wraps: numbers stay numbers, ten times as fast
import os
import signal
import sys
import time
from collections.abc import Callable, Hashable, Iterable
from types import FrameType
from typing import Any, Protocol

from constellation.core.why import Need, Wait

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


_OUTSIDE = tuple(map(int, signal.valid_signals() - {
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGCONT, signal.SIGPIPE,
    signal.SIGWINCH, signal.SIGURG,
}))  # fmt: skip
"""Signals for which a program has a handler when it expects somebody to send them. The others ask it to end, or are ours."""


class _Awaited(Protocol):
    """What is waited for."""

    def explain(self) -> str: ...

    def need(self) -> Need: ...


class Waits:
    """The long waits of one process.

    Args:
        tell: Called with the waits and whether nothing but another process can end them, after each change.
    """

    def __init__(self, tell: Callable[[list[Wait], bool], None]) -> None:
        self._tell = tell
        self._waits: dict[Hashable, tuple[Wait, int]] = {}
        self._ends: set[Hashable] = set()  # keys of waits that may end by themselves

    def begin(
        self, key: Hashable, thread: int, awaited: _Awaited, place: str, waited: float, *, is_endless: bool
    ) -> None:
        """A wait has become long.

        Args:
            key: Of the thread or task that waits.
            thread: That it belongs to.
            awaited: What it waits for.
            place: ``file:line`` in the program.
            waited: For how many seconds already.
            is_endless: Whether only another process can end it.
        """
        self._waits[key] = (Wait(awaited.explain(), place, time.time() - waited, awaited.need()), thread)
        if not is_endless:
            self._ends.add(key)
        self._say()

    def judge(self, keys: Iterable[Hashable], *, is_endless: bool) -> None:
        """Say anew of waits that go on whether only another process can end them."""
        if is_endless:
            self._ends.difference_update(keys)
        else:
            self._ends.update(keys)
        self._say()

    def end(self, key: Hashable) -> None:
        """The wait is over, however it ended."""
        self._ends.discard(key)
        if self._waits.pop(key, None) is not None:
            self._say()

    @staticmethod
    def place_of_thread(thread: int) -> str:
        """Where in the program a thread stands."""
        return place_of(sys._current_frames().get(thread))

    def _say(self) -> None:
        # A thread that is in no operation may do anything, also wake the others. One is the background's.
        others = len(sys._current_frames()) - 1
        waiting = {thread for _, thread in self._waits.values()}
        is_endless = bool(self._waits) and not self._ends and len(waiting) >= others and not _expects_signals()
        self._tell([wait for wait, _ in self._waits.values()], is_endless)


def _expects_signals() -> bool:
    """Whether a signal may come whose handler does something: a timer's, or one that the program has a handler for."""
    if any(signal.getitimer(which)[0] for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)):
        return True
    return any(callable(_signal.getsignal(number)) for number in _OUTSIDE)


def place_of(frame: FrameType | None) -> str:
    """The innermost place at or above a frame that is not ours."""
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_OURS) and not name.startswith("<frozen"):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def place_of_task(task: Any) -> str:
    """Where in the program an asyncio task is suspended."""
    found = ""
    for frame in task.get_stack():
        if not frame.f_code.co_filename.startswith(_OURS):
            found = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return found


def place_of_trio_task(task: Any) -> str:
    """Where in the program a trio task is suspended."""
    found = ""
    for frame, line in task.iter_await_frames():
        name = frame.f_code.co_filename
        if not name.startswith(_OURS) and f"{os.sep}trio{os.sep}" not in name:
            found = f"{name}:{line}"
    return found
