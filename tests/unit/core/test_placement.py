"""The queue of demands: order, ageing, refusals, and the book of what is free."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core import errors
from constellation.core.contracts import NodeView
from constellation.core.errors import InternalError
from constellation.core.placement import (
    AGED_S,
    LOOK_AHEAD,
    PASSES,
    Displaced,
    Effect,
    Placed,
    Placement,
    Queued,
    RefusedDemand,
)
from constellation.core.resources import Resources


class FirstFit:
    """The plainest scheduler: the first node, in the order of joining, that has room."""

    name = "first_fit"

    def __init__(self) -> None:
        self.nodes: dict[int, NodeView] = {}
        self.asked = 0

    def node_changed(self, node: NodeView) -> None:
        self.nodes[node.id] = node

    def node_removed(self, node_id: int) -> None:
        del self.nodes[node_id]

    def place(self, demand: Resources) -> int | None:
        self.asked += 1
        return next((node.id for node in self.nodes.values() if demand <= node.free), None)


def node(number: int, capacity: Resources) -> NodeView:
    """An empty node."""
    return NodeView(number, f"node-{number}", capacity, capacity)


def cores(count: float, **custom: float) -> Resources:
    """A demand or capacity that is about cores and custom amounts only."""
    return Resources(0, count, **custom)


class Master:
    """A placement, and its invariants checked after every step."""

    def __init__(self, *capacities: Resources, limited: bool = True) -> None:
        self.scheduler = FirstFit()
        self.placement = Placement(self.scheduler, limited=limited)
        self.now = 100.0
        self.last = 0
        for number, capacity in enumerate(capacities):
            assert self.join(number, capacity) == []

    def checked(self, effects: list[Effect]) -> list[Effect]:
        self.placement.check()
        return effects

    def join(self, number: int, capacity: Resources) -> list[Effect]:
        return self.checked(self.placement.node_joined(node(number, capacity), self.now))

    def leave(self, number: int) -> list[Effect]:
        return self.checked(self.placement.node_left(number, self.now))

    def spawn(self, demand: Resources, *, wait: bool = True) -> list[Effect]:
        """Submit under the next number, from 1 on."""
        self.last += 1
        return self.checked(self.placement.submit(self.last, demand, wait, self.now))

    def release(self, demand_id: int) -> list[Effect]:
        return self.checked(self.placement.released(demand_id, self.now))

    def cancel(self, demand_id: int) -> list[Effect]:
        return self.checked(self.placement.cancel(demand_id, self.now))

    def lend(self, demand_id: int) -> list[Effect]:
        return self.checked(self.placement.lend(demand_id, self.now))

    def take_back(self, demand_id: int) -> None:
        self.placement.take_back(demand_id)
        self.placement.check()


def test_first_come_first_served() -> None:
    """What waits is placed in its order as room comes back."""
    master = Master(cores(2))
    assert master.spawn(cores(2)) == [Placed(1, 0)]
    assert master.spawn(cores(1)) == [Queued(2)]
    assert master.spawn(cores(1)) == [Queued(3)]
    assert master.spawn(cores(1)) == [Queued(4)]
    assert master.release(1) == [Placed(2, 0), Placed(3, 0)]
    assert master.placement.waiting() == [4]
    assert master.release(3) == [Placed(4, 0)]


def test_small_demand_passes_a_blocked_head() -> None:
    """Room that the head cannot use is used."""
    master = Master(cores(2))
    master.spawn(cores(1))
    assert master.spawn(cores(2)) == [Queued(2)]
    assert master.spawn(cores(1)) == [Placed(3, 0)]
    assert master.spawn(cores(1)) == [Queued(4)]
    assert master.release(1) == [Placed(4, 0)]
    assert master.placement.statistics().passed == 2


def test_head_that_has_waited_long_is_passed_no_more() -> None:
    """So that the node drains, and it gets its turn."""
    master = Master(cores(2))
    master.spawn(cores(1))
    master.spawn(cores(1))
    assert master.spawn(cores(2)) == [Queued(3)]
    assert master.spawn(cores(1)) == [Queued(4)]
    master.now += AGED_S
    assert master.release(1) == []
    assert master.spawn(cores(1)) == [Queued(5)]
    assert master.release(2) == [Placed(3, 0)]
    assert master.release(3) == [Placed(4, 0), Placed(5, 0)]


def test_head_that_has_been_passed_often_is_passed_no_more() -> None:
    """However little time that took."""
    master = Master(cores(2))
    master.spawn(cores(1))
    assert master.spawn(cores(2)) == [Queued(2)]
    for demand_id in range(3, 3 + PASSES):
        assert master.spawn(cores(1)) == [Placed(demand_id, 0)]
        assert master.release(demand_id) == []
    assert master.spawn(cores(1)) == [Queued(3 + PASSES)]
    assert master.release(1) == [Placed(2, 0)]


def test_aged_head_is_passed_on_nodes_that_are_none_for_it() -> None:
    """They would stand idle in vain."""
    master = Master(cores(1), cores(4, gpu=1))
    assert master.spawn(cores(1)) == [Placed(1, 0)]
    assert master.spawn(cores(4, gpu=1)) == [Placed(2, 1)]
    assert master.spawn(cores(4, gpu=1)) == [Queued(3)]
    master.now += AGED_S
    assert master.spawn(cores(1)) == [Queued(4)]
    assert master.release(1) == [Placed(4, 0)]


def test_try_spawn_does_not_overtake_the_queue() -> None:
    """Though there would be room for it."""
    master = Master(cores(2))
    master.spawn(cores(1))
    master.spawn(cores(2))
    [refused] = master.spawn(cores(1), wait=False)
    assert refused == RefusedDemand(
        3,
        "NoCapacity",
        "cannot place 0 B, 1 core now: 1 demand waits in the queue before it; largest node has 0 B, 2 cores, "
        "of which 0 B, 1 core free (node-0); try again later, or spawn(), which waits",
    )
    master.spawn(cores(2))
    assert "2 demands wait in the queue" in refusal(master.spawn(cores(1), wait=False)).text


def refusal(effects: list[Effect]) -> RefusedDemand:
    """The only effect, a refusal whose kind is an error that spawn can raise."""
    [effect] = effects
    assert isinstance(effect, RefusedDemand)
    assert issubclass(getattr(errors, effect.kind), errors.SpawnError)
    return effect


def test_try_spawn_is_placed_or_refused_at_once() -> None:
    """It never waits."""
    master = Master(cores(1))
    assert master.spawn(cores(1), wait=False) == [Placed(1, 0)]
    refused = refusal(master.spawn(cores(1), wait=False))
    assert refused.kind == "NoCapacity"
    assert refused.text.startswith(
        "cannot place 0 B, 1 core now: largest node has 0 B, 1 core, of which 0 B, 0 cores free"
    )
    assert master.placement.waiting() == []


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("is_full", [True, False])
def test_demand_that_no_node_can_hold_is_refused(wait: bool, is_full: bool) -> None:
    """At once, queue or not, with the largest node and what to do."""
    master = Master(Resources("16 GiB", 32), Resources("32 GiB", 16), Resources("32 GiB", 16))
    if is_full:
        for demand in (
            Resources("16 GiB", 32),
            Resources("32 GiB", 16),
            Resources("32 GiB", 16),
            Resources("32 GiB", 16),
        ):
            master.spawn(demand)
    refused = refusal(master.spawn(Resources("64 GiB", 4), wait=wait))
    assert refused.kind == "Infeasible"
    assert refused.text == (
        "cannot place 64 GiB, 4 cores: largest node has 32 GiB, 16 cores (node-1); ask for less or add a node"
    )


@pytest.mark.parametrize(
    ("demand", "words"),
    [
        (Resources("16 GiB", 64), "largest node by cpu has 16 GiB, 32 cores (node-0)"),
        (Resources("1 GiB", 1, gpu=3), "largest node by gpu has 8 GiB, 4 cores, 2 gpu (node-2)"),
        (Resources("1 GiB", 1, tpu=1), "largest node by tpu has 32 GiB, 16 cores (node-1)"),
        (Resources("32 GiB", 32), "largest node has 32 GiB, 16 cores (node-1)"),
    ],
)
def test_refusal_names_the_node_with_most_of_what_lacks(demand: Resources, words: str) -> None:
    """The largest by memory would say nothing about gpus."""
    master = Master(Resources("16 GiB", 32), Resources("32 GiB", 16), Resources("8 GiB", 4, gpu=2))
    assert words in refusal(master.spawn(demand)).text


def test_without_nodes_demands_wait_for_one() -> None:
    """A node may join; try_spawn does not wait for that. What it cannot hold is refused then."""
    master = Master()
    assert "no node has joined yet" in refusal(master.spawn(cores(1), wait=False)).text
    assert master.spawn(cores(1)) == [Queued(2)]
    assert master.spawn(cores(9)) == [Queued(3)]
    [refused, placed] = master.join(5, cores(2))
    assert refusal([refused]).kind == "Infeasible"
    assert placed == Placed(2, 5)


def test_node_that_leaves_takes_what_it_held() -> None:
    """Its demands are displaced, those that only it could hold refused, and the queue goes on."""
    master = Master(cores(4), cores(1))
    assert master.spawn(cores(4)) == [Placed(1, 0)]
    assert master.spawn(cores(1)) == [Placed(2, 1)]
    assert master.spawn(cores(3)) == [Queued(3)]
    assert master.spawn(cores(1)) == [Queued(4)]
    [displaced, refused] = master.leave(0)
    assert displaced == Displaced(1, 0)
    assert refusal([refused])[:2] == (3, "Infeasible")
    assert master.leave(0) == []
    assert master.release(2) == [Placed(4, 1)]
    assert master.join(0, cores(4)) == []
    assert master.spawn(cores(4)) == [Placed(5, 0)]


def test_nodes_of_equal_capacity_leave_one_by_one() -> None:
    """A demand is feasible while one of them is there; with the last one gone it waits for another."""
    master = Master(cores(2), cores(2))
    master.leave(0)
    assert master.spawn(cores(2)) == [Placed(1, 1)]
    assert master.spawn(cores(2)) == [Queued(2)]
    assert master.leave(1) == [Displaced(1, 1)]
    assert master.join(2, cores(2)) == [Placed(2, 2)]


def test_node_may_join_with_less_than_its_capacity_free() -> None:
    """What is used otherwise stays so, and does not make a demand infeasible."""
    master = Master()
    view = NodeView(0, "node-0", cores(2), cores(1))
    assert master.placement.node_joined(view) == []
    assert master.spawn(cores(1)) == [Placed(1, 0)]
    assert master.spawn(cores(2)) == [Queued(2)]
    assert master.release(1) == []


def test_cancelled_demand_waits_no_more() -> None:
    """A blocked head that goes lets the others through."""
    master = Master(cores(2))
    master.spawn(cores(1))
    master.spawn(cores(2))
    master.now += AGED_S
    assert master.spawn(cores(1)) == [Queued(3)]
    assert master.spawn(cores(1)) == [Queued(4)]
    assert master.cancel(4) == []
    assert master.cancel(2) == [Placed(3, 0)]
    assert master.cancel(2) == []
    assert master.cancel(3) == []  # it holds room by now
    assert master.placement.statistics().held == 2


def test_cancelled_first_of_a_line_leaves_the_others_in_order() -> None:
    """The next of the same demand takes its place in the order of arrival, not the cancelled one's."""
    master = Master(cores(2))
    master.spawn(cores(2))
    for demand in (cores(1), cores(2), cores(1)):
        master.spawn(demand)
    assert master.cancel(2) == []
    assert master.release(1) == [Placed(3, 0)]
    assert master.release(3) == [Placed(4, 0)]


