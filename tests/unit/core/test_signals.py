"""Names and numbers of signals."""

from __future__ import annotations

import signal

import pytest

from constellation.core.signals import signal_name, signal_number


@pytest.mark.parametrize("number", [*range(1, 65), 99])
def test_name_and_number_are_inverse(number: int) -> None:
    """For all that the kernel has, real-time ones included, and beyond."""
    assert signal_number(signal_name(number)) == number


def test_names() -> None:
    """As `kill -l` has them."""
    assert [signal_name(number) for number in (9, 15, signal.SIGRTMIN + 1, 99)] == [
        "SIGKILL",
        "SIGTERM",
        "SIGRTMIN+1",
        "signal 99",
    ]


@pytest.mark.parametrize("name", ["", "SIGNONSENSE", "SIGRTMIN+x", "signal", "signal -1", "SIGRTMIN+99999"])
def test_unknown_name_has_no_number(name: str) -> None:
    """None, for names come from other nodes."""
    assert signal_number(name) is None
