"""On which line of a TOML text each key stands, for complaints that name it; tomllib does not say.

Works on a text that tomllib has read without an error, and so does not check it again: it finds the keys, passes over the
values, and counts lines. A place is the path of a value in what tomllib gives, keys as str and indexes as int: in

    [[nodes]]
    labels = {rack = "a"}

``("nodes", 0)`` is on line 1, ``("nodes", 0, "labels", "rack")`` on line 2.
"""

from __future__ import annotations

import re
import tomllib
from typing import TypeAlias

Place: TypeAlias = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# The closing quotes of a multi-line string may be preceded by one or two quotes that belong to it (TOML 1.0, Strings).
_STRING = re.compile(
    r'''"""(?:\\.|[^\\])*?""""{0,2}|"(?:\\.|[^"\\\n])*"'''  # basic, of several lines and of one
    r"""|'''.*?''''{0,2}|'[^'\n]*'""",  # literal
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]*")


def lines_of(text: str) -> dict[Place, int]:
    """Say on which line, counted from 1, each table, key and element of an array begins.

    A table that is opened more than once by dotted keys or as the parent of another counts where it is opened first.

    Args:
        text: What `tomllib.loads` has accepted.
    """
    return _Scan(text).document()


class _Scan:
    """One walk over a text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._counted = 0
        self._lines: dict[Place, int] = {}
        self._tables: dict[Place, int] = {}
        """How many elements each array of tables has so far."""

    def document(self) -> dict[Place, int]:
        current: Place = ()
        while self._skip(_BLANK) < len(self._text):
            if self._text.startswith("[", self._at):
                current = self._header()
            else:
                self._pair(current)
        return self._lines

    def _header(self) -> Place:
        """Pass over ``[a.b]`` or ``[[a.b]]``; give the place that the pairs below it belong to."""
        double = self._text.startswith("[[", self._at)
        self._at += 2 if double else 1
        place: Place = ()
        keys = self._keys()
        for number, key in enumerate(keys):
            place = (*place, key)
            if double and number == len(keys) - 1:
                self._note(place)
                self._tables[place] = self._tables.get(place, 0) + 1
            else:
                self._note(place)
            if place in self._tables:
                place = (*place, self._tables[place] - 1)
                self._note(place)
        self._skip(_SPACE)
        self._at += 2 if double else 1
        return place

    def _pair(self, table: Place) -> None:
        """Pass over ``a.b = value``."""
        place = table
        for key in self._keys():
            place = (*place, key)
            self._note(place)
        self._skip(_SPACE)
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(place)

    def _keys(self) -> list[str]:
        keys: list[str] = []
        while True:
            self._skip(_SPACE)
            quoted = _STRING.match(self._text, self._at)
            found = quoted or _BARE_KEY.match(self._text, self._at)
            assert found is not None, f"no key at {self._at}: the text has not been read by tomllib"
            self._at = found.end()
            # A quoted key has the escapes of a string, which tomllib knows.
            keys.append(str(tomllib.loads(f"x={found[0]}")["x"]) if quoted else found[0])
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _value(self, place: Place) -> None:
        string = _STRING.match(self._text, self._at)
        if string is not None:
            self._at = string.end()
        elif self._text.startswith("[", self._at):
            self._elements(place)
        elif self._text.startswith("{", self._at):
            self._inline(place)
        else:
            self._skip(_SCALAR)

    def _elements(self, place: Place) -> None:
        """Pass over an array."""
        self._at += 1
        number = 0
        self._skip(_BLANK)
        while not self._text.startswith("]", self._at):
            self._note((*place, number))
            self._value((*place, number))
            number += 1
            self._comma()
        self._at += 1

    def _inline(self, place: Place) -> None:
        """Pass over an inline table."""
        self._at += 1
        self._skip(_BLANK)
        while not self._text.startswith("}", self._at):
            self._pair(place)
            self._comma()
        self._at += 1

    def _comma(self) -> None:
        self._skip(_BLANK)
        if self._text.startswith(",", self._at):
            self._at += 1
            self._skip(_BLANK)

    def _skip(self, what: re.Pattern[str]) -> int:
        found = what.match(self._text, self._at)
        assert found is not None  # each of the patterns matches nothing as well
        self._at = found.end()
        return self._at

    def _note(self, place: Place) -> None:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        self._lines.setdefault(place, self._line)
