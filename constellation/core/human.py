"""The human format: each process's lines under a header with its Pid.

```text
3fecd01:
    Hello, world!
    exited: 0
```

A *stream* is stdout or stderr of one process; a *screen* is a place that we write to. The rules:

1. A line is shown whole as soon as its end has come. What comes in between belongs to nobody else.
2. Part of a line is shown when it has waited for `PARTIAL_S`, so that prompts are seen, or when it is longer than
   `PARTIAL_BYTES`, so that nothing grows without limit. Its line is then *open*: what its stream adds is shown at once (an
   echo, a progress bar).
3. When another stream has something to show while a line is open, the line is *broken*: ended here, and what its stream
   adds later begins with `CONTINUED`, unless that is the line's end, or a carriage return, which begins it anew.
4. A character of several bytes is never cut: up to three bytes wait for their rest until the process has ended.
5. After a carriage return the indentation is written again, so that progress bars stay in their column. All other
   bytes pass unchanged.
"""

from __future__ import annotations

import re
from collections import OrderedDict

from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.core.status import ExitStatus
from constellation.core.utf8 import incomplete_tail

PARTIAL_S = 0.05
"""Seconds that part of a line waits for its rest; a person does not notice it."""
PARTIAL_BYTES = 64 << 10
"""Bytes of part of a line that are kept; what a pipe holds."""
INDENT = b"    "
CONTINUED = b"... "

_SHORTEST_NAME = 7
_RETURN = re.compile(rb"\r(?=[^\r\n])")
_RESET = b"\x1b[0m"
# 0 first: it ends whatever colour the process before has left on. Red is for bad ends.
_RED = b"\x1b[0;31m"
_HEADERS = tuple(b"\x1b[0;%dm" % number for number in (32, 33, 34, 35, 36, 92, 93, 94, 95, 96))


class Names:
    """Short names of Pids: 7 hex digits, more for those that begin alike."""

    def __init__(self) -> None:
        self._alike: dict[str, list[str]] = {}

    def add(self, pid: Pid) -> None:
        """Take note of a Pid; again is harmless."""
        whole = pid.hex()
        alike = self._alike.setdefault(whole[:_SHORTEST_NAME], [])
        if whole not in alike:
            alike.append(whole)

    def name(self, pid: Pid) -> str:
        """The shortest name, of at least 7 digits, that no other known Pid begins with."""
        self.add(pid)
        whole = pid.hex()
        digits = _SHORTEST_NAME
        for other in self._alike[whole[:_SHORTEST_NAME]]:
            while other != whole and other.startswith(whole[:digits]):
                digits += 1
        return whole[:digits]


class _Stream:
    """stdout or stderr of one process.

    Attributes:
        held: What has come of the current line and has not been shown.
        broken: Whether the current line was shown in part and then broken.
    """

    __slots__ = ("broken", "fd", "held", "pid")

    def __init__(self, pid: Pid, fd: int) -> None:
        self.pid = pid
        self.fd = fd
        self.held = bytearray()
        self.broken = False


class _Screen:
    """A place that we write to.

    Attributes:
        speaker: The process whose header was written last.
        open: The stream whose line has been begun and not ended.
        after_return: Whether the open line ends in a carriage return.
    """

    __slots__ = ("after_return", "open", "speaker")

    def __init__(self) -> None:
        self.speaker: Pid | None = None
        self.open: _Stream | None = None
        self.after_return = False


