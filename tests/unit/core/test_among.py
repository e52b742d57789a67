"""Choosing a node out of some, for schedulers that can do so and for those that cannot."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from constellation.core.among import place_among
from constellation.core.contracts import NodeView
from constellation.core.resources import Resources
from constellation.schedulers.bin_packing import BinPacking


class Unable:
    """Knows only how to choose out of all, and must not be asked here."""

    name = "unable"

    def node_changed(self, node: NodeView) -> None:
        raise AssertionError

    def node_removed(self, node_id: int) -> None:
        raise AssertionError

    def place(self, demand: Resources) -> int | None:
        raise AssertionError


class Able(BinPacking):
    """Says what it was asked, and gives node 5."""

    def place_among(self, demand: Resources, allowed: Collection[int], near: int | None = None) -> int | None:
        assert (demand, allowed, near) == (Resources(1, 1), {4, 5}, 4)
        return 5


NODES = {
    number: NodeView(number, f"node-{number}", capacity, free)
    for number, (capacity, free) in enumerate([
        (Resources(100, 8), Resources(80, 8)),
        (Resources(100, 8), Resources(40, 8)),
        (Resources(100, 8), Resources(40, 2)),
        (Resources(100, 8, gpu=1), Resources(30, 2, gpu=1)),
    ])
}  # fmt: skip


@pytest.mark.parametrize(
    ("demand", "allowed", "near", "chosen"),
    [
        (Resources(10, 1), {0, 1, 2, 3}, None, 2),
        (Resources(10, 1), {0, 1}, None, 1),
        (Resources(10, 1), {0, 3}, None, 0),
        (Resources(10, 1, gpu=1), {0, 3}, None, 3),
        (Resources(50, 1), {1, 2, 3}, None, None),
        (Resources(10, 1), {0, 1, 2, 3}, 0, 0),
        (Resources(10, 1), {1, 2}, 0, 2),
        (Resources(50, 1), {0, 1}, 1, 0),
        (Resources(10, 1), {0, 9}, 9, 0),
        (Resources(10, 1), set[int](), None, None),
    ],
)
def test_a_scheduler_that_cannot_choose_out_of_some_is_helped(
    demand: Resources, allowed: set[int], near: int | None, chosen: int | None
) -> None:
    """Best fit over the nodes that come into question, or the very node near which the process is wanted."""
    assert place_among(Unable(), demand, allowed, near, NODES.get) == chosen


def test_a_scheduler_that_can_is_asked() -> None:
    """Its answer is the answer."""
    assert place_among(Able(), Resources(1, 1), {4, 5}, 4, NODES.get) == 5
