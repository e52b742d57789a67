"""The relay: a process of the master's node that carries the bytes of links between nodes that can only dial out.

It is a process of its own because it may carry as much as two cores can, and the daemon's loop answers for leases: a thread
would share its interpreter, its descriptors and its end (docs/decisions/0014). The bytes do not come here: splice(2) moves them
from socket to pipe to socket inside the kernel. They would be of no use here either, they are encrypted from process to process.

Each direction of a link holds one pipe, and only while something is on its way; nothing is read before that has left. So a
receiver that does not read stops its sender, as it would without a relay, and memory is the kernel's: one pipe and the
sockets' buffers.

An end is passed on as it came. Who closes writing (FIN) has that passed on when all before it has left. When one side breaks
(its process is killed, its computer goes), what it had sent is delivered first; then the other side is reset, once its kernel
has acknowledged all. What the other side still sends is lost, as it would be.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import termios
from collections.abc import Callable
from typing import Final

import msgpack
import pluggy

from constellation.core.interpreter import preface
from constellation.core.relaying import RELAY, Cut, Parted, Splice
from constellation.fabric import alive
from constellation.fabric.books import close_fds
from constellation.fabric.loop import Loop
from constellation.fabric.packets import Packets

PIPE: Final = 256 << 10
"""Bytes that a direction holds at most. The kernel may allow less: then it is what it allows."""

DESCRIPTORS_EACH: Final = 6
"""Of a link in which both directions are busy: two sockets and two pipes."""

_TURN: Final = 1 << 20
"""Bytes that one direction moves before the others have their turn."""
_SPARE_PIPES: Final = 32
_RETRY_S: Final = 0.1
_FIRST_LOOK_S: Final = 0.01
_LAST_LOOK_S: Final = 1.0
_FLAGS: Final = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
_ENDS: Final = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN)
"""How it shows that a process has closed with something unread, or has been killed: the other one hears what it was."""
_RESET: Final = struct.pack("ii", 1, 0)
_COMMAND = """\
from constellation.fabric.relay import main
sys.exit(main(int(sys.argv[2])))
"""


class Pipes:
    """Empty pipes, to be used again."""

    def __init__(self) -> None:
        self._spare: list[tuple[int, int]] = []

    def take(self) -> tuple[int, int]:
        """An empty pipe: its read end and its write end.

        Raises:
            OSError: There is no descriptor left.
        """
        if self._spare:
            return self._spare.pop()
        pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, PIPE)
        except OSError:
            pass  # this user has many pipes: it stays as large as it is
        return pipe

    def give_back(self, pipe: tuple[int, int], *, is_empty: bool) -> None:
        """A pipe is not needed any more."""
        if is_empty and len(self._spare) < _SPARE_PIPES:
            self._spare.append(pipe)
        else:
            close_fds(list(pipe))

    def close(self) -> None:
        """Close what is spare."""
        for pipe in self._spare:
            close_fds(list(pipe))
        self._spare.clear()


class _Side:
    """One of the two connections of a link, and what the loop watches of it."""

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self._loop = loop
        self._reader: Callable[[], None] | None = None
        self._writer: Callable[[], None] | None = None

    def read_by(self, reader: Callable[[], None] | None) -> None:
        """Have a function called while there is something to read; None: no longer."""
        if (reader is None) == (self._reader is None):
            return
        self._reader = reader
        if reader is not None:
            self._loop.watch(self.fd, reader)
        else:
            self._loop.unwatch(self.fd)
            if self._writer is not None:
                self._loop.watch_room(self.fd, self._writer)

    def write_by(self, writer: Callable[[], None] | None) -> None:
        """Have a function called while there is room to write; None: no longer."""
        if (writer is None) != (self._writer is None):
            self._writer = writer
            self._loop.watch_room(self.fd, writer)

    def close(self, *, as_reset: bool) -> None:
        """Close; as a process that is killed closes, or as one that is done."""
        if self.fd >= 0:
            self._loop.unwatch(self.fd)
            if as_reset:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.sock.close()
            self.fd = -1

    @property
    def is_acknowledged(self) -> bool:
        """Whether the other kernel has all that was written here, or nobody is there to have it."""
        poll = select.poll()
        poll.register(self.fd, 0)
        if poll.poll(0):
            return True  # it is broken, or both directions are over
        return int.from_bytes(fcntl.ioctl(self.fd, termios.TIOCOUTQ, b"\0" * 4), sys.byteorder) == 0


class _Stream:
    """One direction of a link."""

    def __init__(self, link: Link, pipes: Pipes, loop: Loop, source: _Side, target: _Side) -> None:
        self.source = source
        self.target = target
        self.is_over = False
        self._link = link
        self._pipes = pipes
        self._loop = loop
        self._pipe: tuple[int, int] | None = None
        self._held = 0

    def begin(self) -> None:
        """Pass on what comes."""
        self.source.read_by(self.move)

    def move(self) -> None:
        """Move what is there, as far as there is room."""
        left = _TURN
        while left > 0 and not self.is_over:
            if not self._held:
                try:
                    got = self._take()
                except BlockingIOError:
                    self._release_pipe()
                    self.source.read_by(self.move)
                    return
                except OSError as error:
                    self._link.on_broken(self.source, error)
                    return
                if got is None:
                    return
                if not got:
                    self._link.on_end(self)
                    return
                self._held = got
            assert self._pipe is not None
            try:
                done = os.splice(self._pipe[0], self.target.fd, self._held, flags=_FLAGS)
            except BlockingIOError:
                self.source.read_by(None)
                self.target.write_by(self.move)
                return
            except OSError as error:
                self._link.on_broken(self.target, error)
                return
            self._held -= done
            left -= done
            if not self._held:
                self.target.write_by(None)
        if self.is_over:
            return
        if self._held:
            self.target.write_by(self.move)  # nothing more need come that would call this again
        else:
            self._release_pipe()
            self.source.read_by(self.move)

    def _take(self) -> int | None:
        """Take what has come into a pipe. None: there is no pipe now.

        Raises:
            OSError: As splice(2).
        """
        if self._pipe is None:
            try:
                self._pipe = self._pipes.take()
            except OSError:
                self.source.read_by(None)
                self._loop.call_later(_RETRY_S, self.move)
                return None
        return os.splice(self.source.fd, self._pipe[1], PIPE, flags=_FLAGS)

    def _release_pipe(self) -> None:
        if self._pipe is not None:
            self._pipes.give_back(self._pipe, is_empty=not self._held)
            self._pipe = None

    def end(self) -> None:
        """Pass nothing on any more; what is held is lost."""
        if not self.is_over:
            self.is_over = True
            self._release_pipe()
            self._held = 0
            if self.source.fd >= 0:
                self.source.read_by(None)
            if self.target.fd >= 0:
                self.target.write_by(None)


class Link:
    """Two connections that are joined.

    Args:
        loop: The relay's loop.
        pipes: Where pipes are taken from.
        one: A connection; taken over.
        two: The other; taken over.
        on_parted: Called once when both have ended, with what broke on the way; empty: the processes ended it.
    """

    def __init__(
        self, loop: Loop, pipes: Pipes, one: socket.socket, two: socket.socket, on_parted: Callable[[str], None]
    ) -> None:
        for sock in (one, two):
            sock.setblocking(False)
            alive.prepare(sock)
        self._loop = loop
        self._on_parted = on_parted
        self._reason = ""
        self._is_broken = False
        self._is_over = False
        self._sides = (_Side(loop, one), _Side(loop, two))
        first, second = self._sides
        self._streams = (_Stream(self, pipes, loop, first, second), _Stream(self, pipes, loop, second, first))
        for stream in self._streams:
            stream.begin()

    def on_end(self, stream: _Stream) -> None:
        """One side has closed writing, and all that it wrote has been passed on."""
        stream.end()
        if self._is_broken:
            self._pass_reset(stream.target)
            return
        try:
            stream.target.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.on_broken(stream.target, error)
            return
        if all(each.is_over for each in self._streams):
            self._part(as_reset=False)

    def on_broken(self, side: _Side, error: OSError) -> None:
        """One side cannot be written to, or read from, any more. What it had written before is still passed on."""
        from_it, to_it = self._streams if self._streams[0].source is side else self._streams[::-1]
        was_reading = not from_it.is_over and not self._is_broken
        self._is_broken = True
        if error.errno not in _ENDS:
            self._reason = self._reason or error.strerror or str(error)
        to_it.end()
        if was_reading:
            self._loop.call_later(0, from_it.move)  # it comes back here, or to `on_end`, when nothing is left
        else:
            from_it.end()
            self._pass_reset(from_it.target)

    def _pass_reset(self, side: _Side, wait: float = _FIRST_LOOK_S) -> None:
        """Reset a side when it has all that was passed on."""
        if self._is_over:
            return
        if side.is_acknowledged:
            self._part(as_reset=True)
        else:
            self._loop.call_later(wait, lambda: self._pass_reset(side, min(2 * wait, _LAST_LOOK_S)))

    def cut(self) -> None:
        """End at once, on both sides."""
        self._part(as_reset=True)

    def _part(self, *, as_reset: bool) -> None:
        if self._is_over:
            return
        self._is_over = True
        for stream in self._streams:
            stream.end()
        for side in self._sides:
            side.close(as_reset=as_reset)
        self._on_parted(self._reason)


class Relay:
    """All links, as the node tells.

    Args:
        loop: The loop.
        sock: To the node.
    """

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self.is_over = False
        self._loop = loop
        self._pipes = Pipes()
        self._links: dict[int, Link] = {}
        self._node = Packets(loop, sock, self._on_message, self._on_end, schema=RELAY)

    def _on_message(self, message: Splice | Cut | Parted, fds: list[int]) -> None:
        if isinstance(message, Splice):
            number = message.link
            if len(fds) == 2:
                one, two = (socket.socket(fileno=fd) for fd in fds)
                self._links[number] = Link(
                    self._loop, self._pipes, one, two, lambda reason: self._parted(number, reason)
                )
                return
            self._node.send(Parted(number, "the relay had no descriptor left for it"))
        elif isinstance(message, Cut) and message.link in self._links:
            self._links[message.link].cut()
        close_fds(fds)

    def _parted(self, number: int, reason: str) -> None:
        self._links.pop(number, None)
        self._node.send(Parted(number, reason))

    def _on_end(self, _reason: str | None) -> None:
        self.is_over = True


def main(node_fd: int) -> int:
    """Blocks. Carry what the node tells, until that has gone.

    Args:
        node_fd: Descriptor of the connection to the node.

    Returns:
        The exit code.
    """
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: nothing passes without the node
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the node says when it is over
    loop = Loop()
    sock = socket.socket(fileno=node_fd)
    sock.set_inheritable(False)
    relay = Relay(loop, sock)
    while not relay.is_over:
        loop.step(None)
    return 0


def command(node_fd: int) -> list[str]:
    """The command line of a relay: isolated, with this very copy of the package."""
    return [sys.executable, "-I", "-c", preface(msgpack, pluggy) + _COMMAND, "relay", str(node_fd)]
