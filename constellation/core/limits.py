"""How demands are held: what is held at all, in which units, when to look again, and what an end was due to.

Pure: texts of /proc and of control groups in, decisions out; `fabric.cgroups` and `fabric.limits` do what is said here.
`mem` kills; `cpu` is a weight, so that nobody is slowed while a core is free.
"""

from __future__ import annotations

import posixpath
from typing import NamedTuple

from constellation.core.resources import MILLIONTHS, Resources, format_mem

LEAST_MEM = 16 << 20
"""What no process is killed for, whatever it asked for: the pages of its template that Python writes to by itself, by
counting references, are some MiB."""

SHARES_EACH = 1024
"""cpu.shares (cgroup v1) of one core, as of any plain process."""
WEIGHT_EACH = 100
"""cpu.weight (cgroup v2) of one core."""
LEAST_WEIGHT = 2
MOST_SHARES = 1 << 18
MOST_WEIGHT = 10_000

NEAR_LIMIT = 128 << 12
"""The kernel charges 64 pages at a time: a group that was refused memory is nearer to its limit than this."""

FASTEST = 2 << 30
"""Bytes a second that a process may take; decides when to look again."""
SOONEST_S = 0.01
LATEST_S = 0.25
LOOK_SHARE = 0.05
"""Part of one core that looking at all watched processes may cost."""
STEADY = 256 << 10
"""A process that has taken no more than this since the last look is left alone for twice as long."""


class Held(NamedTuple):
    """Which demands of a process are to be held; None: not this one."""

    mem: int | None
    """Bytes that it may add to its template."""
    cpu: int | None
    """Millionths of a core, for its weight."""


def held(demand: Resources, *, is_all: bool) -> Held:
    """What to hold of a demand.

    Args:
        demand: What a process asks for.
        is_all: Whether a capacity is given, which is worth nothing unless all keep to their demands. Else only what the
            user wrote is held: nobody is killed for a number that nobody chose.
    """
    return Held(
        max(demand.mem, LEAST_MEM) if is_all or "mem" in demand.written else None,
        demand.cpu_millionths if is_all or "cpu" in demand.written else None,
    )


