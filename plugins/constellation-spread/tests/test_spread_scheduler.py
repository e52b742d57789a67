"""The schedulers keep the contract, and their rules: which domain, which node, what near means."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection

import pytest
from constellation_spread import Pack, Spread, register_schedulers
from constellation_spread.index import Room
from hypothesis import given
from hypothesis import strategies as st

from constellation.core.placement import Placed, Placement, Queued
from constellation.plugin import NodeView, Resources, UsageError
from constellation.testing import SCHEDULER_CHECKS, check_scheduler

WHOLE = Resources(1000, 8)
BY = ("zone", "rack")
POLICIES = [Spread, Pack]
MAKERS: dict[str, Callable[[], Spread]] = {
    "spread": Spread,
    "spread by rack": lambda: Spread(["rack"]),
    "spread by zone, rack": lambda: Spread(BY),
    "pack": Pack,
    "pack by zone, rack": lambda: Pack(BY),
}


def node(number: int, labels: dict[str, str], free: Resources | None = None, capacity: Resources = WHOLE) -> NodeView:
    """A node with labels."""
    return NodeView(number, f"node-{number}", capacity, free or capacity, tuple(sorted(labels.items())))


def fleet(zones: int, racks: int, nodes: int) -> list[NodeView]:
    """So many nodes in each of so many racks in each zone, in the order of their numbers."""
    places = [(zone, rack) for zone in range(zones) for rack in range(racks) for _ in range(nodes)]
    return [node(number, {"zone": f"z{zone}", "rack": f"z{zone}r{rack}"}) for number, (zone, rack) in enumerate(places)]


class Fleet:
    """A scheduler and what it was told."""

    def __init__(self, scheduler: Spread, views: list[NodeView]) -> None:
        self.scheduler = scheduler
        self.views = {view.id: view for view in views}
        for view in views:
            scheduler.node_changed(view)

    def take(self, number: int, demand: Resources) -> None:
        """Hold a demand on a node."""
        self.views[number] = view = self.views[number]._replace(free=self.views[number].free - demand)
        self.scheduler.node_changed(view)

    def place(self, demand: Resources) -> int | None:
        """Ask, and hold."""
        number = self.scheduler.place(demand)
        if number is not None:
            self.take(number, demand)
        return number

    def label(self, number: int | None, name: str) -> str:
        """What a node says of itself."""
        assert number is not None
        return dict(self.views[number].labels)[name]


@pytest.mark.parametrize("check", SCHEDULER_CHECKS, ids=lambda check: str(check.__name__))
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_scheduler_keeps_the_contract(
    make: Callable[[], Spread], check: Callable[[Callable[[], Spread]], None]
) -> None:
    """Each check of the public suite, for each scheduler with and without labels."""
    check(make)


def test_registered_schedulers_keep_the_contract() -> None:
    """What the hook gives, by the option's labels."""
    spread, pack = register_schedulers({"by": "zone, rack"})
    assert (spread.name, pack.name) == ("spread", "pack")
    check_scheduler(lambda: register_schedulers({"by": "zone, rack"})[0])
    check_scheduler(lambda: register_schedulers({"by": ""})[1])


@pytest.mark.parametrize("by", ["zone,", ",", "rack,rack"])
def test_labels_that_make_no_sense_are_refused(by: str) -> None:
    """The value and what was expected are said."""
    with pytest.raises(UsageError, match="expected names of labels, such as zone,rack"):
        register_schedulers({"by": by})


def test_spread_fills_the_domains_evenly_level_by_level() -> None:
    """Of 12 equal demands each zone gets 4, each rack 2, each node 1, and the first three are in three zones."""
    racks = Fleet(Spread(BY), fleet(zones=3, racks=2, nodes=2))
    placed = [racks.place(Resources(100, 1)) for _ in range(12)]
    assert Counter(racks.label(number, "zone") for number in placed) == {"z0": 4, "z1": 4, "z2": 4}
    assert set(Counter(racks.label(number, "rack") for number in placed).values()) == {2}
    assert set(Counter(placed).values()) == {1}
    assert [racks.label(number, "zone") for number in placed[:3]] == ["z0", "z1", "z2"]


def test_spread_counts_what_a_domain_holds_and_not_its_share() -> None:
    """A rack with four times the nodes gets no more while the small one has room, and all after that."""
    views = [node(0, {"rack": "small"}), *[node(number, {"rack": "large"}) for number in range(1, 5)]]
    racks = Fleet(Spread(["rack"]), views)
    placed = [racks.label(racks.place(Resources(250, 1)), "rack") for _ in range(12)]
    assert Counter(placed[:8]) == {"small": 4, "large": 4}
    assert placed[8:] == ["large"] * 4


