"""Ask a scheduler for a node out of some, whether it can choose out of some or not.

A scheduler without `place_among` keeps an index of all nodes, which says nothing about a part of them. So the nodes that
come into question are looked at here, one by one, by the rule of the default scheduler: best fit. That costs a step a node;
who places many demands so on many nodes writes `place_among`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from constellation.core.contracts import NodeView, Scheduler
from constellation.core.resources import Resources


def place_among(
    scheduler: Scheduler,
    demand: Resources,
    allowed: Collection[int],
    near: int | None,
    view: Callable[[int], NodeView | None],
) -> int | None:
    """Choose a node for a demand out of ``allowed``.

    Args:
        scheduler: Asked if it can choose out of some (`constellation.plugin.PlacesAmong`).
        demand: What is asked for.
        allowed: Ids of nodes.
        near: The node near which the process is wanted, or None. A scheduler without `place_among` gives it that node
            itself where it has room, and else knows no nearness.
        view: Gives a node by its id; None for one that has gone.

    Returns:
        The id of a node, or None when none of them has room now.
    """
    own: Callable[[Resources, Collection[int], int | None], int | None] | None = getattr(scheduler, "place_among", None)
    if own is not None:
        return own(demand, allowed, near)
    if near is not None and near in allowed and _fits(demand, view(near)):
        return near
    having = [node for node in map(view, allowed) if node is not None and demand <= node.free]
    return min(having, key=_order).id if having else None


def _fits(demand: Resources, node: NodeView | None) -> bool:
    return node is not None and demand <= node.free


def _order(node: NodeView) -> tuple[int, int, int, int]:
    """As schedulers/bin_packing.py orders: fewest kinds of custom resources, then least free."""
    return len(node.capacity.custom_millionths), node.free.mem, node.free.cpu_millionths, node.id
