"""Fault domains as a tree, and the two schedulers that look for room in it.

A domain is what fails as one: a zone, in it the racks, in these the nodes. ``by`` names the labels that make domains, the
largest first. The search goes down from the whole fleet: at each level it takes the domains in the order of its rule, and
in the last one the nodes, and returns the first node with room. So each level decides before those below it.

**spread** takes the domain that holds least, and in it the node that holds least: what is lost with one domain is as little
as it can be. Held is counted in bytes of memory, then in cores: memory is never lent by a process that waits, cores are. It
is counted absolutely and not as a share: the loss of a large rack must not cost more than that of a small one.

**pack** takes the domain that holds most and has room, and in it the node that the demand fills most: work stays close
together, and whole racks stay free.

Both leave nodes with custom resources (gpus) to those who ask for them, as far as the domain has others. A node without one
of the labels is a domain by itself at that level: nobody knows what it fails with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from constellation_spread.index import Index, Key, Room

if TYPE_CHECKING:
    from constellation.plugin import NodeView, Resources

WALK_SHARE = 4
"""Where fewer than one node in so many comes into question, these are compared one by one instead of searched for."""


class _Node:
    """A node as it was last told of. ``number`` is its place in the order of joining."""

    def __init__(self, view: NodeView, number: int) -> None:
        self.number = number
        self.domain: _Domain
        self.take(view)

    def take(self, view: NodeView) -> None:
        free, capacity = view.free, view.capacity
        self.id = view.id
        self.labels = view.labels
        self.kinds = len(capacity.custom_millionths)
        self.room = Room(free.mem, free.cpu_millionths, free.custom_millionths)
        self.held = (capacity.mem - free.mem, capacity.cpu_millionths - free.cpu_millionths)


class _Domain:
    """What fails as one. Its children are domains, or nodes where ``is_last``."""

    def __init__(self, above: _Domain | None, name: object, number: int, *, is_last: bool) -> None:
        self.above = above
        self.name = name
        self.number = number  # of the node that began it
        self.is_last = is_last
        self.mem = self.cpu = 0  # held
        self.domains: dict[object, _Domain] = {}
        self.index: Index[_Domain] = Index()
        self.nodes: Index[_Node] = Index()

    @property
    def most(self) -> Room:
        return self.nodes.most if self.is_last else self.index.most

    @property
    def is_empty(self) -> bool:
        return not (self.nodes if self.is_last else self.index)

    def path(self) -> Iterator[_Domain]:
        """This domain and those around it, the smallest first."""
        domain: _Domain | None = self
        while domain is not None:
            yield domain
            domain = domain.above


class Spread:
    """The scheduler that holds least where it fails most; see the module.

    Args:
        by: Labels that make domains, the largest domain first; none: each node is one.
    """

    name = "spread"

    def __init__(self, by: Sequence[str] = ()) -> None:
        self._by = tuple(by)
        self._nodes: dict[int, _Node] = {}
        self._joined = 0
        self._fleet = _Domain(None, "", 0, is_last=not self._by)

    # The rule

    def _domain_key(self, domain: _Domain) -> Key:
        return domain.mem, domain.cpu, domain.number

    def _node_key(self, node: _Node) -> Key:
        return node.kinds, *node.held, node.number

    # What the core tells

    def node_changed(self, node: NodeView) -> None:
        """Take in a node, or what is free of it now.

        Cost: O(log n) for each level of domains.
        """
        known = self._nodes.get(node.id)
        if known is not None and known.labels != node.labels:
            self.node_removed(node.id)
            known = None
        if known is None:
            self._joined += 1
            known = self._nodes[node.id] = _Node(node, self._joined)
            known.domain = self._domain_of(known)
            before = (0, 0)
        else:
            before = known.held
            known.take(node)
        known.domain.nodes.put(known, self._node_key(known), known.room)
        self._changed(known.domain, known.held[0] - before[0], known.held[1] - before[1])

    def node_removed(self, node_id: int) -> None:
        """Forget a node; an unknown one is no fault."""
        node = self._nodes.pop(node_id, None)
        if node is not None:
            node.domain.nodes.remove(node)
            self._changed(node.domain, -node.held[0], -node.held[1])

    def _domain_of(self, node: _Node) -> _Domain:
        domain = self._fleet
        labels = dict(node.labels)
        for level, label in enumerate(self._by):
            # Text is what a label says; a number is a node of which nothing is known.
            name: object = labels.get(label, node.id)
            below = domain.domains.get(name)
            if below is None:
                is_last = level == len(self._by) - 1
                below = domain.domains[name] = _Domain(domain, name, node.number, is_last=is_last)
            domain = below
        return domain

    def _changed(self, domain: _Domain, mem: int, cpu: int) -> None:
        """Bring a domain and those around it up to date: so much more is held there."""
        for each in domain.path():
            each.mem += mem
            each.cpu += cpu
            above = each.above
            if above is None:
                return
            if not each.is_empty:
                above.index.put(each, self._domain_key(each), each.most)
            elif above.domains.pop(each.name, None) is not None:
                above.index.remove(each)

    # What the core asks

    def place(self, demand: Resources) -> int | None:
        """Choose a node for a demand.

        Cost: O(log n) for each level, where a domain that has room for each amount has it on one node.
        """
        return self._find(self._fleet, _asked(demand), None)

    def place_among(self, demand: Resources, allowed: Collection[int], near: int | None = None) -> int | None:
        """Choose one of some nodes; where ``near`` names a node, in the smallest domain around it that has room.

        Cost: that of `place` for each level, and a step for each node with room that is not allowed; or a step for each of
        ``allowed``, where these are few.
        """
        asked = _asked(demand)
        beside = None if near is None else self._nodes.get(near)
        if len(allowed) * WALK_SHARE < len(self._nodes):
            return self._compare(asked, allowed, beside)
        if beside is not None:
            if beside.room.holds(asked) and beside.id in allowed:
                return beside.id
            for domain in beside.domain.path():
                found = self._find(domain, asked, allowed)
                if found is not None:
                    return found
            return None
        return self._find(self._fleet, asked, allowed)

    def _find(self, domain: _Domain, asked: Room, allowed: Collection[int] | None) -> int | None:
        if domain.is_last:
            for node in domain.nodes.having(asked):
                if allowed is None or node.id in allowed:
                    return node.id
            return None
        for below in domain.index.having(asked):
            found = self._find(below, asked, allowed)
            if found is not None:
                return found
        return None

    def _compare(self, asked: Room, allowed: Collection[int], beside: _Node | None) -> int | None:
        """What `_find` finds, by looking at each node of ``allowed``."""
        best: tuple[int, list[Key], int] | None = None
        for node_id in allowed:
            node = self._nodes.get(node_id)
            if node is None or not node.room.holds(asked):
                continue
            path = list(node.domain.path())
            away = 0
            if beside is not None and node is not beside:
                around = set(beside.domain.path())
                away = 1 + next(level for level, domain in enumerate(path) if domain in around)
            keys = [self._domain_key(domain) for domain in reversed(path)]
            rank = (away, [*keys, self._node_key(node)], node_id)
            if best is None or rank < best:
                best = rank
        return None if best is None else best[2]


class Pack(Spread):
    """The scheduler that fills one domain before the next; see the module."""

    name = "pack"

    def _domain_key(self, domain: _Domain) -> Key:
        return -domain.mem, -domain.cpu, domain.number

    def _node_key(self, node: _Node) -> Key:
        return node.kinds, node.room.mem, node.room.cpu, node.number


def _asked(demand: Resources) -> Room:
    return Room(demand.mem, demand.cpu_millionths, demand.custom_millionths)
