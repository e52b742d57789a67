"""The one port of a daemon: accepts, reads the preamble, and passes on what proves to belong here.

Strangers may connect as they like: a connection that has not yet shown a right preamble costs a descriptor and a few
hundred bytes, there are at most `Limits.pending` of them, at most `Limits.pending_per_address` from one address, each for
at most ten seconds, and the oldest gives way to the newest. An honest peer sends its preamble with its first packet, so
it is never the oldest for long. Nothing is ever answered but a close.

Not a byte more than the preamble is read: what follows it is for whoever gets the socket.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

from constellation.core import preamble as packets
from constellation.core.address import Address
from constellation.core.errors import HandshakeError, UsageError
from constellation.core.preamble import PREAMBLE_BYTES, Preamble, Purpose, Replays
from constellation.fabric.journal import WARNING, Log
from constellation.fabric.loop import Loop, Timer

PREAMBLE_TIME: Final = 10.0
"""Seconds that a preamble may take; it comes with the first packet, once more if that one is lost."""

_BACKLOG = 1024
_ACCEPTS_PER_TURN = 64
_REST = 0.1
_SAID_ONCE_IN = 60.0
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


class Limits(NamedTuple):
    """How many connections may be without a preamble."""

    pending: int = 512
    """In all. A quarter of the descriptors that the process may have, where that is less."""
    pending_per_address: int = 64
    """From one IPv4 address, or from one IPv6 network of 64 bits, which is what one computer has."""


_DEFAULT_LIMITS = Limits()


class Entrance(Protocol):
    """Where connections come in: `TcpEntrance`, or a plugin's (`foreign.py`)."""

    @property
    def address(self) -> Address: ...

    def fileno(self) -> int: ...

    def accept(self) -> tuple[socket.socket, Address]: ...

    def close(self) -> None: ...


