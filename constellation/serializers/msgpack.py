"""The serializer for values that other languages, or processes that are not trusted, send too: msgpack.

What comes out equals what went in, type included, or it is refused: only exact types are taken, never a subclass, whose
own part would be lost. Objects that occur twice come out as two.

On the wire, beside what msgpack has itself, all numbers big endian:

| ext | is | data |
|---|---|---|
| 1, 2, 3 | tuple, set, frozenset: an array whose first element is this mark | none |
| 4 | bytearray | its bytes |
| 5 | int beyond 64 bits | two's complement |
| 6 | complex | real and imaginary part, float 64 each |
| 7 | datetime | year u16, month, day, hour, minute, second u8, microsecond u32, fold u8, zone |
| 8 | date | year u16, month, day u8 |
| 9 | time | hour, minute, second u8, microsecond u32, fold u8, zone |
| 10 | timedelta | days i32, seconds u32, microseconds u32 |
| 11 | Decimal | its text |
| 12 | UUID | 16 bytes; then, where known, u8 1 if made in a way that is safe between processes, else 0 |
| 13 | Fraction | length of the numerator u32, numerator, denominator, both two's complement |
| 14 | Pid | node u64, process u64, key of 16 bytes |
| 15 | Resources | msgpack of [mem, cpu in millionths, [[name, millionths], ...]] |

A zone is nothing (naive), or the offset as in 10 and, where it has one of its own, the name as UTF-8 after a byte 1.
msgpack's own timestamp (ext -1) is read as a datetime in UTC and never written.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, time, timedelta, timezone
from types import NoneType
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack

from constellation.core.contracts import Buffer, Serializer
from constellation.core.errors import SerializationError
from constellation.core.hooks import hookimpl
from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.serializers.faults import join, short

if TYPE_CHECKING:
    from decimal import Decimal
    from fractions import Fraction
    from uuid import UUID

LARGEST_DEPTH = 200
"""Containers within containers. Python's own limit on recursion is 1,000 calls, and part of it is in use already."""

LARGEST_FRACTION_BYTES = 16 << 10
"""Of numerator and denominator: reading a Fraction takes time by the square of this (2 ms), whoever sent it."""

_TUPLE, _SET, _FROZENSET, _BYTEARRAY, _INT, _COMPLEX, _DATETIME, _DATE, _TIME, _TIMEDELTA = range(1, 11)
_DECIMAL, _UUID, _FRACTION, _PID, _RESOURCES = range(11, 16)

_LEAVES = frozenset((NoneType, bool, int, float, str, bytes))
_CONTAINERS = frozenset((list, dict, tuple, set, frozenset))

_COMPLEX_PARTS = struct.Struct(">dd")
_DATETIME_PARTS = struct.Struct(">HBBBBBIB")
_DATE_PARTS = struct.Struct(">HBB")
_TIME_PARTS = struct.Struct(">BBBIB")
_TIMEDELTA_PARTS = struct.Struct(">iII")
_LENGTH = struct.Struct(">I")


class _Refused(Exception):
    """A value is not taken; the text is the reason. Where it lies is found afterwards."""


# -- Writing -----------------------------------------------------------------------------------------------------------


def _int_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


def _zone_bytes(zone: object) -> bytes:
    if zone is None:
        return b""
    if type(zone) is not timezone:
        raise _Refused(
            f"cannot send the time zone {short(zone)}: only UTC and fixed offsets are the same on every computer"
        )
    offset, name = zone.utcoffset(None), zone.tzname(None)
    own_name = b"" if timezone(offset).tzname(None) == name else b"\x01" + name.encode()
    return _timedelta_bytes(offset) + own_name


def _timedelta_bytes(value: timedelta) -> bytes:
    return _TIMEDELTA_PARTS.pack(value.days, value.seconds, value.microseconds)


def _datetime_bytes(value: datetime) -> bytes:
    parts = value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond, value.fold
    return _DATETIME_PARTS.pack(*parts) + _zone_bytes(value.tzinfo)


def _time_bytes(value: time) -> bytes:
    parts = value.hour, value.minute, value.second, value.microsecond, value.fold
    return _TIME_PARTS.pack(*parts) + _zone_bytes(value.tzinfo)


def _uuid_bytes(value: UUID) -> bytes:
    safe = value.is_safe.value  # None where unknown, else 0 for safe and -1 for unsafe, after the C function
    return value.bytes if safe is None else value.bytes + (b"\x01" if safe == 0 else b"\x00")


