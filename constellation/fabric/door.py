"""The door of a fabric: where other terminals of the same user ask what is going on (core/door.py).

It listens from the fabric's start to its end. Who comes in is checked by the kernel's word, served one question after the
other, and sent away when it says nothing for long; so nobody can keep the fabric busy or take its descriptors.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Protocol

from constellation.core.door import DOOR, AskWhy, Describe, Description, End, Lines, Question, in_packets, name_of
from constellation.fabric.packets import Packets

if TYPE_CHECKING:
    from constellation.fabric.loop import Loop, Timer

MOST_GUESTS = 16
"""Connections at a time."""
SILENCE_S = 10.0
"""After this without a question a connection is closed."""
_TRY_AGAIN_S = 1.0
_CREDENTIALS = struct.Struct("3i")
"""pid, uid, gid, as SO_PEERCRED gives them."""


class Host(Protocol):
    """Who answers."""

    def describe(self, os_pid: int) -> Description: ...

    def explain_waits(self) -> list[str]: ...


class Door:
    """Listens for questions.

    Args:
        loop: The fabric's loop.
        host: Answers them.
        keeper: OS pid of the keeper, part of the name.
    """

    def __init__(self, loop: Loop, host: Host, keeper: int) -> None:
        self._loop = loop
        self._host = host
        self._guests: dict[Packets, Timer] = {}
        self._uid = os.geteuid()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._socket.bind("\0" + name_of(self._uid, keeper, os.urandom(8).hex()))
        self._socket.listen(4 * MOST_GUESTS)  # a crowd is sent away with a close, not left outside
        loop.watch(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            guest, _ = self._socket.accept()
        except BlockingIOError:
            return
        except OSError:
            # No descriptor is free, and who knocks goes on to be ready: look again later.
            self._loop.unwatch(self._socket.fileno())
            self._loop.call_later(_TRY_AGAIN_S, self._listen)
            return
        if peer_of(guest)[1] != self._uid or len(self._guests) >= MOST_GUESTS:
            guest.close()
            return
        packets = Packets(
            self._loop,
            guest,
            lambda question, fds: self._on_question(packets, question, fds),
            lambda _reason: self._send_away(packets),
            schema=DOOR,
        )
        self._guests[packets] = self._loop.call_later(SILENCE_S, lambda: self._send_away(packets))

    def _listen(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.watch(self._socket.fileno(), self._accept)

    def _on_question(self, guest: Packets, question: Question, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        self._guests.pop(guest).cancel()
        self._guests[guest] = self._loop.call_later(SILENCE_S, lambda: self._send_away(guest))
        match question:
            case Describe(os_pid):
                guest.send(self._host.describe(os_pid))
            case AskWhy():
                for lines in in_packets(self._host.explain_waits()):
                    guest.send(Lines(lines))
                guest.send(End())
            case _:
                self._send_away(guest)

    def _send_away(self, guest: Packets) -> None:
        timer = self._guests.pop(guest, None)
        if timer is not None:
            timer.cancel()
        guest.close()

    def close(self) -> None:
        """Close the door, and all connections. A second call does nothing."""
        if self._socket.fileno() >= 0:
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()
        for guest in list(self._guests):
            self._send_away(guest)


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """OS pid and uid of who made the other end of a Unix socket, by the kernel's word."""
    os_pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return os_pid, uid
