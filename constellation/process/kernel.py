"""The few calls to Linux that `os` lacks, and facts read from /proc."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import signal
import warnings
from collections.abc import Iterable, Iterator

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_FORK_SAFE = frozenset({"jemalloc_bg_thd"})
"""Names of threads that need not be counted before a fork: they use nothing but their allocator, and that one makes its
locks whole in parent and child by handlers of its own (jemalloc's background thread, which comes with pyarrow)."""

_MAP_SHARED, _PROT_NONE = 1, 0

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_CLOCK_MONOTONIC = 1
_Times = ctypes.c_long * 4
"""struct itimerspec: seconds and nanoseconds of the interval, and of the first time."""


def die_with_parent(parent: int) -> None:
    """Ask for SIGKILL when the parent ends; end at once if it already has.

    Must be called in the main thread of a process whose parent has one thread: the kernel watches the thread that forked.

    Args:
        parent: OS pid of the parent, known before the fork.
    """
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def outlive_parent() -> None:
    """Take `die_with_parent` back."""
    _prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)


def become_subreaper(*, on: bool = True) -> None:
    """Become the parent of descendants whose own parents have ended, or be it no longer. It stays so over an exec."""
    _prctl(_PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0)


def map_for_good(fd: int) -> None:
    """Map one page of a file, as long as this process lives, and for its forks. Python's own map would keep a descriptor."""
    _mmap(None, 1, _PROT_NONE, _MAP_SHARED, fd, 0)


def make_clock(seconds: int) -> int:
    """Make a descriptor that is readable every so many seconds (timerfd_create(2), which `os` has since Python 3.13).

    Raises:
        OSError: No descriptor can be had.
    """
    fd = int(_libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    _libc.timerfd_settime(fd, 0, ctypes.byref(_Times(seconds, 0, seconds, 0)), None)
    return fd


def thread_count() -> int:
    """Threads of this process as the kernel counts them; `threading` does not see those of libraries."""
    tasks = os.listdir("/proc/self/task")
    return len(tasks) if len(tasks) == 1 else sum(_name_of(task) not in _FORK_SAFE for task in tasks)


def _name_of(task: str) -> str:
    with contextlib.suppress(OSError):  # it has ended meanwhile
        with open(f"/proc/self/task/{task}/comm") as file:
            return file.read().rstrip("\n")
    return ""


def threads_after_fork() -> int:
    """Fork once for trial; return the largest number of threads that parent and child have afterwards.

    A library may end its threads at a fork (OpenBLAS does): then forks are safe, and 1 is the answer.
    """
    with fork_warnings_off():
        child = os.fork()
    if child == 0:
        os._exit(min(thread_count(), 100))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return max(thread_count(), code if code > 0 else 100)


@contextlib.contextmanager
def fork_warnings_off() -> Iterator[None]:
    """Silence what Python 3.12 says of a fork with threads: they are counted here, by the kernel's word."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def describe_lack(error: OSError) -> str:
    """Why something could not be had, with the limit that stood in the way and what to do."""
    words = error.strerror or str(error)
    if error.errno == errno.EMFILE:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"{words}: this process may open {limit}; raise that (ulimit -n), or close some"
    if error.errno == errno.EFBIG:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        return f"{words}: this process may write {limit} bytes to a file; raise that (ulimit -f)"
    return words


def fill_standard_descriptors() -> None:
    """Open /dev/null wherever 0, 1 or 2 is closed, so that no pipe of ours gets such a number."""
    fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    while fd <= 2:
        os.set_inheritable(fd, True)
        fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.close(fd)


def close_all_but(kept: Iterable[int]) -> None:
    """Close every descriptor above 2 that is not named."""
    low = 3
    for fd in sorted(set(kept)):
        if fd >= low:
            os.closerange(low, fd)
            low = fd + 1
    os.closerange(low, 1 << 30)  # one call of close_range(2)


def descendants(root: int) -> list[int]:
    """OS pids of all living descendants of a process, read from /proc in one pass."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
                if fields[0] not in {b"Z", b"X"}:
                    children.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found
