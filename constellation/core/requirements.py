"""What a program says it needs: its Python and its packages, in one of the three places where Python programs say so.

In this order, the first one that says anything counts:

1. the block ``# /// script`` in the script itself (PEP 723);
2. ``requirements.txt`` in the root, with what it includes by ``-r`` and ``-c``;
3. ``[project] dependencies`` of ``pyproject.toml`` in the root.

``requires-python`` of pyproject.toml counts with the second as well. The project itself (``-e .`` in requirements.txt) is not
installed, for its files travel and are found; what it depends on is. Paths in requirements.txt are taken as below the root; a
file there is installed, a folder is not, since an environment outlives the copy of the program that it would come from.

Only the texts are read here. What is installed, and whether it satisfies, is asked in `constellation.fabric.requirements`.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, NamedTuple

from constellation.core.errors import DeployError

# The expression that PEP 723 gives; a block ends with the last "# ///" before a line that is no comment.
_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
_COMMENT = re.compile(r"(^|\s+)#.*$")
_OWN = re.compile(r"\./?(\[(?P<extras>[A-Za-z0-9._, -]*)\])?")
_ARCHIVE = (".whl", ".tar.gz", ".zip", ".tar.bz2")
_WITH_FILE = {"-r": "requirement", "--requirement": "requirement", "-c": "constraint", "--constraint": "constraint"}
_EDITABLE = ("-e", "--editable")
_LINKS = ("-f", "--find-links")


class Stated(NamedTuple):
    """What a program asks for."""

    source: str = ""
    """The file that says so, for people; empty: none does."""
    requirements: tuple[str, ...] = ()
    """As pip takes them, one each, options such as ``--hash`` included."""
    python: str = ""
    """A specifier such as ``>=3.12``; empty: any."""
    options: tuple[str, ...] = ()
    """Options of pip that requirements.txt has on lines of their own."""
    constraints: tuple[str, ...] = ()
    """Requirements that only limit what else asks for."""
    local: tuple[str, ...] = ()
    """Files and folders below the root that requirements or options name: their content matters, too."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing has to be installed."""
        return not self.requirements


class Included(NamedTuple):
    """A file that a requirements.txt includes."""

    kind: str
    """``requirement`` or ``constraint``."""
    path: str
    line: int


class Lines(NamedTuple):
    """What stands in one requirements.txt."""

    requirements: tuple[str, ...]
    options: tuple[str, ...]
    includes: tuple[Included, ...]
    local: tuple[str, ...]
    own_extras: frozenset[str] | None
    """Extras with which the project itself is named; None: it is not."""


def from_script(text: str, where: str) -> Stated | None:
    """Read the block of a script; None if it has none.

    Raises:
        DeployError: The block cannot be read; says where.
    """
    blocks = [found for found in _BLOCK.finditer(text.replace("\r\n", "\n")) if found["type"] == "script"]
    if not blocks:
        return None
    if len(blocks) > 1:
        raise DeployError(f"{where}: {len(blocks)} blocks '# /// script': expected one (PEP 723)")
    lines = blocks[0]["content"].splitlines(keepends=True)
    content = "".join(line[2:] if line.startswith("# ") else line[1:] for line in lines)
    tables = _toml(content, where, "the block '# /// script' of ")
    return Stated(
        where,
        _texts(tables.get("dependencies", []), f"{where}: dependencies in its block"),
        _text(tables.get("requires-python", ""), f"{where}: requires-python in its block"),
    )


def from_project(text: str, where: str) -> Stated:
    """Read a pyproject.toml; what it does not say is empty.

    Raises:
        DeployError: It cannot be read; says where.
    """
    project = _toml(text, where).get("project", {})
    if not isinstance(project, dict):
        raise DeployError(f"{where}: project is {project!r:.60}: expected a table")
    dependencies = _texts(project.get("dependencies", []), f"{where}: project.dependencies")
    python = _text(project.get("requires-python", ""), f"{where}: project.requires-python")
    return Stated(where if dependencies or python else "", dependencies, python)