class Human:
    """The human format; `constellation.core.output.Renderer` says what each method does."""

    def __init__(self, *, colour: bool, joined: bool) -> None:
        self._colour = colour
        screen = _Screen()
        self._screens = {1: screen, 2: screen if joined else _Screen()}
        self._names = Names()
        self._streams: dict[Pid, dict[int, _Stream]] = {}
        # Streams with something to show later, in the order of their deadlines, for all wait equally long.
        self._due: OrderedDict[_Stream, float] = OrderedDict()
        self._chunks: list[tuple[int, bytes]] = []

    def spawn(
        self, time: float, pid: Pid, parent: Pid | None, function: str, node: str, resources: Resources
    ) -> list[tuple[int, bytes]]:
        self._names.add(pid)
        return []

    def output(self, time: float, pid: Pid, fd: int, data: bytes) -> list[tuple[int, bytes]]:
        stream = self._stream(pid, fd)
        end = data.rfind(b"\n") + 1
        if end:
            self._show(stream, self._take(stream) + data[:end])
            data = data[end:]
        if data:
            stream.held += data
            if self._screens[fd].open is stream or len(stream.held) >= PARTIAL_BYTES:
                self._show_part(stream)
            elif stream not in self._due and len(stream.held) > incomplete_tail(stream.held):
                self._due[stream] = time + PARTIAL_S
        return self._flush()

    def draining(self, time: float, pid: Pid, words: str) -> list[tuple[int, bytes]]:
        self._begin(pid, 1)
        self._chunks.append((1, INDENT + words.encode("utf-8", "backslashreplace").replace(b"\n", b" ") + b"\n"))
        return self._flush()

    def exit(self, time: float, status: ExitStatus) -> list[tuple[int, bytes]]:
        for stream in self._streams.pop(status.pid, {}).values():
            self._end(stream)
        self._begin(status.pid, 1)
        words = status.describe().encode("utf-8", "backslashreplace").replace(b"\n", b"\n" + INDENT)
        if self._colour and not status.ok:
            words = _RED + words + _RESET
        self._chunks.append((1, INDENT + words + b"\n"))
        return self._flush()

    def next_deadline(self) -> float | None:
        return next(iter(self._due.values()), None)

    def tick(self, now: float) -> list[tuple[int, bytes]]:
        while self._due:
            stream, due = next(iter(self._due.items()))
            if (
                due - PARTIAL_S <= now < due
            ):  # before that the clock has been set back, and waiting could last for hours
                break
            self._show_part(stream)
        return self._flush()

    def finish(self, now: float) -> list[tuple[int, bytes]]:
        for streams in self._streams.values():
            for stream in streams.values():
                self._end(stream)
        self._streams.clear()
        return self._flush()

    def _stream(self, pid: Pid, fd: int) -> _Stream:
        streams = self._streams.setdefault(pid, {})
        if fd not in streams:
            streams[fd] = _Stream(pid, fd)
        return streams[fd]

    def _take(self, stream: _Stream) -> bytes:
        """Take what a stream holds."""
        self._due.pop(stream, None)
        held = bytes(stream.held)
        stream.held.clear()
        return held

    def _show_part(self, stream: _Stream) -> None:
        """Show what a stream holds, but for the beginning of a character."""
        held = self._take(stream)
        cut = len(held) - incomplete_tail(held)
        stream.held += held[cut:]
        self._show(stream, held[:cut])

    def _end(self, stream: _Stream) -> None:
        """Show all that a stream holds, and end its line."""
        self._show(stream, self._take(stream))
        screen = self._screens[stream.fd]
        if screen.open is stream:
            self._chunks.append((stream.fd, b"\n"))
            screen.open = None

    def _show(self, stream: _Stream, text: bytes) -> None:
        screen = self._screens[stream.fd]
        start = b""
        if stream.broken and text:
            stream.broken = False
            if text.startswith((b"\n", b"\r\n")):  # the line's end, which has been shown already
                text = text[text.index(b"\n") + 1 :]
            elif not text.startswith(b"\r"):
                start = CONTINUED
        if not text:
            return
        if screen.open is not stream:
            self._begin(stream.pid, stream.fd)
            start = INDENT + start
        elif screen.after_return and text[:1] not in (b"\r", b"\n"):
            start = INDENT
        self._chunks.append((stream.fd, start + _indented(text)))
        screen.open = None if text.endswith(b"\n") else stream
        screen.after_return = text.endswith(b"\r")

    def _begin(self, pid: Pid, fd: int) -> None:
        """Make room for a new line of a process: break the open line, say who speaks."""
        screen = self._screens[fd]
        if screen.open is not None:
            self._chunks.append((screen.open.fd, b"\n"))
            screen.open.broken = True
            screen.open = None
        if screen.speaker != pid:
            screen.speaker = pid
            name = self._names.name(pid).encode() + b":"
            if self._colour:
                name = _HEADERS[pid.key[0] % len(_HEADERS)] + name + _RESET
            self._chunks.append((fd, name + b"\n"))

    def _flush(self) -> list[tuple[int, bytes]]:
        """The chunks so far, neighbours for the same descriptor joined."""
        joined: list[tuple[int, list[bytes]]] = []
        for fd, data in self._chunks:
            if joined and joined[-1][0] == fd:
                joined[-1][1].append(data)
            else:
                joined.append((fd, [data]))
        self._chunks = []
        return [(fd, b"".join(parts)) for fd, parts in joined]


def _indented(text: bytes) -> bytes:
    """Indent all lines of ``text`` but the first."""
    if b"\r" in text:
        text = _RETURN.sub(b"\r" + INDENT, text)
    end = len(text) - text.endswith(b"\n")
    return text[:end].replace(b"\n", b"\n" + INDENT) + text[end:]
