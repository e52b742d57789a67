"""The daemons as programs: node, master, bridge. Which role is an object of which process is decided here.

Each is a child of a keeper, which sweeps what is left when it has gone. The master's process has a node of its own, which
it speaks to without a wire; the bridge is a child of the master's process and dials it like any other daemon.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime as dt
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import constellation
from constellation.core import trunk
from constellation.core.address import Address, parse_address
from constellation.core.errors import ConstellationError, HandshakeError, PluginError, UsageError
from constellation.core.nodesfile import Complaint, NodeEntry, NodesFileError
from constellation.core.plugins import Plugins, make_plugin_manager
from constellation.core.preamble import Preamble, Purpose
from constellation.core.resources import Resources
from constellation.core.role import BRIDGE, NODE, Role, check_role
from constellation.core.specification import fields_of_installation
from constellation.fabric import checkup
from constellation.fabric import keeper as keeping
from constellation.fabric.accounts import Accounts
from constellation.fabric.aside import Aside
from constellation.fabric.bridging import Bridge
from constellation.fabric.conduit import Conduit
from constellation.fabric.credential import NodeCredential, load_node
from constellation.fabric.daemon import NodeDaemon, Settings
from constellation.fabric.departure import Departure
from constellation.fabric.depot import Depot
from constellation.fabric.dialling import Dial
from constellation.fabric.examining import Examiner
from constellation.fabric.fabricmaster import BridgeLine, FabricMaster, NodeRecord
from constellation.fabric.foreign import ForeignTransports
from constellation.fabric.front import Entrance, FrontDoor, TcpEntrance, listen
from constellation.fabric.joining import Guest, JoinLine, hold, refuse
from constellation.fabric.journal import WARNING, Journal, Log
from constellation.fabric.loop import Loop
from constellation.fabric.main import raise_file_limit
from constellation.fabric.notices import Notices
from constellation.fabric.provision import Provision
from constellation.fabric.readings import Reading, read
from constellation.fabric.relaying import Relaying
from constellation.fabric.sending import whole_installation
from constellation.fabric.signals import Signals, ended_children
from constellation.fabric.usergroups import UserGroups

LEASE_S: Final = 5.0
_RETRY_S: Final = (0.2, 0.5, 1.0, 2.0)
"""Between attempts to reach a node; the last one again and again."""
_LEAVE_S: Final = 0.3
"""For the last words to the master to leave."""


class _Inside:
    """What stands for a connection between two objects of one process: each message is handed over in a later turn."""

    is_full = False

    def __init__(self, loop: Loop, deliver: Callable[[trunk.TrunkMessage], None]) -> None:
        self._loop = loop
        self._deliver = deliver
        self._queue: deque[trunk.TrunkMessage] = deque()
        self._is_open = True

    def send(self, message: trunk.TrunkMessage) -> bool:
        """Hand a message over."""
        if self._is_open:
            self._queue.append(message)
            if len(self._queue) == 1:
                self._loop.call_later(0, self._run)
        return self._is_open

    def _run(self) -> None:
        for _ in range(len(self._queue)):
            if self._is_open:
                self._deliver(self._queue[0])
                self._queue.popleft()
        if self._queue:
            self._loop.call_later(0, self._run)

    def close(self) -> None:
        """Hand nothing over any more."""
        self._is_open = False
        self._queue.clear()


class _Security:
    """The credential, as the node daemon needs it."""

    def __init__(self, credential: NodeCredential, name: Callable[[], str]) -> None:
        self._credential = credential
        self._name = name
        self.keys = credential.preamble_keys

    def context(self, *, server: bool) -> Any:
        """The TLS context of this node."""
        return self._credential.context(Role(NODE, self._name()), server=server)

    def deployment_identity(self, deployment: bytes) -> Any:
        """What the processes of a deployment show each other."""
        return self._credential.deployment_identity(deployment)


def with_detected(capacity: Resources, plugins: Plugins) -> Resources:
    """Add what plugins find on this computer; what was named by hand counts as it was named.

    Raises:
        PluginError: A hook raised, or gave what are no amounts.
    """
    if not plugins.names:
        return capacity
    found = {name: amount for name, amount in plugins.detect_resources().items() if name not in capacity.custom}
    try:
        return capacity + Resources(0, 0, **found)
    except (UsageError, ValueError, TypeError) as error:
        raise PluginError(f"a plugin's detect_resources gave {found!r:.100}: {error}") from error


class Daemon:
    """A node, and a master where it is one.

    Args:
        config: What the command said: address, advertise, name, mem, cpu, custom, labels, folder, credential, users,
            plugins, plugin_options, lease, drain_limit, watchdog, log_format, metrics (where to serve them, or None), nodes (of
            the file, for a master); join, the master's address, where the node can only dial out, in the place of address.
        keeper: Read end of the pipe by which the end of the keeper shows.
        journal: Where it logs.
        manager: To whom the keeper passes on what is for the service manager; None: there is none.

    Raises:
        ConstellationError: It cannot start; says why.
    """

    def __init__(
        self, config: dict[str, Any], keeper: int, journal: Journal, manager: socket.socket | None = None
    ) -> None:
        self._config = config
        self._loop = loop = Loop()
        self._signals = Signals(loop)
        self._is_over = False
        joins = parse_address(config["join"]) if config["join"] is not None else None
        address = parse_address(config["address"]) if joins is None else joins
        kind = "node" if config["nodes"] is None else "master"
        self._journal = journal
        self._plugins = make_plugin_manager(config["plugins"], config["plugin_options"], clock=time.monotonic)
        self._foreign = ForeignTransports(loop, self._plugins, kind, self._journal.write)
        entries = [NodeEntry(**_entry(fields)) for fields in config["nodes"] or ()]
        own = next((entry for entry in entries if _is_same(entry.fabric_addr, address)), None)
        given = config["advertise"] and parse_address(config["advertise"])
        given = given or (own.advertise if own is not None else None)
        is_loopback = address.is_loopback and (given is None or given.is_loopback)
        self._credential = load_node(config["credential"], is_loopback=is_loopback)
        entrance = entrance_at(address, self._foreign) if joins is None else None
        advertised = None
        if entrance is not None:
            self._address = entrance.address
            advertised = self._address if given is None else self._foreign.named(given)
        else:
            self._address = joins = self._foreign.named(address)
        entries = named_entries(entries, own, self._foreign, config["file"])
        name = config["name"] or (self._address if advertised is None else advertised).as_name
        self._folder = os.path.join(config["folder"], _folder_of(self._address if joins is None else f"{name}@{joins}"))
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        if joins is not None:
            self._lock = hold(self._folder, name, joins)
        self._security = _Security(self._credential, lambda: self._node.settings.name)
        capacity = with_detected(Resources.from_fields(config["capacity"]), self._plugins)
        accounts = Accounts(config["users"], self._journal.write, is_loopback=is_loopback)
        if accounts.is_mapping:
            # Users pass through to their own; they see nothing else.
            os.chmod(config["folder"], stat.S_IMODE(os.stat(config["folder"]).st_mode) | 0o011)  # noqa: S103  # nobody may list it
        self._provision = Provision(
            loop,
            self._folder,
            lambda name, digests: self._node.need(name, digests),  # noqa: PLW0108  # it is made after this
            lambda: self._node.settings.name,
            self._journal.write,
            accounts,
        )
        self._groups = (
            UserGroups(loop, lambda: self._node.settings.capacity, self._journal.write) if accounts.is_mapping else None
        )
        self._node = NodeDaemon(
            loop,
            Settings(
                name,
                advertised,
                capacity,
                tuple((key, value) for key, value in config["labels"]),
                self._folder,
                constellation.__version__,
                fields_of_installation(whole_installation(name)),
                joins,
            ),
            self._security,
            self._provision,
            self._journal.write,
            self._foreign,
            groups=self._groups,
        )
        journal.node = lambda: self._node.settings.name
        self._foreign.whose = lambda: f"node {self._node.settings.name}"
        self._front: FrontDoor | None = None
        self._refused = {"preamble": 0, "handshake": 0}
        """Connections that were closed behind the front door, by the step."""
        if entrance is not None:
            self._front = FrontDoor(loop, entrance, self._credential.preamble_keys, self._accepted, journal.write)
        self._where = (
            f"listens on {self._address}" if joins is None else f"dials the master at {joins}, and listens nowhere"
        )
        self._notices = Notices(loop, manager, config["watchdog"], self.status)
        self._departure = Departure(
            loop, self._node, config["drain_limit"], journal.write, self._notices.look, self._gone
        )
        self._keeper = keeper
        loop.watch(keeper, self._on_keeper)
        self._node.examiner = Examiner(loop, Aside(loop), self._security, self._look, self._foreign)
        self._master: FabricMaster | None = None
        self._bridge: _BridgeChild | None = None
        self._inner: FrontDoor | None = None
        """Where the bridge dials the master that is reached by a plugin's transport: it is on this computer."""
        self._relaying: Relaying | None = None
        if config["nodes"] is not None:
            self._become_master(entries, own)
        self._journal.write(f"{self._where}, as {name!r}, with {self._node.settings.capacity}")
        if config["metrics"] is not None:
            from constellation.fabric.pages import Pages  # late: it imports a package that need not be there

            self._pages = Pages(loop, parse_address(config["metrics"]), self._reading)
            self._journal.write(f"metrics are at http://{self._pages.address}/metrics")
        if joins is not None:
            JoinLine(loop, self._node, joins, self._credential, self._journal.write, self._foreign)
        if self._bridge is None:
            # Not only when it is in the fabric: a node may be started before its master, and what is ordered after it must
            # not wait for another computer.
            self._notices.ready()

    # Who dials us

    def _accepted(self, sock: socket.socket, preamble: Preamble, peer: str) -> None:
        if preamble.purpose is Purpose.LINK and self._relaying is not None and self._relaying.expects(preamble):
            self._relaying.accepted(sock, preamble)
            return
        if preamble.purpose is Purpose.LINK:
            self._node.link_accepted(sock, preamble, peer)
            return
        if preamble.purpose is not Purpose.DAEMON:
            text = f"a client from {peer} is closed: it dialled a node, and bridges have a port of their own"
            self._journal.write(text, level=WARNING, peer=peer)
            self._refused["preamble"] += 1
            sock.close()
            return
        _Visitor(self, sock, peer)

    def master_came(self, conduit: Conduit, message: trunk.Hello) -> None:
        """A master speaks to this node."""
        self._node.attach(conduit)
        self._node.on_message(message)

    # The master's part

    def _become_master(self, entries: list[NodeEntry], own: NodeEntry | None) -> None:
        self._master = master = FabricMaster(
            self._loop,
            self._plugins.scheduler(self._config["scheduler"]),
            self._config["lease"],
            max(1, len(entries)),
            constellation.__version__,
            self._provision.depot.read,
            lambda hook, **arguments: self._plugins.news(hook, **arguments) if self._plugins.names else None,
            self._journal.write,
        )
        self._relaying = master.relaying = Relaying(self._loop, self._journal.write, master.relay_failed)
        self._join_inside(master, own)
        lines = [
            _NodeLine(
                self._loop,
                master,
                entry,
                self._credential,
                lambda: self._node.settings.name,
                self._journal.write,
                self._foreign,
            )
            for entry in entries
            if entry is not own
        ]
        master.absent = lambda: [line.told() for line in lines if not line.has_joined]
        bridge_bind = own.bridge_bind if own is not None else self._config["bridge_bind"]
        if bridge_bind is not None:
            address = self._address
            if address.url:
                keys = {Purpose.DAEMON: self._credential.preamble_keys[Purpose.DAEMON]}
                entrance = TcpEntrance(listen(Address("127.0.0.1", 0)))
                self._inner = FrontDoor(self._loop, entrance, keys, self._accepted, self._journal.write)
                address = entrance.address
            self._bridge = _BridgeChild(
                self._loop, str(bridge_bind), str(address), self._folder, self._config, self._journal
            )

    def _join_inside(self, master: FabricMaster, own: NodeEntry | None) -> None:
        record: list[NodeRecord | None] = [None]

        def up(message: trunk.TrunkMessage) -> None:
            if isinstance(message, trunk.Join):
                record[0] = joined = master.joined(to_node, message, str(self._node.settings.address))
                master.own = joined
                if joined is not None:
                    # It was not heard because this whole process had been stopped.
                    joined.on_lost = lambda: None if self._is_over else self._join_inside(master, own)
            elif record[0] is not None:
                master.on_message(record[0], message)

        to_node = _Inside(self._loop, self._node.on_message)
        to_master = _Inside(self._loop, up)
        self._node.attach(to_master)
        to_node.send(hello_for(master, own))

    # Running

    def run(self) -> int:
        """Blocks. Until it is told to end.

        Returns:
            The exit code.
        """
        try:
            while not self._is_over:
                self._loop.step(None)
                for number in self._signals.take():
                    if number == signal.SIGCHLD:
                        self._reap()
                    elif number in {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}:
                        # Who presses Ctrl-C, or closes a terminal, does not want to wait.
                        self._departure.asked(signal.Signals(number).name, at_once=number != signal.SIGTERM)
                self._departure.look()
        finally:
            if self._groups is not None:
                self._groups.close()
        return 0

    def _reap(self) -> None:
        for os_pid, _ in ended_children():
            self._node.reaped(os_pid)
            self._provision.reaped(os_pid)
            if self._bridge is not None:
                self._bridge.reaped(os_pid)
            if self._relaying is not None:
                self._relaying.reaped(os_pid)
        self._kill_strays()

    def _kill_strays(self) -> None:
        """Kill what a deployment of another user has left whose monitor process has gone: it has become our child.

        What runs as we do may be a plugin's.
        """
        ours = self._node.os_pids | self._provision.os_pids
        if self._bridge is not None:
            ours.add(self._bridge.os_pid)
        if self._relaying is not None:
            ours |= self._relaying.os_pids
        for os_pid in _children() - ours:
            with contextlib.suppress(OSError):
                if _user_of(os_pid) != os.getuid():
                    os.kill(os_pid, signal.SIGKILL)

    def _gone(self) -> None:
        if self._master is not None and len(self._master.nodes) > 1:
            self._journal.write(
                f"what runs on the other nodes goes on for the lease of {self._master.lease:g} s, and longer if a master "
                "is started again by then",
                level=WARNING,
            )
        self._notices.stopping()
        self._loop.call_later(_LEAVE_S, self._end)

    def status(self) -> str:
        """How it is, in one line."""
        count = self._node.count
        processes = f"{count} process{'' if count == 1 else 'es'}"
        leaving = self._departure.describe()
        if leaving:
            return leaving
        name = self._node.settings.name
        if self._master is not None:
            nodes = len(self._master.nodes)
            return f"the master of {nodes} node{'' if nodes == 1 else 's'}, itself {name}, {processes}"
        if not self._node.is_in:
            return f"{self._where}, in no fabric now, {processes}"
        return f"in the fabric as {name}, {processes}"

    def bridge_listens(self, address: str) -> None:
        """The bridge of this master is there."""
        self._journal.write(f"a bridge listens on {address}")
        self._notices.ready()

    def _on_keeper(self) -> None:
        if not os.read(self._keeper, 16):  # what it writes is that it is ready
            self._end()

    def _end(self) -> None:
        self._node.end_all()
        self._provision.close()
        if self._bridge is not None:
            self._bridge.end()
        if self._relaying is not None:
            self._relaying.end()
        self._is_over = True

    @property
    def bridge_role(self) -> FabricMaster | None:
        """The master of this process, if it is one."""
        return self._master

    def conduit(self, sock: socket.socket, peer: str, **handlers: Any) -> Conduit:
        """A connection that was accepted from another daemon."""
        return Conduit(
            self._loop, sock, self._security.context(server=True), server=True, label=f"the peer at {peer}", **handlers
        )

    def _look(self) -> dict[str, Any]:
        """The facts of this computer, and of the credential that this daemon was started with."""
        found = checkup.look(self._folder)
        remaining = (self._credential.expires - dt.datetime.now(dt.UTC)).total_seconds()
        return {**found, "credentials": [["node", self._credential.path, "ok", "", remaining]]}

    def _reading(self) -> Reading:
        """How it is, for its metrics."""
        refused = {**self._refused, "link": self._node.closed_links}
        if self._front is not None:
            refused["preamble"] += self._front.refusals.count
        return read(self._node, self._master, refused, self._loop.now())

    def refused_handshake(self) -> None:
        """A peer was refused before it was known who it is."""
        self._refused["handshake"] += 1

    def say(self, text: str, peer: str) -> None:
        """Write a line into the log that somebody should look at."""
        self._journal.write(text, level=WARNING, peer=peer)

    def from_master(self, conduit: Conduit, message: trunk.TrunkMessage) -> None:
        """What has come from a peer that called itself a master."""
        if self._node.is_attached_to(conduit):
            self._node.on_message(message)

    def lost(self, conduit: Conduit, reason: str, peer: str) -> None:
        """A connection that was accepted has ended."""
        if self._node.is_attached_to(conduit):
            self._node.detach(conduit, reason)
        else:
            self._journal.write(reason, level=WARNING, peer=peer)


