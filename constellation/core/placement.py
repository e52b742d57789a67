"""The queue of demands and the book of what is free: who gets room, when. Where, is the scheduler's answer.

A machine without I/O: each call returns effects, which the driver carries out in their order. Rules:

1. First come, first served. The *head* is the demand that has waited longest. While there is no room for it, it is
   *blocked*, and later demands that fit elsewhere pass it ...
2. ... until it has waited for `AGED_S` or been passed `PASSES` times. It is then *aged*: a later demand passes it only onto
   a node that could not hold it even empty. So every other node drains until the head fits, and no demand starves.
3. Demands without leave to wait (try_spawn) never overtake the queue: they are refused while anybody waits.
4. A demand that no node could hold, even empty, is refused at once; the same goes for waiting ones when the only nodes
   that could hold them leave. Without any node, demands wait.
5. Free memory and custom amounts never fall below zero. A process that waits may lend its cpu share, never its memory;
   it takes it back at once, and if others have it by then, the node's cores are over-committed: none is free.
6. Nodes that do not fit the program of a deployment are left out for its demands: as if they were not there.
7. A scheduler that raises, or names a node that does not exist or is full, costs the demand that it was asked for, and
   nothing else: that is refused with "PluginError". One that raises when it is told of a change has missed it, and is
   not asked any more.
8. Not limited (a plain local run): every demand is placed at once on the first node, and only counted.

Equal demands wait in one line, so that a release costs a question to the scheduler per distinct demand, and at most
`LOOK_AHEAD` of these, however long the queue is.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import NamedTuple, TypeAlias

from constellation.core.among import place_among
from constellation.core.contracts import NodeView, Scheduler
from constellation.core.errors import InternalError, PluginError
from constellation.core.finding import place_of_raise
from constellation.core.resources import Resources
from constellation.core.where import ANYWHERE, Where

AGED_S = 5.0
"""Seconds after which a blocked head lets nobody pass; as the lease: the time that this fabric takes for a disturbance."""
PASSES = 64
"""Demands that may pass a blocked head; bounds its wait where demands are placed much faster than they age."""
LOOK_AHEAD = 64
"""Distinct demands without room that one release looks at; bounds the cost of a release."""

_NOTHING = Resources.exact(0, 0)


class Placed(NamedTuple):
    """The demand holds room on a node, until `Placement.released`."""

    demand_id: int
    node_id: int


class Queued(NamedTuple):
    """The demand waits; `Placed` or `RefusedDemand` follows, or the driver cancels it."""

    demand_id: int


class RefusedDemand(NamedTuple):
    """The demand is refused and forgotten. ``kind`` is "NoCapacity", "Infeasible" or "PluginError", in core.errors."""

    demand_id: int
    kind: str
    text: str


class Displaced(NamedTuple):
    """The node that held the demand has left, and the demand is forgotten. What had not begun may be submitted again."""

    demand_id: int
    node_id: int


Effect: TypeAlias = Placed | Queued | RefusedDemand | Displaced


class Statistics(NamedTuple):
    """Counts since the start, and what is so now."""

    nodes: int
    """Nodes now."""
    held: int
    """Demands that hold room now."""
    waiting: int
    """Demands that wait now."""
    lent: int
    """Of those that hold room, how many lend their cpu share now."""
    used: Resources
    """Sum of the demands that hold room now, lent shares included."""
    placed: int
    """Demands placed so far."""
    passed: int
    """How often a demand has passed a blocked head so far."""
    refused: int
    """Demands refused so far."""


class _Node:
    """A node and what is held there. ``held`` leaves out lent shares, and may exceed the capacity in cores only."""

    __slots__ = ("_free", "capacity", "demands", "held", "id", "is_draining", "labels", "name")

    def __init__(self, view: NodeView) -> None:
        self.id = view.id
        self.name = view.name
        self.capacity = view.capacity
        self.labels = view.labels
        self.is_draining = False
        self.held = view.capacity - view.free
        self._free: Resources | None = view.free
        self.demands: dict[int, None] = {}

    def fulfils(self, where: Where) -> bool:
        return where.allows(self.id, self.name, self.labels)

    @property
    def free(self) -> Resources:
        free = self._free
        if free is None:  # asked for more often than it changes
            held, capacity = self.held, self.capacity
            if held.cpu_millionths > capacity.cpu_millionths:
                held = Resources.exact(held.mem, capacity.cpu_millionths, held.custom_millionths)
            free = self._free = capacity - held
        return free

    def hold(self, held: Resources) -> None:
        self.held = held
        self._free = None

    def view(self) -> NodeView:
        return NodeView(self.id, self.name, self.capacity, self.free, self.labels)


class _Holder:
    """A demand that holds room."""

    __slots__ = ("demand", "lends", "node")

    def __init__(self, demand: Resources, node: _Node) -> None:
        self.demand = demand
        self.node = node
        self.lends = False


class _Waiter:
    """A demand that waits. ``number`` is its place in the order of arrival."""

    __slots__ = ("demand_id", "line", "number", "passed", "since")

    def __init__(self, demand_id: int, number: int, since: float, line: _Line) -> None:
        self.demand_id = demand_id
        self.number = number
        self.since = since
        self.line = line
        self.passed = 0


class _Line:
    """Equal demands that wait, in their order.

    An OrderedDict, for the first key of a dict costs as many steps as keys have been removed before it.
    """

    __slots__ = ("demand", "waiters", "where")

    def __init__(self, demand: Resources, where: Where) -> None:
        self.demand = demand
        self.where = where
        self.waiters: OrderedDict[int, _Waiter] = OrderedDict()

    @property
    def first(self) -> _Waiter:
        return next(iter(self.waiters.values()))


class Placement:
    """Places demands on nodes; see the module's rules.

    Args:
        scheduler: Answers where. Told of every node and of every change here, and by nobody else.
        limited: Whether capacity counts. If not, everything is placed at once on the first node.
    """

    def __init__(self, scheduler: Scheduler, *, limited: bool) -> None:
        self._scheduler = scheduler
        self._limited = limited
        self._broken = ""  # why the scheduler is not asked any more
        self._nodes: dict[int, _Node] = {}
        self._holders: dict[int, _Holder] = {}
        self._waiters: dict[int, _Waiter] = {}
        self._lines: dict[tuple[Resources, Where], _Line] = {}
        # One entry for each line, by the number of its first waiter, brought up to date when it is taken.
        self._order: list[tuple[int, _Line]] = []
        # Distinct capacities, with the nodes that have each: what a refusal looks at.
        self._capacities: dict[Resources, dict[int, None]] = {}
        self._left_out: dict[int, set[int]] = {}
        """By the number of a deployment, the nodes that do not fit it."""
        self._now = 0.0
        self._arrived = 0
        self._lent = 0
        self._placed = 0
        self._passed = 0
        self._refused = 0

    def node_joined(self, view: NodeView, now: float = 0.0) -> list[Effect]:
        """Take a node in; what is not free of its capacity stays so."""
        if view.id in self._nodes:
            raise InternalError(f"node {view.id} ({view.name}) has joined twice")
        node = _Node(view)
        self._nodes[node.id] = node
        self._capacities.setdefault(node.capacity, {})[node.id] = None
        self._tell("node_changed", view)
        return [*self._refuse_infeasible(), *self._fill(now)]

    def node_left(self, node_id: int, now: float = 0.0) -> list[Effect]:
        """Forget a node and what it held. A node that is not known is no fault: it may have been lost twice."""
        node = self._nodes.pop(node_id, None)
        if node is None:
            return []
        for left_out in self._left_out.values():
            left_out.discard(node_id)
        if not node.is_draining:
            self._forget_capacity(node)
            self._tell("node_removed", node_id)
        effects: list[Effect] = []
        for demand_id in node.demands:
            self._forget_holder(demand_id)
            effects.append(Displaced(demand_id, node_id))
        return [*effects, *self._refuse_infeasible(), *self._fill(now)]

    def take_up(self, demand_id: int, demand: Resources, node_id: int) -> bool:
        """Count a demand that another machine has placed on a node: as it holds it, even if that is too much.

        Returns:
            Whether the node is known; if not, nothing is counted.
        """
        node = self._nodes.get(node_id)
        if node is None or demand_id in self._holders:
            return False
        self._place(demand_id, demand, node)
        return True

    def drain(self, node_id: int, now: float = 0.0) -> list[Effect]:
        """Place nothing more on a node; what it holds stays. A node that is not known, or drains, is no fault."""
        node = self._nodes.get(node_id)
        if node is None or node.is_draining:
            return []
        node.is_draining = True
        self._forget_capacity(node)
        self._tell("node_removed", node_id)
        return [*self._refuse_infeasible(), *self._fill(now)]

    def leave_out(self, deployment: int, node_id: int, now: float = 0.0) -> list[Effect]:
        """Place no demand of a deployment on a node any more; what it holds there stays. The node may be about to join.

        Args:
            deployment: The number in the `Where` of its demands.
            node_id: The node.
            now: Seconds, as for `submit`.
        """
        self._left_out.setdefault(deployment, set()).add(node_id)
        return [*self._refuse_infeasible(), *self._fill(now)]

    def forget_deployment(self, deployment: int) -> None:
        """A deployment is over."""
        self._left_out.pop(deployment, None)

    def held_on(self, node_id: int) -> Resources:
        """What is held on a node, without the shares that are lent."""
        return self._nodes[node_id].held

    def submit(
        self, demand_id: int, demand: Resources, wait: bool, now: float, where: Where = ANYWHERE
    ) -> list[Effect]:
        """Take a demand.

        Args:
            demand_id: A number that names it, and no other one that is placed or waits.
            demand: What it asks for.
            wait: Whether it may wait (spawn), or is refused if there is no room at once (try_spawn).
            now: Seconds, on a clock that does not go back.
            where: On which nodes it may be.
        """
        if demand_id in self._holders or demand_id in self._waiters:
            raise InternalError(f"demand {demand_id} has been submitted twice")
        self._now = max(self._now, now)
        if self._waiters and not wait:
            if not self._is_feasible(demand, where):
                return [self._refuse(demand_id, "Infeasible", self._say_infeasible(demand, where))]
            return [self._refuse(demand_id, "NoCapacity", self._say_queue(demand))]
        if (demand, where) not in self._lines:
            try:
                node = self._find(demand, where, self._head())
            except PluginError as error:
                return [self._refuse(demand_id, "PluginError", str(error))]
            if node is not None:
                return [self._place(demand_id, demand, node)]
            if not self._is_feasible(demand, where):
                return [self._refuse(demand_id, "Infeasible", self._say_infeasible(demand, where))]
        if not wait:
            return [self._refuse(demand_id, "NoCapacity", self._say_full(demand))]
        self._enqueue(demand_id, demand, where, now)
        return [Queued(demand_id)]

    def released(self, demand_id: int, now: float) -> list[Effect]:
        """Take back the room of a placed demand."""
        holder = self._holder(demand_id)
        if holder.lends:
            self.take_back(demand_id)
        self._forget_holder(demand_id)
        del holder.node.demands[demand_id]
        self._change(holder.node, holder.node.held - holder.demand)
        return self._fill(now)

    def cancel(self, demand_id: int, now: float) -> list[Effect]:
        """Withdraw a demand that waits. One that does not wait (any more) stays as it is: it may just have been placed."""
        waiter = self._waiters.get(demand_id)
        if waiter is None:
            return []
        was_head = waiter is self._head()
        self._dequeue(waiter)
        return self._fill(now) if was_head else []

    def lend(self, demand_id: int, now: float = 0.0) -> list[Effect]:
        """Give the cpu share of a placed demand to the queue while its process waits. Twice is harmless."""
        holder = self._holder(demand_id)
        if holder.lends:
            return []
        holder.lends = True
        self._lent += 1
        self._change(holder.node, holder.node.held - _cpu_of(holder.demand))
        return self._fill(now)

    def take_back(self, demand_id: int) -> None:
        """End `lend`: the process runs again, even if others have its share by now. Twice is harmless."""
        holder = self._holder(demand_id)
        if not holder.lends:
            return
        holder.lends = False
        self._lent -= 1
        self._change(holder.node, holder.node.held + _cpu_of(holder.demand))

    def stalled(self) -> list[int]:
        """The demands that wait though nobody runs: all that hold room lend their share, and it does not suffice.

        Empty while anybody runs, or nobody holds anything.
        """
        return self.waiting() if self._holders and self._lent == len(self._holders) else []

    def waiting(self) -> list[int]:
        """The demands that wait, in the order of their arrival."""
        return list(self._waiters)

    def statistics(self) -> Statistics:
        """Counts since the start, and what is so now. Looks at every demand that holds room."""
        return Statistics(
            nodes=len(self._nodes),
            held=len(self._holders),
            waiting=len(self._waiters),
            lent=self._lent,
            used=sum((holder.demand for holder in self._holders.values()), _NOTHING),
            placed=self._placed,
            passed=self._passed,
            refused=self._refused,
        )

    def check(self) -> None:
        """Assert the invariants. For tests and the simulator: it looks at everything.

        Raises:
            AssertionError: One does not hold.
        """
        lent = 0
        for node in self._nodes.values():
            assert node.is_draining or node.id in self._capacities[node.capacity]
            held = _NOTHING
            for demand_id in node.demands:
                holder = self._holders[demand_id]
                assert holder.node is node
                lent += holder.lends
                held += holder.demand - _cpu_of(holder.demand) if holder.lends else holder.demand
            assert held <= node.held
            if self._limited:
                assert node.free <= node.capacity  # and computing it has shown that only cores are over-committed
        assert lent == self._lent
        assert sum(len(node.demands) for node in self._nodes.values()) == len(self._holders)
        alike = sum(len(nodes) for nodes in self._capacities.values())
        assert alike == sum(not node.is_draining for node in self._nodes.values())
        numbers = [waiter.number for waiter in self._waiters.values()]
        assert numbers == sorted(numbers)
        assert sum(len(line.waiters) for line in self._lines.values()) == len(self._waiters)
        assert all(line.waiters and (line.demand, line.where) == key for key, line in self._lines.items())
        head = self._head()
        if head is not None and self._nodes:
            assert self._limited
            assert head is next(iter(self._waiters.values()))
            assert self._broken or self._ask(head.line.demand, head.line.where) is None
            assert all(self._is_feasible(*key) for key in self._lines)

    def _fill(self, now: float) -> list[Effect]:
        """Place what fits now, in the order of arrival."""
        self._now = max(self._now, now)
        effects: list[Effect] = []
        blocked: list[_Line] = []
        head: _Waiter | None = None
        while len(blocked) < LOOK_AHEAD:
            line = self._first_line()
            if line is None:
                break
            heapq.heappop(self._order)
            waiter = line.first
            try:
                node = self._find(line.demand, line.where, head)
            except PluginError as error:
                effect: Effect = self._refuse(waiter.demand_id, "PluginError", str(error))
            else:
                if node is None:
                    blocked.append(line)
                    head = head or waiter
                    continue
                effect = self._place(waiter.demand_id, line.demand, node)
            self._dequeue(waiter)
            if line.waiters:
                heapq.heappush(self._order, (line.first.number, line))
            effects.append(effect)
        for line in blocked:
            heapq.heappush(self._order, (line.first.number, line))
        return effects

    def _find(self, demand: Resources, where: Where, head: _Waiter | None) -> _Node | None:
        """The node for a demand now, or None; counts when it passes the blocked ``head``.

        Raises:
            PluginError: The scheduler has raised, or names a node that cannot be.
        """
        if not self._limited:
            return next(iter(self._nodes.values()), None)
        node_id = self._ask(demand, where)
        if node_id is None:
            return None
        node = self._nodes.get(node_id) if type(node_id) is int else None
        if node is None or not demand <= node.free:
            known = f"free there: {node.free}" if node else "there is no such node"
            raise PluginError(f"scheduler {self._scheduler.name!r} placed {demand} on node {node_id!r}: {known}")
        if head is not None:
            is_aged = head.passed >= PASSES or self._now - head.since >= AGED_S
            if is_aged and head.line.demand <= node.capacity and self._fulfils(node, head.line.where):
                return None
            head.passed += 1
            self._passed += 1
        return node

    def _ask(self, demand: Resources, where: Where) -> int | None:
        if self._broken:
            raise PluginError(self._broken)
        try:
            if where is ANYWHERE or where.is_anywhere:
                node_id = self._scheduler.place(demand)
                # Where it has no room at all, or chooses one that fits, there is no need to look at each node.
                if node_id is None or node_id not in self._left_out.get(where.deployment, ()):
                    return node_id
            allowed = [node.id for node in self._nodes.values() if self._fulfils(node, where) and not node.is_draining]
            if not allowed:
                return None
            return place_among(self._scheduler, demand, allowed, where.node_id, self._view_of)
        except (Exception, SystemExit) as error:  # the border to foreign code
            raise PluginError(self._say_raised(error, "place")) from error

    def _fulfils(self, node: _Node, where: Where) -> bool:
        return node.fulfils(where) and node.id not in self._left_out.get(where.deployment, ())

    def _is_for_all(self, where: Where) -> bool:
        """Whether every node comes into question."""
        return where is ANYWHERE or (where.is_anywhere and not self._left_out.get(where.deployment))

    def _view_of(self, node_id: int) -> NodeView | None:
        node = self._nodes.get(node_id)
        return None if node is None else node.view()

    def _tell(self, method: str, what: NodeView | int) -> None:
        if self._broken:
            return
        try:
            getattr(self._scheduler, method)(what)
        except (Exception, SystemExit) as error:  # the border to foreign code
            self._broken = f"{self._say_raised(error, method)}; it has missed a change, and is not asked any more"

    def _say_raised(self, error: BaseException, method: str) -> str:
        where = place_of_raise(error)
        return f"scheduler {self._scheduler.name!r} raised {type(error).__name__}: {error}, in {method} at {where}"

    def _place(self, demand_id: int, demand: Resources, node: _Node) -> Placed:
        self._holders[demand_id] = _Holder(demand, node)
        node.demands[demand_id] = None
        self._placed += 1
        self._change(node, node.held + demand)
        return Placed(demand_id, node.id)

    def _forget_capacity(self, node: _Node) -> None:
        alike = self._capacities[node.capacity]
        del alike[node.id]
        if not alike:
            del self._capacities[node.capacity]

    def _change(self, node: _Node, held: Resources) -> None:
        node.hold(held)
        if self._limited and not node.is_draining:
            self._tell("node_changed", node.view())

    def _holder(self, demand_id: int) -> _Holder:
        holder = self._holders.get(demand_id)
        if holder is None:
            raise InternalError(f"demand {demand_id} holds no room: expected one that was placed and not yet released")
        return holder

    def _forget_holder(self, demand_id: int) -> None:
        holder = self._holders.pop(demand_id)
        self._lent -= holder.lends

    def _enqueue(self, demand_id: int, demand: Resources, where: Where, now: float) -> None:
        self._arrived += 1
        line = self._lines.get((demand, where))
        if line is None:
            line = self._lines[demand, where] = _Line(demand, where)
            heapq.heappush(self._order, (self._arrived, line))
        waiter = _Waiter(demand_id, self._arrived, now, line)
        line.waiters[demand_id] = waiter
        self._waiters[demand_id] = waiter

    def _dequeue(self, waiter: _Waiter) -> None:
        del self._waiters[waiter.demand_id]
        del waiter.line.waiters[waiter.demand_id]
        if not waiter.line.waiters:
            del self._lines[waiter.line.demand, waiter.line.where]

    def _first_line(self) -> _Line | None:
        """The line whose first waiter has waited longest; its entry is then the first in the order."""
        while self._order:
            number, line = self._order[0]
            if not line.waiters:
                heapq.heappop(self._order)
            elif line.first.number != number:
                heapq.heapreplace(self._order, (line.first.number, line))
            else:
                return line
        return None

    def _head(self) -> _Waiter | None:
        line = self._first_line()
        return None if line is None else line.first

    def _is_feasible(self, demand: Resources, where: Where) -> bool:
        """Whether some node could hold the demand if it were empty, or nothing is known that speaks against it."""
        if not self._limited or not self._capacities:
            return True
        if not self._is_for_all(where):
            nodes = (node for node in self._nodes.values() if self._fulfils(node, where) and not node.is_draining)
            return any(demand <= node.capacity for node in nodes)
        return any(demand <= capacity for capacity in self._capacities)

    def _refuse_infeasible(self) -> list[Effect]:
        """Refuse what waits in vain after the nodes have changed."""
        effects: list[Effect] = []
        for line in [line for line in self._lines.values() if not self._is_feasible(line.demand, line.where)]:
            text = self._say_infeasible(line.demand, line.where)
            for waiter in list(line.waiters.values()):
                self._dequeue(waiter)
                effects.append(self._refuse(waiter.demand_id, "Infeasible", text))
        return effects

    def _refuse(self, demand_id: int, kind: str, text: str) -> RefusedDemand:
        self._refused += 1
        return RefusedDemand(demand_id, kind, text)

    def _say_infeasible(self, demand: Resources, where: Where) -> str:
        if not self._is_for_all(where):
            return self._say_nowhere(demand, where)
        have = [_amounts(capacity) for capacity in self._capacities]
        short = "mem"
        for name, amount in _amounts(demand).items():
            if all(amounts.get(name, 0) < amount for amounts in have):
                short = name
                break
        node = self._largest(short)
        by = "" if short == "mem" else f" by {short}"
        return f"cannot place {demand}: largest node{by} has {node.capacity} ({node.name}); ask for less or add a node"

    def _say_nowhere(self, demand: Resources, where: Where) -> str:
        asked = [node for node in self._nodes.values() if node.fulfils(where) and not node.is_draining]
        fulfilling = [node for node in asked if self._fulfils(node, where)]
        said = f"cannot place {demand} {where}".rstrip()
        if fulfilling:
            node = max(fulfilling, key=lambda each: (each.capacity.mem, each.capacity.cpu_millionths))
            such = "such node" if len(asked) == len(fulfilling) else "node that the program fits"
            return f"{said}: the largest {such} has {node.capacity} ({node.name})"
        if asked:
            return f"{said}: the program does not fit {', '.join(node.name for node in asked[:8])}"
        names = ", ".join(node.name for node in list(self._nodes.values())[:8])
        return f"{said}: there is no such node among {names}"

    def _say_full(self, demand: Resources) -> str:
        if not self._nodes:
            return f"cannot place {demand} now: no node has joined yet; spawn() waits for one"
        node = self._largest("mem")
        return (
            f"cannot place {demand} now: largest node has {node.capacity}, of which {node.free} free ({node.name}); "
            "try again later, or spawn(), which waits"
        )

    def _say_queue(self, demand: Resources) -> str:
        count = len(self._waiters)
        before = "1 demand waits" if count == 1 else f"{count} demands wait"
        largest = self._say_full(demand)
        return largest.replace(" now: ", f" now: {before} in the queue before it; ", 1)

    def _largest(self, name: str) -> _Node:
        """The node with the most of one amount, then of mem, then of cores; the first to join among equals."""

        def key(capacity: Resources) -> tuple[int, int, int]:
            return (_amounts(capacity).get(name, 0), capacity.mem, capacity.cpu_millionths)

        capacity = max(self._capacities, key=key)
        return self._nodes[next(iter(self._capacities[capacity]))]


def _cpu_of(demand: Resources) -> Resources:
    return Resources.exact(0, demand.cpu_millionths)


def _amounts(resources: Resources) -> dict[str, int]:
    return {"mem": resources.mem, "cpu": resources.cpu_millionths, **dict(resources.custom_millionths)}
