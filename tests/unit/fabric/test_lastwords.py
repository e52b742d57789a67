"""The book that a keeper reads when its fabric is dead: who is in it, and what is said."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from constellation.core.pid import Pid
from constellation.fabric import lastwords
from constellation.fabric.lastwords import Book

ONE, TWO, THREE = (Pid(1, number, bytes([number] * 16)) for number in (1, 2, 3))


@pytest.fixture
def memory() -> Iterator[int]:
    """What fabric and keeper share."""
    fd = os.memfd_create("book")
    yield fd
    os.close(fd)


def _book(memory: int, output: int, form: str = "json") -> Book:
    return Book(memory, form, colour=False, joined=True, output=output)


def test_who_has_begun_and_not_ended_is_said_to_be_lost(memory: int) -> None:
    """With what happened to the fabric; code and signal are not known."""
    read, write = os.pipe()
    book = _book(memory, write)
    for pid in (ONE, TWO, THREE):
        book.add(pid.to_bytes())
    book.remove(TWO.to_bytes(), 5)
    book.end(5)
    lastwords.say(memory, -9)
    os.close(write)
    with open(read) as file:
        events = [json.loads(line) for line in file]
    assert [event["pid"] for event in events] == [ONE.hex(), THREE.hex()]
    assert {(event["code"], event["signal"], event["cause"]) for event in events} == {
        (None, None, "node lost: the fabric was killed by SIGKILL, and with it all its processes")
    }


def test_an_end_that_has_not_been_written_is_not_known_to_anybody(memory: int) -> None:
    """It waits in the writer's queue, which dies with the fabric."""
    read, write = os.pipe()
    book = _book(memory, write, "human")
    book.add(ONE.to_bytes())
    book.remove(ONE.to_bytes(), 6)
    book.end(5)
    lastwords.say(memory, 1)
    os.close(write)
    with open(read) as file:
        text = file.read()
    assert text == (
        f"{ONE}:\n    ended: unknown how (node lost: the fabric ended with 1, and with it all its processes)\n"
    )


def test_a_line_that_may_have_been_cut_is_ended(memory: int) -> None:
    """A large write may have been under way; a small one is whole or was not begun."""
    for size, start in ((10, "{"), (100_000, "\n")):
        read, write = os.pipe()
        book = _book(memory, write)
        book.add(ONE.to_bytes())
        book.begin(size)
        lastwords.say(memory, -9)
        os.close(write)
        with open(read) as file:
            assert file.read(1) == start


def test_nothing_is_said_where_all_has_been_said(memory: int) -> None:
    """At a good end, when no process was left, and when the fabric died before it had a book."""
    read, write = os.pipe()
    lastwords.say(memory, -9)
    book = _book(memory, write)
    lastwords.say(memory, -9)
    book.add(ONE.to_bytes())
    book.close()
    lastwords.say(memory, 141)
    os.close(write)
    with open(read) as file:
        assert file.read() == ""


def test_places_are_used_again(memory: int) -> None:
    """A deployment that runs for long has a book as large as its largest number of processes."""
    book = _book(memory, 1)
    for number in range(1000):
        key = Pid(1, number, bytes(16)).to_bytes()
        book.add(key)
        book.remove(key, number)
        book.end(number)
    assert os.fstat(memory).st_size == 64
