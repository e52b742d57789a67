"""Why does it wait? What each process waits for, in words; and when a whole deployment stands still.

A process tells its node what its threads and tasks wait for when that has taken `settings.LONG_WAIT`, and again when one
of them goes on. A standstill is claimed only when nothing is left that could end it: every process of the deployment has
told that it waits, every wait of every process is without a time limit, no thread or task of it does anything else, and no
process is being started or killed. All this must hold unchanged for `settings.STANDSTILL`: bytes that are on their way
arrive, and wake, within that time. So a process that computes, sleeps, reads its terminal or waits for a socket of its own
never gives a false alarm; the price is that a standstill of some processes beside one that is busy is not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from constellation.core.pid import Pid
from constellation.core.settings import STANDSTILL

MOST_WAITS = 50
"""Waits of one process that are told and shown; one with more tasks than that is described by its first ones."""

_MOST_TEXT = 400


class Wait(NamedTuple):
    """One operation that somebody waits for."""

    what: str
    """Such as ``recv from 689d4df``."""
    place: str
    """``file:line`` in the program, empty where it is not known."""
    since: float
    """Seconds since the epoch."""


class Waiter(NamedTuple):
    """One process, and what it waits for; no waits: it runs."""

    pid: Pid
    function: str
    waits: tuple[Wait, ...]
    is_endless: bool
    """Whether nothing but another process can end all of the waits."""


class Standstill:
    """Says when a deployment has stood still for long enough to say so. Each standstill is said once."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._said = False

    def step(self, waiters: Sequence[Waiter], *, is_quiet: bool, now: float) -> bool:
        """Look at the processes after a change, or at the deadline.

        Args:
            waiters: All living processes.
            is_quiet: Whether no process is being started or killed.
            now: Seconds on a clock that only goes forward.

        Returns:
            Whether to say now that nothing can wake them.
        """
        if not is_quiet or not nothing_can_wake(waiters):
            self._since, self._said = None, False
            return False
        if self._since is None:
            self._since = now
        if self._said or now - self._since < STANDSTILL:
            return False
        self._said = True
        return True

    def restart(self) -> None:
        """Something has changed: what holds now has only begun."""
        self._since, self._said = None, False

    def next_deadline(self) -> float | None:
        """When to look again."""
        return None if self._since is None or self._said else self._since + STANDSTILL


def nothing_can_wake(waiters: Sequence[Waiter]) -> bool:
    """Whether all processes wait, each only for another."""
    return bool(waiters) and all(waiter.waits and waiter.is_endless for waiter in waiters)


def explain(waiters: Iterable[Waiter], now: float) -> list[str]:
    """One line for each wait, and for each process that runs."""
    lines = []
    for waiter in waiters:
        name = f"{waiter.pid} ({waiter.function})"
        if not waiter.waits:
            lines.append(f"{name} runs, or has waited for less than a moment")
        for wait in waiter.waits:
            place = f" at {wait.place}" if wait.place else ""
            lines.append(f"{name} waits in {wait.what}, since {max(0.0, now - wait.since):.1f} s{place}")
    return lines


def to_fields(waits: Sequence[Wait]) -> list[Any]:
    """Plain values for a control message."""
    return [[wait.what[:_MOST_TEXT], wait.place[-_MOST_TEXT:], wait.since] for wait in waits[:MOST_WAITS]]


def from_fields(fields: list[Any]) -> tuple[Wait, ...]:
    """Read what `to_fields` gave.

    Raises:
        ValueError: The fields are not those of waits.
    """
    waits = []
    for field in fields[:MOST_WAITS]:
        if not isinstance(field, list) or [type(value) for value in field] != [str, str, float]:
            raise ValueError(f"cannot read a wait from {str(field)[:100]}: expected what, place, since")
        waits.append(Wait(*field))
    return tuple(waits)
