"""The registry of a node: names, searches, ties; against fakes, and against a model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core import messages
from constellation.core.messages import Done, Found, Message, Register, Tie, Unregister, Untie, Whereis
from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.core.status import ExitStatus
from constellation.fabric.books import Member
from constellation.fabric.registry import MOST_NAMES, Registry

_NOWHERE: Any = None
"""The registry does not ask where a process runs."""


class Node:
    """What the registry sees of a node."""

    def __init__(self) -> None:
        self.living: dict[bytes, Member] = {}
        self.dead: dict[bytes, ExitStatus] = {}
        self.sent: list[tuple[Member, Message]] = []
        self.asked: dict[bytes, str] = {}
        self.requests = 0
        self.registry = Registry(
            lambda process, message: self.sent.append((process, message)),
            self.living.get,
            self.dead.get,
            lambda process, cause: self.asked.update({process.key: cause}),
        )

    def process(self) -> Member:
        number = len(self.living) + len(self.dead) + 1
        process = Member(
            number, Pid(1, number, bytes([number]) * 16), None, "prog:fn", Resources(), None, None, _NOWHERE
        )
        self.living[process.key] = process
        return process

    def tell(self, process: Member, kind: Any, *fields: Any) -> Any:
        """Give a request; the answer to it, or None."""
        self.requests += 1
        self.sent = []
        self.registry.on_message(process, kind(self.requests, *fields))
        answers = [each for to, each in self.sent if to is process and getattr(each, "request", 0) == self.requests]
        assert len(answers) <= 1
        return answers[0] if answers else None

    def end(self, process: Member, code: int | None = 1) -> None:
        del self.living[process.key]
        self.dead[process.key] = status = ExitStatus(process.pid, code, None)
        self.registry.ended(process, status)

    def is_empty(self) -> bool:
        """Whether nothing is kept, but for empty books of those that live."""
        registry = self.registry
        kept = (registry._owners, registry._searches, registry._names, registry._searching)
        ties = (registry._dependents, registry._tied_to)
        return not any(any(table.values()) if table else False for table in (*kept, *ties))


def test_a_name_is_free_at_the_end_of_its_process() -> None:
    """Not before, whoever asks."""
    node = Node()
    one, other = node.process(), node.process()
    assert node.tell(one, Register, "x") == Done(1, "", "")
    assert node.tell(one, Register, "x").kind == ""
    assert node.tell(other, Register, "x").kind == "NameInUse"
    assert node.tell(other, Whereis, "x", True) == Found(4, one.key)
    node.end(one)
    assert node.tell(other, Whereis, "x", False) == Found(5, b"")
    assert node.tell(other, Register, "x").kind == ""


def test_only_the_owner_takes_a_name_back() -> None:
    """The others are refused."""
    node = Node()
    one, other = node.process(), node.process()
    node.tell(one, Register, "x")
    assert node.tell(other, Unregister, "x").kind == "UsageError"
    assert node.tell(other, Unregister, "y").kind == "UsageError"
    assert node.tell(one, Unregister, "x").kind == ""
    assert node.tell(other, Register, "x").kind == ""


def test_all_who_wait_for_a_name_are_told_once() -> None:
    """In the order in which they asked; not who has given up or has ended."""
    node = Node()
    server, *waiting = [node.process() for _ in range(5)]
    for process in waiting:
        assert node.tell(process, Whereis, "x", True) is None
    node.registry.cancel(waiting[1], 2)
    node.registry.cancel(waiting[1], 2)
    node.end(waiting[2])
    node.tell(server, Register, "x")
    assert node.sent == [
        (server, Done(5, "", "")),
        (waiting[0], Found(1, server.key)),
        (waiting[3], Found(4, server.key)),
    ]
    node.end(server)
    for process in (waiting[0], waiting[1], waiting[3]):
        node.end(process, 0)
    assert node.is_empty()


@pytest.mark.parametrize("name", ["", "x" * 4097, "\u00e4" * 2049])
def test_a_name_has_a_length(name: str) -> None:
    """The node does not trust what the process should have checked."""
    node = Node()
    assert node.tell(node.process(), Register, name).kind == "UsageError"
    assert node.is_empty()


def test_names_and_searches_have_a_number() -> None:
    """A process that asks for more is refused, and keeps what it has."""
    node = Node()
    process = node.process()
    for number in range(MOST_NAMES):
        assert node.tell(process, Register, f"{number}").kind == ""
        assert node.tell(process, Whereis, f"nobody {number}", True) is None
    assert node.tell(process, Register, "more").kind == "UsageError"
    assert node.tell(process, Register, "5").kind == ""
    assert node.tell(process, Whereis, "more", True).kind == "UsageError"
    assert node.tell(process, Whereis, "5", True) == Found(node.requests, process.key)


def test_a_closed_deployment_leaves_nothing() -> None:
    """Who waits for a name is told that it will not come."""
    node = Node()
    first = node.process()
    node.tell(first, Register, "x")
    node.tell(first, Whereis, "y", True)
    node.registry.clear()
    assert node.sent[-1][1].kind == "UsageError"  # type: ignore[union-attr]  # it is a Done
    assert node.is_empty()


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("code", [0, 1, None])
@pytest.mark.parametrize("first_ends", [False, True])
def test_a_tie_works_in_one_direction_or_in_both(both: bool, code: int | None, first_ends: bool) -> None:
    """A bad end ends the other one, which is told why; a good end does not."""
    node = Node()
    process, other = node.process(), node.process()
    assert node.tell(process, Tie, other.key, both).kind == ""
    ending, left = (process, other) if first_ends else (other, process)
    node.end(ending, code)
    expected = code != 0 and (both or not first_ends)
    assert list(node.asked) == ([left.key] if expected else [])
    if expected:
        assert node.asked[left.key].startswith(f"linked process {ending.pid} died: ")


def test_ties_with_the_dead_and_the_unknown() -> None:
    """As if it had been there before; an unknown one is refused."""
    node = Node()
    process, good, bad = (node.process() for _ in range(3))
    node.end(good, 0)
    node.end(bad, 9)
    assert node.tell(process, Tie, good.key, True).kind == ""
    assert node.asked == {}
    assert node.tell(process, Tie, bad.key, True).kind == ""
    assert node.asked == {process.key: f"linked process {bad.pid} died: exited: 9"}
    assert node.tell(process, Tie, Pid(1, 99, bytes(16)).to_bytes(), True).kind == "UsageError"


def test_a_message_is_what_its_name_says() -> None:
    """Each request has its answer among those that a process expects."""
    assert {Register, Unregister, Whereis, Tie, Untie, Done, Found} <= set(messages.CONTROL.kinds)


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["register", "unregister", "whereis", "tie", "tie one way", "untie", "end well", "end badly"]),
        st.integers(0, 4),
        st.integers(0, 4),
    ),
    max_size=40,
)


@given(MOVES)
def test_against_a_model(moves: list[tuple[str, int, int]]) -> None:
    """Any order of requests and ends: names, answers and ends are those of a plain book; nothing is kept of the dead."""
    node = Node()
    processes = [node.process() for _ in range(5)]
    names: dict[str, Member] = {}
    waits: list[tuple[Member, str]] = []
    ties: set[tuple[bytes, bytes]] = set()
    for what, who, whom in moves:
        process, other, name = processes[who], processes[whom], f"name {whom}"
        if process.key not in node.living:
            continue
        node.asked.clear()
        if what == "register":
            is_free = names.get(name) in {None, process}
            assert (node.tell(process, Register, name).kind == "") == is_free
            if is_free:
                names[name] = process
                told = [to for to, message in node.sent if isinstance(message, Found)]
                assert told == [waiter for waiter, wanted in waits if wanted == name]
                waits = [each for each in waits if each[1] != name]
        elif what == "unregister":
            is_mine = names.get(name) is process
            assert (node.tell(process, Unregister, name).kind == "") == is_mine
            if is_mine:
                del names[name]
        elif what == "whereis":
            answer = node.tell(process, Whereis, name, True)
            if name in names:
                assert answer.pid == names[name].key
            else:
                assert answer is None
                waits.append((process, name))
        elif what.startswith("tie"):
            assert node.tell(process, Tie, other.key, what == "tie").kind == ""
            if other.key in node.dead:
                assert bool(node.asked) == (not node.dead[other.key].ok)
            elif other is not process:
                ties.add((other.key, process.key))
                if what == "tie":
                    ties.add((process.key, other.key))
        elif what == "untie":
            assert node.tell(process, Untie, other.key).kind == ""
            ties -= {(other.key, process.key), (process.key, other.key)}
        else:
            node.end(process, 0 if what == "end well" else 1)
            names = {each: owner for each, owner in names.items() if owner is not process}
            waits = [each for each in waits if each[0] is not process]
            ended = {dependent for cause, dependent in ties if cause == process.key}
            assert set(node.asked) == (ended if what == "end badly" else set())
            ties = {tie for tie in ties if process.key not in tie}
    for process in processes:
        if process.key in node.living:
            node.end(process, 0)
    assert node.is_empty()
