"""What a supervisor does when a child ends; a machine without I/O, after Erlang/OTP's supervisor.

A supervisor starts its children in order and keeps them running. What follows an end is a table (`RESTARTS`): of how the
child is to be restarted, and of how it ended. Whom a restart concerns is the strategy:

    one_for_one     the child that ended
    one_for_all     all: the others are stopped in reverse order, then all are started in order
    rest_for_one    the child that ended and those after it, in the same way

More than ``intensity`` restarts within ``period`` seconds, and the supervisor gives up: it stops its children in reverse
order, and ends with a failure, for its own supervisor to see. So it does where a child cannot be started at the
beginning. A restart that fails is tried again, and counts again; but first it goes to the end of the queue (`Requeue`),
so that a shutdown that waits there overtakes it.

    NEW --Begin--> STARTING --all have started--> RUNNING --Shutdown, too many restarts, auto_shutdown--> STOPPING --> ENDED
                   STARTING --Shutdown, a start failed--> STOPPING

The machine does one thing at a time, like a process with a mailbox: one child is being started, or one is being stopped.
Ends of other children wait meanwhile. `Shutdown` does not wait: it withdraws a start that is under way.

The driver's duties: do the effects in order; give the end of every process that has started as `Ended`, once, also of
one that it was told to stop; answer each `Start` with one `Started` or `NotStarted`, also after `CancelStart`; put what
is in `Requeue` behind the events that wait.

Of OTP's behaviour there is not: simple_one_for_one, and children that are added while it runs. What OTP calls shutdown
is here an end by SIGTERM (exit code 143, or the signal itself), and what it calls noproc and noconnection is an end of
which nothing is known.

Source: lib/stdlib/src/supervisor.erl and its manual page, OTP 27.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from constellation.core.childspec import AutoShutdown, ChildSpec, Strategy
from constellation.core.pid import Pid
from constellation.core.status import ExitStatus

# How a child ended, and what follows


class End(enum.Enum):
    """How a process ended, as far as it matters here."""

    NORMAL = "normal"
    """With exit code 0."""
    ASKED = "asked"
    """By SIGTERM, from whomever: it was to end."""
    CRASHED = "crashed"
    """With another code, or by another signal."""
    LOST = "lost"
    """Nothing is known."""


def end_of(status: ExitStatus) -> End:
    """How a process ended."""
    if status.code == 0:
        return End.NORMAL
    if status.code == 143 or status.signal == "SIGTERM":
        return End.ASKED
    return End.LOST if status.code is None and status.signal is None else End.CRASHED


RESTARTS: dict[tuple[str, End], bool] = {
    ("permanent", End.NORMAL): True,
    ("permanent", End.ASKED): True,
    ("permanent", End.CRASHED): True,
    ("permanent", End.LOST): True,
    ("transient", End.NORMAL): False,
    ("transient", End.ASKED): False,
    ("transient", End.CRASHED): True,
    ("transient", End.LOST): True,
    ("temporary", End.NORMAL): False,
    ("temporary", End.ASKED): False,
    ("temporary", End.CRASHED): False,
    ("temporary", End.LOST): False,
}
"""Whether a child that ended by itself is restarted."""

# Events


class Begin(NamedTuple):
    """Start the children."""


class Started(NamedTuple):
    """A child runs."""

    child: str
    pid: Pid


class NotStarted(NamedTuple):
    """A child could not be started, or its start was withdrawn."""

    child: str
    reason: str
    status: ExitStatus | None = None


class Ended(NamedTuple):
    """A process of a child has ended."""

    child: str
    pid: Pid
    status: ExitStatus


class Retry(NamedTuple):
    """Try again to restart a child; comes back from `Requeue`."""

    child: str


class Shutdown(NamedTuple):
    """Stop all children, and end."""


Event: TypeAlias = Begin | Started | NotStarted | Ended | Retry | Shutdown

# Effects


class Start(NamedTuple):
    """Start a process of a child."""

    child: str


class CancelStart(NamedTuple):
    """Withdraw a start that is under way, as far as that is still possible."""

    child: str


class Stop(NamedTuple):
    """Ask the process of a child to end, wait, kill it."""

    child: str
    pid: Pid
    grace: float | None


class Requeue(NamedTuple):
    """Give this event back, after those that wait."""

    event: Event


class Report(NamedTuple):
    """Tell the user. ``context`` is one of those of OTP."""

    context: Literal["child_terminated", "start_error", "shutdown_error", "shutdown"]
    child: str
    pid: Pid | None
    text: str


class AllStarted(NamedTuple):
    """All children have been started for the first time."""


class Finished(NamedTuple):
    """All children have ended; ``failure`` says why the supervisor has given up, None that it has not."""

    failure: Failure | None


class Failure(NamedTuple):
    """Why a supervisor has given up."""

    child: str
    reason: str
    status: ExitStatus | None


Effect: TypeAlias = Start | CancelStart | Stop | Requeue | Report | AllStarted | Finished


class Phase(enum.Enum):
    """Where a supervisor is."""

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


class ChildState(enum.Enum):
    """Where a child is."""

    IDLE = "idle"
    """It has no process: it was not started yet, was stopped, or has ended and is not restarted."""
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    DEAD = "dead"
    """Its process has ended; that has not been dealt with yet."""
    RESTARTING = "restarting"
    """Its restart has failed and will be tried again."""


class Child:
    """A child of a supervisor."""

    __slots__ = ("pid", "spec", "state")

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.state = ChildState.IDLE
        self.pid: Pid | None = None

    def __repr__(self) -> str:
        return f"<Child {self.spec.id!r} {self.state.value}>"


class Supervision:
    """The decisions of one supervisor.

    Args:
        children: In the order of their start.
        strategy: Whom a restart concerns.
        intensity: How many restarts are allowed within ``period``.
        period: Seconds.
        auto_shutdown: Whether the end of any significant child, or of the last one, ends the supervisor.

    Attributes:
        phase: Where it is.
        children: Those that it still has, in the order of their start.
    """

    def __init__(
        self,
        children: Sequence[ChildSpec],
        *,
        strategy: Strategy = "one_for_one",
        intensity: int = 1,
        period: float = 5.0,
        auto_shutdown: AutoShutdown = "never",
    ) -> None:
        self.phase = Phase.NEW
        self.children = [Child(spec) for spec in children]
        self._strategy = strategy
        self._intensity = intensity
        self._period = period
        self._auto_shutdown = auto_shutdown
        self._restarts: list[float] = []
        self._to_stop: list[Child] = []
        self._to_start: list[Child] = []
        self._deferred: deque[Ended | Retry] = deque()
        self._failure: Failure | None = None

    def step(self, event: Event, *, now: float) -> list[Effect]:
        """Take one event.

        Args:
            event: What has happened.
            now: Seconds of any clock that does not go back.

        Returns:
            What to do, in order.
        """
        effects: list[Effect] = []
        match event:
            case Begin():
                if self.phase is Phase.NEW:
                    self.phase = Phase.STARTING
                    self._to_start = list(self.children)
                    self._go_on(now, effects)
            case Started(name, pid):
                child = self._child(name)
                if child is not None and child.state is ChildState.STARTING:
                    child.state, child.pid = ChildState.RUNNING, pid
                    self._go_on(now, effects)
            case NotStarted(name, reason, status):
                child = self._child(name)
                if child is not None and child.state is ChildState.STARTING:
                    child.state = ChildState.IDLE
                    self._not_started(child, reason, status, effects)
                    self._go_on(now, effects)
            case Ended(name, pid, status):
                child = self._child(name)
                if child is not None and child.pid == pid and child.state is not ChildState.DEAD:
                    self._ended(child, event, effects)
                    self._go_on(now, effects)
            case Retry():
                if self.phase is Phase.RUNNING:
                    self._deferred.append(event)
                    self._go_on(now, effects)
            case Shutdown():
                if self.phase is Phase.NEW:
                    self.phase = Phase.ENDED
                    effects.append(Finished(None))
                elif self.phase not in {Phase.STOPPING, Phase.ENDED}:
                    self._stop_all(None, effects)
                    self._go_on(now, effects)
        return effects

    def _child(self, name: str) -> Child | None:
        return next((child for child in self.children if child.spec.id == name), None)

    def _go_on(self, now: float, effects: list[Effect]) -> None:
        """Stop and start what is to be stopped and started, until that needs an answer or all is done."""
        while True:
            if self._to_stop:
                child = self._to_stop[0]
                if child.state is ChildState.RUNNING:
                    assert child.pid is not None
                    child.state = ChildState.STOPPING
                    effects.append(Stop(child.spec.id, child.pid, child.spec.shutdown))
                if child.state in {ChildState.STOPPING, ChildState.STARTING}:
                    return
                del self._to_stop[0]
                self._settle(child)
                if child.spec.restart == "temporary":
                    self.children.remove(child)
            elif self._to_start:
                child = self._to_start[0]
                if child.state is ChildState.RUNNING:
                    del self._to_start[0]
                    continue
                if child.state is not ChildState.STARTING:
                    child.state = ChildState.STARTING
                    effects.append(Start(child.spec.id))
                return
            elif self.phase is Phase.STOPPING:
                self.phase = Phase.ENDED
                effects.append(Finished(self._failure))
                return
            elif self.phase is Phase.STARTING:
                self.phase = Phase.RUNNING
                effects.append(AllStarted())
            elif self._deferred:
                self._take_up(self._deferred.popleft(), now, effects)
            else:
                return

    @staticmethod
    def _settle(child: Child) -> None:
        child.state, child.pid = ChildState.IDLE, None

    def _not_started(self, child: Child, reason: str, status: ExitStatus | None, effects: list[Effect]) -> None:
        if self.phase is Phase.STOPPING:
            return
        effects.append(Report("start_error", child.spec.id, None, reason))
        if self.phase is Phase.STARTING:
            self._stop_all(Failure(child.spec.id, f"it could not be started: {reason}", status), effects)
            return
        child.state = ChildState.RESTARTING
        self._to_start.clear()  # they are started with the next try
        effects.append(Requeue(Retry(child.spec.id)))

    def _ended(self, child: Child, event: Ended, effects: list[Effect]) -> None:
        if child.state is ChildState.STOPPING or child in self._to_stop:
            was_asked = child.state is ChildState.STOPPING
            self._settle(child)
            if not _is_wanted(event.status, child.spec, was_asked=was_asked):
                effects.append(Report("shutdown_error", child.spec.id, event.pid, event.status.describe()))
            return
        child.state = ChildState.DEAD
        self._deferred.append(event)

    def _take_up(self, event: Ended | Retry, now: float, effects: list[Effect]) -> None:
        """Deal with an end, or a retry, while nothing is being done."""
        child = self._child(event.child)
        if child is None:
            return
        if isinstance(event, Retry):
            if child.state is ChildState.RESTARTING:
                self._restart(child, None, now, effects)
            return
        if child.state is not ChildState.DEAD or child.pid != event.pid:
            return  # it has been restarted with another one meanwhile
        self._settle(child)
        end = end_of(event.status)
        is_restarted = RESTARTS[child.spec.restart, end]
        if is_restarted or end not in {End.NORMAL, End.ASKED}:
            effects.append(Report("child_terminated", child.spec.id, event.pid, event.status.describe()))
        if is_restarted:
            self._restart(child, event.status, now, effects)
            return
        if child.spec.restart == "temporary":
            self.children.remove(child)
        if child.spec.significant and self._is_over():
            self._stop_all(None, effects)

    def _is_over(self) -> bool:
        if self._auto_shutdown == "all_significant":
            return not any(child.spec.significant and child.state is not ChildState.IDLE for child in self.children)
        return self._auto_shutdown == "any_significant"

    def _restart(self, child: Child, status: ExitStatus | None, now: float, effects: list[Effect]) -> None:
        self._settle(child)
        self._restarts = [then for then in self._restarts if now <= then + self._period] + [now]
        if len(self._restarts) > self._intensity:
            how = "it cannot be started" if status is None else status.describe()
            reason = (
                f"{how}; {len(self._restarts)} restart{'s' if len(self._restarts) > 1 else ''} within {self._period:g} s "
                f"would be more than {self._intensity}"
            )
            effects.append(Report("shutdown", child.spec.id, None, reason))
            self._stop_all(Failure(child.spec.id, reason, status), effects)
            return
        at = self.children.index(child)
        if self._strategy == "one_for_one":
            concerned, started = [], [child]
        elif self._strategy == "rest_for_one":
            concerned = self.children[at + 1 :]
            started = self.children[at:]
        else:
            concerned = [each for each in self.children if each is not child]
            started = list(self.children)
        self._to_stop = concerned[::-1]
        self._to_start = [each for each in started if each.spec.restart != "temporary"]

    def _stop_all(self, failure: Failure | None, effects: list[Effect]) -> None:
        self.phase = Phase.STOPPING
        self._failure = failure
        self._deferred.clear()
        self._to_start.clear()
        self._to_stop = self.children[::-1]
        effects.extend(CancelStart(child.spec.id) for child in self._to_stop if child.state is ChildState.STARTING)

    def check(self) -> None:
        """Assert what always holds. For tests."""
        for child in self.children:
            has_process = child.state in {ChildState.RUNNING, ChildState.STOPPING, ChildState.DEAD}
            assert (child.pid is not None) == has_process, child
        changing = [each for each in self.children if each.state in {ChildState.STARTING, ChildState.STOPPING}]
        # A start that has been withdrawn may be answered while others are being stopped.
        assert len(changing) <= (2 if self.phase is Phase.STOPPING else 1), changing
        is_busy = bool(self._to_stop or self._to_start)
        assert is_busy == (self.phase in {Phase.STARTING, Phase.STOPPING}) or self.phase is Phase.RUNNING
        assert bool(changing) <= is_busy, "what is being changed is on a list"
        assert is_busy or not self._deferred, "what waits, waits for something"
        assert self.phase is Phase.STOPPING or len(self._restarts) <= self._intensity or self.phase is Phase.ENDED
        if self.phase is Phase.ENDED:
            assert all(child.state is ChildState.IDLE for child in self.children), self.children


def _is_wanted(status: ExitStatus, spec: ChildSpec, *, was_asked: bool) -> bool:
    """Whether a child that was to be stopped has ended as one would wish."""
    if end_of(status) in {End.NORMAL, End.ASKED}:
        return True
    return was_asked and spec.shutdown == 0 and status.signal == "SIGKILL"
