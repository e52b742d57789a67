"""One WebSocket connection, and behind it one end of a socketpair whose other end is somebody else's plain stream.

What is read at the local end goes out in binary messages; what comes in messages is written to the local end. Where one message
ends means nothing. Not more than `HIGH` bytes wait in either direction: then nothing more is read, and whoever writes feels it.

The ends. The local side has ended: what it wrote goes out, then a close frame; what still comes is dropped. The other side has
ended, by a close frame or without: what it sent goes in, then the local end is closed. The first is told to the other side by
its own relay; so an end goes through, after all bytes before it.

Keeping alive. Proxies close connections on which nothing is sent for a while (nginx: 60 s). So each side sends a ping when it has
sent nothing else for `ping_s`. That is also how a connection is found that leads nowhere any more: on one where nothing is heard
for `SILENCES` times that, although we listen, nobody is there. Pongs would not do: a side whose process is slow does not read,
and so does not answer; but it does send its own pings.

Nothing here blocks; `constellation_websocket.relay` calls.
"""

from __future__ import annotations

import contextlib
import enum
import http
import socket
import ssl
from collections.abc import Callable

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from constellation_websocket.tls import Tls

SUBPROTOCOL = Subprotocol("constellation.1")
HIGH = 1 << 20
READ = 1 << 18
LARGEST_MESSAGE = 1 << 20
"""Ours have `READ` bytes; a proxy may put some together."""
SILENCES = 3
CLOSING_S = 10.0
"""Seconds to wait for the answer to a close frame. The data before it arrives all the same: the kernel has it."""


class Phase(enum.Enum):
    """Where a stream is."""

    GREETING = enum.auto()
    """The handshakes go on: TLS where there is one, then HTTP."""
    OPEN = enum.auto()
    CLOSING = enum.auto()
    """Our close frame is on its way, or what the other side sent before its end goes to the local end."""
    OVER = enum.auto()


