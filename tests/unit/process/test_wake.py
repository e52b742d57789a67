"""The wake-up pipe of a reactor: which of its bytes have the main thread interrupted (process/reactor.py)."""

from __future__ import annotations

import _thread
import os
import signal
from types import SimpleNamespace
from unittest import mock

import pytest

from constellation.process.reactor import _Wake


@pytest.mark.parametrize(
    ("data", "is_interrupted"),
    [
        (b"\0", False),
        (b"\0\0\0", False),
        (bytes([signal.SIGTERM]), True),
        (bytes([0, signal.SIGUSR1, 0]), True),
        (bytes([signal.SIGURG]), False),
        (bytes([0, signal.SIGURG, 0]), False),
        (bytes([signal.SIGURG, signal.SIGINT]), True),
    ],
)
def test_the_main_thread_is_interrupted_for_signals_of_others(data: bytes, is_interrupted: bool) -> None:
    """Not for the bytes of who wakes, and not for the interruption itself: it would follow itself for ever."""
    wake_end, poke = os.pipe2(os.O_NONBLOCK)
    try:
        wake = _Wake(SimpleNamespace(main=_thread.get_ident() + 1), wake_end)  # type: ignore[arg-type]  # all it needs
        os.write(poke, data)
        with mock.patch.object(_thread, "start_new_thread") as start:
            wake.on_ready(0)
        assert start.called is is_interrupted
    finally:
        os.close(wake_end)
        os.close(poke)


def test_the_main_thread_interrupts_itself_for_nothing() -> None:
    """Who reads the number of a signal there is awake."""
    wake_end, poke = os.pipe2(os.O_NONBLOCK)
    try:
        wake = _Wake(SimpleNamespace(main=_thread.get_ident()), wake_end)  # type: ignore[arg-type]  # all it needs
        os.write(poke, bytes([signal.SIGTERM]))
        with mock.patch.object(_thread, "start_new_thread") as start:
            wake.on_ready(0)
        assert not start.called
    finally:
        os.close(wake_end)
        os.close(poke)
