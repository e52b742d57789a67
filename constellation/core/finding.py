"""Where plugins come from: the defaults, the entry points of installed distributions, and the words for what is not found.

Imports no plugin. The scan of entry points costs more than all else at start-up and runs only when a plugin is named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import constellation
from constellation.core.errors import PluginError

GROUP = "constellation"
"""The entry point group, and the name of our own distribution."""


class Kind(NamedTuple):
    """One kind of object that plugins offer, and which default modules offer it under which name; the first is chosen."""

    hook: str
    needs: tuple[str, ...]
    defaults: dict[str, str]


KINDS = {
    "transport": Kind("register_transports", ("pair", "adopt"), {"tcp": "constellation.transports.tcp"}),
    "serializer": Kind(
        "register_serializers",
        ("encode", "decode"),
        {"pickle": "constellation.serializers.pickle", "msgpack": "constellation.serializers.msgpack"},
    ),
    "scheduler": Kind(
        "register_schedulers",
        ("node_changed", "node_removed", "place"),
        {"bin_packing": "constellation.schedulers.bin_packing"},
    ),
    "launcher": Kind("register_launchers", ("start", "ended", "stop"), {"local": "constellation.launchers.local"}),
}
DEFAULT_PLUGINS = tuple(module for kind in KINDS.values() for module in kind.defaults.values())
DEFAULT_NAMES = {name: module for kind in KINDS.values() for name, module in kind.defaults.items()}
NAME = re.compile(r"[A-Za-z0-9_.+-]{1,64}")
"""Of what is offered: names travel in the first frame of a link, which has blanks and slashes between them."""


class Source(NamedTuple):
    """Where a plugin comes from."""

    how: str
    """"default", "entry point" or "module"."""
    module: str
    """The module that holds its hooks."""
    package: str = ""
    """The distribution that brought it; empty for a plain module."""
    version: str = ""
    """Of the distribution."""

    def __str__(self) -> str:
        return f"{self.how} {self.module}" + (f", {self.package} {self.version}" if self.package else "")


class Found(NamedTuple):
    """An entry point of our group."""

    source: Source
    load: Callable[[], object]
    requires: tuple[str, ...]
    """What its distribution requires, as its metadata says."""


class Stated(NamedTuple):
    """A plugin as a deployment states it, so that everybody who takes part can see that he has the same."""

    name: str
    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} ({self.package} {self.version})" if self.package else self.name


def refuse_unknown(names: Sequence[str]) -> None:
    """Check names without importing a plugin; dotted ones are let pass, for they may be the program's own modules.

    Raises:
        PluginError: A name is neither a default nor an entry point.
    """
    for name in absent(names):
        raise PluginError(unknown("plugin", name, [*scan(), *DEFAULT_NAMES]))


def absent(names: Sequence[str]) -> list[str]:
    """Of the plugins of these names, those that are not installed; dotted ones may be the program's own modules."""
    plain = [name for name in names if "." not in name and name not in DEFAULT_NAMES]
    points = scan() if plain else {}
    return [name for name in plain if name not in points]


def refuse_different(stated: Sequence[Stated], here: Sequence[Stated], where: str) -> None:
    """Hold the plugins of a deployment against those of somebody who takes part in it.

    Args:
        stated: What the deployment states.
        here: The same plugins as they are ``where``.
        where: Who has those, such as "node a".

    Raises:
        PluginError: One has another version; names it, both versions, and the command that mends it.
    """
    mine = {each.name: each for each in here}
    for each in stated:
        own = mine.get(each.name)
        if own is not None and (own.package, own.version) != (each.package, each.version):
            command = f"`pip install {each.package}=={each.version}`" if each.package else "install the same"
            raise PluginError(
                f"the deployment was started with the plugin {each}, and {where} has {own}: {command} there"
            )


def scan() -> dict[str, list[Found]]:
    """Find the entry points of all installed distributions, by name. Imports none of them."""
    # The package and not the standard library's module: it is the same on all versions of Python that we run on.
    import importlib_metadata  # late: importing it and scanning cost more than the rest of the start

    found: dict[str, list[Found]] = {}
    for point in importlib_metadata.entry_points(group=GROUP):
        dist = point.dist
        package, version = (dist.name, dist.version) if dist is not None else ("", "")
        requires = tuple(dist.requires or ()) if dist is not None else ()
        claim = Found(Source("entry point", point.value, package, version), point.load, requires)
        claims = found.setdefault(point.name, [])
        if all(claim.source != other.source for other in claims):  # one distribution may be found by two paths
            claims.append(claim)
    return found


def own_version() -> str:
    """Say which version of constellation is installed."""
    import importlib_metadata  # late, as above

    try:
        return importlib_metadata.version(GROUP)
    except importlib_metadata.PackageNotFoundError:
        return constellation.__version__  # run out of its folder


def near(name: str, known: Sequence[str]) -> str:
    """Give the words for names that may have been meant; empty where none is near."""
    import difflib  # late: for an error only

    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(each) for each in close)}?" if close else ""


def unknown(kind: str, name: str, known: list[str]) -> str:
    """Give the words for a name that nobody has."""
    names = ", ".join(sorted(known)) or "none"
    if kind == "plugin":
        hint = f"install the package that has it, such as `pip install constellation-{name}`, or name a module as pkg.module"
    else:
        hint = "enable the plugin that offers it with --plugin, or install it with `pip install` first"
    return f"unknown {kind} {name!r}{near(name, known)}; found: {names}; {hint}"


def conflict(kind: str, name: str, first: str, second: str) -> str:
    """Give the words for a name that two claim."""
    advice = "uninstall one of them" if kind == "plugin" else "enable only one of them"
    return f"two plugins claim the {kind} {name!r}: {first!r} and {second!r}; {advice}"


def place_of_raise(error: BaseException) -> str:
    """Say where an exception was raised, as ``file:line``."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "an unknown place"
