"""The node daemon and the order of what it tells a master that comes again."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from constellation.core import messages, trunk
from constellation.core.address import Address
from constellation.core.preamble import Purpose
from constellation.core.resources import Resources
from constellation.fabric.daemon import NodeDaemon, Settings
from constellation.fabric.ledger import Ledger
from constellation.fabric.loop import Loop
from constellation.fabric.parts import Part

NAME = b"d" * 16
SPECIFICATION = trunk.Specification(*([""] + [[]] * (len(trunk.Specification._fields) - 1)))  # type: ignore[arg-type]


class Master:
    """A connection that keeps what it is sent, until it is full."""

    is_full = False

    def __init__(self, room: int = 1000) -> None:
        self.sent: list[trunk.TrunkMessage] = []
        self.is_open = True
        self._room = room

    def send(self, message: trunk.TrunkMessage) -> bool:
        if len(self.sent) >= self._room or not self.is_open:
            return False
        self.sent.append(message)
        return True

    def close(self) -> None:
        self.is_open = False

    @property
    def ups(self) -> list[int]:
        """Numbers of the messages of the deployment, in their order."""
        return [each.number for each in self.sent if isinstance(each, trunk.Up)]


class Files:
    """Keeps the part that is to be prepared."""

    part: Part

    def prepare(self, part: Part, on_ready: Callable[[dict[str, Any]], None], on_failed: Callable[[str], None]) -> None:
        self.part = part

    def chunk(self, chunk: trunk.Chunk) -> None:
        """None comes."""

    def again(self) -> None:
        """Nothing is asked for."""

    def forget(self, part: Part) -> None:
        """Nothing is there."""


@pytest.fixture
def node() -> tuple[NodeDaemon, Files]:
    """A node that runs nothing as yet."""
    files = Files()
    settings = Settings("n1", Address("127.0.0.1", 5000), Resources(mem=100, cpu=1), (), "/nowhere", "0.1.0", [])
    return NodeDaemon(Loop(), settings, None, files, lambda _line, **_about: None), files  # type: ignore[arg-type]


def _join(daemon: NodeDaemon, master: Master) -> None:
    daemon.attach(master)
    daemon.on_message(trunk.Hello("0.1.0", 5.0, "", None, None, [], []))


def _welcome(daemon: NodeDaemon) -> None:
    daemon.on_message(trunk.Welcome(1, [], [], b"m" * 16))


def test_what_happens_before_the_welcome_comes_after_what_was_kept(node: tuple[NodeDaemon, Files]) -> None:
    """A master passes over numbers below the last one: none may be ahead of those that were kept meanwhile."""
    daemon, files = node
    first = Master()
    _join(daemon, first)
    _welcome(daemon)
    daemon.on_message(trunk.Open(NAME, list(SPECIFICATION)))
    files.part.tell(trunk.Words("1"))
    daemon.detach(first, "killed")
    files.part.tell(trunk.Words("2"))
    second = Master()
    _join(daemon, second)
    files.part.tell(trunk.Words("3"))
    assert second.ups == []
    _welcome(daemon)
    files.part.tell(trunk.Words("4"))
    assert second.ups == [1, 2, 3, 4]
    assert first.ups == [1]


def test_a_master_that_takes_nothing_more_is_told_all_when_it_comes_again(node: tuple[NodeDaemon, Files]) -> None:
    """What a full connection refuses may not be missing between what it takes later."""
    daemon, files = node
    full = Master(room=3)
    _join(daemon, full)
    _welcome(daemon)
    daemon.on_message(trunk.Open(NAME, list(SPECIFICATION)))
    for number in range(1, 6):
        files.part.tell(trunk.Words(str(number)))
    assert full.ups == [1, 2]
    assert not full.is_open
    again = Master()
    _join(daemon, again)
    daemon.on_message(trunk.Acked(NAME, 1))
    _welcome(daemon)
    assert again.ups == [2, 3, 4, 5]


def _gone(master: Master) -> list[tuple[str, ...]]:
    """What it is told of parts that are over: within the joining, or after."""
    found = []
    for each in master.sent:
        if isinstance(each, trunk.Join):
            found += [("join", *map(str, cause)) for _, *cause in each.gone]
        if isinstance(each, trunk.Gone):
            found.append(("gone", each.cause))
    return found


def test_what_is_killed_at_the_end_of_a_lease_is_told_to_a_master_that_speaks_again(
    node: tuple[NodeDaemon, Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A master that stood still for that long knows nothing of it, and would wait for the ends of those processes."""
    daemon, _ = node
    master = Master()
    _join(daemon, master)
    _welcome(daemon)
    daemon.on_message(trunk.Open(NAME, list(SPECIFICATION)))
    now = daemon._loop.now()
    monkeypatch.setattr(daemon._loop, "now", lambda: now + 6.0)
    daemon._look()
    assert _gone(master) == [("gone", "node n1 lost: no word from the master for 6.0 s")]


