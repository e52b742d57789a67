"""Supervision against the documented behaviour of OTP: the table of restarts, the strategies, the limits, the orders."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core.childspec import ChildSpec
from constellation.core.pid import Pid
from constellation.core.status import ExitStatus
from constellation.core.supervision import (
    RESTARTS,
    AllStarted,
    Begin,
    CancelStart,
    Effect,
    End,
    Ended,
    Event,
    Finished,
    NotStarted,
    Phase,
    Report,
    Requeue,
    Retry,
    Shutdown,
    Start,
    Started,
    Stop,
    Supervision,
    end_of,
)

ENDS: dict[End, tuple[int | None, str | None]] = {
    End.NORMAL: (0, None),
    End.ASKED: (143, None),
    End.CRASHED: (1, None),
    End.LOST: (None, None),
}
STRATEGIES = ("one_for_one", "one_for_all", "rest_for_one")


def fn() -> None:
    """What children run, if they were run."""


def status(pid: Pid, end: End) -> ExitStatus:
    return ExitStatus(pid, *ENDS[end])


class World:
    """A driver that does at once what the machine says, and writes it down: "+a" is a start of a, "-a" its stop."""

    def __init__(self, specs: list[ChildSpec], **flags: Any) -> None:
        self.machine = Supervision(specs, **flags)
        self.now = 0.0
        self.log: list[str] = []
        self.reports: list[Report] = []
        self.pids: dict[str, Pid] = {}
        self.count = 0
        self.refused: list[str] = []
        """Children whose next starts fail."""
        self.held: set[str] = set()
        """Children whose starts and stops are not answered."""
        self.finished: Finished | None = None
        self.queue: list[Event] = [Begin()]

    def tell(self, *events: Event) -> list[str]:
        """Put events in the queue, work it off; what was done, in order."""
        self.log = []
        self.queue += events
        while self.queue:
            for effect in self.machine.step(self.queue.pop(0), now=self.now):
                self.do(effect)
            self.machine.check()
        return self.log

    def do(self, effect: Effect) -> None:
        match effect:
            case Start(child):
                self.log.append(f"+{child}")
                if child in self.held:
                    return
                if child in self.refused:
                    self.refused.remove(child)
                    self.queue.insert(0, NotStarted(child, "no room"))
                else:
                    self.queue.insert(0, self.started(child))
            case Stop(child, pid, _):
                self.log.append(f"-{child}")
                if child not in self.held:
                    self.queue.insert(0, Ended(child, pid, status(pid, End.NORMAL)))
            case CancelStart(child):
                self.log.append(f"cancel {child}")
            case Requeue(event):
                self.queue.append(event)
            case Report():
                self.reports.append(effect)
            case AllStarted():
                self.log.append("all")
            case Finished(failure):
                assert self.finished is None
                self.finished = effect
                self.log.append("end" if failure is None else f"failed {failure.child}")

    def started(self, child: str) -> Started:
        self.count += 1
        self.pids[child] = pid = Pid(1, self.count, bytes(16))
        return Started(child, pid)

    def end(self, child: str, end: End = End.CRASHED) -> list[str]:
        """A child ends by itself."""
        return self.tell(self.ended(child, end))

    def ended(self, child: str, end: End = End.CRASHED) -> Ended:
        return Ended(child, self.pids[child], status(self.pids[child], end))


def children(*restarts: str, **more: Any) -> list[ChildSpec]:
    """Children a, b, c, ... with these kinds of restart."""
    return [ChildSpec("abcdefgh"[at], fn, restart=kind, **more) for at, kind in enumerate(restarts)]  # type: ignore[arg-type]


# The table


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("end", End)
@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
def test_table_of_otp(restart: str, end: End, strategy: str) -> None:
    """Permanent: always; transient: after a bad end; temporary: never. Who is concerned is the strategy's."""
    world = World(children("permanent", restart, "permanent"), strategy=strategy)
    assert world.tell() == ["+a", "+b", "+c", "all"]
    restarted = restart == "permanent" or (restart == "transient" and end in {End.CRASHED, End.LOST})
    expected = {
        "one_for_one": ["+b"],
        "one_for_all": ["-c", "-a", "+a", "+b", "+c"],
        "rest_for_one": ["-c", "+b", "+c"],
    }
    assert world.end("b", end) == (expected[strategy] if restarted else [])
    kept = [child.spec.id for child in world.machine.children]
    assert kept == (["a", "c"] if restart == "temporary" else ["a", "b", "c"])
    assert RESTARTS[restart, end] == restarted


