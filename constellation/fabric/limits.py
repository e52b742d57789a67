"""Holds the demands of processes: by control groups where that is allowed, else memory by looking.

A spawned process goes into its group by itself, before anything of its program runs; what its template has in memory is
counted there, and so `mem` counts what it adds. The first process runs before there is a fabric, and memory that it has
taken is not counted anew when it is moved: it is watched instead, and moved for its weight only.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from constellation.core import limits as rules
from constellation.core.limits import OUT_OF_MEMORY, Held, Place
from constellation.core.resources import Resources, format_amount
from constellation.fabric import cgroups

if TYPE_CHECKING:
    from constellation.fabric.books import Process
    from constellation.fabric.cgroups import Group, Tree
    from constellation.fabric.loop import Loop, Timer
    from constellation.fabric.monitor import Monitor

_REFILL_S = 0.002
_FORGET_S = 2.0
"""How long a kill in the outer group may be the reason for an end that is told now."""
_WATCHDOG = "the fabric: its memory limit"


class _Watched:
    """What is known of a process that is watched."""

    __slots__ = ("asked", "base", "before", "delay", "limit", "timer")

    def __init__(self, limit: int, asked: int) -> None:
        self.limit = limit
        self.asked = asked
        self.base: int | None = 0
        """What it had when it began, where that was not its template's; None: to be measured."""
        self.before = 0
        self.delay = 0.0
        self.timer: Timer | None = None


class _Outer:
    """The group that the fabric is in: which kills there were of processes without a group of their own."""

    def __init__(self, loop: Loop, place: Place | None) -> None:
        self._loop = loop
        self._place = place
        self._known = self._count()
        self._timer: Timer | None = None
        self._notice = -1
        self._is_told = False
        if place is not None:
            try:
                self._subscribe(place)
            except OSError:
                return  # version 1 tells root only; then a kill may be as old as the last end
            self._is_told = True

    def _count(self) -> int:
        return (cgroups.kills_in(self._place) if self._place is not None else None) or 0

    def _subscribe(self, place: Place) -> None:
        if place.version == 1:
            control = os.open(f"{place.folder}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            notice = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            try:
                with open(f"{place.folder}/cgroup.event_control", "w") as file:
                    file.write(f"{notice} {control}")
            except OSError:
                os.close(notice)
                raise
            finally:
                os.close(control)
            self._notice = notice
            self._loop.watch(notice, self._on_notice)
            return
        events = os.open(f"{place.folder}/memory.events.local", os.O_RDONLY | os.O_CLOEXEC)
        # Always readable; what is new shows as urgent, and only after a read.
        poll = select.epoll()
        try:
            poll.register(events, select.EPOLLPRI | select.EPOLLET)
        except OSError:
            os.close(events)
            poll.close()
            raise
        self._loop.watch(poll.fileno(), lambda: self._on_events(poll, events))

    def _on_notice(self) -> None:
        try:
            os.eventfd_read(self._notice)
        except BlockingIOError:
            return
        self._note()

    def _on_events(self, poll: select.epoll, events: int) -> None:
        poll.poll(0)
        os.pread(events, 4096, 0)
        self._note()

    def _note(self) -> None:
        # The kernel tells of it before it has counted it, and kills before we hear of the end.
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_FORGET_S, self.settle)

    def settle(self) -> None:
        """Take the kills so far as those of others."""
        self._timer = None
        self._known = self._count()

    def on_other_end(self) -> None:
        """A process has ended that was not killed."""
        if not self._is_told and self._place is not None:
            self.settle()

    def take_kill(self) -> bool:
        """Whether the kernel has killed one for want of memory that is not accounted for; accounts for it."""
        if self._count() <= self._known:
            return False
        self._known += 1
        return True