def test_what_ends_while_the_master_is_not_there_is_told_when_it_comes(node: tuple[NodeDaemon, Files]) -> None:
    """Once with the joining, and no more when it is known that it was heard; not of what has been opened again."""
    daemon, files = node
    first = Master()
    _join(daemon, first)
    _welcome(daemon)
    daemon.on_message(trunk.Open(NAME, list(SPECIFICATION)))
    daemon.detach(first, "killed")
    daemon._fail(files.part, "no room on the disk")
    second = Master()
    _join(daemon, second)
    assert _gone(first) == []
    assert _gone(second) == [("join", "monitor lost: no room on the disk")]
    daemon.detach(second, "killed before it said welcome")
    third = Master()
    _join(daemon, third)
    assert _gone(third) == _gone(second)
    _welcome(daemon)
    fourth = Master()
    _join(daemon, fourth)
    assert _gone(fourth) == []


def test_an_end_that_was_said_is_said_again_until_a_later_answer_is_known_to_have_come(
    node: tuple[NodeDaemon, Files],
) -> None:
    """A connection that breaks takes with it what was on its way."""
    daemon, files = node
    first = Master()
    _join(daemon, first)
    _welcome(daemon)
    daemon.on_message(trunk.Beat(1, 0))
    daemon.on_message(trunk.Open(NAME, list(SPECIFICATION)))
    daemon._fail(files.part, "killed")
    daemon.on_message(trunk.Beat(2, 1))
    second = Master()
    _join(daemon, second)
    assert _gone(second) == [("join", "monitor lost: killed")]
    again = Master()
    _join(daemon, again)
    _welcome(daemon)
    daemon.on_message(trunk.Open(NAME, list(SPECIFICATION)))
    daemon._fail(files.part, "killed")
    daemon.on_message(trunk.Beat(1, 0))
    daemon.on_message(trunk.Beat(2, 1))
    last = Master()
    _join(daemon, last)
    assert _gone(last) == []


@pytest.mark.parametrize(
    "order", [trunk.Dial(b"a" * 32, b"b" * 32, 3, "127.0.0.1:1"), trunk.Meet(b"a" * 32, b"b" * 32, 3)], ids=str
)
def test_a_master_that_is_started_again_hears_of_links_to_other_computers(
    node: tuple[NodeDaemon, Files], order: trunk.Dial | trunk.Meet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it could not tell who was linked with what it has lost, nor that such a link has broken."""
    daemon, files = node
    monkeypatch.setattr(daemon, "_security", SimpleNamespace(keys={Purpose.LINK: bytes(32)}))
    _join(daemon, Master())
    _welcome(daemon)
    daemon.on_message(trunk.Open(NAME, list(SPECIFICATION)))
    daemon.on_message(trunk.Down(NAME, 1, trunk.STATION.fields_of(order), b""))
    (inventory,) = files.part.ledger.inventory(NAME)
    assert inventory.links == [[b"a" * 32, b"b" * 32, 3]]
    daemon.end_all()


def test_a_meeting_on_a_node_that_has_joined_nowhere_fails_with_words(node: tuple[NodeDaemon, Files]) -> None:
    """It has no master's address to dial: the link does not wait for ever."""
    daemon, files = node
    master = Master()
    _join(daemon, master)
    _welcome(daemon)
    daemon.on_message(trunk.Open(NAME, list(SPECIFICATION)))
    order = trunk.Meet(b"a" * 32, b"b" * 32, 1)
    daemon.on_message(trunk.Down(NAME, 1, trunk.STATION.fields_of(order), b""))
    (kept,) = files.part.kept
    told = trunk.STATION.read(kept.message)
    assert isinstance(told, trunk.NotLinked)
    assert "has not joined anywhere" in told.reason


def test_a_link_that_was_cut_is_told_to_the_next_master_too() -> None:
    """It holds until the process ends: a master that has forgotten who said so would wait for the other's end."""
    ledger = Ledger()
    ledger.down(trunk.Start(1, b"a" * 32, b"", 0, [1, 1, []], "f", "", b""))
    cut = messages.fields_of(messages.LinkCut(b"b" * 32, 1, "why"))
    ledger.up(1, trunk.Said(b"a" * 32, cut), b"")
    assert list(ledger.said()) == [(trunk.Said(b"a" * 32, cut), b"")]