def extras_of_project(text: str, where: str, extras: frozenset[str]) -> tuple[str, ...]:
    """Give what ``[project.optional-dependencies]`` of a pyproject.toml adds for some extras."""
    project = _toml(text, where).get("project", {})
    optional = project.get("optional-dependencies", {}) if isinstance(project, dict) else {}
    if not isinstance(optional, dict):
        return ()
    return tuple(
        each
        for extra in sorted(extras)
        for each in _texts(optional.get(extra, []), f"{where}: project.optional-dependencies.{extra}")
    )


def from_lines(text: str, where: str) -> Lines:
    """Read one requirements.txt; what it includes is the caller's to read.

    Raises:
        DeployError: A line cannot be used; says which.
    """
    requirements: list[str] = []
    options: list[str] = []
    includes: list[Included] = []
    local: list[str] = []
    own: set[str] | None = None
    for number, line in _logical(text):
        option, value = _option(line)
        if option in _WITH_FILE:
            _need(value, where, number, line)
            includes.append(Included(_WITH_FILE[option], value, number))
            continue
        if option in _EDITABLE:
            _need(value, where, number, line)
        elif option:
            options.append(line)
            if option in _LINKS and "://" not in value:
                local.append(value)
            continue
        target = value if option else line.split(" --", 1)[0].split(" ;", 1)[0].strip()
        itself = _OWN.fullmatch(target)
        if itself is not None:
            own = (own or set()) | {each.strip() for each in (itself["extras"] or "").split(",") if each.strip()}
        elif _is_path(target):
            if not target.lower().endswith(_ARCHIVE):
                raise DeployError(
                    f"{where}:{number}: {line!r} is a folder: a node installs packages and files such as ./lib.whl; "
                    "build a wheel of it, or put its modules beside the program"
                )
            requirements.append(line)
            local.append(target.removeprefix("file:"))
        elif option:
            raise DeployError(
                f"{where}:{number}: {line!r}: a node installs nothing in editable form; leave the {option} out"
            )
        else:
            requirements.append(line)
    return Lines(
        tuple(requirements), tuple(options), tuple(includes), tuple(local), None if own is None else frozenset(own)
    )


def _logical(text: str) -> list[tuple[int, str]]:
    """The lines with something in them, joined where they end in a backslash, with the numbers where they begin."""
    lines = []
    held, begun = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        begun = begun or number
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            held += line[:-1]
            continue
        whole = _COMMENT.sub("", held + line).strip()
        if whole:
            lines.append((begun, whole))
        held, begun = "", 0
    if held.strip():
        lines.append((begun, held.strip()))
    return lines


def _option(line: str) -> tuple[str, str]:
    """The option that a line begins with, and its value; empty where it is none."""
    if not line.startswith("-"):
        return "", ""
    if line.startswith("--"):
        found = re.match(r"(--[a-z-]+)[=\s]?\s*(.*)", line)
        return (found[1], found[2]) if found else (line, "")
    return line[:2], line[2:].lstrip(" \t=")


def _need(value: str, where: str, number: int, line: str) -> None:
    if not value:
        raise DeployError(f"{where}:{number}: {line!r} has nothing behind the option: expected a path")


def _is_path(target: str) -> bool:
    if "@" in target.split("/", 1)[0] or "://" in target:  # name @ https://..., git+https://...
        return target.startswith("file:")
    return target.startswith((".", "/", "~", "file:")) or "/" in target or target.lower().endswith(_ARCHIVE)


def _toml(text: str, where: str, what: str = "") -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise DeployError(f"cannot read {what}{where}: {error or 'too deep'}") from error


def _texts(value: object, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise DeployError(f"{what} is {value!r:.60}: expected a list of texts")
    return tuple(each.strip() for each in value)


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise DeployError(f"{what} is {value!r:.60}: expected text such as '>=3.11'")
    return value.strip()
