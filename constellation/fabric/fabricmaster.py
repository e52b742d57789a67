"""The master of a fabric: the book of nodes and of deployments, and who gets room where.

It holds no process and no file of its own: what it knows of a node the node has told, and of a deployment what its nodes
have. So a master that is started again asks them (`Inventory`), and goes on.

A node is *present* while it answers. One that does not answer for the lease, and a margin for clocks and delays, is lost:
what ran there has been killed by then (daemon.py), and its work is given to others.
"""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from constellation.core import events, trunk
from constellation.core.contracts import NodeView
from constellation.core.errors import DeployError
from constellation.core.fitting import Installation
from constellation.core.gauges import Tally
from constellation.core.pid import Pid
from constellation.core.placement import Displaced, Effect, Placed, Placement, Queued, RefusedDemand
from constellation.core.resources import Resources, format_amount, format_mem
from constellation.core.specification import installation_of
from constellation.core.status import ExitStatus
from constellation.core.trunk import Specification
from constellation.core.where import ANYWHERE, Where
from constellation.fabric.deployments import Deployment, RemoteComputer, is_dialling_out
from constellation.fabric.examining import Examination
from constellation.fabric.journal import WARNING
from constellation.fabric.rebuilding import LOST, Held, Rebuild

if TYPE_CHECKING:
    from constellation.core.contracts import Scheduler
    from constellation.core.relaying import Order
    from constellation.fabric.daemon import Trunk
    from constellation.fabric.journal import Log
    from constellation.fabric.loop import Loop
    from constellation.fabric.relaying import Relaying

BEATS: Final = 10
"""How often in a lease a node is asked whether it is there: its answer must be confirmed by a later one."""

MARGIN_S: Final = 0.7
"""What the master waits beyond the lease before it gives a silent node's work to others: a monitor process ends by a timer of
its own when the lease does, so this is for clocks that differ in speed and for processes that die slowly."""

_LAST_WORDS_S: Final = 0.2
"""After the last node has come back: for what it says next."""


class _Line:
    """What goes to one node for one deployment, kept until it has come."""

    __slots__ = ("kept", "number")

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.kept: deque[tuple[int, list[Any], bytes]] = deque()


