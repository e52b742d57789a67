"""The serializer keeps the contract; a typed channel's values are checked, and a fault names the member."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pytest
from constellation_msgspec import MsgspecSerializer
from hypothesis import given
from hypothesis import strategies as st

from constellation.plugin import Pid, Resources, SerializationError, UsageError
from constellation.testing import SERIALIZER_CHECKS

MAKE = MsgspecSerializer
PID = Pid(1, 2, bytes(range(16)))


class Point(msgspec.Struct):
    """A record."""

    x: int
    y: float = 0.0


class Line(msgspec.Struct, tag=True):
    """One member of a union."""

    points: list[Point]
    owner: Pid | None = None


class Circle(msgspec.Struct, tag=True):
    """The other one."""

    centre: Point
    radius: Annotated[float, msgspec.Meta(gt=0)]


class Colour(enum.Enum):
    """An enum of text."""

    RED = "red"


@dataclasses.dataclass
class Order:
    """A dataclass that holds others."""

    lines: dict[str, Line]
    colour: Colour
    extra: tuple[int, str] | None


class Entry(NamedTuple):
    """A tuple with names."""

    key: str
    number: int


class Options(TypedDict):
    """A dict with known keys."""

    name: str


class Tree(msgspec.Struct):
    """A type that contains itself."""

    value: int
    below: list[Tree] = []


TYPED: list[tuple[Any, Any]] = [
    (Point, Point(1, 2.5)),
    (Line | Circle, Circle(Point(1), 2.0)),
    (Order, Order({"a": Line([Point(1)], PID)}, Colour.RED, (1, "b"))),
    (Entry, Entry("a", 1)),
    (Options, {"name": "x"}),
    (Tree, Tree(1, [Tree(2), Tree(3, [Tree(2**100)])])),
    (tuple[int, ...], (1, 2, 3)),
    (set[str], {"a", "b"}),
    (frozenset[int], frozenset({1})),
    (dict[int, tuple[int, int]], {1: (2, 3)}),
    (datetime, datetime(2024, 5, 6, 7, 8, 9, 10, tzinfo=UTC)),
    (datetime, datetime(2024, 5, 6, 7, 8, 9)),  # noqa: DTZ001  # naive, as it is
    (Decimal, Decimal("1.10")),
    (UUID, UUID(int=5)),
    (Pid, PID),
    (list[Pid], [PID]),
    (Resources, Resources(100, 0.5, gpu=1)),
    (bytes, b"x"),
    (bytearray, bytearray(b"x")),
    (Annotated[int, msgspec.Meta(ge=1)], 5),
    (int, 2**200),
    (int, -(2**63) - 1),
    (list[Point], [Point(2**64), Point(-(2**64))]),
    (Any, [1, {"a": None}]),
]


@pytest.mark.parametrize("check", SERIALIZER_CHECKS, ids=lambda check: str(check.__name__))
def test_serializer_keeps_the_contract(check: Callable[[Callable[[], MsgspecSerializer]], None]) -> None:
    """Each check of the public suite."""
    check(MAKE)


@pytest.mark.parametrize(("stated", "value"), TYPED, ids=[str(stated)[-40:] for stated, _ in TYPED])
def test_typed_value_comes_out_as_it_went_in(stated: Any, value: Any) -> None:
    """Equal, and of the same type, for each kind that msgspec knows, and for our own."""
    codec = MAKE().for_type(stated)
    result = codec.decode(codec.encode(value))
    assert result == value
    assert type(result) is type(value)
    assert codec.decode([memoryview(bytes(codec.encode(value)[0]))]) == value


WRONG: list[tuple[Any, Any, str, str]] = [
    (Point, {"x": "1"}, "value.x", "Expected `int`, got `str`"),
    (Point, {"y": 1.0}, "value", "Object missing required field `x`"),
    (list[Point], [Point(1), 5], "value[1]", "Expected `object`, got `int`"),
    (Line, Line([Point(1), {"x": None}]), "value.points[1].x", "Expected `int`, got `None`"),  # type: ignore[list-item]
    (Circle, Circle(Point(1), -1.0), "value.radius", "Expected `float` > 0.0"),
    (tuple[int, str], (1,), "value", "Expected `array` of length 2, got 1"),
    (dict[int, str], {"a": "b"}, "value.<key>", "Expected `int`, got `str`"),
    (int, 1.5, "value", "Expected `int`, got `float`"),
    (int, True, "value", "Expected `int`, got `bool`"),
    (list[int], [2**70, "a"], "value[1]", "Expected `int`, got `str`"),
    (Pid, b"x" * 32, "value", "Expected `Pid`, got `bytes`"),
    (list[Resources], [PID], "value[0]", "Expected `Resources`, got `Pid`"),
]


@pytest.mark.parametrize(("stated", "value", "path", "reason"), WRONG, ids=[reason for *_, reason in WRONG])
def test_mismatch_names_the_member(stated: Any, value: Any, path: str, reason: str) -> None:
    """Where it lies, what was expected, what came."""
    codec = MAKE().for_type(stated)
    with pytest.raises(SerializationError) as caught:
        codec.decode(codec.encode(value))
    # Versions of msgspec differ in what they call None.
    assert (caught.value.path, caught.value.reason.replace("`null`", "`None`")) == (path, reason)


def test_bytes_that_travel_as_they_are_are_checked() -> None:
    """The exact type must be one that is stated, and limits hold."""
    serializer = MAKE()
    serializer.for_type(bytes).check(b"x")
    serializer.for_type(int | bytes).check(b"x")
    serializer.for_type(bytearray).check(bytearray(b"x"))
    serializer.for_type(memoryview).check(memoryview(b"x"))
    limited = Annotated[bytes, msgspec.Meta(max_length=2)]
    serializer.for_type(limited).check(b"xy")
    for stated, value in [(Point, b"x"), (bytes, bytearray(b"x")), (str, b"x"), (bytearray, b"x"), (limited, b"xyz")]:
        with pytest.raises(SerializationError, match="Expected"):
            serializer.for_type(stated).check(value)


def test_a_view_keeps_its_bytes() -> None:
    """The buffer that was read is not the value's to keep: a memoryview that comes out has memory of its own."""
    codec = MAKE().for_type(list[memoryview])
    data = bytearray(codec.encode([memoryview(b"one"), memoryview(b"two")])[0])
    views = codec.decode([memoryview(data)])
    data[:] = bytes(len(data))
    assert [bytes(view) for view in views] == [b"one", b"two"]