def test_pack_fills_one_domain_before_the_next() -> None:
    """Twelve demands on racks of two nodes with four places each: one rack full, the next one half."""
    racks = Fleet(Pack(BY), fleet(zones=2, racks=2, nodes=2))
    placed = [racks.place(Resources(250, 1)) for _ in range(12)]
    assert [racks.label(number, "rack") for number in placed] == ["z0r0"] * 8 + ["z0r1"] * 4
    assert placed[:4] == [0] * 4


@pytest.mark.parametrize("make", POLICIES)
def test_nodes_with_gpus_are_left_alone(make: Callable[[], Spread]) -> None:
    """A demand without gpus takes a node without, though the other one is the better place else."""
    gpus = Resources(1000, 8, gpu=2)
    nodes = Fleet(make(), [node(0, {}, capacity=gpus), node(1, {})])
    assert [nodes.place(Resources(250, 1)) for _ in range(5)] == [1, 1, 1, 1, 0]
    assert nodes.place(Resources(1, 1, gpu=2)) == 0


@pytest.mark.parametrize("make", POLICIES)
def test_a_node_without_the_label_is_a_domain_by_itself(make: Callable[[list[str]], Spread]) -> None:
    """Two nodes that say nothing are not one rack, nor are they a rack named as the other's number."""
    views = [node(0, {"rack": "1"}), node(1, {}), node(2, {})]
    racks = Fleet(make(["rack"]), views)
    placed = [racks.place(Resources(500, 1)) for _ in range(6)]
    assert sorted(Counter(placed).items()) == [(0, 2), (1, 2), (2, 2)]
    assert placed == ([0, 1, 2] * 2 if make is Spread else [0, 0, 1, 1, 2, 2])


def test_near_takes_the_smallest_domain_around_that_has_room() -> None:
    """The node itself, then its rack, then its zone, then anywhere."""
    views = fleet(zones=2, racks=2, nodes=2)
    racks = Fleet(Spread(BY), views)
    allowed = set(racks.views)
    chosen = []
    for _ in range(8):
        number = racks.scheduler.place_among(Resources(1000, 1), allowed, 5)
        assert number is not None
        racks.take(number, Resources(1000, 1))
        chosen.append(number)
    assert chosen[:2] == [5, 4]
    assert set(chosen[2:4]) == {6, 7}
    assert set(chosen[4:]) == {0, 1, 2, 3}
    assert racks.scheduler.place_among(Resources(1000, 1), allowed, 5) is None


def test_near_a_node_that_has_gone_is_anywhere() -> None:
    """A wish that cannot be met is no refusal."""
    racks = Fleet(Spread(BY), fleet(1, 2, 1))
    racks.scheduler.node_removed(0)
    assert racks.scheduler.place_among(WHOLE, {0, 1}, 0) == 1


def test_a_node_may_come_back_with_other_labels() -> None:
    """It is then in the other rack, and the first one holds nothing of it."""
    scheduler = Spread(["rack"])
    racks = Fleet(scheduler, [node(0, {"rack": "a"}), node(1, {"rack": "b"})])
    racks.take(0, Resources(500, 1))
    scheduler.node_changed(node(0, {"rack": "b"}, free=Resources(500, 7)))
    scheduler.node_changed(node(2, {"rack": "a"}))
    assert scheduler.place(Resources(100, 1)) == 2
    scheduler.node_removed(0)
    scheduler.node_changed(node(2, {"rack": "a"}, free=Resources(900, 7)))
    assert scheduler.place(Resources(100, 1)) == 1


class _AllBut(Collection[int]):
    """As the core says "not on that node": quick to ask, slow to walk."""

    def __init__(self, count: int, missing: int) -> None:
        self._count, self._missing = count, missing

    def __len__(self) -> int:
        return self._count - 1

    def __contains__(self, number: object) -> bool:
        return number != self._missing

    def __iter__(self) -> object:  # type: ignore[override]  # nobody may
        raise AssertionError("walked through")


