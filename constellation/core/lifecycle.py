"""What follows what in the life of a process and of a deployment; machines without I/O.

`Ending` decides how a deployment is brought to its end from outside: by Ctrl-C, a signal, the loss of a terminal, of the
keeper or of the client. `KillOrder` decides how one process is asked to end, and then made to. `certificate` writes what
is known of an end, and nothing that is not known.

    Ending:   running --Ctrl-C, SIGTERM, SIGHUP, stdout lost, client lost--> asked
              asked   --Ctrl-C, or grace over--> killed
              any     --keeper lost--> killed

The first reason gives the exit code: it is what the user or the system wanted. Only Ctrl-C counts twice, because a person
presses it; `timeout` and shells send the same signal to a process and to its group, which arrive as two.
"""

from __future__ import annotations

import enum
import signal
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from constellation.core.fatal import Fatal
from constellation.core.pid import Pid
from constellation.core.signals import signal_name
from constellation.core.status import ExitStatus

SAME_WISH = 0.03
"""Seconds within which two SIGINT are one wish that came by two ways: to the keeper, which passes it on, and to the group."""

CTRL_C = "Ctrl-C"
TEMPLATE_LOST = "template lost"
NODE_LOST = "node lost"
LINKED = "linked process"
"""How the cause of an end begins that came over a `link`: what stands behind it says all."""


class Interrupted(NamedTuple):
    """Event: Ctrl-C, typed or as SIGINT."""

    is_typed: bool
    """Whether it was read from the terminal, so that two are two."""


class Terminated(NamedTuple):
    """Event: the fabric got a signal that asks it to end."""

    signum: int


class Lost(NamedTuple):
    """Event: something without which the deployment makes no sense has gone."""

    what: str
    """Such as "stdout" or "the keeper"."""
    exit_code: int
    at_once: bool
    """Whether there is no time for the processes to say good-bye."""


class GraceOver(NamedTuple):
    """Event: the time of `next_deadline` has come. Sent late, early or twice it does no harm."""


EndingEvent: TypeAlias = Interrupted | Terminated | Lost | GraceOver


class SignalFirst(NamedTuple):
    """Effect: send a signal to the first process."""

    signum: int
    cause: str


class SignalOthers(NamedTuple):
    """Effect: send a signal to all processes but the first."""

    signum: int
    cause: str


class KillAll(NamedTuple):
    """Effect: SIGKILL to every process."""

    cause: str


EndingEffect: TypeAlias = SignalFirst | SignalOthers | KillAll


class EndingState(enum.Enum):
    """Where `Ending` is."""

    RUNNING = "running"
    ASKED = "asked"
    KILLED = "killed"


class Ending:
    """Decides who gets which signal when a deployment is ended from outside.

    Attributes:
        state: Where it is.
        exit_code: What the run exits with because of it; None while nobody has asked.
        cause: One word or two for certificates and for spawns that are refused; empty while nobody has asked.
        was_interrupted: Whether Ctrl-C was the first reason.
    """

    def __init__(self, grace: float) -> None:
        """Begin in `RUNNING`.

        Args:
            grace: Seconds between asking and killing.
        """
        self.state = EndingState.RUNNING
        self.exit_code: int | None = None
        self.cause = ""
        self.was_interrupted = False
        self._grace = grace
        self._asked_at = 0.0
        self._deadline: float | None = None

    def next_deadline(self) -> float | None:
        """When to send `GraceOver`, or None."""
        return self._deadline

    def step(self, event: EndingEvent, *, now: float) -> list[EndingEffect]:
        """Take one event.

        Args:
            event: What has happened.
            now: Seconds of any clock that does not go back.

        Returns:
            What to do, in order.
        """
        match event:
            case Interrupted(is_typed):
                if self.state is EndingState.RUNNING:
                    self.was_interrupted = True
                elif not is_typed and now - self._asked_at < SAME_WISH:
                    return []
                else:
                    return self._kill()
                return self._ask(CTRL_C, 128 + signal.SIGINT, signal.SIGINT, now)
            case Terminated(signum):
                return self._ask(signal_name(signum), 128 + signum, signal.SIGTERM, now)
            case Lost(what, exit_code, at_once):
                if not at_once:
                    return self._ask(f"the loss of {what}", exit_code, signal.SIGTERM, now)
                if self.exit_code is None:
                    self.exit_code, self.cause = exit_code, f"the loss of {what}"
                return self._kill()
            case GraceOver():
                if self._deadline is not None and now >= self._deadline:
                    return self._kill()
                return []

    def _ask(self, cause: str, exit_code: int, to_first: int, now: float) -> list[EndingEffect]:
        if self.state is not EndingState.RUNNING:
            return []
        self.state = EndingState.ASKED
        self.cause, self.exit_code = cause, exit_code
        self._asked_at, self._deadline = now, now + self._grace
        return [SignalFirst(to_first, cause), SignalOthers(signal.SIGTERM, cause)]

    def _kill(self) -> list[EndingEffect]:
        # Again in KILLED too: a process may have been forked since.
        self.state = EndingState.KILLED
        self._deadline = None
        return [KillAll(self.cause)]


