"""The log of a daemon: one line an event on stderr, for people or as JSON.

As JSON every line is an object with ``time`` (seconds since the epoch), ``level`` (info, warning, error), ``role``, ``node``
and ``message``; ``deployment`` and ``peer`` where the event is about one, ``traceback`` where it is an error of ours. What
does not come by the journal, such as a warning of Python's or what a plugin prints, is taken in by `Journal.take_in`.
"""

from __future__ import annotations

import io
import json
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Protocol

from constellation.core.errors import ConstellationError

FORMATS: Final = ("text", "json")

INFO: Final = "info"
WARNING: Final = "warning"
ERROR: Final = "error"


class Log(Protocol):
    """Writes one line; what stands behind the text is for those who look for it."""

    def __call__(self, text: str, /, *, level: str = INFO, deployment: bytes = b"", peer: str = "") -> None: ...


class Journal:
    """Writes lines.

    Args:
        form: One of `FORMATS`.
        role: What this daemon is.
        node: Gives the name of its node, which the master's file may change.
    """

    def __init__(self, form: str, role: str, node: Callable[[], str]) -> None:
        self.is_json = form == "json"
        self.node = node
        self._role = role
        self._out = sys.stderr

    def write(
        self, text: str, /, *, level: str = INFO, deployment: bytes = b"", peer: str = "", trace: str = ""
    ) -> None:
        """Write one line; a log that nobody reads does not stop the daemon."""
        now = time.time()
        if self.is_json:
            line: dict[str, Any] = {
                "time": now,
                "level": level,
                "role": self._role,
                "node": self.node(),
                "message": text,
            }
            line |= {"deployment": deployment.hex()} if deployment else {}
            line |= {"peer": peer} if peer else {}
            line |= {"traceback": trace} if trace else {}
            self._put(json.dumps(line))
        else:
            self._put(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))} {self._role}: {text}")

    def refuse(self, error: ConstellationError) -> None:
        """Say why the daemon does not start: to a person as every command does."""
        if self.is_json:
            self.write(str(error), level=ERROR)
        else:
            self._put(f"constellation: {'the bridge: ' if self._role == 'bridge' else ''}{error}")

    def _put(self, line: str) -> None:
        try:
            self._out.write(line + "\n")
            self._out.flush()
        except (OSError, ValueError):  # nobody reads it, or it has been closed
            pass

    def take_in(self) -> None:
        """As JSON, write what others say on stderr, and errors that nobody has caught, in this form too."""
        if not self.is_json:
            return
        sys.stderr = _Lines(self)
        sys.excepthook = self._uncaught
        threading.excepthook = lambda each: self._uncaught(
            each.exc_type, each.exc_value or each.exc_type(), each.exc_traceback
        )

    def _uncaught(self, kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        text = "".join(traceback.format_exception_only(kind, error)).strip()
        self.write(text, level=ERROR, trace="".join(traceback.format_exception(kind, error, where)))


class _Lines(io.TextIOBase):
    """A stderr that makes each line one of the journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal
        self._begun = ""

    def write(self, text: str, /) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if line.strip():
                self._journal.write(line, level=WARNING)
        return len(text)

    def flush(self) -> None:
        """Write what is no whole line yet only when it is one."""

    def fileno(self) -> int:
        """Where C code may write."""
        return 2
