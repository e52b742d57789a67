"""Control connections: one message is one packet of a SOCK_SEQPACKET socket, descriptors beside it.

The fabric never blocks on a process: what does not fit into the socket waits in a bounded queue, and a peer that lets it
fill is cut off. A packet that is not a message cuts off its sender too, with the reason kept for its certificate.
"""

from __future__ import annotations

import os
import socket
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from constellation.core import messages
from constellation.core.schema import Schema
from constellation.fabric.loop import Loop

QUEUE_LIMIT = 4096
"""Packets that may wait for a peer that does not read: some MiB at most, since a packet seldom has more than 1 KiB."""

FULL = 64
"""Packets that wait when `is_full` becomes true: 4 MiB of output."""

_DESCRIPTORS_PER_PACKET = 8
_ANCILLARY = socket.CMSG_SPACE(_DESCRIPTORS_PER_PACKET * array("i").itemsize)
_PACKETS_PER_TURN = 64
# Plain numbers: arithmetic with enum members costs more than the call that they are for.
_RECEIVE_FLAGS = int(socket.MSG_CMSG_CLOEXEC)
_CUT_SHORT = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
_SEND_FLAGS = int(socket.MSG_NOSIGNAL)


class Packets:
    """The fabric's end of one control connection.

    Args:
        loop: Where the connection is watched.
        sock: The socket; taken over, made non-blocking.
        on_message: Called with each message and its descriptors, which then belong to the callee.
        on_end: Called once when the connection has ended by itself, with a reason where it is the peer's fault.
        schema: The messages that may travel here.
        on_room: Called when nothing waits any more, after `is_full`.
    """

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        on_message: Callable[[Any, list[int]], None],
        on_end: Callable[[str | None], None],
        *,
        schema: Schema = messages.CONTROL,
        on_room: Callable[[], None] | None = None,
    ) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._on_message = on_message
        self._on_end = on_end
        self._schema = schema
        self._on_room = on_room
        self._queue: deque[tuple[bytes, Sequence[int]]] = deque()
        self._was_reset = False
        self._is_paused = False
        self.is_open = True
        loop.watch(self._fd, self._read_turn)

    def send(self, message: Any, fds: Sequence[int] = ()) -> bool:
        """Send one message, now or when there is room.

        Args:
            message: What to send.
            fds: Descriptors to pass; they stay the caller's.

        Returns:
            Whether the connection is open and has taken the message.
        """
        if not self.is_open:
            return False
        packet = msgpack.packb(self._schema.fields_of(message))
        if not self._queue:
            try:
                self._put(packet, fds)
            except BlockingIOError:
                pass
            except OSError:
                # The reason, if any, is read by the reader: packets of the peer may still wait there.
                return False
            else:
                return True
        if len(self._queue) >= QUEUE_LIMIT:
            self._end(f"it did not read {QUEUE_LIMIT} control messages")
            return False
        self._queue.append((packet, [os.dup(fd) for fd in fds]))
        self._loop.watch_room(self._fd, self._flush)
        return True

    def _put(self, packet: bytes, fds: Sequence[int]) -> None:
        if fds:
            socket.send_fds(self._sock, [packet], list(fds), _SEND_FLAGS)
        else:
            self._sock.send(packet, _SEND_FLAGS)

    def _flush(self) -> None:
        while self._queue:
            packet, fds = self._queue[0]
            try:
                self._put(packet, fds)
            except BlockingIOError:
                return
            except OSError:
                self._forget_queue()
                break
            self._queue.popleft()
            for fd in fds:
                os.close(fd)
        self._loop.watch_room(self._fd, None)
        if self._on_room is not None:
            self._on_room()

    @property
    def is_full(self) -> bool:
        """Whether so much waits that who can wait should."""
        return len(self._queue) > FULL

    def _forget_queue(self) -> None:
        for _, fds in self._queue:
            for fd in fds:
                os.close(fd)
        self._queue.clear()

    def _read_turn(self) -> None:
        """Read some packets, so that a peer that floods does not keep the others waiting."""
        for _ in range(_PACKETS_PER_TURN):
            if not self.is_open or self._is_paused or not self._read_one():
                return

    def drain(self) -> None:
        """Read all that the peer has sent so far. For a peer that has ended: nothing new can come."""
        while self.is_open and self._read_one():
            pass

    def _read_one(self) -> bool:
        try:
            packet, ancillary, flags, _ = self._sock.recvmsg(messages.LARGEST_PACKET, _ANCILLARY, _RECEIVE_FLAGS)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            # It has ended with something unread. That is reported once, before what it had sent: which is read next.
            if not self._was_reset:
                self._was_reset = True
                return True
            self._end(None)
            return False
        except OSError:
            self._end(None)
            return False
        fds = array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        if not packet:
            _close_all(fds)
            self._end(None)
            return False
        try:
            if flags & _CUT_SHORT:
                raise ValueError("a packet or its descriptors did not fit")
            message = self._schema.read(msgpack.unpackb(packet))
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            _close_all(fds)
            self._end(f"it sent a malformed {self._schema.name}: {error}")
            return False
        self._on_message(message, list(fds))
        return True

    def _end(self, reason: str | None) -> None:
        if self.is_open:
            self.close()
            self._on_end(reason)

    def pause(self) -> None:
        """Read nothing until `resume`: the peer waits when the socket is full."""
        if self.is_open and not self._is_paused:
            self._is_paused = True
            self._loop.unwatch(self._fd)
            if self._queue:
                self._loop.watch_room(self._fd, self._flush)

    def resume(self) -> None:
        """Read again."""
        if self.is_open and self._is_paused:
            self._is_paused = False
            self._loop.watch(self._fd, self._read_turn)

    def close(self) -> None:
        """Close at once; `on_end` is not called. A second call does nothing."""
        if self.is_open:
            self.is_open = False
            self._forget_queue()
            self._loop.unwatch(self._fd)
            self._sock.close()


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
