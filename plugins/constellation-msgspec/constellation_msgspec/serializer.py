"""msgpack by msgspec: through a channel of type T pass values of T, and what arrives has been checked to be one.

A channel whose end states no type has nothing to check by, and msgpack does not say of an array whether it was a tuple. So
only what msgpack has itself passes there, by exact type: None, bool, int, float, str, bytes, list, dict; and Pid and
Resources. All else is refused when it is sent. One format for both: an end without a type may meet one with a type.

Beside msgpack's own, on the wire: ext 1 is an int beyond 64 bits (two's complement, big endian), ext 2 a Pid, ext 3
Resources. msgspec takes no such int by itself, so values that hold one take a longer way, in both directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import NoneType
from typing import Any, NoReturn

import msgspec
from msgspec import inspect
from msgspec.msgpack import Decoder, Encoder, Ext

from constellation.plugin import Buffer, Pid, Resources, SerializationError, UsageError
from constellation_msgspec.faults import locate, short, type_name, where

_INT, _PID, _RESOURCES = 1, 2, 3
_LEAVES = frozenset((NoneType, bool, int, float, str, bytes, Pid, Resources))
_OWN = frozenset((Pid, Resources))
_KEYS = frozenset((NoneType, bool, int, float, str, bytes))
_BUILTIN = (bytes, bytearray)
_RAW: dict[type, tuple[type, ...]] = {
    bytes: (inspect.BytesType, inspect.AnyType),
    bytearray: (inspect.ByteArrayType, inspect.AnyType),
    memoryview: (inspect.MemoryViewType, inspect.AnyType),
}


def _extend(value: Any) -> Ext:
    """Give msgspec what stands for a value that it does not know."""
    if type(value) is Pid:
        return Ext(_PID, value.to_bytes())
    if type(value) is Resources:
        return Ext(_RESOURCES, msgspec.msgpack.encode(value.to_fields()))
    raise TypeError(f"msgspec does not know {type_name(value)}: make it a Struct or a dataclass")


def _read_extension(code: int, data: memoryview) -> Any:
    if code == _INT:
        return int.from_bytes(data, "big", signed=True)
    if code == _PID:
        return Pid.from_bytes(bytes(data))
    if code == _RESOURCES:
        return Resources.from_fields(msgspec.msgpack.decode(data, type=list[Any]))
    raise ValueError(f"ext type {code} is not known")


def _keep(kind: type, value: Any) -> Any:
    """Check a member of a type that msgspec does not know."""
    if kind in _OWN and type(value) is kind:
        return value
    raise ValueError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")


_encode = Encoder(enc_hook=_extend).encode
_decode = Decoder(ext_hook=_read_extension).decode


def _replace_ints(value: Any) -> Any:
    """Copy what consists of lists and dicts, with what stands for a large int in the place of each."""
    kind = type(value)
    if kind is int and not -(1 << 63) <= value < 1 << 64:
        return Ext(_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    if kind is dict:
        return {_check_key(key): _replace_ints(member) for key, member in value.items()}
    if kind is list or kind is tuple:
        return [_replace_ints(member) for member in value]
    return value


def _check_key(key: Any) -> Any:
    if type(key) is int and not -(1 << 63) <= key < 1 << 64:
        raise TypeError(f"the key {short(key)} of a dict is an int beyond 64 bits: send it as text")
    return key


def _encode_any(value: Any) -> bytes:
    """Encode what msgspec knows, ints of any size among it.

    Raises:
        Exception: A member cannot be encoded.
    """
    try:
        return _encode(value)
    except OverflowError:
        return _encode(_replace_ints(msgspec.to_builtins(value, builtin_types=_BUILTIN, enc_hook=_extend)))


def _check_plain(value: Any) -> None:
    """Refuse what would come out as something else where no type is stated, a container at a time at the speed of C."""
    kind = type(value)
    if kind is list:
        kinds = set(map(type, value))
    elif kind is dict:
        odd = set(map(type, value)) - _KEYS
        if odd:
            raise TypeError(f"a key of a dict that is {type_name(odd.pop())} needs a channel that states its type")
        kinds = set(map(type, value.values()))
    elif kind in _LEAVES:
        return
    else:
        raise TypeError(
            f"{type_name(value)} passes only through a channel that states its type, as Sender[T](pid); "
            "without one use the serializer pickle"
        )
    if not kinds <= _LEAVES:
        for member in value if kind is list else value.values():
            if type(member) not in _LEAVES:
                _check_plain(member)


def _encode_plain(value: Any) -> bytes:
    _check_plain(value)
    return _encode_any(value)


def _joined(buffers: Sequence[Buffer]) -> Buffer:
    return buffers[0] if len(buffers) == 1 else b"".join(buffers)


class MsgspecSerializer:
    """Values of the type that a channel states, or plain ones where it states none; see the module."""

    name = "msgspec"
    foreign_safe = True

    def encode(self, value: Any) -> Sequence[Buffer]:
        """Turn a plain value into one buffer.

        Raises:
            SerializationError: A member is not plain; names it.
        """
        try:
            return (_encode_plain(value),)
        except Exception as error:  # msgspec's refusals have no common base
            raise locate(value, _encode_plain, error) from error

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        """Turn one buffer back into a plain value.

        Raises:
            SerializationError: The bytes are not those of a value.
        """
        try:
            return _decode(_joined(buffers))
        except Exception as error:  # what msgspec and constructors raise for wrong bytes has no common base
            raise SerializationError("value", f"cannot read msgpack: {error}") from error

    def for_type(self, stated: Any) -> TypeCodec:
        """Give what encodes and checks values of a type.

        Raises:
            UsageError: msgspec cannot check values as this.
        """
        return TypeCodec(stated)


class TypeCodec:
    """Encodes values of one type, and decodes what is one.

    Raises:
        UsageError: msgspec cannot check values as this.
    """

    def __init__(self, stated: Any) -> None:
        try:
            decoder = Decoder(stated, ext_hook=_read_extension, dec_hook=_keep)
            info = inspect.type_info(stated)
        except (TypeError, ValueError, NameError, RuntimeError) as error:
            _refuse_type(stated, str(error))
        kinds: set[type] = set()
        _collect(info, kinds, {}, stated)
        self._stated = stated
        self._decode: Callable[[Buffer], Any] = decoder.decode
        self._keeps_memory = not kinds.isdisjoint((inspect.MemoryViewType, inspect.RawType))
        while isinstance(info, inspect.Metadata):
            info = info.type
        self._outermost = info.types if isinstance(info, inspect.UnionType) else (info,)

    def encode(self, value: Any) -> Sequence[Buffer]:
        """Turn a value into one buffer. Whether it is of the type, its receiver checks.

        Raises:
            SerializationError: A member cannot be encoded; names it.
        """
        try:
            return (_encode(value),)
        except Exception:  # msgspec's refusals have no common base, and properties may raise theirs
            try:
                return (_encode_any(value),)
            except Exception as error:  # as above
                raise locate(value, _encode_any, error) from error

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        """Turn one buffer back into a value of the type.

        Raises:
            SerializationError: It is not one; names the member.
        """
        data = _joined(buffers)
        if self._keeps_memory:
            data = bytes(data)
        try:
            return self._decode(data)
        except msgspec.ValidationError as error:
            return self._decode_large(data, error)
        except Exception as error:  # what msgspec and constructors raise for wrong bytes has no common base
            raise SerializationError("value", f"cannot read msgpack: {error}") from error

    def check(self, value: Any) -> None:
        """Look at bytes, bytearray or memoryview that travelled as they are.

        Raises:
            SerializationError: They are not of the type.
        """
        fitting = _RAW.get(type(value), ())
        if not any(isinstance(info, fitting) for info in self._outermost):
            expected = getattr(self._stated, "__name__", str(self._stated))
            raise SerializationError("value", f"Expected `{expected}`, got `{type(value).__name__}`")
        try:
            msgspec.convert(value, self._stated, dec_hook=_keep)
        except msgspec.ValidationError as error:  # a length that Meta limits
            raise where(error) from error

    def _decode_large(self, data: Buffer, error: msgspec.ValidationError) -> Any:
        """Decode a value that holds ints beyond 64 bits; one that holds none is wrong in the way that ``error`` says."""
        found = False

        def read(code: int, payload: memoryview) -> Any:
            nonlocal found
            found = found or code == _INT
            return _read_extension(code, payload)

        try:
            plain = Decoder(ext_hook=read).decode(data)
            if found:
                return msgspec.convert(plain, self._stated, dec_hook=_keep, builtin_types=_BUILTIN)
        except msgspec.ValidationError as large:
            raise where(large) from large
        except Exception:  # as in decode
            raise where(error) from error
        raise where(error) from error


def _collect(info: Any, kinds: set[type], seen: dict[int, Any], stated: Any) -> None:
    """Find the kinds of all members of a type; refuse one that has classes which msgspec does not know."""
    if id(info) in seen:
        return
    seen[id(info)] = info  # kept, so that the number stays its own
    if isinstance(info, tuple):
        for member in info:
            _collect(member, kinds, seen, stated)
    elif isinstance(info, inspect.Field):
        _collect(info.type, kinds, seen, stated)
    elif isinstance(info, inspect.CustomType):
        if info.cls not in _OWN:
            _refuse_type(stated, f"msgspec does not know {type_name(info.cls)}: make it a Struct or a dataclass")
    elif isinstance(info, inspect.Type):
        kinds.add(type(info))
        for name in info.__struct_fields__:
            _collect(getattr(info, name), kinds, seen, stated)


def _refuse_type(stated: Any, reason: str) -> NoReturn:
    raise UsageError(f"cannot check values as {short(stated)}: {reason}")