class _Visitor:
    """A daemon that has dialled us: a master, to this node; a bridge or a node that dials out, to this master."""

    def __init__(self, daemon: Daemon, sock: socket.socket, peer: str) -> None:
        self._daemon = daemon
        self._peer = peer
        self._role: Role | None = None
        self._line: BridgeLine | None = None
        self._guest: Guest | None = None
        self._is_trying = False
        """Whether it only asks whether we are here, for `constellation doctor`: its end is no news."""
        self._conduit = daemon.conduit(
            sock,
            peer,
            read=self._read,
            fields_of=self._fields_of,
            on_ready=self._ready,
            on_message=self._on_message,
            on_end=self._ended,
        )

    @property
    def _is_bridge(self) -> bool:
        return self._role is not None and self._role.kind == BRIDGE

    def _read(self, plain: Any) -> Any:
        return (trunk.BRIDGE if self._is_bridge else trunk.TRUNK).read(plain)

    def _fields_of(self, message: Any) -> list[Any]:
        return (trunk.BRIDGE if self._is_bridge else trunk.TRUNK).fields_of(message)

    def _ready(self, role: Role) -> None:
        self._role = check_role(role, NODE, BRIDGE)
        if self._is_bridge and self._daemon.bridge_role is None:
            raise HandshakeError("it is a bridge, and this node is no master")

    def _on_message(self, message: Any) -> None:
        master = self._daemon.bridge_role
        if self._is_bridge and master is not None:
            if isinstance(message, trunk.Ready):
                self._line = BridgeLine(self._conduit.send, self._conduit.close)
                master.bridge_came(self._line, message)
                self._daemon.bridge_listens(message.address)
            else:
                master.on_bridge_message(message)
        elif isinstance(message, trunk.Come):
            self._come(message)
        elif self._guest is not None:
            self._guest.on_message(message)
        elif isinstance(message, trunk.Hello):
            self._daemon.master_came(self._conduit, message)
        elif isinstance(message, trunk.Ping):
            self._is_trying = True
            self._conduit.send(trunk.Pong(message.number, time.time()))
        else:
            self._daemon.from_master(self._conduit, message)

    def _come(self, message: trunk.Come) -> None:
        master = self._daemon.bridge_role
        if master is None:
            text = f"node {message.name!r} wants to join here, and this node is no master: it is refused"
            self._daemon.say(text, self._peer)
            refuse(self._conduit, "it is no master: expected the address of the fabric's master")
        elif self._guest is None:
            self._guest = Guest(master, self._conduit, message)

    def _ended(self, reason: str) -> None:
        master = self._daemon.bridge_role
        if self._guest is not None and self._guest.ended(reason):
            return
        if self._line is not None and master is not None:
            master.bridge_left(self._line)
        if self._role is None:
            self._daemon.refused_handshake()
        if not self._is_trying:
            self._daemon.lost(self._conduit, reason, self._peer)