@pytest.mark.parametrize(
    ("code", "signal", "end"),
    [
        (0, None, End.NORMAL),
        (143, None, End.ASKED),
        (None, "SIGTERM", End.ASKED),
        (1, None, End.CRASHED),
        (130, None, End.CRASHED),
        (None, "SIGKILL", End.CRASHED),
        (None, "SIGSEGV", End.CRASHED),
        (None, None, End.LOST),
    ],
)
def test_how_a_process_ended(code: int | None, signal: str | None, end: End) -> None:
    """SIGTERM is what OTP calls shutdown, whether the program took it as an exit or not at all."""
    assert end_of(ExitStatus(Pid(1, 1, bytes(16)), code, signal)) is end


def test_reports_of_ends() -> None:
    """A bad end is reported, and each restart; the good end of one that is not restarted is not."""
    world = World(children("permanent", "transient", "temporary"), intensity=9)
    world.tell()
    world.end("a", End.NORMAL)
    world.end("b", End.NORMAL)
    world.end("c", End.CRASHED)
    assert [(each.context, each.child) for each in world.reports] == [
        ("child_terminated", "a"),
        ("child_terminated", "c"),
    ]


# Strategies


def test_one_for_all_starts_again_what_had_ended_well() -> None:
    """As OTP does: all children that it still has are started; temporary ones are stopped and forgotten."""
    world = World(children("permanent", "transient", "temporary", "permanent"), strategy="one_for_all")
    world.tell()
    assert world.end("b", End.NORMAL) == []
    assert world.end("d") == ["-c", "-a", "+a", "+b", "+d"]


def test_rest_for_one_leaves_the_earlier_ones() -> None:
    """The first one concerns all, the last one itself."""
    world = World(children(*["permanent"] * 4), strategy="rest_for_one", intensity=9)
    world.tell()
    assert world.end("d") == ["+d"]
    assert world.end("a") == ["-d", "-c", "-b", "+a", "+b", "+c", "+d"]


def test_ends_wait_while_something_is_done() -> None:
    """The end of another child is dealt with after the restart that is under way, in the order of the ends."""
    world = World(children(*["permanent"] * 3), intensity=9)
    world.tell()
    world.held = {"a"}
    assert world.end("a") == ["+a"]
    assert world.end("c") == []
    assert world.end("b") == []
    assert world.tell(world.started("a")) == ["+c", "+b"]


def test_an_end_that_a_group_restart_has_overtaken_is_not_dealt_with_again() -> None:
    """The one that ended meanwhile has been replaced by then."""
    world = World(children(*["permanent"] * 3), strategy="one_for_all", intensity=1)
    world.tell()
    world.held = {"c"}
    assert world.end("a") == ["-c"]
    b = world.ended("b")
    assert world.tell(b) == []
    assert world.tell(world.ended("c", End.NORMAL)) == ["+a", "+b", "+c"]
    world.held = set()
    assert world.tell(world.started("c")) == []
    assert world.tell(b) == []
    assert [child.pid for child in world.machine.children] == [world.pids[each] for each in "abc"]


def test_of_two_that_end_in_the_middle_of_a_group_restart_the_first_concerns_both() -> None:
    """The second one has been replaced when its turn comes."""
    world = World(children(*["permanent"] * 3), strategy="one_for_all", intensity=2)
    world.tell()
    world.held = {"c"}
    assert world.end("b") == ["-c"]
    assert world.tell(world.ended("c", End.NORMAL)) == ["-a", "+a", "+b", "+c"]
    world.held = set()
    world.tell(world.ended("b"), world.ended("a"))
    assert world.tell(world.started("c")) == ["-c", "+a", "+b", "+c"]
    assert world.machine.phase is Phase.RUNNING
    assert repr(world.machine.children[0]) == "<Child 'a' running>"


