"""The default serializer: pickle, protocol 5, with functions as `constellation.serializers.functions` says.

Decoding runs code of the sender's choice: it is used between processes of one deployment only.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Sequence
from typing import Any

from constellation.core.contracts import Buffer, Serializer
from constellation.core.errors import SerializationError
from constellation.core.hooks import hookimpl
from constellation.serializers import functions
from constellation.serializers.faults import locate
from constellation.serializers.functions import APART_BYTES, PROTOCOL
from constellation.serializers.functions import remember_main as remember_main

_STACK_GLOBAL = pickle.STACK_GLOBAL[0]
_PLAIN = frozenset((type(None), bool, int, float, str, bytes))
_dumps = pickle.dumps


class PickleSerializer:
    """Anything that pickle takes, and functions and classes without a name in a module.

    Buffers of 16 KiB and more that a member exports (numpy and Arrow do) travel beside the pickle; they borrow the
    member's memory.
    """

    name = "pickle"
    foreign_safe = False
    takes_all_plain = True

    def encode(self, value: Any) -> list[Buffer]:
        """Pickle a value.

        Returns:
            The pickle, then large buffers that belong to members of the value.

        Raises:
            SerializationError: A member cannot be pickled.

        Cost: 0.1 to 0.4 µs above `pickle.dumps`; 5 µs and more for a value that has classes or functions of `__main__`.
        """
        if type(value) in _PLAIN:
            return [_dumps(value, PROTOCOL)]
        # Dicts and tuples of plain members need no callback either, but to look at the members takes longer than to make
        # one: 0.5 µs against 0.3 for a dict of three, 1.5 against 0.3 for 32.
        buffers: list[Buffer] = []

        def keep(buffer: pickle.PickleBuffer) -> bool:
            raw = buffer.raw()
            if raw.nbytes < APART_BYTES:
                return True
            buffers.append(raw)
            return False

        try:
            data = _dumps(value, PROTOCOL, buffer_callback=keep)
        except Exception:  # pickle's refusals have many types, and a member's own methods may raise anything
            return _encode_with_functions(value)
        if _STACK_GLOBAL in data and not functions.is_right(data):  # the first half of the check saves a call
            return _encode_with_functions(value)
        return [data, *buffers] if buffers else [data]

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        """Unpickle a value. Members may use the memory of the buffers after the first for as long as they live.

        Raises:
            SerializationError: The bytes are not a pickle, or name what is not here.
        """
        try:
            if len(buffers) == 1:
                return pickle.loads(buffers[0])
            # A member whose memory was writable stays writable.
            apart = [bytearray(part) if memoryview(part).readonly else part for part in buffers[1:]]
            return pickle.loads(buffers[0], buffers=apart)
        except Exception as error:  # unpickling runs code of the value's classes
            raise _explain(error) from error


def _encode_with_functions(value: Any) -> list[Buffer]:
    try:
        return functions.dump(value, apart=True)
    except Exception as error:  # see encode
        raise _refusal([("value", value, error)]) from error


def encode_call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Pickle a function with its arguments, for another process to call.

    Raises:
        SerializationError: The function or an argument cannot be pickled.
    """
    try:
        return bytes(functions.dump((fn, args, kwargs), apart=False)[0])
    except Exception as error:  # see PickleSerializer.encode
        raise _refusal([("fn", fn, error), ("args", args, error), ("kwargs", kwargs, error)]) from error


def decode_call(data: Buffer) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Read what `encode_call` made.

    Raises:
        SerializationError: The bytes are not a call, or name what is not here.
    """
    try:
        fn, args, kwargs = pickle.loads(data)
    except Exception as error:  # see PickleSerializer.decode
        raise _explain(error) from error
    return fn, args, kwargs


def _refusal(roots: list[tuple[str, Any, Exception]]) -> SerializationError:
    """Say which member of which root cannot be pickled, and why."""

    def try_one(member: Any) -> None:
        functions.dump(member, apart=True)

    for name, root, shown in roots:
        error = shown
        if isinstance(error, RecursionError):
            return SerializationError(name, "cannot pickle a value that is nested so deeply: make it flatter")
        if len(roots) > 1:
            try:
                try_one(root)
            except Exception as raised:  # see PickleSerializer.encode
                error = raised
            else:
                continue
        path, innermost = locate([name], root, try_one, error)
        return SerializationError(path, _words(innermost))
    name, _, error = roots[0]
    return SerializationError(name, _words(error))


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _explain(error: Exception) -> SerializationError:
    """Say why a value could not be unpickled."""
    if isinstance(error, SerializationError):
        return error
    if isinstance(error, ModuleNotFoundError) and error.name:
        reason = f"the value needs the module {error.name!r}, which this process cannot import: is it installed here?"
    elif isinstance(error, AttributeError) and "module '" in str(error):
        main = "'__main__'", repr(sys.modules["__main__"])  # the latter has another name after `python -m`
        when = "defined after init()?" if any(text in str(error) for text in main) else "added at run time?"
        reason = f"the value names what this process does not have: {error}: {when}"
    else:
        reason = f"cannot unpickle: {type(error).__name__}: {error}"
    return SerializationError("value", reason)


@hookimpl
def register_serializers() -> list[Serializer]:
    """Offer `PickleSerializer`."""
    return [PickleSerializer()]
