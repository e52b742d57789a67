"""Faults planted in a right scheduler: each is found by the check of the promise that it breaks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from typing import Any

import pytest

from constellation.plugin import NodeView, Resources, Scheduler
from constellation.schedulers.bin_packing import BinPacking
from constellation.testing import SCHEDULER_CHECKS, BrokenPromise, check_scheduler

FAULTS: list[tuple[str, type[Scheduler]]] = []
"""The name of a check, and a scheduler that breaks its promise."""


def found_by(check: str) -> Callable[[Any], Any]:
    """Mark a faulty scheduler with the check that must find it."""

    def mark(faulty: Any) -> Any:
        FAULTS.append((check, faulty))
        return faulty

    return mark


@found_by("does_not_look_at_every_node")
class WalksAllNodes:
    """The simplest scheduler, right in all else, to derive faulty ones from."""

    name = "walks"

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


@found_by("says_what_it_is")
class HasNoName(WalksAllNodes):
    """Cannot be selected."""

    name = ""


@found_by("places_nothing_without_nodes")
class Guesses(WalksAllNodes):
    """Has an answer where there is none."""

    def place(self, demand: Resources) -> Any:
        return super().place(demand) or 0


@found_by("chooses_the_only_node")
class KeepsSomeRoom(WalksAllNodes):
    """Never fills a node."""

    def fitting(self, demand: Resources) -> list[NodeView]:
        return [node for node in self.nodes.values() if demand < node.free]


@found_by("chooses_the_only_node")
class GivesTheView(WalksAllNodes):
    """Instead of the id."""

    def place(self, demand: Resources) -> Any:
        return next(iter(self.fitting(demand)), None)


@found_by("counts_custom_amounts")
class IgnoresCustom(WalksAllNodes):
    """Takes a demand for gpus to any node."""

    def fitting(self, demand: Resources) -> list[NodeView]:
        return super().fitting(Resources.exact(demand.mem, demand.cpu_millionths))


@found_by("counts_custom_amounts")
class IgnoresMissingCustom(WalksAllNodes):
    """Takes a demand for what nobody has as one for nothing."""

    def fitting(self, demand: Resources) -> list[NodeView]:
        known = {name for node in self.nodes.values() for name in node.capacity.custom}
        custom = tuple(item for item in demand.custom_millionths if item[0] in known)
        return super().fitting(Resources.exact(demand.mem, demand.cpu_millionths, custom))


@found_by("forgets_nodes_that_have_gone")
class NeverForgets(WalksAllNodes):
    """Chooses nodes that have gone."""

    def node_removed(self, node_id: int) -> None:
        pass


@found_by("forgets_nodes_that_have_gone")
class ForgetsForEver(WalksAllNodes):
    """Does not know a node that comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.gone: set[int] = set()

    def node_removed(self, node_id: int) -> None:
        self.gone.add(node_id)

    def fitting(self, demand: Resources) -> list[NodeView]:
        return [node for node in super().fitting(demand) if node.id not in self.gone]


@found_by("place_changes_nothing")
class CountsByItself(WalksAllNodes):
    """Takes room away that the master takes away, too."""

    def place(self, demand: Resources) -> Any:
        node_id = super().place(demand)
        if node_id is not None:
            node = self.nodes[node_id]
            self.nodes[node_id] = node._replace(free=node.free - demand)
        return node_id


@found_by("place_changes_nothing")
class TakesTurns(WalksAllNodes):
    """Goes round without being told of anything."""

    turn = 0

    def place(self, demand: Resources) -> Any:
        fitting = self.fitting(demand)
        self.turn += 1
        return fitting[self.turn % len(fitting)].id if fitting else None


@found_by("places_only_where_there_is_room")
class PlacesOnFullNodes(WalksAllNodes):
    """Looks at what a node has, and not at what is free."""

    def fitting(self, demand: Resources) -> list[NodeView]:
        return [node for node in self.nodes.values() if demand <= node.capacity]


@found_by("places_only_where_there_is_room")
class SeesJoiningOnly(WalksAllNodes):
    """Does not hear of what is free."""

    def node_changed(self, node: NodeView) -> None:
        self.nodes.setdefault(node.id, node)


@found_by("places_only_where_there_is_room")
class MakesNodesUp(WalksAllNodes):
    """Chooses a node that there is not."""

    def place(self, demand: Resources) -> Any:
        node_id = super().place(demand)
        return 5000 if node_id is not None and len(self.nodes) > 3 and demand.mem > 200 else node_id


