"""What `constellation deploy` sends: the program's files and how it is run, or only where it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import constellation
from constellation.core.errors import DeployError, UsageError
from constellation.core.finding import DEFAULT_NAMES, Found, scan
from constellation.core.fitting import Installation
from constellation.core.settings import WIRE_VERSION
from constellation.fabric import bundle
from constellation.fabric.project import Place, find_root


class Sent(NamedTuple):
    """A program, as the nodes will find it."""

    program: list[str]
    """Arguments of the interpreter, without those of the program."""
    script: str
    """What is run, relative to the root; empty for a module."""
    root: str
    """Where the files are, for nodes that have them; empty where they are sent."""
    folder: str
    """The working folder, relative to the root."""
    search: list[str]
    """Folders for the end of sys.path, relative to the root."""
    manifest: list[Any]
    chunk: Callable[[bytes], bytes]
    source: str
    """Where the files are here."""


def collect(program: str, *, as_module: bool, in_place: bool, note: Callable[[str], None]) -> Sent:
    """Find out what a program needs, and read its files.

    Args:
        program: A file, a folder, or a module's name.
        as_module: Whether it is a module's name.
        in_place: Whether the files stay where they are.
        note: Is told what somebody who misses a file should know.

    Raises:
        UsageError: There is no such program.
        DeployError: Its files cannot be taken along; says which, and why.

    Blocks: Reads every file.
    """
    place = find_root(program, module=as_module)
    _refuse_undecodable(place)
    if in_place:
        here = os.getcwd()
        started = ["-m", program] if as_module else [_not_an_option(program)]
        return Sent(started, place.program, place.root, here, list(place.search), [], _nothing, place.root)
    files = bundle.collect(
        place.root,
        limit=bundle.bundle_limit(os.environ),
        needed=[place.program] if place.program else [],
        note=note,
    )
    outline = bundle.outline(files)
    source = bundle.Source(place.root, files)

    def chunk(digest: bytes) -> bytes:
        part = outline.parts.get(digest)
        try:
            return part if part is not None else source.read(digest)
        except KeyError:
            return _nothing(digest)

    started = (
        ["-m", place.module]
        if place.module
        else [_not_an_option(os.path.relpath(place.program, place.cwd or os.curdir))]
    )
    return Sent(
        started,
        place.program,
        "",
        place.cwd,
        list(place.search),
        [[*each] for each in outline.chunks],
        chunk,
        place.root,
    )


def installation(title: str, plugins: Sequence[str]) -> Installation:
    """What this Python has, as far as it matters for a deployment.

    Args:
        title: What to call it.
        plugins: The deployment's.
    """
    plain = [name for name in plugins if "." not in name and name not in DEFAULT_NAMES]
    points = scan() if plain else {}
    found = {}
    for name in plugins:
        if name not in plain:
            found[name] = ""  # a default, or a module that may be the program's own
        elif name in points:
            found[name] = _package(points[name][0])
    return _with(title, found)


def whole_installation(title: str) -> Installation:
    """What this Python has, with all plugins that are installed.

    Args:
        title: What to call it.
    """
    return _with(title, {name: _package(found[0]) for name, found in scan().items()})


def _with(title: str, plugins: dict[str, str]) -> Installation:
    major, minor, patch = sys.version_info[:3]
    return Installation(title, (major, minor, patch), WIRE_VERSION, constellation.__version__, plugins)


def _package(found: Found) -> str:
    source = found.source
    return f"{source.package} {source.version}" if source.package else ""


def _not_an_option(path: str) -> str:
    return os.path.join(os.curdir, path) if path.startswith("-") else path


def _refuse_undecodable(place: Place) -> None:
    for path in (place.root, place.cwd, place.program):
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"cannot deploy {path!r}: expected a path that is UTF-8; rename it") from error


def _nothing(digest: bytes) -> bytes:
    raise DeployError(f"the bridge asked for {digest.hex()[:16]}..., which is no part of the program's files")