def test_what_dies_in_the_middle_of_a_group_restart_counts_afterwards() -> None:
    """A child that was started again and ends while the next one starts."""
    world = World(children(*["permanent"] * 2), strategy="one_for_all", intensity=2)
    world.tell()
    world.held = {"b"}
    assert world.end("b") == ["-a", "+a", "+b"]
    assert world.end("a") == []
    assert world.tell(world.started("b")) == ["-b"]


# Intensity and period


@pytest.mark.parametrize("intensity", [0, 1, 3])
def test_more_than_intensity_restarts_within_period(intensity: int) -> None:
    """So many are allowed, and with the next one it gives up, stopping in reverse order."""
    world = World(children(*["permanent"] * 3), intensity=intensity, period=5.0)
    world.tell()
    for _ in range(intensity):
        assert world.end("b") == ["+b"]
    assert world.end("b") == ["-c", "-a", "failed b"]
    assert world.finished is not None and world.finished.failure is not None
    assert world.finished.failure.status == status(world.pids["b"], End.CRASHED)
    assert f"would be more than {intensity}" in world.finished.failure.reason
    assert world.reports[-1].context == "shutdown"
    assert world.tell(Shutdown(), Retry("b"), Begin()) == []


def test_the_window_slides() -> None:
    """A restart counts for ``period`` seconds, its last instant included."""
    world = World(children("permanent"), intensity=2, period=5.0)
    world.tell()
    for at, expected in ((0, ["+a"]), (4, ["+a"]), (5.001, ["+a"]), (9.1, ["+a"]), (10.001, ["failed a"])):
        world.now = at
        assert world.end("a") == expected, at


def test_restarts_of_all_children_count_together() -> None:
    """The limit is the supervisor's, not each child's."""
    world = World(children("permanent", "permanent"), intensity=1)
    world.tell()
    assert world.end("a") == ["+a"]
    assert world.end("b") == ["-a", "failed b"]


def test_ends_without_a_restart_do_not_count() -> None:
    """Neither good ends of transient children nor any of temporary ones."""
    world = World(children("transient", "temporary", "permanent"), intensity=0)
    world.tell()
    assert world.end("a", End.NORMAL) == world.end("b") == []
    assert world.machine.phase is Phase.RUNNING


# Starts that fail


def test_a_start_that_fails_at_the_beginning_is_a_failure() -> None:
    """What has been started is stopped in reverse order; nothing is tried again."""
    world = World(children(*["permanent"] * 4), intensity=9)
    world.refused = ["c"]
    assert world.tell() == ["+a", "+b", "+c", "-b", "-a", "failed c"]
    assert world.finished is not None and world.finished.failure is not None
    assert world.finished.failure.reason == "it could not be started: no room"


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("one_for_one", ["+b", "+b"]),
        ("rest_for_one", ["-d", "-c", "+b", "+b", "+c", "+d"]),
        ("one_for_all", ["-d", "-c", "-a", "+a", "+b", "-a", "+a", "+b", "+c", "+d"]),
    ],
)
def test_a_restart_that_fails_is_tried_again(strategy: str, expected: list[str]) -> None:
    """And counts again; with one_for_all what had been started for it is stopped once more."""
    world = World(children(*["permanent"] * 4), strategy=strategy, intensity=2)
    world.tell()
    world.refused = ["b"]
    assert world.end("b") == expected


def test_a_restart_that_never_succeeds_ends_the_supervisor() -> None:
    """Each try counts."""
    world = World(children("permanent", "permanent"), intensity=3)
    world.tell()
    world.refused = ["a"] * 9
    assert world.end("a") == ["+a", "+a", "+a", "-b", "failed a"]
    assert world.finished is not None and world.finished.failure is not None
    assert "cannot be started" in world.finished.failure.reason


def test_a_shutdown_overtakes_the_next_try() -> None:
    """The retry is behind what waits in the queue."""
    world = World(children("permanent", "permanent"), intensity=100)
    world.tell()
    world.refused = ["a"] * 99
    assert world.tell(world.ended("a"), Shutdown()) == ["+a", "-b", "end"]
    assert len(world.refused) == 98


def test_a_retry_comes_to_nothing_when_the_child_runs_again() -> None:
    """Because a group restart was faster."""
    world = World(children("permanent", "permanent"), strategy="one_for_all", intensity=5)
    world.tell()
    world.refused = ["b"]
    a = world.ended("a")
    assert world.tell(a) == ["-b", "+a", "+b", "-a", "+a", "+b"]
    assert world.tell(Retry("b"), Retry("nobody")) == []


