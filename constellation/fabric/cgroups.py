"""Control groups: one folder for each process whose demand is held, beneath the group that the fabric itself is in.

They lie side by side, so that a process weighs as much against everybody else as its cores say; their names tell the fabric
that made them, so that a keeper, or the next start, can remove what a dead one left. Standard library and `core.limits`
only: the keeper imports this too.

Version 1 is entered through ``tasks``, by the process itself: the kernel then takes no lock over all forks of the computer,
which moves by ``cgroup.procs`` do (60 µs against 14 ms). Version 2 has nothing better than ``cgroup.procs``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping

from constellation.core.limits import (
    Counters,
    Owner,
    Place,
    counters_v1,
    counters_v2,
    owner_of,
    places,
    read_keyed,
    shares,
    weight,
)
from constellation.core.marker import start_time

SPARES = 2
"""Groups that are made ahead: making one takes 0.1 ms, and a spawn need not wait for it."""

_REMOVE_LIMIT_S = 0.5
_FIRST_PAUSE_S = 0.001

_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""What may be better the next time."""

_make = os.mkdir
_remove = os.rmdir


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CLOEXEC)


class Group:
    """One control group, for one process."""

    __slots__ = ("entrance", "folder")

    def __init__(self, folder: str, entrance: int) -> None:
        self.folder = folder
        self.entrance = entrance
        """A process that writes "0" to this descriptor is in; -1 once it has been given away."""

    def take_entrance(self) -> int:
        """Give the descriptor away."""
        entrance, self.entrance = self.entrance, -1
        return entrance

    def close(self) -> None:
        """Give the descriptor back; the folder stays."""
        if self.entrance >= 0:
            os.close(self.take_entrance())


class Tree:
    """The groups of one deployment in one hierarchy: version 1 has one for each controller, version 2 one for both.

    Args:
        place: The fabric's own group.
        holds: "mem", "cpu", or both.
        owner: For the names of the groups.

    Attributes:
        fault: Why no group could be made here; empty: one always could.
    """

    def __init__(self, place: Place, holds: Iterable[str], owner: Owner) -> None:
        self.holds = frozenset(holds)
        self.version = place.version
        self.fault = ""
        self._is_closed = False
        self._base = place.folder
        self._owner = owner
        self._count = 0
        self._spares: list[Group] = []
        self._busy: list[str] = []
        self._is_prepared = self.version == 1
        self._limits_swap = self.version == 2 or has_swap()

    def take(self, enter: Callable[[str], int] = _open) -> Group | None:
        """Give a group for one process; None where that is not allowed, and then `fault` says why.

        Args:
            enter: Opens the file by which a process enters it, with the rights of whom that is for.
        """
        if self._spares and enter is _open:
            return self._spares.pop()
        if self._is_closed:
            return None
        try:
            self._prepare()
            return self._new(enter)
        except OSError as error:
            self.fault = f"{error.filename}: {error.strerror}"
            self._is_closed = error.errno not in _PASSING
            return None

    def refill(self) -> None:
        """Make groups ahead."""
        while not self._is_closed and len(self._spares) < SPARES:
            try:
                self._spares.append(self._new(_open))
            except OSError:
                return

    def _prepare(self) -> None:
        if self._is_prepared:
            return
        wanted = {"memory" if name == "mem" else name for name in self.holds}
        enabled = os.path.join(self._base, "cgroup.subtree_control")
        if not wanted <= set(_read(enabled).split()):
            # Refused where the group has processes of its own, and that is where we are, unless it is the root.
            _write(enabled, " ".join(f"+{name}" for name in sorted(wanted)))
        self._is_prepared = True

    def _new(self, enter: Callable[[str], int]) -> Group:
        self._count += 1
        folder = os.path.join(self._base, self._owner.folder(self._count))
        _make(folder)
        try:
            return Group(folder, enter(f"{folder}/{self._entrance}"))
        except OSError:
            self._busy.append(folder)
            raise

    @property
    def _entrance(self) -> str:
        return "tasks" if self.version == 1 else "cgroup.procs"

    def limit(self, group: Group, mem: int | None, cpu: int | None) -> None:
        """Say what the process of a group may have; what this tree does not hold is passed over.

        Raises:
            OSError: The kernel refuses.
        """
        one = self.version == 1
        if mem is not None and "mem" in self.holds:
            _write(f"{group.folder}/{'memory.limit_in_bytes' if one else 'memory.max'}", str(mem))
            if self._limits_swap:
                # Not there where the kernel does not count swap, and then there is nothing to say.
                with contextlib.suppress(OSError):
                    if one:
                        _write(f"{group.folder}/memory.memsw.limit_in_bytes", str(mem))
                    else:
                        _write(f"{group.folder}/memory.swap.max", "0")
        if cpu is not None and "cpu" in self.holds:
            _write(f"{group.folder}/{'cpu.shares' if one else 'cpu.weight'}", str(shares(cpu) if one else weight(cpu)))

    def counters(self, group: Group) -> Counters:
        """What the kernel has counted of a group's memory; zeros where it cannot be read."""
        try:
            if self.version == 2:
                return counters_v2(_read(f"{group.folder}/memory.events"))
            names = ("oom_control", "failcnt", "max_usage_in_bytes", "limit_in_bytes")
            return counters_v1(*(_read(f"{group.folder}/memory.{name}") for name in names))
        except (OSError, ValueError):
            return Counters()

    def release(self, group: Group) -> None:
        """Take back the group of a process that has ended, for `tidy` to remove."""
        group.close()
        self._busy.append(group.folder)

    def tidy(self) -> None:
        """Remove what has been given back; not yet, where a process has left others in it."""
        self._busy = [folder for folder in self._busy if not _removed(folder)]

    def close(self) -> None:
        """Blocks for a moment. Remove all groups, and kill what is in them."""
        self._is_closed = True
        for spare in self._spares:
            spare.close()
        remove([*(spare.folder for spare in self._spares), *self._busy])
        self._spares.clear()
        self._busy.clear()


