"""Checks what a client says that it wants to run, before anybody acts on it.

It comes from elsewhere, and the master and the nodes rely on it.
"""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Sequence
from typing import Any, Final

from constellation.core.bundle import path_problem
from constellation.core.fitting import Installation
from constellation.core.schema import Schema
from constellation.core.trunk import Specification

_SCHEMA: Final = Schema("specification", (Specification,))
_NUMBERS: Final = ("grace", "linger", "credit")
_MOST_TEXT: Final = 1 << 20
"""Bytes of all texts: what an exec takes is 2 MiB."""


def read_specification(fields: Any) -> Specification:
    """Read a specification as it came from a client.

    Raises:
        ValueError: It breaks a rule; says which one, with which value.
    """
    if type(fields) is not list:
        raise ValueError(f"not a specification: {reprlib.repr(fields)}")
    made: Specification = _SCHEMA.read([0, *fields])
    for name in ("program", "search", "plugins"):
        _texts(name, getattr(made, name))
    for name in ("environment", "options", "settings"):
        for pair in getattr(made, name):
            if type(pair) is not list or len(pair) != 2:
                raise ValueError(f"{name} has {reprlib.repr(pair)}: expected a name and a value")
            _texts(name, pair)
    if not made.program or not made.program[0]:
        raise ValueError("there is no program")
    if sum(map(len, made.program)) + sum(len(a) + len(b) for a, b in made.environment) > _MOST_TEXT:
        raise ValueError(f"the arguments and variables have more than {_MOST_TEXT} bytes")
    for name, _ in made.environment:
        if not name or "=" in name:
            raise ValueError(f"a variable cannot be called {name!r}")
    for name, value in made.settings:
        _setting(name, value)
    _places(made)
    installation_of("here", made.client)
    return made


def _texts(name: str, values: list[Any]) -> None:
    for each in values:
        if type(each) is not str or "\0" in each:
            raise ValueError(f"{name} has {reprlib.repr(each)}: expected text without a zero byte")


def _setting(name: str, value: str) -> None:
    if name in _NUMBERS:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number >= 0):
            raise ValueError(f"{name} is {value!r}: expected a number that is not negative")


def _places(made: Specification) -> None:
    """Paths are below the root of the files; where none are sent they may be anywhere, as on the node itself."""
    if not made.manifest:
        if not os.path.isabs(made.root) or "\0" in made.root + made.folder:
            raise ValueError(f"no files are sent, and the folder is {made.root!r}: expected an absolute path")
        return
    for path in (made.folder, made.script, *made.search):
        if path not in {"", "."} and (wrong := path_problem(os.fsencode(path))) is not None:
            raise ValueError(f"{path!r}: {wrong}")


def fields_of_installation(installation: Installation) -> list[Any]:
    """The plain form of an installation; its title does not travel."""
    plugins = [[name, version] for name, version in installation.plugins.items()]
    return [list(installation.python), installation.wire, installation.constellation, plugins]


def installation_of(title: str, fields: Any) -> Installation:
    """Read what `fields_of_installation` gave.

    Raises:
        ValueError: It is none.
    """
    try:
        (major, minor, patch), wire, version, plugins = fields
        python = (int(major), int(minor), int(patch))
        return Installation(title, python, int(wire), str(version), {str(name): str(text) for name, text in plugins})
    except (ValueError, TypeError) as error:
        raise ValueError(f"not an installation: {reprlib.repr(fields)}") from error


def shown(program: Sequence[Any]) -> str:
    """The program in a line for people, without its arguments."""
    return " ".join(map(str, program[:2] if program[0] == "-m" else program[:1]))
