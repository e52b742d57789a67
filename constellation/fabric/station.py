"""The monitor process: one deployment's part on one computer, between its node daemon and its processes.

What local mode has in one interpreter is here in two: this one has the node object, the monitor, the limits and the
template, the coordinator is on the master. So each call between them is a message, which the daemon passes on. This
process runs no user code and belongs to the deployment's Unix user. It ends when it is told to, or when its daemon has
gone; either way it kills what it has started.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from constellation.core import messages, trunk
from constellation.core.errors import ConstellationError
from constellation.core.fitting import Made, same_program
from constellation.core.pid import Pid
from constellation.core.plugins import make_plugin_manager
from constellation.fabric import cgroups, keeper
from constellation.fabric.accounts import bound_limits
from constellation.fabric.books import Process, close_fds
from constellation.fabric.computer import Order
from constellation.fabric.limits import Limits
from constellation.fabric.loop import Loop
from constellation.fabric.main import raise_file_limit
from constellation.fabric.monitor import Monitor
from constellation.fabric.node import Node
from constellation.fabric.packets import Packets
from constellation.fabric.signals import Signals
from constellation.fabric.templates import Starter

if TYPE_CHECKING:
    from constellation.core.messages import Message
    from constellation.core.plugins import Plugins
    from constellation.core.status import ExitStatus
    from constellation.fabric.loop import Timer

_PR_SET_PDEATHSIG = 1


def main(config_fd: int) -> int:
    """Blocks. Run one deployment's part on this computer until it is told to end.

    Args:
        config_fd: Descriptor of the configuration, JSON from its start; read and closed.

    Returns:
        The exit code.
    """
    with open(config_fd, "rb") as file:
        config: dict[str, Any] = json.load(file)
    keeper.become_subreaper()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    sys.path += [folder for folder in config["sys_path"] if folder not in sys.path]
    sock = socket.socket(fileno=config["daemon"])
    sock.set_inheritable(False)
    if config["is_mapped"]:
        bound_limits()
    file_limit = raise_file_limit()
    try:
        plugins = make_plugin_manager(config["plugins"], config["plugin_options"], clock=time.monotonic)
        Station(Loop(), config, plugins, file_limit, sock).run()
    except ConstellationError as error:
        sys.stderr.write(f"constellation: {error}\n")
        return 1
    return 0


class _Stdin:
    """What goes to the first process's stdin, as it takes it."""

    def __init__(self, loop: Loop, station: Station) -> None:
        self._loop = loop
        self._station = station
        self._waiting: deque[bytes] = deque()
        self._is_over = False
        self._fd = -1

    def open(self) -> int:
        """Make the pipe; give the end that the process reads."""
        read_end, self._fd = os.pipe()
        os.set_blocking(self._fd, False)
        if self._waiting or self._is_over:
            self._loop.watch_room(self._fd, self._flush)
        return read_end

    def put(self, data: bytes) -> None:
        """Pass something on; empty: the end."""
        if not data:
            self._is_over = True
        elif not self._is_over:
            self._waiting.append(data)
        if self._fd >= 0:
            self._flush()

    def _flush(self) -> None:
        while self._waiting:
            data = self._waiting[0]
            try:
                done = os.write(self._fd, data)
            except BlockingIOError:
                self._loop.watch_room(self._fd, self._flush)
                return
            except OSError:  # nobody will read it any more
                self._waiting.clear()
                self._is_over = True
                break
            self._waiting[0] = data[done:]
            self._station.up(trunk.Took(done))
            if done == len(data):
                self._waiting.popleft()
        self._loop.watch_room(self._fd, None)
        if self._is_over:
            self.close()

    def close(self) -> None:
        """Close the pipe."""
        if self._fd >= 0:
            self._loop.unwatch(self._fd)
            os.close(self._fd)
            self._fd = -1


