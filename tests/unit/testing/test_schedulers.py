"""The conformance suite finds each fault that it is there for."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from constellation.core.contracts import NodeView
from constellation.core.resources import Resources
from constellation.testing.schedulers import check_scheduler


class Plain:
    """A scheduler without fault, to derive faulty ones from."""

    name = "plain"

    def __init__(self) -> None:
        self.nodes: dict[int, NodeView] = {}

    def node_changed(self, node: NodeView) -> None:
        self.nodes[node.id] = node

    def node_removed(self, node_id: int) -> None:
        del self.nodes[node_id]

    def fitting(self, demand: Resources) -> list[NodeView]:
        return [node for node in self.nodes.values() if demand <= node.free]

    def place(self, demand: Resources) -> Any:
        return next((node.id for node in self.fitting(demand)), None)


def test_scheduler_without_fault_passes() -> None:
    """Not only the built-in one."""
    check_scheduler(Plain)


class WithoutName(Plain):
    """Cannot be selected."""

    name = ""


class Guesses(Plain):
    """Has an answer where there is none."""

    def place(self, demand: Resources) -> Any:
        return super().place(demand) or 0


class KeepsSomeRoom(Plain):
    """Never fills a node."""

    def fitting(self, demand: Resources) -> list[NodeView]:
        return [node for node in self.nodes.values() if demand < node.free]


class IgnoresCustom(Plain):
    """Takes a demand for gpus to any node."""

    def fitting(self, demand: Resources) -> list[NodeView]:
        return super().fitting(Resources.exact(demand.mem, demand.cpu_millionths))


class IgnoresMissingCustom(Plain):
    """Takes a demand for what nobody has as one for nothing."""

    def fitting(self, demand: Resources) -> list[NodeView]:
        known = {name for node in self.nodes.values() for name in node.capacity.custom}
        custom = tuple(item for item in demand.custom_millionths if item[0] in known)
        return super().fitting(Resources.exact(demand.mem, demand.cpu_millionths, custom))


class NeverForgets(Plain):
    """Chooses nodes that have gone."""

    def node_removed(self, node_id: int) -> None:
        pass


class ForgetsForEver(Plain):
    """Does not know a node that comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.gone: set[int] = set()

    def node_removed(self, node_id: int) -> None:
        self.gone.add(node_id)

    def fitting(self, demand: Resources) -> list[NodeView]:
        return [node for node in super().fitting(demand) if node.id not in self.gone]


class CountsByItself(Plain):
    """Takes room away that the master takes away, too."""

    def place(self, demand: Resources) -> Any:
        node_id = super().place(demand)
        if node_id is not None:
            node = self.nodes[node_id]
            self.nodes[node_id] = node._replace(free=node.free - demand)
        return node_id


class LooksAtSome(Plain):
    """Does not see most nodes."""

    def fitting(self, demand: Resources) -> list[NodeView]:
        return [node for node in list(self.nodes.values())[:5] if demand <= node.free]


class SeesJoiningOnly(Plain):
    """Does not hear of what is free."""

    def node_changed(self, node: NodeView) -> None:
        self.nodes.setdefault(node.id, node)


class MakesNodesUp(Plain):
    """Chooses a node that there is not."""

    def place(self, demand: Resources) -> Any:
        node_id = super().place(demand)
        return 5000 if node_id is not None and len(self.nodes) > 3 and demand.mem > 200 else node_id


class Throws(Plain):
    """Chooses otherwise each time."""

    made = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.number = next(self.made)

    def place(self, demand: Resources) -> Any:
        fitting = self.fitting(demand)
        return fitting[self.number % len(fitting)].id if fitting else None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (WithoutName, "has_a_name: name is ''"),
        (Guesses, "places_nothing_without_nodes: without nodes it chose 0: expected None"),
        (KeepsSomeRoom, "chooses_the_only_node: .* it chose None for all of it: expected 7"),
        (IgnoresCustom, "counts_custom_amounts: only node 2 has two gpus, it chose 0: expected 2"),
        (IgnoresMissingCustom, "counts_custom_amounts: no node has a tpu, it chose 0: expected None"),
        (NeverForgets, "forgets_nodes_that_have_gone: the only node has gone, it chose 1: expected None"),
        (ForgetsForEver, "forgets_nodes_that_have_gone: node 1 is back and larger, it chose None: expected 1"),
        (CountsByItself, r"place_changes_nothing: it chose \d+, then \d+ with no change between"),
        (LooksAtSome, r"finds_room_where_there_is_some: it found no room for .*: node \d+ has "),
        (SeesJoiningOnly, r"finds_room_where_there_is_some: it chose node \d+ for .*: free there: "),
        (MakesNodesUp, "finds_room_where_there_is_some: it chose 5000 for .*: no such node"),
        (Throws, r"equal_histories_give_equal_answers: at question \d+ of the same history it chose \d+, then \d+"),
    ],
)
def test_fault_is_found(make: type[Plain], words: str) -> None:
    """By the check of that name, with what was seen."""
    with pytest.raises(AssertionError, match=words):
        check_scheduler(make)
