"""The tree of errors: each can be raised, caught by its parent, and pickled."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest

from constellation.core import errors
from constellation.core.errors import ConstellationError, PeerDied, SerializationError, SupervisionError, TypeMismatch
from constellation.core.pid import Pid
from constellation.core.status import ExitStatus

PID = Pid(1, 2, bytes.fromhex("3fecd01" + "0" * 25))
STATUS = ExitStatus(PID, None, "SIGKILL", "out of memory", ("ValueError", "no"), ("last words",), "node-2", "prog.py:5")
CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ConstellationError)]
SPECIAL: dict[type[ConstellationError], tuple[tuple[Any, ...], str]] = {
    PeerDied: ((PID, STATUS), "process 3fecd01 has died: killed: SIGKILL (out of memory)"),
    TypeMismatch: (("int", "str"), "the sender states int, the receiver states str"),
    SupervisionError: (
        ("web", "db", "it ended 3 times", STATUS),
        "supervisor 'web' has given up: child 'db': it ended 3 times",
    ),
    SerializationError: (("args[0].lock", "cannot pickle a lock"), "args[0].lock: cannot pickle a lock"),
}


def test_all_are_listed() -> None:
    """The tree in the docstring is the tree in the code, in order."""
    assert errors.__doc__ is not None
    drawn = [line.split("+--")[1].split()[0] for line in errors.__doc__.splitlines() if "+--" in line]
    assert set(drawn) == {kind.__name__ for kind in CLASSES} - {"ConstellationError"}


@pytest.mark.parametrize("kind", CLASSES)
def test_each_survives_pickling(kind: type[ConstellationError]) -> None:
    """With its type, text and attributes."""
    args, text = SPECIAL.get(kind, (("some text",), "some text"))
    error = kind(*args)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert again.args == args
    assert vars(again) == vars(error)
    assert str(again) == str(error)
    assert text in str(error)


@pytest.mark.parametrize("kind", CLASSES)
def test_each_is_under_the_parent_that_is_drawn(kind: type[ConstellationError]) -> None:
    """`except ConstellationError` catches all, and nothing is outside its group."""
    assert issubclass(kind, ConstellationError)
    assert kind.__doc__
    assert kind.__doc__.endswith(".") or "Attributes:" in kind.__doc__


def test_attributes_are_kept() -> None:
    """The record is what a program looks at."""
    error = PeerDied(PID, STATUS)
    assert (error.pid, error.status) == (PID, STATUS)


def test_a_peer_of_which_nothing_is_known_is_lost_and_not_dead() -> None:
    """It may live on where the link to it, or its computer, has failed."""
    error = PeerDied(PID, ExitStatus(PID, None, None, "node lost"))
    assert str(error) == "process 3fecd01 is lost: node lost"
