"""How a node leaves its fabric when it is asked to: it *drains* first. A machine without I/O.

    staying  --asked-->            draining   nothing more is placed here; what runs goes on, for at most the limit
    draining --limit over-->       ending     what still runs is asked to end, and has the grace time for it
    draining, ending --all over--> gone       the master is told, and the daemon ends
    any      --at once-->          gone       ... with what runs: a second wish, Ctrl-C, a terminal that went away

All is over when no process runs here any more and the master has what they wrote. So a node that runs nothing is gone at
once, and one whose master does not answer is gone when its time is over. `timeout`, shells and service managers may send
the same signal to the keeper and to the daemon: what comes within `SAME_WISH` is one wish.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple, TypeAlias

DRAIN_LIMIT: Final = 20.0
"""Seconds. With the grace time of five and what it takes to say so it is within the thirty that Kubernetes gives a
container and the ninety that systemd gives a service. Docker and Podman give ten, unless told otherwise."""

SAME_WISH: Final = 0.5
"""Seconds. A person, or a script that has lost its patience, takes longer for the second time."""

LAST_WORDS: Final = 2.0
"""Seconds beyond the grace time for the ends of what was killed to be told."""


class LeavingState(enum.Enum):
    """Where `Leaving` is."""

    STAYING = "staying"
    DRAINING = "draining"
    ENDING = "ending"
    GONE = "gone"


class Asked(NamedTuple):
    """Event: somebody wants the node to end."""

    reason: str
    """Such as "SIGTERM"."""
    at_once: bool


class Looked(NamedTuple):
    """Event: it was looked whether all is over. To be sent when that may have changed, and at `next_deadline`."""

    is_over: bool


LeavingEvent: TypeAlias = Asked | Looked


class Drain(NamedTuple):
    """Effect: have nothing more placed here."""

    reason: str
    limit: float


class AskAll(NamedTuple):
    """Effect: ask what still runs to end."""

    reason: str


class Leave(NamedTuple):
    """Effect: tell the master, and end with all that is left."""

    reason: str


LeavingEffect: TypeAlias = Drain | AskAll | Leave


class Leaving:
    """Decides when a node that is asked to end does so.

    Args:
        limit: Seconds for which what runs may go on; 0: it is asked to end at once.
        grace: Seconds between asking what runs to end, and its being killed.

    Attributes:
        state: Where it is.
        reason: Why; empty while it stays.
    """

    def __init__(self, limit: float, grace: float) -> None:
        self.state = LeavingState.STAYING
        self.reason = ""
        self._limit = limit
        self._grace = grace
        self._asked_at = 0.0
        self._deadline: float | None = None

    def next_deadline(self) -> float | None:
        """When it is to be looked again even if nothing has happened; None: not before something happens."""
        return self._deadline

    def left(self, now: float) -> float:
        """Seconds until the next state comes by itself; 0 where none does."""
        return 0.0 if self._deadline is None else max(0.0, self._deadline - now)

    def step(self, event: LeavingEvent, now: float) -> list[LeavingEffect]:
        """Take an event.

        Args:
            event: What has happened.
            now: Seconds, on a clock that does not go back.

        Returns:
            What to do, in this order.
        """
        match event:
            case Asked(reason, at_once):
                return self._asked(reason, now, at_once=at_once)
            case Looked(is_over):
                return self._looked(now, is_over=is_over)

    def _asked(self, reason: str, now: float, *, at_once: bool) -> list[LeavingEffect]:
        if self.state is LeavingState.GONE:
            return []
        if self.state is not LeavingState.STAYING and not at_once and now - self._asked_at < SAME_WISH:
            return []
        self.reason = self.reason or reason
        if at_once or self.state is not LeavingState.STAYING:
            return self._go()
        self._asked_at = now
        self.state = LeavingState.DRAINING
        self._deadline = now + self._limit
        return [Drain(reason, self._limit)]

    def _looked(self, now: float, *, is_over: bool) -> list[LeavingEffect]:
        if self.state not in {LeavingState.DRAINING, LeavingState.ENDING}:
            return []
        if is_over:
            return self._go()
        if self._deadline is None or now < self._deadline:
            return []
        if self.state is LeavingState.ENDING:
            return self._go()
        self.state = LeavingState.ENDING
        self._deadline = now + self._grace + LAST_WORDS
        return [AskAll(self.reason)]

    def _go(self) -> list[LeavingEffect]:
        self.state = LeavingState.GONE
        self._deadline = None
        return [Leave(self.reason)]
