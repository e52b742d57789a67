"""The log of a daemon, in both its forms."""

from __future__ import annotations

import io
import json
import sys
import threading
from typing import Any

import pytest

from constellation.core.errors import UsageError
from constellation.fabric.journal import ERROR, WARNING, Journal

NAME = bytes(range(16))


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Takes back what `take_in` changes."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    return monkeypatch


def _out(hooks: pytest.MonkeyPatch) -> io.StringIO:
    """What stderr is from now on; in the test itself, for pytest changes stderr between a fixture and it."""
    made = io.StringIO()
    hooks.setattr(sys, "stderr", made)
    return made


def _lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_is_an_object_with_what_is_known(hooks: pytest.MonkeyPatch) -> None:
    """What is not known is not there; the name of the node is the one of that moment."""
    out = _out(hooks)
    names = ["127.0.0.1:5000", "n2"]
    journal = Journal("json", "node", lambda: names.pop(0))
    journal.write("listens")
    journal.write("refused", level=WARNING, deployment=NAME, peer="10.0.0.1:7")
    one, two = _lines(out)
    assert set(one) == {"time", "level", "role", "node", "message"}
    assert (one["level"], one["role"], one["node"]) == ("info", "node", "127.0.0.1:5000")
    assert (two["level"], two["node"], two["deployment"], two["peer"]) == ("warning", "n2", NAME.hex(), "10.0.0.1:7")


def test_text_is_for_people(hooks: pytest.MonkeyPatch) -> None:
    """Time, role and the words; a refusal is as that of every command."""
    out = _out(hooks)
    journal = Journal("text", "master", lambda: "n1")
    journal.write("listens", level=ERROR, peer="10.0.0.1:7")
    journal.refuse(UsageError("no"))
    journal.take_in()
    first, second = out.getvalue().splitlines()
    assert first[20:] == "master: listens"
    assert second == "constellation: no"
    assert sys.stderr is out


def test_what_others_say_on_stderr_becomes_lines_too(hooks: pytest.MonkeyPatch) -> None:
    """Whole lines, one object each; empty ones are left out."""
    out = _out(hooks)
    Journal("json", "node", lambda: "n1").take_in()
    print("one", "two", file=sys.stderr)
    sys.stderr.write("three\n\nfo")
    sys.stderr.write("ur\n")
    sys.stderr.flush()
    assert [(line["message"], line["level"]) for line in _lines(out)] == [
        ("one two", "warning"),
        ("three", "warning"),
        ("four", "warning"),
    ]


def test_an_error_that_nobody_catches_is_one_object(hooks: pytest.MonkeyPatch) -> None:
    """Also one of a thread: its text in one line, the traceback beside it."""
    out = _out(hooks)
    Journal("json", "node", lambda: "n1").take_in()

    def fail() -> None:
        raise ValueError("bad\nvalue")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    try:
        fail()
    except ValueError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    for line in _lines(out):
        assert (line["message"], line["level"]) == ("ValueError: bad\nvalue", "error")
        assert "in fail" in line["traceback"]
    assert len(_lines(out)) == 2


def test_a_log_that_nobody_reads_stops_nobody() -> None:
    """Whether the other end has gone or the file has been closed."""
    journal = Journal("json", "node", lambda: "n1")
    journal._out = io.StringIO()
    journal._out.close()
    journal.write("words")
