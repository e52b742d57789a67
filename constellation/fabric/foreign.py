"""Transports of plugins that listen and dial themselves (`DiallingTransport`): the border between them and a daemon.

A URL is theirs to reach. What comes out is a connected stream, and from there on all is as for TCP: the preamble, the limits on
strangers, TLS between the peers. What they do takes a thread of ours, never the loop, and each step has a time limit, so one
that raises, hangs or answers nonsense costs that listening or that dialling and is named. What comes too late is closed.

Nothing here is made, and no plugin asked, before the first URL.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

from constellation.core.address import Address, parse_address
from constellation.core.errors import PluginError, UsageError
from constellation.core.finding import place_of_raise, scan
from constellation.fabric.aside import Aside

if TYPE_CHECKING:
    from constellation.core.contracts import DiallingTransport, Listener
    from constellation.core.plugins import Plugins
    from constellation.fabric.loop import Loop

LISTEN_TIME: Final = 10.0
"""Seconds that a transport may take to begin to listen."""

SLACK: Final = 1.0
"""Seconds beyond its time limit after which a `dial` that has not come back is given up: its own words are better."""

MOST_HANGING: Final = 32
"""Calls of one transport's `dial` that were given up and have not come back: beyond, it is not called any more."""

_ACCEPT_TIME: Final = 5.0
_MOST_WAITING = 64
_REST: Final = 0.1
_SAID_ONCE_IN: Final = 60.0
_USUAL: Final = {"ws": "websocket", "wss": "websocket"}
"""Plugins that are meant by a scheme which is not their name; for advice only."""

T = TypeVar("T")


class _Rubbish(Exception):
    """A transport has answered what its contract does not allow."""


class _Found(NamedTuple):
    """A transport that listens and dials itself."""

    transport: DiallingTransport
    plugin: str
    schemes: tuple[str, ...]


class ForeignTransports:
    """What the enabled plugins bring.

    Args:
        loop: The daemon's, or the client's.
        plugins: The enabled ones.
        command: What is started again with another plugin, for advice: ``node``, ``deploy``.
        log: Writes one line.

    Attributes:
        whose: Says who has them enabled, for advice.
    """

    def __init__(self, loop: Loop, plugins: Plugins, command: str, log: Callable[[str], None]) -> None:
        self.whose: Callable[[], str] = lambda: "this computer"
        self._loop = loop
        self._plugins = plugins
        self._command = command
        self._log = log
        self._found: dict[str, _Found] | None = None
        self._aside: Aside | None = None
        self._hanging: dict[str, int] = {}

    def named(self, address: Address) -> Address:
        """The same address, of a URL with the transport that it is for.

        Raises:
            UsageError: No enabled plugin has one for it; says which plugin it takes, and the command.
            PluginError: A plugin cannot be asked.
        """
        return address if not address.url else address._replace(transport=self._of(address).transport.name)

    def listen(self, address: Address) -> ForeignListener:
        """Blocks, for `LISTEN_TIME` at most. Let others in at a URL.

        Raises:
            UsageError: No enabled plugin has a transport for it, or the transport cannot listen there; says why.
            PluginError: The plugin is broken.
        """
        found = self._of(address)
        outcome: list[Any] = []

        def body() -> None:
            outcome.append(_outcome(lambda: found.transport.listen(_given(address, found))))

        thread = threading.Thread(target=body, name="constellation listen", daemon=True)
        thread.start()
        thread.join(LISTEN_TIME)
        wrong = f"cannot listen on {address}"
        if not outcome:
            raise PluginError(f"{wrong}: plugin {found.plugin!r} has not come back from listen in {LISTEN_TIME:g} s")
        listener = outcome[0]
        if isinstance(listener, BaseException):
            kind = UsageError if isinstance(listener, OSError) else PluginError
            raise kind(f"{wrong}: {_words(listener, found.plugin, 'listen')}") from listener
        try:
            return ForeignListener(self._loop, listener, self._address_of(listener, found), found.plugin, self._log)
        except _Rubbish as error:
            raise PluginError(f"{wrong}: plugin {found.plugin!r}: {error}") from error

    def dial(
        self,
        address: Address,
        timeout: float,
        on_connected: Callable[[socket.socket], None],
        on_failed: Callable[[str], None],
    ) -> Callable[[], None]:
        """Reach a URL, in a thread.

        Args:
            address: The URL.
            timeout: Seconds.
            on_connected: Called with the stream, non-blocking; it belongs to the callee.
            on_failed: Called with why not.

        Returns:
            What gives it up: then neither is called, and what still comes is closed.
        """
        call = _Call(on_connected, on_failed)
        try:
            found = self._of(address)
            name = found.transport.name
            if self._hanging.get(name, 0) >= MOST_HANGING:
                raise PluginError(f"plugin {found.plugin!r} has not come back from {MOST_HANGING} calls of dial")
        except (UsageError, PluginError) as error:
            text = str(error)  # the name is gone when the loop comes to it
            self._loop.call_later(0, lambda: call.fail(text))
            return call.cancel
        is_hanging = False

        def overdue() -> None:  # also where it was cancelled: the thread is there
            nonlocal is_hanging
            is_hanging = True
            self._hanging[name] = self._hanging.get(name, 0) + 1
            call.fail(f"plugin {found.plugin!r} has not come back from dial: its limit was {timeout:g} s")

        def came(outcome: Any) -> None:
            timer.cancel()
            if is_hanging:
                self._hanging[name] -= 1
            call.came(outcome, found.plugin)

        timer = self._loop.call_later(timeout + SLACK, overdue)
        if self._aside is None:
            self._aside = Aside(self._loop)
        given = _given(address, found)
        self._aside.run(lambda: _outcome(lambda: _stream(found.transport.dial(given, timeout), "dial")), came, came)
        return call.cancel

    def _of(self, address: Address) -> _Found:
        if self._found is None:
            self._found = {
                transport.name: _Found(cast("DiallingTransport", transport), plugin, _schemes(transport, plugin))
                for transport, plugin in self._plugins.transports()
                if hasattr(transport, "listen") and hasattr(transport, "dial")
            }
        for name, found in self._found.items():
            if address.transport == name or (
                not address.transport and address.scheme in {name.lower(), *found.schemes}
            ):
                return found
        raise UsageError(self._advice(address))

    def _advice(self, address: Address) -> str:
        meant = address.transport or _USUAL.get(address.scheme, "") or address.scheme
        enabled = ", ".join(self._plugins.names) or "none"
        if meant in self._plugins.names:
            return f"{address} is for no transport of {self.whose()} (enabled: {enabled}): plugin {meant!r} has none for it"
        text = f"{address} takes a plugin that {self.whose()} has not enabled (enabled: {enabled})"
        advice = f"{text}: start it with `constellation --plugin {meant} {self._command}`"
        return advice if meant in scan() else f"{advice}, after `pip install constellation-{meant}`"

    @staticmethod
    def _address_of(listener: Listener, found: _Found) -> Address:
        text = getattr(listener, "address", None)
        if not isinstance(text, str):
            raise _Rubbish(f"address of its listener is {text!r:.100}: expected text")
        try:
            address = parse_address(text if "://" in text else f"{found.transport.name}://{text}")
        except UsageError as error:
            raise _Rubbish(f"address of its listener: {error}") from error
        return address._replace(transport=found.transport.name)


