"""What the environment says of a deployment: the variables that begin with CONSTELLATION_."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from constellation.core import enabling, settings
from constellation.core.errors import UsageError
from constellation.core.resources import Resources, parse_mem

FORMATS = ("human", "json", "raw")


def read(environ: Mapping[str, str], cwd: str, plugins: Sequence[str], capacity: Resources | None) -> dict[str, Any]:
    """Read the settings of a deployment.

    Args:
        environ: The environment.
        cwd: The current folder, where pyproject.toml is looked for first.
        plugins: What the program names itself; it comes before the others.
        capacity: What the program gives; the environment's is for a program that gives none.

    Returns:
        The keys format, capacity, plugins, plugin_options, transport, serializer, scheduler, grace, linger and credit of the
        fabric's configuration.

    Raises:
        UsageError: A value cannot be used; says which, and what is expected.
        PluginError: pyproject.toml speaks of plugins in a way that cannot be read.
    """
    given = _parse(
        environ,
        "CONSTELLATION_CAPACITY",
        _capacity,
        None,
        "a JSON list of bytes, millionths of a core, and pairs of name and millionths",
    )
    if capacity is not None:
        given = capacity.to_fields()
    found = enabling.look(cwd, environ)
    names = list(dict.fromkeys([*plugins, *found.names]))
    seconds = "seconds as a number, not below zero"
    return {
        "format": _parse(environ, "CONSTELLATION_FORMAT", _format, None, " or ".join(FORMATS)),
        "capacity": given,
        "plugins": names,
        "plugin_options": found.options_of(names),
        **{kind: found.choices.get(kind) for kind in enabling.CHOICES},
        "grace": _parse(environ, "CONSTELLATION_GRACE", _seconds, settings.GRACE, seconds),
        "linger": _parse(environ, "CONSTELLATION_LINGER", _seconds, settings.LINGER, seconds),
        "credit": _parse(
            environ, "CONSTELLATION_CREDIT", _credit, settings.CREDIT, "bytes, at least 1, such as 4194304 or '4 MiB'"
        ),
    }


def _parse(environ: Mapping[str, str], name: str, parse: Callable[[str], Any], default: Any, expected: str) -> Any:
    text = environ.get(name, "")
    if not text:
        return default
    try:
        return parse(text)
    except (ValueError, UsageError) as error:
        raise UsageError(f"cannot use {name}={text!r}: expected {expected}") from error


def _format(text: str) -> str:
    if text not in FORMATS:
        raise ValueError(text)
    return text


def _capacity(text: str) -> list[Any]:
    fields = json.loads(text)
    if not isinstance(fields, list):
        raise ValueError(text)  # noqa: TRY004  # caught above, as a value that cannot be used
    return Resources.from_fields(fields).to_fields()


def _seconds(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise ValueError(text)
    return value


def _credit(text: str) -> int:
    value = parse_mem(text)
    if value < 1:
        raise ValueError(text)
    return value
