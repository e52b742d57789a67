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


def _of(deployment: int, on: Any = None) -> Where:
    """What is said of a demand of a deployment."""
    return _where(on)._replace(deployment=deployment)


def test_nodes_that_do_not_fit_a_deployment_are_left_out_for_its_demands_alone() -> None:
    """The scheduler's choice is n1, and stays so for others; where only what is left out has room, a demand waits."""
    made = _placement()
    assert made.leave_out(7, 1) == []
    assert made.submit(1, SMALL, True, 0.0, _of(7)) == [Placed(1, 2)]
    assert made.submit(2, SMALL, True, 0.0, _of(8)) == [Placed(2, 1)]
    made.leave_out(7, 3)
    assert made.submit(3, Resources(mem=185, cpu=0.1), True, 0.0, _of(7)) == [Placed(3, 2)]
    assert made.submit(4, Resources(mem=100, cpu=0.1), True, 0.0, _of(7)) == [Queued(4)]
    assert made.released(3, 1.0) == [Placed(4, 2)]
    made.check()


def test_a_demand_that_only_a_left_out_node_could_hold_is_refused() -> None:
    """At once, and where it waited too; the words tell what does not fit from what is too small."""
    made = _placement()
    made.leave_out(7, 3)
    (refused,) = made.submit(1, Resources(mem=250, cpu=0.1), True, 0.0, _of(7))
    assert isinstance(refused, RefusedDemand)
    assert "the largest node that the program fits has 200 B, 2 cores (n2)" in refused.text
    (named,) = made.submit(2, SMALL, True, 0.0, _of(7, "n3"))
    assert isinstance(named, RefusedDemand)
    assert "on node n3: the program does not fit n3" in named.text
    whole = Resources(mem=200, cpu=0.1)
    assert made.submit(3, whole, True, 0.0, _of(7)) == [Placed(3, 2)]
    assert made.submit(4, whole, True, 0.0, _of(7)) == [Queued(4)]
    (last,) = made.leave_out(7, 2)
    assert isinstance(last, RefusedDemand)
    assert last.demand_id == 4
    made.leave_out(7, 1)
    (nowhere,) = made.submit(5, SMALL, True, 0.0, _of(7))
    assert isinstance(nowhere, RefusedDemand)
    assert "the program does not fit n1, n2, n3" in nowhere.text
    made.check()


def test_a_node_that_is_left_out_before_it_joins_takes_no_waiting_demand() -> None:
    """And one that comes back has been mended, until somebody says otherwise; a deployment that is over is forgotten."""
    made = _placement()
    for node in (1, 2, 3):
        made.submit(node, Resources(mem=100 * node, cpu=0.1), True, 0.0)
    assert made.submit(4, SMALL, True, 0.0, _of(7)) == [Queued(4)]
    made.leave_out(7, 4)
    capacity = Resources(mem=100, cpu=1)
    assert made.node_joined(NodeView(4, "n4", capacity, capacity)) == []
    made.node_left(4)
    assert made.node_joined(NodeView(4, "n4", capacity, capacity)) == [Placed(4, 4)]
    made.leave_out(7, 4)
    made.forget_deployment(7)
    assert made.submit(5, SMALL, True, 0.0, _of(7)) == [Placed(5, 4)]
    made.check()
