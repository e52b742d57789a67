"""The node's side of "why does it wait?": what each process has told, shown on request and when all stand still."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from constellation.core import why
from constellation.core.why import Standstill, Wait, Waiter

if TYPE_CHECKING:
    from constellation.core.messages import LongWaits
    from constellation.fabric.books import Member
    from constellation.fabric.loop import Loop, Timer


class Why:
    """What the processes of a deployment wait for.

    Args:
        loop: For the time after which a standstill is said.
        living: Gives the living processes.
        say: Writes one line to our stderr.
    """

    def __init__(self, loop: Loop, living: Callable[[], list[Member]], say: Callable[[str], None]) -> None:
        self._loop = loop
        self._living = living
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
        if self._told:
            living = {process.key for process in self._living()}
            self._told = {key: told for key, told in self._told.items() if key in living}
        self._standstill.restart()
        self._look()

    def _look(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        processes = self._living()
        is_quiet = all(process.is_ready and not process.is_asked for process in processes)
        if self._standstill.step(self._waiters(), is_quiet=is_quiet, now=self._loop.now()):
            self.show("all processes wait, and nothing can wake them (Ctrl-C ends them):")
        deadline = self._standstill.next_deadline()
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._look)

    def _waiters(self) -> list[Waiter]:
        return [
            Waiter(process.pid, process.function, *self._told.get(process.key, ((), False)))
            for process in self._living()
        ]

    def show(self, title: str = "what the processes wait for:") -> None:
        """Write to our stderr what each process waits for, on whom, since when and where."""
        self._say(f"constellation: {title}\n")
        for line in why.explain(self._waiters(), time.time()):
            self._say(f"    {line}\n")
