"""NumPy arrays as their memory: borrowed as it lies, in C or in Fortran order; and back, without a copy.

An array that lies in neither order (every second row, some of the columns) is gathered by a copy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from constellation_arrow.parts import Piece, Reader, Writer

Array = np.ndarray[Any, np.dtype[Any]]


def check(dtype: np.dtype[Any]) -> None:
    """Refuse a dtype whose memory means nothing elsewhere.

    Raises:
        TypeError: It holds objects, or is none of NumPy's own kinds.
    """
    if dtype.hasobject or dtype.kind not in "biufcmMSUV":
        raise TypeError(f"a NumPy array of {dtype} has no memory of its own to be sent: use another dtype")


def describe(array: Array, writer: Writer) -> list[Any]:
    """Describe an array, and give its memory to ``writer``."""
    check(array.dtype)
    is_fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    lying = array.T if is_fortran else array
    # As bytes: datetimes do not export their memory as what they are.
    piece: Piece = (
        writer.add(np.ascontiguousarray(lying).reshape(-1).view(np.uint8))
        if lying.size and array.itemsize
        else [0, 0, 0]
    )
    layout = np.lib.format.dtype_to_descr(array.dtype)
    return [_plain(layout), list(array.shape), is_fortran, bool(array.flags.writeable), piece]


def rebuild(described: object, reader: Reader) -> Array:
    """Make an array of what `describe` gave.

    Raises:
        Exception: It is no such array; of many types.
    """
    match described:
        case [layout, list(shape), bool(is_fortran), bool(is_writeable), piece]:
            dtype = np.lib.format.descr_to_dtype(_tuples(layout))
            check(dtype)
            data = reader.piece(piece)
            if is_writeable and data.readonly:
                data = memoryview(bytearray(data))
            array: Array = np.ndarray([int(length) for length in shape], dtype, data, order="F" if is_fortran else "C")
            if array.nbytes != len(data):
                raise ValueError(f"{len(data)} bytes for an array of {array.nbytes}")
            array.flags.writeable = is_writeable
            return array
    raise ValueError(f"a NumPy array that is described as {described!r:.80}")


def _plain(layout: Any) -> Any:
    """What `dtype_to_descr` gives, with lists in the place of tuples."""
    return [_plain(part) for part in layout] if isinstance(layout, (list, tuple)) else layout


def _tuples(layout: Any) -> Any:
    """What `descr_to_dtype` takes: text, or a list of fields, each a tuple of name, layout and maybe a shape."""
    if not isinstance(layout, list):
        return layout
    fields = []
    for field in layout:
        name, inner, *shape = field
        title = tuple(name) if isinstance(name, list) else name
        fields.append((title, _tuples(inner), *[tuple(lengths) for lengths in shape]))
    return fields
