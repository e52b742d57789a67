"""The conformance suite for schedulers, which the built-in one passes too.

In a plugin's tests::

    @pytest.mark.parametrize("check", SCHEDULER_CHECKS, ids=str)
    def test_scheduler(check):
        check(MyScheduler)

or, all at once, ``check_scheduler(MyScheduler)``. The checks measure no time: what a call costs is counted in the operations
that Python executes. They need a few seconds.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final, TypeVar

from constellation.core.contracts import NodeView, Scheduler
from constellation.core.placement import PASSES, Placed, Placement
from constellation.core.resources import Resources
from constellation.testing.promises import PATIENCE_S, Check, Trial, expect, has_text_name, run_all

Make = Callable[[], Scheduler]
"""Makes a new scheduler that knows no nodes."""

MOST_STEPS_A_NODE: Final = 0.5
"""Operations of Python that a call may execute for each node that there is. To look at a node takes five and more."""

_ROUNDS = 300
_MANY = 20_000
_R = TypeVar("_R")


@Check[Scheduler]
def says_what_it_is(make: Make, trial: Trial) -> None:
    """Its name is what selects it."""
    has_text_name(make())


@Check[Scheduler]
def places_nothing_without_nodes(make: Make, trial: Trial) -> None:
    """Before any node has joined there is no room."""
    answer = make().place(Resources())
    expect(answer is None, f"without nodes it chose {answer!r}: expected None")


@Check[Scheduler]
def chooses_the_only_node(make: Make, trial: Trial) -> None:
    """A demand as large as the node fits."""
    scheduler = make()
    whole = Resources(1000, 2, gpu=1)
    scheduler.node_changed(NodeView(7, "seven", whole, whole))
    answer = scheduler.place(whole)
    expect(answer == 7 and type(answer) is int, f"with node 7 empty it chose {answer!r} for all of it: expected 7")


@Check[Scheduler]
def counts_custom_amounts(make: Make, trial: Trial) -> None:
    """A node without gpus is none for a demand with gpus."""
    scheduler = make()
    for number, capacity in enumerate((Resources(1000, 8), Resources(1000, 8, gpu=1), Resources(1000, 8, gpu=4))):
        scheduler.node_changed(NodeView(number, f"node-{number}", capacity, capacity))
    answer = scheduler.place(Resources(1, 1, gpu=2))
    expect(answer == 2, f"only node 2 has two gpus, it chose {answer!r}: expected 2")
    answer = scheduler.place(Resources(1, 1, tpu=1))
    expect(answer is None, f"no node has a tpu, it chose {answer!r}: expected None")


@Check[Scheduler]
def forgets_nodes_that_have_gone(make: Make, trial: Trial) -> None:
    """A node is not chosen after `node_removed`, and may come back with the same id."""
    scheduler = make()
    small, large = Resources(1000, 1), Resources(5000, 4)
    scheduler.node_changed(NodeView(1, "one", small, small))
    scheduler.node_removed(1)
    answer = scheduler.place(Resources(1, 1))
    expect(answer is None, f"the only node has gone, it chose {answer!r}: expected None")
    scheduler.node_changed(NodeView(1, "one", large, large))
    answer = scheduler.place(large)
    expect(answer == 1, f"node 1 is back and larger, it chose {answer!r}: expected 1")


@Check[Scheduler]
def place_changes_nothing(make: Make, trial: Trial) -> None:
    """Only `node_changed` takes room away: the same question has the same answer."""
    scheduler = make()
    for view in _nodes(trial.chance, 50):
        scheduler.node_changed(view)
    first = scheduler.place(Resources(10, 0.5))
    for _ in range(100):
        again = scheduler.place(Resources(10, 0.5))
        expect(again == first, f"it chose {first!r}, then {again!r} with no change between: expected the same")


@Check[Scheduler]
def places_only_where_there_is_room(make: Make, trial: Trial) -> None:
    """The node that it chooses is there, and has room for the demand now."""
    for views, demand, answer in _history(make(), trial.seed):
        trial.progress()
        if answer is not None:
            expect(answer in views, f"it chose {answer!r} for {demand}: no such node")
            free = views[answer].free
            expect(demand <= free, f"it chose node {answer} for {demand}: free there: {free}")


@Check[Scheduler]
def finds_room_where_there_is_some(make: Make, trial: Trial) -> None:
    """It says None only if no node has room now."""
    for views, demand, answer in _history(make(), trial.seed):
        trial.progress()
        if answer is None:
            having = [view for view in views.values() if demand <= view.free]
            expect(not having, f"it found no room for {demand}: node {having[0].id if having else 0} has it")


@Check[Scheduler]
def equal_histories_give_equal_answers(make: Make, trial: Trial) -> None:
    """No chance, no hash order: the same events lead to the same choices."""
    one = [answer for _, _, answer in _history(make(), trial.seed)]
    two = [answer for _, _, answer in _history(make(), trial.seed)]
    differ = next((index for index, pair in enumerate(zip(one, two, strict=True)) if pair[0] != pair[1]), None)
    expect(
        differ is None,
        f"at question {differ} of the same history it chose {one[differ or 0]!r}, then {two[differ or 0]!r}",
    )


@Check[Scheduler]
def big_demands_get_their_turn(make: Make, trial: Trial) -> None:
    """In the master's queue, a demand as large as a whole node is placed though small ones come without end."""
    nodes = trial.chance.randrange(2, 6)
    whole = Resources(1000, 4)
    small = Resources(100, 0.25)
    placement = Placement(make(), limited=True)
    for number in range(1, nodes + 1):
        placement.node_joined(NodeView(number, f"node-{number}", whole, whole), 0.0)
    running: list[int] = []
    number, now = 1, 0.0

    def submit(demand: Resources) -> list[Any]:
        nonlocal number
        number += 1
        return placement.submit(number, demand, wait=True, now=now)

    def take(effects: list[Any]) -> bool:
        placed = [effect.demand_id for effect in effects if isinstance(effect, Placed)]
        running.extend(placed)
        return big in placed

    big = 0
    while placement.statistics().waiting == 0:
        take(submit(small))
    big = number + 1
    got = take(submit(whole))
    # As long as it may be passed, and then as long as any of those that run may take.
    for _ in range(PASSES + 40 * nodes):
        if got or not running:
            break
        now += 0.01
        trial.progress()
        got = take(submit(small)) or take(placement.released(running.pop(trial.chance.randrange(len(running))), now))
    expect(
        got,
        f"a demand of {whole} was not placed while up to {PASSES + 40 * nodes} of {small} came and went on {nodes} nodes, "
        "though the queue keeps a node for it",
    )