class _NodeLine:
    """The master's way to one node of its file: dials until it answers, and again when it has gone."""

    def __init__(
        self,
        loop: Loop,
        master: FabricMaster,
        entry: NodeEntry,
        credential: NodeCredential,
        name: Callable[[], str],
        log: Log,
        foreign: ForeignTransports,
    ) -> None:
        self._loop = loop
        self._foreign = foreign
        self._master = master
        self._entry = entry
        self._credential = credential
        self._name = name
        self._log = log
        self._attempts = 0
        self._last = ""
        self._step = "answer"
        self._record: NodeRecord | None = None
        self._conduit: Conduit | None = None
        self._dial()

    @property
    def has_joined(self) -> bool:
        """Whether the node has said what it is, and has not gone since."""
        return self._record is not None

    def told(self) -> list[str]:
        """For `constellation doctor`: name, address, the step that the last attempt failed at, and how."""
        return [
            self._entry.title,
            str(self._entry.dialled),
            self._step,
            self._last.removeprefix(f"cannot connect to {self._entry.dialled}: "),
        ]

    def _dial(self) -> None:
        self._conduit = None
        key = self._credential.preamble_keys[Purpose.DAEMON]
        address = self._entry.dialled
        self._attempt = Dial(
            self._loop, address, Purpose.DAEMON, key, self._connected, self._not_connected, foreign=self._foreign
        )

    def _not_connected(self, text: str) -> None:
        # It may fail before it is there to be asked for the step.
        self._loop.call_later(0, lambda: self._failed(text, self._attempt.step))

    def _failed(self, text: str, step: str = "answer") -> None:
        self._step = step
        if text != self._last:
            self._last = text
            self._log(f"node {self._entry.title}: {text}", level=WARNING, peer=str(self._entry.dialled))
        wait = _RETRY_S[min(self._attempts, len(_RETRY_S) - 1)]
        self._attempts += 1
        self._loop.call_later(wait, self._dial)

    def _connected(self, sock: socket.socket) -> None:
        self._conduit = Conduit(
            self._loop,
            sock,
            self._credential.context(Role(NODE, self._name()), server=False),
            server=False,
            read=trunk.TRUNK.read,
            fields_of=trunk.TRUNK.fields_of,
            on_ready=self._ready,
            on_message=self._on_message,
            on_end=self._ended,
            label=f"node {self._entry.title}",
        )

    def _ready(self, role: Role) -> None:
        check_role(role, NODE)
        assert self._conduit is not None
        self._conduit.send(hello_for(self._master, self._entry))

    def _on_message(self, message: trunk.TrunkMessage) -> None:
        assert self._conduit is not None
        if isinstance(message, trunk.Join):
            self._record = record = self._master.joined(self._conduit, message, str(self._entry.dialled))
            if record is None:
                self._conduit.close()
                self._failed("another node has its name")
            else:
                self._attempts, self._last = 0, ""
                record.on_lost = lambda: self._given_up(record)
        elif self._record is not None:
            self._master.on_message(self._record, message)

    def _given_up(self, record: NodeRecord) -> None:
        """The master has closed the connection of this record, if that is still the one: make the next one."""
        if self._record is record:
            self._record = None
            self._dial()

    def _ended(self, reason: str) -> None:
        if self._record is not None and self._conduit is not None:
            self._master.disconnected(self._record, self._conduit, reason)
            self._record = None
        self._failed(reason, "TLS" if self._conduit is None or self._conduit.role is None else "answer")


