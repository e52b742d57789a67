"""Drives the leaving of a node (`core/leaving.py`): looks whether all is over, and does what the machine says."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from constellation.core.leaving import AskAll, Asked, Drain, Leave, Leaving, LeavingEffect, LeavingState, Looked
from constellation.core.settings import GRACE

if TYPE_CHECKING:
    from constellation.fabric.daemon import NodeDaemon
    from constellation.fabric.journal import Log
    from constellation.fabric.loop import Loop, Timer


class Departure:
    """How one node leaves.

    Args:
        loop: The daemon's loop.
        node: The node.
        limit: Seconds for which what runs may go on.
        log: Writes one line.
        on_change: Called when something more is to be told of it.
        on_gone: Called once: the master has been told, and the daemon may end.
    """

    def __init__(
        self,
        loop: Loop,
        node: NodeDaemon,
        limit: float,
        log: Log,
        on_change: Callable[[], None],
        on_gone: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._node = node
        self._log = log
        self._on_change = on_change
        self._on_gone = on_gone
        self._leaving = Leaving(limit, GRACE)
        self._timer: Timer | None = None

    @property
    def is_staying(self) -> bool:
        """Whether nobody has asked it to leave."""
        return self._leaving.state is LeavingState.STAYING

    def asked(self, reason: str, *, at_once: bool) -> None:
        """Somebody wants the node to end."""
        self._carry_out(self._leaving.step(Asked(reason, at_once), self._loop.now()))
        self.look()

    def look(self) -> None:
        """Go on, if that can be. To be called after each turn of the loop."""
        state = self._leaving.state
        if state is LeavingState.STAYING or state is LeavingState.GONE:
            return
        if state is LeavingState.ENDING:
            self._node.ask_all()
        is_over = self._node.is_drained
        self._carry_out(self._leaving.step(Looked(is_over), self._loop.now()))

    def _carry_out(self, effects: list[LeavingEffect]) -> None:
        for effect in effects:
            match effect:
                case Drain(reason, limit):
                    count = self._node.count
                    if count:
                        self._log(
                            f"drains, because of {reason}: nothing more is placed here, and {_processes(count)} may go on "
                            f"for {limit:g} s; a second {reason} or Ctrl-C ends it at once"
                        )
                    self._node.drain(reason)
                case AskAll(reason):
                    self._log(f"asks {_processes(self._node.count)} to end: the time to drain is over")
                    self._node.ask_all(f"the stop of its node ({reason})")
                case Leave(reason):
                    self._log(f"ends, because of {reason}")
                    self._node.leave(f"it was stopped ({reason})")
                    self._on_gone()
        if effects:
            self._arm()
            self._on_change()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._leaving.next_deadline()
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self.look)

    def describe(self) -> str:
        """Where it is, for a status line; empty while nobody has asked it to leave."""
        left = self._leaving.left(self._loop.now())
        match self._leaving.state:
            case LeavingState.STAYING:
                return ""
            case LeavingState.DRAINING:
                return f"draining ({self._leaving.reason}): {_processes(self._node.count)}, at most {left:.0f} s more"
            case LeavingState.ENDING:
                return f"ending ({self._leaving.reason}): {_processes(self._node.count)} asked to end"
            case LeavingState.GONE:
                return f"ended ({self._leaving.reason})"


def _processes(count: int) -> str:
    return f"{count} process{'' if count == 1 else 'es'}"
