"""The node: one computer's processes of one deployment. Control connections, forks, links between them, their ends.

It decides nothing about who and where (the coordinator does), nothing about output (monitor and bridge), and never waits
for a process. The order in which the end of a process is handled is the point of this module: first everything that it
had sent, then its output, then its certificate.
"""

from __future__ import annotations

import errno
import operator
import os
import select
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from constellation.core import draining, messages
from constellation.core.finding import place_of_raise
from constellation.core.lifecycle import KnownEnd, certificate, closing_words
from constellation.core.messages import Message
from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.core.status import ExitStatus
from constellation.fabric import keeper
from constellation.fabric.books import Process, close_fds
from constellation.fabric.laststacks import LastStacks
from constellation.fabric.packets import Packets
from constellation.fabric.proc import are_asleep
from constellation.fabric.signals import ended_children
from constellation.fabric.templates import control_pair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from constellation.core.contracts import Transport
    from constellation.core.fatal import Fatal
    from constellation.core.messages import Fork
    from constellation.fabric.computer import Computer, Events, Order
    from constellation.fabric.limits import Limits
    from constellation.fabric.loop import Loop
    from constellation.fabric.monitor import Monitor
    from constellation.fabric.templates import Template

DESCRIPTORS_EACH = 5
"""Control connection, stdout, stderr, the last stack, pidfd."""
DESCRIPTORS_KEPT = 64
"""For links on their way and what else must not fail: a pidfd that finds no room is lost with its process."""

_RETRY_S = 0.1


class Forks(Protocol):
    """Where processes are forked: a `Template`, or a `Starter` of them."""

    def fork(self, process: Process, message: Fork, fds: Sequence[int]) -> None: ...


