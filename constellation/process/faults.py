"""Faults of plugins on the hot path: told from the exceptions of signal handlers, and put into words.

Links and serializers are called directly; a ``try`` around such a call costs nothing until it raises. Then it must be
clear whose exception that is: a signal handler of the program may raise in the middle of a plugin's code, and its
exception belongs to the program.
"""

from __future__ import annotations

import signal
import threading
from types import CodeType
from typing import Any, NoReturn

from constellation.core.errors import ConstellationError, PluginError


def is_of_program(error: BaseException) -> bool:
    """Whether an exception comes out of a signal handler of the program, or is the interpreter's own (no memory)."""
    if isinstance(error, MemoryError):
        return True
    trace = error.__traceback__
    # Raised by what was called from C, as most ends of links are: no frame of a handler's can be among these.
    if trace is None or trace.tb_next is None or threading.current_thread() is not threading.main_thread():
        return False
    handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def _code_of(handler: Any) -> CodeType | None:
    for candidate in (handler, getattr(handler, "func", None), vars(type(handler)).get("__call__")):
        code = getattr(candidate, "__code__", None)
        if isinstance(code, CodeType):
            return code
    return None


def words(error: BaseException) -> str:
    """An exception with the place where it was raised."""
    from constellation.core.finding import place_of_raise  # late: for an error only

    return f"raised {type(error).__name__}: {error}, at {place_of_raise(error)}"


def blame_encode(serializer: object, error: Exception, made: object = None) -> NoReturn:
    """Raise what the end of an `encode` means to who sends.

    Args:
        serializer: Whose encode it was.
        error: What was raised, by it or by what was done with its answer.
        made: Its answer, if there was one.

    Raises:
        PluginError: It has raised something else than it may, or its answer is no list of buffers.
        SerializationError: It has refused the value.
    """
    name = getattr(serializer, "name", serializer)
    if isinstance(error, ConstellationError) or is_of_program(error):
        raise error
    if made is not None:
        raise PluginError(
            f"serializer {name!r} returned {made!r:.100} from encode: expected a list of bytes, bytearray or memoryview"
        ) from error
    raise PluginError(
        f"serializer {name!r} {words(error)}, in encode: expected SerializationError for what it cannot encode"
    ) from error


def blame_decode(serializer: object, error: Exception) -> NoReturn:
    """Raise what the end of a `decode` means to who receives.

    Raises:
        PluginError: It has raised something else than it may.
        SerializationError: It has refused the bytes.
    """
    name = getattr(serializer, "name", serializer)
    if isinstance(error, ConstellationError) or is_of_program(error):
        raise error
    raise PluginError(
        f"serializer {name!r} {words(error)}, in decode: expected SerializationError for bytes that it cannot decode"
    ) from error