class _BridgeChild:
    """The bridge's process, started again when it ends."""

    def __init__(
        self, loop: Loop, bind: str, master: str, folder: str, config: dict[str, Any], journal: Journal
    ) -> None:
        self._loop = loop
        self._journal = journal
        self.os_pid = 0
        self._is_over = False
        self._settings = {
            "bind": bind,
            "master": master,
            "credential": config["credential"],
            "folder": folder,
            "log_format": config["log_format"],
            "plugins": config["plugins"],
            "plugin_options": config["plugin_options"],
            "node": journal.node(),
        }
        self._start()

    def _start(self) -> None:
        if self._is_over:
            return
        started = subprocess.Popen(
            [sys.executable, "-m", "constellation.fabric.serving", "bridge", json.dumps(self._settings)],
            stdin=subprocess.DEVNULL,
        )
        started.returncode = 0  # the daemon reaps; Popen must not
        self.os_pid = started.pid

    def reaped(self, os_pid: int) -> None:
        """A child has been waited for."""
        if os_pid == self.os_pid:
            self.os_pid = 0
            if not self._is_over:
                self._journal.write("the bridge has ended: it is started again", level=WARNING)
                self._loop.call_later(0.5, self._start)

    def end(self) -> None:
        """Have it end."""
        self._is_over = True
        if self.os_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.os_pid, signal.SIGTERM)


