"""msgpack: what comes out equals what went in, type included, or it is refused; no bytes raise another error."""

from __future__ import annotations

import enum
import struct
import tracemalloc
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple
from uuid import UUID, SafeUUID, uuid1
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constellation.core.errors import SerializationError
from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.serializers.msgpack import LARGEST_DEPTH, MsgpackSerializer

SERIALIZER = MsgpackSerializer()


def through(value: Any) -> Any:
    """What comes out for what goes in."""
    return SERIALIZER.decode(SERIALIZER.encode(value))


def form(value: Any) -> Any:
    """All that can be told of a value: types, order, bits, and what == passes over."""
    kind = type(value)
    if kind in {list, tuple}:
        return kind, [form(member) for member in value]
    if kind is dict:
        return kind, [(form(key), form(member)) for key, member in value.items()]
    if kind in {set, frozenset}:
        return kind, sorted(repr(form(member)) for member in value)
    if kind is float:
        return kind, struct.pack(">d", value)
    if kind is complex:
        return kind, struct.pack(">dd", value.real, value.imag)
    if kind in {datetime, time}:
        return kind, value.isoformat(), value.fold, repr(value.tzinfo)
    if kind is Decimal:
        return kind, value.as_tuple()
    if kind is UUID:
        return kind, value.int, value.is_safe
    return kind, value


fixed_zones = (
    st.none()
    | st.just(UTC)
    | st.builds(
        timezone,
        st.timedeltas(timedelta(hours=-23), timedelta(hours=23)),
    )
    | st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)), st.text(max_size=5))
)
big_ints = st.integers() | st.builds(lambda number, bits: number << bits, st.integers(), st.integers(0, 2000))
resources = st.builds(
    Resources,
    mem=st.integers(0, 2**50),
    cpu=st.floats(0, 1000),
    gpu=st.integers(0, 8),
)
hashable_leaves = st.one_of(
    st.none(),
    st.booleans(),
    big_ints,
    st.floats(),
    st.text(),
    st.binary(),
    st.complex_numbers(),
    st.datetimes(timezones=st.just(None) | fixed_zones),
    st.dates(),
    st.times(timezones=fixed_zones),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.just(Decimal("-NaN7")),  # not a signalling one: it has no hash
    st.uuids(),
    st.fractions(),
    st.builds(Pid, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.binary(min_size=16, max_size=16)),
    resources,
)


@st.composite
def leaves(draw: st.DrawFn) -> Any:
    """One of them, with a short name: hypothesis builds the names of strategies out of those of their parts."""
    return draw(hashable_leaves)


keys = st.recursive(leaves(), lambda some: st.lists(some, max_size=3).map(tuple) | st.frozensets(some, max_size=3))
values = st.recursive(
    keys | st.binary().map(bytearray) | st.just(Decimal("sNaN12")),
    lambda some: (
        st.lists(some, max_size=4)
        | st.lists(some, max_size=4).map(tuple)
        | st.dictionaries(keys, some, max_size=4)
        | st.sets(keys, max_size=4)
    ),
    max_leaves=20,
)


