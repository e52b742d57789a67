"""The monitor: holds the output pipes and the pidfd of each process, reads, signals and kills; runs no user code.

Pipes are in an epoll of their own inside the loop's: to stop reading all of them, when stdout does not take more, is one
call. A pipe may outlive its process, in the hands of a grandchild; it is read until its end or the deployment's.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import signal
import termios
from collections.abc import Callable

from constellation.core.lifecycle import KillOrder
from constellation.core.pid import Pid
from constellation.fabric.books import Process
from constellation.fabric.loop import Loop

_READ = 64 << 10
_BATCH = 64
_PIPE_BYTES = 64 << 10
"""What a pipe holds."""


class Monitor:
    """Output, signals and grace times of the processes of one deployment.

    Args:
        loop: The fabric's loop.
        on_output: Called with pid, 1 or 2, and bytes.
        has_room: Asked after each read; False pauses all reading until `resume`.
    """

    def __init__(self, loop: Loop, on_output: Callable[[Pid, int, bytes], None], has_room: Callable[[], bool]) -> None:
        self._loop = loop
        self._on_output = on_output
        self._has_room = has_room
        self._epoll = select.epoll()
        self._pipes: dict[int, tuple[Process, int]] = {}
        self._is_paused = False
        loop.watch(self._epoll.fileno(), self._read_ready)

    def listen(self, process: Process) -> None:
        """Begin to read what a process writes."""
        for fd, number in process.outputs.items():
            if fd not in self._pipes:
                self._pipes[fd] = (process, number)
                self._epoll.register(fd, select.EPOLLIN)

    def _read_ready(self) -> None:
        for fd, _ in self._epoll.poll(0, _BATCH):
            if fd in self._pipes:
                self._read(fd, _READ)
            if not self._has_room():
                self.pause()
                return

    def is_full(self, process: Process) -> bool:
        """Whether a pipe of a process takes no more, or hardly."""
        return any(_waiting_bytes(fd) > _PIPE_BYTES - select.PIPE_BUF for fd in process.outputs)

    def pause(self) -> None:
        """Read nothing until `resume`; the processes wait when their pipes are full."""
        if not self._is_paused:
            self._is_paused = True
            self._loop.unwatch(self._epoll.fileno())

    def resume(self) -> None:
        """Read again."""
        if self._is_paused and self._has_room():
            self._is_paused = False
            self._loop.watch(self._epoll.fileno(), self._read_ready)

    def _read(self, fd: int, size: int) -> int:
        process, number = self._pipes[fd]
        try:
            data = os.read(fd, size)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if not data:
            self._forget(fd)
            return 0
        if number != 1:
            process.remember(data)
        if number:
            self._on_output(process.pid, number, data)
        return len(data)

    def _forget(self, fd: int) -> None:
        process, _ = self._pipes.pop(fd)
        process.outputs.pop(fd, None)
        self._epoll.unregister(fd)
        os.close(fd)

    def drain(self, process: Process) -> None:
        """Read what a process that has ended left in its pipes; not what a grandchild goes on writing."""
        self.listen(process)
        for fd in list(process.outputs):
            left = _waiting_bytes(fd)
            while left > 0:
                done = self._read(fd, min(left, _READ))
                if not done:
                    break
                left -= done
            else:
                # Finds the end of file where nobody else holds the pipe, so that it is given back now.
                if fd in process.outputs and _is_at_end(fd):
                    self._forget(fd)

    def abandon(self, process: Process) -> bytes:
        """Close the pipes of a process that never began; give what stood in them, for the spawner."""
        words = b""
        for fd in list(process.outputs):
            with contextlib.suppress(BlockingIOError, OSError):
                words += os.read(fd, _READ)
            if fd in self._pipes:
                self._forget(fd)
            else:
                os.close(fd)
        process.outputs.clear()
        return words

    def show(self, process: Process, text: str) -> None:
        """Show something as if the process had written it to stderr."""
        if text:
            self._on_output(process.pid, 2, text.encode("utf-8", "backslashreplace"))

    def drain_all(self) -> None:
        """Read what is left in every pipe, and close them all: the deployment has ended."""
        for fd, (process, _) in list(self._pipes.items()):
            self.drain(process)
            if fd in self._pipes:
                self._forget(fd)

    def ask(self, process: Process, cause: str, grace: float) -> None:
        """Ask a process to end, and kill it after ``grace`` seconds."""
        self._deliver(process, process.order.ask(cause, grace, self._loop.now()))
        deadline = process.order.next_deadline()
        if deadline is not None:
            self._loop.call_at(deadline, lambda: self._deliver(process, process.order.tick(self._loop.now())))

    def signal(self, process: Process, signum: int, cause: str) -> None:
        """Send a signal whose consequences are somebody else's decision."""
        self._deliver(process, process.order.note(cause, signum))

    def signal_quietly(self, processes: list[Process], signum: int) -> None:
        """Send a signal that has nothing to do with their end."""
        for process in processes:
            if not process.is_attached:
                self._deliver(process, signum)

    def kill(self, process: Process, cause: str) -> None:
        """Kill a process now."""
        self._deliver(process, process.order.kill(cause))

    def catch_up(self, process: Process) -> None:
        """Send what was ordered before the process could take it."""
        self._deliver(process, process.order.asked_with)

    @staticmethod
    def _deliver(process: Process, signum: int | None) -> None:
        # A fresh fork still has the template's handlers: a signal to be handled waits until it says that it is ready.
        if signum is None or process.pidfd < 0 or not (process.is_ready or signum == signal.SIGKILL):
            return
        # It may have ended and been waited for already, while the news of it is on its way.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(process.pidfd, signum)

    def release(self, process: Process) -> None:
        """Give back what a process that has ended does not need; its pipes close at their end."""
        if process.pidfd >= 0:
            os.close(process.pidfd)
            process.pidfd = -1
        process.order = KillOrder()


def _waiting_bytes(fd: int) -> int:
    count = array.array("i", [0])
    try:
        fcntl.ioctl(fd, termios.FIONREAD, count)
    except OSError:
        return 0
    return count[0]


def _is_at_end(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(mask & select.POLLHUP and not mask & select.POLLIN for _, mask in poll.poll(0))
