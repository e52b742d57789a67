"""A deployment on a fabric, on its master: from the files that came to the exit code, over as many nodes as it takes.

First the *recce*: the program is run up to its init() on one node, placed with the default demand, and says what it asks
for. Then the first process is placed with that, and forked from the template where that node is the same. From there on
the coordinator has the word, as in local mode; only its computers are elsewhere (`RemoteComputer`), and what it writes
goes to the bridge as events with numbers (`Events`), which are kept here until the bridge has them.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from constellation.core import events, messages, trunk
from constellation.core.fitting import Made
from constellation.core.gauges import Tally
from constellation.core.lifecycle import Ending, EndingEvent, Interrupted, Lost, Terminated
from constellation.core.output import run_exit_code
from constellation.core.pid import Pid
from constellation.core.placement import Displaced, Effect, Placed, Queued, RefusedDemand
from constellation.core.relaying import Order as RelayOrder
from constellation.core.resources import Resources
from constellation.core.settings import GRACE
from constellation.core.specification import shown
from constellation.core.status import ExitStatus
from constellation.fabric.books import Member
from constellation.fabric.computer import Order, Room
from constellation.fabric.coordinator import Coordinator
from constellation.fabric.fits import Fits, Reason
from constellation.fabric.why import Why

if TYPE_CHECKING:
    from constellation.core.fitting import Installation
    from constellation.core.messages import Message
    from constellation.core.trunk import Specification
    from constellation.fabric.computer import Computer
    from constellation.fabric.loop import Loop
    from constellation.fabric.rebuilding import Rebuild

REFUSED: Final = 4
"""Exit code of a program that was refused before it ran."""


class Events:
    """What happens in a deployment, numbered, until the bridge has it. The coordinator's chronicle.

    A message of a node may be acknowledged when all events that it led to are at the bridge; so each event knows the
    message that it came of.

    Args:
        send: Sends an event to the bridge; nothing happens where there is none now.
        acknowledge: Tells a node the number up to which its messages may be forgotten.
        news: Tells the plugins.
        program: The command line of the program.
        tally: Counts what happens on the whole fabric.
    """

    def __init__(
        self,
        send: Callable[[int, list[Any], int, int], None],
        acknowledge: Callable[[int, int], None],
        news: Callable[..., None],
        program: list[Any],
        tally: Tally,
    ) -> None:
        self.ends: dict[tuple[int | None, str | None], ExitStatus] = {}
        self.count = 0
        self._send = send
        self._acknowledge = acknowledge
        self._news = news
        self._program = program
        self._tally = tally
        self._kept: deque[tuple[int, list[Any], int, int]] = deque()
        self._handled: dict[int, int] = {}
        """By node: the last of its messages that has been handled."""
        self._pending: dict[int, deque[tuple[int, int]]] = {}
        """By node: events that are not at the bridge yet, with the message that each came of."""
        self._source: tuple[int, int] | None = None

    def has_handled(self, node_id: int, number: int) -> bool:
        """Whether a message of a node has been handled: it comes again after a connection broke."""
        return number <= self._handled.get(node_id, 0)

    def go_on_after(self, count: int, handled: dict[int, int]) -> None:
        """Number events after those of a former master, and know which messages of the nodes they came of."""
        self.count = max(self.count, count)
        self._handled = dict(handled)

    def forget_node(self, node_id: int) -> None:
        """A node has gone: nobody is to be told, and it may come back with other numbers."""
        self._handled.pop(node_id, None)

    def handling(self, node_id: int, number: int) -> None:
        """What is written from now on comes of this message of a node."""
        self._source = (node_id, number)

    def handled(self, node_id: int, number: int) -> None:
        """A message of a node has been handled."""
        self._source = None
        self._handled[node_id] = number
        if not self._pending.get(node_id):
            self._acknowledge(node_id, number)

    def write(self, fields: list[Any]) -> None:
        """Add an event."""
        self.count += 1
        node_id, source = (0, 0) if self._source is None else self._source
        if node_id:
            self._pending.setdefault(node_id, deque()).append((self.count, source))
        self._kept.append((self.count, fields, node_id, source))
        self._send(self.count, fields, node_id, source)

    def stored(self, number: int) -> None:
        """The bridge has all events up to this number."""
        touched = set()
        while self._kept and self._kept[0][0] <= number:
            _, _, node_id, _ = self._kept.popleft()
            if node_id:
                self._pending[node_id].popleft()
                touched.add(node_id)
        for node_id in touched:
            pending = self._pending[node_id]
            done = pending[0][1] - 1 if pending else self._handled.get(node_id, 0)
            if done:
                self._acknowledge(node_id, done)

    def resend(self, after: int) -> None:
        """A bridge has come, which has all up to a number: send it the rest."""
        self.stored(after)
        for event in self._kept:
            self._send(*event)

    @property
    def is_empty(self) -> bool:
        """Whether the bridge has all of them."""
        return not self._kept

    @property
    def waiting(self) -> int:
        """How many the bridge has not stored yet."""
        return len(self._kept)

    # The coordinator's chronicle

    def spawned(self, member: Member) -> None:
        """A process runs."""
        self._tally.spawns += 1
        if member.parent is None:
            self._news("deployment_started", first=member.pid, program=[str(each) for each in self._program])
        self._news(
            "process_spawned",
            pid=member.pid,
            parent=member.parent,
            function=member.function,
            node=member.computer.name,
            resources=member.resources,
        )
        self.write(
            events.spawn(
                time.time(), member.pid, member.parent, member.function, member.computer.name, member.resources
            )
        )

    def draining(self, member: Member) -> None:
        """A process has returned and still delivers what it sent."""
        self.write(events.draining(time.time(), member.pid, member.draining))

    def exited(self, status: ExitStatus) -> None:
        """A process has ended."""
        self._tally.ended(status.code, status.signal)
        self.ends.setdefault((status.code, status.signal), status)
        self._news("process_exited", status=status)
        self.write(events.exited(time.time(), status))


class FabricRoom(Room, Protocol):
    """The master as one deployment on a fabric sees it."""

    def computer(self, node_id: int) -> RemoteComputer:
        """The computer of a node."""
        ...

    def uses(self, node_id: int) -> bool:
        """Whether something of this deployment was ordered there."""
        ...

    def forget(self, node_id: int) -> None:
        """A node has gone: if it comes back it is another computer."""
        ...

    def installations(self) -> dict[int, Installation]:
        """What the nodes have, by number."""
        ...

    def leave_out(self, node_id: int, now: float) -> list[Effect]:
        """Place nothing more of this deployment on a node, which may be about to join."""
        ...

    def close_part(self, node_id: int) -> None:
        """End what there is of this deployment on a node."""
        ...

    def over(self) -> None:
        """The deployment has ended."""
        ...

    def take_up(self, demand_id: int, demand: Resources, node_id: int) -> bool:
        """Count a demand that a former master has placed; False where its node is not here."""
        ...


class Ways(Protocol):
    """What a deployment needs of the master."""

    @property
    def tally(self) -> Tally: ...

    def room(self, deployment: Deployment) -> FabricRoom: ...

    def down(self, node_id: int, deployment: bytes, message: trunk.StationMessage, payload: bytes) -> None: ...

    def send_event(self, event: trunk.Event) -> None: ...

    def acknowledge(self, node_id: int, deployment: bytes, number: int) -> None: ...

    @property
    def relay(self) -> Relay: ...

    def over(self, deployment: Deployment) -> None: ...

    def news(self, hook: str, **arguments: Any) -> None: ...


class Relay(Protocol):
    """What relays links between nodes that can only dial out: the node of the master."""

    @property
    def id(self) -> int:
        """Number of that node."""
        ...

    @property
    def name(self) -> str:
        """Its name."""
        ...

    def order(self, order: RelayOrder) -> None:
        """Join the two halves of this link when they have come."""
        ...

    def withdraw(self, order: RelayOrder) -> None:
        """Expect them no longer."""
        ...


class RemoteComputer:
    """One node's part of one deployment, as its coordinator sees it: each call is a message.

    Args:
        ways: The master.
        deployment: Name of the deployment.
        node_id: Number of the node.
        name: Its name.
        address: What others dial; empty: it can only dial out.
    """

    may_be_lost = True

    def __init__(self, ways: Ways, deployment: bytes, node_id: int, name: str, address: str) -> None:
        self.id = node_id
        self.name = name
        self.address = address
        self._ways = ways
        self._deployment = deployment

    def send(self, message: trunk.StationMessage, payload: bytes = b"") -> None:
        """Send a message to this part."""
        self._ways.down(self.id, self._deployment, message, payload)

    def start(self, order: Order, payload: Sequence[int]) -> None:
        """Start a process. Takes the descriptors over."""
        data = order.payload
        for fd in payload:
            with open(fd, "rb") as file:
                file.seek(0)
                data = file.read()
        self.send(trunk.Start(*order._replace(payload=b"")), data)

    def tell(self, key: bytes, message: Message) -> None:
        """Send a message to a process."""
        self.send(trunk.Tell(key, messages.fields_of(message)))

    def pair(self, one: bytes, two: bytes, number: int) -> None:
        """Make a link between two processes of this computer."""
        self.send(trunk.Pair(one, two, number))

    def dial(self, one: bytes, two: bytes, number: int, other: Computer) -> None:
        """Make a link between a process here and one of another computer."""
        assert isinstance(other, RemoteComputer)
        if self.address and not other.address:
            other.dial(two, one, number, self)
        elif other.address:
            # It may know the master's node by another address than that one itself: it dials where it has joined.
            is_joined = other.id == self._ways.relay.id and not self.address
            self.send(trunk.Dial(one, two, number, "" if is_joined else other.address))
        else:
            self._ways.relay.order(RelayOrder(self._deployment, one, two, number, (self.id, other.id)))
            self.send(trunk.Dial(one, two, number, ""))
            other.send(trunk.Meet(two, one, number))

    def way_to(self, other: Computer) -> str:
        """Which way links between processes here and of another computer go, in words."""
        assert isinstance(other, RemoteComputer)
        relayed = "" if self.address or other.address else f", relayed by node {self._ways.relay.name}"
        return f"between node {self.name} and node {other.name}{relayed}"

    def ask(self, key: bytes, cause: str, grace: float) -> None:
        """Ask a process to end, and kill it after ``grace`` seconds."""
        self.send(trunk.Ask(key, cause, grace))

    def signal(self, key: bytes, signum: int, cause: str) -> None:
        """Send a signal whose consequences are somebody else's decision."""
        self.send(trunk.SignalTo(key, int(signum), cause))

    def kill(self, key: bytes, cause: str) -> None:
        """Kill a process now."""
        self.send(trunk.KillNow(key, cause))

    def is_at_rest(self, key: bytes) -> bool:  # nothing of it is seen from here
        """Whether a process is not seen to run."""
        return True

    def insist(self) -> None:
        """Kill everything below."""
        self.send(trunk.Insist())


