"""What `constellation plugins` shows: every plugin that is found, what enables it, what it provides, whether it works.

Nothing here ends at the first fault: a plugin that cannot be used is a line with the reason. What is not enabled is not
imported, unless that is asked for; what its metadata tell of it is looked at in any case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from constellation.core.errors import PluginError
from constellation.core.finding import DEFAULT_NAMES, GROUP, KINDS, Found, Source, conflict, own_version, scan
from constellation.core.options import Option
from constellation.core.plugins import Plugins

OK = "ok"
NOT_IMPORTED = "not imported"
UNUSABLE = "unusable"


class PluginInfo(NamedTuple):
    """One line of ``constellation plugins``."""

    name: str
    """What ``--plugin`` takes."""
    kinds: tuple[str, ...]
    """The kinds of what it offers, such as ``transport``; ``news`` where it hears news; empty where that is not known."""
    provides: tuple[str, ...]
    """What it offers, such as ``serializer msgpack``."""
    package: str
    """The distribution that brought it; empty for a plain module."""
    version: str
    """Of the distribution."""
    source: str
    """"default", "entry point" or "module"."""
    module: str
    """The module that holds its hooks."""
    enabled_by: str
    """What enables it: "default", "--plugin", "CONSTELLATION_PLUGINS" or the path of a pyproject.toml; empty: nothing."""
    hooks: tuple[str, ...]
    """The hooks that it implements."""
    options: tuple[Option, ...]
    """The options that it declares."""
    state: str
    """"ok", "not imported" or "unusable"."""
    reason: str
    """Why it is unusable."""


def listing(names: Mapping[str, str], given: Mapping[str, Any], *, import_all: bool = False) -> list[PluginInfo]:
    """List the defaults, the enabled plugins, and what could be enabled.

    Args:
        names: The enabled plugins, each with what enables it.
        given: What is given for options, by ``NAME.KEY``.
        import_all: Import those that are not enabled too, each by itself.
    """
    found = scan()
    plugins = _make(given)
    lines = [_default(plugins, name) for name in DEFAULT_NAMES]
    lines += [_enabled(plugins, name, how, found) for name, how in names.items() if name not in DEFAULT_NAMES]
    for name, claims in sorted(found.items()):
        if name not in names:
            for claim in claims:
                lines.append(_other(name, claim, claims, import_all=import_all))
    return lines


def _make(given: Mapping[str, Any]) -> Plugins:
    return Plugins(given, clock=None, report=lambda _text: None)


def _default(plugins: Plugins, name: str) -> PluginInfo:
    source = Source("default", DEFAULT_NAMES[name], GROUP, own_version())
    try:
        plugins.load_default(name)
        provides = plugins.offered(name)
    except PluginError as error:
        return _line(name, source, "default", state=UNUSABLE, reason=str(error))
    return _works(plugins, name, source, "default", provides)


def _enabled(plugins: Plugins, name: str, how: str, found: Mapping[str, list[Found]]) -> PluginInfo:
    claims = found.get(name, [])
    source = claims[0].source if claims else Source("module", name)
    try:
        plugins.enable(name, lambda: found)
        provides = plugins.offered(name)
    except PluginError as error:
        return _line(name, source, how, state=UNUSABLE, reason=str(error))
    return _works(plugins, name, source, how, provides)


def _other(name: str, claim: Found, claims: list[Found], *, import_all: bool) -> PluginInfo:
    source = claim.source
    if len(claims) > 1:
        reason = conflict("plugin", name, *(str(each.source) for each in claims[:2]))
        return _line(name, source, "", state=UNUSABLE, reason=reason)
    if name in DEFAULT_NAMES:
        reason = conflict("plugin", name, f"constellation's own {DEFAULT_NAMES[name]}", str(source))
        return _line(name, source, "", state=UNUSABLE, reason=reason)
    missing = [each for each in map(_required, claim.requires) if each and not _is_installed(each)]
    if missing:
        reason = f"it needs {', '.join(missing)}, not installed here: `pip install --upgrade {source.package}`"
        return _line(name, source, "", state=UNUSABLE, reason=reason)
    if not import_all:
        return _line(name, source, "", state=NOT_IMPORTED)
    return _enabled(_make({}), name, "", {name: claims})


def _required(requirement: str) -> str:
    """The name of what a distribution cannot do without; empty where that depends on an extra or a marker."""
    return "" if ";" in requirement else re.split(r"[\s<>=!~\[(@]", requirement.strip(), maxsplit=1)[0]


def _is_installed(distribution: str) -> bool:
    import importlib_metadata  # late, as in finding.py

    try:
        importlib_metadata.distribution(distribution)
    except importlib_metadata.PackageNotFoundError:
        return False
    return True


def _works(plugins: Plugins, name: str, source: Source, how: str, provides: Iterable[str]) -> PluginInfo:
    implemented = plugins.hooks(name)
    kinds = [kind for kind, (hook, _, _) in KINDS.items() if hook in implemented]
    if "register_commands" in implemented:
        kinds.append("command")
    if "detect_resources" in implemented:
        kinds.append("resources")
    if any(not hook.startswith("register_") and hook != "detect_resources" for hook in implemented):
        kinds.append("news")
    return _line(name, source, how, state=OK)._replace(
        kinds=tuple(kinds),
        provides=tuple(provides),
        hooks=tuple(implemented),
        options=plugins.declared(name),
    )


def _line(name: str, source: Source, how: str, *, state: str, reason: str = "") -> PluginInfo:
    return PluginInfo(
        name, (), (), source.package, source.version, source.how, source.module, how, (), (), state, reason
    )
