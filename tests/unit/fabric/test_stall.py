"""When queued spawns are given up: never while somebody may still give room back (fabric/stall.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.fabric.books import Member
from constellation.fabric.stall import STALL_FAR_S, STALL_S, Stall


class Stage:
    """A queue that stands still, its time, and what is seen of the processes."""

    may_be_lost = False

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.is_stalled = True
        self.awake: set[bytes] = set()
        self.given_up = 0
        here: Any = self  # the loop and the computer, as far as they are asked
        self.members = [
            Member(number, Pid(1, number, bytes([number]) * 16), None, "prog:f", Resources(), None, None, here)
            for number in (1, 2)
        ]
        for member in self.members:
            member.has_room = True
        self.stall = Stall(here, lambda: self.is_stalled, lambda: self.members, self._give_up)

    def _give_up(self) -> None:
        self.given_up += 1

    def call_later(self, delay: float, call: Callable[[], None]) -> object:
        """As the loop's."""
        self.timers.append((delay, call))
        return call

    def is_at_rest(self, key: bytes) -> bool:
        """As a computer's."""
        return key not in self.awake

    def pass_time(self) -> float:
        """Let the next timer's time come; give how long that was."""
        delay, call = self.timers.pop(0)
        call()
        return delay


def test_it_is_given_up_after_a_while() -> None:
    """And one more turn of the loop, in which what was said before is read."""
    stage = Stage()
    stage.stall.check()
    stage.stall.check()
    assert [stage.pass_time(), stage.given_up, stage.pass_time(), stage.given_up] == [STALL_S, 0, 0, 1]
    assert not stage.timers


def test_who_is_awake_may_still_end() -> None:
    """He was sent what he waits for, and has not come to say so: it is looked again until nobody is."""
    stage = Stage()
    stage.awake.add(stage.members[1].key)
    stage.stall.check()
    for _ in range(10):
        assert stage.pass_time() == STALL_S
        assert stage.given_up == 0
    stage.awake.clear()
    assert [stage.pass_time(), stage.pass_time(), stage.given_up] == [STALL_S, 0, 1]


def test_who_has_no_room_is_not_asked() -> None:
    """He can give none back."""
    stage = Stage()
    stage.awake.add(stage.members[1].key)
    stage.members[1].has_room = False
    stage.stall.check()
    assert [stage.pass_time(), stage.pass_time(), stage.given_up] == [STALL_S, 0, 1]


@pytest.mark.parametrize("when", ["while it is waited", "in the last turn"])
def test_who_went_on_and_waits_again_begins_a_new_wait(when: str) -> None:
    """He may have sent somebody something."""
    stage = Stage()
    stage.stall.check()
    if when == "in the last turn":
        stage.pass_time()
    stage.stall.went_on()
    stage.pass_time()
    assert stage.given_up == 0
    assert [stage.pass_time(), stage.pass_time(), stage.given_up] == [STALL_S, 0, 1]


def test_a_queue_that_moves_again_is_left_alone() -> None:
    """Until it stands still once more."""
    stage = Stage()
    stage.stall.check()
    stage.is_stalled = False
    stage.pass_time()
    stage.pass_time()
    assert (stage.given_up, stage.timers) == (0, [])
    stage.is_stalled = True
    stage.stall.check()
    assert [stage.pass_time(), stage.pass_time(), stage.given_up] == [STALL_S, 0, 1]


def test_of_processes_on_other_computers_less_is_known() -> None:
    """So it takes longer."""
    stage = Stage()
    stage.may_be_lost = True
    stage.stall.check()
    assert stage.pass_time() == STALL_FAR_S
