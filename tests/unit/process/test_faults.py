"""Whose exception it is: a plugin's or C code's, or that of a signal handler of the program."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import NoReturn
from unittest import mock

import pytest

from constellation.process.faults import is_of_program


class Interrupted(Exception):
    """What the handler raises."""


def handler(_number: int, _frame: object) -> NoReturn:
    raise Interrupted


@pytest.fixture
def handled() -> Iterator[None]:
    """SIGUSR1 has the handler."""
    former = signal.signal(signal.SIGUSR1, handler)
    yield
    signal.signal(signal.SIGUSR1, former)


def plugin() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)
    raise BrokenPipeError


def test_an_exception_of_a_signal_handler_is_the_program_s(handled: None) -> None:
    """It came into the middle of a plugin's code."""
    with pytest.raises(Interrupted) as raised:
        plugin()
    assert is_of_program(raised.value)


def test_an_exception_of_a_plugin_is_not(handled: None) -> None:
    """However deep in its code it was raised."""
    with pytest.raises(ValueError) as raised:
        sorted([1], key=lambda _: int("x"))
    assert not is_of_program(raised.value)


def test_an_exception_of_c_code_is_told_without_a_look_at_the_handlers() -> None:
    """A link that has ended raises so, and hundreds may end at once."""
    with mock.patch.object(signal, "getsignal", side_effect=AssertionError("asked")):
        try:
            os.write(-1, b"")
        except OSError as error:
            assert not is_of_program(error)
        else:
            raise AssertionError("nothing was raised")


def test_no_memory_is_the_interpreter_s_own() -> None:
    """A plugin cannot help it."""
    assert is_of_program(MemoryError())