# Shutdown


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_shutdown_is_in_reverse_order_one_after_the_other(strategy: str) -> None:
    """The next one is asked when the one before has ended."""
    world = World(children("permanent", "transient", "temporary", "permanent"), strategy=strategy)
    world.tell()
    world.held = {"c"}
    assert world.tell(Shutdown()) == ["-d", "-c"]
    assert world.tell(Shutdown()) == []
    assert world.tell(world.ended("c", End.ASKED)) == ["-b", "-a", "end"]
    assert world.finished == Finished(None)


@pytest.mark.parametrize("shutdown", [0, 2.5, None])
def test_each_child_has_its_own_time(shutdown: float | None) -> None:
    """It is passed on as it stands in the specification."""
    machine = Supervision([ChildSpec("a", fn, shutdown=shutdown)])
    machine.step(Begin(), now=0)
    pid = Pid(1, 1, bytes(16))
    machine.step(Started("a", pid), now=0)
    assert machine.step(Shutdown(), now=0) == [Stop("a", pid, shutdown)]


@pytest.mark.parametrize("comes_too_late", [False, True])
def test_shutdown_withdraws_a_start(comes_too_late: bool) -> None:
    """Where it comes too late, the child is stopped in its turn."""
    world = World(children(*["permanent"] * 3))
    world.held = {"b"}
    assert world.tell() == ["+a", "+b"]
    assert world.tell(Shutdown()) == ["cancel b"]
    if comes_too_late:
        assert world.tell(world.started("b")) == ["-b"]
        assert world.tell(world.ended("b", End.NORMAL)) == ["-a", "end"]
    else:
        assert world.tell(NotStarted("b", "withdrawn")) == ["-a", "end"]


def test_shutdown_in_the_middle_of_a_restart() -> None:
    """What is being stopped is waited for; the rest of the restart is not done."""
    world = World(children(*["permanent"] * 3), strategy="one_for_all")
    world.tell()
    world.held = {"c"}
    assert world.end("a") == ["-c"]
    assert world.tell(Shutdown()) == []
    assert world.tell(world.ended("c", End.NORMAL)) == ["-b", "end"]


def test_a_start_may_be_under_way_beside_a_stop() -> None:
    """The child after it is stopped while the withdrawal has no answer yet."""
    world = World(children(*["permanent"] * 3))
    world.tell()
    world.held = {"b", "c"}
    assert world.end("b") == ["+b"]
    assert world.tell(Shutdown()) == ["cancel b", "-c"]
    assert world.tell(world.started("b")) == []
    assert world.tell(world.ended("c", End.NORMAL)) == ["-b"]
    assert world.tell(world.ended("b", End.NORMAL)) == ["-a", "end"]


def test_ends_during_shutdown_are_no_restarts() -> None:
    """Who ends before its turn comes is not asked."""
    world = World(children(*["permanent"] * 3))
    world.tell()
    world.held = {"c"}
    world.tell(Shutdown())
    assert world.end("a") == []
    assert world.tell(world.ended("c", End.NORMAL)) == ["-b", "end"]
    assert [(each.context, each.child) for each in world.reports] == [("shutdown_error", "a")]


def test_a_child_that_did_not_obey_is_reported() -> None:
    """Killed after its time, or crashed on the way; not the one that was to be killed at once."""
    world = World([ChildSpec("a", fn, shutdown=0), ChildSpec("b", fn), ChildSpec("c", fn)])
    world.tell()
    world.held = {"a", "b", "c"}
    world.tell(Shutdown())
    for child in "cba":
        killed = ExitStatus(world.pids[child], None, "SIGKILL") if child != "c" else status(world.pids[child], End.LOST)
        world.tell(Ended(child, world.pids[child], killed))
    assert [each.child for each in world.reports] == ["c", "b"]
    assert world.finished == Finished(None)


def test_shutdown_before_anything_has_begun() -> None:
    """There is nothing to stop; and without children there is little to do."""
    assert Supervision([]).step(Shutdown(), now=0) == [Finished(None)]
    world = World([])
    assert world.tell() == ["all"]
    assert world.tell(Shutdown()) == ["end"]


