"""Control messages: every record survives, everything else is refused with a ValueError."""

from __future__ import annotations

import math
from typing import Any, get_args

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core import messages
from constellation.core.messages import Exited, Kill, Message, Ready, Spawn, TemplateReady, fields_of, read

KINDS = get_args(Message)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(-(2**63), 2**64 - 1),
    "str": st.text(max_size=5),
    "bytes": st.binary(max_size=40),
    "bool": st.booleans(),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "list[Any]": st.lists(st.integers(0, 9), max_size=3),
    "int | None": st.none() | st.integers(0, 9),
    "list[Any] | None": st.none() | st.lists(st.integers(0, 9), max_size=3),
}
SPAWN = Spawn(1, "prog:child", "prog.py:5", [1, 2, []], True, b"payload")


def written(kind: type[Any]) -> list[str]:
    """The annotations of a record as they are written."""
    return [each if isinstance(each, str) else each.__forward_arg__ for each in kind.__annotations__.values()]


a_message = st.sampled_from(KINDS).flatmap(
    lambda kind: st.tuples(*(VALUES[annotation] for annotation in written(kind))).map(kind._make)
)


@given(a_message)
def test_each_message_survives_the_wire(message: Message) -> None:
    """msgpack included; its type as well as its fields."""
    again = read(msgpack.unpackb(msgpack.packb(fields_of(message))))
    assert again == message
    assert type(again) is type(message)


def test_numbers_are_what_docs_say() -> None:
    """They are on the wire: appended to, never changed."""
    names = [kind.__name__ for kind in messages.CONTROL.kinds]
    first = "Ready Spawn Connect Watch Kill Cancel Raised Draining Close Begin Waiting LinkMade Refused Spawned"
    then = "SpawnFailed Exited Closed Fork Forked ForkFailed Ended TemplateReady"
    assert " ".join(names).startswith(f"{first} {then}")
    assert set(names) == {kind.__name__ for kind in KINDS}
    assert len(names) == len(KINDS)
    assert fields_of(Ready(5)) == [0, 5]


@pytest.mark.parametrize(
    "plain", [None, 5, "text", {}, (0, 5), [], [None], [True, 5], [1.0], ["0"], [-1, 5], [10**6], [[0], 5]]
)
def test_what_is_no_message_is_refused(plain: Any) -> None:
    """Without a known number it says nothing."""
    with pytest.raises(ValueError, match="not a control message"):
        read(plain)


@pytest.mark.parametrize("count", [0, 1, 6, 8, 100])
def test_wrong_number_of_fields_is_refused(count: int) -> None:
    """With both numbers."""
    with pytest.raises(ValueError, match=f"Spawn has {count} fields: expected 7"):
        read([1, *[0] * count])


@pytest.mark.parametrize("position", range(len(SPAWN)))
@pytest.mark.parametrize("value", [None, {}, 1.5, -(2**80)])
def test_wrong_type_of_a_field_is_refused(position: int, value: Any) -> None:
    """With the name of the field."""
    if position == 0 and type(value) is int:
        return
    fields = fields_of(SPAWN)
    fields[1 + position] = value
    with pytest.raises(ValueError, match=rf"Spawn\.{SPAWN._fields[position]} is .*: expected"):
        read(fields)


def test_bool_is_no_number_and_number_no_bool() -> None:
    """msgpack keeps them apart, so we do."""
    with pytest.raises(ValueError, match=r"Ready\.os_pid is True"):
        read([0, True])
    with pytest.raises(ValueError, match=r"Spawn\.wait is 1: expected bool"):
        read([1, *SPAWN._replace(wait=1)])  # type: ignore[arg-type]


@pytest.mark.parametrize("grace", [math.nan, math.inf, -math.inf])
def test_times_are_finite(grace: float) -> None:
    """A deadline that never compares would keep a process for ever."""
    with pytest.raises(ValueError, match=r"Kill\.grace is .*: expected a finite number"):
        read(fields_of(Kill(1, b"", grace, False)))
    assert read(fields_of(Kill(1, b"", 5, False))) == Kill(1, b"", 5, False)


def test_optional_fields_may_be_missing() -> None:
    """None, and nothing else that is no list."""
    assert read(fields_of(Exited(1, None))) == Exited(1, None)
    with pytest.raises(ValueError, match=r"Exited\.status is '': expected list or NoneType"):
        read(fields_of(Exited(1, "")))  # type: ignore[arg-type]


def test_deep_nesting_is_shown_short() -> None:
    """The text of the refusal must not fail itself."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="not a control message"):
        read(deep)
    with pytest.raises(ValueError, match=r"Ready\.os_pid is \[\[\[") as caught:
        read([0, deep])
    assert len(str(caught.value)) < 300
    assert read([messages.CONTROL.numbers[TemplateReady], 1, 1, deep, []])
    while deep:
        deep = deep.pop()  # a list so deep must not be freed at once


hostile = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


nearly_right = st.tuples(st.integers(0, 21), st.lists(hostile, max_size=7)).map(lambda pair: [pair[0], *pair[1]])


@given(hostile | nearly_right)
def test_hostile_values_end_in_value_error_only(plain: Any) -> None:
    """Whatever msgpack may have brought."""
    try:
        message = read(plain)
    except ValueError:
        return
    assert repr(fields_of(message)) == repr(plain)  # by repr, for NaN may be inside