def test_a_place_is_found_without_a_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over 20,000 nodes most of which are in use, an answer looks at less than one in a hundred."""
    dice = random.Random(1)
    scheduler = Spread(BY)
    for view in fleet(zones=10, racks=40, nodes=50):
        used = dice.randrange(1000)
        scheduler.node_changed(view._replace(free=Resources(1000 - used, dice.randrange(8))))
    looks = 0
    holds = Room.holds

    def counted(room: Room, asked: Room) -> bool:
        nonlocal looks
        looks += 1
        return holds(room, asked)

    monkeypatch.setattr(Room, "holds", counted)
    for mem in (1, 500, 990, 1001):
        scheduler.place(Resources(mem, 2))
        scheduler.place_among(Resources(mem, 2), _AllBut(20_000, 7), 7)
    assert looks < 8 * 200


amounts = st.builds(Resources, st.sampled_from([0, 1, 100, 300, 1000]), st.sampled_from([0, 0.5, 2, 8]))
labels = st.fixed_dictionaries(
    {}, optional={"zone": st.sampled_from(["a", "b"]), "rack": st.sampled_from(["1", "2", "3"])}
)


@given(
    st.sampled_from(POLICIES),
    st.lists(st.tuples(labels, st.sampled_from([Resources(300, 2), WHOLE])), min_size=1, max_size=12),
    st.lists(st.tuples(amounts, st.none() | st.integers(0, 12)), max_size=30),
    st.sets(st.integers(0, 11)),
)
def test_search_and_comparison_agree(
    make: Callable[[tuple[str, ...]], Spread],
    nodes: list[tuple[dict[str, str], Resources]],
    asked: list[tuple[Resources, int | None]],
    few: set[int],
) -> None:
    """Which nodes come into question decides how they are looked at, and never what is found."""
    searching, comparing = make(BY), make(BY)
    views = [node(number, own, capacity=capacity) for number, (own, capacity) in enumerate(nodes)]
    one, two = Fleet(searching, views), Fleet(comparing, views)
    for demand, near in asked:
        beside = None if near is None else comparing._nodes.get(near)
        want = (demand.mem, demand.cpu_millionths)
        for allowed in (few & set(one.views), set(one.views)):
            compared = comparing._compare(Room(*want), allowed, beside)
            assert searching.place_among(demand, allowed, near) == compared
            having = [number for number in allowed if demand <= one.views[number].free]
            assert (compared is None) == (not having)
            assert compared is None or compared in having
        chosen = searching.place(demand)
        if chosen is not None:
            one.take(chosen, demand)
            two.take(chosen, demand)


@given(
    st.sampled_from(list(MAKERS.values())),
    st.lists(st.tuples(labels, st.sampled_from([Resources(300, 2), WHOLE])), min_size=1, max_size=6),
    st.lists(st.tuples(amounts, st.integers(0, 3)), max_size=40),
)
def test_no_demand_starves(
    make: Callable[[], Spread], nodes: list[tuple[dict[str, str], Resources]], asked: list[tuple[Resources, int]]
) -> None:
    """As long as what is placed ends some day, each demand that some node can hold is placed, whatever came between."""
    placement = Placement(make(), limited=True)
    for number, (own, capacity) in enumerate(nodes):
        placement.node_joined(node(number, own, capacity=capacity))
    placed: list[int] = []
    queued: set[int] = set()

    def note(effects: list[object]) -> None:
        for effect in effects:
            if isinstance(effect, Placed):
                placed.append(effect.demand_id)
                queued.discard(effect.demand_id)
            elif isinstance(effect, Queued):
                queued.add(effect.demand_id)

    for number, (demand, ends) in enumerate(asked):
        note([*placement.submit(number, demand, wait=True, now=float(number))])
        for _ in range(min(ends, len(placed))):
            note([*placement.released(placed.pop(0), now=float(number))])
        placement.check()
    for step in range(len(asked)):
        if not placed:
            break
        note([*placement.released(placed.pop(0), now=float(len(asked) + step))])
    assert queued == set()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_demand_for_a_whole_node_gets_it_under_a_stream_of_small_ones(make: Callable[[], Spread]) -> None:
    """Spreading keeps every node partly in use: the queue's ageing empties one all the same."""
    placement = Placement(make(), limited=True)
    for view in fleet(2, 2, 1):
        placement.node_joined(view)
    small, running = Resources(100, 0.5), []
    for number in range(36):
        placement.submit(number, small, wait=True, now=0.0)
        running.append(number)
    assert placement.submit(1000, WHOLE, wait=True, now=0.0) == [Queued(1000)]
    for number in range(36, 300):
        now = number / 10
        effects = placement.released(running.pop(0), now)
        effects += placement.submit(number, small, wait=True, now=now)
        running += [effect.demand_id for effect in effects if isinstance(effect, Placed)]
        if 1000 in running:
            return
    pytest.fail("the whole node was never given")