class BridgeDaemon:
    """The bridge as a program.

    Args:
        config: bind, master, credential, folder (the master's), plugins, plugin_options.
        journal: Where it logs.

    Raises:
        ConstellationError: It cannot start; says why.
    """

    def __init__(self, config: dict[str, Any], journal: Journal) -> None:
        self._loop = loop = Loop()
        self._signals = Signals(loop)
        self._is_over = False
        bind = parse_address(config["bind"])
        self._master_address = parse_address(config["master"])
        self._credential = load_node(config["credential"], is_loopback=bind.is_loopback)
        plugins = make_plugin_manager(
            config["plugins"] if bind.url else (), config["plugin_options"] if bind.url else {}
        )
        foreign = ForeignTransports(loop, plugins, "master", journal.write)
        entrance = entrance_at(bind, foreign)
        self._address = entrance.address
        self._role = Role(BRIDGE, self._address.as_name)
        # Chunks are the master's too: it is on this computer, and reads them when nodes ask.
        folder = config["folder"]
        self._bridge = Bridge(
            loop,
            os.path.join(folder, "events"),
            lambda: self._credential.context(self._role, server=True),
            Depot(folder),
            journal.write,
        )
        keys = {Purpose.DEPLOY: self._credential.preamble_keys[Purpose.DEPLOY]}
        self._front = FrontDoor(loop, entrance, keys, self._bridge.accepted, journal.write)
        self._conduit: Conduit | None = None
        self._dial()

    def _dial(self) -> None:
        key = self._credential.preamble_keys[Purpose.DAEMON]
        Dial(self._loop, self._master_address, Purpose.DAEMON, key, self._connected, self._failed)

    def _failed(self, _text: str) -> None:
        self._bridge.master_left()
        self._loop.call_later(_RETRY_S[0], self._dial)

    def _connected(self, sock: socket.socket) -> None:
        self._conduit = Conduit(
            self._loop,
            sock,
            self._credential.context(self._role, server=False),
            server=False,
            read=trunk.BRIDGE.read,
            fields_of=trunk.BRIDGE.fields_of,
            on_ready=self._ready,
            on_message=self._bridge.on_master_message,
            on_end=self._failed,
            label="the master",
        )

    def _ready(self, role: Role) -> None:
        check_role(role, NODE)
        assert self._conduit is not None
        self._bridge.master_came(self._conduit.send, str(self._address), self._renew)

    def _renew(self) -> None:
        if self._conduit is not None:
            self._conduit.close()
        self._failed("")

    def run(self) -> int:
        """Blocks. Until it is told to end.

        Returns:
            The exit code.
        """
        while not self._is_over:
            self._loop.step(None)
            if self._signals.take() & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}:
                self._is_over = True
        return 0