class Deployment:
    """One deployment.

    Args:
        loop: The master's loop.
        ways: The master.
        name: Of the deployment, 16 bytes.
        specification: What it is.
    """

    def __init__(
        self,
        loop: Loop,
        ways: Ways,
        name: bytes,
        specification: Specification,
    ) -> None:
        self.name = name
        self.specification = specification
        self.is_over = False
        self.code = 0
        self.rebuild: Rebuild | None = None
        """While it is being taken up from a former master: what has come meanwhile."""
        self._settings = {str(key): value for key, value in specification.settings}
        self._loop = loop
        self._ways = ways
        self.grace = float(self._settings.get("grace", GRACE))
        self._ending = Ending(self.grace)
        self.events = Events(
            lambda *event: ways.send_event(trunk.Event(name, *event)),
            lambda node_id, number: ways.acknowledge(node_id, name, number),
            ways.news,
            specification.program,
            ways.tally,
        )
        self._fits = Fits(specification, shown(specification.program))
        self._like: trunk.Like | None = None
        """What the program is where it came to its init(); None: it has not."""
        self._told: set[int] = set()
        """The nodes that know it."""
        self.room = ways.room(self)
        self.coordinator = Coordinator(loop, self.room, self.events, self.grace, self._on_change, self.say)
        self._why = self.coordinator.why = Why(loop, self.coordinator, lambda: (self._relayed_ways(), {}), self.say)
        self._recce = self.room.next_number()
        self._recce_node = 0
        self._first = 0
        self._first_output = b""
        self._typed: list[bytes] = []
        self._dead: list[ExitStatus] = []
        self._was_begun = False
        self._asked = Resources()

    # Beginning

    def begin(self) -> None:
        """Place the recce, on a node that the program fits."""
        self._judge_all()
        self._submit_recce()

    def _submit_recce(self) -> None:
        self._recce_node = 0
        self._carry_out(self.room.submit(self._recce, Resources(), self._loop.now(), wait=True))

    def owns(self, number: int) -> bool:
        """Whether a demand is this object's, not its coordinator's."""
        return number in {self._recce, self._first}

    def carry_out(self, effects: list[Effect]) -> None:
        """Do what the placement machine says of demands of this deployment."""
        for effect in effects:
            if self.owns(effect.demand_id):
                self._carry_out([effect])
            else:
                self.coordinator.carry_out([effect])

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Placed(number, node_id) if number == self._recce:
                    self._recce_node = node_id
                    self.room.computer(node_id).send(trunk.Recce())
                case Placed(_, node_id):
                    self._start_first(node_id)
                case RefusedDemand(_, _, text):
                    self.refuse(text, REFUSED)
                case Displaced(number, _) if number == self._recce:
                    self._recce = self.room.next_number()
                    self._submit_recce()
                case Displaced() | Queued():
                    pass

    # Which nodes fit

    def node_joins(self, node_id: int, installation: Installation) -> None:
        """A node is about to join."""
        if not self.is_over:
            self._judge(node_id, installation)

    def node_leaves(self, node_id: int) -> None:
        """A node has gone; if it comes back it may have been mended."""
        self._fits.left_out.pop(node_id, None)

    def _judge_all(self) -> None:
        for node_id, installation in self.room.installations().items():
            self._judge(node_id, installation)

    def _judge(self, node_id: int, installation: Installation) -> None:
        reason = self._fits.judge(installation)
        if reason is not None:
            self._leave_out(node_id, reason)

    def _leave_out(self, node_id: int, reason: Reason) -> None:
        if node_id not in self._fits.left_out:
            self._fits.left_out[node_id] = reason
            self.carry_out(self.room.leave_out(node_id, self._loop.now()))

    def prepared(self, effect: Effect) -> Effect:
        """An effect that is about to be carried out: its node is told what the program is, a refusal says what does not fit."""
        match effect:
            case Placed(_, node_id) if self._like is not None and node_id not in self._told:
                self._told.add(node_id)
                self.room.computer(node_id).send(self._like)
            case RefusedDemand(_, "Infeasible", text):
                return effect._replace(text=self._fits.explained(text, self.room.installations()))
            case _:
                pass
        return effect

    def _unfit(self, node_id: int, text: str, plugins: list[Any]) -> None:
        """A node has found that the program cannot run there."""
        installations = self.room.installations()
        title = self.room.name_of(node_id)
        if plugins:
            self._fits.wants(map(str, plugins), installations.values())
            self._judge_all()
        if not plugins or node_id not in self._fits.left_out:
            self._leave_out(node_id, Reason(title, text, text.partition("\n")[0]))
        if self.is_over:
            return
        self._told.discard(node_id)
        if self._recce and self._recce_node == node_id:
            self._release_recce()
            self.room.close_part(node_id)
            self._recce = self.room.next_number()
            self._submit_recce()
            return
        self.say(f"constellation: {title} is left out: {self._fits.left_out[node_id].text}\n")
        computer = self.room.computer(node_id)
        first = self.coordinator.place_again(computer, text)
        if not any(member.computer is computer for member in self.coordinator.living):
            self.events.forget_node(node_id)
            self.room.close_part(node_id)
        if first is not None:
            self._submit_first()

    def _reached(self, node_id: int, resources: Resources, output: bytes, made: list[Any]) -> None:
        """The recce says what the program asks for."""
        if not self._recce or self.is_over:
            return
        self._asked, self._first_output = resources, output
        self._know(trunk.Like(self.room.name_of(node_id), made))
        self._told.add(node_id)
        left_out = self._fits.in_a_line()
        if left_out:
            self.say(f"constellation: nodes that the program does not fit are left out: {left_out}\n")
        self._release_recce()
        self._submit_first()

    def _know(self, like: trunk.Like) -> None:
        """This is what the program is: nodes that cannot run the same are left out."""
        self._like = like
        found = self.room.installations().values()
        home = next((each for each in found if each.title == like.node), None)
        self._fits.reached(home, Made.from_fields(like.made))
        self._judge_all()

    def _submit_first(self) -> None:
        resources = self._asked
        self._first = self.room.next_number()
        self.carry_out(self.room.submit(self._first, resources, self._loop.now(), wait=True))

    def _release_recce(self) -> None:
        recce, self._recce = self._recce, 0
        if self._recce_node:
            self.carry_out(self.room.released(recce, self._loop.now()))
        elif recce:
            self.carry_out(self.room.cancel(recce, self._loop.now()))

    def _start_first(self, node_id: int) -> None:
        computer = self.room.computer(node_id)
        pid = Pid(node_id, self._first, os.urandom(16))
        function = f"{_module_of(self.specification.program)}:__main__"
        member = Member(self._first, pid, None, function, self._asked, None, None, computer)
        member.has_room = True
        self._first = 0
        self.coordinator.begin(member)
        computer.start(
            Order(member.number, member.key, b"", 0, member.resources.to_fields(), function, "", b""),
            (),
        )
        typed, self._typed = self._typed, []
        for data in typed:
            computer.send(trunk.Input(data))

    def refuse(self, text: str, code: int) -> None:
        """The program does not run: say why, and end."""
        if not self.is_over:
            self.say(f"constellation: {text}\n")
            self._finish(code)

    # Being taken up

    def take_up(self, members: list[Member]) -> None:
        """Go on with the processes that live."""
        self._recce = self._first = 0
        for member in members:
            member.has_room = self.room.take_up(member.number, member.resources, member.computer.id)
        self.coordinator.take_up(members, self._dead)
        self._dead = []
        if self.coordinator.first is None and members:
            self.coordinator.first = self._dead_first(members[0])

    def taken_up(self, *, was_begun: bool) -> None:
        """All that is known has been heard: end, if nothing lives; ``was_begun`` is whether something that lived is lost."""
        if self.coordinator.count or self.is_over:
            return
        if was_begun or self._was_begun:
            self._finish(run_exit_code(self.events.ends.values(), False))
        else:
            self.refuse("the master was started again before the program had begun: deploy it once more", REFUSED)

    def take_up_dead(self, status: ExitStatus, *, is_first: bool) -> None:
        """One of its processes has ended under the former master."""
        self._was_begun = self._was_begun or is_first
        self.events.ends.setdefault((status.code, status.signal), status)
        self._dead.append(status)

    @staticmethod
    def _dead_first(other: Member) -> Member:
        """What stands for a first process that has ended, of which nothing more is asked than that it was."""
        member = Member(0, other.pid, None, "", other.resources, None, None, other.computer)
        member.is_alive = False
        return member

    def replay(self, node_id: int, message: trunk.StationMessage, payload: bytes) -> None:
        """Hear once more what a process had said to the former master."""
        self._handle(node_id, message, payload)

    # What the nodes say

    def on_message(self, node_id: int, number: int, message: trunk.StationMessage, payload: bytes) -> None:
        """Handle what a node has told of this deployment."""
        self.events.handling(node_id, number)
        try:
            self._handle(node_id, message, payload)
        finally:
            self.events.handled(node_id, number)

    def _handle(self, node_id: int, message: trunk.StationMessage, payload: bytes) -> None:
        coordinator = self.coordinator
        match message:
            case trunk.Wrote(key, fd, data, when):
                self.events.write(events.output(when, key, fd, data))
            case trunk.Said(key, fields):
                fds = [memory_of(payload)] if payload else []
                if not coordinator.said(key, messages.read(fields), fds):
                    member = next((each for each in coordinator.living if each.key == key), None)
                    if member is not None:
                        coordinator.kill(member, "it sent what is not a process's to send")
                for fd in fds:
                    os.close(fd)
            case trunk.Began(key, os_pid, is_running):
                coordinator.began(key, os_pid, is_running=is_running)
                first = coordinator.first
                if first is not None and key == first.key and self._first_output:
                    self.events.write(events.output(time.time(), key, 1, self._first_output))
                    self._first_output = b""
            case trunk.NotBegun(key, text):
                self._not_begun(key, text)
            case trunk.Over(_, fields):
                status = ExitStatus.from_fields(fields)
                coordinator.ended(status.pid.to_bytes(), status, counts=True)
            case trunk.NotLinked(one, two, link, ending, reason):
                self._ways.relay.withdraw(RelayOrder(self.name, one, two, link, (0, 0)))
                coordinator.not_linked(one, two, link, ending=ending, reason=reason)
            case trunk.Words(text):
                self.say(text)
            case trunk.Took(size):
                self.events.write(["took", size])
            case trunk.Reached(resources, output, made):
                self._reached(node_id, Resources.from_fields(resources), output, made)
            case trunk.Unfit(text, plugins):
                self._unfit(node_id, text, plugins)
            case trunk.Like() if self._like is None:
                self._know(message)
            case trunk.Missed(text, output):
                self._missed(text, output)
            case _:
                pass

    def _not_begun(self, key: bytes, text: str) -> None:
        first = self.coordinator.first
        is_first = first is not None and first.key == key
        self.coordinator.failed(key, text)
        if is_first:
            self.refuse(f"the first process cannot be started: {text}", REFUSED)

    def _missed(self, text: str, output: bytes) -> None:
        if not self._recce:
            return
        if output:
            self.say(output.decode(errors="replace"))
        self._release_recce()
        self.refuse(text, REFUSED)

    def say(self, text: str) -> None:
        """A line for the user."""
        self.events.write(["words", text])

    def node_lost(self, node_id: int, reason: str) -> None:
        """A node has gone, with all that it ran of this deployment."""
        self._told.discard(node_id)
        if self._recce and self._recce_node == node_id:
            self._recce_node = 0  # the placement machine displaces it
        self.events.forget_node(node_id)
        self.coordinator.computer_lost(self.room.computer(node_id), reason)

    def part_lost(self, node_id: int, reason: str) -> None:
        """Its monitor process on a node has ended by itself, with all that it ran; the node goes on."""
        if self._recce and self._recce_node == node_id:
            self._missed(reason, b"")
            return
        self._told.discard(node_id)
        self.events.forget_node(node_id)
        self.coordinator.computer_lost(self.room.computer(node_id), reason)

    # What the client says

    def typed(self, data: bytes) -> None:
        """For the stdin of the first process."""
        first = self.coordinator.first
        if first is None:
            self._typed.append(data)  # at most the client's window, for nobody takes any as yet
        elif first.is_alive:
            self.room.computer(first.computer.id).send(trunk.Input(data))

    def interrupted(self, signum: int) -> None:
        """The client was interrupted, or asked to end."""
        if signum == signal.SIGINT:
            self._step(Interrupted(is_typed=True))
        else:
            self._step(Terminated(signum))

    def client_lost(self) -> None:
        """The client has gone, and took its interest with it."""
        self._step(Lost("the client", 1, at_once=False))

    def relay_failed(self, order: RelayOrder, reason: str) -> None:
        """The two halves of a link did not come together."""
        text = f"it is to be relayed by node {self._ways.relay.name}: {reason}"
        self.coordinator.not_linked(order.caller, order.called, order.number, ending=b"", reason=text)

    def _relayed_ways(self) -> list[str]:
        """Where links between processes of this deployment are relayed, which takes its time, a line."""
        names = sorted({each.computer.name for each in self.coordinator.living if is_dialling_out(each.computer)})
        if len(names) < 2:
            return []
        return [f"links between {', '.join(names)}, which dial out only, are relayed by node {self._ways.relay.name}"]

    def show_why(self) -> None:
        """Say what each process waits for."""
        self._why.show()

    def _step(self, event: EndingEvent) -> None:
        self.coordinator.end(self._ending, event)
        if self._ending.exit_code is not None and self.coordinator.first is None:
            self._give_up_beginning()

    def _give_up_beginning(self) -> None:
        if self._recce:
            self._release_recce()
        if self._first:
            first, self._first = self._first, 0
            self.carry_out(self.room.cancel(first, self._loop.now()))
        self._finish(self._ending.exit_code or 1)

    # Ending

    def _on_change(self) -> None:
        self._why.changed()
        if self.coordinator.first is not None and self.coordinator.is_idle():
            code = self._ending.exit_code
            self._finish(run_exit_code(self.events.ends.values(), False) if code is None else code)

    def _finish(self, code: int) -> None:
        if self.is_over:
            return
        self.is_over = True
        self.code = code
        self.events.write(["code", code])
        self._ways.over(self)


def is_dialling_out(computer: Computer) -> bool:
    """Whether a computer's node can only dial out."""
    return isinstance(computer, RemoteComputer) and not computer.address


def memory_of(payload: bytes) -> int:
    """A memfd that holds a payload; the caller's."""
    fd = os.memfd_create("constellation-payload")
    with open(fd, "wb", closefd=False) as file:
        file.write(payload)
    return fd


def _module_of(program: list[Any]) -> str:
    """``prog`` of ``prog.py``, ``pkg.mod`` of ``-m pkg.mod``."""
    if len(program) > 1 and program[0] == "-m":
        return str(program[1])
    return os.path.splitext(os.path.basename(str(program[0]).rstrip("/")))[0]
