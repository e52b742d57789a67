"""The client of a bridge: deploys a program, shows what comes back, passes on what is typed; or asks one question.

It ends with the deployment's exit code. When the connection breaks it dials again for a while and goes on where it was:
a bridge that is started again has kept what had come.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from constellation.core import events, trunk
from constellation.core.address import Address
from constellation.core.errors import ConstellationError, DeployError, UsageError
from constellation.core.output import Renderer
from constellation.core.preamble import Purpose
from constellation.core.role import BRIDGE, Role, check_role
from constellation.fabric.conduit import Conduit
from constellation.fabric.dialling import Dial
from constellation.fabric.loop import Loop
from constellation.fabric.signals import Signals
from constellation.fabric.writer import Writer, are_joined, wants_colour

if TYPE_CHECKING:
    from constellation.fabric.credential import DeployerCredential
    from constellation.fabric.foreign import ForeignTransports

WRONG_USE: Final = 2
UNREACHABLE: Final = 3
REFUSED: Final = 4
INTERRUPTED: Final = 130

FORMING_S: Final = 10.0
"""How long to wait for a fabric that is still forming."""
_REJOIN_S: Final = 30.0
_RETRY_S: Final = 0.2
_STDIN_WINDOW: Final = 1 << 20
"""Bytes of stdin that are on their way at a time."""
_READ_EACH: Final = 64
"""Events after which the bridge is told that they have been shown."""
_CLOSE_S: Final = 1.0
_WORDS: Final = 3
_PIECES_AT_A_TIME: Final = 16


class Unreachable(ConstellationError):
    """The bridge cannot be reached, or refused; which step failed stands in the text."""


class Connection:
    """A connection to a bridge, made again when it breaks.

    Args:
        loop: The client's loop.
        address: Of the bridge.
        credential: The person's.
        on_open: Called whenever the bridge is there.
        on_message: Called with each message.
        on_lost: Called when it cannot be reached for too long, with why.
        foreign: Reaches a bridge whose address is a URL.
    """

    def __init__(
        self,
        loop: Loop,
        address: Address,
        credential: DeployerCredential,
        on_open: Callable[[], None],
        on_message: Callable[[trunk.ClientMessage], None],
        on_lost: Callable[[str], None],
        foreign: ForeignTransports | None = None,
    ) -> None:
        self._loop = loop
        self._foreign = foreign
        self._address = address
        self._credential = credential
        self._on_open = on_open
        self._on_message = on_message
        self._on_lost = on_lost
        self._conduit: Conduit | None = None
        self._give_up_at = loop.now() + FORMING_S
        self._dial()

    def _dial(self) -> None:
        key = self._credential.preamble_keys[Purpose.DEPLOY]
        Dial(self._loop, self._address, Purpose.DEPLOY, key, self._connected, self._failed, foreign=self._foreign)

    def _connected(self, sock: socket.socket) -> None:
        self._conduit = Conduit(
            self._loop,
            sock,
            self._credential.context(),
            server=False,
            read=trunk.CLIENT.read,
            fields_of=trunk.CLIENT.fields_of,
            on_ready=self._ready,
            on_message=self._came,
            on_end=self._failed,
            label=f"the bridge at {self._address}",
        )

    def _ready(self, role: Role) -> None:
        check_role(role, BRIDGE)
        self._on_open()

    def _came(self, message: trunk.ClientMessage) -> None:
        self._give_up_at = self._loop.now() + _REJOIN_S
        self._on_message(message)

    def _failed(self, text: str) -> None:
        self._conduit = None
        if self._loop.now() > self._give_up_at:
            self._on_lost(text)
        else:
            self._loop.call_later(_RETRY_S, self._dial)

    @property
    def is_full(self) -> bool:
        """Whether more should wait."""
        return self._conduit is None or self._conduit.is_full

    def send(self, message: trunk.ClientMessage) -> None:
        """Send a message, if the bridge is there."""
        if self._conduit is not None:
            self._conduit.send(message)

    def pause(self, *, is_paused: bool) -> None:
        """Take nothing more for now, so that the bridge waits; or go on."""
        if self._conduit is not None and is_paused:
            self._conduit.pause()
        elif self._conduit is not None:
            self._conduit.resume()

    def close(self) -> None:
        """Blocks. Close it, when what was sent has left; for a second at most."""
        conduit, self._conduit = self._conduit, None
        if conduit is not None:
            conduit.close(after_flush=True)
            until = self._loop.now() + _CLOSE_S
            while conduit.is_open and self._loop.now() < until:
                self._loop.step(_RETRY_S)


class Client:
    """Runs one deployment, or watches one, until its end.

    Args:
        loop: The client's loop.
        address: Of the bridge.
        credential: The person's.
        form: How events are shown: human, json, raw.
        specification: What to run; None: attach to what runs.
        chunk: Gives a chunk of the files.
        deployment: What to attach to.
        is_detached: Whether the deployment goes on without this client.
        is_following: Whether to show what is still to come.
        foreign: Reaches a bridge whose address is a URL.
    """

    def __init__(
        self,
        loop: Loop,
        address: Address,
        credential: DeployerCredential,
        form: str,
        *,
        specification: trunk.Specification | None = None,
        chunk: Callable[[bytes], bytes] | None = None,
        deployment: bytes = b"",
        is_detached: bool = False,
        is_following: bool = True,
        foreign: ForeignTransports | None = None,
    ) -> None:
        self._loop = loop
        self._specification = specification
        self._chunk = chunk
        self._deployment = deployment
        self._is_detached = is_detached
        self._is_following = is_following
        self._is_named = specification is None
        self._shown = 0
        self._told = 0
        self._code: int | None = None
        self._failure = ""
        self._interrupts: list[int] = []
        self._typed_bytes = 0
        self._stdin_is_open = False
        self._chunks: deque[bytes] = deque()
        self._is_sending = False
        self._signals = Signals(loop)
        self._renderer = Renderer(form, colour=wants_colour(), joined=are_joined())
        self._writer = Writer({1: 1, 2: 2, _WORDS: 2})
        loop.watch(self._writer.wake_fd, self._on_writer)
        self._connection = Connection(loop, address, credential, self._open, self._on_message, self._lost, foreign)

    def run(self) -> int:
        """Blocks. Until the deployment has ended, or cannot be followed any more.

        Returns:
            The exit code.
        """
        while self._code is None:
            self._loop.step(None)
            for number in self._signals.take():
                self._on_signal(number)
        self._put(self._renderer.finish(0.0))
        self._connection.close()
        if self._failure:
            self._writer.put([(_WORDS, f"constellation: {self._failure}\n".encode())])
        while not self._writer.close(0.05):
            if self._signals.take() & {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}:
                break
        return self._code

    # The connection

    def _open(self) -> None:
        if self._is_named:
            is_lasting = self._specification is not None and not self._is_detached
            self._connection.send(trunk.Attach(self._deployment, self._shown, is_lasting, self._is_following))
            for number in self._interrupts:
                self._connection.send(trunk.Interrupt(self._deployment, number))
        else:
            self._deploy()

    def _deploy(self) -> None:
        self._is_sending = False
        self._chunks.clear()
        assert self._specification is not None
        self._connection.send(trunk.Deploy(0, list(self._specification), self._is_detached))

    def _lost(self, text: str) -> None:
        self._fail(text, UNREACHABLE)

    def _fail(self, text: str, code: int) -> None:
        self._failure = text
        self._code = code

    def _on_message(self, message: trunk.ClientMessage) -> None:
        match message:
            case trunk.Event(_, number, fields, _, _):
                self._event(number, events.check(fields))
            case trunk.Ended():
                if self._code is None and not self._is_following:
                    self._code = 0
            case trunk.Accepted(_, name):
                self._accepted(name)
            case trunk.Missing(digests):
                self._is_sending = True
                self._chunks.extend(bytes(digest) for digest in digests)
                self._send_chunks()
            case trunk.Refusal(_, text, code):
                self._fail(text, code)
            case _:
                pass

    def _accepted(self, name: bytes) -> None:
        self._deployment, self._is_named = name, True
        if self._is_detached:
            self._writer.put([(1, f"{name.hex()[:12]}\n".encode())])
            self._code = 0
            return
        for number in self._interrupts:
            self._connection.send(trunk.Interrupt(name, number))
        self._open_stdin()

    def _send_chunks(self) -> None:
        """Some at a time, so that Ctrl-C is heard meanwhile."""
        assert self._chunk is not None
        if not self._is_sending:  # the connection is another one
            return
        for _ in range(_PIECES_AT_A_TIME):
            if not self._chunks or self._connection.is_full:
                break
            digest = self._chunks.popleft()
            try:
                self._connection.send(trunk.Chunk(b"", digest, self._chunk(digest)))
            except DeployError as error:
                self._fail(str(error), REFUSED)
                return
        if self._chunks:
            self._loop.call_later(0.001 if self._connection.is_full else 0, self._send_chunks)
        else:
            self._deploy()

    def _event(self, number: int, fields: list[Any]) -> None:
        if number == 0:  # the bridge's own word, beside the events
            self._put(events.render(self._renderer, fields))
            return
        if number <= self._shown:
            return
        self._shown = number
        if fields[0] == "code":
            self._code = fields[1]
        elif fields[0] == "took":
            self._typed_bytes -= fields[1]
            self._read_more()
        else:
            self._put(events.render(self._renderer, fields))
            self._arm()
        if number - self._told >= _READ_EACH or fields[0] == "code":
            self._told = number
            self._connection.send(trunk.Read(self._deployment, number))

    # Output

    def _put(self, chunks: list[tuple[int, bytes]]) -> None:
        if chunks:
            self._writer.put(chunks)
            if self._writer.is_full:
                self._connection.pause(is_paused=True)

    def _arm(self) -> None:
        """A part of a line is shown a little later; by this computer's clock, for the events have their nodes' clocks."""
        if self._renderer.next_deadline() is not None:
            self._loop.call_later(0.05, lambda: self._put(self._renderer.tick(float("inf"))))

    def _on_writer(self) -> None:
        try:
            os.eventfd_read(self._writer.wake_fd)
        except BlockingIOError:
            return
        self._connection.pause(is_paused=False)
        failure = self._writer.failure
        if failure is not None and not self._interrupts:
            self._interrupt(signal.SIGTERM)
            broken = self._writer.is_broken_pipe
            self._fail("" if broken else f"cannot write the output: {failure.strerror}", 141 if broken else 1)

    # Input

    def _on_signal(self, number: int) -> None:
        if number in {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}:
            self._interrupt(number)
        elif number == signal.SIGQUIT and self._is_named:
            self._connection.send(trunk.Question(0, "why", self._deployment.hex(), ""))

    def _interrupt(self, number: int) -> None:
        self._interrupts.append(number)
        if not self._is_following or self._specification is None:
            self._code = INTERRUPTED if number == signal.SIGINT else 128 + number
        elif self._is_named:
            self._connection.send(trunk.Interrupt(self._deployment, number))
        else:
            self._code = INTERRUPTED if number == signal.SIGINT else 128 + number

    def _open_stdin(self) -> None:
        try:
            kind = os.fstat(0).st_mode
        except OSError:
            kind = 0
        if not kind or (stat.S_ISCHR(kind) and not os.isatty(0)):
            self._connection.send(trunk.Typed(self._deployment, b""))
            return
        self._stdin_is_open = True
        self._read_more()

    def _read_more(self) -> None:
        if not self._stdin_is_open or self._typed_bytes >= _STDIN_WINDOW:
            return
        if stat.S_ISREG(os.fstat(0).st_mode):  # epoll takes no files, and they never wait
            self._read_stdin()
        else:
            self._loop.watch(0, self._read_stdin)

    def _read_stdin(self) -> None:
        is_file = stat.S_ISREG(os.fstat(0).st_mode)
        try:
            data = os.read(0, 64 << 10)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._connection.send(trunk.Typed(self._deployment, data))
        self._typed_bytes += len(data)
        if not data:
            self._stdin_is_open = False
        if (not data or self._typed_bytes >= _STDIN_WINDOW) and not is_file:
            self._loop.unwatch(0)
        elif is_file and data:
            self._loop.call_later(0, self._read_more)


class Questioner:
    """Asks the bridge one question.

    Args:
        loop: The client's loop.
        address: Of the bridge.
        credential: The person's.
        foreign: Reaches a bridge whose address is a URL.
    """

    def __init__(
        self,
        loop: Loop,
        address: Address,
        credential: DeployerCredential,
        foreign: ForeignTransports | None = None,
    ) -> None:
        self._loop = loop
        self._foreign = foreign
        self._address = address
        self._credential = credential

    def ask(
        self, kind: str, argument: str = "", *, limit_s: float | None = None, within_s: float | None = None
    ) -> list[list[Any]]:
        """Blocks. Ask, and give the rows of the answer.

        Args:
            kind: What to ask.
            argument: About what.
            limit_s: How long to wait for the answer of a bridge that is there; None: as long as it takes.
            within_s: How long to wait in all, for a fabric that is still forming too; None: as long as for any client.

        Raises:
            Unreachable: There is no answer; says which step failed.
            UsageError: What was asked about is not there.
            ConstellationError: The answer is no.
        """
        found: list[Any] = []

        def came(message: trunk.ClientMessage) -> None:
            if isinstance(message, trunk.Answer | trunk.Refusal):
                found.append(message)

        def ask() -> None:
            connection.send(trunk.Question(0, kind, argument, ""))
            if limit_s is not None:
                silent = f"the bridge at {self._address} is there, and did not answer within {limit_s:g} s: is the master stopped?"
                self._loop.call_later(limit_s, lambda: found.append(Unreachable(silent)))

        connection = Connection(
            self._loop,
            self._address,
            self._credential,
            ask,
            came,
            lambda text: found.append(Unreachable(text)),
            self._foreign,
        )
        if within_s is not None:
            late = f"no answer from the bridge at {self._address} within {within_s:g} s"
            self._loop.call_later(within_s, lambda: found.append(Unreachable(late)))
        while not found:
            self._loop.step(None)
        connection.close()
        answer = found[0]
        if isinstance(answer, Unreachable):
            raise answer
        if isinstance(answer, trunk.Refusal):
            raise (UsageError if answer.code == WRONG_USE else ConstellationError)(answer.text)
        rows: list[list[Any]] = answer.rows
        return rows