@Check[Scheduler]
def does_not_look_at_every_node(make: Make, trial: Trial) -> None:
    """With 20,000 nodes, nearly all full, no call executes an operation for each of them: they are counted, not timed."""
    scheduler = make()
    capacity = Resources(1 << 30, 8)
    step = max(1, _MANY // 10)
    for number in range(_MANY):
        free = Resources(1 << 20, 0.25) if number % 7 else Resources(1 << 10, 0)
        scheduler.node_changed(NodeView(number, f"node-{number}", capacity, free))
        if not number % 100:
            trial.progress()
    last = NodeView(_MANY, "empty", capacity, capacity)
    scheduler.node_changed(last)
    for name, call in (
        ("place, where one node has room,", lambda: scheduler.place(Resources(1 << 29, 4))),
        ("place, where none has room,", lambda: scheduler.place(Resources(1 << 31, 4))),
        ("place, where most have room,", lambda: scheduler.place(Resources(1 << 10, 0.25))),
        ("place, where nobody has a gpu,", lambda: scheduler.place(Resources(1 << 10, 0.25, gpu=1))),
        ("node_changed", lambda: scheduler.node_changed(last._replace(free=Resources(1 << 25, 1)))),
        ("node_removed", lambda: scheduler.node_removed(step)),
    ):
        _, steps = count_steps(call)
        trial.progress()
        expect(
            steps < MOST_STEPS_A_NODE * _MANY,
            f"{name} executes {steps} operations with {_MANY} nodes: expected fewer than {MOST_STEPS_A_NODE * _MANY:.0f}",
        )


def count_steps(call: Callable[[], _R]) -> tuple[_R, int]:
    """Call something and count the operations of Python that it executes, those of what it calls included.

    What runs in C counts as one: a list of 20,000 numbers may be sorted, an object for each node may not be looked at.
    """
    steps = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            steps += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        result = call()
    finally:
        sys.settrace(before)
    return result, steps


@Check[Scheduler]
def chooses_among_those_allowed(make: Make, trial: Trial) -> None:
    """One with `place_among` chooses out of the allowed nodes, where there is room, and finds it; it changes nothing."""
    scheduler: Any = make()
    if not hasattr(scheduler, "place_among"):
        return
    views = {view.id: view for view in _nodes(trial.chance, 60)}
    for view in views.values():
        scheduler.node_changed(view)
    for _ in range(_ROUNDS):
        demand = _resources(trial.chance, 600, 8)
        allowed = frozenset(trial.chance.sample(sorted(views), trial.chance.randrange(len(views))))
        near = trial.chance.choice([None, *views, 5000])
        answer = scheduler.place_among(demand, allowed, near)
        again = scheduler.place_among(demand, allowed, near)
        expect(
            answer == again, f"place_among chose {answer!r}, then {again!r} with no change between: expected the same"
        )
        having = [number for number in sorted(allowed) if demand <= views[number].free]
        if answer is None:
            expect(
                not having,
                f"place_among found no room for {demand} among {len(allowed)} nodes: node {having[:1]} has it",
            )
        else:
            expect(answer in allowed, f"place_among chose {answer!r}, which is not among the allowed nodes")
            expect(answer in having, f"place_among chose node {answer} for {demand}: free there: {views[answer].free}")
        trial.progress()


SCHEDULER_CHECKS: tuple[Check[Scheduler], ...] = (
    says_what_it_is,
    places_nothing_without_nodes,
    chooses_the_only_node,
    counts_custom_amounts,
    forgets_nodes_that_have_gone,
    place_changes_nothing,
    places_only_where_there_is_room,
    finds_room_where_there_is_some,
    equal_histories_give_equal_answers,
    big_demands_get_their_turn,
    does_not_look_at_every_node,
    chooses_among_those_allowed,
)
"""All checks, for those who want a test of each."""


def check_scheduler(make: Make, *, seed: int = 0, patience: float = PATIENCE_S) -> None:
    """Check that a scheduler keeps the contract of `constellation.plugin.Scheduler`, and `PlacesAmong` if it offers that.

    Args:
        make: Makes a new scheduler that knows no nodes.
        seed: Another one takes other chances.
        patience: Seconds after which a call that has not returned is said to hang.

    Raises:
        BrokenPromise: A check fails: which, what was seen, and the seed that repeats it.
    """
    run_all(SCHEDULER_CHECKS, make, seed, patience)


def _resources(rng: random.Random, mem: int, cpu: int) -> Resources:
    custom = {name: rng.randrange(4) for name in ("gpu", "tpu") if rng.random() < 0.3}
    return Resources(rng.randrange(mem), rng.randrange(cpu * 4) / 4, **custom)


def _nodes(rng: random.Random, count: int) -> list[NodeView]:
    views = []
    for number in range(count):
        capacity = _resources(rng, 1000, 16)
        views.append(NodeView(number, f"node-{number}", capacity, capacity))
    return views


def _history(scheduler: Scheduler, seed: int) -> Iterator[tuple[dict[int, NodeView], Resources, int | None]]:
    """Drive a scheduler as the master does: nodes come and go, demands are placed and released."""
    rng = random.Random(seed)  # noqa: S311  # a test's dice
    views: dict[int, NodeView] = {}
    held: list[tuple[int, Resources]] = []
    waiting = _nodes(rng, 40)

    def change(node_id: int, free: Resources) -> None:
        views[node_id] = views[node_id]._replace(free=free)
        scheduler.node_changed(views[node_id])

    for _ in range(_ROUNDS):
        dice = rng.random()
        if dice < 0.2 and waiting:
            view = waiting.pop()
            views[view.id] = view
            scheduler.node_changed(view)
        elif dice < 0.25 and views:
            gone = views.pop(rng.choice(sorted(views)))
            scheduler.node_removed(gone.id)
            held = [item for item in held if item[0] != gone.id]
            waiting.insert(0, gone._replace(free=gone.capacity))
        elif dice < 0.5 and held:
            node_id, demand = held.pop(rng.randrange(len(held)))
            change(node_id, views[node_id].free + demand)
        else:
            demand = _resources(rng, 400, 4)
            answer = scheduler.place(demand)
            yield dict(views), demand, answer
            if answer is not None:
                held.append((answer, demand))
                change(answer, views[answer].free - demand)
