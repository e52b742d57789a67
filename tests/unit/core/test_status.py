"""Death certificates."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core.pid import Pid
from constellation.core.status import ExitStatus

PID = Pid(1, 2, bytes.fromhex("3fecd01" + "0" * 25))
WHOLE = ExitStatus(PID, None, "SIGKILL", "out of memory", ("ValueError", "no"), ("one", "two"), "node-2", "prog.py:5")
FIELDS = WHOLE.to_fields()


@pytest.mark.parametrize(
    ("status", "words", "is_ok"),
    [
        (ExitStatus(PID, 0, None), "exited: 0", True),
        (ExitStatus(PID, 3, None), "exited: 3", False),
        (ExitStatus(PID, 1, None, "ValueError: no"), "exited: 1 (ValueError: no)", False),
        (ExitStatus(PID, None, "SIGKILL"), "killed: SIGKILL", False),
        (WHOLE, "killed: SIGKILL (out of memory)", False),
        (ExitStatus(PID, None, None, "node lost"), "ended: unknown how (node lost)", False),
    ],
)
def test_words(status: ExitStatus, words: str, is_ok: bool) -> None:
    """What is known and nothing else."""
    assert (status.describe(), status.ok, str(status)) == (words, is_ok, f"3fecd01 {words}")


@pytest.mark.parametrize("status", [WHOLE, ExitStatus(PID, 0, None)])
def test_survives_the_wire_and_pickling(status: ExitStatus) -> None:
    """With every field."""
    assert ExitStatus.from_fields(status.to_fields()) == status
    assert pickle.loads(pickle.dumps(status)) == status


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, b"short"),
        (0, None),
        (1, "0"),
        (1, True),
        (2, 9),
        (3, 5),
        (4, []),
        (4, ["one"]),
        (4, ["one", 2]),
        (4, 5),
        (5, None),
        (5, [1]),
        (6, None),
        (7, 5),
    ],
)
def test_fields_that_do_not_fit_are_refused(position: int, value: Any) -> None:
    """One wrong field is enough."""
    fields = [*FIELDS[:position], value, *FIELDS[position + 1 :]]
    with pytest.raises(ValueError, match="cannot read an exit status"):
        ExitStatus.from_fields(fields)


@given(st.lists(st.none() | st.integers() | st.text(max_size=3) | st.binary(min_size=32, max_size=32), max_size=9))
def test_hostile_fields_end_in_value_error_only(fields: list[Any]) -> None:
    """Whatever msgpack may have brought."""
    try:
        read = ExitStatus.from_fields(fields)
    except ValueError:
        return
    assert ExitStatus.from_fields(read.to_fields()) == read