class KillOrder:
    """Decides which signal one process gets next: SIGTERM, after the grace time SIGKILL.

    Attributes:
        cause: Who wanted it first; None: nobody.
        asked_with: The last signal that was given out for it; None: none.
    """

    __slots__ = ("_deadline", "asked_with", "cause")

    def __init__(self) -> None:
        self.cause: str | None = None
        self.asked_with: int | None = None
        self._deadline: float | None = None

    def next_deadline(self) -> float | None:
        """When to call `tick`, or None."""
        return self._deadline

    def ask(self, cause: str, grace: float, now: float) -> int | None:
        """Somebody wants this process to end.

        Args:
            cause: Who, for the certificate.
            grace: Seconds until SIGKILL; 0 or below: at once. Of several wishes the earliest counts.
            now: The time.

        Returns:
            The signal to send now, or None.
        """
        if self.asked_with == signal.SIGKILL:
            return None
        if grace <= 0:
            return self.kill(cause)
        deadline = now + grace
        self._deadline = deadline if self._deadline is None else min(deadline, self._deadline)
        return self.note(cause, signal.SIGTERM) if self.asked_with is None else None

    def note(self, cause: str, signum: int) -> int:
        """Give a signal that somebody sends, for its consequences in the certificate."""
        if self.cause is None:
            self.cause = cause
        if self.asked_with != signal.SIGKILL:
            self.asked_with = signum
        return signum

    def kill(self, cause: str) -> int:
        """Give the signal that ends it now."""
        self._deadline = None
        return self.note(cause, signal.SIGKILL)

    def tick(self, now: float) -> int | None:
        """Give the signal that is due, or None."""
        if self._deadline is not None and now >= self._deadline:
            return self.kill(self.cause or "")
        return None


class KnownEnd(NamedTuple):
    """What the monitor knows when a process has ended."""

    pid: Pid
    code: int | None
    signum: int | None
    memory: str | None = None
    """Why it was killed, where that was for want of memory: a whole cause; None: it was not, or nobody knows."""
    killer: str | None = None
    """Who asked for the end: "process 3fecd01", "Ctrl-C", ...; None: nobody that we know."""
    sent: int | None = None
    """The last signal that it was sent because of that; None: none that has reached it."""
    fatal: Fatal | None = None
    """What Python wrote of the fault that ended it."""
    exception: tuple[str, str] | None = None
    reason: str | None = None
    """What the process said of its end: a cause, or "" where it only said that it ends as Python programs do. None: nothing."""
    may_say: bool = True
    """Whether it would have said so: nothing is known of one that never came to run its function."""
    undelivered: Sequence[str] = ()
    """Channels whose values were not taken, in words."""
    is_template_lost: bool = False
    template_end: tuple[int | None, int | None] | None = None
    """Code and signal of that template, where its end is known."""
    fault: str | None = None
    """Why its control connection was cut, as a sentence about "it"; None: it was not."""
    stderr: Sequence[str] = ()
    node: str = "local"
    place: str | None = None


