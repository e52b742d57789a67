"""Best fit over an index equals best fit over a list."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core.contracts import NodeView
from constellation.core.plugins import make_plugin_manager
from constellation.core.resources import Resources
from constellation.schedulers.bin_packing import CHUNK, BinPacking


class BruteForce:
    """The rule, over all nodes; a dict keeps the order of joining."""

    def __init__(self) -> None:
        self.nodes: dict[int, NodeView] = {}

    def node_changed(self, node: NodeView) -> None:
        self.nodes[node.id] = node

    def node_removed(self, node_id: int) -> None:
        self.nodes.pop(node_id, None)

    def place(self, demand: Resources) -> int | None:
        fitting = [node for node in self.nodes.values() if demand <= node.free]
        best = min(fitting, key=lambda node: (len(node.capacity.custom), node.free.mem, node.free.cpu), default=None)
        return None if best is None else best.id


def node(number: int, capacity: Resources, free: Resources | None = None) -> NodeView:
    """A node, empty if nothing else is said."""
    return NodeView(number, f"node-{number}", capacity, capacity if free is None else free)


def test_is_the_default_scheduler() -> None:
    """Found through its hook, like anybody's."""
    scheduler = make_plugin_manager().scheduler()
    assert scheduler.name == BinPacking.name == "bin_packing"


def test_chooses_the_node_that_is_filled_most() -> None:
    """Least memory, then least cores, then the first to join."""
    scheduler = BinPacking()
    capacities = [Resources(900, 1), Resources(500, 4), Resources(500, 2), Resources(500, 2), Resources(100, 8)]
    for number, capacity in enumerate(capacities):
        scheduler.node_changed(node(number, capacity))
    assert scheduler.place(Resources(200, 1)) == 2
    assert scheduler.place(Resources(200, 3)) == 1
    assert scheduler.place(Resources(600, 0)) == 0
    assert scheduler.place(Resources(600, 2)) is None
    scheduler.node_removed(2)
    assert scheduler.place(Resources(200, 1)) == 3


def test_leaves_nodes_with_gpus_to_those_who_want_them() -> None:
    """Even if another node is filled less."""
    scheduler = BinPacking()
    scheduler.node_changed(node(0, Resources(100, 1, gpu=1)))
    scheduler.node_changed(node(1, Resources(900, 9)))
    assert scheduler.place(Resources(100, 1)) == 1
    assert scheduler.place(Resources(100, 1, gpu=1)) == 0
    scheduler.node_changed(node(0, Resources(100, 1, gpu=1), Resources(100, 1)))
    assert scheduler.place(Resources(100, 1)) == 1
    assert scheduler.place(Resources(100, 1, gpu=1)) is None


def test_node_that_comes_back_has_joined_last() -> None:
    """Ties go by joining, and it has joined anew."""
    scheduler = BinPacking()
    for number in (0, 1, 0):
        scheduler.node_removed(number)
        scheduler.node_changed(node(number, Resources(100, 1)))
    assert scheduler.place(Resources(1, 1)) == 1


def test_change_does_not_alter_the_order_of_joining() -> None:
    """Filled and emptied again, the first is still the first; another capacity is a change too."""
    scheduler = BinPacking()
    for number in (0, 1):
        scheduler.node_changed(node(number, Resources(100, 1)))
    scheduler.node_changed(node(0, Resources(100, 1), Resources(0, 0)))
    assert scheduler.place(Resources(1, 1)) == 1
    scheduler.node_changed(node(0, Resources(100, 1, gpu=1)))
    assert scheduler.place(Resources(1, 1)) == 1
    scheduler.node_changed(node(0, Resources(100, 1)))
    assert scheduler.place(Resources(1, 1)) == 0


DEMANDS = [
    Resources.exact(mem, cpu, custom)
    for mem in (0, 3, 6, 9, 12)
    for cpu in (0, 2, 4)
    for custom in ((), (("g", 1),), (("g", 2), ("t", 1)))
]
amounts = st.builds(
    Resources.exact,
    st.integers(0, 12),
    st.integers(0, 4),
    st.sampled_from([(), (), (), (("g", 1),), (("t", 1),), (("g", 2), ("t", 2))]),
)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7), amounts, amounts), max_size=20))
def test_equals_brute_force(steps: list[tuple[bool, int, Resources, Resources]]) -> None:
    """For any history of nodes, for many demands after each step."""
    index, brute = BinPacking(), BruteForce()
    for is_change, number, free, used in steps:
        for each in (index, brute):
            if is_change:
                each.node_changed(node(number, free + used, free))
            else:
                each.node_removed(number)
        assert [index.place(demand) for demand in DEMANDS] == [brute.place(demand) for demand in DEMANDS]


def test_ties_between_kinds_go_to_the_first_to_join() -> None:
    """Whichever group is searched first."""
    for first, second in (("gpu", "tpu"), ("tpu", "gpu")):
        scheduler = BinPacking()
        scheduler.node_changed(node(0, Resources(100, 1, **{first: 1})))
        scheduler.node_changed(node(1, Resources(100, 1, **{second: 1})))
        assert scheduler.place(Resources(1, 1)) == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("has_gpus", [True, False])
def test_equals_brute_force_over_many_chunks(seed: int, has_gpus: bool) -> None:
    """Chunks split and join, and their largest amounts stay true."""
    dice = random.Random(seed)
    index, brute = BinPacking(), BruteForce()
    custom = ("gpu", 4) if has_gpus else ("", 0)

    def amounts() -> Resources:
        return Resources.exact(dice.randrange(1000), dice.randrange(20), ((custom[0], dice.randrange(custom[1] + 1)),))

    def tell(number: int) -> None:
        free = amounts()
        view = node(number, free + Resources.exact(0, 0, (custom,)), free)
        index.node_changed(view)
        brute.node_changed(view)

    def compare(count: int) -> None:
        for _ in range(count):
            demand = amounts()
            assert index.place(demand) == brute.place(demand)

    for number in range(5 * CHUNK):
        tell(number)
    compare(10)
    for _ in range(200):
        tell(dice.randrange(5 * CHUNK))
    compare(10)
    for number in dice.sample(range(5 * CHUNK), 5 * CHUNK - 20):
        index.node_removed(number)
        brute.node_removed(number)
        if number % 25 == 0:
            compare(1)
    compare(10)


def test_index_shrinks_with_its_nodes() -> None:
    """No empty chunks or groups are left to search."""
    scheduler = BinPacking()
    for number in range(10 * CHUNK):
        scheduler.node_changed(node(number, Resources.exact(number, number)))
    [(_, group)] = scheduler._search_order
    assert len(group.chunks) <= 10
    for number in range(10 * CHUNK - CHUNK // 2):
        scheduler.node_removed(number)
    assert len(group.chunks) == 1
    for number in range(10 * CHUNK):
        scheduler.node_removed(number)
    assert scheduler._search_order == []
    assert scheduler.place(Resources.exact(0, 0)) is None