def entrance_at(address: Address, foreign: ForeignTransports) -> Entrance:
    """Let others in at an address.

    Raises:
        UsageError: It cannot be; says why and what to do.
        PluginError: It is a plugin's to do, and that is broken.
    """
    return foreign.listen(address) if address.url else TcpEntrance(listen(address))


def named_entries(
    entries: list[NodeEntry], own: NodeEntry | None, foreign: ForeignTransports, where: str
) -> list[NodeEntry]:
    """The nodes of the file, each URL that others dial with the transport that it is for.

    Raises:
        NodesFileError: Nobody here can dial one; says which, and what plugin it takes.
    """
    made: list[NodeEntry] = []
    complaints: list[Complaint] = []
    for at, entry in enumerate(entries):
        field = "fabric_addr" if entry.advertise is None else "advertise"
        try:
            made.append(entry if entry is own else entry._replace(advertise=foreign.named(entry.dialled)))
        except UsageError as error:
            complaints.append(Complaint(entry.line, f"nodes[{at}].{field}", str(error)))
    if complaints:
        raise NodesFileError(where, tuple(complaints))
    return made


def hello_for(master: FabricMaster, entry: NodeEntry | None) -> trunk.Hello:
    """What the master says first to a node, with what its file says of it."""
    if entry is None:
        return master.hello()
    return master.hello(entry.name or "")._replace(
        mem=entry.mem,
        cpu=entry.cpu,
        custom=[list(pair) for pair in entry.resources],
        labels=[list(pair) for pair in entry.labels],
    )