def _fraction_bytes(value: Fraction) -> bytes:
    numerator, denominator = _int_bytes(value.numerator), _int_bytes(value.denominator)
    if len(numerator) > LARGEST_FRACTION_BYTES or len(denominator) > LARGEST_FRACTION_BYTES:
        raise _Refused(f"cannot send a Fraction with parts of more than {LARGEST_FRACTION_BYTES} bytes")
    return _LENGTH.pack(len(numerator)) + numerator + denominator


def _resources_bytes(value: Resources) -> bytes:
    fields = value.to_fields()
    try:
        Resources.from_fields(fields)
    except ValueError as error:
        raise _Refused(str(error)) from error
    packed: bytes = msgpack.packb(fields)
    return packed


_writers: dict[type, tuple[int, Callable[[Any], bytes]]] = {
    bytearray: (_BYTEARRAY, bytes),
    int: (_INT, _int_bytes),
    complex: (_COMPLEX, lambda value: _COMPLEX_PARTS.pack(value.real, value.imag)),
    datetime: (_DATETIME, _datetime_bytes),
    date: (_DATE, lambda value: _DATE_PARTS.pack(value.year, value.month, value.day)),
    time: (_TIME, _time_bytes),
    timedelta: (_TIMEDELTA, _timedelta_bytes),
    Pid: (_PID, Pid.to_bytes),
    Resources: (_RESOURCES, _resources_bytes),
}
_RARE_MODULES = frozenset(("decimal", "fractions", "uuid", "_decimal", "_pydecimal"))


def _is_taken(kind: type) -> bool:
    """Whether a type that is neither a leaf nor a container of msgpack can be written."""
    if kind in _writers:
        return True
    if kind.__module__ in _RARE_MODULES and _DECIMAL not in _readers:
        _learn_rare_types()
    return kind in _writers


def _learn_rare_types() -> None:
    """Take in the types whose modules are loaded only when one is met: they take 5 ms."""
    from decimal import Decimal
    from fractions import Fraction
    from uuid import UUID, SafeUUID

    def read_uuid(data: bytes) -> UUID:
        if len(data) == 16:
            return UUID(bytes=data)
        return UUID(bytes=data[:-1], is_safe={0: SafeUUID.unsafe, 1: SafeUUID.safe}[data[-1]])

    def read_fraction(data: bytes) -> Fraction:
        end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
        if not 0 < end - _LENGTH.size <= LARGEST_FRACTION_BYTES or not 0 < len(data) - end <= LARGEST_FRACTION_BYTES:
            raise ValueError("a Fraction with a part that is empty or too long")
        return Fraction(_read_int(data[_LENGTH.size : end]), _read_int(data[end:]))

    def read_decimal(data: bytes) -> Decimal:
        return Decimal(data.decode("ascii"))

    _writers[Decimal] = (_DECIMAL, lambda value: str(value).encode())
    _writers[UUID] = (_UUID, _uuid_bytes)
    _writers[Fraction] = (_FRACTION, _fraction_bytes)
    _readers.update({_DECIMAL: read_decimal, _UUID: read_uuid, _FRACTION: read_fraction})


def _write(value: Any) -> Any:
    """Give msgpack what stands for a value that it does not take by itself."""
    mark = _MARK_OF.get(type(value))
    if mark is not None:
        return [mark, *value]
    code, write = _writers[type(value)]
    return msgpack.ExtType(code, write(value))


_MARK_OF: dict[type, Any] = {
    tuple: msgpack.ExtType(_TUPLE, b""),
    set: msgpack.ExtType(_SET, b""),
    frozenset: msgpack.ExtType(_FROZENSET, b""),
}


def _scan(value: Any, depth: int) -> bool:
    """Check the types in a value, a container at a time at the speed of C; say whether a bytearray is among them.

    msgpack would write a bytearray as bytes, and takes memoryview, ExtType and Timestamp without asking.
    """
    kind = type(value)
    if kind in _CONTAINERS:
        kinds = set(map(type, value))
        if kind is dict:
            kinds.update(map(type, value.values()))
    else:
        kinds = {kind}
    if kinds <= _LEAVES:
        return False
    for member_kind in kinds - _LEAVES - _CONTAINERS:
        if not _is_taken(member_kind):
            raise _Refused
    found = bytearray in kinds
    if kind in _CONTAINERS and not kinds.isdisjoint(_CONTAINERS):
        if depth >= LARGEST_DEPTH:
            raise _Refused
        for member in _members(value):
            if type(member) in _CONTAINERS:
                found |= _scan(member, depth + 1)
    return found


def _members(container: Any) -> Iterator[Any]:
    yield from container
    if type(container) is dict:
        yield from container.values()


