"""Where in a value a fault lies: found when there is one, so that sending pays nothing for it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from constellation.plugin import SerializationError

LARGEST_DEPTH = 200
"""Steps of a path that are looked for; what lies deeper, or contains itself, is named by these."""

_WHERE = re.compile(r"^(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>.*)`)?$", re.DOTALL)


def type_name(value: Any) -> str:
    """A type, or the type of a value, in words: a generator, an app.Point."""
    kind = value if isinstance(value, type) else type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def short(value: Any) -> str:
    """A type or a key as the program wrote it, cut to a length that can be read."""
    text = value.__qualname__ if isinstance(value, type) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def where(error: msgspec.ValidationError) -> SerializationError:
    """What msgspec says of a value that is not of its type, with the path in our words."""
    found = _WHERE.match(str(error))
    assert found is not None
    path = "value" + (found["path"] or "")
    return SerializationError(f"{path}.<key>" if found["key"] else path, found["what"])


def locate(value: Any, encode: Callable[[Any], object], error: Exception) -> SerializationError:
    """Find the innermost member that cannot be encoded.

    Args:
        value: Cannot be encoded.
        encode: Raises for each member that cannot.
        error: What it raised for the value.
    """
    path = "value"
    for _ in range(LARGEST_DEPTH):
        for step, member in _members(value):
            try:
                encode(member)
            except Exception as inner:  # as for the value itself
                path, value, error = path + step, member, inner
                break
        else:
            break
    if isinstance(error, RecursionError):
        return SerializationError("value", "it is nested too deeply, or contains itself")
    return SerializationError(path, str(error) or type(error).__name__)


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, member in value.items():
            yield f".<key {short(key)}>", key
            yield f"[{short(key)}]", member
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{index}]", member) for index, member in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from ((f".<member {short(member)}>", member) for member in value)
    elif isinstance(value, msgspec.Struct):
        yield from ((f".{name}", getattr(value, name)) for name in value.__struct_fields__)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((f".{field.name}", getattr(value, field.name, None)) for field in dataclasses.fields(value))
    elif hasattr(type(value), "__attrs_attrs__"):
        yield from ((f".{field.name}", getattr(value, field.name)) for field in type(value).__attrs_attrs__)
