"""Where a process may run: what a program says, what travels, what a node fulfils, and how the queue minds it."""

from __future__ import annotations

from typing import Any

import pytest

from constellation.core.contracts import NodeView
from constellation.core.errors import UsageError
from constellation.core.pid import Pid
from constellation.core.placement import Placed, Placement, Queued, RefusedDemand
from constellation.core.resources import Resources
from constellation.core.where import AwayFrom, Where, fields_of, from_fields
from constellation.schedulers.bin_packing import BinPacking

HERE = Pid(2, 7, bytes(16))
SMALL = Resources(mem=10, cpu=0.1)


def _placement() -> Placement:
    """Three nodes: n1 in rack a, n2 and n3 in rack b."""
    made = Placement(BinPacking(), limited=True)
    for number, rack in ((1, "a"), (2, "b"), (3, "b")):
        capacity = Resources(mem=100 * number, cpu=number)
        made.node_joined(NodeView(number, f"n{number}", capacity, capacity, (("rack", rack),)))
    return made


def _where(on: Any) -> Where:
    return from_fields(fields_of(on))


@pytest.mark.parametrize(
    ("on", "fulfilled"),
    [
        (None, [1, 2, 3]),
        ("n2", [2]),
        ("rack=b", [2, 3]),
        (HERE, [2]),
        (AwayFrom(HERE), [1, 3]),
        (["rack=b", AwayFrom(HERE)], [3]),
        (["n1", "n2"], []),
        ([HERE, AwayFrom(HERE)], []),
        ("elsewhere", []),
    ],
)
def test_each_condition_picks_its_nodes(on: Any, fulfilled: list[int]) -> None:
    """By name, label, the same node, another node, all at once."""
    where = _where(on)
    labels = {1: "a", 2: "b", 3: "b"}
    assert [n for n, rack in labels.items() if where.allows(n, f"n{n}", (("rack", rack),))] == fulfilled


@pytest.mark.parametrize("on", [3, "", [" "], [3], AwayFrom("x"), {"rack": "a"}, ["n1"] * 65])  # type: ignore[arg-type]
def test_what_cannot_be_read_is_refused_with_the_forms(on: Any) -> None:
    """The message says what is expected."""
    with pytest.raises(UsageError, match="expected the name of a node"):
        fields_of(on)


@pytest.mark.parametrize("fields", [[["name"]], [["name", 3]], [["with", b"x"]], [3], [["name", "a"]] * 65])
def test_hostile_fields_are_refused(fields: list[Any]) -> None:
    """What comes over the wire is checked."""
    with pytest.raises(ValueError, match=r"."):
        from_fields(fields)


def test_a_demand_goes_where_it_may_and_nowhere_else() -> None:
    """The scheduler's own choice, best fit, would be n1."""
    made = _placement()
    assert made.submit(1, SMALL, True, 0.0, _where("n3")) == [Placed(1, 3)]
    assert made.submit(2, SMALL, True, 0.0, _where(["rack=b", AwayFrom(Pid(3, 1, bytes(16)))])) == [Placed(2, 2)]
    made.check()


def test_a_demand_for_a_full_node_waits_for_that_node_and_holds_up_nobody() -> None:
    """It is queued; what may be elsewhere goes by; when the node has room it is first."""
    made = _placement()
    whole = Resources(mem=100, cpu=0.1)
    assert made.submit(1, whole, True, 0.0, _where("n1")) == [Placed(1, 1)]
    assert made.submit(2, whole, True, 0.0, _where("n1")) == [Queued(2)]
    assert made.submit(3, whole, True, 0.0) == [Placed(3, 2)]
    assert made.submit(4, whole, False, 0.0, _where("n1"))[0].demand_id == 4
    assert made.released(1, 1.0) == [Placed(2, 1)]
    made.check()


def test_what_no_node_fulfils_is_refused_by_name() -> None:
    """Infeasible at once, with the nodes that there are; and when the only one that did leaves."""
    made = _placement()
    (refused,) = made.submit(1, SMALL, True, 0.0, _where("nowhere"))
    assert isinstance(refused, RefusedDemand)
    assert refused.kind == "Infeasible"
    assert "on node nowhere: there is no such node among n1, n2, n3" in refused.text
    (large,) = made.submit(2, Resources(mem=150, cpu=0.1), True, 0.0, _where("n1"))
    assert isinstance(large, RefusedDemand)
    assert "the largest such node has 100 B" in large.text
    made.submit(3, Resources(mem=100, cpu=0.1), True, 0.0, _where("n1"))
    made.submit(4, Resources(mem=100, cpu=0.1), True, 0.0, _where("n1"))
    effects = made.node_left(1, 1.0)
    assert [type(effect).__name__ for effect in effects] == ["Displaced", "RefusedDemand"]
    made.check()


def test_a_draining_node_takes_nothing_more() -> None:
    """What it holds stays; its name is then nowhere."""
    made = _placement()
    assert made.submit(1, SMALL, True, 0.0, _where("n1")) == [Placed(1, 1)]
    made.drain(1)
    assert made.submit(2, SMALL, True, 0.0) == [Placed(2, 2)]
    assert isinstance(made.submit(3, SMALL, True, 0.0, _where("n1"))[0], RefusedDemand)
    assert made.released(1, 1.0) == []
    made.check()
    made.node_left(1)
    made.check()
