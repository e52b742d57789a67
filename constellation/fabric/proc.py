"""What the kernel says of a process in /proc/PID/stat."""

from __future__ import annotations

import os
from typing import NamedTuple


class State(NamedTuple):
    """Of one process, at one moment."""

    letter: str
    """As ps shows it: R, S, D, T, t, Z, ..."""
    parent: int

    @property
    def is_stopped(self) -> bool:
        """Whether a signal or a debugger has stopped it."""
        return self.letter in {"T", "t"}


def are_asleep(os_pid: int) -> bool | None:
    """Whether all threads of a process sleep until something happens: none runs, is stopped, or has ended.

    None where it is not to be seen: it has gone, or the system shows nobody the processes of others.
    """
    try:
        states = [_read(f"/proc/{os_pid}/task/{thread}/stat") for thread in os.listdir(f"/proc/{os_pid}/task")]
    except OSError:
        return None
    return all(state is not None and state.letter == "S" for state in states)


def state_of(os_pid: int) -> State | None:
    """The state of a process; None for one that has gone."""
    return _read(f"/proc/{os_pid}/stat")


def _read(path: str) -> State | None:
    try:
        with open(path, "rb") as file:
            # The second field is the name in parentheses, which may itself hold anything.
            letter, parent = file.read().rpartition(b")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return State(letter.decode(), int(parent))


def command_of(os_pid: int) -> list[str]:
    """The command line of a process; empty for one that has gone."""
    try:
        with open(f"/proc/{os_pid}/cmdline", "rb") as file:
            return [each.decode(errors="replace") for each in file.read().split(b"\0")[:-1]]
    except OSError:
        return []