def test_next_of_a_line_does_not_inherit_the_place_of_a_cancelled_one() -> None:
    """A demand of another kind that came before it is placed before it."""
    master = Master(cores(3))
    for demand in (cores(3), cores(1.25), cores(1), cores(1.5), cores(1)):
        master.spawn(demand)
    assert master.cancel(3) == []
    assert master.release(1) == [Placed(2, 0), Placed(4, 0)]


def test_not_limited_places_everything_on_the_first_node() -> None:
    """A program for a cluster runs on a laptop; its demands are counted."""
    master = Master(cores(1), cores(99), limited=False)
    assert master.spawn(Resources("1 TiB", 64, gpu=8)) == [Placed(1, 0)]
    assert master.spawn(Resources("1 TiB", 64), wait=False) == [Placed(2, 0)]
    assert master.placement.statistics().used == Resources("2 TiB", 128, gpu=8)
    assert master.release(1) == []
    assert master.scheduler.asked == 0
    assert master.lend(2) == []
    assert master.release(2) == []


def test_not_limited_waits_for_a_node() -> None:
    """There must be one."""
    master = Master(limited=False)
    assert master.spawn(cores(64)) == [Queued(1)]
    assert master.join(3, cores(1)) == [Placed(1, 3)]


def test_waiting_process_lends_its_cores() -> None:
    """And takes them back at once, whoever has them."""
    master = Master(Resources(100, 1))
    master.spawn(Resources(60, 1))
    assert master.spawn(Resources(40, 1)) == [Queued(2)]
    assert master.lend(1) == [Placed(2, 0)]
    assert master.lend(1) == []
    master.take_back(1)
    master.take_back(1)
    assert master.spawn(Resources(0, 0.5)) == [Queued(3)]
    assert master.release(1) == []  # what was over-committed comes back first
    assert master.release(2) == [Placed(3, 0)]


