"""Dialling a daemon's port: connect without waiting, show the preamble, give the socket away."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from constellation.core import preamble as packets
from constellation.core.address import Address
from constellation.core.preamble import NO_PID, Preamble, Purpose
from constellation.fabric.loop import Loop, Timer

if TYPE_CHECKING:
    from constellation.fabric.foreign import ForeignTransports

CONNECT_TIME: Final = 5.0
"""Seconds for a connection to be made: two retransmissions of the first packet."""


_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL)


class Dial:
    """One attempt; `on_connected` or `on_failed` is called once, unless it is cancelled.

    Args:
        loop: Where the connection is watched.
        address: Whom to dial. A name is looked up in a thread, for that may take long; a URL is the plugins' to reach.
        purpose: What for.
        key: The key of that purpose.
        on_connected: Called with the connected socket, non-blocking, the preamble sent; it belongs to the callee.
        on_failed: Called with which step failed and how.
        target: The process that is meant, for a link.
        source: The process that dials, for a link.
        number: The link's number.
        foreign: Reaches URLs.
    """

    def __init__(
        self,
        loop: Loop,
        address: Address,
        purpose: Purpose,
        key: bytes,
        on_connected: Callable[[socket.socket], None],
        on_failed: Callable[[str], None],
        *,
        target: bytes = NO_PID,
        source: bytes = NO_PID,
        number: int = 0,
        foreign: ForeignTransports | None = None,
    ) -> None:
        self._loop = loop
        self._address = address
        self._preamble = packets.pack(Preamble(purpose, os.urandom(16), time.time(), target, source, number), key)
        self._on_connected = on_connected
        self._on_failed = on_failed
        self._sock: socket.socket | None = None
        self._timer: Timer | None = None
        self._give_up: Callable[[], None] | None = None
        self._is_over = False
        self.step = "port"
        """The step that is being taken, or that failed: ``name``, ``route``, ``port``."""
        if address.url:
            if foreign is None:
                loop.call_later(0, lambda: self._fail("no plugin is enabled that could"))
            else:
                self._give_up = foreign.dial(address, CONNECT_TIME, self._reached, self._fail)
            return
        self._timer = loop.call_later(
            CONNECT_TIME, lambda: self._fail(f"no answer within {CONNECT_TIME:g} s: is the port open in the firewall?")
        )
        number_of_host = address.number
        if number_of_host is not None:
            self._connect(str(number_of_host))
        else:
            self._look_up()

    def _look_up(self) -> None:
        self.step = "name"
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        found: list[str] = []

        def ask() -> None:
            try:
                found.append(str(socket.getaddrinfo(self._address.host, 0, type=socket.SOCK_STREAM)[0][4][0]))
            except OSError as error:
                found.extend(["", error.strerror or str(error)])
            os.close(write_end)

        def answered() -> None:
            self._loop.unwatch(read_end)
            os.close(read_end)
            if self._is_over:
                return
            if found[0]:
                self._connect(found[0])
            else:
                self._fail(f"the name {self._address.host!r} is not known here: {found[1]}")

        self._loop.watch(read_end, answered)
        threading.Thread(target=ask, daemon=True).start()

    def _connect(self, host: str) -> None:
        self.step = "port"
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._sock = socket.socket(family, socket.SOCK_STREAM)
            self._sock.setblocking(False)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            error = self._sock.connect_ex((host, self._address.port))
        except OSError as failure:
            self._fail(failure.strerror or str(failure))
            return
        if error not in {0, errno.EINPROGRESS}:
            self._fail_with(error)
            return
        self._loop.watch_room(self._sock.fileno(), self._connected)

    def _connected(self) -> None:
        sock = self._sock
        if sock is None or self._is_over:
            return
        self._loop.watch_room(sock.fileno(), None)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._fail_with(error)
            return
        self._reached(sock)

    def _reached(self, sock: socket.socket) -> None:
        """There is a connection: show the preamble."""
        self._sock = sock
        try:
            sock.send(self._preamble)  # the first bytes of a connection: there is room for so few
        except OSError as failure:
            self._fail(failure.strerror or str(failure))
            return
        self._end()
        self._on_connected(sock)

    def _fail_with(self, error: int) -> None:
        if error in _NO_ROUTE:
            self.step = "route"
        refused = "connection refused: nothing listens there"
        self._fail(refused if error == errno.ECONNREFUSED else os.strerror(error))

    def _fail(self, text: str) -> None:
        if self._is_over:
            return
        self.cancel()
        self._on_failed(f"cannot connect to {self._address}: {text}")

    def _end(self) -> None:
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def cancel(self) -> None:
        """Give up without a word. After `on_connected` it does nothing."""
        if self._is_over:
            return
        self._end()
        if self._give_up is not None:
            self._give_up()
        if self._sock is not None:
            self._loop.unwatch(self._sock.fileno())
            self._sock.close()
