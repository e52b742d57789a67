"""Looks after a link once a second while its handshake lasts: its limit of time has no other clock.

The loop sleeps until a descriptor is ready, and a peer that says nothing makes none ready. So the clock is one too.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from constellation.process import kernel

if TYPE_CHECKING:
    from constellation.process.reactor import Reactor
    from constellation.process.wire import Wire

_EACH_S = 1


class Alarm:
    """Calls a wire's `flush` once a second.

    Args:
        reactor: Watches the clock.
        wire: Whose link it is.

    Raises:
        OSError: No descriptor can be had.
    """

    __slots__ = ("_fd", "_reactor", "_wire")

    def __init__(self, reactor: Reactor, wire: Wire) -> None:
        self._reactor = reactor
        self._wire = wire
        self._fd = kernel.make_clock(_EACH_S)
        reactor.watch(self._fd, self)

    def on_ready(self, _events: int) -> None:
        """A second has gone."""
        wire = self._wire
        with wire.lock:
            if self._fd >= 0:
                try:
                    os.read(self._fd, 8)
                except BlockingIOError:
                    pass
                wire.flush()

    def resume(self) -> None:
        """Nothing can be left over: the clock tells again."""

    def close(self) -> None:
        """Stop; the wire's lock is held, and signals are blocked. A second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._reactor.forget(fd)
            os.close(fd)