class Limits:
    """Holds what processes of one deployment have asked for.

    Args:
        loop: The fabric's loop.
        monitor: Kills.
        found: The fabric's own control groups, by controller.
        is_all: Whether all demands are held, not only those that the user wrote.
        say: Takes a line for the user.
    """

    def __init__(
        self, loop: Loop, monitor: Monitor, found: Mapping[str, Place], say: Callable[[str], None], *, is_all: bool
    ) -> None:
        self.is_all = is_all
        self._loop = loop
        self._monitor = monitor
        self._say = say
        self._trees: Sequence[Tree] = cgroups.trees(found, cgroups.myself())
        self._outer = _Outer(loop, found.get("memory"))
        self._groups: dict[Process, list[tuple[Tree, Group]]] = {}
        self._lent: dict[bytes, list[tuple[Tree, Group]]] = {}
        self._watched: dict[Process, _Watched] = {}
        self._breaches: dict[Process, str] = {}
        self._uses_weights = False
        self._refilling: set[Tree] = set()
        self._has_said: set[str] = set()

    # The beginning of a process

    def lend(self, key: bytes, groups: Sequence[tuple[Tree, Group]]) -> None:
        """Take groups that somebody else has made for a process which is to be prepared next."""
        self._lent[key] = list(groups)

    def prepare(self, process: Process) -> list[int]:
        """Make room for a process that is about to be forked.

        Returns:
            Descriptors for the `Fork`, which it enters its groups by; the caller's.
        """
        entrances = []
        lent = self._lent.pop(process.key, None)
        for tree, group in self._take_groups(process, self._held(process)) if lent is None else lent:
            self._groups.setdefault(process, []).append((tree, group))
            entrances.append(group.take_entrance())
        return entrances

    def hold(self, process: Process) -> None:
        """Set the limits of a process. After its `Fork` has been sent: the template forks meanwhile."""
        held = self._held(process)
        for tree, group in list(self._groups.get(process, ())):
            self._limit(process, tree, group, held)

    def began(self, process: Process) -> None:
        """A spawned process has been forked: watch what its groups do not hold."""
        held = self._held(process)
        template = process.template
        is_fresh = template is not None and template.is_once
        if held.mem is not None and not self._has_group(process, "mem"):
            self._watch(process, held.mem, is_fresh=is_fresh)
        if held.cpu is not None and not self._has_group(process, "cpu"):
            self._say_of_weights(process.resources)

    def take_in(self, process: Process) -> None:
        """The first process runs: it began before anything could be held, or begins a new deployment."""
        self.release(process)
        if process.is_attached:
            if process.resources.written:
                self._say_once("what init() asks for is counted but not held: this process is not the fabric's to kill")
            return
        held = self._held(process)
        if held.mem is not None:
            self._watch(process, held.mem, is_fresh=False)
        if held.cpu is None:
            return
        for tree, group in self._take_groups(process, Held(None, held.cpu)):
            group.close()
            self._groups.setdefault(process, []).append((tree, group))
            self._limit(process, tree, group, Held(None, held.cpu))
            _start_thread(lambda group=group: cgroups.move(group, process.os_pid))  # type: ignore[misc]
        if not self._has_group(process, "cpu"):
            self._say_of_weights(process.resources)

    def _held(self, process: Process) -> Held:
        held = rules.held(process.resources, is_all=self.is_all)
        if held.cpu is not None:
            self._uses_weights = True
        elif self._uses_weights:
            # Beside processes that have weights one without would weigh as much as a whole core.
            held = Held(held.mem, process.resources.cpu_millionths)
        return held

    def _take_groups(self, process: Process, held: Held) -> list[tuple[Tree, Group]]:
        taken = []
        for tree in self._trees:
            if ("mem" in tree.holds and held.mem is not None) or ("cpu" in tree.holds and held.cpu is not None):
                group = tree.take()
                if group is not None:
                    taken.append((tree, group))
                    if tree not in self._refilling:
                        self._refilling.add(tree)
                        self._loop.call_later(_REFILL_S, lambda tree=tree: self._refill(tree))  # type: ignore[misc]
        return taken

    def _refill(self, tree: Tree) -> None:
        self._refilling.discard(tree)
        tree.refill()

    def _limit(self, process: Process, tree: Tree, group: Group, held: Held) -> None:
        try:
            tree.limit(group, held.mem, held.cpu)
        except OSError as error:
            tree.fault = tree.fault or f"{error.filename}: {error.strerror}"
            self._groups[process].remove((tree, group))
            tree.release(group)

    def _has_group(self, process: Process, what: str) -> bool:
        return any(what in tree.holds for tree, _ in self._groups.get(process, ()))

    def _say_of_weights(self, demand: Resources) -> None:
        if "cpu" in demand.written:
            faults = [tree.fault for tree in self._trees if "cpu" in tree.holds] or ["the controller is not there"]
            amount = format_amount(demand.cpu_millionths)
            self._say_once(f"cpu={amount} is counted but not held: no control group can be made: {faults[0]}")

    def _say_once(self, text: str) -> None:
        what = text.partition("=")[0]
        if what not in self._has_said:
            self._has_said.add(what)
            self._say(f"constellation: {text}\n")

    # The watchdog

    def _watch(self, process: Process, limit: int, *, is_fresh: bool) -> None:
        watched = self._watched[process] = _Watched(limit, process.resources.mem)
        if is_fresh:
            watched.base = None
        self._look(process)

    def _look(self, process: Process) -> None:
        watched = self._watched.get(process)
        if watched is None or process.pidfd < 0:
            return
        began = time.perf_counter()
        try:
            had = self._look_at(process, watched)
        except (FileNotFoundError, ProcessLookupError):
            return  # it has ended
        except PermissionError as error:
            if "mem" in process.resources.written:
                self._say_once(f"mem is counted but not held for some processes: {error.strerror}: {error.filename}")
            return
        if had > watched.limit and process.order.asked_with != signal.SIGKILL:
            self._breaches[process] = rules.limit_cause(watched.asked, watched.limit, had)
            self._monitor.kill(process, _WATCHDOG)
            return
        cost = time.perf_counter() - began
        watched.delay = rules.next_look(watched.limit, had, watched.before, watched.delay, cost, len(self._watched))
        watched.before = had
        watched.timer = self._loop.call_later(watched.delay, lambda: self._look(process))

    @staticmethod
    def _look_at(process: Process, watched: _Watched) -> int:
        """What a process has added to its template, or a number that is not less and not above its limit."""
        if watched.base == 0:
            with open(f"/proc/{process.os_pid}/status", encoding="ascii", errors="replace") as file:
                at_most = rules.resident(file.read())
            if at_most <= watched.limit:
                return at_most
        with open(f"/proc/{process.os_pid}/smaps_rollup", encoding="ascii", errors="replace") as file:
            had = rules.private(file.read())
        if watched.base is None:
            watched.base = had
        return had - watched.base

    # The end of a process

    def cause(self, process: Process, signum: int | None) -> str | None:
        """Say why a process was killed, where it was for want of memory and that is known.

        Args:
            process: It has been waited for, and not released.
            signum: The signal that ended it.
        """
        if signum != signal.SIGKILL:
            self._outer.on_other_end()
            return None
        breach = self._breaches.get(process)
        if breach is not None or process.order.asked_with == signal.SIGKILL:
            return breach
        for tree, group in self._groups.get(process, ()):
            held = self._held(process)
            if "mem" in tree.holds and held.mem is not None:
                return rules.group_cause(tree.counters(group), process.resources.mem, held.mem)
        if process.template is not None and process.template.is_lost:
            return None  # killed with it, whatever killed that
        return OUT_OF_MEMORY if self._outer.take_kill() else None

    def release(self, process: Process) -> None:
        """Forget a process that has ended, and remove its groups after what is to be done now."""
        self._breaches.pop(process, None)
        watched = self._watched.pop(process, None)
        if watched is not None and watched.timer is not None:
            watched.timer.cancel()
        for tree, group in self._groups.pop(process, ()):
            tree.release(group)
            self._loop.call_later(0, tree.tidy)

    def close(self) -> None:
        """Blocks for a moment. Remove all groups; what is in them is killed."""
        for groups in self._groups.values():
            for tree, group in groups:
                tree.release(group)
        self._groups.clear()
        for tree in self._trees:
            tree.close()


def _start_thread(action: Callable[[], None]) -> None:
    # Signals are for the main thread: it waits for some of them by name.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    threading.Thread(target=action, name="limits", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