@found_by("finds_room_where_there_is_some")
class LooksAtSome(WalksAllNodes):
    """Does not see most nodes."""

    def fitting(self, demand: Resources) -> list[NodeView]:
        return [node for node in list(self.nodes.values())[:5] if demand <= node.free]


@found_by("finds_room_where_there_is_some")
class AddsRoomUp(WalksAllNodes):
    """Asks whether all nodes together have room, and then only the one with most memory."""

    def fitting(self, demand: Resources) -> list[NodeView]:
        largest = max(self.nodes.values(), key=lambda node: node.free.mem, default=None)
        return [largest] if largest is not None and demand <= largest.free else []


@found_by("equal_histories_give_equal_answers")
class Throws(WalksAllNodes):
    """Chooses otherwise each time it is made."""

    made = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.number = next(self.made)

    def place(self, demand: Resources) -> Any:
        fitting = self.fitting(demand)
        return fitting[self.number % len(fitting)].id if fitting else None


@found_by("big_demands_get_their_turn")
class StarvesBigDemands(WalksAllNodes):
    """Remembers that a demand found no room, and asks no more: nothing would come of it."""

    def __init__(self) -> None:
        super().__init__()
        self.hopeless: set[int] = set()

    def place(self, demand: Resources) -> Any:
        if demand.mem in self.hopeless:
            return None
        answer = super().place(demand)
        if answer is None and demand.mem >= 1000:
            self.hopeless.add(demand.mem)
        return answer


@found_by("does_not_look_at_every_node")
class SortsInPython(BinPacking):
    """Answers from an index, and walks when it is told of a change."""

    def __init__(self) -> None:
        super().__init__()
        self.views: dict[int, NodeView] = {}

    def node_changed(self, node: NodeView) -> None:
        self.views[node.id] = node
        if node.free.cpu_millionths > 500_000 and len(self.views) > 50:
            self.order = sorted(self.views.values(), key=lambda view: view.free.mem)
        super().node_changed(node)


class ChoosesAmong(WalksAllNodes):
    """A right `place_among`, to derive faulty ones from."""

    def place_among(self, demand: Resources, allowed: Collection[int], near: int | None = None) -> Any:
        return next((node.id for node in self.fitting(demand) if node.id in allowed), None)


@found_by("chooses_among_those_allowed")
class IgnoresWhatIsAllowed(ChoosesAmong):
    """Knows better."""

    def place_among(self, demand: Resources, allowed: Collection[int], near: int | None = None) -> Any:
        return self.place(demand)


@found_by("chooses_among_those_allowed")
class LooksAtTheFirstOnly(ChoosesAmong):
    """The best of all, if it is allowed."""

    def place_among(self, demand: Resources, allowed: Collection[int], near: int | None = None) -> Any:
        best = self.place(demand)
        return best if best in allowed else None


@found_by("chooses_among_those_allowed")
class TakesNearForACondition(ChoosesAmong):
    """There, or nowhere."""

    def place_among(self, demand: Resources, allowed: Collection[int], near: int | None = None) -> Any:
        return super().place_among(demand, allowed if near is None else [near])


def test_enough_faults_are_planted() -> None:
    """Every check is there for a fault that it finds."""
    assert {check for check, _ in FAULTS} == {str(check) for check in SCHEDULER_CHECKS}


@pytest.mark.parametrize(("check", "faulty"), FAULTS, ids=[faulty.__name__ for _, faulty in FAULTS])
def test_fault_is_found(check: str, faulty: type[Scheduler]) -> None:
    """By the check of that name, in words that say what was promised and how to repeat it."""
    by_name = {str(each): each for each in SCHEDULER_CHECKS}
    with pytest.raises(BrokenPromise) as caught:
        by_name[check](faulty)
    assert caught.value.seen
    assert f"to repeat: {check}(make, seed=0)" in str(caught.value)
    with pytest.raises(BrokenPromise):
        check_scheduler(faulty)


@pytest.mark.parametrize(
    "check", [check for check in SCHEDULER_CHECKS if str(check) != "does_not_look_at_every_node"], ids=str
)
def test_one_without_an_index_passes_all_else(check: Any) -> None:
    """What the faulty ones are derived from is right, so that a check finds the fault that was planted."""
    check(ChoosesAmong)