def shares(cpu: int) -> int:
    """cpu.shares of a number of millionths."""
    return min(max(LEAST_WEIGHT, cpu * SHARES_EACH // MILLIONTHS), MOST_SHARES)


def weight(cpu: int) -> int:
    """cpu.weight of a number of millionths."""
    return min(max(LEAST_WEIGHT, cpu * WEIGHT_EACH // MILLIONTHS), MOST_WEIGHT)


# Where the groups are


class Place(NamedTuple):
    """The folder of a process's own control group for one controller."""

    folder: str
    version: int


def places(cgroup: str, mountinfo: str) -> dict[str, Place]:
    """Find the control groups of a process for ``memory`` and ``cpu``.

    A controller that is bound to version 1 is not to be had in version 2.

    Args:
        cgroup: What /proc/PID/cgroup says.
        mountinfo: What /proc/PID/mountinfo says.

    Returns:
        Places by controller; for version 2 both, whether or not the controllers are enabled there.
    """
    mounts: dict[str, tuple[str, str]] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        here, there = before.split(), after.split()
        if len(here) < 5 or len(there) < 3 or there[0] not in {"cgroup", "cgroup2"} or not here[3].startswith("/"):
            continue
        names = [""] if there[0] == "cgroup2" else there[-1].split(",")
        for name in names:
            mounts.setdefault(name, (_unescaped(here[3]), _unescaped(here[4])))
    found: dict[str, Place] = {}
    for line in cgroup.splitlines():
        _, _, rest = line.partition(":")
        names_text, _, path = rest.partition(":")
        for name in names_text.split(","):
            if name not in mounts or name not in {"", "memory", "cpu"} or not path.startswith("/"):
                continue
            root, point = mounts[name]
            inside = posixpath.relpath(path, root)
            if inside.startswith(".."):  # mounted for another part of the tree than we are in
                continue
            folder = posixpath.normpath(posixpath.join(point, inside))
            if name:
                found[name] = Place(folder, 1)
            else:
                for each in ("memory", "cpu"):
                    found.setdefault(each, Place(folder, 2))
    return found


def _unescaped(text: str) -> str:
    """mountinfo writes blanks and the like as octal numbers."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        text = text.replace(code, chr(int(code[1:], 8)))
    return text


FOLDER_PREFIX = "constellation-"


class Owner(NamedTuple):
    """Who made a control group: a process of one pid namespace, told from later ones by its start time."""

    namespace: int
    os_pid: int
    start: int

    def folder(self, number: int) -> str:
        """Name of its n-th group."""
        return f"{FOLDER_PREFIX}{self.namespace}-{self.os_pid}-{self.start}-{number}"


def owner_of(name: str) -> Owner | None:
    """Who made a group of this name; None where it is not one of ours."""
    parts = name.removeprefix(FOLDER_PREFIX).split("-")
    if not name.startswith(FOLDER_PREFIX) or len(parts) != 4:
        return None
    if not all(part.isascii() and part.isdecimal() for part in parts):
        return None
    return Owner(*map(int, parts[:3]))


# Why it ended


class Counters(NamedTuple):
    """What the kernel counts of the group of one process."""

    kills: int = 0
    """Processes in it that were killed for want of memory, its own limit's or another's."""
    is_full: bool = False
    """Whether its own limit was what stood in the way."""


def read_keyed(text: str) -> dict[str, int]:
    """Read lines of a name and a number; others are passed over."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if value.strip().isdecimal():
            found[name.rstrip(":")] = int(value)
    return found


def counters_v1(oom_control: str, failures: str, peak: str, limit: str) -> Counters:
    """Read memory.oom_control, memory.failcnt, memory.max_usage_in_bytes and memory.limit_in_bytes."""
    kills = read_keyed(oom_control).get("oom_kill", 0)
    is_full = int(failures) > 0 and int(peak) >= int(limit) - NEAR_LIMIT
    return Counters(kills, is_full)


def counters_v2(events: str) -> Counters:
    """Read memory.events, whose ``oom`` counts only what is due to the group's own limit."""
    found = read_keyed(events)
    return Counters(found.get("oom_kill", 0), found.get("oom", 0) > 0)


OUT_OF_MEMORY = "out of memory: the kernel killed it when the machine, or the part of it that we are in, had none left"


def limit_cause(asked: int, limit: int, had: int | None) -> str:
    """The sentence for a process that took more than it may.

    Args:
        asked: What its demand says.
        limit: What was held, which is more for a very small demand.
        had: What it had when it was killed; None where only the kernel knows.
    """
    if had is not None:
        return f"memory limit: it asked for {format_mem(asked)} and had {_rounded(had)}"
    if limit != asked:
        return f"memory limit: it asked for {format_mem(asked)} and needed more than {format_mem(limit)}"
    return f"memory limit: it asked for {format_mem(asked)} and needed more"


def group_cause(counters: Counters, asked: int, limit: int) -> str | None:
    """Why a process with a group of its own was killed, by the kernel's counters; None: not for want of memory."""
    if counters.kills == 0:
        return None
    return limit_cause(asked, limit, None) if counters.is_full else OUT_OF_MEMORY


def _rounded(size: int) -> str:
    """Whole MiB where that is exact enough: what is measured at one moment is no exact number."""
    return format_mem(size >> 20 << 20) if size >= 10 << 20 else format_mem(size)


# The watchdog


def resident(status: str) -> int:
    """Bytes in memory and swapped out, by /proc/PID/status: cheap, and never less than what is private."""
    found = {name: value.split() for name, _, value in (line.partition(":") for line in status.splitlines())}
    return sum(int(found[name][0]) << 10 for name in ("VmRSS", "VmSwap") if found.get(name))


def private(smaps_rollup: str) -> int:
    """Bytes that a process alone has written, in memory or swapped out, by /proc/PID/smaps_rollup.

    Clean pages are left out: they are those of files, and cost nothing that the kernel could not have back.
    """
    total = 0
    for line in smaps_rollup.splitlines():
        name, _, value = line.partition(":")
        if name in {"Private_Dirty", "SwapPss"}:
            total += int(value.split()[0]) << 10
    return total


def next_look(limit: int, had: int, before: int, last: float, cost: float, watched: int) -> float:
    """Seconds until a watched process is looked at again.

    Args:
        limit: What it may have.
        had: What it had at most, now.
        before: The same at the last look.
        last: Seconds between the last look and this one.
        cost: Seconds that this look took.
        watched: How many processes are watched.
    """
    delay = (limit - had) / FASTEST
    if had - before <= STEADY:
        delay = max(delay, 2 * last)
    return max(min(max(delay, SOONEST_S), LATEST_S), cost * watched / LOOK_SHARE)
