"""`constellation doctor BRIDGE` inside the fabric: the master asks all nodes at once, and each looks at itself and dials the others.

Every part has its time, and all run side by side, so that a node that is stopped, or a port behind a firewall, costs the
others nothing and is named. One examination runs at a time; who asks meanwhile gets the same answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from constellation.core import trunk
from constellation.core.address import parse_address
from constellation.core.errors import ConstellationError
from constellation.core.preamble import Purpose
from constellation.fabric.probing import PROBE_S, Probe, Probed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from constellation.fabric.aside import Aside
    from constellation.fabric.daemon import Security
    from constellation.fabric.fabricmaster import NodeRecord
    from constellation.fabric.foreign import ForeignTransports
    from constellation.fabric.loop import Loop

NODE_S: Final = PROBE_S + 1.0
"""For a node to look at itself and to dial the others; what has not come by then is said to be missing."""
MASTER_S: Final = NODE_S + 1.0
"""For all nodes to answer the master."""
MOST_DIALS: Final = 64
"""How many others a node dials: on larger fabrics the next ones in the order in which they joined, so that each is dialled
by as many."""
_PINGS: Final = 4
"""Of which the fastest says most of a clock."""


class Examiner:
    """A node's part.

    Args:
        loop: The daemon's loop.
        aside: Looks at the computer in a thread.
        security: The node's credential.
        look: Gathers the facts; may take a moment.
        foreign: Reaches URLs.
    """

    def __init__(
        self,
        loop: Loop,
        aside: Aside,
        security: Security,
        look: Callable[[], dict[str, Any]],
        foreign: ForeignTransports | None = None,
    ) -> None:
        self._loop = loop
        self._aside = aside
        self._security = security
        self._look = look
        self._foreign = foreign

    def examine(
        self, order: trunk.Examine, capacity: Mapping[str, int | None], answer: Callable[[trunk.TrunkMessage], None]
    ) -> None:
        """Look and dial; the answer follows within `NODE_S`.

        Args:
            order: What the master asks.
            capacity: What this node offers and what the master's file says of it.
            answer: Takes the answer.
        """
        _Round(self._loop, order, answer).begin(
            self._aside, self._security, lambda: {**self._look(), "capacity": dict(capacity)}, self._foreign
        )


class _Round:
    """One order, as it is carried out."""

    def __init__(self, loop: Loop, order: trunk.Examine, answer: Callable[[trunk.TrunkMessage], None]) -> None:
        self._loop = loop
        self._order = order
        self._answer = answer
        self._facts: list[list[Any]] | None = None
        self._dials: list[list[Any]] = [["answer", "it was not tried", 0.0] for _ in order.addresses]
        self._pending = 0
        self._timer = loop.call_later(NODE_S, self._finish)
        self._is_over = False

    def begin(
        self,
        aside: Aside,
        security: Security,
        look: Callable[[], dict[str, Any]],
        foreign: ForeignTransports | None,
    ) -> None:
        """Do all of it at once."""
        aside.run(look, self._looked, lambda error: self._looked({"fault": f"{type(error).__name__}: {error}"}))
        context = security.context(server=False)
        for at, text in enumerate(self._order.addresses[:MOST_DIALS]):
            try:
                address = parse_address(str(text))
            except ConstellationError as error:
                self._dials[at] = ["name", str(error), 0.0]
                continue
            self._pending += 1
            key, keep = security.keys[Purpose.DAEMON], self._keeper_of(at)
            Probe(self._loop, address, key, context, keep, foreign=foreign)

    def _keeper_of(self, at: int) -> Callable[[Probed], None]:
        def probed(found: Probed) -> None:
            self._dials[at] = [found.step, found.text, found.seconds]
            self._pending -= 1
            self._finish_if_done()

        return probed

    def _looked(self, facts: dict[str, Any]) -> None:
        self._facts = [[name, value] for name, value in facts.items()]
        self._finish_if_done()

    def _finish_if_done(self) -> None:
        if self._facts is not None and not self._pending:
            self._finish()

    def _finish(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._timer.cancel()
            facts = self._facts or [
                ["fault", f"it could not look at its computer within {NODE_S:g} s: is a disk hanging?"]
            ]
            self._answer(trunk.Examined(self._order.number, facts, self._dials))


class _Node:
    """One node, while it is examined."""

    def __init__(self, record: NodeRecord, state: str, peers: list[NodeRecord]) -> None:
        self.record = record
        self.state = state
        self.peers = peers
        self.pinged = 0.0
        self.clock = 0.0
        self.pings = 0
        self.best: tuple[float, float] | None = None
        """Seconds there and back, and seconds by which the clock is ahead."""
        self.examined: trunk.Examined | None = None

    @property
    def is_done(self) -> bool:
        return self.examined is not None and self.pings >= _PINGS


class Examination:
    """The master's part: one round over all nodes.

    Args:
        loop: The master's loop.
        number: Of this examination.
        nodes: All that have joined, with their state as `constellation nodes` shows it; the master's own first.
        tell: Sends a message to a node.
        on_done: Called once, with the rows of the answer.
    """

    def __init__(
        self,
        loop: Loop,
        number: int,
        nodes: Sequence[tuple[NodeRecord, str]],
        tell: Callable[[NodeRecord, trunk.TrunkMessage], None],
        on_done: Callable[[list[list[Any]]], None],
    ) -> None:
        self._loop = loop
        self._number = number
        self._tell = tell
        self._on_done = on_done
        self._is_over = False
        records = [record for record, _ in nodes]
        self._nodes: dict[int, _Node] = {}
        for at, (record, state) in enumerate(nodes):
            others = [each for each in (*records[at + 1 :], *records[:at]) if each.address]
            self._nodes[record.id] = _Node(record, state, others[:MOST_DIALS])
        self._timer = loop.call_later(MASTER_S, self._finish)
        for node in self._nodes.values():
            self._ping(node)
            self._tell(node.record, trunk.Examine(number, [peer.address for peer in node.peers]))

    def _ping(self, node: _Node) -> None:
        node.pinged, node.clock = self._loop.now(), time.time()
        self._tell(node.record, trunk.Ping(self._number))

    def heard(self, node_id: int, message: trunk.Pong | trunk.Examined) -> None:
        """A node has answered."""
        node = self._nodes.get(node_id)
        if node is None or self._is_over or message.number != self._number:
            return
        if isinstance(message, trunk.Examined):
            node.examined = message
        else:
            seconds = self._loop.now() - node.pinged
            offset = message.clock - (node.clock + seconds / 2)
            node.best = min(node.best or (seconds, offset), (seconds, offset))
            node.pings += 1
            if node.pings < _PINGS:
                self._ping(node)
        if all(each.is_done for each in self._nodes.values()):
            self._finish()

    def _finish(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._timer.cancel()
            self._on_done([row for node in self._nodes.values() for row in _rows(node)])


def _rows(node: _Node) -> list[list[Any]]:
    """What is told of a node: itself, then whom it dialled."""
    record, examined = node.record, node.examined
    seconds, offset = node.best or (0.0, 0.0)
    clock = [offset, seconds / 2] if node.best is not None else []
    rows: list[list[Any]] = [
        ["node", record.name, record.address, node.state, clock, None if examined is None else examined.facts]
    ]
    if examined is not None:
        for peer, dial in zip(node.peers, examined.dials, strict=False):
            rows.append(["dial", record.name, peer.name, peer.address, *dial[:3]])
    return rows
