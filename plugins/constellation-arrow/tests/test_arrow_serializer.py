"""The serializer keeps the contract; Arrow and NumPy data comes out as it went in, out of the same memory."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from constellation_arrow import ArrowSerializer
from constellation_arrow.parts import APART, MOST_APART
from hypothesis import given
from hypothesis import strategies as st

from constellation.plugin import Pid, SerializationError
from constellation.testing import SERIALIZER_CHECKS

MAKE = ArrowSerializer


def trip(value: Any) -> Any:
    """Through the serializer, with memory of its own on the other side."""
    buffers = [memoryview(bytearray(buffer)) for buffer in MAKE().encode(value)]
    return MAKE().decode(buffers)


@pytest.mark.parametrize("check", SERIALIZER_CHECKS, ids=lambda check: str(check.__name__))
def test_serializer_keeps_the_contract(check: Callable[[Callable[[], ArrowSerializer]], None]) -> None:
    """Each check of the public suite."""
    check(MAKE)


ARRAYS: dict[str, pa.Array] = {
    "int8": pa.array([1, None, 3] * 9, pa.int8()),
    "int64": pa.array(range(27)),
    "float16": pa.array(np.arange(27, dtype=np.float16)),
    "double": pa.array([1.5, None, float("inf")] * 9),
    "bool": pa.array([True, None, False] * 9),
    "bool without nulls": pa.array([True, True, False] * 9),
    "null": pa.nulls(27),
    "string": pa.array(["a", None, "ünïcode", ""] * 7),
    "large_string": pa.array(["a", None, "ünïcode", ""] * 7, pa.large_string()),
    "binary": pa.array([b"a", None, b"\xff\0"] * 9),
    "large_binary": pa.array([b"a", None, b"\xff\0"] * 9, pa.large_binary()),
    "fixed_size_binary": pa.array([b"abc", None, b"def"] * 9, pa.binary(3)),
    "decimal128": pa.array([Decimal("1.10"), None] * 13),
    "decimal256": pa.array([Decimal("1.10"), None] * 13, pa.decimal256(60, 2)),
    "date32": pa.array([date(2024, 1, 2), None] * 13),
    "date64": pa.array([date(2024, 1, 2), None] * 13, pa.date64()),
    "timestamp": pa.array([datetime(2024, 1, 2, 3, 4, 5), None] * 13, pa.timestamp("us", "Europe/Berlin")),  # noqa: DTZ001
    "time64": pa.array([5, None] * 13, pa.time64("ns")),
    "duration": pa.array([timedelta(seconds=1), None] * 13),
    "interval": pa.array([(1, 2, 3), None] * 13, pa.month_day_nano_interval()),
    "list": pa.array([[1, 2], None, [], [3]] * 7),
    "list of strings": pa.array([["a", None], None, [], ["bc"]] * 7),
    "large_list": pa.array([[1, 2], None, [], [3]] * 7, pa.large_list(pa.int16())),
    "list of lists": pa.array([[[1], [2, None]], None, [], [[], None]] * 7),
    "fixed_size_list": pa.array([[1, 2], None, [3, 4]] * 9, pa.list_(pa.int32(), 2)),
    "struct": pa.array([{"x": 1, "y": "a"}, None, {"x": None, "y": "b"}] * 9),
    "struct without fields": pa.array([{}, None] * 13, pa.struct([])),
    "struct of lists": pa.array([{"x": [1, 2]}, None, {"x": None}] * 9),
    "map": pa.array([[("a", 1)], None, [("b", 2), ("c", None)]] * 9, pa.map_(pa.string(), pa.int64())),
    "dictionary": pa.array(["a", None, "b"] * 9).dictionary_encode(),
    "dictionary of bools": pa.DictionaryArray.from_arrays(pa.array([0, None, 1] * 9), pa.array([True, False])),
    "string_view": pa.array(["a", None, "longer than twelve bytes"] * 9, pa.string_view()),
    "list_view": pa.array([[1, 2], None, []] * 9, pa.list_view(pa.int8())),
    "run_end_encoded": pa.RunEndEncodedArray.from_arrays(pa.array([3, 27], pa.int32()), pa.array(["a", "b"])),
    "sparse union": pa.UnionArray.from_sparse(
        pa.array([0, 1, 0] * 9, pa.int8()), [pa.array(range(27)), pa.array(["a"] * 27)]
    ),
    "extension": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16), None] * 13, pa.binary(16))),
    "empty": pa.array([], pa.string()),
    "empty list": pa.array([], pa.list_(pa.string())),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_array_of_each_type_comes_out_as_it_went_in(array: pa.Array) -> None:
    """Whole, and each slice of it, with its type; in all of Arrow's containers."""
    for start, length in [(0, len(array)), (0, 3), (1, 9), (7, 4), (8, 8), (9, 17), (26, 1), (5, 0)]:
        part = array.slice(start, length)
        result = trip(part)
        assert result.type == part.type
        assert result.equals(part) or result.to_pylist() == part.to_pylist()
        result.validate(full=True)
    field = pa.field("x", array.type, nullable=True, metadata={"of": "field"})
    schema = pa.schema([field], metadata={"of": "schema"})
    batch = pa.record_batch([array], schema=schema)
    table = pa.Table.from_batches([batch, batch.slice(3), batch.slice(0, 0)], schema)
    for value in (batch, batch.slice(1, 5), table, table.slice(2, 30), table["x"], table["x"].slice(5)):
        result = trip(value)
        assert result.equals(value) or result.to_pylist() == value.to_pylist()
        assert type(result) is type(value)
    assert trip(table).schema.equals(schema, check_metadata=True)
    if len(array):
        assert trip(array[0]) == array[0] or not array[0].is_valid