def test_memory_is_never_lent() -> None:
    """It is in use while a process waits."""
    master = Master(Resources(100, 1))
    master.spawn(Resources(60, 1, gpu=0))
    master.spawn(Resources(60, 0.5))
    assert master.lend(1) == []
    assert master.placement.waiting() == [2]


def test_lent_share_goes_with_its_demand() -> None:
    """Released while lent, or displaced while lent."""
    master = Master(cores(1), cores(1))
    master.spawn(cores(1))
    master.spawn(cores(1))
    master.lend(1)
    master.lend(2)
    assert master.placement.statistics().lent == 2
    assert master.release(1) == []
    assert master.leave(1) == [Displaced(2, 1)]
    assert master.placement.statistics() == (1, 0, 0, 0, cores(0), 2, 0, 0)


def test_stalled_when_nobody_runs_and_spawns_wait() -> None:
    """All that hold room wait, and what they lend does not suffice."""
    master = Master(Resources(100, 1))
    assert master.placement.stalled() == []
    master.spawn(Resources(50, 0.5))
    master.spawn(Resources(50, 0.5))
    master.spawn(Resources(50, 0.5))
    master.lend(1)
    assert master.placement.stalled() == []
    master.lend(2)
    assert master.placement.stalled() == [3]
    master.take_back(2)
    assert master.placement.stalled() == []


