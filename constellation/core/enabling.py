"""Which plugins the surroundings enable, with which options, and what they choose.

Four ways enable a plugin, and they add up, each name once, in this order: ``init(plugins=[...])``; ``--plugin``, which
stands first in CONSTELLATION_PLUGINS; the rest of CONSTELLATION_PLUGINS; ``[tool.constellation] plugins`` in the nearest
pyproject.toml. An option's value comes from ``--plugin-option``, else from CONSTELLATION_PLUGIN_OPTIONS, else from
``[tool.constellation.NAME]``, else it is the default that the plugin declares. A transport, serializer or scheduler is the
one of ``init(...)``, else of ``--transport`` and the like, else of the variable, else of pyproject.toml, else the one that
an enabled plugin offers, else the default one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from constellation.core.errors import PluginError, UsageError
from constellation.core.finding import DEFAULT_NAMES, near

PROJECT = "pyproject.toml"
NAMES_VARIABLE = "CONSTELLATION_PLUGINS"
OPTIONS_VARIABLE = "CONSTELLATION_PLUGIN_OPTIONS"
CHOICES = {
    "transport": "CONSTELLATION_TRANSPORT",
    "serializer": "CONSTELLATION_SERIALIZER",
    "scheduler": "CONSTELLATION_SCHEDULER",
}
"""Each kind of which one is used, with the variable that says which."""


class Enabled(NamedTuple):
    """What the surroundings say of plugins."""

    names: dict[str, str]
    """The plugins, in order, each with what enables it."""
    options: dict[str, Any]
    """Values by ``NAME.KEY`` that the environment gives: for plugins that are enabled, or it is a mistake."""
    project_options: dict[str, Any]
    """Those that pyproject.toml gives: they may stay there while the plugin is not enabled."""
    choices: dict[str, str]
    """The transport, serializer and scheduler, where they are named."""

    def options_of(self, names: Iterable[str]) -> dict[str, Any]:
        """Give the values that count where these plugins are enabled."""
        owners = {*names, *DEFAULT_NAMES}
        kept = {key: value for key, value in self.project_options.items() if key.rpartition(".")[0] in owners}
        return {**kept, **self.options}


def look(cwd: str, environ: Mapping[str, str]) -> Enabled:
    """Read the surroundings.

    Args:
        cwd: Where to look for pyproject.toml first; then above it.
        environ: The environment.

    Raises:
        PluginError: The nearest pyproject.toml cannot be read, or says what cannot be used.
        UsageError: CONSTELLATION_PLUGIN_OPTIONS is not a JSON object of texts.
    """
    path, project = _project(cwd)
    names = dict.fromkeys(split_names(environ.get(NAMES_VARIABLE, "")), NAMES_VARIABLE)
    for name in project.pop("plugins", []):
        names.setdefault(name, path)
    choices = {kind: project.pop(kind) for kind in CHOICES if kind in project}
    choices |= {kind: environ[variable] for kind, variable in CHOICES.items() if environ.get(variable)}
    options = {f"{plugin}.{key}": value for plugin, table in project.items() for key, value in table.items()}
    return Enabled(names, read_options(environ), options, choices)


def split_names(text: str) -> list[str]:
    """Read names that are separated by commas."""
    return [name for name in dict.fromkeys(each.strip() for each in text.split(",")) if name]


def read_options(environ: Mapping[str, str]) -> dict[str, str]:
    """Read CONSTELLATION_PLUGIN_OPTIONS.

    Raises:
        UsageError: It is not a JSON object of texts.
    """
    text = environ.get(OPTIONS_VARIABLE, "")
    try:
        options = json.loads(text or "{}")
    except ValueError:
        options = None
    if not isinstance(options, dict) or not all(isinstance(value, str) for value in options.values()):
        raise UsageError(f"cannot use {OPTIONS_VARIABLE}={text!r}: expected a JSON object of NAME.KEY and texts")
    return options


def _project(cwd: str) -> tuple[str, dict[str, Any]]:
    """Find the nearest pyproject.toml; give its path and its table ``[tool.constellation]``, checked."""
    folder = os.path.abspath(cwd)
    path = os.path.join(folder, PROJECT)
    while not os.path.isfile(path):
        above = os.path.dirname(folder)
        if above == folder:
            return "", {}
        folder, path = above, os.path.join(above, PROJECT)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise PluginError(
            f"cannot read {path}: {error.strerror}; it may name plugins in [tool.constellation]"
        ) from error
    if b"constellation" not in data:  # tomllib costs 10 ms at start-up, and most projects have no such table
        return path, {}
    import tomllib  # late, for the same reason

    try:
        tables = tomllib.loads(data.decode())
    except ValueError as error:
        raise PluginError(f"cannot read {path}: {error}; it may name plugins in [tool.constellation]") from error
    tool = tables.get("tool", {})
    own = tool.get("constellation", {}) if isinstance(tool, dict) else {}
    _check(path, own)
    return path, dict(own)


def _check(path: str, own: Any) -> None:
    """Refuse a table ``[tool.constellation]`` that says what nobody would read."""
    if not isinstance(own, dict):
        raise PluginError(f"cannot use tool.constellation = {own!r} in {path}: expected a table")
    names = own.get("plugins", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise PluginError(f"cannot use [tool.constellation] plugins = {names!r} in {path}: expected a list of names")
    for key, value in own.items():
        if key in CHOICES and not isinstance(value, str):
            raise PluginError(f"cannot use [tool.constellation] {key} = {value!r} in {path}: expected a name")
        if key != "plugins" and key not in CHOICES and not isinstance(value, dict):
            hint = near(key, ["plugins", *CHOICES]) or f", or a table [tool.constellation.{key}] of a plugin's options"
            expected = ", ".join(["plugins", *CHOICES])
            raise PluginError(f"cannot use [tool.constellation] {key} in {path}: expected one of {expected}{hint}")
