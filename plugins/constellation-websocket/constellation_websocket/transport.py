"""The transport: on one computer as TCP's, between computers plain streams that travel in WebSocket connections."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections import deque
from functools import cached_property
from typing import NamedTuple

from websockets.client import ClientProtocol
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from constellation.plugin import DiallingTransport, Link, Listener
from constellation.transports.tcp import TcpTransport
from constellation_websocket.address import Place, read
from constellation_websocket.relay import Relay
from constellation_websocket.stream import LARGEST_MESSAGE, SUBPROTOCOL, Stream
from constellation_websocket.tls import Tls

MOST_WAITING = 1024
"""Streams that may wait to be accepted; beyond, who dials is closed on."""


class Settings(NamedTuple):
    """What the plugin's options say."""

    path: str = "/constellation"
    ping_s: float = 20.0
    ca: str = ""
    certificate: str = ""
    key: str = ""


class WebSocketTransport:
    """Links over WebSocket; see the module.

    Args:
        settings: What the options say.
    """

    name = "websocket"
    schemes = ("ws", "wss")
    remote = True

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._relay = Relay()
        self._streams = TcpTransport()

    # Links: the same as those of TCP, for what `listen` and `dial` give is a stream socket

    def pair(self) -> tuple[int, int]:
        """Make the two ends of a link on one computer."""
        return self._streams.pair()

    def adopt(self, fd: int) -> Link:
        """Make a link of one of them."""
        return self._streams.adopt(fd)

    def open(self, fd: int, *, server: bool, context: ssl.SSLContext) -> Link:
        """Make a link of what `dial` or `accept` gave, encrypted from process to process."""
        return self._streams.open(fd, server=server, context=context)

    # Between computers

    def listen(self, address: str) -> Listener:
        """Let others in, at ``host:port`` or a URL.

        Raises:
            OSError: Somebody else listens there, or there is no such address.
        """
        return WebSocketListener(self._relay, self._place(address), self._settings, self._server_context)

    def dial(self, address: str, timeout: float) -> int:
        """Reach a listener, or the proxy before it, at ``host:port`` or a URL. Blocks.

        Raises:
            OSError: Nobody is there, it is no WebSocket of constellation, or it takes too long.
        """
        deadline = time.monotonic() + timeout
        place = self._place(address)
        try:
            sock = socket.create_connection((place.host, place.port), timeout)
        except OSError as error:
            raise type(error)(*error.args[:1], f"cannot reach {place.url}: {error.strerror or error}") from error
        call = _Call()
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            protocol = ClientProtocol(parse_uri(place.url), subprotocols=[SUBPROTOCOL], max_size=LARGEST_MESSAGE)
            tls = Tls(self._client_context, server=False, host=place.host) if place.secure else None
            ping_s = self._settings.ping_s
            stream = Stream(sock, protocol, tls, place.path, ping_s, time.monotonic(), call.greeted)
        except BaseException:
            sock.close()
            raise
        self._relay.run_stream(stream)
        if not call.done.wait(max(0.0, deadline - time.monotonic())):
            self._relay.refuse(stream, TimeoutError(f"no answer for {timeout:g} s"))
            call.done.wait()
        answer = call.answer
        if isinstance(answer, socket.socket):
            return answer.detach()
        raise type(answer)(f"cannot reach {place.url}: {answer}") from answer

    def _place(self, address: str) -> Place:
        return read(address, self._settings.path, secure=bool(self._settings.certificate))

    @cached_property
    def _client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._settings.ca or None)

    @cached_property
    def _server_context(self) -> ssl.SSLContext | None:
        if not self._settings.certificate:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._settings.certificate, self._settings.key or None)
        return context


class _Call:
    """The answer to one `dial`."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer: socket.socket | OSError = TimeoutError()

    def greeted(self, answer: socket.socket | OSError) -> None:
        self.answer = answer
        self.done.set()


class WebSocketListener:
    """Where others come in. A door of the relay, which does the handshakes; what is through waits in a queue."""

    def __init__(self, relay: Relay, place: Place, settings: Settings, context: ssl.SSLContext | None) -> None:
        self._relay = relay
        self._settings = settings
        self._context = context if place.secure else None
        if place.secure and context is None:
            raise OSError(
                f"cannot listen at {place.url}: wss needs the option websocket.certificate; or listen at ws://"
            )
        self._path = place.path
        family = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0][0]
        try:
            self.sock = socket.create_server((place.host, place.port), family=family, backlog=1024)
        except OSError as error:
            raise type(error)(error.errno, f"cannot listen at {place.url}: {error.strerror or error}") from error
        self.sock.setblocking(False)
        self.address = place._replace(port=self.sock.getsockname()[1]).url
        self._lock = threading.Lock()
        self._through: deque[tuple[socket.socket, str]] = deque()
        # Counts what waits: readable while there is something.
        self._ready = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        relay.open_door(self)

    def fileno(self) -> int:
        """Readable when `accept` gives something."""
        return self._ready

    def accept(self) -> tuple[int, str]:
        """Give the next stream, and who it is from: the proxy, where there is one.

        Raises:
            BlockingIOError: There is none now.
        """
        os.eventfd_read(self._ready)
        with self._lock:
            sock, address = self._through.popleft()
        return sock.detach(), address

    def close(self) -> None:
        """Let nobody in any more."""
        if self._ready < 0:
            return
        self._relay.close_door(self)
        with self._lock:
            ready, self._ready = self._ready, -1
            while self._through:
                self._through.popleft()[0].close()
        os.close(ready)

    # In the relay's thread

    def accepted(self, sock: socket.socket, now: float) -> Stream:
        """Begin the handshakes with whoever it is."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, port = sock.getpeername()[:2]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        protocol = ServerProtocol(subprotocols=[SUBPROTOCOL], max_size=LARGEST_MESSAGE)
        tls = None if self._context is None else Tls(self._context, server=True)
        ping_s = self._settings.ping_s
        return Stream(sock, protocol, tls, self._path, ping_s, now, lambda end: self._greeted(end, address), self)

    def _greeted(self, end: socket.socket | OSError, address: str) -> None:
        if not isinstance(end, socket.socket):
            return
        with self._lock:
            if self._ready < 0 or len(self._through) >= MOST_WAITING:
                end.close()
                return
            self._through.append((end, address))
            os.eventfd_write(self._ready, 1)


_: type[DiallingTransport] = WebSocketTransport
