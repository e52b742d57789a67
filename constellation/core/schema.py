"""Messages as plain values, checked: a list of a number and the fields, ``[number, field, ...]``, as msgpack carries it.

A `Schema` is the list of the records that may travel on one kind of connection. The position of a record is its number on
the wire, so the list is only ever appended to. `Schema.read` checks the number, the count and the type of every field
before it makes the record; what the fields mean is the reader's to check.
"""

from __future__ import annotations

import math
import reprlib  # its repr, for plain repr fails on deeply nested lists
from collections.abc import Sequence
from typing import Any, Final

_ALLOWED: Final[dict[str, tuple[type, ...]]] = {
    "int": (int,),
    "str": (str,),
    "bytes": (bytes,),
    "bool": (bool,),
    "float": (float, int),
    "list[Any]": (list,),
    "int | None": (int, type(None)),
    "list[Any] | None": (list, type(None)),
}


class Schema:
    """The records that may travel on one kind of connection.

    Args:
        name: What one of them is called, for errors.
        kinds: NamedTuples, in the order of their numbers; annotated with the types above and no others.
    """

    def __init__(self, name: str, kinds: Sequence[type[Any]]) -> None:
        self.name = name
        self.kinds = tuple(kinds)
        self.numbers = {kind: number for number, kind in enumerate(self.kinds)}
        # Annotations are text here (PEP 563), so the schema is the class itself.
        self._allowed = tuple(
            tuple(
                _ALLOWED[annotation if isinstance(annotation, str) else annotation.__forward_arg__]
                for annotation in kind.__annotations__.values()
            )
            for kind in self.kinds
        )

    def fields_of(self, message: Any) -> list[Any]:
        """The plain form of a message: its number, then its fields."""
        return [self.numbers[type(message)], *message]

    def read(self, plain: Any) -> Any:
        """The message of a plain form.

        Raises:
            ValueError: Unknown number, or fields that do not fit; says which.
        """
        if type(plain) is not list or not plain or type(plain[0]) is not int or not 0 <= plain[0] < len(self.kinds):
            raise ValueError(f"not a {self.name}: {reprlib.repr(plain)}")
        kind, schema = self.kinds[plain[0]], self._allowed[plain[0]]
        if len(plain) != len(schema) + 1:
            raise ValueError(f"{kind.__name__} has {len(plain) - 1} fields: expected {len(schema)}")
        for name, value, allowed in zip(kind._fields, plain[1:], schema, strict=True):
            if type(value) not in allowed:
                expected = " or ".join(each.__name__ for each in allowed)
                raise ValueError(f"{kind.__name__}.{name} is {reprlib.repr(value)}: expected {expected}")
            if type(value) is float and not math.isfinite(value):
                raise ValueError(f"{kind.__name__}.{name} is {value!r}: expected a finite number")
        return kind(*plain[1:])
