"""What happens in a deployment, as the master tells the bridge and the bridge its clients: plain lists, checked.

    ["spawn", time, pid, parent or b"", function, node, resources]
    ["output", time, pid, 1 or 2, data]
    ["draining", time, pid, words]  it has returned, and still delivers what it sent
    ["exit", time, certificate]
    ["words", text]                 a line for the user that is no process's output
    ["took", size]                  so many bytes of what was typed have been taken by the first process
    ["code", exit code]             all is over; the last one

Pids as 32 bytes, Resources and ExitStatus as their fields. What the renderers (core/output.py) need, and no more.
"""

from __future__ import annotations

import reprlib
from typing import Any, Final

from constellation.core.output import Renderer
from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.core.status import ExitStatus

_FORMS: Final[dict[str, tuple[type, ...]]] = {
    "spawn": (float, bytes, bytes, str, str, list),
    "output": (float, bytes, int, bytes),
    "draining": (float, bytes, str),
    "exit": (float, list),
    "words": (str,),
    "took": (int,),
    "code": (int,),
}


def check(fields: list[Any]) -> list[Any]:
    """Give an event back if it has the form of one.

    Raises:
        ValueError: It has not.
    """
    form = _FORMS.get(fields[0]) if fields and isinstance(fields[0], str) else None
    if form is None or len(fields) != len(form) + 1:
        raise ValueError(f"not an event: {reprlib.repr(fields)}")
    for value, kind in zip(fields[1:], form, strict=True):
        if type(value) is not kind:
            raise ValueError(f"not an event: {reprlib.repr(value)} in a {fields[0]}: expected {kind.__name__}")
    return fields


def spawn(time: float, pid: Pid, parent: Pid | None, function: str, node: str, resources: Resources) -> list[Any]:
    """A process runs."""
    above = parent.to_bytes() if parent is not None else b""
    return ["spawn", float(time), pid.to_bytes(), above, function, node, resources.to_fields()]


def output(time: float, pid: bytes, fd: int, data: bytes) -> list[Any]:
    """A process has written."""
    return ["output", float(time), pid, fd, data]


def draining(time: float, pid: Pid, words: str) -> list[Any]:
    """A process still delivers what it sent."""
    return ["draining", float(time), pid.to_bytes(), words]


def exited(time: float, status: ExitStatus) -> list[Any]:
    """A process has ended."""
    return ["exit", float(time), status.to_fields()]


def size_of(fields: list[Any]) -> int:
    """About how many bytes an event takes, for those who keep some."""
    return 200 + (len(fields[4]) if fields[0] == "output" else 0)


def render(renderer: Renderer, fields: list[Any]) -> list[tuple[int, bytes]]:
    """What a terminal shows of an event that has been checked; chunks, each for 1 or 2."""
    match fields:
        case ["spawn", time, pid, parent, function, node, resources]:
            above = Pid.from_bytes(parent) if parent else None
            return renderer.spawn(time, Pid.from_bytes(pid), above, function, node, Resources.from_fields(resources))
        case ["output", time, pid, fd, data]:
            return renderer.output(time, Pid.from_bytes(pid), fd, data)
        case ["draining", time, pid, words]:
            return renderer.draining(time, Pid.from_bytes(pid), words)
        case ["exit", time, status]:
            return renderer.exit(time, ExitStatus.from_fields(status))
        case ["words", text]:
            return [(2, text.encode())]
    return []