def _folder_of(address: Address | str) -> str:
    """The name of a daemon's folder: no colon, which would end a path in PATH and PYTHONPATH, and no slash of a URL."""
    return re.sub("[:/]", "_", str(address))


def _children() -> set[int]:
    found: set[int] = set()
    with contextlib.suppress(OSError):  # a kernel may not tell; then the keeper kills them, at the end
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
                found.update(map(int, file.read().split()))
    return found


def _user_of(os_pid: int) -> int:
    """The real user of a process: the owner of its folder in /proc is root's where it lets nobody look at it."""
    with open(f"/proc/{os_pid}/status", encoding="utf-8", errors="replace") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Uid:"))


def _is_same(one: Address, two: Address) -> bool:
    if one.url or two.url:
        return one.url == two.url
    return one.port == two.port and (one.host == two.host or one.is_any or two.is_any)


def _entry(fields: dict[str, Any]) -> dict[str, Any]:
    """A NodeEntry's fields out of JSON."""
    made = dict(fields)
    for key in ("fabric_addr", "bridge_bind", "advertise"):
        if made.get(key) is not None:
            made[key] = Address(*made[key])
    for key in ("labels", "resources"):
        made[key] = tuple(tuple(pair) for pair in made[key])
    return made


def serve(config: dict[str, Any], keeper: int, manager: socket.socket | None = None) -> int:
    """Blocks. Be a node, or a master.

    Args:
        config: As for `Daemon`.
        keeper: Read end of the keeper's pipe.
        manager: As for `Daemon`.

    Returns:
        The exit code.
    """
    keeping.become_subreaper()
    raise_file_limit()
    name = config["name"] or config["address"]
    journal = Journal(config["log_format"], "master" if config["nodes"] is not None else "node", lambda: name)
    journal.take_in()
    try:
        return Daemon(config, keeper, journal, manager).run()
    except ConstellationError as error:
        journal.refuse(error)
        return 2 if isinstance(error, UsageError) else 3


def _serve_bridge(config: dict[str, Any]) -> int:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG: it goes with the master
    raise_file_limit()
    journal = Journal(config["log_format"], "bridge", lambda: config["node"])
    journal.take_in()
    try:
        return BridgeDaemon(config, journal).run()
    except ConstellationError as error:
        journal.refuse(error)
        return 3


if __name__ == "__main__":
    sys.exit(_serve_bridge(json.loads(sys.argv[2])))
