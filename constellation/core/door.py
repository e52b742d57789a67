"""What another terminal may ask of a running deployment, and where it is found.

Every fabric of local mode listens on a socket with an abstract name, which leaves no file behind and ends with the fabric:

    constellation/UID/KEEPER/TOKEN

The keeper's OS pid is the one that a shell shows for the program. The token is random, so that nobody can take the name
before the fabric does. The names of this computer stand in /proc/net/unix; whoever answers there is believed only where
the kernel says that it runs as the same user, and answers only who does.

One packet is one message, checked by `DOOR`. The asker sends a question; the fabric sends the answer, of several packets
where it is long, ended by `End`. A question that is not known closes the connection: an asker that gets no answer may
face an older fabric. Numbers are only ever appended, so that old askers go on to be understood.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from constellation.core.schema import Schema

LARGEST_LINES: Final = 32 << 10
"""Bytes of text in one packet of an answer, about; a packet must fit into a socket's buffer with others."""

_NAME = re.compile(r"constellation/(\d+)/(\d+)/[0-9a-f]+")
_LISTENS = 0x10000  # __SO_ACCEPTCON, in the fourth column of /proc/net/unix
_WITH_VALUE = frozenset({"-W", "-X", "--check-hash-based-pycs"})


class Describe(NamedTuple):
    """asker -> fabric: who are you, and is this OS pid one of yours? 0 asks for none."""

    os_pid: int


class AskWhy(NamedTuple):
    """asker -> fabric: what does each process wait for? Answered with `Lines`, then `End`."""


class Description(NamedTuple):
    """fabric -> asker: the answer to `Describe`."""

    keeper: int
    pid: str
    """Of the first process, in full."""
    program: list[Any]
    """The command line."""
    folder: str
    began: float
    """Seconds since the epoch."""
    processes: int
    holds: bool
    """Whether the OS pid that was asked for is a process or a role of it."""


class Lines(NamedTuple):
    """fabric -> asker: some lines of text of an answer."""

    lines: list[Any]


class End(NamedTuple):
    """fabric -> asker: the answer is complete."""


# The position is the number on the wire: append only (docs/wire.md).
DOOR: Final = Schema("message of a door", (Describe, AskWhy, Description, Lines, End))

Question = Describe | AskWhy


def name_of(uid: int, keeper: int, token: str) -> str:
    """The abstract name under which a fabric listens."""
    return f"constellation/{uid}/{keeper}/{token}"


def doors_in(table: Iterable[str], uid: int) -> list[tuple[int, str]]:
    """The fabrics that listen, out of the lines of /proc/net/unix.

    Args:
        table: The lines.
        uid: Of whom.

    Returns:
        For each the keeper's OS pid and the abstract name, in the order of the pids.
    """
    found = []
    for line in table:
        fields = line.split()
        if len(fields) != 8 or not fields[7].startswith("@"):
            continue
        match = _NAME.fullmatch(fields[7][1:])
        if match is not None and int(match[1]) == uid and int(fields[3], 16) & _LISTENS:
            found.append((int(match[2]), match[0]))
    return sorted(found)


def in_packets(lines: Sequence[str]) -> list[list[str]]:
    """Lines in portions that fit into a packet each."""
    portions: list[list[str]] = [[]]
    size = 0
    for line in lines:
        if portions[-1] and size + len(line) > LARGEST_LINES // 4:  # a character has four bytes at most
            portions.append([])
            size = 0
        portions[-1].append(line[: LARGEST_LINES // 4])
        size += len(line)
    return portions


def program_in(command: Sequence[str]) -> str:
    """The program in an interpreter's command line: its file, or ``-m module``; empty where there is none of these."""
    arguments = iter(command[1:])
    for argument in arguments:
        if argument == "-m":
            return f"-m {next(arguments, '')}".strip()
        if argument == "-c":
            return ""
        if argument in _WITH_VALUE:
            next(arguments, None)
        elif not argument.startswith("-"):
            return argument
    return ""


def is_meant(description: Description, wanted: str) -> bool:
    """Whether a deployment is the one that somebody names: by its program, or by the first digits of its first Pid.

    Args:
        description: The deployment.
        wanted: A file's name with or without its folder, a module, or at least four digits of a Pid.
    """
    program = program_in([str(each) for each in description.program])
    if program and wanted in {program, program.removeprefix("-m "), os.path.basename(program)}:
        return True
    if program and os.path.normpath(os.path.join(description.folder, program)) == os.path.normpath(wanted):
        return True
    return len(wanted) >= 4 and description.pid.startswith(wanted.lower())


def in_words(description: Description) -> str:
    """One line for a list of deployments."""
    program = program_in([str(each) for each in description.program]) or "a program without a file"
    count = description.processes
    return f"{description.keeper}  {program} in {description.folder}, {count} process{'' if count == 1 else 'es'}"
