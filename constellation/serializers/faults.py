"""Finding the member of a value that cannot be serialized, so that an error can name it.

Runs only when a value has been refused. Bounded, because it serializes members again and again: past the bounds the
path names the closest member found.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType, MethodType, ModuleType, NoneType
from typing import Any

from constellation.serializers.functions import globals_by_value

LARGEST_DEPTH = 50
LARGEST_COUNT = 5_000
_STEPS_SHOWN = 12
_KEY_CHARACTERS = 40

_ATOMS = (NoneType, bool, int, float, complex, str, bytes, bytearray, type, ModuleType)


def short(value: object) -> str:
    """A value as a key within a path, cut where it is long."""
    try:
        text = repr(value)
    except Exception as error:  # the value's own code
        text = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    return text if len(text) <= _KEY_CHARACTERS else text[:_KEY_CHARACTERS] + "..."


def join(steps: list[str]) -> str:
    """A path out of its steps, the middle left out where there are many."""
    if len(steps) > _STEPS_SHOWN:
        steps = [*steps[: _STEPS_SHOWN // 2], "[...]", *steps[-_STEPS_SHOWN // 2 :]]
    return "".join(steps)


def locate(
    steps: list[str], value: object, try_one: Callable[[Any], object], error: Exception
) -> tuple[str, Exception]:
    """Find the innermost member that cannot be serialized.

    Args:
        steps: The path so far, such as ``["args", "[0]"]``.
        value: What was refused.
        try_one: Serializes one value, or raises.
        error: What it raised for ``value``.

    Returns:
        The path and what is raised for the member there.
    """
    search = _Search(try_one)
    found = search.look(steps, value, error)
    return (join(found[0]), found[1]) if found else (join(steps), error)


class _Search:
    def __init__(self, try_one: Callable[[Any], object]) -> None:
        self._try_one = try_one
        self._seen: dict[int, object] = {}  # the objects too: an id counts only while its object lives
        self._left = LARGEST_COUNT

    def look(self, steps: list[str], value: object, error: Exception) -> tuple[list[str], Exception] | None:
        """Look below a value that fails; None when all that fails below it has been seen: the fault lies elsewhere."""
        self._seen[id(value)] = value
        if len(steps) >= LARGEST_DEPTH:
            return steps, error
        cyclic = False
        for step, member in _members(value):
            if id(member) in self._seen:
                cyclic = True
                continue
            if isinstance(member, _ATOMS) and type(member) in _ATOMS:
                continue
            self._left -= 1
            if self._left < 0:
                return steps, error
            raised = self._failure(member)
            if raised is None:
                continue
            found = self.look([*steps, step], member, raised)
            if found is not None:
                return found
            cyclic = True
        return None if cyclic else (steps, error)

    def _failure(self, member: object) -> Exception | None:
        try:
            self._try_one(member)
        except Exception as error:
            return error
        return None


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    """The direct members of a value, each with its step of the path; none where it will not say."""
    if isinstance(value, FunctionType):
        yield from _function_members(value)
    elif isinstance(value, MethodType):
        yield ".__self__", value.__self__
        yield ".__func__", value.__func__
    elif isinstance(value, functools.partial):
        yield ".func", value.func
        yield from ((f".args[{index}]", member) for index, member in enumerate(value.args))
        yield from ((f".keywords[{short(key)}]", member) for key, member in value.keywords.items())
    elif isinstance(value, dict):
        yield from _items(list(value.items()))
        yield from _state_members(value)
    elif isinstance(value, tuple):
        names = getattr(type(value), "_fields", ())  # of a named tuple
        steps = (
            [f".{name}" for name in names]
            if len(names) == len(value)
            else [f"[{index}]" for index in range(len(value))]
        )
        yield from zip(steps, value, strict=True)
    elif isinstance(value, (list, set, frozenset)):
        is_list = isinstance(value, list)
        yield from (
            (f"[{index}]" if is_list else f".<member {short(member)}>", member)
            for index, member in enumerate(list(value))
        )
        yield from _state_members(value)
    elif isinstance(value, type):
        yield from (
            (f".{name}", member) for name, member in list(vars(value).items()) if isinstance(member, FunctionType)
        )
    else:
        yield from _state_members(value)


def _items(items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Any]]:
    for key, member in items:
        yield f".<key {short(key)}>", key
        yield f"[{short(key)}]", member


def _function_members(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f".<closure>.{name}", cell.cell_contents
        except ValueError:
            continue  # an empty cell
    yield from ((f".<default {index}>", member) for index, member in enumerate(function.__defaults__ or ()))
    yield from ((f".<default {name}>", member) for name, member in (function.__kwdefaults__ or {}).items())
    yield from ((f".{name}", member) for name, member in function.__dict__.items())
    yield from ((f".<globals>.{name}", member) for name, member in globals_by_value(function).items())
    yield from ((f".<annotations>.{name}", member) for name, member in function.__annotations__.items())


def _state_members(value: Any) -> Iterator[tuple[str, Any]]:
    """The members of an object as it gives them to pickle."""
    try:
        reduced: Any = value.__reduce_ex__(5)
    except Exception:
        return  # its refusal is the fault
    if not isinstance(reduced, tuple):
        return
    parts: list[Any] = [*reduced, None, None]
    arguments, state = parts[1:3]
    if isinstance(state, tuple) and len(state) == 2 and all(part is None or isinstance(part, dict) for part in state):
        state = {**(state[0] or {}), **(state[1] or {})}
    if isinstance(state, dict):
        yield from ((f".{name}", member) for name, member in state.items())
    elif state is not None:
        yield ".<state>", state
    name = ".args" if isinstance(value, BaseException) else ".<made of>"
    if isinstance(arguments, tuple):
        yield from ((f"{name}[{index}]", member) for index, member in enumerate(arguments) if member is not type(value))
