"""The node daemon: one computer's place in a fabric. It keeps the port, the trunk to the master, and the parts that run.

It runs no user code and looks into nothing that it passes on, but for what is meant for itself: who dials whom, and which
processes are here. Its word to the master is the *lease*: while the master is heard, what runs here goes on. When it has
not been heard for as long as the lease holds, everything that runs here is killed: the master waits a little longer before
it gives the work to others, so nothing runs twice.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from constellation.core import trunk
from constellation.core.address import Address, parse_address
from constellation.core.gauges import Tally
from constellation.core.preamble import Preamble, Purpose
from constellation.core.resources import Resources
from constellation.core.settings import GRACE
from constellation.core.trunk import Specification
from constellation.fabric.dialling import Dial
from constellation.fabric.journal import ERROR, WARNING, Log
from constellation.fabric.loop import Loop
from constellation.fabric.parts import Kept, Part

if TYPE_CHECKING:
    from constellation.fabric.examining import Examiner
    from constellation.fabric.foreign import ForeignTransports
    from constellation.fabric.usergroups import PartGroups
    from constellation.fabric.users import Account

_LOOK_S: Final = 0.25


class Security(Protocol):
    """What a daemon needs of its credential."""

    @property
    def keys(self) -> Mapping[Purpose, bytes]: ...

    def context(self, *, server: bool) -> ssl.SSLContext: ...

    def deployment_identity(self, deployment: bytes) -> Any: ...


class Trunk(Protocol):
    """The connection to the master, or what stands for it in the master's own daemon."""

    @property
    def is_full(self) -> bool: ...

    def send(self, message: trunk.TrunkMessage) -> bool: ...

    def close(self) -> None: ...


class Settings(NamedTuple):
    """How a node was started."""

    name: str
    address: Address | None
    """What others dial; None: it can only dial out."""
    capacity: Resources
    labels: tuple[tuple[str, str], ...]
    folder: str
    """For its files."""
    version: str
    """Of this package."""
    installation: list[Any]
    """What this Python has, for `Join`."""
    joins: Address | None = None
    """Where a node that can only dial out dials the master."""


class Files(Protocol):
    """Gets a deployment's files and Python ready (`provision.py`)."""

    def prepare(
        self, part: Part, on_ready: Callable[[dict[str, Any]], None], on_failed: Callable[[str], None]
    ) -> None: ...

    def chunk(self, chunk: trunk.Chunk) -> None: ...

    def again(self) -> None: ...

    def forget(self, part: Part) -> None: ...


class Groups(Protocol):
    """Makes the control groups of a mapped user's deployment (`usergroups.py`)."""

    def of(self, account: Account) -> PartGroups | None: ...


