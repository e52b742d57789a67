"""What this process waits for, told to the node when it takes long. Nothing here runs for a short wait.

A wait is noted where a driver is about to sleep for long (`Reactor.sleep`), or a while after an await has been parked.
The place in the program is looked up only then: the innermost frame of the thread or task that is not ours.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Hashable
from types import FrameType
from typing import Any

from constellation.core.why import Wait

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Waits:
    """The long waits of one process.

    Args:
        tell: Called with the waits and whether nothing but another process can end them, after each change.
    """

    def __init__(self, tell: Callable[[list[Wait], bool], None]) -> None:
        self._tell = tell
        self._waits: dict[Hashable, tuple[Wait, bool]] = {}

    def begin(self, key: Hashable, what: str, place: str, waited: float, *, is_endless: bool) -> None:
        """A wait has become long.

        Args:
            key: Of the thread or task that waits.
            what: The operation, in words.
            place: ``file:line`` in the program.
            waited: For how many seconds already.
            is_endless: Whether only another process can end it.
        """
        self._waits[key] = (Wait(what, place, time.time() - waited), is_endless)
        self._say()

    def end(self, key: Hashable) -> None:
        """The wait is over, however it ended."""
        if self._waits.pop(key, None) is not None:
            self._say()

    @staticmethod
    def place_of_thread(thread: int) -> str:
        """Where in the program a thread stands."""
        return place_of(sys._current_frames().get(thread))

    def _say(self) -> None:
        told = list(self._waits.values())
        # A thread that is in no operation may do anything, also wake the others. One is the background's.
        others = len(sys._current_frames()) - 1
        threads = {key if isinstance(key, int) else None for key in self._waits}
        is_endless = all(endless for _, endless in told) and len(threads) >= others
        self._tell([wait for wait, _ in told], bool(told) and is_endless)


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
