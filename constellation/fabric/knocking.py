"""Tries the addresses of a nodes.toml from this computer, for a fabric that is not up or cannot be reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from constellation.core.health import Tried
from constellation.core.preamble import KEY_BYTES, Purpose
from constellation.core.role import NODE, Role
from constellation.fabric.dialling import Dial
from constellation.fabric.probing import PROBE_S, Probe, Probed

if TYPE_CHECKING:
    import socket

    from constellation.core.address import Address
    from constellation.core.nodesfile import NodeEntry
    from constellation.fabric.credential import DeployerCredential, NodeCredential
    from constellation.fabric.foreign import ForeignTransports
    from constellation.fabric.loop import Loop

_NAME: Final = "doctor"
"""In the certificate with which nodes are asked."""
_AT_A_TIME: Final = 200
"""Connections: fewer than the descriptors that any process has."""


class Knocks:
    """Attempts from here.

    Args:
        loop: Where connections are watched.
        node: To speak to nodes as a node; None: no further than their ports.
        deployer: To speak to bridges; None: no further than their ports.
        foreign: Reaches URLs.
    """

    def __init__(
        self,
        loop: Loop,
        node: NodeCredential | None,
        deployer: DeployerCredential | None,
        foreign: ForeignTransports | None = None,
    ) -> None:
        self._loop = loop
        self._node = node
        self._deployer = deployer
        self._foreign = foreign
        self._tried: list[Tried] = []
        self._running = 0

    def run(self, entries: Sequence[NodeEntry]) -> list[Tried]:
        """Blocks. Try all of them, many at once, each for some seconds at most."""
        waiting: list[Callable[[], object]] = []
        for entry in entries:
            waiting.append(self._for_node(entry.title, entry.dialled))
            if entry.bridge_bind is not None:
                waiting.append(self._for_bridge(f"the bridge on {entry.title}", entry.bridge_bind))
        waiting.reverse()
        while waiting or self._running:
            while waiting and self._running < _AT_A_TIME:
                self._running += 1
                waiting.pop()()
            self._loop.step(PROBE_S)
        return self._tried

    def _for_node(self, title: str, address: Address) -> Callable[[], object]:
        node = self._node
        if node is None:
            return lambda: self._only_connect(title, address)
        context = node.context(Role(NODE, _NAME), server=False)
        key = node.preamble_keys[Purpose.DAEMON]
        return lambda: Probe(self._loop, address, key, context, self._taker(title, address), foreign=self._foreign)

    def _for_bridge(self, title: str, address: Address) -> Callable[[], object]:
        deployer = self._deployer
        if deployer is None:
            return lambda: self._only_connect(title, address)
        key = deployer.preamble_keys[Purpose.DEPLOY]
        return lambda: Probe(
            self._loop,
            address,
            key,
            deployer.context(),
            self._taker(title, address),
            is_bridge=True,
            foreign=self._foreign,
        )

    def _taker(self, title: str, address: Address) -> Callable[[Probed], None]:
        def probed(found: Probed) -> None:
            self._take(Tried("here", title, str(address), found.step, found.text, found.seconds))

        return probed

    def _take(self, tried: Tried) -> None:
        self._running -= 1
        self._tried.append(tried)

    def _only_connect(self, title: str, address: Address) -> None:
        """As far as one gets without a credential: the other end sees a packet that it refuses."""

        def connected(sock: socket.socket) -> None:
            sock.close()
            self._take(Tried("here", title, str(address), "", "", 0.0))

        def failed(text: str) -> None:
            reason = text.partition(": ")[2] or text
            self._loop.call_later(0, lambda: self._take(Tried("here", title, str(address), dial.step, reason, 0.0)))

        dial = Dial(self._loop, address, Purpose.DAEMON, bytes(KEY_BYTES), connected, failed, foreign=self._foreign)