def _replace_bytearrays(value: Any) -> Any:
    """Copy a value with what stands for a bytearray in the place of each; keys and members of sets cannot hold one."""
    kind = type(value)
    if kind is bytearray:
        return _write(value)
    if kind is dict:
        return {key: _replace_bytearrays(member) for key, member in value.items()}
    if kind is list or kind is tuple:
        return kind(map(_replace_bytearrays, value))
    return value


def _refusal(value: Any, steps: list[str], within: dict[int, Any]) -> SerializationError | None:
    """Find the first member that cannot be written, as `_scan` and `_write` judge, and say why."""
    kind = type(value)
    if kind in _CONTAINERS:
        if id(value) in within:
            return SerializationError(join(steps), f"cannot send a {kind.__name__} that contains itself")
        if len(within) >= LARGEST_DEPTH:
            return SerializationError(
                join(steps), f"cannot send containers that are nested more than {LARGEST_DEPTH} deep"
            )
        within[id(value)] = value
        for step, member in _steps(value):
            found = _refusal(member, [*steps, step], within)
            if found is not None:
                return found
        del within[id(value)]
        return None
    try:
        if kind is str:
            value.encode()
        elif kind not in _LEAVES:
            _check_kind(kind)
            _writers[kind][1](value)
    except UnicodeEncodeError as error:
        return SerializationError(join(steps), f"cannot send text that is not Unicode: {error}")
    except (_Refused, ValueError, OverflowError, struct.error) as error:
        return SerializationError(join(steps), str(error))
    return None


def _check_kind(kind: type) -> None:
    if _is_taken(kind):
        return
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    base = next((base for base in kind.__mro__[1:-1] if base in _LEAVES | _CONTAINERS or base in _writers), None)
    what = f"{name!r}, a subclass of {base.__name__}: its own part would be lost" if base else repr(name)
    raise _Refused(f"the serializer msgpack does not take {what}; send something simpler, or use the serializer pickle")


def _steps(container: Any) -> Iterator[tuple[str, Any]]:
    if type(container) is dict:
        for key, member in container.items():
            yield f".<key {short(key)}>", key
            yield f"[{short(key)}]", member
    elif type(container) in {list, tuple}:
        yield from ((f"[{index}]", member) for index, member in enumerate(container))
    else:
        yield from ((f".<member {short(member)}>", member) for member in container)


# -- Reading -----------------------------------------------------------------------------------------------------------