class _Call:
    """One `dial` that goes on in a thread."""

    def __init__(self, on_connected: Callable[[socket.socket], None], on_failed: Callable[[str], None]) -> None:
        self._on_connected = on_connected
        self._on_failed = on_failed
        self._is_over = False

    def came(self, outcome: Any, plugin: str) -> None:
        """The thread has come back."""
        if isinstance(outcome, socket.socket):
            if self._is_over:
                outcome.close()
                return
            self._is_over = True
            self._on_connected(outcome)
        else:
            self.fail(_words(outcome, plugin, "dial"))

    def fail(self, text: str) -> None:
        """It has come to nothing."""
        if not self._is_over:
            self._is_over = True
            self._on_failed(text)

    def cancel(self) -> None:
        """Hear nothing of it any more."""
        self._is_over = True


class ForeignListener:
    """A plugin's listener, as a `FrontDoor` takes it. A thread of its own waits at it and calls `accept`.

    Args:
        loop: The daemon's.
        listener: The plugin's; taken over.
        address: Where it listens.
        plugin: Whose it is.
        log: Writes one line; called in the loop.
    """

    def __init__(
        self, loop: Loop, listener: Listener, address: Address, plugin: str, log: Callable[[str], None]
    ) -> None:
        for method in ("fileno", "accept", "close"):
            if not callable(getattr(listener, method, None)):
                raise _Rubbish(f"its listener {listener!r:.100} lacks {method}")
        self.address = address
        self._loop = loop
        self._listener = listener
        self._plugin = plugin
        self._log = log
        self._said: dict[str, float] = {}
        self._faults: deque[str] = deque()
        self._in_accept: float | None = None  # since when
        self._is_over = False
        self._streams: deque[tuple[socket.socket, Address]] = deque()
        self._has_room = threading.Event()
        # Counts what waits: readable while there is something.
        self._ready = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        threading.Thread(target=self._run, name="constellation accept", daemon=True).start()
        self._timer = loop.call_later(_ACCEPT_TIME, self._look)

    # In the loop

    def fileno(self) -> int:
        """Readable when `accept` gives something; -1 after `close`."""
        return -1 if self._is_over else self._ready

    def accept(self) -> tuple[socket.socket, Address]:
        """Give the next stream, non-blocking, and who it is from.

        Raises:
            BlockingIOError: There is none now.
        """
        os.eventfd_read(self._ready)
        stream = self._streams.popleft()
        self._has_room.set()
        return stream

    def close(self) -> None:
        """Let nobody in any more; the thread closes the plugin's listener. A second call does nothing."""
        if self._is_over:
            return
        self._is_over = True
        self._timer.cancel()
        os.eventfd_write(self._stop, 1)
        self._has_room.set()

    def _look(self) -> None:
        """Say what went wrong in the thread, and whether it hangs."""
        self._timer = self._loop.call_later(_ACCEPT_TIME, self._look)
        now = self._loop.now()
        since = self._in_accept
        if since is not None and now - since > _ACCEPT_TIME:
            self._say(f"plugin {self._plugin!r} does not come back from accept", now)
        while self._faults:
            self._say(self._faults.popleft(), now)

    def _say(self, text: str, now: float) -> None:
        if now - self._said.get(text, float("-inf")) >= _SAID_ONCE_IN:
            self._said = {each: when for each, when in self._said.items() if now - when < _SAID_ONCE_IN}
            self._said[text] = now
            self._log(f"nobody is let in at {self.address}: {text}")

    # In the thread

    def _run(self) -> None:
        while not self._is_over:
            try:
                self._wait()
                if not self._is_over and not self._take():
                    time.sleep(_REST)  # it was readable for nothing
            except BaseException as error:  # the border to foreign code
                if len(self._faults) < _MOST_WAITING:
                    self._faults.append(_words(error, self._plugin, "accept"))
                time.sleep(_REST)
        with contextlib.suppress(BaseException):
            self._listener.close()
        while self._streams:
            self._streams.popleft()[0].close()
        for fd in (self._stop, self._ready):  # here, so that no number is used again while this thread may use it
            os.close(fd)

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        fd = self._listener.fileno()
        if type(fd) is not int or fd < 0:
            raise _Rubbish(f"fileno of its listener is {fd!r:.100}: expected a descriptor")
        poll.register(fd, select.POLLIN)
        if (fd, select.POLLNVAL) in poll.poll():
            raise _Rubbish("the descriptor of its listener is closed")

    def _take(self) -> bool:
        """Take one stream in. False where there is none."""
        self._in_accept = time.monotonic()
        try:
            answer = cast("object", self._listener.accept())
        except BlockingIOError:
            return False
        finally:
            self._in_accept = None
        if not isinstance(answer, tuple) or len(cast("tuple[object, ...]", answer)) != 2:
            raise _Rubbish(f"accept returned {answer!r:.100}: expected a descriptor and an address")
        fd, text = cast("tuple[object, object]", answer)
        self._streams.append((_stream(fd, "accept"), _caller(text)))
        os.eventfd_write(self._ready, 1)
        while len(self._streams) >= _MOST_WAITING and not self._is_over:
            self._has_room.clear()
            if len(self._streams) >= _MOST_WAITING and not self._is_over:
                self._has_room.wait()
        return True


