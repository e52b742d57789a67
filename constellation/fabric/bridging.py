"""The bridge: where clients come in, and where a deployment's events are kept until they have been read.

It looks into certificates to know whose a client is, and passes on what it may say. Everything else is the master's. It
holds no process and no demand: killed and started again it reads its spools and asks the master for what came meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgpack

from constellation.core import trunk
from constellation.core.errors import ConstellationError, DeployError
from constellation.core.role import DEPLOYER, Role, check_role
from constellation.core.specification import read_specification
from constellation.fabric.aside import Aside
from constellation.fabric.bundle import most_outline_chunks
from constellation.fabric.conduit import Conduit
from constellation.fabric.journal import WARNING
from constellation.fabric.spool import Spool
from constellation.fabric.store import FULL

if TYPE_CHECKING:
    import socket

    from constellation.core.preamble import Preamble
    from constellation.fabric.depot import Depot
    from constellation.fabric.journal import Log
    from constellation.fabric.loop import Loop, Timer

REJOIN_S: Final = 30.0
"""For a client to come back after the bridge was started again, before it counts as gone."""

BACK_S: Final = 3.0
"""For a client to come back after its connection broke: a proxy on the way is started again in less."""

READ_KEPT_S: Final = 60.0
"""How long the events of a deployment that is over stay when its client has read them all."""
KEPT_S: Final = 7 * 86400.0
"""... and how long when nobody has."""

DISK_RETRY_S: Final = 2.0
"""After an event could not be kept, until it is asked for again."""

UPLOAD_S: Final = 60.0
"""For a client to send the next of the chunks that it was asked for."""

MOST_CLIENTS: Final = 256
"""Connections of one owner at a time: one person shall not use up the descriptors of all."""

MOST_TYPED: Final = 4 << 20
"""Bytes of stdin that may be on their way for one client; an honest one sends no more than 1 MiB ahead."""

MOST_WAITING: Final = 4096
"""Messages of clients that wait for the master to come back."""

_OWN_FRAME: Final = 2 << 20
"""Bytes of a client's message beside the list of its manifest's chunks: arguments and variables have 1 MiB at most."""

_BESIDE: Final = 0
"""Number of what a client is told beside the events."""

_INCOMING: Final = "incoming-"
"""Before the name of a folder for a deployment that has none yet."""

_WAIT_FOR_MASTER_S: Final = 10.0
"""For a fabric that is still forming."""

REFUSED: Final = 4
"""Exit code of a program that was refused before it ran."""
UNREACHABLE: Final = 3
"""Exit code where a fabric does not do what it is asked for."""


def _nothing() -> None:
    """There is nothing to let go."""


class _Client:
    """A connection of a client, and what it watches."""

    def __init__(self, number: int, peer: str = "") -> None:
        self.number = number
        self.peer = peer
        self.owner = ""
        self.conduit: Conduit | None = None
        self.asked: trunk.Deploy | trunk.Question | None = None
        """What the master has not answered yet."""
        self.watching: bytes | None = None
        self.is_lasting = False
        self.is_following = True
        self.sent = 0
        """Number of the last event that was sent to it."""
        self.place: Any = None
        self.manifest: list[Any] = []
        self.wanted: dict[bytes, int] = {}
        """Chunks that it was asked for, with their sizes."""
        self.is_refused = False
        """Whether a chunk of it could not be kept: what it sent behind that one is dropped."""
        self.release = _nothing
        """Lets its chunks go."""
        self.moved = 0
        """Bytes of chunks that it has sent."""
        self.patience: Timer | None = None
        """Until it must have sent the next one."""
        self.typed = 0
        """Bytes of stdin that it has sent and no process has taken."""
        self.folder = ""
        """For the events of the deployment that it has asked for."""

    def send(self, message: trunk.ClientMessage) -> None:
        """Send a message, if it is still there."""
        if self.conduit is not None:
            self.conduit.send(message)


class _Kept:
    """A deployment, as the bridge knows it."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.owner = ""
        self.is_attached = False
        self.has_client = False
        self.trouble = ""
        """Why events cannot be kept now."""
        self.release = _nothing
        """Lets the chunks of its files go: nodes may ask for them as long as it runs."""


