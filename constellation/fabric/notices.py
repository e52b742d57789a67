"""What a service manager (systemd, podman) is told of a daemon, by the protocol of sd_notify(3): datagrams of text.

The manager has started the keeper, and believes only that: with ``NotifyAccess=main`` no program that runs on the node can
say that the node is well, or has another main process. So the daemon tells its keeper over a socket pair, and the keeper
passes it on. The keeper waits for signals, and hears of a word by one: SIGIO. A daemon whose loop stands still says
nothing, and so the manager's watchdog sees that.

The variables are taken out of the environment: nothing that is started here is meant to speak to the manager.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from constellation.fabric.loop import Loop

_LOOK_S: Final = 1.0
"""How often it is looked whether the state is another one."""
_LARGEST: Final = 4096


class ManagerLine:
    """The keeper's side.

    Args:
        address: Of the manager's socket: a path, or ``@NAME`` of the abstract kind.

    Attributes:
        daemon_end: What the daemon writes to.
    """

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._ours, self.daemon_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self.daemon_end.setblocking(False)

    def begin(self) -> None:
        """Have SIGIO sent to this process, in which it must be blocked, for what the daemon says from now on."""
        self.daemon_end.close()
        fd = self._ours.fileno()
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)

    def pass_on(self) -> None:
        """Pass on what the daemon has said."""
        with contextlib.suppress(OSError):
            while text := self._ours.recv(_LARGEST):
                self._tell(text)

    def _tell(self, text: bytes) -> None:
        with contextlib.suppress(OSError):  # a manager that has gone, or does not read, changes nothing here
            self._sock.sendto(text, self._address)


class Notices:
    """The daemon's side.

    Args:
        loop: The daemon's loop.
        sock: To the keeper, whose end it takes over; None: there is no manager, and nothing is said.
        watchdog: Seconds within which the manager wants a sign of life; 0: none.
        status: Gives one line on how the daemon is.
    """

    def __init__(self, loop: Loop, sock: socket.socket | None, watchdog: float, status: Callable[[], str]) -> None:
        self._loop = loop
        self._sock = sock
        self._watchdog = watchdog
        self._status = status
        self._last = ""
        self._is_ready = False
        if sock is not None:
            # In the loop's first turn: while the daemon is being made it has no state.
            loop.call_later(0, self._look)
            if watchdog > 0:
                loop.call_later(0, self._sign)

    def ready(self) -> None:
        """It does what it is for."""
        if not self._is_ready:
            self._is_ready = True
            self._say("READY=1")

    def stopping(self) -> None:
        """It is about to end."""
        self._say("STOPPING=1")
        self.look()

    def look(self) -> None:
        """Tell the state, where it is another one than was told."""
        status = self._status().replace("\n", " ") if self._sock is not None else ""
        if status != self._last:
            self._last = status
            self._say(f"STATUS={status}")

    def _look(self) -> None:
        self._loop.call_later(_LOOK_S, self._look)
        self.look()

    def _sign(self) -> None:
        # sd_watchdog_enabled(3): "at half the specified time"
        self._loop.call_later(self._watchdog / 2, self._sign)
        self._say("WATCHDOG=1")

    def _say(self, text: str) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):  # the keeper has gone, or is stopped: no reason to end here
                self._sock.send(text.encode()[: _LARGEST - 1])


def take(environ: MutableMapping[str, str]) -> tuple[ManagerLine | None, float]:
    """Take what the manager has said out of the environment.

    Returns:
        The way to it, None where there is none, and the seconds within which it wants a sign of life, 0 for never.
    """
    address = environ.pop("NOTIFY_SOCKET", "")
    text, whose = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if address[:1] not in {"/", "@"}:
        return None, 0.0
    is_meant = text.isascii() and text.isdigit() and whose in {"", str(os.getpid())}
    return ManagerLine(address), int(text) / 1e6 if is_meant else 0.0