class NodeRecord:
    """A node, as the master knows it.

    Attributes:
        id: Its number in this fabric.
        view: What the scheduler sees.
        address: What others dial; empty where it can only dial out.
        trunk: The connection to it; None: not connected now.
        heard: When it was last heard.
        lines: By deployment, what goes there.
    """

    def __init__(self, view: NodeView, address: str, connection: Trunk, now: float) -> None:
        self.id = view.id
        self.view = view
        self.address = address
        self.trunk: Trunk | None = connection
        self.heard = now
        self.on_lost: Callable[[], None] | None = None
        """Called when it is given up, by whoever brought the connection: to make the next one."""
        self.beat = 0
        """Number of the last beat that it has answered."""
        self.is_draining = False
        self.lines: dict[bytes, _Line] = {}
        self.pieces: dict[bytes, list[bytes]] = {}
        self.version = ""
        self.instance = b""
        """Which daemon it is, where it has dialled."""
        self.installation = Installation(view.name, (0, 0, 0), 0, "", {})
        """What its Python has."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.view.name

    @property
    def state(self) -> str:
        """In a word."""
        return "draining" if self.is_draining else "present" if self.trunk is not None else "not connected"


class Share:
    """The master as one deployment sees it: numbers, room and computers are the fabric's, effects are its own."""

    def __init__(self, master: FabricMaster, deployment: Deployment) -> None:
        self._master = master
        self._deployment = deployment
        self._computers: dict[int, RemoteComputer] = {}
        master.shares += 1
        self._number = master.shares

    @property
    def placement(self) -> Placement:
        """The fabric's."""
        return self._master.placement

    @property
    def capacity(self) -> Resources:
        """What all nodes together have."""
        whole = Resources.exact(0, 0)
        for record in self._master.nodes.values():
            whole = whole + record.view.capacity
        return whole

    def count_from(self, number: int) -> None:
        """Give out only numbers above this one."""
        self._master.count = max(self._master.count, number)

    def next_number(self) -> int:
        """A number for a new process, which then belongs to this deployment."""
        self._master.count += 1
        self._master.owners[self._master.count] = self._deployment
        return self._master.count

    def computer(self, node_id: int) -> RemoteComputer:
        """This deployment's part on a node."""
        computer = self._computers.get(node_id)
        if computer is None:
            record = self._master.nodes[node_id]
            computer = RemoteComputer(self._master, self._deployment.name, node_id, record.name, record.address)
            self._computers[node_id] = computer
        return computer

    def forget(self, node_id: int) -> None:
        """A node has gone: if it comes back it is another computer."""
        self._computers.pop(node_id, None)

    def installations(self) -> dict[int, Installation]:
        """What the nodes have."""
        return {number: record.installation for number, record in self._master.nodes.items()}

    def leave_out(self, node_id: int, now: float) -> list[Effect]:
        """Place nothing more of this deployment on a node, which may be about to join."""
        return self._mine(self.placement.leave_out(self._number, node_id, now))

    def close_part(self, node_id: int) -> None:
        """End what there is of this deployment on a node."""
        self._master.close_part(node_id, self._deployment.name)
        self.forget(node_id)

    def over(self) -> None:
        """The deployment has ended."""
        self.placement.forget_deployment(self._number)

    def uses(self, node_id: int) -> bool:
        """Whether something of this deployment was ordered there."""
        return node_id in self._computers

    def name_of(self, node_id: int) -> str:
        """The name of a node."""
        record = self._master.nodes.get(node_id)
        return record.name if record is not None else f"node {node_id}"

    def submit(
        self, demand_id: int, demand: Resources, now: float, *, wait: bool, where: Where = ANYWHERE
    ) -> list[Effect]:
        """Ask for room."""
        where = where._replace(deployment=self._number)
        return self._mine(self.placement.submit(demand_id, demand, wait, now, where))

    def released(self, demand_id: int, now: float) -> list[Effect]:
        """Give the room of a demand back."""
        self._master.owners.pop(demand_id, None)
        return self._mine(self.placement.released(demand_id, now))

    def cancel(self, demand_id: int, now: float) -> list[Effect]:
        """Withdraw a demand that is queued."""
        self._master.owners.pop(demand_id, None)
        return self._mine(self.placement.cancel(demand_id, now))

    def lend(self, demand_id: int, now: float) -> list[Effect]:
        """The process of a demand waits: it lends its cpu share."""
        return self._mine(self.placement.lend(demand_id, now))

    def take_up(self, demand_id: int, demand: Resources, node_id: int) -> bool:
        """Count a demand that a former master has placed."""
        self._master.count = max(self._master.count, demand_id)
        self._master.owners[demand_id] = self._deployment
        return self.placement.take_up(demand_id, demand, node_id)

    def _mine(self, effects: list[Effect]) -> list[Effect]:
        mine = []
        for effect in effects:
            owner = self._master.owners.get(effect.demand_id)
            if owner is self._deployment:
                mine.append(self._deployment.prepared(effect))
            elif owner is not None:
                self._master.carry_out([effect])
        return mine


class BridgeLine(NamedTuple):
    """The connection to the bridge."""

    send: Callable[[trunk.BridgeMessage], bool]
    close: Callable[[], None]


