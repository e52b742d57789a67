"""Pids: values that name a process for ever."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core.pid import PID_BYTES, Pid

KEY = bytes.fromhex("3fecd01" + "0" * 25)
PID = Pid(2, 3, KEY)

pids = st.builds(Pid, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.binary(min_size=16, max_size=16))


@given(pids)
def test_survives_the_wire_and_pickling(pid: Pid) -> None:
    """What comes out equals what went in."""
    assert Pid.from_bytes(pid.to_bytes()) == pid
    assert pickle.loads(pickle.dumps(pid)) == pid
    assert hash(copy.deepcopy(pid)) == hash(pid)
    assert len(pid.to_bytes()) == PID_BYTES


@given(pids, pids)
def test_order_is_that_of_the_wire(one: Pid, two: Pid) -> None:
    """Two processes find the same one smaller, whoever asks."""
    assert (one < two) == (one.to_bytes() < two.to_bytes())
    assert (one > two) == (two < one)
    assert (one == two) == (one.to_bytes() == two.to_bytes())


def test_is_shown_short() -> None:
    """7 digits for people, 32 for programs."""
    assert (str(PID), repr(PID), PID.hex()) == ("3fecd01", "<Pid 3fecd01>", KEY.hex())


@pytest.mark.parametrize("other", [Pid(1, 3, KEY), Pid(2, 4, KEY), Pid(2, 3, bytes(16)), "3fecd01", None])
def test_differs_by_each_part(other: object) -> None:
    """And from what is no Pid."""
    assert other != PID


def test_has_no_order_with_other_things() -> None:
    """TypeError, as for numbers and text."""
    with pytest.raises(TypeError):
        PID < 3  # type: ignore[operator]  # noqa: B015  # what is tested


def test_is_immutable() -> None:
    """It is a key of dicts everywhere."""
    with pytest.raises(AttributeError, match="cannot set 'node': a Pid is immutable"):
        PID.node = 1
    with pytest.raises(AttributeError, match="cannot delete 'key': a Pid is immutable"):
        del PID.key


@pytest.mark.parametrize("data", [b"", b"x" * 31, b"x" * 33])
def test_other_lengths_are_refused(data: bytes) -> None:
    """With the length that was expected."""
    with pytest.raises(ValueError, match=f"from {len(data)} bytes: expected 32"):
        Pid.from_bytes(data)
    with pytest.raises(ValueError, match="expected 16"):
        Pid(1, 1, data)
