"""Plain values by msgpack, with Arrow and NumPy data beside them, wherever in the value it stands.

The first buffer is msgpack: the plain values as they are, and ext types that describe the rest. The second is the tray of
small pieces of memory, the others are large pieces (`constellation_arrow.parts`). Nothing of it is pickle, so decoding runs no
code of the sender's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import NoneType
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa

from constellation.plugin import Buffer, Pid, SerializationError
from constellation_arrow import arrays, ndarrays
from constellation_arrow.parts import Reader, Writer

LARGEST_DEPTH = 100
"""Lists, dicts and tuples within each other."""

(
    _INT,
    _TUPLE,
    _PID,
    _NDARRAY,
    _NUMPY_SCALAR,
    _ARRAY,
    _CHUNKED,
    _BATCH,
    _TABLE,
    _SCHEMA,
    _FIELD,
    _TYPE,
    _BUFFER,
    _SCALAR,
) = range(1, 15)
_LEAVES = frozenset((NoneType, bool, float, str, bytes))
_CONTAINERS = frozenset((list, tuple, dict))
_LARGEST_INT, _SMALLEST_INT = (1 << 64) - 1, -(1 << 63)


class _Refused(Exception):
    """A member cannot be encoded; the text is the reason."""


# -- Writing -----------------------------------------------------------------------------------------------------------


def _pack(value: Any) -> bytes:
    data: bytes = msgpack.packb(value)
    return data


class _Encoding:
    """One call of `ArrowSerializer.encode`: the value is walked first, packed when its parts are settled."""

    def __init__(self) -> None:
        self.writer = Writer()

    def walk(self, value: Any, depth: int = 0) -> Any:
        """Give what `finish` turns into what msgpack takes: plain values, and `_Later` where memory is described."""
        kind = type(value)
        if kind in _LEAVES:
            return value
        if kind is int:
            if _SMALLEST_INT <= value <= _LARGEST_INT:
                return value
            return msgpack.ExtType(_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
        if kind in _CONTAINERS:
            if depth >= LARGEST_DEPTH:
                raise _Refused(f"it is nested more than {LARGEST_DEPTH} deep, or contains itself")
            if kind is list:
                return [self.walk(member, depth + 1) for member in value]
            if kind is tuple:
                return _Later(_TUPLE, [self.walk(member, depth + 1) for member in value])
            return {self._key(key): self.walk(member, depth + 1) for key, member in value.items()}
        if kind is Pid:
            return msgpack.ExtType(_PID, value.to_bytes())
        return self._data(kind, value)

    def _key(self, key: Any) -> Any:
        if type(key) not in _LEAVES and type(key) is not int:
            raise _Refused(f"a key that is {_named(type(key))}")
        return self.walk(key)

    def _data(self, kind: type, value: Any) -> Any:
        writer = self.writer
        if kind is np.ndarray:
            return _Later(_NDARRAY, ndarrays.describe(value, writer))
        if isinstance(value, np.generic):
            if kind is not value.dtype.type:
                raise _Refused(f"{_named(kind)}, a class of its own")
            return _Later(_NUMPY_SCALAR, ndarrays.describe(np.asarray(value), writer))
        if kind is pa.Table:
            columns = [[arrays.describe(chunk, writer) for chunk in column.chunks] for column in value.columns]
            return _Later(_TABLE, [_schema(value.schema), value.num_rows, columns])
        if kind is pa.RecordBatch:
            described = [arrays.describe(column, writer) for column in value.columns]
            return _Later(_BATCH, [_schema(value.schema), value.num_rows, described])
        if kind is pa.ChunkedArray:
            return _Later(_CHUNKED, [_type(value.type), [arrays.describe(chunk, writer) for chunk in value.chunks]])
        if isinstance(value, pa.Array):
            return _Later(_ARRAY, [_type(value.type), arrays.describe(value, writer)])
        if isinstance(value, pa.Scalar):
            return _Later(_SCALAR, [_type(value.type), arrays.describe(pa.repeat(value, 1), writer)])
        if kind is pa.Buffer:
            return _Later(_BUFFER, writer.add(value))
        if kind is pa.Schema:
            return msgpack.ExtType(_SCHEMA, _schema(value))
        if kind is pa.Field:
            return msgpack.ExtType(_FIELD, _schema(pa.schema([value])))
        if isinstance(value, pa.DataType):
            return msgpack.ExtType(_TYPE, _type(value))
        if isinstance(value, pa.RecordBatchReader):
            raise _Refused("a stream that can be read once: send its batches, one by one")
        raise _Refused(
            f"the serializer arrow takes no {_named(kind)}: only plain values, Arrow and NumPy data; use the serializer pickle"
        )


class _Later:
    """An ext type whose data is packed when it is known in which part each piece of memory travels."""

    __slots__ = ("code", "inner")

    def __init__(self, code: int, inner: Any) -> None:
        self.code = code
        self.inner = inner


def _finish(value: Any) -> Any:
    if type(value) is _Later:
        return msgpack.ExtType(value.code, msgpack.packb(value.inner, default=_finish))
    raise TypeError(f"{type(value)} is not to be here")  # a fault of `walk`


def _schema(schema: pa.Schema) -> bytes:
    return bytes(schema.serialize())


def _type(kind: pa.DataType) -> bytes:
    return _schema(pa.schema([pa.field("", kind)]))


def _named(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _refusal(value: Any, error: Exception) -> SerializationError:
    """Say which member cannot be encoded."""
    path = "value"
    for _ in range(LARGEST_DEPTH):
        for step, member in _members(value):
            try:
                _encode(member)
            except Exception as inner:  # as for the value itself
                path, value, error = path + step, member, inner
                break
        else:
            break
    return SerializationError(path, str(error) or type(error).__name__)


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    if type(value) is dict:
        for key, member in value.items():
            if type(key) not in _LEAVES and type(key) is not int:
                return
            yield f"[{key!r:.40}]", member
    elif type(value) in {list, tuple}:
        yield from ((f"[{index}]", member) for index, member in enumerate(value))


def _encode(value: Any) -> list[Buffer]:
    kind = type(value)
    if kind in _LEAVES or (kind is int and _SMALLEST_INT <= value <= _LARGEST_INT):
        return [_pack(value)]
    encoding = _Encoding()
    walked = encoding.walk(value)
    parts = encoding.writer.parts()
    return [msgpack.packb(walked, default=_finish), *parts]


# -- Reading -----------------------------------------------------------------------------------------------------------


class _Decoding:
    """One call of `ArrowSerializer.decode`."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._depth = 0

    def value(self, data: Buffer) -> Any:
        """Read one msgpack value. A list is made at its claimed length, so all is read once without making anything."""
        if len(data) > 256:
            claims = msgpack.Unpacker(max_buffer_size=len(data), strict_map_key=False)
            claims.feed(data)
            claims.skip()
        self._depth += 1
        if self._depth > LARGEST_DEPTH + 1:
            raise ValueError(f"nested more than {LARGEST_DEPTH} deep")
        try:
            return msgpack.unpackb(data, strict_map_key=False, ext_hook=self._extension)
        finally:
            self._depth -= 1

    def _extension(self, code: int, data: bytes) -> Any:
        read = _READERS.get(code)
        if read is None:
            raise ValueError(f"ext type {code} is not known")
        return read(self, self._reader, data)


