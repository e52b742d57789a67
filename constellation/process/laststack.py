"""Where Python writes its last stack when a fault ends it: a pipe to the monitor.

faulthandler has an alternate stack for signals, so a C stack overflow of the main thread is told too. It is set up once,
before forks, to write to a descriptor of ours; in each process that descriptor is made the pipe. A program that has
enabled faulthandler before init() keeps what it has: then the stack stands in its stderr, and is found there. One that
does so later takes it over from us.

The pipe holds a single packet and the fault handler makes several, so the process waits, not yet dead, until the monitor
has looked at it: whether it has used up its C stack can be known in no other way.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os

_PAGE = 4096

_fd = -1
_pipe: tuple[int, int] | None = None
"""Device and inode of the pipe that `_fd` is: a program may have closed it, and have the number used for something else."""


def open_pipe() -> tuple[int, int]:
    """Make such a pipe: the monitor's end and the process's.

    Raises:
        OSError: The descriptors are exhausted.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_DIRECT)
    with contextlib.suppress(OSError):  # it is only larger then, and the process does not wait
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PAGE)
    return read_end, write_end


def prepare() -> None:
    """Have faults of this process written to stderr, unless the program has said where to."""
    global _fd, _pipe  # inherited by the processes that are forked from here
    if _fd >= 0:
        leave()
    elif not faulthandler.is_enabled():
        _fd = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 3)
        faulthandler.enable(_fd, all_threads=False)
    _pipe = None


def aim(pipe: int) -> None:
    """Have faults of this process, from now on, written to a pipe, which is taken over."""
    global _pipe
    if _fd >= 0:
        os.dup2(pipe, _fd, inheritable=False)
        status = os.fstat(_fd)
        _pipe = status.st_dev, status.st_ino
    os.close(pipe)


def leave() -> None:
    """In a process that is not the monitor's any more, a child of the program's own: write to stderr."""
    global _pipe
    if _pipe is None:
        return
    with contextlib.suppress(OSError):
        status = os.fstat(_fd)
        if (status.st_dev, status.st_ino) == _pipe:
            os.dup2(2, _fd, inheritable=False)
    _pipe = None