class Unknown:
    """A class of which msgspec knows nothing."""


@pytest.mark.parametrize("stated", [Unknown, list[Unknown], Line | Point, "Point", tuple[int, ...] | list[int]])
def test_types_that_cannot_be_checked_are_refused(stated: Any) -> None:
    """When the channel is first used, and not at the first value."""
    with pytest.raises(UsageError, match="cannot check values as"):
        MAKE().for_type(stated)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ((1, 2), "value"),
        ({"a": [1, (2,)]}, "value['a'][1]"),
        ([{1, 2}], "value[0]"),
        ({(1, 2): 3}, "value.<key (1, 2)>"),
        ([Entry("a", 1)], "value[0]"),
        ([bytearray(b"x")], "value[0]"),
        (Point(1), "value"),
        (["\ud800"], "value[0]"),
    ],
)
def test_what_would_come_out_as_something_else_needs_a_type(value: Any, path: str) -> None:
    """Refused where it is sent, with the way to it."""
    with pytest.raises(SerializationError) as caught:
        MAKE().encode(value)
    assert caught.value.path == path


def test_a_key_beyond_64_bits_is_refused_with_words() -> None:
    """msgspec takes such an int as a value only, by our ext type."""
    for encode in (MAKE().encode, MAKE().for_type(dict[int, int]).encode):
        with pytest.raises(SerializationError, match="the key 18446744073709551616 of a dict is an int beyond 64 bits"):
            encode({2**64: 1})


def test_a_member_that_cannot_be_encoded_is_named_in_a_record_too() -> None:
    """Through Structs, dataclasses and containers."""
    order = Order({"a": Line([Point(1), Point(Unknown())])}, Colour.RED, None)  # type: ignore[arg-type]
    with pytest.raises(SerializationError, match="Unknown") as caught:
        MAKE().for_type(Order).encode(order)
    assert caught.value.path == "value.lines['a'].points[1].x"
    endless: list[Any] = []
    endless.append(endless)
    for encode in (MAKE().encode, MAKE().for_type(list[Any]).encode):
        with pytest.raises(SerializationError, match="contains itself"):
            encode(endless)


def test_ends_without_a_type_get_plain_values() -> None:
    """One format for both: a Struct is a dict there, and a dict is checked as a Struct here."""
    serializer, codec = MAKE(), MAKE().for_type(Point)
    assert serializer.decode(codec.encode(Point(2**80, 2.0))) == {"x": 2**80, "y": 2.0}
    assert codec.decode(serializer.encode({"x": 1})) == Point(1)
    assert serializer.decode(serializer.encode([PID, Resources(5, 1)])) == [PID, Resources(5, 1)]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(-(2**63), 2**64 - 1) | st.binary(), inner),
    max_leaves=20,
)


@given(plain)
def test_any_plain_value_round_trips(value: Any) -> None:
    """Without a type, whatever the nesting and the size of ints."""
    assert MAKE().decode(MAKE().encode(value)) == value


@given(st.sampled_from([stated for stated, _ in TYPED]), st.binary(max_size=80))
def test_foreign_bytes_are_a_value_of_the_type_or_refused(stated: Any, data: bytes) -> None:
    """Nothing but SerializationError, whatever the bytes are."""
    codec = MAKE().for_type(stated)
    try:
        codec.encode(codec.decode([data]))
    except SerializationError:
        return


@given(st.sampled_from(TYPED), st.integers(0, 200), st.integers(0, 255))
def test_changed_bytes_are_a_value_of_the_type_or_refused(typed: tuple[Any, Any], at: int, byte: int) -> None:
    """One byte of a right value is another one."""
    codec = MAKE().for_type(typed[0])
    data = bytearray(codec.encode(typed[1])[0])
    data[at % len(data)] = byte
    try:
        value = codec.decode([data])
    except SerializationError:
        return
    assert codec.decode(codec.encode(value)) == value or value != value  # noqa: PLR0124  # a NaN
