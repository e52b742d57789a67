"""Death certificates: what is known of the end of a process, and nothing that is not known."""

from __future__ import annotations

import reprlib
from typing import Any, NamedTuple

from constellation.core.pid import Pid


class ExitStatus(NamedTuple):
    """How a process ended. The watcher, the channel error and the event stream get the same record."""

    pid: Pid
    """The process that ended."""
    code: int | None
    """Exit code, or None where a signal ended it or nothing is known."""
    signal: str | None
    """Name of the signal that ended it, such as "SIGKILL", or None."""
    cause: str | None = None
    """One sentence on the cause, or None where code or signal say all that is known."""
    exception: tuple[str, str] | None = None
    """Type and text of the uncaught exception, or None."""
    stderr: tuple[str, ...] = ()
    """The last lines that it wrote to stderr; empty for a good end."""
    node: str = "local"
    """Name of the node that ran it."""
    place: str | None = None
    """``file:line`` of the spawn, or None for a first process."""
    stack: tuple[str, ...] = ()
    """The last Python stack, where a fault ended it: ``function at file:line`` of the most recent calls, those first."""

    @property
    def ok(self) -> bool:
        """Whether the process ended with exit code 0."""
        return self.code == 0

    def describe(self) -> str:
        """The end in a few words: ``exited: 0``, ``killed: SIGKILL``, with the cause behind where one is known."""
        if self.code is not None:
            words = f"exited: {self.code}"
        elif self.signal is not None:
            words = f"killed: {self.signal}"
        else:
            words = "ended: unknown how"
        return f"{words} ({self.cause})" if self.cause else words

    def __str__(self) -> str:
        return f"{self.pid} {self.describe()}"

    def to_fields(self) -> list[Any]:
        """Plain values for a control message."""
        exception = list(self.exception) if self.exception else None
        return [
            self.pid.to_bytes(),
            self.code,
            self.signal,
            self.cause,
            exception,
            list(self.stderr),
            self.node,
            self.place,
            list(self.stack),
        ]

    @classmethod
    def from_fields(cls, fields: list[Any]) -> ExitStatus:
        """Read what `to_fields` gave.

        Raises:
            ValueError: The fields are not those of an ExitStatus.
        """
        try:
            pid, code, signal, cause, exception, stderr, node, place, stack = fields
            pair = (None, None) if exception is None else tuple(exception)
            lines, calls = tuple(stderr), tuple(stack)
            made = Pid.from_bytes(pid)
        except (TypeError, ValueError) as error:
            raise ValueError(f"cannot read an exit status from {reprlib.repr(fields)}: {error}") from error
        texts = (*lines, *calls, node)
        maybe = (signal, cause, place, *pair)
        if not (
            (code is None or type(code) is int)
            and len(pair) == 2
            and all(type(text) is str for text in texts)
            and all(text is None or type(text) is str for text in maybe)
        ):
            raise ValueError(f"cannot read an exit status from {reprlib.repr(fields)}: a field is not of its type")
        return cls(made, code, signal, cause, None if exception is None else pair, lines, node, place, calls)
