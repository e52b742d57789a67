"""A link that has ended without a word: mostly a process has died; where none has, the way has broken, and both hear it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from constellation.core import messages
from constellation.core.messages import Message
from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.core.status import ExitStatus
from constellation.fabric.books import Member
from constellation.fabric.links import CUT_ALONE_S, CUT_S, Links


class Clock:
    """A loop whose time the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self._calls: list[tuple[float, Callable[[], object]]] = []

    def call_later(self, delay: float, call: Callable[[], object]) -> None:
        self._calls.append((self.now + delay, call))

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        due = [call for when, call in self._calls if when <= self.now]
        self._calls = [each for each in self._calls if each[0] > self.now]
        for call in due:
            call()


class Computer:
    """Keeps what its processes are told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told: list[tuple[bytes, Message]] = []
        self.dialled: list[int] = []

    def tell(self, key: bytes, message: Message) -> None:
        self.told.append((key, message))

    def dial(self, _one: bytes, _two: bytes, number: int, _other: Any) -> None:
        self.dialled.append(number)

    def way_to(self, other: Computer) -> str:
        return f"between {self.name} and {other.name}"


class Pair:
    """Two processes on two computers, with their first link."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.computers = [Computer("a"), Computer("b")]
        self.members = [
            Member(at, Pid(at, at, bytes([at]) * 16), None, "f", Resources(), None, None, computer)  # type: ignore[arg-type]
            for at, computer in enumerate(self.computers, 1)
        ]
        self.living = {member.key: member for member in self.members}
        self.links = Links(self.clock, self.living, lambda _key: None)  # type: ignore[arg-type]
        self.one, self.two = self.members
        self.links.link(self.one, self.two.key, 0)

    def cut(self, at: int, number: int = 1) -> None:
        """One of the two says that the link has ended."""
        member = self.members[at]
        self.links.cut(member, self.members[1 - at].key, number, f"seen by {at}")

    @property
    def causes(self) -> list[str | None]:
        """What each of the two was told of the other's loss; None: nothing."""
        found: list[str | None] = []
        for computer in self.computers:
            lost = [message for _, message in computer.told if isinstance(message, messages.PeerLost)]
            assert len(lost) <= 1
            found.append(ExitStatus.from_fields(lost[0].status).cause if lost else None)
        return found

    def end(self, member: Member) -> None:
        """A process has ended."""
        member.is_alive = False
        del self.living[member.key]
        self.links.forget(member)


@pytest.fixture
def pair() -> Pair:
    """Two linked processes."""
    return Pair()


def test_both_saw_it_and_both_live_so_the_way_has_broken(pair: Pair) -> None:
    """Both are told which way, and what was seen."""
    pair.cut(0)
    pair.cut(1)
    pair.clock.move(CUT_S)
    words = "the link is lost: the way between {} and {} has broken (seen by 1)"
    assert pair.causes == [words.format("b", "a")] * 2
    pair.clock.move(CUT_ALONE_S)
    assert pair.causes == [words.format("b", "a")] * 2


def test_where_only_one_saw_it_the_other_is_given_longer(pair: Pair) -> None:
    """Its computer may be gone, which is known by then; else its end of the link is half open."""
    pair.cut(0)
    pair.cut(0)
    pair.clock.move(CUT_ALONE_S - 0.1)
    assert pair.causes == [None, None]
    pair.clock.move(0.1)
    assert all(cause is not None and "has broken (seen by 0)" in cause for cause in pair.causes)


@pytest.mark.parametrize("who", [0, 1])
def test_where_one_has_died_its_certificate_says_all(pair: Pair, who: int) -> None:
    """Whether the other one, or both, had said something before."""
    pair.cut(0)
    pair.cut(1)
    pair.end(pair.members[who])
    pair.clock.move(CUT_ALONE_S)
    assert pair.causes == [None, None]
    pair.links.cut(pair.members[1 - who], pair.members[who].key, 1, "late")
    pair.clock.move(CUT_ALONE_S)
    assert pair.causes == [None, None]


def test_what_is_said_of_another_link_counts_for_nothing(pair: Pair) -> None:
    """It is older, or never was."""
    pair.cut(0, 0)
    pair.cut(1, 2)
    pair.clock.move(CUT_ALONE_S)
    assert pair.causes == [None, None]


def test_a_link_of_a_former_master_says_that_there_was_one(pair: Pair) -> None:
    """It is the likely reason; that is said, and no more."""
    key = (pair.one.key, pair.two.key)
    pair.links.take_up({key: 4})
    for at in (0, 1):
        pair.cut(at, 4)
    pair.clock.move(CUT_S)
    assert all(str(cause).endswith("the master has been started again since") for cause in pair.causes)


def test_a_link_that_fails_for_a_reason_is_told_to_who_has_its_end_already(pair: Pair) -> None:
    """One side may have its end of a link that the other could not take: both hear, in both cases."""
    pair.links.not_linked(pair.one.key, pair.two.key, 1, ending=b"", reason="no way")
    for computer in pair.computers:
        kinds = [type(message) for _, message in computer.told]
        assert kinds == [messages.Unreachable, messages.PeerLost]
    assert pair.causes == ["the link is lost: no way"] * 2
