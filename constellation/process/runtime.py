"""All that one process of a deployment has: its Pid, its reactor, its connection to the node, its peers.

There is one `Runtime` per process, installed by `init` or by the start of a spawned process. A user's own fork inherits
the object but not its threads: there it is *foreign*, does nothing, and refuses every use.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from time import perf_counter
from typing import TYPE_CHECKING, Any

from constellation.core import draining, handshake, settings, why
from constellation.core.draining import Held
from constellation.core.errors import ChannelError, PluginError, UsageError
from constellation.core.lifecycle import NODE_LOST
from constellation.core.messages import (
    Close,
    Closed,
    Draining,
    Exited,
    FarLink,
    Identity,
    Leaving,
    LinkCut,
    LinkLost,
    LinkMade,
    LongWaits,
    Message,
    PeerLost,
    Raised,
    Ready,
    Refused,
    Unreachable,
    Waiting,
    Watch,
)
from constellation.core.pid import Pid
from constellation.core.status import ExitStatus
from constellation.process.control import Control
from constellation.process.memory import Pool
from constellation.process.peer import Peer, error_of
from constellation.process.reactor import Reactor
from constellation.process.waits import Waits

if TYPE_CHECKING:
    from constellation.core.contracts import Link, Serializer, Transport
    from constellation.core.plugins import Plugins
    from constellation.core.resources import Resources
    from constellation.core.why import Need, Wait
    from constellation.process.incoming import Incoming
    from constellation.process.operations import Operation
    from constellation.process.secure import LinkContexts

_installed: Runtime | None = None
_plugins: tuple[object, Plugins] | None = None


def plugins_of(config: dict[str, Any]) -> Plugins:
    """Give the plugins of a deployment; made once per template, before it forks.

    Raises:
        PluginError: One is unknown or broken, or an option cannot be used.
    """
    global _plugins  # inherited by every process that the template forks
    wanted = (tuple(config["plugins"]), dict(config["plugin_options"]))
    if _plugins is None or _plugins[0] != wanted:
        from constellation.core.plugins import make_plugin_manager  # not in a spawned process

        _plugins = (wanted, make_plugin_manager(config["plugins"], config["plugin_options"]))
    return _plugins[1]


def prepare(config: dict[str, Any]) -> tuple[Transport, Serializer]:
    """Load the transport and the serializer of a deployment; once per template, before it forks."""
    plugins = plugins_of(config)
    return plugins.transport(config["transport"]), plugins.serializer(config["serializer"])


class Runtime:
    """One process of a deployment.

    Args:
        pid: Of this process.
        parent: The process that spawned it, None for the first.
        resources: Its demand.
        control: Socket to the node; taken over.
        config: The deployment's configuration.
        outlives_node: Whether it goes on without its node, as a caller does to which the fabric is only attached.
    """

    def __init__(
        self,
        pid: Pid,
        parent: Pid | None,
        resources: Resources,
        control: socket.socket,
        config: dict[str, Any],
        *,
        outlives_node: bool = False,
    ) -> None:
        self.pid = pid
        self.parent = parent
        self.resources = resources
        self.config = config
        self.transport, self.serializer = prepare(config)
        self.credit: int = config["credit"]
        self.offer = handshake.offer_of(self.transport, self.serializer, self.credit)
        self.os_pid = os.getpid()
        self._outlives_node = outlives_node
        self.is_foreign = False
        self.leaving = False
        self.pool = Pool()
        self.peers: dict[Pid, Peer] = {}
        self._ends: dict[Pid, ChannelError] = {}
        self.reactor = Reactor()
        self.control = Control(self.reactor, control, self._on_message, self._on_node_gone)
        if config.get("capacity") is not None:
            self.reactor.tell_waiting = self._tell_waiting
        self.reactor.waits = Waits(self._tell_waits)
        self._identity: Identity | None = None
        self._contexts: LinkContexts | None = None
        self._budget = max(resources.mem // settings.BUDGET_SHARE, settings.BUDGET_FLOOR)
        self.is_drain_full = False  # somebody who leaves was refused
        self._drained: list[Incoming] = []
        self._refused: list[Incoming] = []

    def start(self, *, ready: bool = True) -> None:
        """Start the background thread; tell the node that the process runs."""
        self.reactor.start()
        if ready:
            self.control.send(Ready(self.os_pid))

    def peer(self, pid: Pid) -> Peer:
        """The peer of that name."""
        peer = self.peers.get(pid)
        if peer is None:
            peer = self.peers.setdefault(pid, Peer(self, pid))
            if pid in self._ends:
                peer.on_ended(self._ends[pid])
        return peer

    def _note_end(self, status: ExitStatus) -> None:
        """The node has answered that a process has ended: a first send to it is refused here."""
        pid = status.pid
        self._ends[pid] = error = error_of(pid, status)
        if len(self._ends) > _MOST_ENDS:
            del self._ends[next(iter(self._ends))]
        peer = self.peers.get(pid)
        if peer is not None and pid != self.pid:
            peer.on_ended(error)

    # What the node says

    def _on_message(self, message: Message, fds: list[int]) -> None:
        if isinstance(message, LinkMade) and len(fds) == 1:
            self.peer(Pid.from_bytes(message.peer)).on_link(message.number, fds[0])
        elif isinstance(message, FarLink) and len(fds) == 1:
            self._on_far_link(message, fds[0])
        elif isinstance(message, LinkMade | FarLink):
            # The kernel drops a descriptor for which the process has no room.
            self.peer(Pid.from_bytes(message.peer)).on_no_room(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
        elif isinstance(message, Identity):
            self._identity = message
        elif isinstance(message, Refused):
            pid = Pid.from_bytes(message.peer)
            status = None if message.status is None else ExitStatus.from_fields(message.status)
            self.peer(pid).on_refused(error_of(pid, status))
        elif isinstance(message, LinkLost):
            self.peer(Pid.from_bytes(message.peer)).on_lost(message.reason)
        elif isinstance(message, Exited) and message.status is not None:
            self._note_end(ExitStatus.from_fields(message.status))
        elif isinstance(message, PeerLost):
            self.peer(Pid.from_bytes(message.peer)).on_peer_lost(ExitStatus.from_fields(message.status))
        elif isinstance(message, Unreachable):
            pid = Pid.from_bytes(message.peer)
            self.peer(pid).on_refused(ChannelError(f"no link to process {pid} can be made: {message.reason}"))

    def _on_far_link(self, message: FarLink, fd: int) -> None:
        """Both nodes have put a link through to a process on another computer."""
        peer = Pid.from_bytes(message.peer)
        self.peer(peer).on_link(message.number, fd, lambda mine: self._open_far(peer, message, mine))

    def _open_far(self, peer: Pid, message: FarLink, fd: int) -> Link:
        """Make the link, with TLS; takes ``fd`` over."""
        if not getattr(self.transport, "remote", False):
            os.close(fd)
            raise PluginError("it makes links within one computer only; the default one reaches others")
        if self._contexts is None:
            from constellation.core import role  # late, as the next: ssl takes 15 ms to load
            from constellation.process.secure import LinkContexts

            given = self._identity
            assert given is not None, "a node says Identity before FarLink"
            proofs = role.Identity(given.certificate.decode(), given.key.decode(), given.authority.decode())
            self._contexts = LinkContexts(proofs, given.deployment)
        target, source = (peer, self.pid) if message.dials else (self.pid, peer)
        context = self._contexts.of_link(server=not message.dials, target=target, source=source, number=message.number)
        opened: Link = self.transport.open(fd, server=not message.dials, context=context)  # type: ignore[attr-defined]
        return opened

    def tell_lost(self, pid: Pid, reason: str) -> None:
        """The link to a process has failed at this end: it hears so from its node."""
        if self.control.is_open and not self.is_foreign:
            self.control.send(LinkLost(pid.to_bytes(), reason[:_LONGEST_REASON]))

    def tell_cut(self, pid: Pid, number: int, reason: str) -> None:
        """A link to another computer has ended without a word: who knows whether its process lives hears so."""
        if self.control.is_open and not self.is_foreign:
            self.control.send(LinkCut(pid.to_bytes(), number, reason[:_LONGEST_REASON]))

    def packages(self) -> tuple[str, str]:
        """The packages that brought the transport and the serializer; empty where that is not known."""
        plugins = plugins_of(self.config)
        owners = (plugins.owner("transport", self.transport.name), plugins.owner("serializer", self.serializer.name))
        return plugins.source(owners[0]).package, plugins.source(owners[1]).package

    def _tell_waits(self, waits: list[Wait], is_endless: bool) -> None:
        if self.control.is_open:
            self.control.send(LongWaits(why.to_fields(waits), is_endless))

    def _tell_waiting(self, waits: bool) -> None:  # a callback of one fact
        if self.control.is_open:
            self.control.send(Waiting(waits))

    def _on_node_gone(self) -> None:
        if not self._outlives_node:
            # Its deployment is dead, or has cut it off. Its template, or who is above that, kills it as well, if they can.
            os.kill(self.os_pid, signal.SIGKILL)
        for peer in list(self.peers.values()):
            if peer.wire.link is None and peer.pid != self.pid:
                self.lose_peer(peer)

    def lose_peer(self, peer: Peer) -> None:
        """There will be no link with this peer: the node has gone."""
        peer.on_refused(error_of(peer.pid, lost_with_node(peer.pid)))

    def watch_peer(self, peer: Peer) -> None:
        """A link has ended: ask the node how its process ended, and tell the peer."""
        request = self.control.request()

        def tell() -> None:
            answer = request.answer
            request.waiters.clear()
            if isinstance(answer, Exited):
                peer.on_status(None if answer.status is None else ExitStatus.from_fields(answer.status))
            else:
                peer.on_status(lost_with_node(peer.pid))

        request.waiters.append(tell)
        if self.control.is_open:
            self.control.send(Watch(request.number, peer.pid.to_bytes()))
        else:
            tell()

    # Budgets

    def widen(self, size: int) -> bool:
        """Take ``size`` bytes out of what may be buffered with no recv posted, or give them back (below zero)."""
        if size > self._budget:
            return False
        self._budget -= size
        return True

    def may_drain(self, channel: Incoming, size: int) -> bool:
        """Whether ``channel`` of a leaving process may hold ``size`` bytes with no recv posted."""
        self._drained = [other for other in self._drained if other is not channel and other.may_come]
        if sum(other.may_come for other in self._drained) + size > settings.DRAIN_LIMIT:
            self._refused.append(channel)
            self.is_drain_full = True
            return False
        self._drained.append(channel)
        return True

    def drain_more(self) -> None:
        """Something has been taken: ask again for those who were refused."""
        refused, self._refused, self.is_drain_full = self._refused, [], False
        for channel in refused:
            channel.drain()

    # The end

    def tell_last(self, message: Leaving | Raised) -> None:
        """Tell the node why this process is about to end. Blocks for a moment where the node is slow."""
        if self.control.is_open and not self.is_foreign:
            self.control.send(message)
            self.control.finish(_LAST_WORD_S)

    def leave(self, linger: float) -> list[Held]:
        """Deliver what has been sent: drive until every peer has taken it in, closed or died.

        Must be called in the main thread. Blocks, at most ``linger`` seconds.

        Returns:
            The channels that still hold something, and those whose receiver had ended before the first value could leave.
        """
        if self.is_foreign or self.reactor.stopped:
            return []
        self.leaving = True
        self.reactor.tell_waiting = None  # this ends by itself, and then what the process holds is free
        self.reactor.spin = 0.0  # who is about to end gains nothing by a reply that comes some microseconds sooner
        peers = [peer for peer in self.peers.values() if peer.was_used and peer.pid != self.pid]
        for peer in peers:
            peer.ask_flush()
        waiting = _Delivered(peers)
        if not waiting.poll():
            end = perf_counter() + linger
            again = perf_counter() + _TELL_AFTER
            while not self.reactor.drive(waiting, min(again, end)) and perf_counter() < end:
                again = perf_counter() + _TELL_AGAIN
                self._tell_draining(_held(waiting.left()), linger, is_over=False)
        held = _held(waiting.left())
        held += [each for peer in self.peers.values() for each in peer.lost()]
        if held:
            self._tell_draining(held, linger, is_over=True)
        return held

    def _tell_draining(self, held: list[Held], linger: float, *, is_over: bool) -> None:
        if self.control.is_open:
            self.control.send(Draining(draining.to_fields(held), linger, is_over))

    def close_deployment(self, kill: bool) -> Operation[None]:
        """An operation: end the deployment; the others are killed, or waited for."""
        from constellation.process.requests import CallOperation  # a cycle otherwise

        words, need = ("the end of all other processes", why.EVERYONE) if not kill else ("close()", None)
        return CallOperation(self, lambda number: (Close(number, kill), ()), Closed, words, need)

    def stop(self) -> None:
        """End the background thread, the links and the connection to the node."""
        if self.is_foreign:
            return
        self.reactor.stop()
        for peer in self.peers.values():
            if peer.wire.link is not None:
                peer.wire.link.close()
                peer.wire.link = None
        self.control.close()


def lost_with_node(pid: Pid) -> ExitStatus:
    """What is known of a process when its node, which is ours, has gone: that it cannot live on without it."""
    return ExitStatus(pid, None, None, NODE_LOST)


class _Delivered:
    """Done when every peer has taken in what was sent to it."""

    def __init__(self, peers: list[Peer]) -> None:
        self._peers = peers

    def left(self) -> list[Peer]:
        return [peer for peer in self._peers if not peer.is_delivered]

    def poll(self) -> bool:
        # One after the other, for each is asked again whenever something has come: of many, all would be too much.
        while self._peers and self._peers[-1].is_delivered:
            self._peers.pop()
        return not self._peers

    def explain(self) -> str:
        return f"the delivery of {', '.join(draining.describe(_held(self.left())))}"

    def need(self) -> Need:
        """It ends by itself, after `linger`."""
        return None


_LONGEST_REASON = 2000
_MOST_ENDS = 10_000
"""Processes of which is remembered that they have ended, the last ones: of others a first send learns it too late."""

_LAST_WORD_S = 1.0
"""How long the news of an end waits for a node that does not read; without it the certificate could tell less."""

_TELL_AFTER = 0.2
"""Seconds of draining before the node is told, so that it can be shown."""

_TELL_AGAIN = 1.0
"""Then it is told of what is left."""


def _held(peers: list[Peer]) -> list[Held]:
    held = []
    for peer in peers:
        channels = [Held(channel.name, peer.pid, channel.held) for channel in peer.undrained()]
        held += channels or [Held("", peer.pid, 0)]  # all has left, and is not acknowledged
    return held


# The one of this process


def install(runtime: Runtime) -> None:
    """Make ``runtime`` the one of this process."""
    global _installed  # one per process, by design
    _installed = runtime
    _register_fork_hook()


def uninstall() -> None:
    """This process has no runtime any more."""
    global _installed  # one per process, by design
    _installed = None


def installed() -> Runtime | None:
    """The runtime of this process, also where it is foreign; None before `init`."""
    return _installed


def current() -> Runtime:
    """The runtime of this process.

    Raises:
        UsageError: There is none, or this is a fork that the user's program made itself.
    """
    runtime = _installed
    if runtime is None:
        raise UsageError("no deployment: call constellation.init() first, once, at the start of the program")
    if runtime.is_foreign:
        raise UsageError(
            "this process was forked by the program itself (os.fork or multiprocessing) and is no process of "
            "constellation: use spawn() for one that can send and receive"
        )
    return runtime


_hooked = False


def _register_fork_hook() -> None:
    global _hooked  # os.register_at_fork cannot be taken back
    if not _hooked:
        _hooked = True
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    """In a child that the user's program forked: close what belongs to the parent, and refuse all use.

    The epoll itself is only closed, never changed: it is the parent's too.
    """
    runtime = _installed
    if runtime is None:
        return
    runtime.is_foreign = True
    reactor = runtime.reactor
    if reactor.stopped:
        return
    reactor.stopped = True
    reactor.handlers = {}  # so that nothing is taken out of the epoll
    reactor.epoll.close()
    reactor.close_wake()
    runtime.control.close()
    for peer in runtime.peers.values():
        peer.abandon()


def pid() -> Pid:
    """The Pid of this process.

    Raises:
        UsageError: Before `init`.
    """
    return current().pid


def parent() -> Pid | None:
    """The Pid of the process that spawned this one; None in the first process.

    Raises:
        UsageError: Before `init`.
    """
    return current().parent


def resources() -> Resources:
    """The demand of this process.

    Raises:
        UsageError: Before `init`.
    """
    return current().resources
