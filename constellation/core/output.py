"""What is shown of a deployment: the format of the events, their order, and the exit code of the run.

A machine without I/O. The driver tells it what has happened, writes the chunks that come back, in their order, and calls
`tick` once `next_deadline` has passed. Three formats:

- ``human``: lines under a header that names the process (core/human.py).
- ``json``: one event a line, all on stdout, without delay. Text is UTF-8 where the bytes of a chunk are, else base64. Up to
  three bytes that begin a character stay here until the rest comes or the process has ended, so that no character is
  ever cut by the size of a read.
- ``raw``: the bytes, untouched, and nothing of ours.

In every format the bytes of one stream of one process come out once and in order.
"""

from __future__ import annotations

import base64
import codecs
import json
from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias

from constellation.core.errors import UsageError
from constellation.core.human import Human
from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.core.signals import signal_number
from constellation.core.status import ExitStatus
from constellation.core.utf8 import incomplete_tail

FORMATS = ("human", "json", "raw")
INTERRUPTED = 130
"""Exit code of a run that Ctrl-C ended: 128 + SIGINT, as shells have it."""
UNKNOWN = 1
"""Exit code that stands for an end of which neither code nor signal is known."""

Chunk: TypeAlias = tuple[int, bytes]
"""Where to write, 1 for stdout and 2 for stderr, and what."""


class _Face(Protocol):
    """One format."""

    def spawn(
        self, time: float, pid: Pid, parent: Pid | None, function: str, node: str, resources: Resources
    ) -> list[Chunk]: ...

    def output(self, time: float, pid: Pid, fd: int, data: bytes) -> list[Chunk]: ...

    def draining(self, time: float, pid: Pid, words: str) -> list[Chunk]: ...

    def exit(self, time: float, status: ExitStatus) -> list[Chunk]: ...

    def next_deadline(self) -> float | None: ...

    def tick(self, now: float) -> list[Chunk]: ...

    def finish(self, now: float) -> list[Chunk]: ...


class Renderer:
    """Turns the events of a deployment into the bytes to write.

    All times are of one clock, in seconds since the epoch.

    Args:
        format: "human", "json" or "raw".
        colour: Whether the human format may use colours.
        joined: Whether our stdout and stderr are the same terminal, pipe or file. If so, the human format keeps the
            lines of both apart from each other under one set of headers; else each has headers of its own.

    Raises:
        UsageError: Unknown format.
    """

    def __init__(self, format: str, *, colour: bool, joined: bool = True) -> None:  # noqa: A002  # as the option is called
        if format not in FORMATS:
            raise UsageError(f"cannot use the format {format!r}: expected one of {', '.join(FORMATS)}")
        self.format = format
        self._face: _Face
        if format == "human":
            self._face = Human(colour=colour, joined=joined)
        else:
            self._face = _Json() if format == "json" else _Raw()

    def spawn(
        self, time: float, pid: Pid, parent: Pid | None, function: str, node: str, resources: Resources
    ) -> list[Chunk]:
        """Take note of a new process."""
        return self._face.spawn(time, pid, parent, function, node, resources)

    def output(self, time: float, pid: Pid, fd: int, data: bytes) -> list[Chunk]:
        """Take what a process wrote to its stdout (``fd`` 1) or stderr (2)."""
        return self._face.output(time, pid, fd, data)

    def draining(self, time: float, pid: Pid, words: str) -> list[Chunk]:
        """Take what a process that has returned still delivers. For people only: it is no event."""
        return self._face.draining(time, pid, words)

    def exit(self, time: float, status: ExitStatus) -> list[Chunk]:
        """Take the end of a process; all its output has been given before."""
        return self._face.exit(time, status)

    def next_deadline(self) -> float | None:
        """When to call `tick`, or None.

        It is at most `PARTIAL_S` after the last time given; a driver that waits no longer than that is safe from a
        clock that is set back.
        """
        return self._face.next_deadline()

    def tick(self, now: float) -> list[Chunk]:
        """Show the parts of lines that have waited long enough. Too early or twice is harmless."""
        return self._face.tick(now)

    def finish(self, now: float) -> list[Chunk]:
        """Give out whatever is still held, and end the last line."""
        return self._face.finish(now)