class Lent(Tree):
    """The groups in one hierarchy that somebody else has made for us, who sets their limits and removes them.

    Args:
        version: Of the hierarchy.
        holds: "mem", "cpu", or both.
    """

    def __init__(self, version: int, holds: Iterable[str]) -> None:
        super().__init__(Place("", version), holds, Owner(0, 0, 0))
        self._is_closed = True

    def limit(self, group: Group, mem: int | None, cpu: int | None) -> None:
        """The limits are set already."""

    def release(self, group: Group) -> None:
        """Forget a group."""
        group.close()


def find() -> dict[str, Place]:
    """Find the groups that this process is in; nothing where there are none."""
    try:
        return places(_read("/proc/self/cgroup"), _read("/proc/self/mountinfo"))
    except OSError:
        return {}


def trees(found: Mapping[str, Place], owner: Owner) -> list[Tree]:
    """Make the trees for what `find` gave."""
    memory, cpu = found.get("memory"), found.get("cpu")
    if memory is not None and memory == cpu:
        return [Tree(memory, ("mem", "cpu"), owner)]
    return [Tree(place, (name,), owner) for place, name in ((memory, "mem"), (cpu, "cpu")) if place is not None]


def myself() -> Owner:
    """This process, as the owner of groups."""
    with contextlib.suppress(OSError, ValueError):
        return Owner(os.stat("/proc/self/ns/pid").st_ino, os.getpid(), start_time(_read("/proc/self/stat")))
    return Owner(0, os.getpid(), 0)


def remove_left(found: Mapping[str, Place]) -> None:
    """Blocks for a moment. Remove the groups of fabrics that are dead, and kill what they left in them."""
    namespace = myself().namespace
    left = []
    for folder in {place.folder for place in found.values()}:
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                owner = owner_of(name)
                if owner is not None and owner.namespace == namespace and not _is_alive(owner):
                    left.append(os.path.join(folder, name))
    remove(left)


def _is_alive(owner: Owner) -> bool:
    try:
        return start_time(_read(f"/proc/{owner.os_pid}/stat")) == owner.start
    except (OSError, ValueError):
        return False


def remove(folders: Iterable[str]) -> None:
    """Blocks for a moment. Kill whatever is in these groups, and remove them.

    What cannot be removed within half a second is left, to the next start.
    """
    left = list(folders)
    deadline, pause = time.monotonic() + _REMOVE_LIMIT_S, _FIRST_PAUSE_S
    while left := remove_now(left):
        if time.monotonic() > deadline:
            return
        time.sleep(pause)
        pause *= 2


def remove_now(folders: Iterable[str]) -> list[str]:
    """Remove these groups; give those that cannot be yet, because something in them has just been killed."""
    left = [folder for folder in folders if not _removed(folder)]
    for folder in left:
        _kill(folder)
    return left


def _kill(folder: str) -> None:
    for below in _below(folder):
        _kill(below)
    killer = f"{folder}/cgroup.kill"
    if os.path.exists(killer):
        with contextlib.suppress(OSError):
            _write(killer, "1")
            return
    with contextlib.suppress(OSError):
        for line in _read(f"{folder}/cgroup.procs").split():
            # 0 stands for a process of another pid namespace, which is not to be named from here.
            if line != "0":
                with contextlib.suppress(OSError):
                    os.kill(int(line), signal.SIGKILL)


def _removed(folder: str) -> bool:
    for below in _below(folder):
        _removed(below)
    try:
        _remove(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _below(folder: str) -> list[str]:
    """The groups in a group: those of a mapped user's deployment lie in one of their own."""
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def kills_in(place: Place) -> int | None:
    """How many processes the kernel has killed in a group for want of memory; None where it does not say."""
    # Both count only the group itself, not those beneath it.
    name = "memory.oom_control" if place.version == 1 else "memory.events.local"
    try:
        return read_keyed(_read(f"{place.folder}/{name}")).get("oom_kill")
    except OSError:
        return None


def move(group: Group, os_pid: int) -> None:
    """Blocks for up to 20 ms, and all forks on the computer with it. Put another process into a group."""
    with contextlib.suppress(OSError):  # it may have ended
        _write(f"{group.folder}/cgroup.procs", str(os_pid))


def is_in(group: Group, os_pid: int) -> bool:
    """Whether a process is in a group, and lives."""
    try:
        return str(os_pid) in _read(f"{group.folder}/cgroup.procs").split()
    except OSError:
        return False


def has_swap() -> bool:
    """Whether this computer swaps."""
    try:
        return len(_read("/proc/swaps").splitlines()) > 1
    except OSError:
        return False


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="surrogateescape") as file:
        return file.read()


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(fd)
