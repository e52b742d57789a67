"""Whether a program fits a node, said before anything of it runs.

What must be equal, and what may differ:

- the **wire version**: equal, or the two cannot talk;
- **Python**: what the program states (``requires-python``); where it states nothing, the minor version it is deployed from, for a
  program that is tried with 3.12 may use what 3.11 lacks. A patch level may differ;
- **Python between two nodes** of one deployment: the minor version, whatever is stated, since functions travel as code;
- **constellation**: may differ as long as the wire version is the same; that is noted;
- **plugins** of the deployment: on the node, by name; versions may differ, that is noted;
- **packages** that must come from the node and do not satisfy: refused. Others are installed.

A refusal is a table with a column for each side, and the command that mends it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Installation(NamedTuple):
    """What one side has."""

    title: str
    """What it is called in the table: ``here``, or the node's name."""
    python: tuple[int, int, int]
    wire: int
    constellation: str
    plugins: Mapping[str, str]
    """Name of each plugin -> "distribution version", empty where no distribution brings it."""


class Lack(NamedTuple):
    """A requirement that is not satisfied."""

    requirement: str
    """As it is stated; ``Python >=3.12`` for Python itself."""
    has: str
    """What is there instead: a version, or "not installed"."""

    def __str__(self) -> str:
        return f"{self.requirement} ({self.has})"


class Row(NamedTuple):
    """One line of the table."""

    what: str
    first: str
    second: str
    is_wrong: bool


class Fitting(NamedTuple):
    """The answer."""

    titles: tuple[str, str]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    """What differs and does not matter, one line each."""
    commands: tuple[str, ...]
    """What mends it, one line each."""

    @property
    def fits(self) -> bool:
        """Whether the program may run there."""
        return not any(row.is_wrong for row in self.rows)

    def refusal(self, program: str) -> str:
        """The table and the commands, for the terminal."""
        cells = [("", *self.titles), *((row.what, row.first, row.second) for row in self.rows if row.is_wrong)]
        widths = [max(len(line[column]) for line in cells) for column in range(3)]
        table = "\n".join(
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in cells
        )
        mended = "".join(f"\n  {command}" for command in self.commands)
        return f"cannot run {program} on {self.titles[1]}: it does not fit\n{table}\nto mend it:{mended}"


def fit(
    here: Installation,
    node: Installation,
    *,
    plugins: Sequence[str] = (),
    python: str = "",
    lacks: Sequence[Lack] = (),
) -> Fitting:
    """Hold what a program is deployed from, and what it states, against a node.

    Args:
        here: Where it is deployed from.
        node: Where it would run.
        plugins: The deployment's plugins, by name.
        python: What it states of Python; empty: nothing.
        lacks: What it states that the node must have and has not, Python included.
    """
    rows = [_wire(here, node)]
    commands = []
    if rows[0].is_wrong:
        commands.append(_upgrade(here, node))
    notes = []
    minor_differs = here.python[:2] != node.python[:2]
    if not python:
        rows.append(Row("Python", _version(here.python), _version(node.python), minor_differs))
        if minor_differs:
            commands.append(
                f"on {node.title}: start the node with Python {here.python[0]}.{here.python[1]}; "
                f'or state in the program what it needs, such as requires-python = ">={_lower(here, node)}"'
            )
    if here.python != node.python and (python or not minor_differs):
        notes.append(f"Python is {_version(here.python)} {_at(here)} and {_version(node.python)} on {node.title}")
    if here.constellation != node.constellation:
        notes.append(f"constellation is {here.constellation} {_at(here)} and {node.constellation} on {node.title}")
    absent = []
    for name in plugins:
        own, theirs = here.plugins.get(name), node.plugins.get(name)
        if theirs is None:
            rows.append(Row(f"plugin {name}", own or "enabled", "not installed", is_wrong=True))
            absent.append((own or "").partition(" ")[0] or f"constellation-{name}")
        elif own is not None and own != theirs:
            notes.append(f"plugin {name} is {own or 'a module'} {_at(here)} and {theirs or 'a module'} on {node.title}")
    if absent:
        commands.append(f"on {node.title}: pip install {' '.join(dict.fromkeys(absent))}; then start the node again")
    rows += [Row(_subject(lack), _wanted(lack), lack.has, is_wrong=True) for lack in lacks]
    packages = [lack.requirement for lack in lacks if not lack.requirement.startswith("Python ")]
    if packages:
        commands.append(f"on {node.title}: pip install {' '.join(map(_quoted, packages))}; then start the node again")
    if len(packages) < len(lacks):
        commands.append(f"on {node.title}: start the node with a Python that is {python}")
    return Fitting((here.title, node.title), tuple(rows), tuple(notes), tuple(commands))


def alike(first: Installation, other: Installation) -> Fitting:
    """Hold two nodes of one deployment against each other: functions travel between them as code."""
    wire = _wire(first, other)
    differs = first.python[:2] != other.python[:2]
    rows = (wire, Row("Python", _version(first.python), _version(other.python), differs))
    commands = [_upgrade(first, other)] if wire.is_wrong else []
    if differs:
        commands.append(
            f"start both nodes with the same Python, such as {first.python[0]}.{first.python[1]} on {other.title}; "
            "or keep the program to nodes that are alike, with spawn(..., on=...)"
        )
    return Fitting((first.title, other.title), rows, (), tuple(commands))


def _wire(first: Installation, other: Installation) -> Row:
    return Row(
        "wire version",
        f"{first.wire} (constellation {first.constellation})",
        f"{other.wire} (constellation {other.constellation})",
        first.wire != other.wire,
    )


def _upgrade(first: Installation, other: Installation) -> str:
    newer, older = (first, other) if first.wire > other.wire else (other, first)
    return f"{_where(older)}: pip install constellation=={newer.constellation}"


def _where(side: Installation) -> str:
    return side.title if side.title == "here" else f"on {side.title}"


def _at(side: Installation) -> str:
    return _where(side)


def _version(python: tuple[int, int, int]) -> str:
    return ".".join(map(str, python))


def _lower(first: Installation, other: Installation) -> str:
    return "{}.{}".format(*min(first.python, other.python)[:2])


def _subject(lack: Lack) -> str:
    return "Python" if lack.requirement.startswith("Python ") else "package"


def _wanted(lack: Lack) -> str:
    return lack.requirement.removeprefix("Python ")


def _quoted(requirement: str) -> str:
    return f"'{requirement}'" if any(each in requirement for each in "<>=!~;[ *") else requirement
