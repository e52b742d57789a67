"""Runs in a thread what would keep the loop waiting, and hands its result back to the loop."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from constellation.fabric.loop import Loop

T = TypeVar("T")


class Aside:
    """Threads beside a loop.

    Args:
        loop: The loop.
    """

    def __init__(self, loop: Loop) -> None:
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._done: deque[Callable[[], Any]] = deque()
        loop.watch(self._wake, self._hand_over)

    def run(self, work: Callable[[], T], on_done: Callable[[T], None], on_failed: Callable[[Exception], None]) -> None:
        """Run something in a thread of its own.

        Args:
            work: What to run; it must share nothing with the loop.
            on_done: Called in the loop with what it returned.
            on_failed: Called in the loop with what it raised.
        """

        def body() -> None:
            try:
                call = functools.partial(on_done, work())
            except Exception as error:  # whatever it is, the loop is told
                call = functools.partial(on_failed, error)
            self._done.append(call)
            os.eventfd_write(self._wake, 1)

        threading.Thread(target=body, daemon=True).start()

    def _hand_over(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        while self._done:
            self._done.popleft()()