def _read_int(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


def _read_timedelta(data: bytes) -> timedelta:
    return timedelta(*_TIMEDELTA_PARTS.unpack(data))


def _read_zone(data: bytes) -> timezone | None:
    if not data:
        return None
    offset, name = _read_timedelta(data[: _TIMEDELTA_PARTS.size]), data[_TIMEDELTA_PARTS.size :]
    if not name:
        return timezone(offset)
    if name[0] != 1:
        raise ValueError("a time zone whose name does not begin with a byte 1")
    return timezone(offset, name[1:].decode())


def _read_datetime(data: bytes) -> datetime:
    year, month, day, hour, minute, second, microsecond, fold = _DATETIME_PARTS.unpack_from(data)
    zone = _read_zone(data[_DATETIME_PARTS.size :])
    return datetime(year, month, day, hour, minute, second, microsecond, zone, fold=fold)


def _read_time(data: bytes) -> time:
    hour, minute, second, microsecond, fold = _TIME_PARTS.unpack_from(data)
    return time(hour, minute, second, microsecond, _read_zone(data[_TIME_PARTS.size :]), fold=fold)


def _read_resources(data: bytes) -> Resources:
    fields = msgpack.unpackb(data, max_array_len=1024)
    made = Resources.from_fields(fields)
    if made.to_fields() != fields:
        raise ValueError("Resources in another form than they are written in")
    return made


_readers: dict[int, Callable[[bytes], Any]] = {
    _BYTEARRAY: bytearray,
    _INT: _read_int,
    _COMPLEX: lambda data: complex(*_COMPLEX_PARTS.unpack(data)),
    _DATETIME: _read_datetime,
    _DATE: lambda data: date(*_DATE_PARTS.unpack(data)),
    _TIME: _read_time,
    _TIMEDELTA: _read_timedelta,
    _PID: Pid.from_bytes,
    _RESOURCES: _read_resources,
}


class _Mark(NamedTuple):
    """What a mark is read as; stands first in an array, which `make` then turns into what was meant."""

    make: Callable[[list[Any]], Any]


_MARKS = {_TUPLE: _Mark(tuple), _SET: _Mark(set), _FROZENSET: _Mark(frozenset)}
_EXT8, _EXT16, _EXT32 = 0xC7, 0xC8, 0xC9  # one of them begins every mark
_LISTS_MADE_AT_ONCE = (b"\xdc", b"\xdd")
_SMALL = 2 << 10  # bytes of data that are never worth a check: all their claims come to 16 MiB at most


class _Reader:
    """The two hooks of one decoding."""

    def __init__(self) -> None:
        self.open_marks = 0  # read, and not yet found at the head of an array

    def ext(self, code: int, data: bytes) -> Any:
        if code in _MARKS and not data:
            self.open_marks += 1
            return _MARKS[code]
        if _DECIMAL <= code <= _FRACTION and code not in _readers:
            _learn_rare_types()
        read = _readers.get(code)
        if read is None:
            raise ValueError(f"ext type {code} with {len(data)} bytes is not known")
        return read(data)

    def array(self, members: list[Any]) -> Any:
        if members and type(members[0]) is _Mark:
            self.open_marks -= 1
            return members[0].make(members[1:])
        return members


def _check_complete(data: bytes | bytearray) -> None:
    """Refuse arrays that claim more than there is, before memory is taken for their claims.

    A list is made at its claimed length, 8 bytes a member, when its header of 3 or 5 bytes is read, and 1,024 of them
    can be open at once. Where that may come to much, all is read once without making anything.

    Raises:
        Exception: As msgpack raises for data that is cut off.
    """
    lists = min(sum(data.count(header) for header in _LISTS_MADE_AT_ONCE), 1024)
    if lists * 8 * len(data) > (1 << 20) + 64 * len(data):
        unpacker = msgpack.Unpacker(max_buffer_size=len(data), strict_map_key=False)
        unpacker.feed(data)
        unpacker.skip()


def _check_depth(value: Any, depth: int) -> None:
    kinds = set(map(type, value))
    if type(value) is dict:
        kinds.update(map(type, value.values()))
    if kinds.isdisjoint(_CONTAINERS):
        return
    if depth >= LARGEST_DEPTH:
        raise ValueError(f"containers are nested more than {LARGEST_DEPTH} deep")
    for member in _members(value):
        if type(member) in _CONTAINERS:
            _check_depth(member, depth + 1)


class MsgpackSerializer:
    """Takes plain values of these exact types, in any nesting.

    None, bool, int, float, str, bytes, bytearray, complex, list, tuple, dict, set, frozenset, datetime, date, time,
    timedelta, Decimal, Fraction, UUID, Pid and Resources. Decoding is safe on anybody's bytes.
    """

    name = "msgpack"
    foreign_safe = True

    def encode(self, value: Any) -> list[Buffer]:
        """Turn a value into one buffer.

        Raises:
            SerializationError: A member is of another type, or contains itself, or lies too deep.
        """
        try:
            plain = _replace_bytearrays(value) if _scan(value, 1) else value
            return [msgpack.packb(plain, default=_write, strict_types=True)]
        except (_Refused, ValueError, OverflowError, KeyError, RecursionError, struct.error) as error:
            # KeyError: another thread has put something else in meanwhile.
            reason = str(error) or type(error).__name__
            raise _refusal(value, ["value"], {}) or SerializationError("value", reason) from error

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        """Turn one buffer back into the value.

        Raises:
            SerializationError: The bytes are not those of a value that `encode` takes.
        """
        data = buffers[0] if len(buffers) == 1 else b"".join(buffers)
        if type(data) is memoryview:
            data = bytes(data)
        reader = _Reader()
        has_marks = _EXT8 in data or _EXT16 in data or _EXT32 in data  # often none: a call per list is saved
        try:
            if len(data) > _SMALL:
                _check_complete(data)
            value = msgpack.unpackb(
                data,
                strict_map_key=False,
                timestamp=3,
                ext_hook=reader.ext,
                list_hook=reader.array if has_marks else None,
            )
            if reader.open_marks:
                raise ValueError("the mark of a tuple or set is not at the head of an array")
            if len(data) > LARGEST_DEPTH and type(value) in _CONTAINERS:  # a container takes a byte at least
                _check_depth(value, 1)
        except Exception as error:  # msgpack's errors have no common base, and classes raise theirs for wrong fields
            raise SerializationError("value", f"cannot read msgpack: {str(error) or type(error).__name__}") from error
        return value


@hookimpl
def register_serializers() -> list[Serializer]:
    """Offer `MsgpackSerializer`."""
    return [MsgpackSerializer()]
