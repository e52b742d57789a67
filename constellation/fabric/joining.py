"""A node that can only dial out, and its master: who dials is turned round, and all else is as with other nodes.

The node dials and says `Come`; from there on the master speaks first, as it does where it has dialled. The node dials again
whenever the connection has ended, and ends it itself when it has heard nothing for as long as the lease holds: the other end may
have gone without a word. It waits less than the lease between two attempts, because a master that has been started again waits
no longer for what ran before it.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from constellation.core import trunk
from constellation.core.errors import UsageError
from constellation.core.preamble import Purpose
from constellation.core.role import NODE, Role, check_role
from constellation.fabric.conduit import Conduit
from constellation.fabric.dialling import Dial

if TYPE_CHECKING:
    from constellation.core.address import Address
    from constellation.fabric.credential import NodeCredential
    from constellation.fabric.daemon import NodeDaemon
    from constellation.fabric.fabricmaster import FabricMaster, NodeRecord
    from constellation.fabric.foreign import ForeignTransports
    from constellation.fabric.loop import Loop

_RETRY_S: Final = (0.1, 0.3, 1.0)
"""Between attempts; the last one again and again."""
_RETRIES_IN_LEASE: Final = 5
_LOOK_S: Final = 0.5
_MARGIN_S: Final = 1.0


class JoinLine:
    """A node's way to the master that it joins.

    Args:
        loop: The daemon's loop.
        node: Is attached to the master while there is a connection.
        address: Where the master listens.
        credential: The node's.
        log: Writes one line.
        foreign: Reaches a master whose address is a URL.
    """

    def __init__(
        self,
        loop: Loop,
        node: NodeDaemon,
        address: Address,
        credential: NodeCredential,
        log: Callable[[str], None],
        foreign: ForeignTransports,
    ) -> None:
        self._loop = loop
        self._node = node
        self._address = address
        self._credential = credential
        self._log = log
        self._foreign = foreign
        self._instance = os.urandom(16)
        self._attempts = 0
        self._last = ""
        self._conduit: Conduit | None = None
        self._heard = loop.now()
        self._dial()
        loop.call_later(_LOOK_S, self._look)

    def _dial(self) -> None:
        if not self._node.is_leaving:
            key = self._credential.preamble_keys[Purpose.DAEMON]
            Dial(
                self._loop,
                self._address,
                Purpose.DAEMON,
                key,
                self._connected,
                self._failed,
                foreign=self._foreign,
            )

    def _failed(self, text: str) -> None:
        if self._node.is_leaving:
            return
        if text != self._last:
            self._last = text
            self._log(f"not in the fabric: {text}; it is tried again")
        wait = min(_RETRY_S[min(self._attempts, len(_RETRY_S) - 1)], self._node.lease / _RETRIES_IN_LEASE)
        self._attempts += 1
        self._loop.call_later(wait, self._dial)

    def _connected(self, sock: socket.socket) -> None:
        self._heard = self._loop.now()
        self._conduit = Conduit(
            self._loop,
            sock,
            self._credential.context(Role(NODE, self._node.settings.name), server=False),
            server=False,
            read=trunk.TRUNK.read,
            fields_of=trunk.TRUNK.fields_of,
            on_ready=self._ready,
            on_message=self._on_message,
            on_end=self._ended,
            label=f"the master at {self._address}",
        )

    def _ready(self, role: Role) -> None:
        check_role(role, NODE)
        assert self._conduit is not None
        settings = self._node.settings
        self._node.attach(self._conduit)
        self._conduit.send(trunk.Come(settings.version, settings.name, self._instance))

    def _on_message(self, message: trunk.TrunkMessage) -> None:
        self._heard = self._loop.now()
        if isinstance(message, trunk.Refuse):
            self._give_up(f"the master at {self._address} refuses this node: {message.reason}")
            return
        if isinstance(message, trunk.Welcome):
            self._attempts, self._last = 0, ""
        self._node.on_message(message)

    def _ended(self, reason: str) -> None:
        conduit, self._conduit = self._conduit, None
        if conduit is not None:
            self._node.detach(conduit, reason)
        self._failed(reason)

    def _give_up(self, reason: str) -> None:
        if self._conduit is not None:
            self._conduit.close()
        self._ended(reason)

    def _look(self) -> None:
        """Notice that nothing comes any more over a connection of which nobody has said that it has ended."""
        self._loop.call_later(_LOOK_S, self._look)
        conduit = self._conduit
        if conduit is None:
            return
        silent = self._loop.now() - self._heard
        if not conduit.is_open:
            self._ended("the connection was closed, for the master read nothing any more")
        elif silent > self._node.lease + _MARGIN_S:
            self._give_up(f"the master at {self._address} was not heard for {silent:.1f} s")


class Guest:
    """The master's end of a connection that such a node has made.

    Args:
        master: What it wants to be in.
        conduit: The connection.
        message: How it has begun.
    """

    def __init__(self, master: FabricMaster, conduit: Conduit, message: trunk.Come) -> None:
        self._master = master
        self._conduit = conduit
        self._instance = message.instance
        self._record: NodeRecord | None = None
        conduit.send(master.hello())

    def on_message(self, message: trunk.TrunkMessage) -> None:
        """What the node says."""
        if self._record is not None:
            self._master.on_message(self._record, message)
        elif isinstance(message, trunk.Join):
            self._record = self._master.joined(self._conduit, message, "", self._instance)
            if self._record is None:
                refuse(self._conduit, f"another node is called {message.name!r}: give it another name, with --name")

    def ended(self, reason: str) -> bool:
        """The connection has ended by itself; False: its node was not in."""
        if self._record is None:
            return False
        self._master.disconnected(self._record, self._conduit, reason)
        return True


def refuse(conduit: Conduit, reason: str) -> None:
    """Tell a node that has dialled why it is not let in, and close."""
    conduit.send(trunk.Refuse(reason))
    conduit.close(after_flush=True)


def hold(folder: str, name: str, joins: Address) -> int:
    """Hold the folder of a node that listens nowhere, as a port would be held; the descriptor is kept.

    Raises:
        UsageError: Another daemon has it.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise UsageError(
            f"cannot join {joins} as {name!r}: a node of this name, that joins there, runs on this computer already "
            f"(it holds {folder}): give this one another name, with --name"
        ) from error
    return fd
