"""Arrow arrays as their memory: what a slice shows and no more, borrowed as it lies; and back, without a copy.

An array is described by its length and the pieces of its buffers in the order of Arrow's columnar format; its type stands
apart. Only these are computed anew, all of them small beside the data: the offsets of a slice of strings or lists that does
not begin at 0, and the bits (validity, booleans) of a slice that does not begin at a multiple of 8.

Types that share memory in other ways (views, unions, run ends) travel as an Arrow IPC stream: that is a copy at the sender,
and none at the receiver.

What comes in is validated in full before anybody sees it: offsets, UTF-8, indices of dictionaries. That reads the data of
such types once, and copies nothing.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from constellation_arrow.parts import Reader, Writer

Described = list[Any]
"""Length, pieces of buffers (None where there is none), children; or the piece of an IPC stream alone."""

_Offset: TypeAlias = type[np.int32] | type[np.int64]
_VARIABLE: dict[int, _Offset] = {
    pa.string().id: np.int32,
    pa.binary().id: np.int32,
    pa.large_string().id: np.int64,
    pa.large_binary().id: np.int64,
}
_LISTS: dict[int, _Offset] = {
    pa.list_(pa.int8()).id: np.int32,
    pa.map_(pa.int8(), pa.int8()).id: np.int32,
    pa.large_list(pa.int8()).id: np.int64,
}
_BOOL, _NULL, _STRUCT = pa.bool_().id, pa.null().id, pa.struct([]).id
_FIXED_LIST, _DICTIONARY = pa.list_(pa.int8(), 1).id, pa.dictionary(pa.int8(), pa.int8()).id


# -- Writing -----------------------------------------------------------------------------------------------------------


def describe(array: pa.Array, writer: Writer) -> Described:
    """Describe an array, and give its memory to ``writer``."""
    if isinstance(array, pa.ExtensionArray):
        return describe(array.storage, writer)
    kind, length = array.type, len(array)
    if kind.id == _NULL:
        return [length, [None], []]
    if kind.id in _VARIABLE:
        return [length, [_validity(array, writer), *_variable(array, _VARIABLE[kind.id], writer)], []]
    if kind.id in _LISTS:
        offsets, first, last = _offsets(array, _LISTS[kind.id])
        child = array.values.slice(first, last - first)
        return [length, [_validity(array, writer), writer.add(offsets)], [describe(child, writer)]]
    if kind.id == _FIXED_LIST:
        child = array.values.slice(array.offset * kind.list_size, length * kind.list_size)
        return [length, [_validity(array, writer)], [describe(child, writer)]]
    if kind.id == _STRUCT:
        # A field has the offset of its struct applied already.
        children = [describe(array.field(number), writer) for number in range(kind.num_fields)]
        return [length, [_validity(array, writer)], children]
    if kind.id == _DICTIONARY:
        indices = array.indices
        pieces = [_validity(indices, writer), _fixed(indices, indices.type.bit_width, writer)]
        return [length, pieces, [describe(array.dictionary, writer)]]
    if kind.num_fields == 0 and kind.num_buffers == 2 and _bit_width(kind):
        return [length, [_validity(array, writer), _fixed(array, kind.bit_width, writer)], []]
    return [writer.add(_stream(array))]


def _bit_width(kind: pa.DataType) -> int:
    try:
        return int(kind.bit_width)
    except ValueError:
        return 0


def _validity(array: pa.Array, writer: Writer) -> object:
    if array.null_count == 0:
        return None
    return writer.add(_bits(array.buffers()[0], array.offset, len(array)))


def _fixed(array: pa.Array, bit_width: int, writer: Writer) -> object:
    data, offset, length = array.buffers()[1], array.offset, len(array)
    if data is None:
        return None
    if bit_width % 8:
        return writer.add(_bits(data, offset, length))
    width = bit_width // 8
    return writer.add(data.slice(offset * width, length * width))


def _bits(data: pa.Buffer, offset: int, length: int) -> object:
    """So many bits from one on, beginning at a byte's first bit."""
    start, odd = divmod(offset, 8)
    part = data.slice(start, (odd + length + 7) // 8)
    if not odd:
        return part
    bits = np.unpackbits(np.frombuffer(part, np.uint8), bitorder="little")
    return np.packbits(bits[odd : odd + length], bitorder="little")


def _offsets(array: pa.Array, kind: _Offset) -> tuple[object, int, int]:
    """The offsets of a slice, from 0 on, and between which two of its child's members it lies."""
    data = array.buffers()[1]
    if not len(array) or data is None:
        return np.zeros(len(array) + 1, kind), 0, 0
    all_of_them: np.ndarray[Any, np.dtype[Any]] = np.frombuffer(data, kind)
    offsets = all_of_them[array.offset : array.offset + len(array) + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    return (offsets - kind(first) if first else offsets), first, last


def _variable(array: pa.Array, kind: _Offset, writer: Writer) -> list[object]:
    offsets, first, last = _offsets(array, kind)
    data = array.buffers()[2]
    return [writer.add(offsets), None if data is None else writer.add(data.slice(first, last - first))]


def _stream(array: pa.Array) -> pa.Buffer:
    batch = pa.record_batch([array], names=[""])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue()


# -- Reading -----------------------------------------------------------------------------------------------------------


def rebuild(kind: pa.DataType, described: object, reader: Reader) -> pa.Array:
    """Make an array of what `describe` gave, and validate it.

    Raises:
        Exception: It is no such array; of many types.
    """
    array = _rebuild(kind, described, reader)
    array.validate(full=True)
    return array


def _rebuild(kind: pa.DataType, described: object, reader: Reader) -> pa.Array:
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _rebuild(kind.storage_type, described, reader))
    match described:
        case [piece]:
            return _read_stream(kind, reader.piece(piece))
        case [int(length), list(pieces), list(children)] if length >= 0:
            buffers = [None if piece is None else pa.py_buffer(reader.piece(piece)) for piece in pieces]
            if kind.id == _DICTIONARY:
                dictionary = _rebuild(kind.value_type, children[0], reader)
                # Before it is looked into: indices beyond the dictionary are found by `validate`, a bad dictionary is not.
                dictionary.validate(full=True)
                return pa.DictionaryArray.from_buffers(kind, length, buffers, dictionary)
            if len(children) != kind.num_fields:
                raise ValueError(f"{len(children)} children of an array of {kind}: expected {kind.num_fields}")
            below = [_rebuild(kind.field(at).type, child, reader) for at, child in enumerate(children)]
            return pa.Array.from_buffers(kind, length, buffers, children=below or None)
    raise ValueError(f"an array of {kind} that is described as {described!r:.80}")


def _read_stream(kind: pa.DataType, data: memoryview) -> pa.Array:
    with pa.ipc.open_stream(pa.py_buffer(data)) as stream:
        if len(stream.schema) != 1 or stream.schema.field(0).type != kind:
            raise ValueError(f"a stream of {stream.schema.types}: expected {kind}")
        return stream.read_next_batch().column(0)