NUMPY: dict[str, np.ndarray[Any, Any]] = {
    **{
        str(np.dtype(kind)): np.arange(24).astype(kind)
        for kind in ("?", "i1", ">i4", "u8", "f2", "f8", "c16", "M8[ms]", "m8[s]")
    },
    "S": np.array([b"a", b"bcd"]),
    "U": np.array(["a", "ünï"]),
    "V": np.zeros(3, "V5"),
    "record": np.array([(1, 2.5), (3, 4.5)], [("a", "i4"), ("b", "f8")]),
    "nested record": np.zeros(3, [("a", "i4", (2, 2)), ("b", [("c", "S3")])]),
    "aligned record": np.zeros(3, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "Fortran": np.asfortranarray(np.arange(24.0).reshape(4, 6)),
    "transposed": np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
    "strided": np.arange(48.0)[::2],
    "reversed": np.arange(24)[::-1],
    "broadcast": np.broadcast_to(np.arange(3), (4, 3)),
    "columns": np.arange(24.0).reshape(4, 6)[:, 1:3],
    "no dimensions": np.array(5.5),
    "empty": np.zeros((0, 3)),
    "empty text": np.zeros(3, "S0"),
}


@pytest.mark.parametrize("array", NUMPY.values(), ids=NUMPY)
def test_numpy_array_comes_out_as_it_went_in(array: np.ndarray[Any, Any]) -> None:
    """Values, dtype, shape; what could be written to can be, what could not cannot."""
    result = trip(array)
    assert (result.dtype, result.shape) == (array.dtype, array.shape)
    assert result.tobytes() == array.tobytes()
    assert result.flags.writeable == array.flags.writeable
    assert result.flags.f_contiguous or not array.flags.f_contiguous
    frozen = array.copy()
    frozen.flags.writeable = False
    assert not trip(frozen).flags.writeable
    again = MAKE().decode([bytes(buffer) for buffer in MAKE().encode(array)])
    assert again.flags.writeable == array.flags.writeable


def test_everything_stands_anywhere_in_plain_values() -> None:
    """Lists, tuples and dicts with data in their midst, and what Arrow has beside data."""
    schema = pa.schema([pa.field("x", pa.int8(), nullable=False)], {"a": "b"})
    value: dict[Any, Any] = {
        "table": [pa.table({"x": range(5)}), (np.arange(3), 2**90, -(2**63))],
        5: (None, True, 1.5, "text", b"bytes", ()),
        "types": [schema, schema.field(0), pa.list_(pa.string())],
        "scalars": [pa.scalar(5, pa.int8()), np.float32(1.5), np.datetime64(5, "s"), np.str_("a")],
        "pid": Pid(1, 2, bytes(16)),
    }
    result = trip(value)
    assert result["table"][0].equals(value["table"][0])
    assert (result["table"][1][0] == np.arange(3)).all()
    assert result["table"][1][1:] == (2**90, -(2**63))
    assert result[5] == value[5]
    assert (result["types"], result["scalars"], result["pid"]) == (value["types"], value["scalars"], value["pid"])
    assert [type(scalar) for scalar in result["scalars"]] == [type(scalar) for scalar in value["scalars"]]
    assert result["types"][0].metadata == schema.metadata
    assert trip(pa.py_buffer(b"x" * 50_000)).equals(pa.py_buffer(b"x" * 50_000))
    assert trip(pa.table({"x": [1, 2]}).select([])).num_rows == 2
    assert trip(pa.record_batch({"x": [1, 2]}).select([])).num_rows == 2


class Odd(np.ndarray[Any, Any]):
    """A subclass."""


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ([1, {"a": {1, 2}}], "value[1]['a']", "takes no set"),
        ((np.array([object()]),), "value[0]", "object"),
        ([np.zeros(3).view(Odd)], "value[0]", "Odd"),
        ({"a": np.array([(1, "a")], [("x", "i4"), ("y", "O")])}, "value['a']", "no memory of its own"),
        ({(1, 2): 3}, "value", "a key that is tuple"),
        ([pa.table({"x": [1]}).to_reader()], "value[0]", "send its batches"),
        ([bytearray(b"x")], "value[0]", "bytearray"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_the_way_to_it(value: Any, path: str, reason: str) -> None:
    """Nothing is sent as something else."""
    with pytest.raises(SerializationError) as caught:
        MAKE().encode(value)
    assert caught.value.path == path
    assert reason in caught.value.reason


def test_a_list_that_contains_itself_is_refused() -> None:
    """And does not run for ever."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(SerializationError, match="contains itself"):
        MAKE().encode(endless)


# -- No copy -----------------------------------------------------------------------------------------------------------


def extent(buffer: Any) -> tuple[int, int]:
    """Where memory begins and ends."""
    start = pa.py_buffer(buffer).address
    return start, start + memoryview(buffer).nbytes


def lies_in(inner: Any, outer: list[Any]) -> bool:
    """Whether memory is a part of other memory."""
    start, end = extent(inner)
    return any(first <= start and end <= last for first, last in map(extent, outer))


N = 200_000
LARGE: dict[str, Any] = {
    "table": pa.table({"n": np.arange(N), "x": np.random.default_rng(1).random(N), "s": [str(n) for n in range(N)]}),
    "dictionary": pa.array([str(n % 9999) for n in range(N)]).dictionary_encode(),
    "nulls": pa.array([None if n % 3 else n for n in range(N)]),
    "lists": pa.array([[n, n + 1] for n in range(N)]),
    "structs": pa.array([{"a": n, "b": -n} for n in range(N)]),
}
LARGE_NUMPY = {
    "C": np.arange(N * 2.0).reshape(N, 2),
    "Fortran": np.asfortranarray(np.arange(N * 2.0).reshape(N, 2)),
    "rows": np.arange(N * 2.0).reshape(N, 2)[N // 4 : N // 2],
    "datetime": np.arange(N).astype("M8[s]"),
    "record": np.zeros(N, [("a", "i4"), ("b", "f8")]),
}


def buffers_of(value: Any) -> list[pa.Buffer]:
    """The large buffers of Arrow data."""
    chunks = [chunk for column in value.columns for chunk in column.chunks] if isinstance(value, pa.Table) else [value]
    found = [buffer for chunk in chunks for buffer in chunk.buffers()]
    found += [buffer for chunk in chunks if hasattr(chunk, "dictionary") for buffer in chunk.dictionary.buffers()]
    return [buffer for buffer in found if buffer is not None and buffer.size >= APART]


@pytest.mark.parametrize("value", LARGE.values(), ids=LARGE)
def test_arrow_data_is_neither_copied_at_the_sender_nor_at_the_receiver(value: Any) -> None:
    """What is sent lies in the value's memory; what is received lies in the memory that it was read into."""
    sent = MAKE().encode(value)
    assert len(sent) > 2
    assert all(lies_in(part, buffers_of(value)) for part in sent[2:])
    assert sum(memoryview(part).nbytes for part in sent[:2]) < 2 * APART
    came = [memoryview(bytearray(part)) for part in sent]
    result = MAKE().decode(came)
    assert result.equals(value)
    assert buffers_of(result)
    assert all(lies_in(buffer, came[1:]) for buffer in buffers_of(result))


@pytest.mark.parametrize("value", LARGE_NUMPY.values(), ids=LARGE_NUMPY)
def test_numpy_data_is_neither_copied_at_the_sender_nor_at_the_receiver(value: np.ndarray[Any, Any]) -> None:
    """Likewise."""
    sent = MAKE().encode(value)
    whole = value if value.base is None else value.base
    whole = whole.T if not whole.flags.c_contiguous else whole
    assert lies_in(sent[-1], [whole.reshape(-1).view(np.uint8)])
    came = [memoryview(bytearray(part)) for part in sent]
    result = MAKE().decode(came)
    assert np.shares_memory(result, np.frombuffer(came[-1], np.uint8))
    assert (result == value).all()


@pytest.mark.parametrize("value", LARGE.values(), ids=LARGE)
def test_a_slice_sends_what_it_shows(value: Any) -> None:
    """A hundredth of the rows is about a hundredth of the bytes; a dictionary goes whole."""
    part = value.slice(N // 2, N // 100)
    whole = sum(memoryview(buffer).nbytes for buffer in MAKE().encode(value))
    sent = MAKE().encode(part)
    if not isinstance(value, pa.DictionaryArray):
        assert sum(memoryview(buffer).nbytes for buffer in sent) < whole / 80
    assert trip(part).equals(part)


def test_more_pieces_than_may_travel_apart_pass_all_the_same() -> None:
    """The largest as they lie, the others together."""
    table = pa.table({f"c{n}": np.full(APART // 8, n) for n in range(4500)})
    sent = MAKE().encode(table)
    assert len(sent) == MOST_APART + 2
    assert MAKE().decode([memoryview(part) for part in sent]).equals(table)


# -- Foreign bytes -----------------------------------------------------------------------------------------------------


def mixed() -> list[Any]:
    """A value with something of every kind."""
    return [*ARRAYS.values(), *NUMPY.values(), pa.table({"s": ["a", None, "bc"], "n": [1, 2, 3]})]


def look_at(value: Any) -> None:
    """Read all of what was decoded: what is invalid would crash here."""
    if isinstance(value, list):
        for member in value:
            look_at(member)
    elif isinstance(value, np.ndarray):
        value.tobytes()
    elif hasattr(value, "to_pylist") and len(value) < 10_000:
        try:
            value.to_pylist()
        except (ValueError, OverflowError, ArithmeticError):  # dates that Python has not
            value.validate(full=True)


@given(st.integers(0, 2**32))
def test_changed_bytes_are_a_valid_value_or_refused(seed: int) -> None:
    """Nothing but SerializationError, and no crash when what came is read, whatever bytes are others."""
    dice = random.Random(seed)
    values = mixed()
    sent = MAKE().encode([dice.choice(values) for _ in range(2)])
    came = [bytearray(part) for part in sent]
    for _ in range(dice.choice([1, 1, 2, 5])):
        part = came[0] if dice.random() < 0.6 else dice.choice(came)
        if part:
            part[dice.randrange(len(part))] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)])
    if dice.random() < 0.2:
        came[-1] = came[-1][: dice.randrange(len(came[-1]) + 1)]
    try:
        value = MAKE().decode(came)
    except SerializationError:
        return
    look_at(value)


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=3))
def test_any_bytes_are_a_valid_value_or_refused(parts: list[bytes]) -> None:
    """Likewise, from nothing."""
    try:
        look_at(MAKE().decode(parts))
    except SerializationError:
        return