def test_misuse_raises() -> None:
    """The driver's mistakes are bugs of ours."""
    master = Master(cores(2))
    master.spawn(cores(1))
    master.spawn(cores(2))
    for demand_id in (1, 2):
        with pytest.raises(InternalError, match=f"demand {demand_id} has been submitted twice"):
            master.placement.submit(demand_id, cores(1), True, 0.0)
    with pytest.raises(InternalError, match=r"node 0 .* has joined twice"):
        master.join(0, cores(1))
    for misuse in (master.release, master.lend, master.take_back):
        with pytest.raises(InternalError, match="demand 2 holds no room"):
            misuse(2)


def faulty(**methods: Any) -> Placement:
    """A book of one node of one core whose scheduler has some methods of a test."""

    class Faulty(FirstFit):
        name = "faulty"

    scheduler = Faulty()
    placement = Placement(scheduler, limited=True)
    placement.node_joined(node(0, cores(1)))
    for name, method in methods.items():
        setattr(scheduler, name, method)
    return placement


def fail(*_: object) -> Any:
    """A method of a plugin that raises."""
    raise ZeroDivisionError("a bug")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (7, "7: there is no such node"),
        (0, "0: free there: 0 B, 1 core"),
        ("0", "'0': there is no such node"),
        (False, "False: there is no such node"),
        ([0], r"\[0\]: there is no such node"),
    ],
)
def test_scheduler_that_lies_is_found_out(answer: Any, words: str) -> None:
    """A plugin cannot over-commit a node; the refusal names it, and the rest goes on."""
    placement = faulty(place=lambda _: answer)
    [effect] = placement.submit(1, cores(2), True, 0.0)
    assert isinstance(effect, RefusedDemand)
    assert effect.kind == "PluginError"
    assert re.search(f"scheduler 'faulty' placed 0 B, 2 cores on node {words}", effect.text)
    assert placement.statistics().refused == 1


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), SystemExit(3)])
def test_scheduler_that_raises_costs_the_demand_that_asked(error: BaseException) -> None:
    """The next one may have better luck."""

    def place(demand: Resources) -> int | None:
        if demand == cores(0.5):
            raise error
        return 0

    placement = faulty(place=place)
    [effect] = placement.submit(1, cores(0.5), True, 0.0)
    assert isinstance(effect, RefusedDemand)
    assert effect.kind == "PluginError"
    assert f"scheduler 'faulty' raised {type(error).__name__}: {error}, in place at " in effect.text
    assert placement.submit(2, cores(0.25), False, 0.0) == [Placed(2, 0)]


