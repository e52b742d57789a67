"""Signals as events of the fabric's loop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from constellation.fabric.loop import Loop

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD, signal.SIGWINCH)


def ended_children() -> Iterator[tuple[int, int]]:
    """Reap every child that has ended: its OS pid, and its exit code or, below zero, the signal."""
    while True:
        try:
            os_pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if os_pid == 0:
            return
        yield os_pid, os.waitstatus_to_exitcode(status)


class Signals:
    """Brings signals into the loop: a handler notes them, a wake-up descriptor wakes the loop."""

    def __init__(self, loop: Loop) -> None:
        """Install the handlers. Signals that came before, blocked, are delivered now."""
        self._pending: set[int] = set()
        self._read_end, self._write_end = socket.socketpair()
        for end in (self._read_end, self._write_end):
            end.setblocking(False)
        signal.set_wakeup_fd(self._write_end.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            # What the surroundings have chosen to ignore (nohup, a shell's background job) stays so.
            if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGCHLD:
                signal.signal(number, lambda signum, _frame: self._pending.add(signum))
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        loop.watch(self._read_end.fileno(), self._wake)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._read_end.recv(4096)

    @staticmethod
    def block() -> None:
        """Let none come any more: the interpreter's own end takes the handlers away, and one that comes then would kill."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def take(self) -> set[int]:
        """Give what has come since the last call."""
        if not self._pending:
            return self._pending
        pending, self._pending = self._pending, set()
        return pending
