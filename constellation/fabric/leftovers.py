"""What dead deployments have left on this computer: found by its marker (`core/marker.py`) and killed at a later start.

The keeper does this while its fabric starts. It looks only at processes of its own user, and never touches itself or what
it was started by: a person may work in a shell that has outlived a deployment. The keeper of a node that was started as root
looks at those of all users, for it runs deployments as other users, who may not start anything here for years.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping

from constellation.core import marker

_LIMIT_S = 1.0
"""For what forks faster than it is killed; the rest is left to the next start."""
_PAUSE_S = 0.005


def sweep(*, of_all_users: bool = False) -> None:
    """Blocks for some milliseconds. Kill all that dead deployments of this user have left, or of all users."""
    here = marker.machine(_read, os.readlink)
    spared = {os.getpid(), *_ancestors()}
    deadline = time.monotonic() + _LIMIT_S
    user = None if of_all_users else os.geteuid()
    while _sweep_once(here, spared, user) and time.monotonic() < deadline:
        # Those that are dying now are not found again; those that they had just forked are.
        time.sleep(_PAUSE_S)


def marking(environment: Mapping[str, str]) -> dict[str, str]:
    """What marks a process that this fabric starts with such an environment, and all that comes from it."""
    try:
        here = marker.machine(_read, os.readlink)
        chain = marker.outer(environment.get(marker.VARIABLE), here, _lives)
    except OSError:  # where /proc is not to be had, nobody could sweep either
        return {}
    keeper, fabric = marker.role(os.getppid(), _read), marker.role(os.getpid(), _read)
    return {marker.VARIABLE: marker.to_text(marker.inside(chain, keeper, fabric))}


def _sweep_once(here: str, spared: set[int], user: int | None) -> bool:
    """Kill what is found now of a user, or of all; say whether there was anything."""
    known: dict[marker.Role, bool] = {}

    def lives(role: marker.Role) -> bool:
        if role not in known:
            known[role] = _lives(role)
        return known[role]

    program = os.readlink("/proc/self/exe")
    found = False
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in spared:
            continue
        with contextlib.suppress(OSError):  # it has ended, or is not ours to look at
            if user is not None and os.stat(f"/proc/{name}").st_uid != user:
                continue
            chain = _chain_of(name, program)
            if chain is not None and marker.is_left(chain, here, lives):
                found |= _kill(int(name), chain, program)
    return found


def _kill(os_pid: int, chain: marker.Chain, program: str) -> bool:
    pidfd = os.pidfd_open(os_pid)
    try:
        if _chain_of(str(os_pid), program) != chain:  # another process of this number
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)
    return True


def _chain_of(os_pid: str, program: str) -> marker.Chain | None:
    with open(f"/proc/{os_pid}/environ", "rb", buffering=0) as file:
        environ = file.read()
    exe = os.readlink(f"/proc/{os_pid}/exe")
    maps = b""
    # What is mapped is lost with an exec: only an interpreter can have it. For others it would cost time.
    if exe == program or os.path.basename(exe).startswith("python"):
        with open(f"/proc/{os_pid}/maps", "rb") as file:
            maps = file.read()
    return marker.find(environ, maps)


def _ancestors() -> list[int]:
    found: list[int] = []
    os_pid = os.getpid()
    with contextlib.suppress(OSError, IndexError):
        while (os_pid := int(_read(f"/proc/{os_pid}/stat").rpartition(")")[2].split()[1])) > 1:
            found.append(os_pid)
    return found


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="surrogateescape") as file:
        return file.read()


def _lives(role: marker.Role) -> bool:
    return marker.lives(role, _read)