class Node:
    """One computer's processes of one deployment: a `Computer` to the coordinator.

    Args:
        loop: The fabric's loop.
        events: Hears what happens: the coordinator.
        monitor: Reads, signals and kills.
        limits: Holds demands.
        transport: Makes pairs of link ends.
        node_id: Its number.
        name: Its name.
        file_limit: Descriptors that the fabric may have.
        on_connection: Called when the first process's connection has ended, or a deployment begins anew.
        say: Takes a line for the user.
    """

    def __init__(
        self,
        loop: Loop,
        events: Events,
        monitor: Monitor,
        limits: Limits,
        transport: Callable[[], Transport],
        node_id: int,
        name: str,
        file_limit: int,
        begin_again: Callable[[Process, messages.Begin, int], None],
        say: Callable[[str], None],
    ) -> None:
        self.forks: Forks | None = None
        self.first: Process | None = None
        self.may_be_lost = False
        self.id = node_id
        self.name = name
        self._loop = loop
        self._events = events
        self._monitor = monitor
        self._limits = limits
        self._transport = transport
        self._file_limit = file_limit
        self._begin_again = begin_again
        self._say = say
        self._living: dict[bytes, Process] = {}
        self._by_os_pid: dict[int, Process] = {}
        self._templates: dict[int, Template] = {}
        self._last_stacks = LastStacks(loop)
        self._has_said_no_descriptors = False

    @property
    def living(self) -> list[Process]:
        """All processes here that have been ordered and have not ended."""
        return list(self._living.values())

    # Beginning

    def begin(self, process: Process, sock: socket.socket, last_stack: int) -> None:
        """Take the first process in; it runs already.

        Args:
            process: The first process.
            sock: The fabric's end of its control connection.
            last_stack: The fabric's end of the pipe for that; below 0: it has none.
        """
        self.first = process
        self._living[process.key] = process
        self._connect(process, sock)
        if last_stack >= 0:
            self._last_stacks.take_in(process, last_stack)

    def begin_anew(self, process: Process, pid: Pid, function: str, resources: Resources, forks: Forks) -> None:
        """The first process begins a new deployment: a new name, a new template."""
        del self._living[process.key]
        process.pid, process.key = pid, pid.to_bytes()
        process.function, process.resources = function, resources
        self._living[process.key] = process
        self.forks = forks
        self._limits.take_in(process)

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

    def cut_off(self, process: Process, reason: str) -> None:
        """Close the connection to a process that does not keep to the rules; the reason goes into its certificate."""
        if process.connection is not None:
            process.connection.close()
        self._on_connection_end(process, reason)

    def _on_message(self, process: Process, message: Message, fds: list[int]) -> None:
        try:
            self._handle(process, message, fds)
        except ValueError as error:
            self.cut_off(process, f"it sent a malformed {type(message).__name__}: {error}")
        close_fds(fds)

    def _handle(self, process: Process, message: Message, fds: list[int]) -> None:
        match message:
            case messages.Ready(os_pid):
                self._ready(process, os_pid)
            case messages.Raised(name, text):
                process.exception = (name, text)
            case messages.Leaving(reason):
                process.reason = reason
            case messages.Draining(channels, is_over=True):
                process.undelivered = draining.describe(draining.from_fields(channels))
            case messages.Begin() if process is self.first and fds:
                self._begin_again(process, message, fds.pop(0))
            case _:
                if not self._events.said(process.key, message, fds):
                    self.cut_off(process, f"it sent {type(message).__name__}, which is not a process's to send")

    def start(self, order: Order, payload: Sequence[int]) -> None:
        """Start a process. Takes the descriptors over."""
        process = Process(
            order.number,
            Pid.from_bytes(order.pid),
            Pid.from_bytes(order.parent) if order.parent else None,
            order.function,
            Resources.from_fields(order.resources),
            order.place or None,
        )
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
            made.append(self._last_stacks.open(process))
            if made[-1] > self._file_limit - DESCRIPTORS_KEPT:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        except OSError as error:
            close_fds([*made, *payload])
            self.fork_failed(
                process,
                f"{error.strerror} in the fabric, which has {len(self._living)} processes and may open "
                f"{self._file_limit} descriptors; raise the hard limit (ulimit -Hn), or run fewer at a time",
            )
            return
        fork = messages.Fork(order.number, order.pid, order.parent, order.resources, order.function, order.payload)
        assert self.forks is not None
        made += payload
        made += self._limits.prepare(process)
        self.forks.fork(process, fork, made)
        close_fds(made)
        self._limits.hold(process)

    def template_runs(self, template: Template, os_pid: int) -> None:
        """A template has said which process it is: a child of this interpreter, unless one that is none has forked it."""
        self._templates[os_pid] = template

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
        self._last_stacks.forget(process)
        self._limits.release(process)
        if words:
            text += "; it said:" + "".join(f"\n    {line}" for line in words)
        self._events.failed(process.key, text)

    def has_begun(self, process: Process) -> bool:
        """Whether a process runs, or has run, whose template is gone before it could say so."""
        if process.connection is not None:
            process.connection.drain()
        return process.is_ready or process is self.first

    def _ready(self, process: Process, os_pid: int) -> None:
        if process.is_ready:
            return
        process.is_ready = True
        if process.is_attached:
            process.os_pid, process.pidfd = os_pid, _open_pidfd(os_pid)
            self._limits.take_in(process)
        elif process.os_pid == 0:  # the template says so too, unless it ends before
            process.os_pid = os_pid
            self._by_os_pid.setdefault(os_pid, process)
        self._events.began(process.key, os_pid, is_running=True)
        self._monitor.listen(process)
        self._monitor.catch_up(process)

    # What the coordinator wants

    def tell(self, key: bytes, message: Message) -> None:
        """Send a message to a process."""
        process = self._living.get(key)
        if process is not None and process.connection is not None:
            process.connection.send(message)

    def pass_on(self, key: bytes, message: Message, fd: int) -> bool:
        """Send a message and a descriptor, which stays the caller's, to a process; False where it cannot take it."""
        process = self._living.get(key)
        return process is not None and process.connection is not None and process.connection.send(message, [fd])

    def ask(self, key: bytes, cause: str, grace: float) -> None:
        """Ask a process to end, and kill it after ``grace`` seconds."""
        process = self._living.get(key)
        if process is not None:
            self._monitor.ask(process, cause, grace)

    def signal(self, key: bytes, signum: int, cause: str) -> None:
        """Send a signal whose consequences are somebody else's decision."""
        process = self._living.get(key)
        if process is not None:
            self._monitor.signal(process, signum, cause)

    def kill(self, key: bytes, cause: str) -> None:
        """Kill a process now."""
        process = self._living.get(key)
        if process is not None:
            self._monitor.kill(process, cause)

    def is_at_rest(self, key: bytes) -> bool:
        """Whether every thread of a process sleeps: none runs or is about to, and it has not just been stopped or ended."""
        process = self._living.get(key)
        if process is None or not process.os_pid:
            return False  # it is being started
        asleep = are_asleep(process.os_pid)
        return not _has_ended(process.pidfd) if asleep is None else asleep

    def insist(self) -> None:
        """Kill everything below, templates included, that do not report the ends of what they have forked."""
        keeper.kill_descendants()

    # Links

    def pair(self, one: bytes, two: bytes, number: int) -> None:
        """Make a link between two processes of this computer."""
        first, second = self._living.get(one), self._living.get(two)
        for key, process in ((one, first), (two, second)):
            if process is None or process.connection is None or not process.connection.is_open:
                self._events.not_linked(one, two, number, ending=key, reason="")
                return
        assert first is not None and first.connection is not None  # noqa: PT018  # the loop has seen to it
        assert second is not None and second.connection is not None  # noqa: PT018
        try:
            ours, theirs = map(operator.index, self._transport().pair())
        except OSError as error:
            if not self._has_said_no_descriptors:
                self._has_said_no_descriptors = True
                self._say(f"constellation: links wait: {error.strerror} in the fabric\n")
            self._loop.call_later(_RETRY_S, lambda: self.pair(one, two, number))
            return
        except Exception as error:  # a plugin's: these two have no link, and all else goes on
            reason = f"making a pair of link ends raised {type(error).__name__}: {error}, at {place_of_raise(error)}"
            self._events.not_linked(one, two, number, ending=b"", reason=reason)
            return
        if second.connection.send(messages.LinkMade(one, number), [theirs]):
            first.connection.send(messages.LinkMade(two, number), [ours])
        else:
            # It is ending, and the news of it is on its way.
            self._events.not_linked(one, two, number, ending=two, reason="")
        os.close(ours)
        os.close(theirs)

    def dial(self, one: bytes, two: bytes, number: int, other: Computer) -> None:
        """There is no other computer: this is the only one of its deployment."""
        self._events.not_linked(one, two, number, ending=b"", reason=f"node {other.name} is not known here")

    def way_to(self, other: Computer) -> str:
        """There is no other computer."""
        return f"to node {other.name}"

    # Ends

    def reap(self) -> None:
        """Wait for the children of this interpreter that have ended."""
        for os_pid, code in ended_children():
            self.reaped(os_pid, code if code >= 0 else None, -code if code < 0 else None)

    def reaped(self, os_pid: int, code: int | None, signum: int | None) -> None:
        """The fabric has waited for a child of its own: a process whose template is gone, or somebody's orphan."""
        process = self._by_os_pid.get(os_pid)
        if process is None:
            lost = self._templates.pop(os_pid, None)
            if lost is not None:
                lost.end = (code, signum)  # before its processes: those are the fabric's to wait for since that moment
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
        may_say = process.is_ready
        if not process.is_ready and not process.is_attached:
            # It ended before it could say so; what it wrote must have a process that it belongs to.
            process.is_ready = True
            self._events.began(process.key, process.os_pid, is_running=False)
        self._monitor.drain(process)
        fatal, words = self._last_stacks.end(process, signum)
        self._monitor.show(process, words)
        if process.connection is not None:
            process.connection.close()
        self._by_os_pid.pop(process.os_pid, None)
        del self._living[process.key]
        status = self._certificate(process, code, signum, fatal, may_say=may_say)
        self._monitor.release(process)
        self._limits.release(process)
        self._events.ended(process.key, status, counts=not process.is_attached)

    def _certificate(
        self, process: Process, code: int | None, signum: int | None, fatal: Fatal | None, *, may_say: bool
    ) -> ExitStatus:
        template = process.template
        return certificate(
            KnownEnd(
                process.pid,
                code,
                signum,
                memory=self._limits.cause(process, signum),
                killer=process.order.cause,
                sent=process.order.asked_with,
                fatal=fatal,
                exception=process.exception,
                reason=process.reason,
                may_say=may_say,
                undelivered=process.undelivered,
                is_template_lost=template is not None and template.is_lost and not template.is_once,
                template_end=template.end if template is not None else None,
                fault=process.fault,
                stderr=closing_words(bytes(process.tail)),
                node=self.name,
                place=process.place,
            )
        )


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return pidfd >= 0 and bool(poll.poll(0))


def _open_pidfd(os_pid: int) -> int:
    try:
        return os.pidfd_open(os_pid)
    except OSError:
        return -1
