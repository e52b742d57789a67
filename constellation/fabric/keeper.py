"""The keeper: the tiny process that a shell waits for, above the fabric, and that leaves nothing behind.

It imports nothing heavy, so that it starts at once (``python -I -S``), and nothing of constellation but where it goes
on whatever happens there: it sweeps what earlier deployments left behind that had nobody to do so, while its own fabric
starts; when the fabric is dead it says so of each process, and removes control groups. It is a subreaper: whoever below
loses its parent becomes its child. It passes the signals that ask for an end on to the fabric, waits for it, then kills
and reaps whatever is left until there is nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time

TYPE_CHECKING = False  # typing takes longer to load than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable

    from constellation.fabric.notices import ManagerLine

_PR_SET_CHILD_SUBREAPER = 36
_SI_KERNEL = 0x80  # sigaction(2): sent by the kernel, here: typed at the terminal, whose whole group gets it
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
_SWEEP_LIMIT_S = 10.0
_WATCHED = (*_PASSED_ON, signal.SIGCHLD, signal.SIGIO)  # SIGIO: there is something for the service manager


def main(
    fabric: int,
    keeper_end: int,
    book: int = -1,
    *,
    of_all_users: bool = False,
    manager: ManagerLine | None = None,
    say: Callable[[str], None] | None = None,
) -> int:
    """Blocks. Keep a fabric until its end, then sweep.

    Args:
        fabric: OS pid of the fabric, a child of this process.
        keeper_end: Write end of the pipe by which the fabric learns that the keeper has gone; one byte is written when
            the terminal's settings have been remembered and the fabric may change them.
        book: Memory in which the fabric notes its processes; below 0: there is none.
        of_all_users: Whether the fabric runs programs as other users: what those of an earlier one have left is swept too.
        manager: The way from the fabric to the service manager.
        say: Writes a line of the log; without it the line goes to stderr as it is.

    Returns:
        The exit code: the fabric's, or 1 where a signal killed it.
    """
    # Blocked, they wait for sigwaitinfo, and none can come between a check and the wait for the next.
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    ignored = {number for number in _PASSED_ON if signal.getsignal(number) == signal.SIG_IGN}
    become_subreaper()
    terminal = _terminal_settings()
    with contextlib.suppress(OSError):
        os.write(keeper_end, b"k")
    if manager is not None:
        manager.begin()
    _sweep_earlier(of_all_users=of_all_users)
    while (status := _reap(fabric)) is None:
        if manager is not None:
            manager.pass_on()
        news = signal.sigwaitinfo(_WATCHED)
        if news.si_signo not in _PASSED_ON or news.si_signo in ignored:
            continue
        if news.si_signo == signal.SIGINT and news.si_code == _SI_KERNEL:
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(fabric, news.si_signo)
    if manager is not None:
        manager.pass_on()
    sweep()
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        if code > 0:
            _say_last_words(book, code)
        return code
    _restore(terminal)
    _remove_groups()
    _say_last_words(book, code)
    text = f"the fabric was killed by {_name(-code)}; all its processes have been killed"
    if say is not None:
        say(text)
    else:
        with contextlib.suppress(OSError):
            os.write(2, f"constellation: {text}\n".encode())
    return 1


def _say_last_words(book: int, code: int) -> None:
    """Say of each process that it was lost, unless the fabric has said how all of them ended."""
    with contextlib.suppress(Exception):  # nobody may be there to hear it, and the exit code must be given
        if book >= 0:
            from constellation.fabric import lastwords  # late: a fabric that ends by itself needs none

            lastwords.say(book, code)


def _sweep_earlier(*, of_all_users: bool) -> None:
    """Kill what dead deployments have left."""
    with contextlib.suppress(Exception):  # whatever is wrong with others, this deployment is kept
        from constellation.fabric import leftovers  # late: what fails to load must not fail the keeper

        leftovers.sweep(of_all_users=of_all_users)


def _remove_groups() -> None:
    """Remove the control groups that the fabric could not."""
    with contextlib.suppress(Exception):  # whatever is wrong with them, the end is told
        from constellation.fabric import cgroups  # late: a fabric that ends by itself leaves none

        cgroups.remove_left(cgroups.find())


def _reap(fabric: int) -> int | None:
    """Reap every child that has ended; give the wait status of the fabric once it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while True:
            os_pid, status = os.waitpid(-1, os.WNOHANG)
            if os_pid == 0:
                break
            if os_pid == fabric:
                found = status
    return found


def become_subreaper() -> None:
    """Make this process the parent of whoever below loses its own (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def sweep() -> None:
    """Blocks. Kill and reap all descendants of this process, a subreaper, until there are none.

    Those that fork faster than /proc is read become our children when their parents die, so the next round has them.
    What the kernel does not let go of (a dead file server) is left to it after `_SWEEP_LIMIT_S`.
    """
    deadline = time.monotonic() + _SWEEP_LIMIT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            kill_descendants()
            if not _reap_briefly():
                return
            continue
        return


def kill_descendants() -> None:
    """Kill all descendants of this process that there are now."""
    for os_pid in _descendants(os.getpid()):
        # A user program with more rights than ours cannot be killed, and must not keep us here.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(os_pid, signal.SIGKILL)


def _reap_briefly() -> bool:
    """Wait for the next child's end, at most 20 ms; say whether that, or anything to kill, is left."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    if os.waitpid(-1, os.WNOHANG)[0]:
        return True
    signal.sigtimedwait([signal.SIGCHLD], 0.02)
    return any(_can_be_killed(os_pid) for os_pid in _descendants(os.getpid()))


def _can_be_killed(os_pid: int) -> bool:
    try:
        os.kill(os_pid, 0)
    except PermissionError:
        return False
    except ProcessLookupError:
        return True
    return True


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    # The second field is the name in parentheses, which may itself hold anything.
                    parent = int(file.read().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _terminal_settings() -> list[object] | None:
    if not os.isatty(0):
        return None
    import termios  # a shared library, not needed in a pipe

    try:
        return termios.tcgetattr(0) if os.tcgetpgrp(0) == os.getpgrp() else None
    except (OSError, termios.error):
        return None


def _restore(settings: list[object] | None) -> None:
    if settings is None:
        return
    import termios  # as above

    with contextlib.suppress(OSError, termios.error):
        if os.tcgetpgrp(0) == os.getpgrp():
            termios.tcsetattr(0, termios.TCSANOW, settings)  # type: ignore[arg-type]  # exactly what tcgetattr gave


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