class TcpEntrance:
    """A listening socket.

    Args:
        listener: Of `listen`; taken over.
    """

    def __init__(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._listener = listener
        self.address = Address.of(listener.getsockname())

    def fileno(self) -> int:
        """Readable when `accept` gives something; -1 after `close`."""
        return self._listener.fileno()

    def accept(self) -> tuple[socket.socket, Address]:
        """Give the next connection, and who it is from.

        Raises:
            BlockingIOError: There is none now.
            OSError: It has gone already, or there is no descriptor for it.
        """
        sock, name = self._listener.accept()
        return sock, Address.of(name)

    def close(self) -> None:
        """Let nobody in any more."""
        self._listener.close()


class FrontDoor:
    """Accepts connections and gives away those with a right preamble.

    Args:
        loop: Where the listener is watched.
        listener: Of `listen`, or another entrance; taken over.
        keys: The key of each purpose that is served here.
        on_accepted: Called with the connection (non-blocking; it belongs to the callee), its preamble, and the peer's
            address as text. Whether the target is known here is the callee's to check: what it does not want it closes.
        log: Writes one line, without a newline at its end.
        limits: How many connections may be without a preamble.
    """

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket | Entrance,
        keys: Mapping[Purpose, bytes],
        on_accepted: Callable[[socket.socket, Preamble, str], None],
        log: Log,
        limits: Limits = _DEFAULT_LIMITS,
    ) -> None:
        self._loop = loop
        self._entrance = entrance = TcpEntrance(listener) if isinstance(listener, socket.socket) else listener
        self._keys = keys
        self._on_accepted = on_accepted
        self._log = log
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = max(1, min(limits.pending, soft // 4))
        self._most_per_address = limits.pending_per_address
        self._replays = Replays()
        self._pending: dict[int, _Visitor] = {}  # by descriptor, the oldest first
        self._by_origin: dict[str, dict[int, _Visitor]] = {}
        self._timer: Timer | None = None
        self._spare = _spare()
        self._short_until = float("-inf")
        self._rest: Timer | None = None
        self.refusals = RefusalLog(loop, log)
        self.address = entrance.address
        loop.watch(entrance.fileno(), self._accept_turn)

    @property
    def pending(self) -> int:
        """How many connections have not yet shown a preamble."""
        return len(self._pending)

    def close(self) -> None:
        """Listen no more, and close what has not shown a preamble. A second call does nothing."""
        if self._entrance.fileno() < 0:
            return
        self._loop.unwatch(self._entrance.fileno())
        self._entrance.close()
        for visitor in list(self._pending.values()):
            self._forget(visitor)
            visitor.sock.close()
        for timer in (self._timer, self._rest):
            if timer is not None:
                timer.cancel()
        self.refusals.close()
        if self._spare >= 0:
            os.close(self._spare)

    # Accepting

    def _accept_turn(self) -> None:
        """Accept some, so that a flood of connections does not keep the loop from its other work."""
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, address = self._entrance.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _OUT_OF_DESCRIPTORS:
                    continue  # this one has gone already (accept(2) tells of it here)
                if not self._make_room():
                    return
                continue
            self._receive(sock, address)

    def _make_room(self) -> bool:
        """No descriptor is left: give up a visitor, or else take the next connection with the spare one and close it."""
        now = self._loop.now()
        if now >= self._short_until:
            self._log(
                f"no descriptor is left for connections to {self.address}: they are closed until there is "
                "(ulimit -n, or LimitNOFILE of the service, raises the limit)",
                level=WARNING,
            )
        self._short_until = now + _SAID_ONCE_IN
        if self._pending:
            self._refuse(next(iter(self._pending.values())), "no descriptor was left, and it had said nothing yet")
            return True
        if self._spare >= 0:
            os.close(self._spare)
            try:
                self._entrance.accept()[0].close()
            except OSError:
                pass
        self._spare = _spare()
        if self._spare < 0:
            # Somebody else took it. The listener stays ready: it must not keep the loop awake.
            self._loop.unwatch(self._entrance.fileno())
            self._rest = self._loop.call_later(
                _REST, lambda: self._loop.watch(self._entrance.fileno(), self._accept_turn)
            )
        return self._spare >= 0

    def _receive(self, sock: socket.socket, address: Address) -> None:
        sock.setblocking(False)
        visitor = _Visitor(sock, sock.fileno(), address, self._loop.now() + PREAMBLE_TIME)
        here = self._by_origin.setdefault(visitor.origin, {})
        self._pending[visitor.fd] = here[visitor.fd] = visitor
        self._loop.watch(visitor.fd, lambda: self._read(visitor))
        self._read(visitor)  # most often it is there already
        if visitor.is_open:
            if len(here) > self._most_per_address:
                self._refuse(next(iter(here.values())), "too many others from there have said nothing yet")
            elif len(self._pending) > self._most:
                self._refuse(next(iter(self._pending.values())), "too many others have said nothing yet")
            self._arm()

    def _arm(self) -> None:
        if self._timer is None and self._pending:
            self._timer = self._loop.call_at(next(iter(self._pending.values())).deadline, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._timer = None
        now = self._loop.now()
        for visitor in list(self._pending.values()):
            if visitor.deadline > now:
                break
            self._refuse(visitor, f"{len(visitor.data)} bytes of its preamble came in {PREAMBLE_TIME:.0f} s")
        self._arm()

    # The preamble

    def _read(self, visitor: _Visitor) -> None:
        if not visitor.is_open:
            return
        try:
            data = visitor.sock.recv(PREAMBLE_BYTES - len(visitor.data))
        except BlockingIOError:
            return
        except OSError as error:
            self._refuse(visitor, f"the connection broke: {error.strerror}")
            return
        visitor.data += data
        if not data:
            self._refuse(visitor, f"it closed after {len(visitor.data)} bytes of a preamble")
            return
        if not packets.MAGIC.startswith(visitor.data[: len(packets.MAGIC)]):
            self._refuse(visitor, f"it does not speak our protocol: it began with {visitor.data[:8]!r}")
            return
        if len(visitor.data) < PREAMBLE_BYTES:
            return
        try:
            preamble = packets.unpack(visitor.data, self._keys)
            self._replays.admit(preamble, time.time())
        except HandshakeError as error:
            self._refuse(visitor, str(error))
            return
        self._forget(visitor)
        self._on_accepted(visitor.sock, preamble, str(visitor.address))

    def _refuse(self, visitor: _Visitor, reason: str) -> None:
        self._forget(visitor)
        visitor.sock.close()
        self.refusals.add(visitor.address, reason)

    def _forget(self, visitor: _Visitor) -> None:
        visitor.is_open = False
        self._loop.unwatch(visitor.fd)
        del self._pending[visitor.fd]
        here = self._by_origin[visitor.origin]
        del here[visitor.fd]
        if not here:
            del self._by_origin[visitor.origin]


class _Visitor:
    """A connection that has not yet shown its preamble."""

    __slots__ = ("address", "data", "deadline", "fd", "is_open", "origin", "sock")

    def __init__(self, sock: socket.socket, fd: int, address: Address, deadline: float) -> None:
        self.sock = sock
        self.fd = fd
        self.address = address
        self.deadline = deadline
        self.data = b""
        self.is_open = True
        number = address.number
        self.origin = address.host
        if number is not None and number.version == 6:
            self.origin = str(int(number) >> 64)


class RefusalLog:
    """Writes who was refused and why, without letting the refused fill the log.

    In ten seconds each host gets one line and all together get thirty-two; the rest is counted and told in one line at
    the end of them.
    """

    WINDOW: Final = 10.0
    MOST_LINES: Final = 32

    def __init__(self, loop: Loop, log: Log) -> None:
        self._loop = loop
        self._log = log
        self._hosts: dict[str, int] = {}
        self._others = 0
        self._timer: Timer | None = None
        self.count = 0
        """Of all so far."""

    def add(self, peer: Address, reason: str) -> None:
        """Somebody was refused."""
        self.count += 1
        count = self._hosts.get(peer.host)
        if count is not None:
            self._hosts[peer.host] = count + 1
        elif len(self._hosts) < self.MOST_LINES:
            self._hosts[peer.host] = 0
            self._log(f"refused a connection from {peer}: {reason}", level=WARNING, peer=str(peer))
        else:
            self._others += 1
        if self._timer is None:
            self._timer = self._loop.call_later(self.WINDOW, self._tell)

    def _tell(self) -> None:
        self._timer = None
        counts = sorted(((count, host) for host, count in self._hosts.items() if count), reverse=True)
        rest = sum(count for count, _ in counts) + self._others
        if rest:
            most = ", ".join(f"{host} ({count})" for count, host in counts[:5])
            where = f", most of them from {most}" if most else ""
            self._log(f"refused {rest} more connections in the last {self.WINDOW:.0f} s{where}", level=WARNING)
        self._hosts.clear()
        self._others = 0

    def close(self) -> None:
        """Tell what has not been told yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._tell()


def listen(address: Address) -> socket.socket:
    """Make a listening socket; of a name the first of its addresses that is this computer's.

    Returns:
        The socket, non-blocking; ``Address.of(sock.getsockname())`` says where it listens, which matters for port 0.

    Raises:
        UsageError: It cannot be; says why and what to do.
    """
    wrong = f"cannot listen on {address}"
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"{wrong}: the name {address.host!r} is not known here ({_text(error)})") from error
    last: OSError | None = None
    for family, kind, protocol, _, name in found:
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # `::` takes IPv4 connections too, as people expect of "all addresses".
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not address.is_any)
            sock.bind(name)
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            last = error
        else:
            return sock
    assert last is not None
    raise UsageError(f"{wrong}: {_why_not(address, last)}") from last


def _why_not(address: Address, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            show = f"ss -ltnp 'sport = :{address.port}'"
            return f"another program listens there ({show} shows which): end it, or choose another port"
        case errno.EADDRNOTAVAIL:
            return f"{address.host} is no address of this computer (ip address shows them; 0.0.0.0 means all)"
        case errno.EACCES:
            return "ports below 1024 are for root: choose another one"
        case _:
            return _text(error)


def _text(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _spare() -> int:
    """A descriptor to be given up when there is no other; -1 where there is none."""
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