# Significant children


@pytest.mark.parametrize("restart", ["transient", "temporary"])
@pytest.mark.parametrize("end", [End.NORMAL, End.ASKED])
def test_any_significant_child_ends_the_supervisor(restart: str, end: End) -> None:
    """When it has ended by itself and is not restarted; the end is a good one."""
    specs = [*children("permanent"), ChildSpec("s", fn, restart=restart, significant=True), ChildSpec("t", fn)]  # type: ignore[arg-type]
    world = World(specs, auto_shutdown="any_significant")
    world.tell()
    assert world.end("s", end) == ["-t", "-a", "end"]
    assert world.finished == Finished(None)


def test_the_last_significant_child_ends_the_supervisor() -> None:
    """Not the first one; a crash of a transient one is no end, of a temporary one it is."""
    specs = [
        ChildSpec("a", fn, restart="transient", significant=True),
        ChildSpec("b", fn, restart="temporary", significant=True),
        ChildSpec("c", fn),
    ]
    world = World(specs, auto_shutdown="all_significant")
    world.tell()
    assert world.end("a", End.CRASHED) == ["+a"]
    assert world.end("a", End.NORMAL) == []
    assert world.end("b", End.CRASHED) == ["-c", "end"]


def test_a_child_that_is_not_significant_ends_nothing() -> None:
    """Whatever auto_shutdown says."""
    world = World(children("transient", "temporary"), auto_shutdown="any_significant")
    world.tell()
    assert world.end("a", End.NORMAL) == world.end("b") == []
    assert world.machine.phase is Phase.RUNNING


# What has been said before, and what makes no sense, changes nothing


def test_events_that_come_twice_or_too_late_change_nothing() -> None:
    """The end of an old process, an answer that nobody waits for, a name that is not known."""
    world = World(children("permanent", "temporary"))
    world.tell()
    old = world.ended("a")
    world.tell(old)
    gone = world.ended("b")
    world.tell(gone)
    stray = Started("a", Pid(9, 9, bytes(16)))
    assert (
        world.tell(old, gone, stray, NotStarted("a", ""), Started("x", stray.pid), Begin(), NotStarted("x", "")) == []
    )


# Against a model: OTP's code, which waits for each answer where it stands


class Model:
    """supervisor.erl in plain steps: each start and stop is done when it is said."""

    def __init__(
        self, specs: list[ChildSpec], strategy: str, intensity: int, period: float, refused: list[str]
    ) -> None:
        self.specs = list(specs)
        self.running: set[str] = set()
        self.strategy, self.intensity, self.period = strategy, intensity, period
        self.refused = list(refused)
        self.restarts: list[float] = []
        self.log: list[str] = []
        self.over = False

    def start(self, specs: list[ChildSpec]) -> ChildSpec | None:
        for spec in specs:
            self.log.append(f"+{spec.id}")
            if spec.id in self.refused:
                self.refused.remove(spec.id)
                return spec
            self.running.add(spec.id)
        return None

    def stop(self, specs: list[ChildSpec]) -> list[ChildSpec]:
        for spec in reversed(specs):
            if spec.id in self.running:
                self.running.discard(spec.id)
                self.log.append(f"-{spec.id}")
            if spec.restart == "temporary":
                self.specs.remove(spec)
        return [spec for spec in specs if spec.restart != "temporary"]

    def finish(self, word: str) -> None:
        self.stop(self.specs)
        self.log.append(word)
        self.over = True

    def begin(self) -> None:
        failed = self.start(self.specs)
        if failed is None:
            self.log.append("all")
        else:
            self.finish(f"failed {failed.id}")

    def end(self, spec: ChildSpec, end: End, now: float) -> None:
        self.running.discard(spec.id)
        if not RESTARTS[spec.restart, end]:
            if spec.restart == "temporary":
                self.specs.remove(spec)
            return
        again: ChildSpec | None = spec
        while again is not None:
            self.restarts = [then for then in [now, *self.restarts] if now <= then + self.period]
            if len(self.restarts) > self.intensity:
                self.finish(f"failed {again.id}")
                return
            at = self.specs.index(again)
            if self.strategy == "one_for_one":
                again = self.start([again])
            elif self.strategy == "rest_for_one":
                again = self.start([again, *self.stop(self.specs[at + 1 :])])
            else:
                again = self.start(self.stop(list(self.specs)))