class NodeDaemon:
    """One node.

    Args:
        loop: The daemon's loop.
        settings: How it was started.
        security: Its credential.
        files: Prepares what a deployment needs here.
        log: Writes one line.
        foreign: Reaches nodes whose address is a URL.
        groups: Makes control groups for mapped users; None: there are none.
    """

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        security: Security,
        files: Files,
        log: Log,
        foreign: ForeignTransports | None = None,
        groups: Groups | None = None,
    ) -> None:
        self._groups = groups
        self.node_id = 0
        self.tally = Tally()
        self.closed_links = 0
        """Links that nobody here was meant by."""
        self._master = b""
        self.settings = settings
        self._loop = loop
        self._security = security
        self._files = files
        self._log = log
        self._foreign = foreign
        self._trunk: Trunk | None = None
        self._is_in = False
        """Whether the master on the trunk has welcomed this node: only then it gets messages, the kept ones first."""
        self._lease = 5.0
        self._heard = loop.now()
        """When the last answer was sent that the master is known to have heard."""
        self._answered: dict[int, float] = {}
        self._joined_at = loop.now()
        self._parts: dict[bytes, Part] = {}
        self._by_os_pid: dict[int, Part] = {}
        self._pieces: dict[bytes, list[bytes]] = {}
        self._gone_parts: dict[bytes, tuple[str, int]] = {}
        """Parts that are over and of which the master may not know it: the cause, and the last beat before it was said."""
        self._beat = 0
        self._is_leaving = False
        self.examiner: Examiner | None = None
        """Looks at this computer, for `constellation doctor`."""
        self._file: tuple[int | None, int | None] = (None, None)
        """What the master's file says of memory and cores."""
        self._draining = ""
        """Why nothing more is to be placed here; empty: it may be."""
        self._ending = ""
        """What is said to the processes that are asked to end, because the node ends; empty: none are."""
        self._asked: set[bytes] = set()
        self._dials: set[Dial] = set()
        loop.call_later(_LOOK_S, self._look)

    # The master

    def attach(self, connection: Trunk) -> None:
        """A master speaks to this node from now on; a former one no longer does."""
        if self._trunk is not None and self._trunk is not connection:
            self._trunk.close()
        self._trunk = connection
        self._is_in = False
        self._pieces.clear()

    def detach(self, connection: Trunk, reason: str) -> None:
        """The connection to the master has gone; the lease goes on."""
        if self._trunk is connection:
            self._trunk = None
            self._log(f"the master is not heard any more: {reason}", level=WARNING)

    def is_attached_to(self, connection: Trunk) -> bool:
        """Whether that is the connection to its master."""
        return self._trunk is connection

    @property
    def lease(self) -> float:
        """For how many seconds the master's word holds."""
        return self._lease

    @property
    def is_leaving(self) -> bool:
        """Whether it has told the master that it stops."""
        return self._is_leaving

    @property
    def heard(self) -> float:
        """When the last answer was sent that the master is known to have heard, by the clock of the loop."""
        return self._heard

    @property
    def is_draining(self) -> bool:
        """Whether nothing more is to be placed here, because it is to end."""
        return bool(self._draining)

    @property
    def parts(self) -> list[Part]:
        """The deployments that are here."""
        return list(self._parts.values())

    @property
    def is_busy(self) -> bool:
        """Whether something runs here."""
        return any(not part.is_over for part in self._parts.values())

    def on_message(self, message: trunk.TrunkMessage) -> None:
        """Do what the master says."""
        match message:
            case trunk.Down(deployment, sequence, fields, payload):
                self._down(deployment, sequence, trunk.STATION.read(fields), self._joined(deployment, payload))
            case trunk.More(deployment, data):
                self._pieces.setdefault(deployment, []).append(data)
            case trunk.Acked(deployment, number):
                part = self._parts.get(deployment)
                if part is not None:
                    part.acknowledged(number)
            case trunk.Open(deployment, fields):
                self._open(deployment, Specification(*fields))
            case trunk.Shut(deployment):
                self._shut(deployment)
            case trunk.Beat(number, heard):
                self._heard = self._answered.pop(heard, self._heard)
                self._answered = {each: when for each, when in self._answered.items() if each > heard}
                self._answered[number] = self._loop.now()
                self._beat = number
                for deployment, (_, said_after) in list(self._gone_parts.items()):
                    if heard > said_after:  # and so what was said before that answer
                        del self._gone_parts[deployment]
                self._send(trunk.Beat(number, 0))
                for part in self._parts.values():
                    self._send(trunk.Acked(part.deployment, part.last_down))
            case trunk.Chunk():
                self._files.chunk(message)
            case trunk.Hello():
                self._hello(message)
            case trunk.Welcome():
                self._welcome(message)
            case trunk.Ping(number):
                self._send(trunk.Pong(number, time.time()))
            case trunk.Examine() if self.examiner is not None:
                self.examiner.examine(message, self._offered(), self._send)
            case _:
                self._log(f"the master said {type(message).__name__}, which is not a master's to say")

    def _send(self, message: trunk.TrunkMessage) -> None:
        connection = self._trunk
        if connection is not None and not connection.send(message):
            # It would be missed for ever: what is kept is sent again to a master that comes anew, and in its order.
            self._trunk = None
            connection.close()
            self._log("the master reads nothing any more: the connection is closed", level=WARNING)

    def _joined(self, deployment: bytes, payload: bytes) -> bytes:
        pieces = self._pieces.pop(deployment, None)
        return payload if pieces is None else b"".join([*pieces, payload])

    def _hello(self, message: trunk.Hello) -> None:
        if self._is_leaving:
            return  # who joins now would be given work that ends with this node in a moment
        self._lease = message.lease
        self._file = message.mem, message.cpu
        capacity = bounded(self.settings.capacity, message)
        labels = dict([*self.settings.labels, *((str(name), str(value)) for name, value in message.labels)])
        name = message.name or self.settings.name
        self._joined_at = self._loop.now()
        self._answered.clear()
        self._beat = 0
        self.settings = self.settings._replace(name=name, labels=tuple(sorted(labels.items())))
        self._send(
            trunk.Join(
                self.settings.version,
                name,
                self.node_id,
                str(self.settings.address or ""),
                capacity.to_fields(),
                [list(pair) for pair in self.settings.labels],
                [
                    [part.deployment, list(part.specification), part.last_down]
                    for part in self._parts.values()
                    if not part.is_over
                ],
                [[deployment, cause] for deployment, (cause, _) in self._gone_parts.items()],
                time.time(),
                self._master,
                self.settings.installation,
            )
        )

    def _welcome(self, message: trunk.Welcome) -> None:
        self._heard = max(self._heard, self._joined_at)
        self.node_id = node_id = message.node_id
        self._master = message.master
        self._is_in = True
        self._gone_parts.clear()
        for deployment in message.unknown:
            self._shut(deployment)
        for part in self._parts.values():
            if part.deployment in message.adopted:
                for inventory in part.ledger.inventory(part.deployment):
                    self._send(inventory)
                like = part.ledger.like
                if like is not None:
                    like = like._replace(node=like.node or self.settings.name)
                    self._up(part, Kept(0, trunk.STATION.fields_of(like), b""))
                for said, payload in part.ledger.said():
                    self._up(part, Kept(0, trunk.STATION.fields_of(said), payload))
            for kept in part.kept:
                self._up(part, kept)
        if self._draining:  # this master may be another one, which does not know it
            self._send(trunk.Draining(self._draining))
        self._files.again()
        self._log(f"in the fabric, as node {node_id} {self.settings.name!r}")

    def _offered(self) -> dict[str, int | None]:
        """What this node has to offer, and what the master's file says of it."""
        own = self.settings.capacity
        mem, cpu = self._file
        return {"mem": own.mem, "cpu": own.cpu_millionths, "file_mem": mem, "file_cpu": cpu}

    # The lease

    @property
    def _silent(self) -> float:
        """Seconds since the last answer that the master is known to have heard."""
        return self._loop.now() - self._heard

    def _look(self) -> None:
        self._loop.call_later(_LOOK_S, self._look)
        silent = self._silent
        if silent > self._lease and self.is_busy:
            text = f"no word from the master for {silent:.1f} s, so the lease is over: what runs here is killed"
            self._log(text, level=ERROR)
            for part in list(self._parts.values()):
                self._forget(part)
                self._over_here(part)
            return
        if silent < self._lease:
            for part in self._parts.values():
                part.down(trunk.Lease(self._lease - silent))

    # Parts

    def _open(self, deployment: bytes, specification: Specification) -> None:
        if deployment in self._parts:
            return
        self._gone_parts.pop(deployment, None)
        part = self._parts[deployment] = Part(self._loop, deployment, specification, self._up, self._gone, self.tally)
        self._files.prepare(part, lambda config: self._begin(part, config), lambda text: self._fail(part, text))

    def _begin(self, part: Part, config: dict[str, Any]) -> None:
        if part.is_over:
            return
        proofs = self._security.deployment_identity(part.deployment)
        settings = dict(part.specification.settings)
        if self._groups is not None and part.account is not None and part.account.uid != 0:
            part.groups = self._groups.of(part.account)
        try:
            part.begin(
                {
                    "deployment": part.deployment.hex(),
                    "node": self.settings.name,
                    "node_id": self.node_id,
                    "plugins": part.specification.plugins,
                    "plugin_options": dict(part.specification.options),
                    "transport": settings.get("transport"),
                    "certificate": proofs.certificate_pem,
                    "key": proofs.key_pem,
                    "authority": proofs.authority_pem,
                    **config,
                }
            )
        except OSError as error:
            self._fail(part, f"cannot start its monitor process: {error.strerror}")
            return
        self._by_os_pid[part.os_pid] = part

    def _fail(self, part: Part, text: str) -> None:
        """It cannot run here: said as if its program had not come to its init(), and nothing could be started.

        Where that is because it does not fit this node, it is the master's to find another one.
        """
        if not part.is_over and part.is_unfit:
            part.tell(trunk.Unfit(text, []))
            part.living.clear()
            self._gone(part, text)
        elif not part.is_over:
            named = f"on {self.settings.name}: {text}"
            part.tell(trunk.Missed(named, b""))
            for key in list(part.living):
                part.tell(trunk.NotBegun(key, named))
            part.living.clear()
            self._gone(part, text)

    def _gone(self, part: Part, reason: str) -> None:
        part.is_over = True
        if self._parts.get(part.deployment) is part:
            text = f"deployment {part.deployment.hex()[:7]} is over here: {reason}"
            self._log(text, level=WARNING, deployment=part.deployment)
            self._over_here(part, reason)
            self._forget(part)

    def _over_here(self, part: Part, reason: str = "") -> None:
        """Tell the master, now or when it comes again, and until it is known to have heard it."""
        if self._silent > self._lease - _LOOK_S:  # monitor processes may see the end of the lease before the daemon
            cause = f"node {self.settings.name} lost: no word from the master for {self._silent:.1f} s"
        else:
            cause = f"monitor lost: {reason}"
        self._gone_parts[part.deployment] = (cause, self._beat)
        if self._is_in:
            self._send(trunk.Gone(part.deployment, cause))

    def _shut(self, deployment: bytes) -> None:
        part = self._parts.get(deployment)
        if part is not None:
            self._forget(part)

    def _forget(self, part: Part) -> None:
        if self._parts.pop(part.deployment, None) is part:
            for _ in part.begun:  # what ran is killed, and nobody tells how it ends
                self.tally.ended(None, None)
        part.end()
        if not part.os_pid:
            self._files.forget(part)

    def reaped(self, os_pid: int) -> None:
        """A child of the daemon has been waited for."""
        part = self._by_os_pid.pop(os_pid, None)
        if part is not None:
            part.reaped()
            self._files.forget(part)

    @property
    def os_pids(self) -> set[int]:
        """Of the monitor processes that have not been waited for."""
        return set(self._by_os_pid)

    def need(self, deployment: bytes, digests: list[bytes]) -> None:
        """Ask the master for chunks of files."""
        self._send(trunk.Need(deployment, list(digests)))

    @property
    def is_in(self) -> bool:
        """Whether the master has welcomed this node, and is connected."""
        return self._is_in and self._trunk is not None

    @property
    def count(self) -> int:
        """How many processes run here, or are about to."""
        return sum(len(part.living) for part in self._parts.values())

    @property
    def is_drained(self) -> bool:
        """Whether nothing runs here any more, and the master has what it wrote.

        What has not begun when all are asked to end does not count: the master has it begin elsewhere.
        """
        if self._ending:
            return not any(part.begun or part.kept for part in self._parts.values())
        return all(part.is_idle for part in self._parts.values())

    def drain(self, reason: str) -> None:
        """Have nothing more placed here; what runs goes on."""
        self._draining = reason
        if self._is_in:
            self._send(trunk.Draining(reason))

    def ask_all(self, cause: str = "") -> None:
        """Ask all that runs here to end, with the grace time, but no longer one than is usual; those that begin later too.

        Args:
            cause: For their certificates; it may be left out when it is done once more.
        """
        self._ending = cause or self._ending
        for part in self._parts.values():
            settings = {str(name): value for name, value in part.specification.settings}
            for key in part.begun:
                if key not in self._asked:
                    self._asked.add(key)
                    part.down(trunk.Ask(key, self._ending, min(GRACE, float(settings.get("grace", GRACE)))))

    def leave(self, reason: str) -> None:
        """Tell the master that this node stops."""
        self._is_leaving = True
        self._send(trunk.Leave(reason))

    def end_all(self) -> None:
        """End everything that runs here."""
        for part in list(self._parts.values()):
            self._forget(part)
        for dial in list(self._dials):
            dial.cancel()

    # Messages of deployments

    def _up(self, part: Part, kept: Kept) -> None:
        if not self._is_in:
            return
        ahead, rest = trunk.in_pieces(part.deployment, kept.payload)
        for piece in ahead:
            self._send(piece)
        self._send(trunk.Up(part.deployment, kept.number, kept.message, rest))

    def _down(self, deployment: bytes, number: int, message: trunk.StationMessage, payload: bytes) -> None:
        part = self._parts.get(deployment)
        if part is None or number <= part.last_down:  # it came before the connection broke
            return
        part.last_down = number
        if self._ending and isinstance(message, trunk.Start):
            return  # it was on its way before the master knew; it begins elsewhere when this node has left
        if isinstance(message, trunk.Dial | trunk.Meet):
            part.ledger.down(message)
            self._dial(part, message)
        else:
            part.down(message, payload)

    # Links

    def _dial(self, part: Part, order: trunk.Dial | trunk.Meet) -> None:
        one, two, number = order[:3]
        calls = isinstance(order, trunk.Dial)
        address = (
            parse_address(order.address) if isinstance(order, trunk.Dial) and order.address else self.settings.joins
        )
        if address is None:
            self._not_linked(part, order, "its node is to dial where it has joined, and has not joined anywhere")
            return

        def connected(sock: socket.socket) -> None:
            self._dials.discard(dial)
            if not part.pass_on(trunk.Dialled(one, two, number, calls), sock):
                self._not_linked(part, order, "")

        def failed(text: str) -> None:
            self._dials.discard(dial)
            self._not_linked(part, order, text)

        dial = Dial(
            self._loop,
            address,
            Purpose.LINK,
            self._security.keys[Purpose.LINK],
            connected,
            failed,
            target=two,
            source=one,
            number=number,
            foreign=self._foreign,
        )
        self._dials.add(dial)

    @staticmethod
    def _not_linked(part: Part, order: trunk.Dial | trunk.Meet, reason: str) -> None:
        ending = b"" if reason else order.one
        part.tell(trunk.NotLinked(order.one, order.two, order.number, ending, reason))

    def link_accepted(self, sock: socket.socket, preamble: Preamble, peer: str) -> None:
        """Give a socket that was accepted, with a right preamble, to the process that is meant; else close it."""
        for part in self._parts.values():
            if preamble.target in part.living:
                message = trunk.Dialled(preamble.target, preamble.source, preamble.number, False)
                if not part.pass_on(message, sock):
                    self._log(
                        f"a link from {peer} came too late: its process has ended",
                        deployment=part.deployment,
                        peer=peer,
                    )
                return
        self._log(f"a link from {peer} is closed: no process of that name runs here", level=WARNING, peer=peer)
        self.closed_links += 1
        sock.close()


def bounded(capacity: Resources, message: trunk.Hello) -> Resources:
    """What a node offers: what the master's file says of it, bounded by what its own flags or its computer say."""
    mem = capacity.mem if message.mem is None else min(capacity.mem, message.mem)
    cpu = capacity.cpu_millionths if message.cpu is None else min(capacity.cpu_millionths, message.cpu)
    custom = dict(capacity.custom_millionths)
    for name, amount in message.custom:
        custom[str(name)] = min(custom.get(str(name), int(amount)), int(amount))
    return Resources.exact(mem, cpu, tuple(sorted(custom.items())))


def remove_folder(folder: str) -> None:
    """Remove a copy of files, as far as it can be."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.exists(folder):
        os.chmod(folder, 0o700)
        shutil.rmtree(folder, ignore_errors=True)
