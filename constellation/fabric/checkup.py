"""Looks at this computer: the facts that core/health.py judges. Each stands alone, and none is waited for longer than it takes.

Nothing is changed by it, but for what is made to see whether it can be and removed at once: a control group, a descriptor. It
may run in a thread beside a daemon's loop, and starts no process, whose end the daemon would hear of.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import select
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import constellation
from constellation.core.address import Address
from constellation.core.errors import ConstellationError, UsageError
from constellation.core.listing import UNUSABLE, listing
from constellation.core.requirements import Stated
from constellation.core.settings import WIRE_VERSION
from constellation.fabric import cgroups, credential, requirements
from constellation.fabric.front import listen

SHOWN: Final = ("msgpack", "pluggy", "cryptography", "click")
"""Packages whose versions are told: what travels, and what certificates are made with, depends on them."""

_UNSYNCHRONISED = 0x40  # STA_UNSYNC of adjtimex(2)
_ERROR = 5  # TIME_ERROR


def look(
    state: str,
    *,
    plugins: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    ports: Sequence[Address] = (),
) -> dict[str, Any]:
    """Blocks for a moment. Gather the facts of this computer, as this process sees it.

    Args:
        state: The folder in which a daemon keeps its files; its nearest parent counts where it is not there yet.
        plugins: Enabled ones, each with what enables it: they are imported. The others are only looked at.
        options: What is given for options of plugins.
        ports: Addresses of which to see whether a daemon could listen there.
    """
    facts: dict[str, Any] = {
        "python": list(sys.version_info[:3]),
        "implementation": sys.implementation.name,
        "executable": sys.executable,
        "constellation": constellation.__version__,
        "wire": WIRE_VERSION,
        "versions": _versions(),
        "lacks": _lacks(),
        "plugins": _plugins(plugins or {}, options or {}),
        "proc": os.path.exists("/proc/self/stat"),
        "memory_groups": _memory_groups(),
        "smaps": _smaps(),
        "confined": _confined(),
        "files": list(resource.getrlimit(resource.RLIMIT_NOFILE)),
        "calls": _calls(),
        "disks": [
            _disk("state", _nearest(state)),
            _disk("temporary", tempfile.gettempdir()),
            _disk("shared", "/dev/shm"),  # noqa: S108  # looked at, not written to
        ],
        "clock": _clock(),
    }
    if ports:
        facts["ports"] = [[str(address), _port(address)] for address in ports]
    return facts


def _versions() -> list[list[str]]:
    import importlib_metadata  # late: it costs what the whole start does

    found = []
    for name in SHOWN:
        with contextlib.suppress(importlib_metadata.PackageNotFoundError):
            found.append([name, str(importlib_metadata.version(name))])
    return found


def _lacks() -> list[list[str]]:
    """What constellation and the distributions of plugins ask for, and this Python does not have: owner, requirement, has."""
    environment = requirements.this_environment()
    lacks = []
    for owner in dict.fromkeys((requirements.NODE_DISTRIBUTION, *requirements.node_distributions())):
        found = environment.find(owner)
        if found is None:
            continue
        # What belongs to an extra is asked for by nobody yet.
        wanted = tuple(each for each in found.requires if "extra ==" not in each)
        try:
            missing = requirements.satisfied_by(Stated(owner, wanted), environment)
            lacks += [[owner, lack.requirement, lack.has] for lack in missing]
        except ConstellationError as error:
            lacks.append([owner, "requirements that can be read", str(error)])
    return lacks


def _plugins(names: Mapping[str, str], options: Mapping[str, Any]) -> list[list[Any]]:
    try:
        lines = listing(names, options)
    except ConstellationError as error:
        return [["", "", str(error), True]]
    return [
        [
            line.name,
            f"{line.package} {line.version}" if line.package else "",
            line.reason if line.state == UNUSABLE else "",
            bool(line.enabled_by),
        ]
        for line in lines
        if line.source != "default"
    ]


def _memory_groups() -> list[Any]:
    """Version of the control groups for memory, and why none can be made; empty: one could."""
    place = cgroups.find().get("memory")
    if place is None:
        return [0, "there is none for memory here"]
    tree = cgroups.Tree(place, ("mem",), cgroups.myself())
    try:
        group = tree.take()
        if group is None:
            return [place.version, tree.fault]
        try:
            tree.limit(group, 1 << 30, None)
        except OSError as error:
            return [place.version, f"{error.filename}: {error.strerror}"]
        finally:
            tree.release(group)
        return [place.version, ""]
    finally:
        tree.close()


def _smaps() -> str:
    """Why the memory of processes cannot be watched; empty: it can."""
    try:
        with open("/proc/self/smaps_rollup", "rb") as file:
            file.read()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _confined() -> list[int]:
    """What confines this process: the mode of seccomp, whether it may gain no rights, who may trace it (Yama); -1: unknown."""
    said = {"Seccomp": -1, "NoNewPrivs": -1}
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name in said:
                    said[name] = int(value)
    scope = -1
    with contextlib.suppress(OSError, ValueError), open("/proc/sys/kernel/yama/ptrace_scope", encoding="ascii") as file:
        scope = int(file.read())
    return [*said.values(), scope]


def _calls() -> list[list[str]]:
    """Calls of the kernel without which nothing works: each, and why it is refused; empty: it is not."""

    def pidfd() -> None:
        fd = os.pidfd_open(os.getpid())
        try:
            signal.pidfd_send_signal(fd, 0)
        finally:
            os.close(fd)

    def passing() -> None:
        one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with one, two:
            socket.send_fds(one, [b"x"], [one.fileno()])
            for fd in socket.recv_fds(two, 1, 1)[1]:
                os.close(fd)

    def subreaper() -> None:
        state = ctypes.c_int()
        if ctypes.CDLL(None, use_errno=True).prctl(37, ctypes.byref(state), 0, 0, 0):  # PR_GET_CHILD_SUBREAPER
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    tried: dict[str, Callable[[], object]] = {
        "pidfd_open": pidfd,
        "memfd_create": lambda: os.close(os.memfd_create("doctor")),
        "eventfd": lambda: os.close(os.eventfd(0)),
        "epoll": lambda: select.epoll().close(),
        "SCM_RIGHTS": passing,
        "prctl": subreaper,
    }
    found = []
    for name, call in tried.items():
        try:
            call()
        except OSError as error:
            found.append([name, error.strerror or str(error)])
        else:
            found.append([name, ""])
    return found


def _nearest(folder: str) -> str:
    """The folder itself, or the nearest above it that is there."""
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    return folder


def _disk(use: str, folder: str) -> list[Any]:
    try:
        status = os.statvfs(folder)
    except OSError as error:
        return [use, folder, 0, error.strerror or str(error)]
    fault = "" if os.access(folder, os.W_OK) else "this user may not write there"
    return [use, folder, status.f_bavail * status.f_frsize, fault]


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2), as far as it is read; the rest is room."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 64),
    )


def _clock() -> str:
    """Whether the kernel says that something keeps its clock right."""
    asked = _Timex()
    try:
        answer = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(asked))
    except AttributeError:
        return "unknown"
    if answer < 0:
        return "unknown"
    return "not synchronised" if answer == _ERROR or asked.status & _UNSYNCHRONISED else "synchronised"


def _port(address: Address) -> str:
    """Why a daemon cannot listen there; empty: it can."""
    try:
        listen(address).close()
    except UsageError as error:
        return str(error).removeprefix(f"cannot listen on {address}: ")
    return ""


def of_credential(kind: str, path: str | None) -> list[Any]:
    """The facts of a credential file: kind, path, state, what is wrong with it, seconds until it expires.

    Args:
        kind: ``node`` or ``deployer``.
        path: The file; None for where it is looked for.
    """
    name = credential.NODE_FILE if kind == "node" else credential.DEPLOYER_FILE
    chosen = path or os.path.join(credential.default_folder(), name)
    if not os.path.lexists(chosen):
        return [kind, chosen, "absent" if path is None else "wrong", "it does not exist", 0.0]
    try:
        seconds = credential.remaining(kind, chosen)
    except ConstellationError as error:
        return [kind, chosen, "wrong", str(error), 0.0]
    return [kind, chosen, "ok", "", seconds]


def this_machine() -> str:
    """One line on this computer, for the head of a report."""
    return f"{platform.node()}, {platform.system()} {platform.release()}, Python {platform.python_version()}"
