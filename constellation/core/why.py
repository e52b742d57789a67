"""Why does it wait? What each process waits for, in words; who can still be woken; and when a whole deployment stands still.

A process tells its node what its threads and tasks wait for when that has taken `settings.LONG_WAIT`, and again when one
of them goes on. With each wait it tells its *need*: whose doing can end it. A process that runs, or whose wait has a time
limit, may do anything; one that waits can be woken when its need is met by such a process, or by one that can itself be
woken, or when the process that it waits for has ended. What is left can be woken by nobody: `who_may_wake` is that fixpoint.
To be killed is not to be woken: a running process could kill one that others wait for, and so wake these.

A standstill is claimed unasked only where that cannot be either: every process of the deployment has told that it waits,
none can be woken, no thread or task of any does anything else, and no process is being started or killed. All this must
hold unchanged for `settings.STANDSTILL`: bytes that are on their way arrive, and wake, within that time. So a process that
computes, sleeps, reads its terminal or waits for a socket of its own never gives a false alarm; the price is that a
standstill of some processes beside one that is busy is only shown, and marked, to who asks.
"""

from __future__ import annotations

import math
import reprlib  # its repr, for plain repr fails on deeply nested lists
from collections.abc import Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple

from constellation.core.pid import PID_BYTES, Pid
from constellation.core.resources import Resources, format_amount, format_mem
from constellation.core.settings import STANDSTILL

MOST_WAITS = 50
"""Waits of one process that are told and shown; one with more tasks than that is described by its first ones."""

ANYONE: Final = "anyone"
"""A need that any other process can meet, as when a name is registered or room is given back."""
EVERYONE: Final = "everyone"
"""A need that is met when all other processes have come to their end."""
ANY: Final = "any"
ALL: Final = "all"

Need = Any
"""Whose doing can end a wait, as plain values:

- None: it ends by itself, or by something that is not known here;
- the 32 bytes of a Pid: that process, by what it does or by its end;
- `ANYONE`, `EVERYONE`;
- ``[ANY, need, ...]``: as soon as one of these is met; ``[ALL, need, ...]``: when all are.
"""

_MOST_TEXT = 400
_MOST_NEEDS = 200
_DEEPEST_NEED = 8
_HOLDERS_SHOWN = 5


class Wait(NamedTuple):
    """One operation that somebody waits for."""

    what: str
    """Such as ``recv from 689d4df``."""
    place: str
    """``file:line`` in the program, empty where it is not known."""
    since: float
    """Seconds since the epoch."""
    need: Need = None


class Waiter(NamedTuple):
    """One process, and what it waits for; no waits: it runs."""

    pid: Pid
    function: str
    waits: tuple[Wait, ...]
    is_endless: bool
    """Whether nothing but another process can end all of the waits."""
    state: str = ""
    """What else is known of it, such as ``is stopped``; empty: nothing."""
    notes: tuple[str, ...] = ()
    """More about its waits, one line each."""


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
    """Whether all processes wait, and none of them can be woken: then nobody is there who could begin."""
    if not waiters or not all(waiter.waits and waiter.is_endless for waiter in waiters):
        return False
    living = {waiter.pid.to_bytes() for waiter in waiters}
    return not any(_can_go_on(waiter, frozenset(), living) for waiter in waiters)


def who_may_wake(waiters: Sequence[Waiter]) -> set[Pid]:
    """The processes that run, or can still be woken by one that does.

    Args:
        waiters: All living processes; one that is not among them has ended.
    """
    living = {waiter.pid.to_bytes() for waiter in waiters}
    awake = {waiter.pid.to_bytes() for waiter in waiters if not waiter.waits or not waiter.is_endless}
    asleep = [waiter for waiter in waiters if waiter.pid.to_bytes() not in awake]
    while True:
        woken = [waiter for waiter in asleep if _can_go_on(waiter, awake, living)]
        if not woken:
            return {Pid.from_bytes(key) for key in awake}
        awake.update(waiter.pid.to_bytes() for waiter in woken)
        asleep = [waiter for waiter in asleep if waiter.pid.to_bytes() not in awake]


def _can_go_on(waiter: Waiter, awake: AbstractSet[bytes], living: AbstractSet[bytes]) -> bool:
    me = waiter.pid.to_bytes()
    return any(_can_be_met(wait.need, me, awake, living) for wait in waiter.waits)


def _can_be_met(need: Need, me: bytes, awake: AbstractSet[bytes], living: AbstractSet[bytes]) -> bool:
    match need:
        case None:
            return True
        case bytes():
            return need in awake or need not in living
        case str():
            others = len(awake) - (me in awake)
            return others > 0 if need == ANYONE else others == len(living) - (me in living)
        case [how, *needs]:
            met = (_can_be_met(each, me, awake, living) for each in needs)
            return any(met) if how == ANY else all(met)
    return True