KINDS = st.sampled_from(["permanent", "transient", "temporary"])
HAPPENINGS = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from(list(End)), st.sampled_from([0.0, 0.5, 2.0, 6.0])), max_size=12
)


@given(
    st.lists(KINDS, min_size=1, max_size=5),
    st.sampled_from(STRATEGIES),
    st.integers(0, 4),
    st.lists(st.sampled_from("abcde"), max_size=4),
    HAPPENINGS,
)
def test_the_machine_does_what_otp_does(
    kinds: list[str], strategy: str, intensity: int, refused: list[str], happenings: list[tuple[int, End, float]]
) -> None:
    """Any children, any ends, any starts that fail: the same starts and stops in the same order."""
    specs = children(*kinds)
    world = World(specs, strategy=strategy, intensity=intensity, period=5.0)
    model = Model(specs, strategy, intensity, 5.0, refused)
    world.refused = list(refused)
    model.begin()
    assert world.tell() == model.log
    for index, end, passed in happenings:
        if model.over or not model.running:
            break
        world.now += passed
        spec = next(each for each in specs if each.id == sorted(model.running)[index % len(model.running)])
        model.log = []
        model.end(spec, end, world.now)
        assert world.end(spec.id, end) == model.log
        assert (world.finished is not None) == model.over
        assert [child.spec for child in world.machine.children if child.pid] == [
            each for each in model.specs if each.id in model.running
        ]
    if not model.over:
        model.log = []
        model.finish("end")
        assert world.tell(Shutdown()) == model.log


@given(st.data())
def test_any_order_of_answers_leads_to_an_end(data: st.DataObject) -> None:
    """Whenever starts and stops are answered and children end: no process is left, nobody is started after Shutdown."""
    specs = children(*data.draw(st.lists(KINDS, min_size=1, max_size=4)))
    machine = Supervision(
        specs, strategy=data.draw(st.sampled_from(STRATEGIES)), intensity=data.draw(st.integers(0, 3)), period=5.0
    )  # fmt: skip
    alive: dict[Pid, str] = {}
    starting: list[str] = []
    queue: list[Event] = []
    count, was_shut_down, finished = 0, False, False

    def do(event: Event, now: float) -> None:
        nonlocal finished
        for effect in machine.step(event, now=now):
            assert not finished
            match effect:
                case Start(child):
                    assert not was_shut_down
                    assert child not in starting and child not in alive.values()
                    starting.append(child)
                case Requeue(again):
                    queue.append(again)
                case Stop(child, pid, _):
                    stopping.add(pid)
                case Finished():
                    finished = True
                    assert not alive and not starting
                case _:
                    pass
        machine.check()

    stopping: set[Pid] = set()
    do(Begin(), 0.0)
    for now in range(60):
        choices: list[tuple[str, Any]] = [("started", each) for each in starting]
        choices += [("refused", each) for each in starting] + [("ended", each) for each in alive]
        choices += [("queue", None)] if queue else []
        choices += [("shutdown", None)]
        what, whom = data.draw(st.sampled_from(choices))
        if now == 40:
            what = "shutdown"
        if what == "started":
            starting.remove(whom)
            count += 1
            pid = Pid(1, count, bytes(16))
            alive[pid] = whom
            do(Started(whom, pid), now)
        elif what == "refused":
            starting.remove(whom)
            do(NotStarted(whom, "no"), now)
        elif what == "ended":
            child = alive.pop(whom)
            do(Ended(child, whom, status(whom, data.draw(st.sampled_from(list(End))))), now)
        elif what == "queue":
            do(queue.pop(0), now)
        else:
            was_shut_down = True
            do(Shutdown(), now)
        if finished:
            break
    while not finished:
        if starting:
            do(NotStarted(starting.pop(), "no"), 99)
        else:
            assert stopping & alive.keys(), "somebody is being stopped, or it would hang"
            pid = next(each for each in alive if each in stopping)
            do(Ended(alive.pop(pid), pid, status(pid, End.NORMAL)), 99)
    assert not alive