@given(values)
def test_comes_out_as_it_went_in(value: Any) -> None:
    """Any nesting of all types keeps types, order, bits of floats, fold and names of time zones."""
    assert form(through(value)) == form(value)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Random bytes raise nothing but SerializationError."""
    read_or_refuse(data)


@given(values, st.data())
@settings(max_examples=200)
def test_changed_bytes_are_read_or_refused(value: Any, data: st.DataObject) -> None:
    """Bytes of a value with some overwritten, cut out or put in raise nothing but SerializationError."""
    changed = bytearray(SERIALIZER.encode(value)[0])
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(changed)))
        changed[start : start + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    read_or_refuse(bytes(changed))


EXT_DATA = st.binary(max_size=40)


@given(st.lists(st.tuples(st.integers(-128, 127), EXT_DATA), min_size=1, max_size=4))
@settings(max_examples=500)
def test_any_ext_is_read_or_refused(exts: list[tuple[int, bytes]]) -> None:
    """Ext types of any code with any data raise nothing but SerializationError."""
    parts = [b"\xc7" + bytes((len(data), code & 255)) + data for code, data in exts]
    read_or_refuse(bytes((0x90 + len(parts),)) + b"".join(parts))
    read_or_refuse(parts[0])


def read_or_refuse(data: bytes) -> None:
    """Decode; what comes out is of a type that may go in."""
    try:
        value = SERIALIZER.decode([data])
    except SerializationError:
        return
    SERIALIZER.encode(value)


@pytest.mark.parametrize(
    "value",
    [
        2**63 - 1,
        2**64 - 1,
        2**64,
        -(2**63),
        -(2**63) - 1,
        10**5000,
        -0.0,
        complex(-0.0, float("nan")),
        Decimal("-0E+7"),
        Decimal("NaN123"),
        Decimal("1E+999999"),
        uuid1(),
        UUID(int=5, is_safe=SafeUUID.safe),
        UUID(int=5, is_safe=SafeUUID.unsafe),
        Fraction(-(3**9999), 2**9999),
        datetime(2024, 10, 27, 2, 30, fold=1),
        datetime.min,
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=23, minutes=59, microseconds=1))),
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(0), "")),
        time(23, 59, tzinfo=timezone(timedelta(hours=1), "CET"), fold=1),
        timedelta.min,
        timedelta.max,
        date.max,
        {(1, (2, frozenset({3}))): {"deep": [bytearray(b"x"), (bytearray(b"y"),)]}},
        {1: "int", "1": "text", b"1": "bytes", (1,): "tuple", None: 0},
        [(), set(), frozenset(), {}, [], bytearray(), b"", ""],
        Resources(mem=0, cpu=0),
        [b"x" * 70_000, "y" * 70_000, list(range(70_000))],
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_limits_and_corners(value: Any) -> None:
    """Values at the edges of their types."""
    assert form(through(value)) == form(value)


def test_zone_utc_stays_the_one_object() -> None:
    """UTC comes out as UTC itself."""
    assert through(datetime(2024, 1, 1, tzinfo=UTC)).tzinfo is UTC


class Named(NamedTuple):
    """A tuple and more."""

    field: int


class Number(enum.IntEnum):
    """An int and more."""

    ONE = 1


class Text(str):
    """A str and more."""

    __slots__ = ()


REFUSED: Iterable[tuple[Any, str, str]] = [
    ([1, Named(1)], "value[1]", "Named', a subclass of tuple"),
    ({"a": {"b": Number.ONE}}, "value['a']['b']", "Number', a subclass of int"),
    ((OrderedDict(),), "value[0]", "'collections.OrderedDict', a subclass of dict"),
    (defaultdict(int), "value", "'collections.defaultdict'"),
    (Counter("a"), "value", "Counter"),
    ([Text("x")], "value[0]", "Text', a subclass of str"),
    ([[memoryview(b"x")]], "value[0][0]", "'memoryview'"),
    ([msgpack.ExtType(1, b"")], "value[0]", "ExtType"),
    ([msgpack.Timestamp(1)], "value[0]", "Timestamp"),
    ({"text": ["\ud800"]}, "value['text'][0]", "surrogates"),
    ({"\udfff": 1}, "value.<key '\\udfff'>", "surrogates"),
    ({(1, object): 1}, "value.<key (1, <class 'object'>)>[1]", "'type'"),
    ({frozenset({1.5, Number})}, "value.<member ", "EnumType"),
    (datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC")), "value", "time zone"),
    ([range(3)], "value[0]", "'range'"),
    ([Fraction(1, 1 << 200_000)], "value[0]", "Fraction"),
    ([Resources.exact(1 << 70, 1)], "value[0]", "amounts"),
    ([Pid(1 << 64, 1, bytes(16))], "value[0]", ""),
]


@pytest.mark.parametrize(("value", "path", "reason"), REFUSED, ids=[repr(case[2]) for case in REFUSED])
def test_refuses_and_says_where_and_why(value: Any, path: str, reason: str) -> None:
    """What would come out changed is refused, with its path and type."""
    with pytest.raises(SerializationError) as caught:
        SERIALIZER.encode(value)
    assert caught.value.path.startswith(path)
    assert reason in caught.value.reason


def test_refuses_what_contains_itself() -> None:
    """A cycle is refused by name, also where it would branch for ever."""
    ring: list[Any] = []
    ring.append({"again": (ring, ring)})
    with pytest.raises(SerializationError) as caught:
        SERIALIZER.encode(ring)
    assert (caught.value.path, caught.value.reason) == (
        "value[0]['again'][0]",
        "cannot send a list that contains itself",
    )


def nested(depth: int) -> list[Any]:
    """Lists within lists."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_depth_is_limited_both_ways() -> None:
    """The deepest value passes; one more is refused when encoded and when decoded."""
    assert through(nested(LARGEST_DEPTH)) == nested(LARGEST_DEPTH)
    with pytest.raises(SerializationError, match=f"more than {LARGEST_DEPTH} deep"):
        SERIALIZER.encode(nested(LARGEST_DEPTH + 1))
    for too_deep in (LARGEST_DEPTH, LARGEST_DEPTH + 300, 100_000):
        with pytest.raises(SerializationError, match=f"more than {LARGEST_DEPTH} deep|cannot read msgpack"):
            SERIALIZER.decode([b"\x91" * too_deep + b"\x90"])


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\x00\x0f\x00\x00" * 1000 + b"\x00" * (1 << 20),
        b"\xdc\xff\xff" * 300_000,
        b"\xdd\x7f\xff\xff\xff" * 1000,
        b"\xdf\x7f\xff\xff\xff" * 1000,
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff" * 100,
    ],
    ids=range(6),
)
def test_memory_taken_for_claims_is_bounded(data: bytes) -> None:
    """Headers that claim more than there is are refused before memory is taken for them."""
    tracemalloc.start()
    try:
        with pytest.raises(SerializationError):
            SERIALIZER.decode([data])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * len(data) + (16 << 20)