class Stream:
    """A connection; see the module.

    Args:
        net: The TCP connection; taken over.
        protocol: Of the side that this is.
        tls: Where TLS is spoken.
        path: Where a server is found; others get 404.
        ping_s: Seconds without sending after which a ping is sent; 0: never.
        now: Seconds.
        greeted: Called once when the handshakes are done, with the plain stream, or with the reason why not.
        door: What let it in; None where it was dialled.
    """

    def __init__(
        self,
        net: socket.socket,
        protocol: ClientProtocol | ServerProtocol,
        tls: Tls | None,
        path: str,
        ping_s: float,
        now: float,
        greeted: Callable[[socket.socket | OSError], None],
        door: object = None,
    ) -> None:
        net.setblocking(False)
        self.net = net
        self.local: socket.socket | None = None
        self.phase = Phase.GREETING
        self._protocol = protocol
        self._tls = tls
        self._path = path
        self._ping_s = ping_s
        self._greeted = greeted
        self.door = door
        self._out = bytearray()  # to the net
        self._inward = bytearray()  # to the local end
        self._leaves = False  # after `_out`, end our direction of the connection
        self._has_ended = False  # the net's other direction
        self._heard = self._sent = now
        self._deadline: float | None = None
        if isinstance(protocol, ClientProtocol):
            protocol.send_request(protocol.connect())
        self._collect()

    # What to wait for

    @property
    def reads_net(self) -> bool:
        """Whether to call `on_net` when the connection is readable."""
        return not self._has_ended and len(self._inward) < HIGH

    @property
    def writes_net(self) -> bool:
        """Whether to call `flush` when it is writable."""
        return bool(self._out)

    @property
    def reads_local(self) -> bool:
        """Whether to call `on_local` when the local end is readable."""
        return self.phase is Phase.OPEN and len(self._out) < HIGH

    @property
    def writes_local(self) -> bool:
        """Whether to call `flush` when it is writable."""
        return bool(self._inward)

    def next_deadline(self) -> float | None:
        """When to call `on_time`."""
        if self.phase is Phase.CLOSING:
            return self._deadline
        if self.phase is not Phase.OPEN or not self._ping_s:
            return None
        ping = self._sent + self._ping_s
        return min(ping, self._heard + SILENCES * self._ping_s) if self.reads_net else ping

    # What happens

    def on_net(self, now: float) -> None:
        """The connection is readable."""
        try:
            data = self.net.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._heard = now
        try:
            said = data if self._tls is None else self._tls.read(data)
        except ssl.SSLError as error:
            self._fail(error)
            return
        if said:
            self._protocol.receive_data(said)
        if not data:
            self._has_ended = True
            if self._protocol.state is not State.CLOSED:
                self._protocol.receive_eof()
        self._take_events()
        if self._protocol.state is not State.OPEN:  # what came was no WebSocket: the protocol has said so already
            self._begin_closing(now)
        self._collect()
        self.flush(now)
        if self._has_ended and self.phase is not Phase.OVER:
            self._lose(now)

    def on_local(self, now: float) -> None:
        """The local end is readable."""
        assert self.local is not None
        try:
            data = self.local.recv(READ)
        except BlockingIOError:
            return
        except OSError:  # it went with something unread in it
            data = b""
        if data:
            self._protocol.send_binary(data)
        else:
            self._inward.clear()
            self._protocol.send_close(1000)
            self._begin_closing(now)
            self._drop_local()
        self._collect()
        self.flush(now)

    def on_time(self, now: float) -> None:
        """A deadline has come."""
        silence = SILENCES * self._ping_s
        if self.phase is Phase.CLOSING and self._deadline is not None and now >= self._deadline:
            if self._out and (not silence or now < self._heard + silence + CLOSING_S):
                self._deadline = now + CLOSING_S  # slow, not gone: what was sent before the end goes first
            else:
                self._deadline = None
                self._lose(now)
        elif self.phase is Phase.OPEN and silence:
            if self.reads_net and now >= self._heard + silence:
                self._lose(now)
            elif now >= self._sent + self._ping_s:
                self._sent = now
                self._protocol.send_ping(b"")
                self._collect()
                self.flush(now)

    def flush(self, now: float) -> None:
        """Write what can be written, in both directions."""
        while self._out:
            try:
                count = self.net.send(memoryview(self._out)[: 4 * READ])
            except BlockingIOError:
                break
            except OSError:
                self._out.clear()
                self._leaves = False
                break
            del self._out[:count]
            self._sent = now
        if self._leaves and not self._out:
            self._leaves = False
            with contextlib.suppress(OSError):
                self.net.shutdown(socket.SHUT_WR)
        self._flush_inward(now)

    def _flush_inward(self, now: float) -> None:
        was_reading = self.reads_net
        while self._inward and self.local is not None:
            try:
                count = self.local.send(memoryview(self._inward)[: 4 * READ])
            except BlockingIOError:
                return
            except OSError:  # nobody reads there any more: `on_local` will be told
                self._inward.clear()
                if self.phase is not Phase.OPEN:
                    self._drop_local()
                break
            del self._inward[:count]
            if not was_reading:
                self._heard = now  # we did not listen until now: that nothing was heard says nothing
        if self.phase is not Phase.OPEN and not self._inward:
            self._drop_local()
            if self._has_ended:
                self.abandon()

    def abandon(self) -> None:
        """Let go of everything."""
        self.phase = Phase.OVER
        self._drop_local()
        self._out.clear()
        self._inward.clear()
        self.net.close()

    def refuse(self, error: OSError) -> None:
        """The handshakes take too long, or are not wanted any more."""
        if self.phase is Phase.GREETING:
            self.abandon()
            self._greeted(error)

    # How it is done

    def _take_events(self) -> None:
        protocol = self._protocol
        for event in protocol.events_received():
            if isinstance(event, Request):
                assert isinstance(protocol, ServerProtocol)
                if event.path != self._path:
                    protocol.send_response(protocol.reject(http.HTTPStatus.NOT_FOUND, "nothing is here\n"))
                else:
                    protocol.send_response(protocol.accept(event))
                if protocol.state is State.OPEN:
                    self._open()
            elif isinstance(event, Response):
                if protocol.state is State.OPEN:
                    self._open()
            elif isinstance(event, Frame):
                self._take_frame(event)
        if self.phase is Phase.GREETING and protocol.handshake_exc is not None:
            self._fail(protocol.handshake_exc)

    def _take_frame(self, frame: Frame) -> None:
        if frame.opcode in {Opcode.BINARY, Opcode.CONT}:
            if self.local is not None:
                self._inward += frame.data
        elif frame.opcode is Opcode.CLOSE:
            # The answer is queued already. What came before goes to the local end, which is then closed.
            self._begin_closing(self._heard)
        elif frame.opcode is Opcode.TEXT:
            self._protocol.fail(1003, "bytes are expected")

    def _open(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, READ)
        self.local = ours
        self.phase = Phase.OPEN
        self._greeted(theirs)

    def _collect(self) -> None:
        """Take what the protocol wants to send."""
        for data in self._protocol.data_to_send():
            if not data:
                self._leaves = True
                if self._tls is not None:
                    self._tls.leave()
            elif self._tls is None:
                self._out += data
            else:
                self._tls.write(data)
        if self._tls is not None:
            self._out += self._tls.to_send()

    def _begin_closing(self, now: float) -> None:
        if self.phase is Phase.OPEN:
            self.phase = Phase.CLOSING
            self._deadline = now + CLOSING_S

    def _lose(self, now: float) -> None:
        """Nothing comes any more, or nobody waits for it: what is here goes to the local end, and that is all."""
        if self.phase is Phase.GREETING:
            self._fail(self._protocol.handshake_exc or ConnectionError("the connection ended in the handshake"))
            return
        self._begin_closing(now)
        self._has_ended = True
        self._out.clear()
        self._flush_inward(now)

    def _fail(self, error: Exception) -> None:
        if self.phase is Phase.GREETING:
            self._collect()
            self.flush(self._heard)  # the words of a refusal
            self.abandon()
            self._greeted(error if isinstance(error, OSError) else ConnectionError(_words(error)))
        else:
            self._lose(self._heard)

    def _drop_local(self) -> None:
        if self.local is not None:
            self.local.close()
            self.local = None


def _words(error: Exception) -> str:
    response = getattr(error, "response", None)
    if isinstance(response, Response):
        return f"it answers with HTTP {response.status_code} {response.reason_phrase}: expected a WebSocket of constellation"
    return str(error) or type(error).__name__