class Station:
    """The roles of one deployment on one computer, and what they say to the coordinator.

    Args:
        loop: The loop.
        config: What the daemon wrote: deployment, node, node_id, program, cwd, environment, settings.
        plugins: The deployment's plugins.
        file_limit: RLIMIT_NOFILE as it was before.
        sock: To the daemon.
    """

    def __init__(
        self, loop: Loop, config: dict[str, Any], plugins: Plugins, file_limit: tuple[int, int], sock: socket.socket
    ) -> None:
        self._loop = loop
        self._config = config
        self._is_over = False
        self._lease: Timer | None = None
        self._signals = Signals(loop)
        self._daemon = Packets(loop, sock, self._on_message, self._on_end, schema=trunk.STATION, on_room=self._on_room)
        self._stdin = _Stdin(loop, self)
        self._identity = messages.Identity(
            bytes.fromhex(config["deployment"]),
            config["certificate"].encode(),
            config["key"].encode(),
            config["authority"].encode(),
        )
        self._plugins = plugins
        self._transport: str | None = config["transport"]
        self._introduced: set[bytes] = set()
        self._monitor = Monitor(loop, self._wrote, lambda: not self._daemon.is_full)
        found = cgroups.find()
        self._limits = Limits(loop, self._monitor, found, self._say, is_all=True)
        self._node = Node(
            loop,
            self,
            self._monitor,
            self._limits,
            lambda: self._plugins.transport(self._transport),
            config["node_id"],
            config["node"],
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            self._refuse_again,
            self._say,
        )
        self._starter = Starter(
            loop,
            self._node,
            config["program"],
            config["cwd"],
            file_limit,
            self._say,
            environment=config["environment"],
            borrowed=config["borrowed"],
            on_unfit=lambda text, plugins: self.up(trunk.Unfit(text, plugins)),
        )
        self._starter.on_made = self._made
        self._node.forks = self._starter

    def run(self) -> None:
        """Blocks. Until the daemon says so, or has gone."""
        try:
            while not self._is_over:
                self._loop.step(None)
                for number in self._signals.take():
                    if number == signal.SIGCHLD:
                        # As in local mode: what had been said before that end is heard first.
                        self._loop.call_later(0, self._node.reap)
        finally:
            keeper.sweep()
            self._limits.close()

    # Upward

    def up(self, message: trunk.StationMessage, fds: Sequence[int] = ()) -> None:
        """Tell the coordinator."""
        self._daemon.send(message, fds)

    def _on_end(self, _reason: str | None) -> None:
        self._is_over = True

    def _on_room(self) -> None:
        self._monitor.resume()

    def _say(self, line: str) -> None:
        self.up(trunk.Words(line))

    def _wrote(self, pid: Pid, number: int, data: bytes) -> None:
        self.up(trunk.Wrote(pid.to_bytes(), number, data, time.time()))

    def said(self, key: bytes, message: Message, fds: list[int]) -> bool:
        """A process has sent a message."""
        # Whether this process may is the coordinator's to say, and it cannot cut off who may not.
        if isinstance(message, messages.REQUESTS + messages.NOTES):
            self.up(trunk.Said(key, messages.fields_of(message)), fds[:1])
            return True
        return False

    def began(self, key: bytes, os_pid: int, *, is_running: bool) -> None:
        """A process runs."""
        self.up(trunk.Began(key, os_pid, is_running))

    def failed(self, key: bytes, text: str) -> None:
        """A process could not be started."""
        self.up(trunk.NotBegun(key, text))

    def ended(self, key: bytes, status: ExitStatus, *, counts: bool) -> None:  # no client is attached here
        """A process has ended."""
        self._introduced.discard(key)
        self.up(trunk.Over(key, status.to_fields()))

    def not_linked(self, one: bytes, two: bytes, number: int, *, ending: bytes, reason: str) -> None:
        """A link could not be made."""
        self.up(trunk.NotLinked(one, two, number, ending, reason))

    def _refuse_again(self, process: Process, _message: messages.Begin, template: int) -> None:
        os.close(template)
        self._node.cut_off(process, "it wanted to begin a second deployment, which a fabric does not allow")

    # Downward

    def _on_message(self, message: trunk.StationMessage, fds: list[int]) -> None:
        match message:
            case trunk.Start():
                self._start(message, fds)
            case trunk.Tell(key, fields):
                self._node.tell(key, messages.read(fields))
            case trunk.Pair(one, two, number):
                self._node.pair(one, two, number)
            case trunk.Dialled(one, two, number, dials) if fds:
                self._dialled(one, two, number, dials=dials, fd=fds[0])
            case trunk.Ask(key, cause, grace):
                self._node.ask(key, cause, grace)
            case trunk.SignalTo(key, signum, cause):
                self._node.signal(key, signum, cause)
            case trunk.KillNow(key, cause):
                self._node.kill(key, cause)
            case trunk.Input(data):
                self._stdin.put(data)
            case trunk.Recce():
                self._starter.reach(
                    lambda resources, output, made: self.up(trunk.Reached(resources, output, made)),
                    lambda text, output: self.up(trunk.Missed(text, output)),
                )
            case trunk.Like(node, made):
                self._starter.check = lambda own: self._compare(node, Made.from_fields(made), Made.from_fields(own))
            case trunk.Lease(seconds):
                self._go_on_for(seconds)
            case trunk.Grouped(key, groups) if len(groups) == len(fds):
                lent = [
                    (cgroups.Lent(version, holds.split()), cgroups.Group(folder, fds.pop(0)))
                    for holds, version, folder in groups
                ]
                self._limits.lend(key, lent)
            case trunk.Insist():
                self._node.insist()
            case _:
                pass
        close_fds(fds)

    def _compare(self, first: str, expected: Made, made: Made) -> str:
        """Why the program is not here what it is on the node where it was run first; empty: it is."""
        wrong, notes = same_program(first, expected, self._config["node"], made)
        for note in notes:
            self._say(f"constellation: {note}\n")
        return wrong

    def _made(self, fields: list[Any]) -> None:
        """Pairs of link ends are made by the transport that the program has chosen, be it by its own init()."""
        made = Made.from_fields(fields)
        if self._transport is not None:
            return
        try:
            if self._plugins.transport(None).name != made.transport:
                names = [name for name, _ in made.plugins]
                plugins = make_plugin_manager(names, self._config["plugin_options"], clock=time.monotonic)
                plugins.transport(made.transport)
                self._plugins, self._transport = plugins, made.transport
        except ConstellationError as error:
            self._say(f"constellation: links on this node are made without the program's plugins: {error}\n")

    def _go_on_for(self, seconds: float) -> None:
        """The daemon may be stopped or cut off without ending: then its word ends, and what runs here with it."""
        if self._lease is not None:
            self._lease.cancel()
        self._lease = self._loop.call_later(seconds, self._end_lease)

    def _end_lease(self) -> None:
        sys.stderr.write("the lease is over: neither the master nor this node's daemon was heard\n")
        self._is_over = True

    def _start(self, message: trunk.Start, fds: list[int]) -> None:
        payload, fds[:] = fds[:], []
        if not message.parent:
            payload.append(self._stdin.open())
        self._node.start(Order(*message), payload)

    def _dialled(self, one: bytes, two: bytes, number: int, *, dials: bool, fd: int) -> None:
        """Give a process its end of a link to another computer."""
        if one not in self._introduced:
            self._introduced.add(one)
            self._node.tell(one, self._identity)
        if not self._node.pass_on(one, messages.FarLink(two, number, dials), fd):
            self.not_linked(one, two, number, ending=one, reason="")
