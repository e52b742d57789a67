"""The fabric's side of "why does it wait?": what each process has told, shown on request and when all stand still."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from constellation.core import why
from constellation.core.resources import Resources
from constellation.core.why import Standstill, Wait, Waiter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from constellation.core.messages import LongWaits
    from constellation.core.pid import Pid
    from constellation.fabric.books import Member
    from constellation.fabric.loop import Loop, Timer

SHOWN = "what the processes wait for:"
_STANDSTILL = "all processes wait, and nothing can wake them (Ctrl-C ends them):"


class Queue(NamedTuple):
    """The spawns of one process that are queued, and what they wait for."""

    wanted: Sequence[tuple[str, Resources]]
    capacity: Resources
    holders: Sequence[tuple[Pid, Resources]]


class Book(Protocol):
    """What is known of the processes of a deployment: the coordinator."""

    @property
    def living(self) -> list[Member]: ...

    @property
    def count(self) -> int:
        """How many live."""
        ...

    def queue_of(self, member: Member) -> Queue | None:
        """The spawns of a process that are queued."""
        ...


class Why:
    """What the processes of a deployment wait for.

    Args:
        loop: For the time after which a standstill is said.
        book: Knows the processes.
        look: Gives what can be seen of the processes from outside (`fabric/sight.py`): what is true of the whole, and for
            each process its state in words, empty where there is nothing to say.
        say: Writes one line to our stderr.
    """

    def __init__(
        self,
        loop: Loop,
        book: Book,
        look: Callable[[], tuple[list[str], dict[bytes, str]]],
        say: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._book = book
        self._look_from_outside = look
        self._say = say
        self._told: dict[bytes, tuple[tuple[Wait, ...], bool]] = {}
        self._standstill = Standstill()
        self._timer: Timer | None = None

    def told(self, process: Member, message: LongWaits) -> None:
        """A process has told what it waits for; nothing: it goes on.

        Raises:
            ValueError: The message does not hold waits.
        """
        waits = why.from_fields(message.waits)
        if waits:
            self._told[process.key] = (waits, message.endless)
        else:
            self._told.pop(process.key, None)
        self.changed()

    def changed(self) -> None:
        """A process has begun, ended, or told something else: look anew from here on."""
        self._standstill.restart()
        self._look()

    def _look(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        count = self._book.count
        if len(self._told) > count:
            living = {member.key for member in self._book.living}
            self._told = {key: told for key, told in self._told.items() if key in living}
        if not count or len(self._told) < count:
            return  # somebody runs: that is all that is asked in a program that is busy
        members = self._book.living
        is_quiet = all(member.is_ready and not member.is_asked for member in members)
        if self._standstill.step(self._waiters(members), is_quiet=is_quiet, now=self._loop.now()):
            self.show(_STANDSTILL)
        deadline = self._standstill.next_deadline()
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._look)

    def _waiters(self, members: list[Member]) -> list[Waiter]:
        return [Waiter(member.pid, member.function, *self._told.get(member.key, ((), False))) for member in members]

    def lines(self, title: str = SHOWN) -> list[str]:
        """What each process waits for, on whom, since when and where, under a title."""
        members = self._book.living
        told = self._waiters(members)
        # Who has not begun, or is being ended, may still do anything.
        surely = [
            waiter if member.is_ready and not member.is_asked else waiter._replace(is_endless=False)
            for member, waiter in zip(members, told, strict=True)
        ]
        awake = why.who_may_wake(surely)
        stuck = [] if title == _STANDSTILL else [waiter.pid for waiter in told if waiter.pid not in awake]
        whole, states = self._look_from_outside()
        shown = [
            waiter._replace(state=_state(member, states.get(member.key, "")), notes=self._notes(member))
            for member, waiter in zip(members, told, strict=True)
        ]
        lines = [*whole, *why.explain(shown, time.time(), stuck)]
        return [f"constellation: {title}", *(f"    {line}" for line in lines)]

    def show(self, title: str = SHOWN) -> None:
        """Write to our stderr what each process waits for."""
        self._say("".join(f"{line}\n" for line in self.lines(title)))

    def _notes(self, member: Member) -> tuple[str, ...]:
        queue = self._book.queue_of(member)
        if queue is None:
            return ()
        texts = [
            why.explain_demand(function, demand, queue.capacity, queue.holders) for function, demand in queue.wanted
        ]
        different = list(dict.fromkeys(texts))
        more = len(texts) - len(different)
        return (*different, *([f"and {more} more spawns wait for the same"] if more else ()))


def _state(member: Member, seen: str) -> str:
    """What is known of a process besides its waits, as the end of a sentence."""
    parts = [seen] if seen else []
    if not member.is_ready:
        parts.append("is being started")
    elif member.is_asked:
        parts.append("has been asked to end")
    if member.draining:
        parts.append(f"is {member.draining}")
    return " and ".join(parts)