@pytest.mark.parametrize(
    "data",
    [
        b"\xc7\x00\x01",  # a mark alone
        b"\x92\x01\xc7\x00\x01",  # not at the head
        b"\x92\xc7\x00\x01\xc7\x00\x01",  # twice
        b"\x81\xc7\x00\x01\x01",  # as a key
        b"\x93\xc7\x00\x02\x90\x90",  # a set of lists
        b"\x82\x90\x01",  # a list as a key
        b"\xc7\x01\x01\x00",  # a mark with data
        b"\xd4\x63\x00",  # an unknown ext type
        b"\x01\x01",  # more than one value
        b"\xa2\xed\xa0",  # not UTF-8
        b"",
    ],
    ids=range(11),
)
def test_refuses_what_is_not_ours(data: bytes) -> None:
    """Wrong use of marks and of msgpack is refused."""
    with pytest.raises(SerializationError):
        SERIALIZER.decode([data])


def test_reads_what_others_write() -> None:
    """Plain msgpack of any producer is read; its timestamps are datetimes in UTC."""
    packed = msgpack.packb({"a": [1, 2.5, "x", b"y"], "t": datetime(2024, 1, 1, tzinfo=UTC)}, datetime=True)
    assert SERIALIZER.decode([packed]) == {"a": [1, 2.5, "x", b"y"], "t": datetime(2024, 1, 1, tzinfo=UTC)}


def test_several_buffers_are_one() -> None:
    """A value that arrives in pieces is read."""
    data = SERIALIZER.encode([1, "two"])[0]
    assert SERIALIZER.decode([data[:2], memoryview(data)[2:]]) == [1, "two"]
