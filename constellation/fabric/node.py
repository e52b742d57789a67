"""The node: control connections, requests of processes, links between them, and the book of the living and the dead.

It decides nothing about where (the master does), nothing about output (monitor and bridge), and never waits for a
process. The order in which the end of a process is handled is the point of this module: first everything that it had
sent, then its output, then its certificate to the bridge, then to those who wait for it.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from constellation.core import messages
from constellation.core.errors import PluginError
from constellation.core.lifecycle import KnownEnd, certificate, closing_words
from constellation.core.linklife import number_of
from constellation.core.messages import Message
from constellation.core.pid import Pid
from constellation.core.placement import Displaced, Effect, Placed, Queued, RefusedDemand
from constellation.core.resources import Resources
from constellation.core.status import ExitStatus
from constellation.fabric.books import Process, close_fds
from constellation.fabric.packets import Packets
from constellation.fabric.registry import Registry
from constellation.fabric.templates import Template, control_pair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from constellation.core.contracts import Transport
    from constellation.core.messages import Fork
    from constellation.fabric.bridge import Bridge
    from constellation.fabric.limits import Limits
    from constellation.fabric.loop import Loop, Timer
    from constellation.fabric.master import Master
    from constellation.fabric.monitor import Monitor
    from constellation.fabric.why import Why

STALL_S = 0.25
"""How long nobody must run, while spawns wait, before they are called stalled: a message may be on its way to somebody
who has just been counted as waiting."""

DESCRIPTORS_EACH = 4
"""Control connection, stdout, stderr, pidfd."""
DESCRIPTORS_KEPT = 64
"""For links on their way and what else must not fail: a pidfd that finds no room is lost with its process."""

_RETRY_S = 0.1


class Forks(Protocol):
    """Where processes are forked: a `Template`, or a `Starter` of them."""

    def fork(self, process: Process, message: Fork, fds: Sequence[int]) -> None: ...


class _Wish:
    """A spawn that has not been placed yet."""

    __slots__ = ("message", "payload", "resources", "spawner")

    def __init__(self, spawner: Process, message: messages.Spawn, resources: Resources, payload: list[int]) -> None:
        self.spawner = spawner
        self.message = message
        self.resources = resources
        self.payload = payload


class Node:
    """One computer's processes of one deployment.

    Args:
        loop: The fabric's loop.
        master: Places demands.
        monitor: Reads, signals and kills.
        limits: Holds demands.
        bridge: Gets the events.
        transport: Makes pairs of link ends.
        node_id: Its number.
        name: Its name.
        grace: Seconds between asking and killing when the deployment is closed.
        file_limit: Descriptors that the fabric may have.
        on_change: Called when a process has ended, or a connection: the deployment may be over.
        say: Takes a line for the user.
    """

    def __init__(
        self,
        loop: Loop,
        master: Master,
        monitor: Monitor,
        limits: Limits,
        bridge: Bridge,
        transport: Callable[[], Transport],
        node_id: int,
        name: str,
        grace: float,
        file_limit: int,
        on_change: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self.master = master
        self.forks: Forks | None = None
        self.first: Process | None = None
        self.refusal = ""
        """Why no more processes are spawned; empty: they are."""
        self._loop = loop
        self._monitor = monitor
        self._limits = limits
        self._bridge = bridge
        self._transport = transport
        self._id = node_id
        self._name = name
        self._grace = grace
        self._file_limit = file_limit
        self._on_change = on_change
        self.why: Why | None = None
        """Hears what processes wait for; set by the deployment, which shows it."""
        self._say = say
        self._numbers = 1
        self._living: dict[bytes, Process] = {}
        self._by_os_pid: dict[int, Process] = {}
        self._dead: dict[bytes, ExitStatus | None] = {}
        self._wishes: dict[int, _Wish] = {}
        self._links: dict[tuple[bytes, bytes], int] = {}
        self._registry = Registry(
            self._send, self._living.get, self._status_of, lambda process, cause: monitor.ask(process, cause, grace)
        )
        self._closing: tuple[Process, int, bool] | None = None
        self._stall_timer: Timer | None = None
        self._has_said_no_descriptors = False

    # The living

    @property
    def living(self) -> list[Process]:
        """All processes that have been placed and have not ended."""
        return list(self._living.values())

    @property
    def others(self) -> list[Process]:
        """The same without the first one."""
        return [process for process in self._living.values() if process is not self.first]

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

    def begin(self, process: Process, sock: socket.socket) -> None:
        """Take the first process in; it runs already."""
        self.first = process
        self._numbers = max(self._numbers, process.number)
        self._living[process.key] = process
        self._connect(process, sock)
        self._submit_first(process)

    def _submit_first(self, process: Process) -> None:
        for effect in self.master.submit(process.number, process.resources, self._loop.now(), wait=False):
            match effect:
                case Placed():
                    process.has_room = True
                case RefusedDemand(_, _, text):
                    self._say(f"constellation: the first process has no room: {text}\n")
                    self._monitor.kill(process, f"the fabric: {text}")
                case Queued() | Displaced():
                    pass

    def _release(self, process: Process) -> None:
        if process.has_room:
            process.has_room = False
            self._carry_out(self.master.released(process.number, self._loop.now()))

    def _connect(self, process: Process, sock: socket.socket) -> None:
        process.connection = Packets(
            self._loop,
            sock,
            lambda message, fds: self._on_message(process, message, fds),
            lambda reason: self._on_connection_end(process, reason),
        )

    def _on_connection_end(self, process: Process, reason: str | None) -> None:
        process.fault = process.fault or reason
        if process.is_attached:
            self.ended(process, None, None)

    # Requests

    def _on_message(self, process: Process, message: Message, fds: list[int]) -> None:
        match message:
            case messages.Spawn():
                self._spawn(process, message, fds)
            case messages.Connect(peer, after):
                self._link(process, peer, after)
            case messages.Watch(request, pid):
                self._watch(process, request, pid)
            case messages.Kill():
                self._kill(process, message)
            case messages.Cancel(request):
                self._cancel(process, request)
            case messages.Ready(os_pid):
                self._ready(process, os_pid)
            case messages.Raised(name, text):
                process.exception = (name, text)
            case messages.Draining(names, undelivered):
                process.draining = [str(name) for name in names]
                process.undelivered = undelivered
            case messages.Waiting(waits):
                self._waits(process, waits=waits)
            case messages.LongWaits() if self.why is not None:
                self.why.told(process, message)
            case messages.Register() | messages.Unregister() | messages.Whereis() | messages.Tie() | messages.Untie():
                self._registry.on_message(process, message)
            case messages.Close(request, kill) if process is self.first:
                self._close(process, request, kill=kill)
            case messages.Begin() if process is self.first and fds:
                self._begin_again(process, message, fds.pop(0))
            case _:
                if process.connection is not None:
                    process.connection.close()
                self._on_connection_end(process, f"it sent {type(message).__name__}, which is not a process's to send")
        close_fds(fds)

    def _spawn(self, process: Process, message: messages.Spawn, fds: list[int]) -> None:
        if self.refusal:
            self._answer_failure(
                process, message.request, "SpawnError", f"cannot spawn {message.function}: {self.refusal}"
            )
            return
        try:
            demand = Resources.from_fields(message.resources)
        except ValueError as error:
            self._answer_failure(process, message.request, "UsageError", str(error))
            return
        self._numbers += 1
        number = self._numbers
        try:
            effects = self.master.submit(number, demand, self._loop.now(), wait=message.wait)
        except PluginError as error:
            self._answer_failure(process, message.request, "PluginError", str(error))
            return
        self._wishes[number] = _Wish(process, message, demand, fds[:1])
        process.wishes[number] = None
        del fds[:1]
        self._carry_out(effects)
        if number in self._wishes:
            self._check_stall()

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Placed(number, _):
                    self._start(number, self._take_wish(number))
                case RefusedDemand(number, kind, text):
                    wish = self._take_wish(number)
                    close_fds(wish.payload)
                    self._answer_failure(wish.spawner, wish.message.request, kind, text)
                case Queued() | Displaced():
                    pass

    def _take_wish(self, number: int) -> _Wish:
        wish = self._wishes.pop(number)
        del wish.spawner.wishes[number]
        return wish

    def _start(self, number: int, wish: _Wish) -> None:
        message, spawner = wish.message, wish.spawner
        pid = Pid(self._id, number, os.urandom(16))
        process = Process(
            number,
            pid,
            spawner.pid,
            message.function,
            wish.resources,
            message.place or None,
            (spawner, message.request),
        )
        process.has_room = True
        self._living[process.key] = process
        made: list[int] = []
        try:
            if len(self._living) * DESCRIPTORS_EACH + DESCRIPTORS_KEPT > self._file_limit:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            ours, theirs = control_pair()
            made.append(theirs.detach())
            self._connect(process, ours)
            for stream in (1, 2):
                read_end, write_end = os.pipe()
                os.set_blocking(read_end, False)
                process.outputs[read_end] = stream
                made.append(write_end)
            if made[-1] > self._file_limit - DESCRIPTORS_KEPT:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        except OSError as error:
            close_fds(made)
            close_fds(wish.payload)
            self.fork_failed(
                process,
                f"{error.strerror} in the fabric, which has {len(self._living)} processes and may open "
                f"{self._file_limit} descriptors; raise the hard limit (ulimit -Hn), or run fewer at a time",
            )
            return
        fork = messages.Fork(number, process.key, spawner.key, message.resources, message.function, message.payload)
        assert self.forks is not None
        made += wish.payload
        made += self._limits.prepare(process)
        self.forks.fork(process, fork, made)
        close_fds(made)
        self._limits.hold(process)

    def forked(self, process: Process, os_pid: int, pidfd: int) -> None:
        """The template has forked a process; takes ``pidfd`` over."""
        if not process.is_alive:
            os.close(pidfd)
            return
        process.os_pid, process.pidfd = os_pid, pidfd
        self._by_os_pid[os_pid] = process
        if process is self.first:
            self._limits.take_in(process)
        else:
            self._limits.began(process)
        self._monitor.catch_up(process)

    def fork_failed(self, process: Process, text: str) -> None:
        """A process could not be forked: as if it had never been."""
        if not process.is_alive:
            return
        process.is_alive = False
        del self._living[process.key]
        if process.connection is not None:
            process.connection.close()
        words = closing_words(self._monitor.abandon(process))
        self._limits.release(process)
        if words:
            text += "; it said:" + "".join(f"\n    {line}" for line in words)
        if process.spawner is not None:
            spawner, request = process.spawner
            process.spawner = None
            self._answer_failure(spawner, request, "SpawnError", f"cannot spawn {process.function}: {text}")
        self._release(process)
        self._after_end(process, None)

    def _ready(self, process: Process, os_pid: int) -> None:
        if process.is_ready:
            return
        process.is_ready = True
        if process.is_attached:
            process.os_pid, process.pidfd = os_pid, _open_pidfd(os_pid)
            self._limits.take_in(process)
        if process.spawner is not None:
            spawner, request = process.spawner
            process.spawner = None
            self._send(spawner, messages.Spawned(request, process.key))
        self._bridge.spawned(process)
        self._monitor.listen(process)
        self._monitor.catch_up(process)

    def _cancel(self, process: Process, request: int) -> None:
        for number in process.wishes:
            if self._wishes[number].message.request == request:
                self._withdraw(number)
                self._send(process, messages.SpawnFailed(request, "Cancelled", ""))
                return
        for watched in self._living.values():
            if watched.watchers:
                watched.watchers = [each for each in watched.watchers if each != (process, request)]
        self._registry.cancel(process, request)

    def _withdraw(self, number: int) -> None:
        close_fds(self._take_wish(number).payload)
        self._carry_out(self.master.cancel(number, self._loop.now()))

    def _withdraw_all_of(self, process: Process) -> None:
        for number in list(process.wishes):
            if number in process.wishes:  # one's withdrawal may have let the next one go ahead
                self._withdraw(number)

    # Links

    def _link(self, process: Process, peer_key: bytes, after: int) -> None:
        pair = (process.key, peer_key) if process.key < peer_key else (peer_key, process.key)
        number = number_of(self._links.get(pair, 0), after)
        if not number:
            return  # one is on its way
        peer = self._living.get(peer_key)
        if peer is None or peer is process:
            self._refuse_link(process, peer_key)
            return
        if peer.connection is None or not peer.connection.is_open:
            if process not in peer.waiting_for_end:
                peer.waiting_for_end.append(process)
            return
        try:
            ours, theirs = self._transport().pair()
        except OSError as error:
            if not self._has_said_no_descriptors:
                self._has_said_no_descriptors = True
                self._say(f"constellation: links wait: {error.strerror} in the fabric\n")
            self._loop.call_later(_RETRY_S, lambda: self._link(process, peer_key, after) if process.is_alive else None)
            return
        if peer.connection.send(messages.LinkMade(process.key, number), [theirs]):
            self._links[pair] = number
            process.peers.add(peer_key)
            peer.peers.add(process.key)
            self._send(process, messages.LinkMade(peer_key, number), [ours])
        elif process not in peer.waiting_for_end:
            # It is ending, and the news of it is on its way.
            peer.waiting_for_end.append(process)
        os.close(ours)
        os.close(theirs)

    def _refuse_link(self, process: Process, peer_key: bytes) -> None:
        known = self._status_of(peer_key)
        self._send(process, messages.Refused(peer_key, known.to_fields() if known is not None else None))

    # Watching and killing

    def _watch(self, process: Process, request: int, key: bytes) -> None:
        watched = self._living.get(key)
        if watched is not None:
            watched.watchers.append((process, request))
            return
        known = self._status_of(key)
        self._send(process, messages.Exited(request, known.to_fields() if known is not None else None))

    def _kill(self, process: Process, message: messages.Kill) -> None:
        self._watch(process, message.request, message.pid)
        target = self._living.get(message.pid)
        if target is None and not message.tree:
            return
        cause = f"process {process.pid}"
        victims = [] if target is None else [target]
        if message.tree:
            victims += self._below(message.pid)
        for victim in victims:
            if message.tree:
                self._withdraw_all_of(victim)
            self._monitor.ask(victim, cause, message.grace)

    def _below(self, key: bytes) -> list[Process]:
        """All that a process has spawned, and they, as far as they live; the line may lead over dead ones."""
        children: dict[Pid, list[Process]] = {}
        for process in self._living.values():
            if process.parent is not None:
                children.setdefault(process.parent, []).append(process)
        try:
            waiting = [Pid.from_bytes(key)]
        except ValueError:
            return []
        found: list[Process] = []
        while waiting:
            below = children.get(waiting.pop(), [])
            found += below
            waiting += [process.pid for process in below]
        return found

    # Ends

    def reaped(self, os_pid: int, code: int | None, signum: int | None) -> None:
        """The fabric has waited for a child of its own: a process whose template is gone, or somebody's orphan."""
        process = self._by_os_pid.get(os_pid)
        if process is None:
            return
        process.reaped = (code, signum)
        template = process.template
        if template is not None and (template.is_lost or template.is_once):
            template.running.pop(os_pid, None)
            self.ended(process, code, signum)

    def ended(self, process: Process, code: int | None, signum: int | None) -> None:
        """A process has been waited for; both None: it is gone, and nobody knows how."""
        if not process.is_alive:
            return
        if process.connection is not None:
            process.connection.drain()
        process.is_alive = False
        spawner, process.spawner = process.spawner, None
        if not process.is_ready and not process.is_attached:
            # It ended before it could say so; what it wrote must have a process that it belongs to.
            process.is_ready = True
            self._bridge.spawned(process)
        self._monitor.drain(process)
        if process.connection is not None:
            process.connection.close()
        self._by_os_pid.pop(process.os_pid, None)
        del self._living[process.key]
        status = self._certificate(process, code, signum)
        self._monitor.release(process)
        self._limits.release(process)
        self._dead[process.key] = None if status.ok and status.cause is None else status
        if not process.is_attached:
            self._bridge.exited(status)
        if spawner is not None:
            words = "".join(f"\n    {line}" for line in status.stderr)
            text = f"cannot spawn {process.function}: it ended before it began: {status.describe()}{words}"
            self._answer_failure(*spawner, "SpawnError", text)
        self._withdraw_all_of(process)
        self._release(process)
        self._after_end(process, status)

    def _after_end(self, process: Process, status: ExitStatus | None) -> None:
        self._registry.ended(process, status)  # first: who hears of this end finds the name free
        fields = status.to_fields() if status is not None else None
        for watcher, request in process.watchers:
            self._send(watcher, messages.Exited(request, fields))
        for waiting in process.waiting_for_end:
            self._send(waiting, messages.Refused(process.key, fields))
        process.watchers.clear()
        process.waiting_for_end.clear()
        for peer_key in process.peers:
            self._links.pop((process.key, peer_key) if process.key < peer_key else (peer_key, process.key), None)
            peer = self._living.get(peer_key)
            if peer is not None:
                peer.peers.discard(process.key)
        self._check_stall()
        self._check_closed()
        self._on_change()

    def _certificate(self, process: Process, code: int | None, signum: int | None) -> ExitStatus:
        template = process.template
        return certificate(
            KnownEnd(
                process.pid,
                code,
                signum,
                memory=self._limits.cause(process, signum),
                killer=process.order.cause,
                exception=process.exception,
                undelivered=process.undelivered,
                is_template_lost=template is not None and template.is_lost and not template.is_once,
                fault=process.fault,
                stderr=closing_words(bytes(process.tail)),
                node=self._name,
                place=process.place,
            )
        )

    def _status_of(self, key: bytes) -> ExitStatus | None:
        """The certificate of a dead process; None for one that is not known here."""
        status = self._dead.get(key)
        if status is None and key in self._dead:
            return ExitStatus(Pid.from_bytes(key), 0, None, node=self._name)
        return status

    # Lending, and when it does not help

    def _waits(self, process: Process, *, waits: bool) -> None:
        placement = self.master.placement
        if not process.has_room:
            return
        if waits:
            self._carry_out(placement.lend(process.number, self._loop.now()))
            self._check_stall()
        else:
            placement.take_back(process.number)

    def _check_stall(self) -> None:
        if self._wishes and self._stall_timer is None and self.master.placement.stalled():
            self._stall_timer = self._loop.call_later(STALL_S, self._give_up_if_stalled)

    def _give_up_if_stalled(self) -> None:
        self._stall_timer = None
        holders = ", ".join(f"{process.pid} holds {process.resources}" for process in self.living[:8])
        more = f" and {len(self._living) - 8} more" if len(self._living) > 8 else ""
        for number in self.master.placement.stalled():
            wish = self._wishes.get(number)
            if wish is not None:
                text = (
                    f"cannot spawn {wish.message.function}: every process waits, and none will give back what it holds: "
                    f"{holders}{more}; ask for less, or give more capacity"
                )
                self._withdraw(number)
                self._answer_failure(wish.spawner, wish.message.request, "SpawnStalled", text)

    # The deployment's end and its next beginning

    def _close(self, process: Process, request: int, *, kill: bool) -> None:
        self._closing = (process, request, kill)
        if kill:
            self.refuse("the deployment is being closed")
            for other in self.others:
                self._monitor.ask(other, "close()", self._grace)
        self._check_closed()

    def _check_closed(self) -> None:
        if self._closing is None or len(self._living) > 1 or self._wishes:
            return
        process, request, _ = self._closing
        self._closing = None
        self._send(process, messages.Closed(request))

    def _begin_again(self, process: Process, message: messages.Begin, template_fd: int) -> None:
        """The first process begins a new deployment: a new name, a new template, an empty book."""
        try:
            pid = Pid.from_bytes(message.pid)
            resources = Resources.from_fields(message.resources)
            capacity = Resources.from_fields(message.capacity) if message.capacity is not None else None
        except ValueError as error:
            os.close(template_fd)
            if process.connection is not None:
                process.connection.close()
            self._on_connection_end(process, f"it sent a malformed control message: {error}")
            return
        self._monitor.drain(process)
        self._bridge.exited(ExitStatus(process.pid, 0, None, node=self._name))
        self._release(process)
        del self._living[process.key]
        self._dead[process.key] = None
        self._registry.clear()
        self.master = self.master.again(capacity)
        process.pid, process.key = pid, pid.to_bytes()
        process.function, process.resources = message.function, resources
        self._numbers += 1
        process.number = self._numbers
        self._living[process.key] = process
        self.refusal = ""
        self.forks = Template(self._loop, socket.socket(fileno=template_fd), self)
        self._submit_first(process)
        self._limits.is_all = capacity is not None
        self._limits.take_in(process)
        self._bridge.spawned(process)
        self._send(process, messages.Closed(message.request))

    # Answers

    def _send(self, process: Process, message: Message, fds: Sequence[int] = ()) -> None:
        if process.connection is not None:
            process.connection.send(message, fds)

    def _answer_failure(self, process: Process, request: int, kind: str, text: str) -> None:
        self._send(process, messages.SpawnFailed(request, kind, text))


def _open_pidfd(os_pid: int) -> int:
    try:
        return os.pidfd_open(os_pid)
    except OSError:
        return -1