def explain(waiters: Iterable[Waiter], now: float, stuck: Collection[Pid] = ()) -> list[str]:
    """One line for each wait, and for each process that runs; what belongs to it follows, indented.

    Args:
        waiters: The processes.
        now: Seconds since the epoch.
        stuck: Those that nothing can wake, where that is to be said of each.
    """
    lines = []
    for waiter in waiters:
        name = f"{waiter.pid} ({waiter.function})"
        if waiter.state:
            lines.append(f"{name} {waiter.state}")
        elif not waiter.waits:
            lines.append(f"{name} runs, or has waited for less than a moment")
        end = "; nothing can wake it" if waiter.pid in stuck else ""
        for wait in waiter.waits:
            place = f" at {wait.place}" if wait.place else ""
            lines.append(f"{name} waits in {wait.what}, since {max(0.0, now - wait.since):.1f} s{place}{end}")
        lines += [f"    {note}" for note in waiter.notes]
    return lines


def explain_demand(
    function: str, demand: Resources, capacity: Resources, holders: Sequence[tuple[Pid, Resources]]
) -> str:
    """Say what a spawn that is queued waits for, and who holds that.

    Args:
        function: What is to be spawned.
        demand: What it asks for.
        capacity: What there is.
        holders: Who holds what of it.
    """
    used: dict[str, int] = {}
    for _, held in holders:
        for name, amount in _amounts(held).items():
            used[name] = used.get(name, 0) + amount
    there = _amounts(capacity)
    missing = [name for name, amount in _amounts(demand).items() if amount > there.get(name, 0) - used.get(name, 0)]
    if not missing:
        return f"the spawn of {function} waits for {demand}, behind demands that came before it"
    wanted = []
    for name in missing:
        whole = there.get(name, 0)
        free = max(0, whole - used.get(name, 0))
        wanted.append(f"{_amount(name, _amounts(demand)[name])} ({_bare(name, free)} of {_bare(name, whole)} free)")
    holding = [(pid, _amounts(held)) for pid, held in holders]
    holding = [(pid, held) for pid, held in holding if any(held.get(name) for name in missing)]
    holding.sort(key=lambda each: [-each[1].get(name, 0) for name in missing])
    shown = [
        f"{pid} ({', '.join(_bare(name, held[name]) for name in missing if held.get(name))})"
        for pid, held in holding[:_HOLDERS_SHOWN]
    ]
    if len(holding) > _HOLDERS_SHOWN:
        shown.append(f"{len(holding) - _HOLDERS_SHOWN} more")
    by = f"; held by {_listed(shown)}" if shown else ""
    return f"the spawn of {function} waits for {_listed(wanted)}{by}"


def _amounts(resources: Resources) -> dict[str, int]:
    return {"mem": resources.mem, "cpu": resources.cpu_millionths, **dict(resources.custom_millionths)}


def _bare(name: str, amount: int) -> str:
    return format_mem(amount) if name == "mem" else format_amount(amount)


def _amount(name: str, amount: int) -> str:
    return f"{_bare(name, amount)} {'of memory' if name == 'mem' else name}"


def _listed(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else texts[0]


def to_fields(waits: Sequence[Wait]) -> list[Any]:
    """Plain values for a control message. The needs of waits beyond `MOST_WAITS` are told with the last one."""
    told = list(waits[:MOST_WAITS])
    if len(waits) > MOST_WAITS:
        told[-1] = told[-1]._replace(need=[ANY, *(wait.need for wait in waits[MOST_WAITS - 1 :])])
    return [
        [wait.what[:_MOST_TEXT], wait.place[-_MOST_TEXT:], wait.since, wait.need if _is_need(wait.need) else None]
        for wait in told
    ]


def from_fields(fields: list[Any]) -> tuple[Wait, ...]:
    """Read what `to_fields` gave.

    Raises:
        ValueError: The fields are not those of waits.
    """
    waits = []
    for field in fields[:MOST_WAITS]:
        if (
            not isinstance(field, list)
            or [type(value) for value in field[:3]] != [str, str, float]
            or len(field) != 4
            or not math.isfinite(field[2])
            or not _is_need(field[3])
        ):
            raise ValueError(f"cannot read a wait from {reprlib.repr(field)}: expected what, place, since, need")
        waits.append(Wait(*field))
    return tuple(waits)


def _is_need(need: Need) -> bool:
    """Whether something is a need within the limits. One above them is told as one that is not known."""
    level, count = [need], 0
    for _ in range(_DEEPEST_NEED):
        below: list[Any] = []
        for each in level:
            count += 1
            if type(each) is list:
                if not each or each[0] not in (ANY, ALL):
                    return False
                below += each[1:]
            elif not (each is None or each in (ANYONE, EVERYONE) or (type(each) is bytes and len(each) == PID_BYTES)):
                return False
        if not below:
            return True
        if count + len(below) > _MOST_NEEDS:
            return False
        level = below
    return False
