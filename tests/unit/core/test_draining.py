"""What a leaving process still holds, in words, and on the wire."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core.draining import MOST_HELD, Held, describe, describe_until, from_fields, to_fields
from constellation.core.pid import Pid

ONE, TWO = (Pid(1, number, bytes([number]) * 16) for number in (1, 2))
MIB = 1 << 20


def test_channels_are_named_by_size_under_their_peers() -> None:
    """The largest first; two by name; sizes that are not known are left out."""
    held = [Held("log", ONE, 10), Held("results", ONE, 5 * MIB), Held("", ONE, 2 * MIB), Held("", TWO, 0)]

    assert describe(held) == ("3 channels to 0101010 ('results' 5 MiB, 2 MiB)", "1 channel to 0202020")
    assert describe_until(held[1:2], 60.0) == "draining: 1 channel to 0101010 ('results' 5 MiB) until linger (60 s)"


def test_many_peers_are_counted() -> None:
    """A process that has sent to hundreds fits into a line."""
    held = [Held("", Pid(1, number, bytes([number]) * 16), 0) for number in range(9)]

    assert describe(held)[-1] == "6 more processes"
    assert describe([]) == ()


@given(
    st.lists(st.builds(Held, st.text(max_size=150), st.sampled_from([ONE, TWO]), st.integers(0, 2**60)), max_size=120)
)
def test_what_is_held_survives_the_wire(held: list[Held]) -> None:
    """Up to the limits of number and length."""
    assert list(from_fields(to_fields(held))) == [each._replace(name=each.name[:100]) for each in held[:MOST_HELD]]


@pytest.mark.parametrize("field", [1, [], ["a", b"short", 1], ["a", bytes(32), "1"], [b"a", bytes(32), 1], ["a", 1]])
def test_other_values_are_refused(field: Any) -> None:
    """A process cannot upset the node with what it says of itself."""
    with pytest.raises(ValueError, match="cannot read"):
        from_fields([field])


def test_more_than_is_told_is_neither_told_nor_read() -> None:
    """Each side keeps the limit by itself: the other may be of another version, or hostile."""
    held = [Held(str(number), ONE, number) for number in range(MOST_HELD + 1)]
    fields = to_fields(held)
    assert len(fields) == MOST_HELD
    assert len(from_fields([*fields, fields[0]])) == MOST_HELD