def test_scheduler_that_raises_for_one_that_waits_refuses_only_those() -> None:
    """Those behind it in the queue are placed."""
    placement = faulty()
    assert placement.submit(1, cores(1), True, 0.0) == [Placed(1, 0)]
    placement.submit(2, cores(0.5), True, 0.0)
    placement.submit(3, cores(0.5), True, 0.0)
    placement.submit(4, cores(0.25), True, 0.0)
    placement._scheduler.place = lambda demand: fail() if demand == cores(0.5) else 0  # type: ignore[method-assign]
    effects = placement.released(1, 1.0)
    placement.check()
    assert [(effect.demand_id, type(effect).__name__) for effect in effects] == [
        (2, "RefusedDemand"),
        (3, "RefusedDemand"),
        (4, "Placed"),
    ]


@pytest.mark.parametrize("method", ["node_changed", "node_removed"])
def test_scheduler_that_misses_a_change_is_not_asked_any_more(method: str) -> None:
    """Its index is of another world; what runs goes on, and every later demand hears why."""
    placement = faulty(**{method: fail})
    if method == "node_changed":
        assert placement.submit(1, cores(0.5), True, 0.0) == [Placed(1, 0)]
    else:
        placement.node_joined(node(1, cores(1)))
        placement.node_left(1)
    [effect] = placement.submit(2, cores(0.5), True, 0.0)
    assert isinstance(effect, RefusedDemand)
    assert f"scheduler 'faulty' raised ZeroDivisionError: a bug, in {method} at " in effect.text
    assert "it has missed a change, and is not asked any more" in effect.text
    if method == "node_changed":
        assert placement.released(1, 1.0) == []
    placement.check()


def test_release_asks_once_per_distinct_demand() -> None:
    """A long queue of equal demands costs one question."""
    master = Master(cores(2))
    master.spawn(cores(1))
    for _ in range(500):
        master.spawn(cores(2))
    before = master.scheduler.asked
    assert master.placement.released(1, master.now) != []
    assert master.scheduler.asked == before + 2  # the first is placed, the second blocked


def test_release_looks_at_a_bounded_number_of_demands() -> None:
    """So that a queue of many kinds does not slow the master down."""
    master = Master(cores(1000))
    master.spawn(cores(999))
    for count in range(2 * LOOK_AHEAD):
        assert master.spawn(cores(500 + count)) == [Queued(2 + count)]
    before = master.scheduler.asked
    master.placement.cancel(2, master.now)
    assert master.scheduler.asked == before + LOOK_AHEAD


