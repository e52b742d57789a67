"""Control groups for what runs as a mapped user: root's daemon makes them, limits them and removes them; processes enter.

A user can make no group, and one that he could change would hold nobody. So each deployment has a group of its own beneath
that of the daemon, where memory is counted, and in it one for each process, and one for its monitor process and templates.
All of them are root's. The daemon sees each order to start a process on its way, makes the groups and passes their
entrances along; the monitor process has its `limits.py` with groups that were lent to it, and reads the counters.

**Nobody gets out.** A process is born in the group of its deployment, and the file by which another one is entered can be opened
by root alone. An entrance that is passed on was opened as the user: it moves only his own processes, and only into a group
of the same deployment. A process that has not entered, because the program has seen to that, is put there once it has begun.
Whatever a program does, all of it together has no more than the node gives away and `BESIDE`.

Weights (``cpu``) keep nobody in, so their groups lie side by side beneath the daemon's as they do locally, where version 1 has a
hierarchy for them. In version 2 they are the same groups, and the deployment's weighs what is in it.

Where groups cannot be made the monitor process looks, as it does for everybody who may not make them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from constellation.core import limits as rules
from constellation.core.limits import Place
from constellation.core.resources import MILLIONTHS, Resources
from constellation.fabric import cgroups
from constellation.fabric.accounts import open_entrance
from constellation.fabric.cgroups import Tree

if TYPE_CHECKING:
    from constellation.fabric.cgroups import Group
    from constellation.fabric.loop import Loop
    from constellation.fabric.users import Account

BESIDE: Final = 2 << 30
"""Bytes that a deployment may have beside what the node gives away: monitor process, templates, and files that are cached."""

_TIDY_S: Final = 0.05
_TIDY_TRIES: Final = 100


class Given(NamedTuple):
    """A group that was made for a process."""

    tree: Tree
    group: Group


class UserGroups:
    """Makes the groups of all deployments of mapped users on a node, and removes what a dead daemon has left.

    Args:
        loop: The daemon's loop.
        capacity: Gives what the node may give away.
        log: Writes one line.
        found: The daemon's own groups, by controller; None: as they are.
    """

    def __init__(
        self,
        loop: Loop,
        capacity: Callable[[], Resources],
        log: Callable[[str], None],
        found: Mapping[str, Place] | None = None,
    ) -> None:
        self._loop = loop
        self._capacity = capacity
        self._log = log
        self._has_said = False
        self._open: set[PartGroups] = set()
        groups = cgroups.find() if found is None else found
        cgroups.remove_left(groups)
        self._trees = cgroups.trees(groups, cgroups.myself())

    def of(self, account: Account) -> PartGroups | None:
        """Make the group of a deployment; None where that cannot be, and then the log says why."""
        above = next((tree for tree in self._trees if "mem" in tree.holds), None)
        own = above.take() if above is not None else None
        if above is None or own is None:
            self._say(above.fault if above is not None else "there is no controller for memory")
            return None
        own.close()
        made = PartGroups(
            self._loop,
            account,
            above,
            own,
            [tree for tree in self._trees if tree is not above],
            self._open.discard,
        )
        self._open.add(made)
        try:
            made.prepare(self._capacity().mem + BESIDE)
        except OSError as error:
            self._say(f"{error.filename}: {error.strerror}")
            made.close()
            return None
        return made

    def _say(self, fault: str) -> None:
        if not self._has_said:
            self._has_said = True
            self._log(f"the memory of mapped users is held by looking, since no control group can be made: {fault}")

    def close(self) -> None:
        """Blocks for a moment. The daemon ends: kill what is in any of the groups, and remove all."""
        left = list(self._open)
        for each in left:
            each.close()
        cgroups.remove([each.folder for each in left])
        for tree in self._trees:
            tree.close()


class PartGroups:
    """The groups of one deployment. Made by `UserGroups.of`.

    Args:
        loop: The daemon's loop.
        account: Whose processes they are for.
        above: The tree that the deployment's own group is of.
        own: That group.
        beside: The daemon's trees that do not count memory.
        on_closed: Called when nothing is left of it.
    """

    def __init__(
        self,
        loop: Loop,
        account: Account,
        above: Tree,
        own: Group,
        beside: list[Tree],
        on_closed: Callable[[PartGroups], None],
    ) -> None:
        self._loop = loop
        self._account = account
        self._above = above
        self._own = own
        self._on_closed = on_closed
        self._is_closed = False
        self._inside = Tree(Place(own.folder, above.version), above.holds, cgroups.myself())
        self._trees = [self._inside, *beside]
        self._station: Group | None = None
        self._given: dict[bytes, list[Given]] = {}
        self._weights: dict[bytes, int] = {}

    @property
    def folder(self) -> str:
        """The deployment's own group, which has the others in it."""
        return self._own.folder

    def prepare(self, most: int) -> None:
        """Set what all of it may have, and make the group of its monitor process.

        Raises:
            OSError: The kernel refuses.
        """
        self._above.limit(self._own, most, None)
        if self._above.version == 2:
            # Whoever moves a process must be allowed to write to that of the group above both; it takes in no process itself.
            os.chown(f"{self.folder}/cgroup.procs", self._account.uid, -1)
        self._station = station = self._inside.take()
        if station is None:
            raise OSError(0, self._inside.fault, self.folder)
        station.close()
        self._weigh()

    def take_in(self, os_pid: int) -> None:
        """Blocks for up to 20 ms. Put the monitor process in, before it starts anything."""
        if self._station is not None:
            cgroups.move(self._station, os_pid)

    def give(self, key: bytes, demand: Resources) -> list[Given]:
        """Make the groups for a process that is to be started; what cannot be made is left out.

        Args:
            key: The process.
            demand: What it asks for.
        """
        held = rules.held(demand, is_all=True)
        made = self._given[key] = []
        for tree in self._trees:
            group = None if self._is_closed else tree.take(lambda path: open_entrance(self._account, path))
            if group is None:
                continue
            try:
                tree.limit(group, held.mem, held.cpu)
            except OSError:
                tree.release(group)
            else:
                made.append(Given(tree, group))
        self._weights[key] = demand.cpu_millionths
        self._weigh()
        return made

    def began(self, key: bytes, os_pid: int) -> None:
        """A process runs, by the word of its monitor process. It is in its groups, or else is put there now."""
        # Only one that was born in this deployment is looked at: the monitor process might name anybody's.
        if self._station is not None and cgroups.is_in(self._station, os_pid):
            for _, group in self._given.get(key, ()):
                cgroups.move(group, os_pid)

    def release(self, key: bytes) -> None:
        """A process has ended, or was never started: its groups go."""
        for tree, group in self._given.pop(key, ()):
            tree.release(group)
            self._loop.call_later(0, tree.tidy)
        if self._weights.pop(key, None) is not None:
            self._weigh()

    def _weigh(self) -> None:
        """In version 2 the deployment weighs what is in it, and one core for its monitor process."""
        if "cpu" in self._above.holds and not self._is_closed:
            with contextlib.suppress(OSError):
                self._above.limit(self._own, None, MILLIONTHS + sum(self._weights.values()))

    def close(self) -> None:
        """The deployment is over here: kill what is still in its groups, and remove them, now or a little later."""
        if not self._is_closed:
            self._is_closed = True
            for key in list(self._given):
                self.release(key)
            self._tidy(_TIDY_TRIES)

    def _tidy(self, tries: int) -> None:
        if cgroups.remove_now([self.folder]) and tries:
            self._loop.call_later(_TIDY_S, lambda: self._tidy(tries - 1))
        else:
            self._on_closed(self)  # what is left now the next start removes