class FabricMaster:
    """All nodes and all deployments of a fabric.

    Args:
        loop: The daemon's loop.
        scheduler: Answers where.
        lease: Seconds for which the master's word holds on a node.
        expected: How many nodes there should be.
        version: Of this package.
        chunk: Gives a chunk of files by its owner and digest; None: it is not here.
        news: Tells the plugins.
        log: Writes one line.
    """

    def __init__(
        self,
        loop: Loop,
        scheduler: Scheduler,
        lease: float,
        expected: int,
        version: str,
        chunk: Callable[[str, bytes], bytes | None],
        news: Callable[..., None],
        log: Log,
    ) -> None:
        self.nodes: dict[int, NodeRecord] = {}
        self.tally = Tally()
        self.lost = 0
        """How often a node was given up, or has left."""
        self.sent = 0
        """Deployments so far."""
        self.own: NodeRecord | None = None
        """The node of the master's own process, which is in before any other."""
        self.relaying: Relaying | None = None
        """What relays links; set by the daemon that both are in."""
        self.placement = Placement(scheduler, limited=True)
        self.count = 0
        self.shares = 0
        self.owners: dict[int, Deployment] = {}
        self.deployments: dict[bytes, Deployment] = {}
        self.lease = lease
        self._loop = loop
        self._version = version
        self._chunk = chunk
        self._tell_plugins = news
        self._log = log
        self._bridge: BridgeLine | None = None
        self._beat = 0
        self._me = os.urandom(16)
        self._expected = expected
        self._is_rebuilding = True
        self._has_bridge_said = False
        self._stored: dict[bytes, tuple[int, dict[int, int], list[bytes]]] = {}
        self.absent: Callable[[], list[list[str]]] = list
        """Gives the nodes of the file that have not joined: name, address, the step that failed, and how."""
        self._examination: Examination | None = None
        self._examinations = 0
        self._asking: list[int] = []
        """Clients that wait for its end."""
        loop.call_later(lease, self._rebuild)
        loop.call_later(self.lease / BEATS, self._beat_all)

    # Nodes

    def hello(self, name: str = "") -> trunk.Hello:
        """What to say first to a node that this file says nothing of."""
        return trunk.Hello(self._version, self.lease, name, None, None, [], [])

    @property
    def relay(self) -> _Relay:
        """What relays links between nodes that can only dial out."""
        return _Relay(self)

    def relay_failed(self, order: Order, reason: str) -> None:
        """A link that was to be relayed does not come about."""
        deployment = self.deployments.get(order.deployment)
        if deployment is not None and deployment.rebuild is None:
            deployment.relay_failed(order, reason)

    def joined(
        self, connection: Trunk, message: trunk.Join, address: str | None = None, instance: bytes = b""
    ) -> NodeRecord | None:
        """A node has said what it is.

        Args:
            connection: To it.
            message: What it has said.
            address: Where it was dialled, which others can dial too; empty: it can only dial out; None: what it says itself.
            instance: Which daemon it is, where it has dialled.

        Returns:
            Its record; None: refused, because another node of that name answers.
        """
        now = self._loop.now()
        record = next((each for each in self.nodes.values() if each.name == message.name), None)
        if record is not None and instance and record.instance == instance and record.trunk is not None:
            # The same daemon, whose connection has ended at its end only.
            record.trunk.close()
            self.disconnected(record, record.trunk, "it has dialled again")
        if record is not None and record.trunk is not None and record.trunk is not connection:
            if now - record.heard < self.lease:
                text = f"a second node called {message.name!r} is refused: give it another name, with --name"
                self._log(text, level=WARNING, peer=message.address)
                return None
            self.node_lost(record, "it was not heard, and has come again")
            record = None
        if record is not None and record.id != message.node_id:
            self.node_lost(record, "it was started anew")
            record = None
        known = {bytes(item[0]): int(item[2]) for item in message.deployments}
        adopted: list[bytes] = []
        if record is None:
            record = self._new_node(connection, message, address)
        record.trunk = connection
        record.instance = instance
        record.heard = now
        record.beat = 0
        if self._is_rebuilding and message.master != self._me:
            adopted = [self._adopt(record, *item) for item in message.deployments]
        unknown = [name for name in known if name not in record.lines or name not in self.deployments]
        connection.send(trunk.Welcome(record.id, unknown, adopted, self._me))
        for name, cause in message.gone:
            self._part_gone(record, bytes(name), str(cause))
        for name, line in record.lines.items():
            if name in self.deployments:
                self._send_again(record, name, line, known.get(name))
        self._rebuild_if_known()
        return record

    def _adopt(self, record: NodeRecord, name: bytes, specification: list[Any], last_down: int) -> bytes:
        """A node runs a deployment of a former master: take it up, together with the other nodes that do."""
        deployment = self.deployments.get(name)
        if deployment is None:
            deployment = Deployment(self._loop, self, name, Specification(*specification))
            deployment.rebuild = Rebuild()
            self.deployments[name] = deployment
            text = f"deployment {name.hex()[:7]} of {deployment.specification.owner} is taken up"
            self._log(text, deployment=name)
        record.lines[name] = _Line(last_down)
        return name

    def _rebuild_if_known(self) -> None:
        """All that is to come has come: go on. Nodes that can only dial out are in no file, but what runs there has a Pid."""
        awaited = {Pid.from_bytes(key).node for _, _, living in self._stored.values() for key in living}
        is_here = len(self.nodes) >= self._expected and awaited <= self.nodes.keys()
        if self._is_rebuilding and self._has_bridge_said and is_here:
            self._loop.call_later(_LAST_WORDS_S, self._rebuild)

    def _rebuild(self) -> None:
        if not self._is_rebuilding:
            return
        self._is_rebuilding = False
        for name, deployment in list(self.deployments.items()):
            rebuild, deployment.rebuild = deployment.rebuild, None
            if rebuild is not None:
                count, rebuild.handled, rebuild.open = self._stored.get(name, (0, {}, []))
                deployment.events.go_on_after(count, rebuild.handled)
                rebuild.carry_out(deployment)
                if self._has_bridge_said and name not in self._stored and not deployment.is_over:
                    deployment.client_lost()  # as in `bridge_came`
        if self._has_bridge_said:
            self._end_forgotten()

    def _end_forgotten(self) -> None:
        """Deployments that the bridge knows and nobody else: all that they had was on the computer of a former master."""
        for name, (last, _, living) in self._stored.items():
            if name not in self.deployments:
                number = last
                for key in living:
                    number += 1
                    status = ExitStatus(Pid.from_bytes(key), None, None, LOST)
                    self.send_event(trunk.Event(name, number, events.exited(time.time(), status), 0, 0))
                self.send_event(trunk.Event(name, number + 1, ["code", 1], 0, 0))
        self._stored.clear()

    def _new_node(self, connection: Trunk, message: trunk.Join, address: str | None) -> NodeRecord:
        taken = {each.id for each in self.nodes.values()}
        node_id = message.node_id
        if not node_id or node_id in taken:
            node_id = max([*taken, 0]) + 1
        capacity = Resources.from_fields(message.capacity)
        labels = tuple((str(name), str(value)) for name, value in message.labels)
        view = NodeView(node_id, message.name, capacity, capacity, labels)
        record = NodeRecord(view, message.address if address is None else address, connection, self._loop.now())
        record.version = message.version
        record.installation = installation_of(message.name, message.installation)
        for deployment in list(self.deployments.values()):
            deployment.node_joins(node_id, record.installation)
        self.nodes[node_id] = record
        self.carry_out(self.placement.node_joined(view, self._loop.now()))
        text = f"node {node_id} {message.name!r} at {record.address or 'no address'} joined, with {capacity}"
        self._log(text, peer=record.address)
        self.news("node_joined", node=view)
        return record

    def disconnected(self, record: NodeRecord, connection: Trunk, reason: str) -> None:
        """The connection to a node has gone. It may come back while its lease holds."""
        if record.trunk is connection:
            record.trunk = None
            record.pieces.clear()
            self._log(f"node {record.name!r} is not connected: {reason}", level=WARNING, peer=record.address)

    def node_lost(self, record: NodeRecord, reason: str) -> None:
        """A node is not used any more, and what it ran is over."""
        if self.nodes.get(record.id) is not record:
            return
        self._log(f"node {record.name!r} is lost: {reason}", level=WARNING, peer=record.address)
        if record.trunk is not None:
            record.trunk.close()
            record.trunk = None
        del self.nodes[record.id]
        self.lost += 1
        if self.relaying is not None:
            self.relaying.node_lost(record.id)
        if record.on_lost is not None:
            self._loop.call_later(0, record.on_lost)
        effects = self.placement.node_left(record.id, self._loop.now())
        for deployment in list(self.deployments.values()):
            deployment.node_leaves(record.id)
            if deployment.rebuild is not None:
                deployment.rebuild.part_gone(record.id, f"node {record.name} lost: {reason}")
            elif deployment.room.uses(record.id):
                deployment.node_lost(record.id, f"node {record.name} lost: {reason}")
                deployment.room.forget(record.id)
        self.carry_out(effects)
        self.news("node_lost", node=record.view, reason=reason)

    def _beat_all(self) -> None:
        self._loop.call_later(self.lease / BEATS, self._beat_all)
        self._beat += 1
        now = self._loop.now()
        for record in list(self.nodes.values()):
            silent = now - record.heard
            if silent > self.lease + MARGIN_S:
                self.node_lost(record, f"not heard for {silent:.1f} s")
            elif record.trunk is not None:
                self._send(record, trunk.Beat(self._beat, record.beat))

    def on_message(self, record: NodeRecord, message: trunk.TrunkMessage) -> None:
        """Handle what a node says."""
        record.heard = self._loop.now()
        match message:
            case trunk.Up(name, number, fields, payload):
                pieces = record.pieces.pop(name, None)
                whole = payload if pieces is None else b"".join([*pieces, payload])
                deployment = self.deployments.get(name)
                if deployment is None or name not in record.lines:
                    self._send(record, trunk.Acked(name, number))
                elif deployment.rebuild is not None:
                    deployment.rebuild.held.append(Held(record.id, number, trunk.STATION.read(fields), whole))
                elif not deployment.events.has_handled(record.id, number):
                    deployment.on_message(record.id, number, trunk.STATION.read(fields), whole)
            case trunk.More(name, data):
                record.pieces.setdefault(name, []).append(data)
            case trunk.Beat(number):
                record.beat = number
            case trunk.Acked(name, number):
                line = record.lines.get(name)
                if line is not None:
                    self._forget_down(line, number)
            case trunk.Inventory(name) if name in self.deployments:
                rebuild = self.deployments[name].rebuild
                if rebuild is not None:
                    rebuild.inventory(record.id, message)
            case trunk.Gone(name, cause):
                self._part_gone(record, name, cause)
            case trunk.Need(name, digests) if name in self.deployments:
                self._give_chunks(record, name, digests)
            case trunk.Draining(reason):
                self._log(f"node {record.name!r} drains: {reason}", peer=record.address)
                self._drain(record)
            case trunk.Leave(reason):
                self.node_lost(record, reason)
            case trunk.Pong() | trunk.Examined():
                if self._examination is not None:
                    self._examination.heard(record.id, message)
            case _:
                pass

    def _send(self, record: NodeRecord, message: trunk.TrunkMessage) -> None:
        connection = record.trunk
        if connection is not None and not connection.send(message):
            # It would be missed for ever: what is kept is sent again over the next connection, and in its order.
            self.disconnected(record, connection, "it reads nothing any more")
            connection.close()
            if record.on_lost is not None:
                self._loop.call_later(0, record.on_lost)

    def _give_chunks(self, record: NodeRecord, name: bytes, digests: list[Any]) -> None:
        """Send what a node asks for; it asks for little at a time."""
        owner = self.deployments[name].specification.owner
        for digest in digests:
            try:
                data = self._chunk(owner, bytes(digest))
            except (ValueError, DeployError) as error:
                text = f"node {record.name!r} cannot have a part of the files of {owner}: {error}"
                self._log(text, level=WARNING, deployment=name, peer=record.address)
                data = None
            self._send(record, trunk.Chunk(name, bytes(digest), data if data is not None else b""))

    def _part_gone(self, record: NodeRecord, name: bytes, cause: str) -> None:
        """What ran of a deployment on a node has ended, and not by the master's word; the node itself goes on."""
        deployment = self.deployments.get(name)
        record.lines.pop(name, None)
        if deployment is None:
            return
        if deployment.rebuild is not None:
            deployment.rebuild.part_gone(record.id, cause)
            return
        living = deployment.coordinator.living
        held = [member.number for member in living if member.computer.id == record.id and member.has_room]
        deployment.part_lost(record.id, cause)
        deployment.room.forget(record.id)
        # Only now: what is placed by this must not be taken for what was lost.
        for number in held:
            self.owners.pop(number, None)
            self.carry_out(self.placement.released(number, self._loop.now()))

    # Placement

    def carry_out(self, effects: list[Effect]) -> None:
        """Give each effect to the deployment whose demand it is about."""
        for effect in effects:
            deployment = self.owners.get(effect.demand_id)
            if deployment is None:
                if isinstance(effect, Placed):
                    self.placement.released(effect.demand_id, self._loop.now())
                continue
            if isinstance(effect, RefusedDemand | Displaced):
                self.owners.pop(effect.demand_id, None)
            if not isinstance(effect, Queued):
                deployment.carry_out([deployment.prepared(effect)])

    # What deployments want

    def room(self, deployment: Deployment) -> Share:
        """The master as a deployment sees it."""
        return Share(self, deployment)

    def down(self, node_id: int, name: bytes, message: trunk.StationMessage, payload: bytes) -> None:
        """Send a message to a deployment's part on a node, which is opened by the first one."""
        record = self.nodes.get(node_id)
        deployment = self.deployments.get(name)
        if record is None or deployment is None:
            return
        line = record.lines.get(name)
        if line is None:
            line = record.lines[name] = _Line()
            self._send(record, trunk.Open(name, list(deployment.specification)))
        line.number += 1
        fields = trunk.STATION.fields_of(message)
        line.kept.append((line.number, fields, payload))
        self._send_down(record, name, line.number, fields, payload)

    def _send_down(self, record: NodeRecord, name: bytes, number: int, fields: list[Any], payload: bytes) -> None:
        ahead, rest = trunk.in_pieces(name, payload)
        for piece in ahead:
            self._send(record, piece)
        self._send(record, trunk.Down(name, number, fields, rest))

    def _send_again(self, record: NodeRecord, name: bytes, line: _Line, last: int | None) -> None:
        """A node has come again: give it what has not come; ``last`` did, or, where it is None, not even the first."""
        if last is None:
            self._send(record, trunk.Open(name, list(self.deployments[name].specification)))
        else:
            self._forget_down(line, last)
        for number, fields, payload in line.kept:
            self._send_down(record, name, number, fields, payload)

    @staticmethod
    def _forget_down(line: _Line, number: int) -> None:
        while line.kept and line.kept[0][0] <= number:
            line.kept.popleft()

    def send_event(self, event: trunk.Event) -> None:
        """Send an event to the bridge, if one is there."""
        self._tell_bridge(event)

    def news(self, hook: str, **arguments: Any) -> None:
        """Tell the plugins that this master was started with."""
        self._tell_plugins(hook, **arguments)

    def acknowledge(self, node_id: int, name: bytes, number: int) -> None:
        """A node may forget its messages up to a number."""
        record = self.nodes.get(node_id)
        if record is not None:
            self._send(record, trunk.Acked(name, number))

    def close_part(self, node_id: int, name: bytes) -> None:
        """End what there is of a deployment on a node."""
        record = self.nodes.get(node_id)
        if record is not None and record.lines.pop(name, None) is not None:
            self._send(record, trunk.Shut(name))

    def over(self, deployment: Deployment) -> None:
        """A deployment has ended: its parts are closed; its events stay until the bridge has them."""
        for record in self.nodes.values():
            if record.lines.pop(deployment.name, None) is not None:
                self._send(record, trunk.Shut(deployment.name))
        for number, owner in list(self.owners.items()):
            if owner is deployment:
                del self.owners[number]
        if self.relaying is not None:
            self.relaying.deployment_over(deployment.name)
        deployment.room.over()
        first = deployment.coordinator.first
        if first is not None:
            self.news("deployment_ended", first=first.pid, code=deployment.code)
        self._forget_if_told(deployment)

    def _forget_if_told(self, deployment: Deployment) -> None:
        if deployment.is_over and deployment.events.is_empty:
            self.deployments.pop(deployment.name, None)

    # The bridge

    @property
    def has_bridge(self) -> bool:
        """Whether a bridge is connected."""
        return self._bridge is not None

    def bridge_came(self, line: BridgeLine, message: trunk.Ready) -> None:
        """A bridge is there; it says what it has."""
        self._bridge = line
        self._has_bridge_said = True
        self._stored = {
            bytes(name): (int(last), dict(sources), [bytes(key) for key in living])
            for name, last, sources, living in message.stored
        }
        for name, deployment in list(self.deployments.items()):
            if deployment.rebuild is not None:
                continue
            if name not in self._stored and not deployment.is_over:
                # A bridge that was killed had not yet written down whose it is: nobody can ask for it any more.
                deployment.client_lost()
            deployment.events.resend(self._stored[name][0] if name in self._stored else 0)
            self._forget_if_told(deployment)
        if self._is_rebuilding:
            self._rebuild_if_known()
        else:
            self._end_forgotten()

    def bridge_left(self, line: BridgeLine) -> None:
        """The bridge has gone; events are kept until the next one comes."""
        if self._bridge is line:
            self._bridge = None

    def on_bridge_message(self, message: trunk.BridgeMessage) -> None:
        """Do what the bridge, for a client, says."""
        match message:
            case trunk.Deploy(client, fields):
                self._deploy(client, Specification(*fields))
            case trunk.Stored(name, number):
                deployment = self.deployments.get(name)
                if deployment is not None:
                    deployment.events.stored(number)
                    self._forget_if_told(deployment)
            case trunk.Typed(name, data) if name in self.deployments:
                self.deployments[name].typed(data)
            case trunk.Interrupt(name, signum) if name in self.deployments:
                self.deployments[name].interrupted(signum)
            case trunk.Lost(name) if name in self.deployments:
                self.deployments[name].client_lost()
            case trunk.Question(client, kind, argument, owner):
                self._answer(client, kind, argument, owner)
            case _:
                pass

    def _tell_bridge(self, message: trunk.BridgeMessage) -> None:
        line = self._bridge
        if line is not None and not line.send(message):
            # Events that are missing between others would be lost: the bridge comes again, and says what it has.
            self._bridge = None
            line.close()
            self._log("the bridge reads nothing any more: the connection is closed", level=WARNING)

    def _deploy(self, client: int, specification: Specification) -> None:
        name = os.urandom(trunk.DEPLOYMENT_BYTES)
        deployment = Deployment(self._loop, self, name, specification)
        self.deployments[name] = deployment
        self.sent += 1
        self._tell_bridge(trunk.Accepted(client, name))
        text = f"deployment {name.hex()[:7]} of {specification.owner}: {' '.join(map(str, specification.program))}"
        self._log(text, deployment=name)
        deployment.begin()

    def _answer(self, client: int, kind: str, argument: str, owner: str) -> None:
        match kind:
            case "nodes":
                rows = [self._row_of(record) for record in sorted(self.nodes.values(), key=_order)]
            case "doctor":
                self._examine(client)
                return
            case "ps":
                rows = [row for deployment in self._of(owner) for row in _processes(deployment)]
            case "why" | "kill":
                found = [each for each in self._of(owner) if each.name.hex().startswith(argument)]
                if len(found) != 1:
                    text = f"{len(found)} deployments of {owner} begin with {argument!r}: see `constellation ps`"
                    self._tell_bridge(trunk.Refusal(client, text, 2))
                    return
                rows = [[found[0].name.hex()]]
                if kind == "kill":
                    found[0].interrupted(15)
                else:
                    found[0].show_why()
            case "drain":
                record = next((each for each in self.nodes.values() if each.name == argument), None)
                if record is None:
                    names = ", ".join(each.name for each in self.nodes.values())
                    self._tell_bridge(trunk.Refusal(client, f"no node is called {argument!r}: there are {names}", 2))
                    return
                self._drain(record)
                rows = [[argument]]
            case _:
                self._tell_bridge(trunk.Refusal(client, f"the master does not know what {kind!r} means", 2))
                return
        self._tell_bridge(trunk.Answer(client, rows))

    def _of(self, owner: str) -> list[Deployment]:
        return [each for each in self.deployments.values() if each.specification.owner == owner and not each.is_over]

    def _examine(self, client: int) -> None:
        self._asking.append(client)
        if self._examination is None:
            self._examinations += 1
            records = sorted(self.nodes.values(), key=lambda record: (record is not self.own, record.id))
            nodes = [(record, record.state) for record in records]
            self._examination = Examination(self._loop, self._examinations, nodes, self._send, self._examined)

    def _examined(self, rows: list[list[Any]]) -> None:
        self._examination = None
        asking, self._asking = self._asking, []
        for client in asking:
            self._tell_bridge(trunk.Answer(client, [*rows, *(["absent", *each] for each in self.absent())]))

    def _row_of(self, record: NodeRecord) -> list[Any]:
        held = self.placement.held_on(record.id)
        labels = ", ".join(f"{name}={value}" for name, value in record.view.labels)
        whole = record.view.capacity
        return [
            record.name,
            record.address or self._dialling_out(record),
            record.state,
            f"{format_mem(held.mem)} of {format_mem(whole.mem)}",
            f"{format_amount(held.cpu_millionths)} of {format_amount(whole.cpu_millionths)}",
            labels,
            record.version,
        ]

    def _dialling_out(self, record: NodeRecord) -> str:
        count = self.relaying.count_of(record.id) if self.relaying is not None else 0
        now = f" ({count} link{'' if count == 1 else 's'} now)" if count else ""
        return f"dials out only, relayed by {self.relay.name}{now}"

    def _drain(self, record: NodeRecord) -> None:
        """Place nothing more on a node; what runs there goes on."""
        record.is_draining = True
        self.carry_out(self.placement.drain(record.id, self._loop.now()))