def _outcome(work: Callable[[], T]) -> T | BaseException:
    """What foreign code returned, or raised, whatever that is."""
    try:
        return work()
    except BaseException as error:  # the border to foreign code; there is nobody above in this thread
        return error


def _words(error: object, plugin: str, step: str) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    if isinstance(error, _Rubbish):
        return f"plugin {plugin!r}: {error}"
    if isinstance(error, BaseException):
        return f"plugin {plugin!r} failed in {step} at {place_of_raise(error)}: {type(error).__name__}: {error}"
    return f"plugin {plugin!r}: {step} returned {error!r:.100}"


def _given(address: Address, found: _Found) -> str:
    """What a transport is given of a URL."""
    is_stated = address.scheme in found.schemes or address.scheme != found.transport.name.lower()
    return address.url if is_stated else address.url.partition("://")[2]


def _schemes(transport: object, plugin: str) -> tuple[str, ...]:
    schemes = cast("object", getattr(transport, "schemes", ()))
    if isinstance(schemes, tuple):
        values = cast("tuple[object, ...]", schemes)
        texts = [each for each in values if isinstance(each, str)]
        if len(texts) == len(values):
            return tuple(texts)
    raise PluginError(f"plugin {plugin!r} offers a transport with schemes {schemes!r:.100}: expected a tuple of texts")


def _stream(fd: object, step: str) -> socket.socket:
    """A connected stream socket of what should be the descriptor of one.

    Raises:
        _Rubbish: It is none. It is not closed: who knows whose it is.
    """
    wrong = f"{step} returned {fd!r:.100}: expected the descriptor of a connected stream socket"
    try:
        if type(fd) is not int or not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise _Rubbish(wrong)
        sock = socket.socket(fileno=fd)
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) != socket.SOCK_STREAM:
            sock.detach()
            raise _Rubbish(wrong)
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.detach()
            raise _Rubbish(f"{wrong}, and this one listens")
    except (OSError, OverflowError) as error:
        raise _Rubbish(f"{wrong} ({error})") from error
    sock.setblocking(False)
    sock.set_inheritable(False)
    return sock


def _caller(text: object) -> Address:
    """Who came, by the transport's words; they count for the limits on strangers whatever they are."""
    try:
        return parse_address(str(text)[:200])
    except UsageError:
        return Address(f"{text!r:.100}", 0)
