"""The master's node as a relay: takes in the halves of links that its master has ordered, and has its relay process join them.

Which halves belong together is decided in core/relaying.py; this holds the sockets that wait, and the process, which is
started with the first link and again when it has ended.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
from collections.abc import Callable
from typing import Final

from constellation.core.preamble import Preamble
from constellation.core.relaying import RELAY, Cut, Drop, Effect, End, Failed, Join, Order, Parted, Relays, Splice
from constellation.fabric.loop import Loop, Timer
from constellation.fabric.packets import Packets
from constellation.fabric.relay import DESCRIPTORS_EACH, command

_DESCRIPTORS_KEPT: Final = 64
"""For what else the two processes open."""


class Relaying:
    """The relay of a master.

    Args:
        loop: The daemon's loop.
        log: Writes one line.
        on_failed: Called with an order that has failed, and why.
    """

    def __init__(self, loop: Loop, log: Callable[[str], None], on_failed: Callable[[Order, str], None]) -> None:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._loop = loop
        self._log = log
        self._on_failed = on_failed
        self._relays = Relays(max(1, (soft - _DESCRIPTORS_KEPT) // DESCRIPTORS_EACH))
        self._halves: dict[int, socket.socket] = {}
        self._count = 0
        self._timer: Timer | None = None
        self._process: Packets | None = None
        self._started: set[int] = set()
        """OS pids of the processes that have been started and not been waited for."""
        self._is_over = False

    # What the master wants

    def order(self, order: Order) -> None:
        """Relay this link, when both halves have come."""
        self._carry_out(self._relays.order(order, self._loop.now()))

    def withdraw(self, order: Order) -> None:
        """One side cannot take it."""
        self._carry_out(self._relays.withdraw(order))

    def deployment_over(self, deployment: bytes) -> None:
        """Nothing more is relayed for a deployment."""
        self._carry_out(self._relays.forget(lambda order: order.deployment == deployment))

    def node_lost(self, node_id: int) -> None:
        """A node has gone: no end of its links would come from there."""
        self._carry_out(self._relays.forget(lambda order: node_id in order.nodes))

    @property
    def count(self) -> int:
        """How many links are relayed now."""
        return self._relays.count

    def count_of(self, node_id: int) -> int:
        """How many links of a node are relayed now."""
        return self._relays.count_of(node_id)

    # Who dials

    def expects(self, preamble: Preamble) -> bool:
        """Whether somebody who says this in its preamble is half of a link that has been ordered."""
        return self._relays.expects(preamble.target, preamble.source, preamble.number)

    def accepted(self, sock: socket.socket, preamble: Preamble) -> None:
        """Take a half in; nothing that it says is read before it has been joined."""
        self._count += 1
        self._halves[self._count] = sock
        self._carry_out(self._relays.arrived(self._count, preamble.target, preamble.source, preamble.number))

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Join(link, caller, called):
                    with self._halves.pop(caller) as one, self._halves.pop(called) as two:
                        self._send(Splice(link), [one.fileno(), two.fileno()])
                case Drop(half):
                    self._halves.pop(half).close()
                case End(link):
                    self._send(Cut(link))
                case Failed(order, reason):
                    self._log(f"a link of deployment {order.deployment.hex()[:7]} is not relayed: {reason}")
                    self._on_failed(order, reason)
        self._arm()

    def _arm(self) -> None:
        deadline = self._relays.next_deadline()
        if self._timer is None and deadline is not None:
            self._timer = self._loop.call_at(deadline, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._timer = None
        self._carry_out(self._relays.expire(self._loop.now()))

    # The process

    def _send(self, message: Splice | Cut, fds: list[int] | None = None) -> None:
        if self._process is None and not self._is_over and isinstance(message, Splice):
            try:
                self._start()
            except OSError as error:
                self._log(f"the relay cannot be started: {error.strerror}")
        if (self._process is None or not self._process.send(message, fds or ())) and isinstance(message, Splice):
            # Both halves have been closed: who they belong to sees it, and says so.
            self._relays.parted(message.link)

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                started = subprocess.Popen(
                    command(theirs.fileno()), stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], cwd="/"
                )
            except BaseException:
                ours.close()
                raise
        started.returncode = 0  # the daemon reaps; Popen must not
        self._started.add(started.pid)
        self._process = Packets(self._loop, ours, self._on_message, self._on_end, schema=RELAY)

    def _on_message(self, message: Splice | Cut | Parted, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        if isinstance(message, Parted):
            order = self._relays.parted(message.link)
            if order is not None and message.reason:
                self._log(f"a relayed link of deployment {order.deployment.hex()[:7]} has broken: {message.reason}")

    def _on_end(self, _reason: str | None) -> None:
        self._process = None
        lost = self._relays.relay_lost()
        if not self._is_over:
            self._log(f"the relay has ended, and with it {len(lost)} links: it is started again for the next one")

    @property
    def os_pids(self) -> set[int]:
        """Of the processes that have not been waited for."""
        return set(self._started)

    def reaped(self, os_pid: int) -> None:
        """A child of the daemon has been waited for."""
        self._started.discard(os_pid)

    def end(self) -> None:
        """End the process, and with it all that it carries."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        for half in self._halves.values():
            half.close()
        self._halves.clear()
        if self._process is not None:
            self._process.close()
            self._process = None
        for os_pid in self._started:
            os.kill(os_pid, signal.SIGKILL)  # not waited for, so the number is still its own
