"""When queued spawns are given up: all who hold room wait, and so nobody will ever give any back.

What processes tell of their waits is true of the past. Somebody may have been sent what he waits for, and not have come to
say that he goes on: on a busy computer that can take him seconds. So it must have been so for a while; nobody may have gone
on meanwhile; and nobody may be seen to run, or to be about to: the kernel calls a process runnable in the moment in which
what it waits for is sent. That look is followed by one more turn of the loop, in which is read what was said before it.
Of other computers only the first two are known, and these get more time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from constellation.fabric.books import Member
    from constellation.fabric.loop import Loop, Timer

STALL_S: Final = 0.25
"""How long nobody must have gone on."""
STALL_FAR_S: Final = 2.0
"""The same where a process runs on another computer."""


class Stall:
    """Watches for the standstill of a queue.

    Args:
        loop: For the time.
        is_stalled: Whether spawns wait, and all who hold room have told that they wait.
        members: All that live.
        give_up: Called when it is certain.
    """

    def __init__(
        self,
        loop: Loop,
        is_stalled: Callable[[], bool],
        members: Callable[[], list[Member]],
        give_up: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._is_stalled = is_stalled
        self._members = members
        self._give_up = give_up
        self._timer: Timer | None = None
        self._turns = 0

    def went_on(self) -> None:
        """A process that waited goes on."""
        self._turns += 1

    def check(self) -> None:
        """Something has changed: look whether it may be so, from here on."""
        if self._timer is None and self._is_stalled():
            is_far = any(member.computer.may_be_lost for member in self._members())
            turns = self._turns
            self._timer = self._loop.call_later(STALL_FAR_S if is_far else STALL_S, lambda: self._look(turns))

    def _look(self, turns: int) -> None:
        if turns == self._turns and all(
            member.computer.is_at_rest(member.key) for member in self._members() if member.has_room
        ):
            self._timer = self._loop.call_later(0, lambda: self._decide(turns))
        else:
            self._timer = None
            self.check()

    def _decide(self, turns: int) -> None:
        self._timer = None
        if turns == self._turns and self._is_stalled():
            self._give_up()
        else:
            self.check()