class Bridge:
    """Clients on one side, the master on the other.

    Args:
        loop: The bridge's loop.
        folder: For its spools.
        context: Gives the TLS context for connections that it accepts.
        depot: Where the files of programs are kept.
        log: Writes one line.
    """

    def __init__(
        self,
        loop: Loop,
        folder: str,
        context: Callable[[], Any],
        depot: Depot,
        log: Log,
    ) -> None:
        self._loop = loop
        self._folder = folder
        self._context = context
        self._depot = depot
        self._log = log
        self._master: Callable[[trunk.BridgeMessage], bool] | None = None
        self._renew: Callable[[], None] = _nothing
        self._waiting_for_master: list[trunk.BridgeMessage] = []
        self._clients: dict[int, _Client] = {}
        self._count = 0
        self._kept: dict[bytes, _Kept] = {}
        self._aside = Aside(loop)
        self._untrimmed: dict[str, int] = {}
        """Bytes of chunks that have come from each owner since theirs were trimmed."""
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for name in os.listdir(folder):
            if len(name) == 2 * trunk.DEPLOYMENT_BYTES:
                self._take_up(bytes.fromhex(name))
            elif name.startswith(_INCOMING):
                shutil.rmtree(os.path.join(folder, name), ignore_errors=True)

    def _take_up(self, name: bytes) -> None:
        """Read what a former bridge has kept; whose it is stands beside it."""
        folder = os.path.join(self._folder, name.hex())
        kept = self._kept[name] = _Kept(Spool(folder))
        try:
            with open(os.path.join(folder, "owner"), encoding="utf-8") as file:
                kept.owner, attached = file.read().split("\n")
            kept.is_attached = attached == "attached"
        except (OSError, ValueError):
            kept.owner = ""
        with contextlib.suppress(OSError, ValueError, ConstellationError):
            with open(os.path.join(folder, "manifest"), "rb") as file:
                kept.release = self._depot.hold(kept.owner, msgpack.unpackb(file.read()))
        if kept.spool.code is not None:
            self._loop.call_later(KEPT_S, lambda: self._forget(name))
        elif kept.is_attached:
            self._loop.call_later(REJOIN_S, lambda: self._check_client(name))

    def _check_client(self, name: bytes) -> None:
        kept = self._kept.get(name)
        if kept is not None and not kept.has_client and kept.spool.code is None:
            self._tell_master(trunk.Lost(name))

    def _forget(self, name: bytes) -> None:
        kept = self._kept.pop(name, None)
        if kept is not None:
            kept.release()
            kept.spool.remove()

    # The master

    def master_came(self, send: Callable[[trunk.BridgeMessage], bool], address: str, renew: Callable[[], None]) -> None:
        """The master is connected.

        Args:
            send: Sends it a message.
            address: Where this bridge listens.
            renew: Makes the connection anew, over which the master sends again what is not kept here.
        """
        self._master, self._renew = send, renew
        stored = [
            [name, kept.spool.last, [list(pair) for pair in kept.spool.sources.items()], list(kept.spool.living)]
            for name, kept in self._kept.items()
            if kept.spool.code is None
        ]
        send(trunk.Ready(address, stored))
        waiting, self._waiting_for_master = self._waiting_for_master, []
        for message in (*waiting, *(client.asked for client in self._clients.values())):
            if message is not None:
                send(message)

    def master_left(self) -> None:
        """It has gone; clients stay."""
        self._master, self._renew = None, _nothing

    def _tell_master(self, message: trunk.BridgeMessage) -> None:
        if self._master is not None:
            self._master(message)
        else:
            self._waiting_for_master.append(message)

    def _ask_master(self, client: _Client, message: trunk.Deploy | trunk.Question) -> None:
        """Ask what is answered, once more where the master is another one by then."""
        client.asked = message
        if self._master is not None:
            self._master(message)
        else:
            self._loop.call_later(_WAIT_FOR_MASTER_S, lambda: self._give_up(client, message))

    def _give_up(self, client: _Client, message: trunk.Deploy | trunk.Question) -> None:
        if client.asked is message and self._master is None:
            text = f"the bridge has no connection to the master, and did not get one within {_WAIT_FOR_MASTER_S:g} s"
            self._refuse(client.number, text, 3)

    def on_master_message(self, message: trunk.BridgeMessage) -> None:
        """Pass on what the master says."""
        match message:
            case trunk.Event():
                self._event(message)
            case trunk.Accepted(client, name):
                self._accepted(client, name)
            case trunk.Refusal(client, text, code):
                self._refuse(client, text, code)
            case trunk.Answer(client, _):
                asker = self._clients.get(client)
                if asker is not None:
                    asker.asked = None
                    asker.send(message)
            case _:
                pass

    def _refuse(self, number: int, text: str, code: int) -> None:
        client = self._clients.get(number)
        if client is not None:
            client.asked = None
            client.send(trunk.Refusal(number, text, code))

    def _accepted(self, number: int, name: bytes) -> None:
        client = self._clients.get(number)
        if client is None:  # it has gone meanwhile, and nobody can ask for the events
            self._tell_master(trunk.Lost(name))
            return
        client.asked = None
        folder = os.path.join(self._folder, name.hex())
        try:
            os.rename(client.folder, folder)
            kept = self._kept[name] = _Kept(Spool(folder))
        except OSError as error:
            self._tell_master(trunk.Lost(name))
            client.send(trunk.Refusal(number, self._no_room(error), REFUSED))
            return
        client.folder = ""
        kept.owner, kept.is_attached = client.owner, client.is_lasting
        kept.release, client.release = client.release, _nothing
        client.send(trunk.Accepted(number, name))
        if kept.is_attached:
            self._watch(client, name, 0, is_lasting=True)

    def _make_folder(self, client: _Client) -> None:
        """Make the folder of a deployment before it is one: where that fails nothing has run.

        Raises:
            OSError: Such as on a full disk; nothing is left.
        """
        self._remove_folder(client)
        client.folder = os.path.join(self._folder, f"{_INCOMING}{client.number}")
        try:
            os.mkdir(client.folder, 0o700)
            with open(os.path.join(client.folder, "owner"), "w", encoding="utf-8") as file:
                file.write(f"{client.owner}\n{'attached' if client.is_lasting else 'detached'}")
            with open(os.path.join(client.folder, "manifest"), "wb") as file:
                file.write(msgpack.packb(client.manifest))
        except OSError:
            self._remove_folder(client)
            raise

    @staticmethod
    def _remove_folder(client: _Client) -> None:
        if client.folder:
            shutil.rmtree(client.folder, ignore_errors=True)
            client.folder = ""

    def _no_room(self, error: OSError) -> str:
        mend = "; make room on that disk, and deploy again" if error.errno in FULL else ""
        return f"the bridge cannot keep what the program would print in {self._folder}: {error.strerror}{mend}"

    def _event(self, message: trunk.Event) -> None:
        name, number, fields, node_id, source = message
        kept = self._kept.get(name)
        if kept is None:  # nobody can ask for it any more
            self._tell_master(trunk.Stored(name, number))
            return
        if number > kept.spool.last + 1:
            return  # one before it could not be kept: all after that come again
        try:
            kept.spool.append(number, fields, node_id, source)
        except OSError as error:
            # Not acknowledged: the master keeps it, and the nodes their output.
            text = f"the events of {name.hex()[:7]} cannot be kept in {self._folder}: {error.strerror}; tried again"
            self._log(text, level=WARNING, deployment=name)
            self._loop.call_later(DISK_RETRY_S, self._renew)
            self._say_trouble(name, kept, error)
            return
        kept.trouble = ""
        self._tell_master(trunk.Stored(name, number))
        for client in self._clients.values():
            if client.watching == name:
                self._feed(client)
        if fields[0] == "code":
            kept.release()
            kept.release = _nothing
            self._loop.call_later(KEPT_S, lambda: self._forget(name))

    def _say_trouble(self, name: bytes, kept: _Kept, error: OSError) -> None:
        """Tell who watches why nothing comes, once until it goes on."""
        if kept.trouble:
            return
        mend = ": make room on that disk" if error.errno in FULL else ""
        kept.trouble = (
            f"constellation: the bridge cannot keep the output in {self._folder}: {error.strerror}; "
            f"nothing is lost, and it waits until that is possible{mend}\n"
        )
        for client in self._clients.values():
            if client.watching == name:
                client.send(trunk.Event(name, _BESIDE, ["words", kept.trouble], 0, 0))

    # Clients

    @property
    def _largest(self) -> int:
        """Bytes of a client's largest message: the list of its manifest's chunks grows with the limit of a program."""
        return _OWN_FRAME + 48 * most_outline_chunks(self._depot.limit)

    def accepted(self, sock: socket.socket, _preamble: Preamble, peer: str) -> None:
        """A client has dialled, and shown the preamble of one."""
        self._count += 1
        client = self._clients[self._count] = _Client(self._count, peer)

        def ready(role: Role) -> None:
            check_role(role, DEPLOYER)
            client.owner = role.name
            if sum(each.owner == role.name for each in self._clients.values()) > MOST_CLIENTS:
                self._send_away(client, f"{role.name} has {MOST_CLIENTS} connections to this bridge already: end some")

        client.conduit = Conduit(
            self._loop,
            sock,
            self._context(),
            server=True,
            read=trunk.CLIENT.read,
            fields_of=trunk.CLIENT.fields_of,
            on_ready=ready,
            on_message=lambda message: self._on_message(client, message),
            on_end=lambda reason: self._ended(client, reason),
            label=f"client {peer}",
            on_room=lambda: self._feed(client),
            largest=self._largest,
        )

    def _ended(self, client: _Client, reason: str) -> None:
        self._clients.pop(client.number, None)
        self._stop_waiting(client)
        client.release()
        client.release = _nothing
        self._remove_folder(client)
        if client.watching is None or not client.is_lasting:
            if not client.owner or reason.endswith("it is cut off"):
                self._log(reason, level=WARNING, peer=client.peer)
            return
        kept = self._kept.get(client.watching)
        if kept is not None and kept.spool.code is None:
            name = client.watching
            kept.has_client = any(each.watching == name and each.is_lasting for each in self._clients.values())
            self._loop.call_later(BACK_S, lambda: self._check_client(name))

    def _on_message(self, client: _Client, message: trunk.ClientMessage) -> None:
        match message:
            case trunk.Deploy(_, fields, is_detached):
                self._deploy(client, fields, is_detached=is_detached)
            case trunk.Chunk(_, digest, data) if digest in client.wanted or client.is_refused:
                self._chunk(client, digest, data)
            case trunk.Attach(name, after, is_lasting, is_following):
                client.is_following = is_following
                self._attach(client, name, after, is_lasting=is_lasting)
            case trunk.Typed(name, data):
                client.typed += len(data)
                if client.typed > MOST_TYPED:
                    self._cut_off(client, f"has sent {client.typed} bytes for a stdin that takes none")
                elif self._owns(client, name):
                    self._pass_on(client, message)
            case trunk.Interrupt(name, _):
                if self._owns(client, name):
                    self._pass_on(client, message)
            case trunk.Question(_, kind, argument, _):
                self._ask_master(client, trunk.Question(client.number, kind, argument, client.owner))
            case trunk.Read(name, number):
                self._read(client, name, number)
            case _:
                self._cut_off(client, f"said {type(message).__name__}, which it was not asked for")

    def _pass_on(self, client: _Client, message: trunk.Typed | trunk.Interrupt) -> None:
        if self._master is None and len(self._waiting_for_master) >= MOST_WAITING:
            self._cut_off(client, "sends more than can wait for a master that is not there")
        else:
            self._tell_master(message)

    def _send_away(self, client: _Client, text: str) -> None:
        self._log(f"a client of {client.owner} is refused: {text}", level=WARNING, peer=client.peer)
        client.send(trunk.Refusal(0, text, UNREACHABLE))
        if client.conduit is not None:
            client.conduit.close(after_flush=True)
        self._ended(client, "")

    def _cut_off(self, client: _Client, what: str) -> None:
        self._log(f"a client of {client.owner} is cut off: it {what}", level=WARNING, peer=client.peer)
        if client.conduit is not None:
            client.conduit.close()
        self._ended(client, "")

    def _owns(self, client: _Client, name: bytes) -> bool:
        kept = self._kept.get(name)
        return kept is not None and kept.owner == client.owner

    def _deploy(self, client: _Client, fields: list[Any], *, is_detached: bool) -> None:
        """Run a program, when all its files are here; else ask for what is missing.

        All that is in this process waits meanwhile, but nothing that counts time: 0.3 s for the largest list of files.
        """
        if client.wanted or client.is_refused:
            self._cut_off(client, "did not send the files that it was asked for")
            return
        try:
            specification = read_specification(fields)
            release, client.release = client.release, _nothing
            if specification.manifest:
                client.release = self._depot.hold(client.owner, specification.manifest)
                client.wanted = self._depot.missing(client.owner, specification.manifest)
            release()
        except (ValueError, DeployError) as error:
            client.send(trunk.Refusal(0, f"the bridge refuses the program: {error}", REFUSED))
            return
        if client.wanted:
            client.send(trunk.Missing(list(client.wanted)))
            self._wait_for(client)
            return
        if client.moved:
            self._log(f"{client.moved} bytes of files came from {client.owner}", peer=client.peer)
        client.manifest = specification.manifest
        client.is_lasting = not is_detached
        try:
            self._make_folder(client)
        except OSError as error:
            text = self._no_room(error)
            self._log(f"a program of {client.owner} is refused: {text}", level=WARNING, peer=client.peer)
            client.send(trunk.Refusal(0, text, REFUSED))
            return
        owned = specification._replace(owner=client.owner)
        self._ask_master(client, trunk.Deploy(client.number, list(owned), is_detached))

    def _wait_for(self, client: _Client) -> None:
        """A client that withholds what it was asked for is not waited for without an end."""
        self._stop_waiting(client)
        if client.wanted:
            client.patience = self._loop.call_later(UPLOAD_S, lambda: self._give_up_upload(client))

    def _give_up_upload(self, client: _Client) -> None:
        client.patience = None
        text = f"the bridge has got no part of the program's files for {UPLOAD_S:g} s, and {len(client.wanted)} are missing"
        self._send_away(client, f"{text}: deploy it again")

    @staticmethod
    def _stop_waiting(client: _Client) -> None:
        if client.patience is not None:
            client.patience.cancel()
            client.patience = None

    def _chunk(self, client: _Client, digest: bytes, data: bytes) -> None:
        if client.is_refused:
            return
        size = client.wanted.pop(digest)
        client.moved += len(data)
        self._wait_for(client)
        self._count_moved(client.owner, len(data))
        try:
            if len(data) != size:
                raise ValueError(f"a chunk of {len(data)} bytes: its list says {size}")
            self._depot.put(client.owner, digest, data)
        except (ValueError, DeployError) as error:
            client.is_refused = True
            client.send(trunk.Refusal(0, f"on the bridge's computer: {error}", REFUSED))

    def _count_moved(self, owner: str, size: int) -> None:
        """Chunks whose program is never deployed are trimmed here, once in a while: nobody lays them out and does it then."""
        self._untrimmed[owner] = self._untrimmed.get(owner, 0) + size
        if self._untrimmed[owner] > self._depot.limit:
            self._untrimmed[owner] = 0
            self._aside.run(
                lambda: self._depot.trim(owner),
                lambda _: None,
                lambda error: self._log(f"the chunks of {owner} cannot be trimmed: {error}"),
            )

    def _attach(self, client: _Client, name: bytes, after: int, *, is_lasting: bool) -> None:
        names = [each for each in self._kept if each.startswith(name) and self._kept[each].owner == client.owner]
        if len(names) != 1:
            text = f"{len(names)} deployments of {client.owner} that are kept here begin with {name.hex()}"
            client.send(trunk.Refusal(0, f"{text}: see `constellation ps`", 2))
            return
        self._watch(client, names[0], after, is_lasting=is_lasting)

    def _watch(self, client: _Client, name: bytes, after: int, *, is_lasting: bool) -> None:
        kept = self._kept[name]
        client.watching, client.is_lasting = name, is_lasting
        kept.has_client = kept.has_client or is_lasting
        client.sent, client.place = after, None
        gone = kept.spool.first - after - 1
        if gone > 0:
            text = f"constellation: {gone} events before this are no longer kept: nobody had read them in time\n"
            client.send(trunk.Event(name, kept.spool.first - 1, ["words", text], 0, 0))
        if kept.trouble:
            client.send(trunk.Event(name, _BESIDE, ["words", kept.trouble], 0, 0))
        self._feed(client)

    def _feed(self, client: _Client) -> None:
        """Send a client what it has not seen, as far as it takes it."""
        name = client.watching
        kept = self._kept.get(name) if name is not None else None
        if name is None or kept is None or client.conduit is None:
            return
        while not client.conduit.is_full and client.sent < kept.spool.last:
            found, client.place = kept.spool.after(client.sent, client.place)
            if not found:
                return
            for number, fields in found:
                if fields[0] == "took" and client.is_lasting:
                    client.typed -= fields[1]
                client.conduit.send(trunk.Event(name, number, fields, 0, 0))
                client.sent = number
        if client.sent >= kept.spool.last and (kept.spool.code is not None or not client.is_following):
            client.send(trunk.Ended(name))

    def _read(self, client: _Client, name: bytes, number: int) -> None:
        kept = self._kept.get(name)
        if kept is None or kept.owner != client.owner or not client.is_lasting:
            return
        kept.spool.read_to(number)
        if kept.spool.code is not None and number >= kept.spool.last:
            self._loop.call_later(READ_KEPT_S, lambda: self._forget(name))
