"""The fabric's side of last stacks: a pipe for each process, in which Python writes when a fault ends it.

The pipe holds one packet, and the fault handler makes many: at the first one the process stands still, and what it has
used of its C stack is looked at before it is let go on to its death. These pipes are in the loop itself and not among
those of stdout and stderr: a process must not wait for its death until somebody reads its output.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import termios
from typing import TYPE_CHECKING

from constellation.core import fatal
from constellation.core.fatal import FATAL_BYTES, Fatal

if TYPE_CHECKING:
    from constellation.fabric.books import Process
    from constellation.fabric.loop import Loop

_PAGE = 4096
_READ = 64 << 10
_RUNS_THE_FUNCTION = ("constellation/process/life.py", "_call")


class LastStacks:
    """The last stacks of the processes of one computer.

    Args:
        loop: Where their pipes are watched.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def open(self, process: Process) -> int:
        """Make the pipe of a process; give the end that it writes to.

        Raises:
            OSError: The descriptors are exhausted.
        """
        read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_DIRECT)
        with contextlib.suppress(OSError):  # it is only larger then, and the process does not wait
            fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PAGE)
        self.take_in(process, read_end)
        return write_end

    def take_in(self, process: Process, read_end: int) -> None:
        """Watch the pipe of a process; its end is taken over."""
        os.set_blocking(read_end, False)
        process.last_stack_fd = read_end
        self._loop.watch(read_end, lambda: self._read(process))

    def _read(self, process: Process) -> None:
        if process.last_stack_fd < 0:  # an event of a predecessor, in the same batch
            return
        if not process.last_stack and _has_data(process.last_stack_fd):
            process.full_stack = _look(process.os_pid)
        try:
            while data := os.read(process.last_stack_fd, _READ):
                process.last_stack += data
                del process.last_stack[: max(0, len(process.last_stack) - FATAL_BYTES)]
        except BlockingIOError:
            return
        self._close(process)

    def _close(self, process: Process) -> None:
        if process.last_stack_fd >= 0:
            self._loop.unwatch(process.last_stack_fd)
            os.close(process.last_stack_fd)
            process.last_stack_fd = -1

    def forget(self, process: Process) -> None:
        """Close the pipe of a process that never began."""
        self._close(process)

    def end(self, process: Process, signum: int | None) -> tuple[Fatal | None, str]:
        """Read what is left of a process that has been waited for.

        Args:
            process: All that it wrote to stderr has been read.
            signum: The signal that ended it.

        Returns:
            The fault that ended it, if Python wrote of one; and what is to be shown of that: nothing where it stands in its
            stderr.
        """
        self._read(process)
        self._close(process)
        for data, is_ours in ((process.last_stack, True), (process.tail, False)):
            if data:
                found = fatal.find(data.decode("utf-8", "replace"), _RUNS_THE_FUNCTION)
                if found is not None and found.fits(signum):
                    found = found._replace(full_stack=process.full_stack if is_ours else None)
                    return found, found.text() if is_ours else ""
        return None, ""


def _has_data(fd: int) -> bool:
    count = array.array("i", [0])
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0] > 0


def _look(os_pid: int) -> int | None:
    """The size of the C stack of a process that has used it up."""
    try:
        with open(f"/proc/{os_pid}/maps", errors="replace") as maps, open(f"/proc/{os_pid}/limits") as limits:
            return fatal.full_stack(maps.read(), limits.read())
    except OSError:
        return None
