"""The coordinator: one deployment's book. Who runs where, who asks for what, who is told of whose end.

It is the master's part of a deployment. It decides nothing about room (the placement machine does) and touches no
process: it tells each process's `Computer` what to do, and hears from it what has happened. The order in which the end
of a process is handled matters: its computer has told all that it had sent and written; then comes the certificate to
the bridge, then who waits for it hears.

Links are made by this one place (`links.py`), so that two processes that want each other at the same time get one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from constellation.core import draining, messages
from constellation.core.lifecycle import Ending, EndingEvent, GraceOver, KillAll, SignalFirst, SignalOthers
from constellation.core.messages import Message
from constellation.core.pid import Pid
from constellation.core.placement import Displaced, Effect, Placed, Queued, RefusedDemand
from constellation.core.resources import Resources
from constellation.core.status import ExitStatus
from constellation.core.where import from_fields
from constellation.fabric.books import Member, Wish, close_fds
from constellation.fabric.computer import Order
from constellation.fabric.links import Links
from constellation.fabric.registry import Registry
from constellation.fabric.stall import Stall
from constellation.fabric.why import Queue

if TYPE_CHECKING:
    from constellation.fabric.computer import Chronicle, Computer, Room
    from constellation.fabric.loop import Loop
    from constellation.fabric.why import Why

DRAINING_SHOWN_S = 1.0
"""A process that drains for as long, since it said so, is shown: most are done within milliseconds."""

INSIST_S = 0.3
"""After all have been killed: how long nothing need be heard of their ends before everything below is killed."""


class Coordinator:
    """The processes of one deployment, wherever they run.

    Args:
        loop: For the time.
        master: Places demands, and knows the computers.
        bridge: Gets the events.
        grace: Seconds between asking and killing when the deployment is closed.
        on_change: Called when a process has ended: the deployment may be over.
        say: Takes a line for the user.
    """

    def __init__(
        self,
        loop: Loop,
        master: Room,
        bridge: Chronicle,
        grace: float,
        on_change: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self.first: Member | None = None
        self.refusal = ""
        """Why no more processes are spawned; empty: they are."""
        self.why: Why | None = None
        """Hears what processes wait for; set by the deployment, which shows it."""
        self._loop = loop
        self._master = master
        self._bridge = bridge
        self._grace = grace
        self._on_change = on_change
        self._say = say
        self._living: dict[bytes, Member] = {}
        self._dead: dict[bytes, ExitStatus | None] = {}
        """Certificates; None for a good end, of which nothing more need be known."""
        self._wishes: dict[int, Wish] = {}
        self.links = Links(loop, self._living, self._status_of)
        self._registry = Registry(
            self._send, self._living.get, self._status_of, lambda member, cause: self.ask(member, cause, grace)
        )
        self._closing: tuple[Member, int, bool] | None = None
        self._left: int | None = None
        """How many lived when it was last looked, since all have been killed."""
        self._stall = Stall(loop, self._is_stalled, lambda: self.living, self._give_up_stalled)

    # The living

    @property
    def living(self) -> list[Member]:
        """All processes that have been placed and have not ended."""
        return list(self._living.values())

    @property
    def others(self) -> list[Member]:
        """The same without the first one."""
        return [member for member in self._living.values() if member is not self.first]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._living)

    def is_idle(self) -> bool:
        """Whether no process is left."""
        return not self._living

    def refuse(self, reason: str) -> None:
        """Spawn nothing any more, and withdraw what waits."""
        self.refusal = reason
        for number in list(self._wishes):
            wish = self._wishes.get(number)
            if wish is not None:
                self._withdraw(number)
                text = f"cannot spawn {wish.message.function}: {reason}"
                self._answer_failure(wish.spawner, wish.message.request, "SpawnError", text)

    def begin(self, member: Member) -> None:
        """Take the first process in. It runs already, or has room and is about to be started."""
        self.first = member
        self._master.count_from(member.number)
        self._living[member.key] = member
        if not member.has_room:
            self._submit_first(member)

    def _submit_first(self, member: Member) -> None:
        for effect in self._master.submit(member.number, member.resources, self._loop.now(), wait=False):
            match effect:
                case Placed():
                    member.has_room = True
                case RefusedDemand(_, "PluginError", text):
                    self._say(f"constellation: {text}; the first process runs, and is not counted\n")
                case RefusedDemand(_, _, text):
                    self._say(f"constellation: the first process has no room: {text}\n")
                    self.kill(member, f"the fabric: {text}")
                case Queued() | Displaced():
                    pass

    def _release(self, member: Member) -> None:
        if member.has_room:
            member.has_room = False
            self.carry_out(self._master.released(member.number, self._loop.now()))

    # Requests

    def said(self, key: bytes, message: Message, fds: list[int]) -> bool:  # one case for each message
        """Do what a process asks for.

        Args:
            key: The process.
            message: What it has sent.
            fds: What came with it; those that are kept are taken out.

        Returns:
            Whether a process may send that.
        """
        member = self._living.get(key)
        if member is None:
            return True
        match message:
            case messages.Spawn():
                self._spawn(member, message, fds)
            case messages.Connect(peer, after):
                self.links.link(member, peer, after)
            case messages.Watch(request, pid):
                self._watch(member, request, pid)
            case messages.Kill():
                self._kill(member, message)
            case messages.Cancel(request):
                self._cancel(member, request)
            case messages.LinkLost(peer, reason):
                other = self._living.get(peer)
                if other is not None:
                    self._send(other, messages.LinkLost(key, reason))
            case messages.LinkCut(peer, number, reason):
                self.links.cut(member, peer, number, reason)
            case messages.Waiting(waits):
                self._waits(member, waits=waits)
            case messages.LongWaits():
                if self.why is not None:
                    self.why.told(member, message)
            case messages.Draining():
                self._drains(member, message)
            case messages.Register() | messages.Unregister() | messages.Whereis() | messages.Tie() | messages.Untie():
                self._registry.on_message(member, message)
            case messages.Close(request, kill) if member is self.first:
                self._close(member, request, kill=kill)
            case _:
                return False
        return True

    def _spawn(self, member: Member, message: messages.Spawn, fds: list[int]) -> None:
        if self.refusal:
            self._answer_failure(
                member, message.request, "SpawnError", f"cannot spawn {message.function}: {self.refusal}"
            )
            return
        try:
            demand = Resources.from_fields(message.resources)
            where = from_fields(message.on)
        except ValueError as error:
            self._answer_failure(member, message.request, "UsageError", str(error))
            return
        number = self._master.next_number()
        effects = self._master.submit(number, demand, self._loop.now(), wait=message.wait, where=where)
        self._wishes[number] = Wish(member, message, demand, fds[:1])
        member.wishes[number] = None
        del fds[:1]
        self.carry_out(effects)
        if number in self._wishes:
            self._stall.check()

    def carry_out(self, effects: list[Effect]) -> None:
        """Do what the placement machine says of demands of this deployment."""
        for effect in effects:
            match effect:
                case Placed(number, node_id):
                    self._start(number, node_id, self._take_wish(number))
                case RefusedDemand(number, kind, text):
                    wish = self._take_wish(number)
                    close_fds(wish.payload)
                    self._answer_failure(wish.spawner, wish.message.request, kind, text)
                case Queued() | Displaced():
                    pass

    def _take_wish(self, number: int) -> Wish:
        wish = self._wishes.pop(number)
        del wish.spawner.wishes[number]
        return wish

    def _start(self, number: int, node_id: int, wish: Wish) -> None:
        message, spawner = wish.message, wish.spawner
        computer = self._master.computer(node_id)
        member = Member(
            number,
            Pid(computer.id, number, os.urandom(16)),
            spawner.pid,
            message.function,
            wish.resources,
            message.place or None,
            (spawner, message.request),
            computer,
        )
        member.has_room = True
        if computer.may_be_lost:
            member.wish = Wish(spawner, message, wish.resources, [os.dup(fd) for fd in wish.payload])
        self._living[member.key] = member
        computer.start(
            Order(
                number,
                member.key,
                spawner.key,
                message.request,
                message.resources,
                message.function,
                message.place,
                message.payload,
            ),
            wish.payload,
        )

    def began(self, key: bytes, os_pid: int, *, is_running: bool) -> None:  # for who asks what runs where
        """A process runs; or it has ended before it could say so, and what it wrote must have somebody to belong to."""
        member = self._living.get(key)
        if member is None or member.is_ready:
            return
        member.is_ready = True
        member.forget_wish()
        if is_running and member.spawner is not None:
            spawner, request = member.spawner
            member.spawner = None
            self._send(spawner, messages.Spawned(request, key))
        self._bridge.spawned(member)

    def failed(self, key: bytes, text: str) -> None:
        """A process could not be started: as if it had never been."""
        member = self._living.pop(key, None)
        if member is None:
            return
        member.is_alive = False
        member.forget_wish()
        if member.spawner is not None:
            spawner, request = member.spawner
            member.spawner = None
            self._answer_failure(spawner, request, "SpawnError", f"cannot spawn {member.function}: {text}")
        self._release(member)
        self._after_end(member, None)

    def _cancel(self, member: Member, request: int) -> None:
        for number in member.wishes:
            if self._wishes[number].message.request == request:
                self._withdraw(number)
                self._send(member, messages.SpawnFailed(request, "Cancelled", ""))
                return
        for watched in self._living.values():
            if watched.watchers:
                watched.watchers = [each for each in watched.watchers if each != (member, request)]
        self._registry.cancel(member, request)

    def _withdraw(self, number: int) -> None:
        close_fds(self._take_wish(number).payload)
        self.carry_out(self._master.cancel(number, self._loop.now()))

    def _withdraw_all_of(self, member: Member) -> None:
        for number in list(member.wishes):
            if number in member.wishes:  # one's withdrawal may have let the next one go ahead
                self._withdraw(number)

    # After a former coordinator

    def take_up(self, members: list[Member], dead: list[ExitStatus]) -> None:
        """Go on with processes that a former coordinator had; those of them that run, and those that have ended."""
        for status in dead:
            self._dead[status.pid.to_bytes()] = None if status.ok and status.cause is None else status
        for member in members:
            self._living[member.key] = member
            if member.parent is None:
                self.first = member

    def take_up_lost(self, statuses: list[ExitStatus], links: Iterable[tuple[bytes, bytes]]) -> None:
        """Count processes that were lost with the former coordinator as ended, and tell those that were linked with them."""
        lost = {status.pid.to_bytes(): status for status in statuses}
        for key, status in lost.items():
            self._dead[key] = status
            self._bridge.exited(status)
        for one, two in links:
            for gone, other in ((one, two), (two, one)):
                member = self._living.get(other)
                if gone in lost and member is not None:
                    self._send(member, messages.PeerLost(gone, lost[gone].to_fields()))

    def not_linked(self, one: bytes, two: bytes, number: int, *, ending: bytes, reason: str) -> None:
        """A link could not be made, because process ``ending`` is about to end; or, where that is empty, for a reason."""
        self.links.not_linked(one, two, number, ending=ending, reason=reason)

    # Watching and killing

    def _watch(self, member: Member, request: int, key: bytes) -> None:
        watched = self._living.get(key)
        if watched is not None:
            watched.watchers.append((member, request))
            return
        known = self._status_of(key)
        self._send(member, messages.Exited(request, known.to_fields() if known is not None else None))

    def _kill(self, member: Member, message: messages.Kill) -> None:
        self._watch(member, message.request, message.pid)
        target = self._living.get(message.pid)
        if target is None and not message.tree:
            return
        cause = f"process {member.pid}"
        victims = [] if target is None else [target]
        if message.tree:
            victims += self._below(message.pid)
        for victim in victims:
            if message.tree:
                self._withdraw_all_of(victim)
            below = "" if victim is target else f", with all below {Pid.from_bytes(message.pid)}"
            self.ask(victim, cause + below, message.grace)

    def _below(self, key: bytes) -> list[Member]:
        """All that a process has spawned, and they, as far as they live; the line may lead over dead ones."""
        children: dict[Pid, list[Member]] = {}
        for member in self._living.values():
            if member.parent is not None:
                children.setdefault(member.parent, []).append(member)
        try:
            waiting = [Pid.from_bytes(key)]
        except ValueError:
            return []
        found: list[Member] = []
        while waiting:
            below = children.get(waiting.pop(), [])
            found += below
            waiting += [member.pid for member in below]
        return found

    def ask(self, member: Member, cause: str, grace: float) -> None:
        """Ask a process to end, and kill it after ``grace`` seconds."""
        member.is_asked = True
        member.computer.ask(member.key, cause, grace)

    def signal(self, member: Member, signum: int, cause: str) -> None:
        """Send a signal whose consequences are somebody else's decision."""
        member.is_asked = True
        member.computer.signal(member.key, signum, cause)

    def kill(self, member: Member, cause: str) -> None:
        """Kill a process now."""
        member.is_asked = True
        member.computer.kill(member.key, cause)

    # Ending, from outside

    def end(self, ending: Ending, event: EndingEvent) -> None:
        """Take one step towards the deployment's end, and those that follow in time: signals, kills, no spawns any more.

        Args:
            ending: Decides.
            event: What has happened.
        """
        for effect in ending.step(event, now=self._loop.now()):
            match effect:
                case SignalFirst(signum, cause):
                    if self.first is not None and self.first.is_alive and not self.first.is_attached:
                        self.signal(self.first, signum, cause)
                case SignalOthers(signum, cause):
                    for member in self.others:
                        self.signal(member, signum, cause)
                case KillAll(cause):
                    self._kill_all(cause)
        if ending.exit_code is not None and not self.refusal:
            self.refuse(f"the deployment is ending: {ending.cause}")
        deadline = ending.next_deadline()
        if deadline is not None:
            self._loop.call_at(deadline, lambda: self.end(ending, GraceOver()))

    def _kill_all(self, cause: str) -> None:
        for member in self.living:
            if not member.is_attached:
                self.kill(member, cause)
        if self._left is None:
            self._left = self.count
            self._loop.call_later(INSIST_S, self._insist)

    def _insist(self) -> None:
        """Where nothing is heard of their ends, who should report them, a template, may be stopped, or hang in user code."""
        if not self._living:
            return
        if self.count == self._left:
            for computer in {id(member.computer): member.computer for member in self._living.values()}.values():
                computer.insist()
        self._left = self.count
        self._loop.call_later(INSIST_S, self._insist)

    # Ends

    def ended(self, key: bytes, status: ExitStatus, *, counts: bool) -> None:
        """A process has ended, and all that it had sent and written has been told.

        Args:
            key: The process.
            status: Its certificate.
            counts: Whether it is shown, and has a part in the exit code: not so for an attached client.
        """
        member = self._living.pop(key, None)
        if member is None:
            return
        member.is_alive = False
        spawner, member.spawner = member.spawner, None
        self._dead[key] = None if status.ok and status.cause is None else status
        if counts:
            self._bridge.exited(status)
        if spawner is not None:
            words = "".join(f"\n    {line}" for line in status.stderr)
            text = f"cannot spawn {member.function}: it ended before it began: {status.describe()}{words}"
            self._answer_failure(*spawner, "SpawnError", text)
        self._withdraw_all_of(member)
        self._release(member)
        self._after_end(member, status)

    def computer_lost(self, computer: Computer, reason: str) -> None:
        """A computer is not heard any more, and what ran there has been killed, or will be before anybody can know.

        What it was told to start and had not begun is placed again; the placement machine has forgotten it.

        Args:
            computer: Which one.
            reason: One sentence, for the certificates.
        """
        lost = [member for member in self._living.values() if member.computer is computer]
        for member in lost:
            member.has_room = False
        again = []
        for member in lost:
            if member.spawner is not None and member.wish is not None and member.spawner[0].is_alive:
                member.is_alive = False
                del self._living[member.key]
                again.append(member)
        for member in lost:
            if member.key in self._living:
                status = ExitStatus(member.pid, None, None, reason, node=computer.name)
                self._tell_peers_of_loss(member, status)
                self.ended(member.key, status, counts=True)
        for member in again:
            assert member.wish is not None  # they were chosen by it
            self._wish_again(member.wish)
        self._on_change()

    def place_again(self, computer: Computer, reason: str) -> Member | None:
        """A computer cannot run the program: what it was told to start, and has not, is placed elsewhere.

        Args:
            computer: Which one; nothing may be placed on it any more.
            reason: For who waits for a process that nobody can start elsewhere.

        Returns:
            The first process, where it is among them: as if it had never been, and the caller's to place.
        """
        first = None
        waiting = [member for member in self._living.values() if member.computer is computer and not member.is_ready]
        for member in waiting:
            if member is self.first:
                first, self.first = member, None
            elif member.wish is None or not member.wish.spawner.is_alive:
                self.failed(member.key, reason)
                continue
            member.is_alive = False
            del self._living[member.key]
            self._release(member)
        for member in waiting:
            if member.wish is not None and not member.is_alive and member.spawner is not None:
                wish, member.wish = member.wish, None
                self._wish_again(wish)
        return first

    def _tell_peers_of_loss(self, member: Member, status: ExitStatus) -> None:
        """No end of a link comes from a computer that is cut off or dead: who is linked with its processes is told."""
        for key in member.peers:
            peer = self._living.get(key)
            if peer is not None and peer.computer is not member.computer:
                self._send(peer, messages.PeerLost(member.key, status.to_fields()))

    def _wish_again(self, wish: Wish) -> None:
        if not wish.spawner.is_alive or self.refusal:
            close_fds(wish.payload)
            if wish.spawner.is_alive:
                text = f"cannot spawn {wish.message.function}: {self.refusal}"
                self._answer_failure(wish.spawner, wish.message.request, "SpawnError", text)
            return
        number = self._master.next_number()
        self._wishes[number] = wish
        wish.spawner.wishes[number] = None
        self.carry_out(
            self._master.submit(number, wish.resources, self._loop.now(), wait=True, where=from_fields(wish.message.on))
        )

    def _after_end(self, member: Member, status: ExitStatus | None) -> None:
        self._registry.ended(member, status)  # first: who hears of this end finds the name free
        fields = status.to_fields() if status is not None else None
        for watcher, request in member.watchers:
            self._send(watcher, messages.Exited(request, fields))
        for waiting in member.waiting_for_end:
            self._send(waiting, messages.Refused(member.key, fields))
        member.watchers.clear()
        member.waiting_for_end.clear()
        self.links.forget(member)
        for peer_key in member.peers:
            peer = self._living.get(peer_key)
            if peer is not None:
                peer.peers.discard(member.key)
        self._stall.check()
        self._check_closed()
        self._on_change()

    def _status_of(self, key: bytes) -> ExitStatus | None:
        """The certificate of a dead process; None for one that is not known here."""
        status = self._dead.get(key)
        if status is None and key in self._dead:
            pid = Pid.from_bytes(key)
            return ExitStatus(pid, 0, None, node=self._master.name_of(pid.node))
        return status

    # Lending, and when it does not help

    def _waits(self, member: Member, *, waits: bool) -> None:
        if not member.has_room:
            return
        if waits:
            self.carry_out(self._master.lend(member.number, self._loop.now()))
            self._stall.check()
        else:
            self._stall.went_on()
            self._master.placement.take_back(member.number)

    def _drains(self, member: Member, message: messages.Draining) -> None:
        is_first = not member.draining
        member.draining = draining.describe_until(draining.from_fields(message.channels), message.linger)
        if is_first and not message.is_over:
            self._loop.call_later(DRAINING_SHOWN_S, lambda: self._bridge.draining(member) if member.is_alive else None)

    def queue_of(self, member: Member) -> Queue | None:
        """The spawns of a process that are queued, what there is, and who holds it; None: there are none."""
        if not member.wishes:
            return None
        wishes = [self._wishes[number] for number in member.wishes]
        wanted = [(wish.message.function, wish.resources) for wish in wishes]
        holders = [(other.pid, other.resources) for other in self._living.values() if other.has_room]
        return Queue(wanted, self._master.capacity, holders)

    def _is_stalled(self) -> bool:
        return bool(self._wishes and self._master.placement.stalled())

    def _give_up_stalled(self) -> None:
        holders = ", ".join(f"{member.pid} holds {member.resources}" for member in self.living[:8])
        more = f" and {len(self._living) - 8} more" if len(self._living) > 8 else ""
        for number in self._master.placement.stalled():
            wish = self._wishes.get(number)
            if wish is not None:
                text = (
                    f"cannot spawn {wish.message.function}: every process waits, and none will give back what it holds: "
                    f"{holders}{more}; ask for less, or give more capacity"
                )
                self._withdraw(number)
                self._answer_failure(wish.spawner, wish.message.request, "SpawnStalled", text)

    # The deployment's end and its next beginning

    def _close(self, member: Member, request: int, *, kill: bool) -> None:
        self._closing = (member, request, kill)
        if kill:
            self.refuse("the deployment is being closed")
            for other in self.others:
                self.ask(other, "close()", self._grace)
        self._check_closed()

    def _check_closed(self) -> None:
        if self._closing is None or len(self._living) > 1 or self._wishes:
            return
        member, request, _ = self._closing
        self._closing = None
        self._send(member, messages.Closed(request))

    def begin_again(self, message: messages.Begin, pid: Pid, resources: Resources, room: Callable[[], Room]) -> None:
        """The first process begins a new deployment: a new name and an empty book.

        Args:
            message: What it has sent.
            pid: Its new name.
            resources: Its new demand.
            room: Makes the room of the new deployment, when that of the old one has been given back.
        """
        member = self.first
        assert member is not None
        self._bridge.exited(ExitStatus(member.pid, 0, None, node=member.computer.name))
        self._release(member)
        del self._living[member.key]
        self._dead[member.key] = None
        self._registry.clear()
        self._master = room()
        member.pid, member.key = pid, pid.to_bytes()
        member.function, member.resources = message.function, resources
        member.number = self._master.next_number()
        self._living[member.key] = member
        self.refusal = ""
        self._submit_first(member)
        self._bridge.spawned(member)

    # Answers

    @staticmethod
    def _send(member: Member, message: Message) -> None:
        member.computer.tell(member.key, message)

    def _answer_failure(self, member: Member, request: int, kind: str, text: str) -> None:
        self._send(member, messages.SpawnFailed(request, kind, text))