OUTSIDE = "not by constellation"
"""Of a signal that neither the fabric has sent nor, as far as it can tell, the kernel for want of memory."""
AT_ONCE = "without a word, as by os._exit"
HEARD_SIGTERM = f"SIGTERM, {OUTSIDE}"
"""The reason that a process gives which has ended because of a SIGTERM: whose it was, the monitor knows better."""
SYSTEM_EXIT = "SystemExit"

_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}


def certificate(end: KnownEnd) -> ExitStatus:
    """Write the death certificate of a process.

    A good end needs no words, but for one that came over a link. The cause is the first of these that is known: want of
    memory, who killed it, the fault that Python wrote of, the exception, the loss of the template, what it said itself,
    what was not delivered, what it did wrong towards us; else what can be told by who it was not.

    Args:
        end: What is known.

    Returns:
        The certificate; for a good end only with Pid, code and node.
    """
    if end.code == 0 and not end.undelivered and not _is_linked(end):
        return ExitStatus(end.pid, 0, None, node=end.node)
    return ExitStatus(
        end.pid,
        end.code,
        None if end.signum is None else signal_name(end.signum),
        _cause(end),
        end.exception,
        tuple(end.stderr),
        end.node,
        end.place,
        end.fatal.stack() if end.fatal is not None and end.fatal.fits(end.signum) else (),
    )


def _is_linked(end: KnownEnd) -> bool:
    """Whether somebody else's end was the reason."""
    return end.killer is not None and end.killer.startswith(LINKED)


def _was_killed(end: KnownEnd) -> bool:
    """Whether it ended as one ends that gets what it was sent."""
    by = end.signum if end.signum is not None else (end.code or 0) - 128
    if by == signal.SIGKILL:
        return end.sent == signal.SIGKILL  # asked to end and killed by another is another's deed
    return by in {signal.SIGTERM, signal.SIGINT, signal.SIGHUP} and end.sent is not None


def _cause(end: KnownEnd) -> str | None:
    if end.memory is not None:
        return end.memory
    if end.killer is not None and _was_killed(end):
        return end.killer if _is_linked(end) else f"killed by {end.killer}"
    if end.code == 0 and _is_linked(end):
        return end.killer
    if end.fatal is not None and end.fatal.fits(end.signum):
        return end.fatal.cause()
    if end.exception is not None:
        name, text = end.exception
        return f"uncaught {name}: {text}" if text else f"uncaught {name}"
    if end.is_template_lost and end.signum in {signal.SIGKILL, None} and end.code is None:
        return TEMPLATE_LOST + _how(end.template_end)
    if end.undelivered:
        return f"undelivered: {', '.join(end.undelivered)}"
    if end.fault is not None:
        return end.fault
    if end.code is not None:
        return _cause_of_code(end)
    if end.signum is None or end.signum in _FAULTS:
        return None  # a fault is its own
    return OUTSIDE if end.sent is None else f"{OUTSIDE}, which had only asked it to end"


def _how(end: tuple[int | None, int | None] | None) -> str:
    """How a template has ended, behind the word for it."""
    if end is None:
        return ""
    code, signum = end
    return f": exited with {code}" if signum is None else f": killed by {signal_name(signum)}"


def _cause_of_code(end: KnownEnd) -> str | None:
    if end.reason is None:
        return AT_ONCE if end.may_say else None
    if end.reason == HEARD_SIGTERM and end.code != 128 + signal.SIGTERM:
        return None  # it was heard, and the program has ended in its own way
    # A text gives 1, and a stream that cannot be flushed 120; any other code was the program's own.
    return end.reason or (SYSTEM_EXIT if end.code in {1, 120} else f"{SYSTEM_EXIT}: {end.code}")


def closing_words(data: bytes, lines: int = 10) -> tuple[str, ...]:
    """Give the last lines of what a process wrote to stderr, for its certificate.

    Args:
        data: The last bytes, perhaps cut within the first line or character.
        lines: How many lines at most.
    """
    return tuple(data.decode("utf-8", "replace").splitlines()[-lines:])