def _read_schema(data: bytes) -> pa.Schema:
    schema = pa.ipc.read_schema(pa.py_buffer(data))
    for field in schema:
        _read_names(field)
    return schema


def _read_names(field: pa.Field) -> None:
    """Let a name that is no UTF-8 be found here: Arrow looks at names only when they are asked for."""
    assert isinstance(field.name, str)
    for number in range(field.type.num_fields):
        _read_names(field.type.field(number))


def _read_type(data: bytes) -> pa.DataType:
    schema = _read_schema(data)
    if len(schema) != 1:
        raise ValueError(f"a type that is described by {len(schema)} fields")
    return schema.field(0).type


def _only_rows(schema: pa.Schema, rows: int) -> pa.RecordBatch:
    """A batch without columns, which has a length all the same."""
    column = pa.schema([pa.field("", pa.null())], schema.metadata)
    return pa.RecordBatch.from_arrays([pa.nulls(rows)], schema=column).select([])


def _read_table(decoding: _Decoding, reader: Reader, data: bytes) -> pa.Table:
    named, rows, columns = decoding.value(data)
    schema = _read_schema(named)
    if len(columns) != len(schema):
        raise ValueError(f"{len(columns)} columns for a schema of {len(schema)}")
    if not columns:
        return pa.Table.from_batches([_only_rows(schema, rows)])
    made = [
        pa.chunked_array([arrays.rebuild(field.type, chunk, reader) for chunk in chunks], field.type)
        for field, chunks in zip(schema, columns, strict=True)
    ]
    table = pa.Table.from_arrays(made, schema=schema)
    table.validate()
    return table