class _Raw:
    """Bytes untouched, and nothing of ours."""

    def spawn(
        self, time: float, pid: Pid, parent: Pid | None, function: str, node: str, resources: Resources
    ) -> list[Chunk]:
        return []

    def output(self, time: float, pid: Pid, fd: int, data: bytes) -> list[Chunk]:
        return [(fd, data)] if data else []

    def draining(self, time: float, pid: Pid, words: str) -> list[Chunk]:
        return []

    def exit(self, time: float, status: ExitStatus) -> list[Chunk]:
        return []

    def next_deadline(self) -> float | None:
        return None

    def tick(self, now: float) -> list[Chunk]:
        return []

    def finish(self, now: float) -> list[Chunk]:
        return []


class _Json:
    """One event a line."""

    def __init__(self) -> None:
        self._held: dict[tuple[Pid, int], bytes] = {}

    def spawn(
        self, time: float, pid: Pid, parent: Pid | None, function: str, node: str, resources: Resources
    ) -> list[Chunk]:
        return [
            _event(
                event="spawn",
                time=time,
                pid=pid.hex(),
                parent=None if parent is None else parent.hex(),
                function=function,
                node=node,
                resources=resources.describe(),
            )
        ]

    def output(self, time: float, pid: Pid, fd: int, data: bytes) -> list[Chunk]:
        data = self._held.pop((pid, fd), b"") + data
        try:
            text, used = codecs.utf_8_decode(data, "strict", False)
        except UnicodeDecodeError:
            used = len(data) - incomplete_tail(data)
            chunks = [_in_base64(time, pid, fd, data[:used])]
        else:
            chunks = [_output_event(time, pid, fd, text, "utf-8")] if text else []
        if used < len(data):
            self._held[pid, fd] = data[used:]
        return chunks

    def draining(self, time: float, pid: Pid, words: str) -> list[Chunk]:
        return []

    def exit(self, time: float, status: ExitStatus) -> list[Chunk]:
        chunks = []
        for fd in (1, 2):
            held = self._held.pop((status.pid, fd), None)
            if held is not None:
                chunks.append(_in_base64(time, status.pid, fd, held))
        end = _event(
            event="exit",
            time=time,
            pid=status.pid.hex(),
            code=status.code,
            signal=status.signal,
            cause=status.cause,
        )
        return [*chunks, end]

    def next_deadline(self) -> float | None:
        return None

    def tick(self, now: float) -> list[Chunk]:
        return []

    def finish(self, now: float) -> list[Chunk]:
        chunks = [_in_base64(now, pid, fd, held) for (pid, fd), held in self._held.items()]
        self._held.clear()
        return chunks


def _event(**fields: Any) -> Chunk:
    # ASCII only: an unescaped U+2028 or U+0085 would end the line for readers that use str.splitlines.
    return (1, json.dumps(fields).encode() + b"\n")


def _output_event(time: float, pid: Pid, fd: int, data: str, encoding: str) -> Chunk:
    return _event(event="output", time=time, pid=pid.hex(), fd=fd, data=data, encoding=encoding)


def _in_base64(time: float, pid: Pid, fd: int, data: bytes) -> Chunk:
    return _output_event(time, pid, fd, base64.b64encode(data).decode("ascii"), "base64")


def run_exit_code(statuses: Iterable[ExitStatus], interrupted: bool) -> int:
    """The exit code of a whole run.

    Args:
        statuses: The ends of all its processes.
        interrupted: Whether Ctrl-C ended the run.

    Returns:
        130 after Ctrl-C; 0 if all ended with 0; else what the failed ones have in common, 128 + n for signal n and 1
        for an unknown end; else 1.
    """
    if interrupted:
        return INTERRUPTED
    codes = {_exit_code(status) for status in statuses if not status.ok}
    if not codes:
        return 0
    return codes.pop() if len(codes) == 1 else 1


def _exit_code(status: ExitStatus) -> int:
    if status.code is not None:
        return status.code
    number = None if status.signal is None else signal_number(status.signal)
    return UNKNOWN if number is None else 128 + number