class Model:
    """The rules of the module, written as plainly as they can be, in cost without regard."""

    def __init__(self) -> None:
        self.free: dict[int, Resources] = {}
        self.capacity: dict[int, Resources] = {}
        self.held: dict[int, tuple[int, Resources]] = {}
        self.queue: list[tuple[int, Resources, float]] = []
        self.passed: dict[int, int] = {}

    def find(self, demand: Resources, now: float, head: tuple[int, Resources, float] | None) -> int | None:
        number = next((number for number, free in self.free.items() if demand <= free), None)
        if number is not None and head is not None:
            is_aged = now - head[2] >= AGED_S or self.passed.get(head[0], 0) >= PASSES
            if is_aged and head[1] <= self.capacity[number]:
                return None
            self.passed[head[0]] = self.passed.get(head[0], 0) + 1
        return number

    def place(self, demand_id: int, demand: Resources, number: int) -> Placed:
        self.free[number] -= demand
        self.held[demand_id] = (number, demand)
        return Placed(demand_id, number)

    def fill(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        head = None
        for waiter in list(self.queue):
            number = self.find(waiter[1], now, head)
            if number is None:
                head = head or waiter
            else:
                self.queue.remove(waiter)
                effects.append(self.place(waiter[0], waiter[1], number))
        return effects

    def is_feasible(self, demand: Resources) -> bool:
        return not self.capacity or any(demand <= capacity for capacity in self.capacity.values())

    def submit(self, demand_id: int, demand: Resources, wait: bool, now: float) -> list[Effect]:
        if not self.is_feasible(demand):
            return [RefusedDemand(demand_id, "Infeasible", "")]
        if self.queue and not wait:
            return [RefusedDemand(demand_id, "NoCapacity", "")]
        if all(demand != waiter[1] for waiter in self.queue):
            number = self.find(demand, now, self.queue[0] if self.queue else None)
            if number is not None:
                return [self.place(demand_id, demand, number)]
        if not wait:
            return [RefusedDemand(demand_id, "NoCapacity", "")]
        self.queue.append((demand_id, demand, now))
        return [Queued(demand_id)]

    def released(self, demand_id: int, now: float) -> list[Effect]:
        number, demand = self.held.pop(demand_id)
        self.free[number] += demand
        return self.fill(now)

    def cancel(self, demand_id: int, now: float) -> list[Effect]:
        was_head = bool(self.queue) and self.queue[0][0] == demand_id
        self.queue = [waiter for waiter in self.queue if waiter[0] != demand_id]
        return self.fill(now) if was_head else []

    def node_joined(self, view: NodeView, now: float) -> list[Effect]:
        self.free[view.id] = self.capacity[view.id] = view.capacity
        return [*self.refuse(), *self.fill(now)]

    def node_left(self, number: int, now: float) -> list[Effect]:
        del self.free[number], self.capacity[number]
        gone = [demand_id for demand_id, held in self.held.items() if held[0] == number]
        for demand_id in gone:
            del self.held[demand_id]
        return [*(Displaced(demand_id, number) for demand_id in gone), *self.refuse(), *self.fill(now)]

    def refuse(self) -> list[Effect]:
        refused = [waiter for waiter in self.queue if not self.is_feasible(waiter[1])]
        self.queue = [waiter for waiter in self.queue if waiter not in refused]
        return [RefusedDemand(waiter[0], "Infeasible", "") for waiter in refused]


demands = st.builds(
    Resources.exact,
    st.sampled_from([0, 10, 40]),
    st.sampled_from([0, 1, 2, 5]),
    st.sampled_from([(), (), (("gpu", 1),)]),
)
capacities = st.builds(
    Resources.exact, st.sampled_from([30, 50]), st.sampled_from([2, 6]), st.sampled_from([(), (("gpu", 1),)])
)
dice = st.integers(0, 1000)
steps = st.lists(
    st.tuples(
        st.sampled_from(["spawn", "spawn", "spawn", "try", "release", "release", "cancel", "join", "leave"]),
        demands,
        capacities,
        dice,
        st.sampled_from([0.0, 0.0, 1.0, AGED_S]),
    ),
    max_size=60,
)


def sorted_refusals(effects: list[Effect]) -> list[Effect]:
    """Effects without texts; refusals that come together in no order of theirs."""
    plain = [effect._replace(text="") if isinstance(effect, RefusedDemand) else effect for effect in effects]
    return sorted(
        plain, key=lambda effect: (isinstance(effect, Placed), 0 if isinstance(effect, Placed) else effect.demand_id)
    )


@given(st.lists(capacities, max_size=3), steps)
def test_equals_the_rules_written_plainly(nodes: list[Resources], steps: list[tuple[Any, ...]]) -> None:
    """Same effects in the same order, and the invariants hold after every step: no capacity below zero."""
    placement, model, now, last = Placement(FirstFit(), limited=True), Model(), 100.0, 0
    number = 0
    for capacity in nodes:
        number += 1
        view = node(number, capacity)
        assert placement.node_joined(view, now) == model.node_joined(view, now)
    for kind, demand, capacity, die, seconds in steps:
        now += seconds
        ours: list[Effect] = []
        theirs: list[Effect] = []
        if kind in ("spawn", "try"):
            last += 1
            ours = placement.submit(last, demand, kind == "spawn", now)
            theirs = model.submit(last, demand, kind == "spawn", now)
        elif kind == "release" and model.held:
            demand_id = sorted(model.held)[die % len(model.held)]
            ours, theirs = placement.released(demand_id, now), model.released(demand_id, now)
        elif kind == "cancel" and last:
            demand_id = die % last + 1
            ours, theirs = placement.cancel(demand_id, now), model.cancel(demand_id, now)
        elif kind == "join":
            number += 1
            view = node(number, capacity)
            ours, theirs = placement.node_joined(view, now), model.node_joined(view, now)
        elif kind == "leave" and model.free:
            gone = sorted(model.free)[die % len(model.free)]
            ours, theirs = placement.node_left(gone, now), model.node_left(gone, now)
        assert sorted_refusals(ours) == sorted_refusals(theirs)
        placement.check()
        assert placement.waiting() == [waiter[0] for waiter in model.queue]


@given(steps, st.integers(1, 4))
def test_no_demand_starves(steps: list[tuple[Any, ...]], running: int) -> None:
    """Whatever comes later, and however often, the first in the queue is placed after what ran before it has ended."""
    master = Master(cores(4))
    held = [effect.demand_id for _ in range(running) for effect in master.spawn(cores(4 / running))]
    head = master.last + 1
    assert master.spawn(cores(4)) == [Queued(head)]
    for turn in range(4 * PASSES):
        master.now += steps[turn % len(steps)][4] if steps else 0.1
        held += [effect.demand_id for effect in master.spawn(cores(1)) if isinstance(effect, Placed)]
        effects = master.release(held.pop(0)) if held else []
        held += [effect.demand_id for effect in effects if isinstance(effect, Placed)]
        if Placed(head, 0) in effects:
            return
    raise AssertionError("the head of the queue has starved")


@given(st.lists(st.tuples(st.sampled_from(["spawn", "lend", "take_back", "release"]), demands, dice), max_size=50))
def test_lending_keeps_the_book(steps: list[tuple[str, Resources, int]]) -> None:
    """However shares are lent, taken back and released: memory never below zero, and at the end all is free."""
    master = Master(Resources.exact(100, 6, (("gpu", 2),)), Resources.exact(50, 2))
    held: dict[int, None] = {}

    def note(effects: list[Effect]) -> None:
        held.update((effect.demand_id, None) for effect in effects if isinstance(effect, Placed))

    for kind, demand, die in steps:
        if kind == "spawn":
            note(master.spawn(demand))
        elif held:
            demand_id = list(held)[die % len(held)]
            if kind == "lend":
                note(master.lend(demand_id))
            elif kind == "take_back":
                master.take_back(demand_id)
            else:
                del held[demand_id]
                note(master.release(demand_id))
    while held:
        demand_id = next(iter(held))
        del held[demand_id]
        note(master.release(demand_id))
    assert master.placement.waiting() == []
    assert all(view.free == view.capacity for view in master.scheduler.nodes.values())
