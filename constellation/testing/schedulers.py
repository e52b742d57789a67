"""The conformance suite for schedulers, which the built-in one passes too.

In a plugin's tests::

    @pytest.mark.parametrize("check", SCHEDULER_CHECKS, ids=lambda check: check.__name__)
    def test_scheduler(check):
        check(MyScheduler)

or, all at once, ``check_scheduler(MyScheduler)``. The checks are deterministic and need a second at most.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from constellation.core.contracts import NodeView, Scheduler
from constellation.core.resources import Resources

Make = Callable[[], Scheduler]
"""Makes a new scheduler that knows no nodes."""

_ROUNDS = 300


def has_a_name(make: Make) -> None:
    """Its name is what selects it."""
    name: object = make().name
    assert name, f"name is {name!r}: expected text that is not empty"
    assert isinstance(name, str), f"name is {name!r}: expected text"


def places_nothing_without_nodes(make: Make) -> None:
    """Before any node has joined there is no room."""
    answer = make().place(Resources())
    assert answer is None, f"without nodes it chose {answer!r}: expected None"


def chooses_the_only_node(make: Make) -> None:
    """A demand as large as the node fits."""
    scheduler = make()
    whole = Resources(1000, 2, gpu=1)
    scheduler.node_changed(NodeView(7, "seven", whole, whole))
    answer = scheduler.place(whole)
    assert answer == 7, f"with node 7 empty it chose {answer!r} for all of it: expected 7"


def counts_custom_amounts(make: Make) -> None:
    """A node without gpus is none for a demand with gpus."""
    scheduler = make()
    for number, capacity in enumerate((Resources(1000, 8), Resources(1000, 8, gpu=1), Resources(1000, 8, gpu=4))):
        scheduler.node_changed(NodeView(number, f"node-{number}", capacity, capacity))
    demand = Resources(1, 1, gpu=2)
    answer = scheduler.place(demand)
    assert answer == 2, f"only node 2 has two gpus, it chose {answer!r}: expected 2"
    answer = scheduler.place(Resources(1, 1, tpu=1))
    assert answer is None, f"no node has a tpu, it chose {answer!r}: expected None"


def forgets_nodes_that_have_gone(make: Make) -> None:
    """A node is not chosen after `node_removed`, and may come back with the same id."""
    scheduler = make()
    small, large = Resources(1000, 1), Resources(5000, 4)
    scheduler.node_changed(NodeView(1, "one", small, small))
    scheduler.node_removed(1)
    answer = scheduler.place(Resources(1, 1))
    assert answer is None, f"the only node has gone, it chose {answer!r}: expected None"
    scheduler.node_changed(NodeView(1, "one", large, large))
    answer = scheduler.place(large)
    assert answer == 1, f"node 1 is back and larger, it chose {answer!r}: expected 1"


def place_changes_nothing(make: Make) -> None:
    """Only `node_changed` takes room away: the same question has the same answer."""
    scheduler = make()
    for view in _nodes(random.Random(1), 50):  # noqa: S311  # a test's dice
        scheduler.node_changed(view)
    first = scheduler.place(Resources(10, 0.5))
    for _ in range(100):
        again = scheduler.place(Resources(10, 0.5))
        assert again == first, f"it chose {first!r}, then {again!r} with no change between: expected the same"


def finds_room_where_there_is_some(make: Make) -> None:
    """The node has room for the demand; None only if no node has."""
    for views, demand, answer in _history(make(), seed=2):
        if answer is None:
            having = [view for view in views.values() if demand <= view.free]
            assert not having, f"it found no room for {demand}: node {having[0].id} has {having[0].free}"
        else:
            assert answer in views, f"it chose {answer!r} for {demand}: no such node"
            free = views[answer].free
            assert demand <= free, f"it chose node {answer} for {demand}: free there: {free}"


def equal_histories_give_equal_answers(make: Make) -> None:
    """No chance, no hash order: the same events lead to the same choices."""
    one = [answer for _, _, answer in _history(make(), seed=3)]
    two = [answer for _, _, answer in _history(make(), seed=3)]
    differ = next((index for index, pair in enumerate(zip(one, two, strict=True)) if pair[0] != pair[1]), None)
    assert differ is None, (
        f"at question {differ} of the same history it chose {one[differ or 0]!r}, then {two[differ or 0]!r}"
    )


SCHEDULER_CHECKS: tuple[Callable[[Make], None], ...] = (
    has_a_name,
    places_nothing_without_nodes,
    chooses_the_only_node,
    counts_custom_amounts,
    forgets_nodes_that_have_gone,
    place_changes_nothing,
    finds_room_where_there_is_some,
    equal_histories_give_equal_answers,
)
"""Each takes ``make`` and raises AssertionError with what was seen and what was expected."""


def check_scheduler(make: Make) -> None:
    """Run all of `SCHEDULER_CHECKS`.

    Args:
        make: Makes a new scheduler that knows no nodes.

    Raises:
        AssertionError: Names the check that failed, what was seen and what was expected.
    """
    for check in SCHEDULER_CHECKS:
        try:
            check(make)
        except AssertionError as error:
            raise AssertionError(f"{check.__name__}: {error}") from error


def _resources(rng: random.Random, mem: int, cpu: int) -> Resources:
    custom = {name: rng.randrange(4) for name in ("gpu", "tpu") if rng.random() < 0.3}
    return Resources(rng.randrange(mem), rng.randrange(cpu * 4) / 4, **custom)


def _nodes(rng: random.Random, count: int) -> list[NodeView]:
    views = []
    for number in range(count):
        capacity = _resources(rng, 1000, 16)
        views.append(NodeView(number, f"node-{number}", capacity, capacity))
    return views


def _history(scheduler: Scheduler, *, seed: int) -> Iterator[tuple[dict[int, NodeView], Resources, int | None]]:
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
