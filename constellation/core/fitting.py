"""Whether a program fits a node, said before anything of it runs.

What must be equal, and what may differ:

- the **wire version**: equal, or the two cannot talk;
- **Python**: what the program states (``requires-python``); where it states nothing, the minor version it is deployed from, for a
  program that is tried with 3.12 may use what 3.11 lacks. A patch level may differ;
- **Python between two nodes** of one deployment: the minor version, whatever is stated, since functions travel as code;
- **constellation**: may differ as long as the wire version is the same; that is noted;
- **plugins** of the deployment, named by whoever deploys or by the program's own init(): on every node, by name. The version may
  differ from the one where it is deployed from, where none of them runs, which is noted; between nodes it is the same;
- **packages** that the program had imported when it came to its init(): on every node, or it does not come there; versions may
  differ, that is noted;
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

    @property
    def brief(self) -> str:
        """What is wrong, in a few words."""
        wrong = (row for row in self.rows if row.is_wrong)
        return ", ".join(f"{row.what}: {row.second}, {self.titles[0]}: {row.first}" for row in wrong)

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


def alike(first: Installation, other: Installation, plugins: Sequence[str] = ()) -> Fitting:
    """Hold two nodes of one deployment against each other: functions travel between them as code.

    Args:
        first: Where the program has come to its init().
        other: Where more of it would run.
        plugins: The deployment's, by name, the program's own ones too.
    """
    wire = _wire(first, other)
    differs = first.python[:2] != other.python[:2]
    rows = [wire, Row("Python", _version(first.python), _version(other.python), differs)]
    commands = [_upgrade(first, other)] if wire.is_wrong else []
    if differs:
        commands.append(
            f"on {other.title}: start the node with Python {first.python[0]}.{first.python[1]}, as {first.title}"
        )
    found, mends = _plugins_between(first, other, plugins)
    return Fitting((first.title, other.title), (*rows, *found), (), (*commands, *mends))


def _plugins_between(first: Installation, other: Installation, plugins: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Both ends of a link run them: they must be the same."""
    rows, commands = [], []
    for name in plugins:
        own, theirs = first.plugins.get(name), other.plugins.get(name)
        if not own or own == theirs:  # a default, or a module that is the program's own and travels with it
            continue
        rows.append(Row(f"plugin {name}", own, theirs or "not installed", is_wrong=True))
        package, _, version = own.partition(" ")
        commands.append(f"on {other.title}: pip install {package}=={version}; then start the node again")
    return rows, commands


class Made(NamedTuple):
    """What a program is when it has come to its init(), as its template says."""

    plugins: tuple[tuple[str, str], ...]
    """Name and "distribution version" of each plugin that is enabled, the program's own ones too."""
    packages: tuple[tuple[str, str], ...]
    """Name and version of what it had imported."""
    transport: str = ""
    """The name of its transport."""

    @classmethod
    def from_fields(cls, fields: Sequence[object]) -> Made:
        """Read what a template, or a node, has said.

        Raises:
            ValueError: It is something else.
        """
        try:
            plugins, packages, transport = fields
            return cls(_pairs(plugins), _pairs(packages), str(transport))
        except (TypeError, ValueError) as error:
            raise ValueError(f"not what a program is: {fields!r:.100}") from error

    def to_fields(self) -> list[object]:
        """The plain form."""
        return [[list(pair) for pair in self.plugins], [list(pair) for pair in self.packages], self.transport]


def _pairs(fields: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(fields, (list, tuple)):
        raise TypeError("no list of pairs")
    return tuple((str(name), str(value)) for name, value in fields)


def same_program(first: str, expected: Made, title: str, made: Made) -> tuple[str, tuple[str, ...]]:
    """Hold what a program is on a node against what it is where it was run first.

    Args:
        first: The name of that one.
        expected: What it is there.
        title: The name of this node.
        made: What it is here.

    Returns:
        Why it is not the same program, empty where it is; and what differs and does not matter, one line each.
    """
    rows, commands = [], []
    theirs = dict(made.plugins)
    for name, own in expected.plugins:
        if theirs.pop(name, None) != own:
            there = dict(made.plugins).get(name, "not enabled")
            rows.append(Row(f"plugin {name}", own or "a module", there or "a module", is_wrong=True))
            package, _, version = own.partition(" ")
            commands.append(f"on {title}: pip install {package}=={version}; then start the node again")
    for name, other in theirs.items():
        rows.append(Row(f"plugin {name}", "not enabled", other or "a module", is_wrong=True))
        commands.append(f"have the program name the same plugins everywhere: it enables {name} on {title} only")
    if expected.transport != made.transport:
        rows.append(Row("transport", expected.transport, made.transport, is_wrong=True))
        commands.append(
            f"have the program choose the same transport everywhere: it chooses {made.transport} on {title}"
        )
    packages = dict(expected.packages)
    notes = [
        f"{name} is {packages[name]} on {first} and {version} on {title}"
        for name, version in made.packages
        if packages.get(name, version) != version
    ]
    fitting = Fitting((first, title), tuple(rows), (), tuple(commands))
    return ("" if fitting.fits else fitting.refusal("the program")), tuple(notes)


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