def _read_batch(decoding: _Decoding, reader: Reader, data: bytes) -> pa.RecordBatch:
    named, rows, columns = decoding.value(data)
    schema = _read_schema(named)
    if len(columns) != len(schema):
        raise ValueError(f"{len(columns)} columns for a schema of {len(schema)}")
    if not columns:
        return _only_rows(schema, rows)
    made = [arrays.rebuild(field.type, column, reader) for field, column in zip(schema, columns, strict=True)]
    batch = pa.RecordBatch.from_arrays(made, schema=schema)
    batch.validate()
    return batch


def _read_array(decoding: _Decoding, reader: Reader, data: bytes) -> pa.Array:
    named, described = decoding.value(data)
    return arrays.rebuild(_read_type(named), described, reader)


def _read_chunked(decoding: _Decoding, reader: Reader, data: bytes) -> pa.ChunkedArray:
    named, chunks = decoding.value(data)
    kind = _read_type(named)
    return pa.chunked_array([arrays.rebuild(kind, chunk, reader) for chunk in chunks], kind)


_READERS: dict[int, Callable[[_Decoding, Reader, bytes], Any]] = {
    _INT: lambda _decoding, _reader, data: int.from_bytes(data, "big", signed=True),
    _TUPLE: lambda decoding, _reader, data: tuple(decoding.value(data)),
    _PID: lambda _decoding, _reader, data: Pid.from_bytes(data),
    _NDARRAY: lambda decoding, reader, data: ndarrays.rebuild(decoding.value(data), reader),
    _NUMPY_SCALAR: lambda decoding, reader, data: ndarrays.rebuild(decoding.value(data), reader)[()],
    _ARRAY: _read_array,
    _CHUNKED: _read_chunked,
    _BATCH: _read_batch,
    _TABLE: _read_table,
    _SCHEMA: lambda _decoding, _reader, data: _read_schema(data),
    _FIELD: lambda _decoding, _reader, data: _read_schema(data).field(0),
    _TYPE: lambda _decoding, _reader, data: _read_type(data),
    _BUFFER: lambda decoding, reader, data: pa.py_buffer(reader.piece(decoding.value(data))),
    _SCALAR: lambda decoding, reader, data: _read_array(decoding, reader, data)[0],
}


class ArrowSerializer:
    """Plain values, and Arrow and NumPy data in their midst; see the module."""

    name = "arrow"
    foreign_safe = True

    def encode(self, value: Any) -> Sequence[Buffer]:
        """Turn a value into a description and its memory, which is borrowed where it is large.

        Raises:
            SerializationError: A member is neither plain nor Arrow's or NumPy's; names it.
        """
        try:
            return _encode(value)
        except Exception as error:  # what msgpack, Arrow and NumPy raise has no common base
            raise _refusal(value, error) from error

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        """Turn it back; the data uses the memory of the buffers after the first.

        Raises:
            SerializationError: The bytes are not those of a value.
        """
        try:
            reader = Reader([memoryview(buffer).cast("B") for buffer in buffers[1:]])
            return _Decoding(reader).value(bytes(buffers[0]))
        except Exception as error:  # as in encode; foreign bytes may be anything
            raise SerializationError("value", f"cannot read: {str(error) or type(error).__name__}") from error
