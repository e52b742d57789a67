"""Tries out whether a daemon can be reached: step by step, to an answer that only one of the same fabric can give.

A name, a route, a port, TLS in both directions, the right role, and that our certificate is accepted: the first step that
fails is told, with its words. It changes nothing at the other end, and the other end does not log it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from constellation.core import trunk
from constellation.core.errors import HandshakeError
from constellation.core.preamble import Purpose
from constellation.core.role import BRIDGE, NODE, Role, check_role
from constellation.fabric.conduit import Conduit
from constellation.fabric.dialling import Dial

if TYPE_CHECKING:
    import socket
    import ssl

    from constellation.core.address import Address
    from constellation.fabric.foreign import ForeignTransports
    from constellation.fabric.loop import Loop

PROBE_S: Final = 6.0
"""For all steps together: a port behind a firewall takes five seconds to be given up, a handshake takes milliseconds."""

_CLOSED = (
    "it closed the connection at our first packet: it has another fabric's credential, another wire version, or a clock "
    "that is minutes off"
)


class Probed(NamedTuple):
    """How far a probe came."""

    step: str
    """The step that failed: ``name``, ``route``, ``port``, ``TLS``, ``role``, ``credential``, ``answer``; empty: none did."""
    text: str
    seconds: float
    """For a question and its answer, when all else was there."""
    offset: float
    """Seconds by which its clock is ahead of ours, give or take half of `seconds`; 0 for a bridge, which does not say."""


class Probe:
    """One attempt.

    Args:
        loop: Where the connection is watched.
        address: Whom to dial.
        key: The preamble key of its purpose.
        context: For TLS, as a client.
        on_done: Called once, in a later turn of the loop.
        is_bridge: A bridge is dialled, with a deployer's credential; else a node, with a node's.
        foreign: Reaches URLs.
    """

    def __init__(
        self,
        loop: Loop,
        address: Address,
        key: bytes,
        context: ssl.SSLContext,
        on_done: Callable[[Probed], None],
        *,
        is_bridge: bool = False,
        foreign: ForeignTransports | None = None,
    ) -> None:
        self._loop = loop
        self._context = context
        self._on_done = on_done
        self._is_bridge = is_bridge
        self._conduit: Conduit | None = None
        self._step = ""
        self._asked = 0.0
        self._clock = 0.0
        self._timer = loop.call_later(PROBE_S, self._too_late)
        purpose = Purpose.DEPLOY if is_bridge else Purpose.DAEMON
        self._dial = Dial(loop, address, purpose, key, self._connected, self._failed, foreign=foreign)

    def _failed(self, text: str) -> None:
        # A dial may fail before it is there to be asked how far it came.
        self._loop.call_later(0, lambda: self._not_connected(text))

    def _not_connected(self, text: str) -> None:
        self._end(self._dial.step, text.partition(": ")[2] or text)

    def _connected(self, sock: socket.socket) -> None:
        self._step = "TLS"
        schema = trunk.CLIENT if self._is_bridge else trunk.TRUNK
        self._conduit = Conduit(
            self._loop,
            sock,
            self._context,
            server=False,
            read=schema.read,
            fields_of=schema.fields_of,
            on_ready=self._ready,
            on_message=self._heard,
            on_end=self._ended,
            label="it",
        )

    def _ready(self, role: Role) -> None:
        try:
            check_role(role, BRIDGE if self._is_bridge else NODE)
        except HandshakeError:
            self._step = "role"
            raise
        self._step = "credential"
        self._asked, self._clock = self._loop.now(), time.time()
        assert self._conduit is not None
        # A bridge that is not to be asked anything says no, which is an answer too.
        question = trunk.Question(0, "nodes", "", "") if self._is_bridge else trunk.Ping(1)
        self._conduit.send(question)

    def _heard(self, message: Any) -> None:
        seconds = self._loop.now() - self._asked
        offset = message.clock - (self._clock + seconds / 2) if isinstance(message, trunk.Pong) else 0.0
        if isinstance(message, trunk.Refusal):
            self._end("answer", message.text)
        else:
            self._end("", "", seconds, offset)

    def _ended(self, reason: str) -> None:
        is_first_packet = self._step == "TLS" and "has closed the connection" in reason
        self._end(self._step, _CLOSED if is_first_packet else reason)

    def _too_late(self) -> None:
        if self._conduit is None:
            self._end(self._dial.step, f"no answer within {PROBE_S:g} s")
        elif self._step == "credential":
            self._end("answer", f"it accepts us, and did not answer within {PROBE_S:g} s")
        else:
            self._end(
                "answer",
                f"it accepts connections and does nothing with them for {PROBE_S:g} s: it is stopped, or hangs",
            )

    def _end(self, step: str, text: str, seconds: float = 0.0, offset: float = 0.0) -> None:
        self.cancel()
        on_done, self._on_done = self._on_done, _nothing
        self._loop.call_later(0, lambda: on_done(Probed(step, text, seconds, offset)))

    def cancel(self) -> None:
        """Give up without a word, or tidy up after the last one."""
        self._timer.cancel()
        self._dial.cancel()
        if self._conduit is not None:
            self._conduit.close()


def _nothing(_: Probed) -> None:
    """It has been told already."""
