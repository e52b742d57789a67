"""The last Python stack: what Python writes when it is ended by a fault, read and made fit to be shown.

Two write it, in one form: faulthandler for a fatal signal, and the interpreter for a fatal error of its own.

```text
Fatal Python error: Segmentation fault

Stack (most recent call first):
  File "/home/me/prog.py", line 7 in child
```

"Stack" is "Current thread 0x..." where other threads are listed too. At most 100 calls are given, then "  ...". Whatever
else there is (other threads, the list of extension modules) is left out, and so are the calls below the one that ran the
user's function: they are ours, and the same for every process.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from constellation.core.resources import format_mem

FATAL_BYTES = 64 << 10
"""What is kept of such a text: 100 calls in files with long names."""
_KEPT_CALLS = 10
"""In certificates, as many as lines of stderr."""

_TITLE = re.compile(r"^Fatal Python error: (.*)$", re.MULTILINE)
_HEADING = re.compile(r"^(?:Current thread 0x[0-9a-f]+.*|Stack) \(most recent call first\):\n", re.MULTILINE)
_CALL = re.compile(r'  File "?(?P<file>.*?)"?, line (?P<line>\d+|\?\?\?) in (?P<function>.*)')
_SIGNALS = {
    "Segmentation fault": signal.SIGSEGV,
    "Bus error": signal.SIGBUS,
    "Floating point exception": signal.SIGFPE,
    "Floating-point exception": signal.SIGFPE,  # since Python 3.12
    "Illegal instruction": signal.SIGILL,
    "Aborted": signal.SIGABRT,
}
_PASSED_OVER = "  Garbage-collecting"
_MORE = "  ..."


class Call(NamedTuple):
    """One call of the stack."""

    file: str
    line: str
    function: str

    def __str__(self) -> str:
        return f"{self.function} at {self.file}:{self.line}"


class Fatal(NamedTuple):
    """The last fatal error in a text."""

    what: str
    """Python's words: "Segmentation fault", "Aborted", or the text of its own fatal error."""
    calls: tuple[Call, ...] = ()
    """The calls of the thread in which it happened, the most recent first."""
    has_more: bool = False
    """Whether there were more calls than Python writes."""
    full_stack: int | None = None
    """Size in bytes of the C stack of the main thread, where all of it was used; None: it was not, or nobody looked."""

    def fits(self, signum: int | None) -> bool:
        """Whether it may be the reason of an end by this signal: what a child of the program's own wrote may stand there."""
        return signum is not None and signum == _SIGNALS.get(self.what, signal.SIGABRT)  # Python's own end by abort()

    def cause(self) -> str:
        """The sentence for a certificate."""
        where = f" in {self.calls[0]}" if self.calls else ""
        if self.full_stack is not None:
            return f"C stack overflow{where}: all {format_mem(self.full_stack)} of the stack are used"
        words = self.what if self.what in _SIGNALS else f"fatal Python error: {self.what}"
        return f"{words}{where}"

    def stack(self) -> tuple[str, ...]:
        """The most recent calls, one line each, for a certificate."""
        return tuple(_lines(self.calls, "{call}", "... {count} times more"))[:_KEPT_CALLS]

    def text(self) -> str:
        """What is shown of it."""
        lines = [f"Fatal Python error: {self.what}", "", "Stack (most recent call first):"]
        lines += _lines(
            self.calls,
            '  File "{call.file}", line {call.line} in {call.function}',
            "  [Previous line repeated {count} more times]",
        )
        if not self.calls:
            lines.append("  <no Python frame>")
        elif self.has_more:
            lines.append(_MORE)
        return "\n".join(lines) + "\n"


def _lines(calls: Iterable[Call], form: str, again: str) -> Iterator[str]:
    """One line for each call; more than three in a row that are the same, as of a recursion, are counted."""
    for call, group in groupby(calls):
        count = sum(1 for _ in group)
        yield from [form.format(call=call)] * min(count, 3)
        if count > 3:
            yield again.format(count=count - 3)


def find(text: str, border: tuple[str, str] = ("", "")) -> Fatal | None:
    """Find the last fatal error in what a process wrote.

    Args:
        text: Perhaps cut at its beginning.
        border: End of the file's name, and function, of the call that ran the user's function; it and what lies below are left out.

    Returns:
        The error, or None where there is none.
    """
    titles = list(_TITLE.finditer(text))
    if not titles:
        return None
    title = titles[-1]
    heading = _HEADING.search(text, title.end())
    calls: list[Call] = []
    has_more = False
    for line in text[heading.end() :].split("\n") if heading else ():
        if line == _PASSED_OVER:
            continue
        found = _CALL.fullmatch(line)
        if found is None:
            has_more = line == _MORE
            break
        call = Call(*found.group("file", "line", "function"))
        if call.function == border[1] and call.file.endswith(border[0]):
            break
        calls.append(call)
    return Fatal(title[1].strip() or "unknown", tuple(calls), has_more)


# The C stack


def full_stack(maps: str, limits: str) -> int | None:
    """Whether the main thread of a process has used up its C stack.

    The kernel lets the stack grow while it keeps within its limit and a gap away from what lies below it; it never
    shrinks. A process that is about to die of a fault, with a stack that could not grow by `_NEAR` any more, has no room
    for calls.

    Args:
        maps: What /proc/PID/maps says.
        limits: What /proc/PID/limits says.

    Returns:
        The size of the stack in bytes, where it is full; else None, also where that cannot be read.
    """
    below = 0
    for line in maps.splitlines():
        first, _, last = line.partition(" ")[0].partition("-")
        try:
            low, high = int(first, 16), int(last, 16)
        except ValueError:
            return None
        if line.endswith("[stack]"):
            size = high - low
            limit = _stack_limit(limits)
            is_full = (limit is not None and size > limit - _NEAR) or (below and low - below < _GUARD + _NEAR)
            return size if is_full else None
        below = high
    return None


_NEAR = 64 << 10
_GUARD = 256 << 12
"""The kernel's stack_guard_gap, unless it was booted with another."""


def _stack_limit(limits: str) -> int | None:
    for line in limits.splitlines():
        if line.startswith("Max stack size"):
            soft = line.removeprefix("Max stack size").split()[:1]
            return int(soft[0]) if soft and soft[0].isdecimal() else None
    return None