class _Relay:
    """The relay, as deployments see it."""

    def __init__(self, master: FabricMaster) -> None:
        self._master = master

    @property
    def id(self) -> int:
        """Number of the node that relays."""
        return self._master.own.id if self._master.own is not None else 0

    @property
    def name(self) -> str:
        """Its name."""
        return self._master.own.name if self._master.own is not None else "of the master"

    def order(self, order: Order) -> None:
        """Relay a link; where that cannot be, the deployment hears so."""
        if self._master.relaying is not None:
            self._master.relaying.order(order)

    def withdraw(self, order: Order) -> None:
        """Expect a link no longer."""
        if self._master.relaying is not None:
            self._master.relaying.withdraw(order)


def _order(record: NodeRecord) -> list[Any]:
    """By name, and n10 after n9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", record.name)]


def _processes(deployment: Deployment) -> list[list[Any]]:
    program = " ".join(map(str, deployment.specification.program))
    return [
        [
            deployment.name.hex()[:12],
            program,
            str(member.pid),
            member.function,
            f"{member.computer.name} (dials out only)" if is_dialling_out(member.computer) else member.computer.name,
            str(member.resources),
            "running" if member.is_ready else "starting",
        ]
        for member in deployment.coordinator.living
    ] or [[deployment.name.hex()[:12], program, "", "", "", "", "waits for room"]]
