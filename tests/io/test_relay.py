"""The relay's streams over real connections: what comes leaves, ends are passed on as they came, nothing piles up."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import socket
import stat
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator

import pytest

from constellation.core.relaying import RELAY, Cut, Parted, Splice
from constellation.fabric import relay
from constellation.fabric.loop import Loop
from constellation.fabric.packets import Packets
from constellation.fabric.relay import PIPE, Pipes
from tests.io.security import PATIENCE_S, connected

RESET = struct.pack("ii", 1, 0)


class Joined:
    """Two connections that are joined by a relay, which runs in a thread: `left` and `right` are the outer ends."""

    def __init__(self, *, small: bool = False) -> None:
        self.loop = Loop()
        self.pipes = Pipes()
        listener = socket.create_server(("127.0.0.1", 0))
        if small:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 << 10)
        self.left, one = connected(listener)
        self.right, two = connected(listener)
        listener.close()
        for sock in (self.left, self.right):
            sock.settimeout(PATIENCE_S)
        self.reasons: list[str] = []
        self.parted = threading.Event()
        self._is_over = False
        self.link = relay.Link(self.loop, self.pipes, one, two, self._on_parted)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _on_parted(self, reason: str) -> None:
        self.reasons.append(reason)
        self.parted.set()

    def _run(self) -> None:
        while not self._is_over:
            self.loop.step(0.02)

    def close(self) -> None:
        """End it all."""
        self._is_over = True
        self._thread.join()
        self.link.cut()
        self.left.close()
        self.right.close()
        self.pipes.close()
        self.loop.close()


@pytest.fixture
def joined() -> Iterator[Joined]:
    """Two connections, joined."""
    made = Joined()
    yield made
    made.close()


def _receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            break
        data += more
    return data


def _digest_to_end(sock: socket.socket) -> tuple[int, str]:
    """How much comes until the end, and what it is."""
    count, digest = 0, hashlib.sha256()
    while data := sock.recv(1 << 20):
        count += len(data)
        digest.update(data)
    return count, digest.hexdigest()


def test_bulk_passes_both_ways_at_once(joined: Joined) -> None:
    """32 MiB in each direction, in pieces of all sizes."""
    results: dict[str, tuple[int, str]] = {}
    wanted: dict[str, str] = {}

    def send(sock: socket.socket, name: str, seed: int) -> None:
        chance, digest, left = random.Random(seed), hashlib.sha256(), 32 << 20
        block = chance.randbytes(1 << 20)
        while left:
            piece = block[: min(left, chance.choice((1, 100, 5000, 1 << 16, 1 << 20)))]
            sock.sendall(piece)
            digest.update(piece)
            left -= len(piece)
        wanted[name] = digest.hexdigest()
        sock.shutdown(socket.SHUT_WR)

    def read(sock: socket.socket, name: str) -> None:
        results[name] = _digest_to_end(sock)

    threads = [
        threading.Thread(target=send, args=(joined.left, "right", 1)),
        threading.Thread(target=send, args=(joined.right, "left", 2)),
        threading.Thread(target=read, args=(joined.left, "left")),
        threading.Thread(target=read, args=(joined.right, "right")),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {name: (32 << 20, digest) for name, digest in wanted.items()}
    assert joined.parted.wait(PATIENCE_S)
    assert joined.reasons == [""]


def test_who_closes_writing_can_still_read(joined: Joined) -> None:
    """Half of a connection is closed on the other side too, after all that was written."""
    joined.left.sendall(b"question")
    joined.left.shutdown(socket.SHUT_WR)
    assert _receive(joined.right, 100) == b"question"
    joined.right.sendall(b"answer")
    assert _receive(joined.left, 6) == b"answer"
    joined.right.close()
    assert joined.left.recv(1) == b""
    assert joined.parted.wait(PATIENCE_S)
    assert joined.reasons == [""]


def test_who_breaks_is_broken_on_the_other_side_after_what_it_had_sent(joined: Joined) -> None:
    """All values that had come are delivered; then it is a reset, not a close."""
    joined.left.sendall(b"x" * 100_000)
    assert _receive(joined.right, 50_000) == b"x" * 50_000
    joined.left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    _wait_until_acknowledged(joined.left)
    joined.left.close()
    assert _receive(joined.right, 50_000) == b"x" * 50_000
    with pytest.raises(ConnectionResetError):
        joined.right.recv(1)
    assert joined.parted.wait(PATIENCE_S)


def test_who_is_killed_with_something_unread_is_a_reset_too(joined: Joined) -> None:
    """As the kernel does it for a process that has died."""
    joined.right.sendall(b"unread")
    while not joined.left.recv(1, socket.MSG_PEEK):
        pass
    joined.left.close()
    with pytest.raises(ConnectionResetError):
        while True:
            joined.right.recv(1)
            joined.right.sendall(b"more")


def test_who_writes_to_one_that_has_gone_learns_it(joined: Joined) -> None:
    """What could not be delivered does not pass for delivered."""
    joined.left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    joined.left.close()
    with pytest.raises(OSError, match=r"reset|pipe"):
        while True:
            joined.right.sendall(b"x" * 65536)


def test_a_receiver_that_does_not_read_stops_its_sender() -> None:
    """The relay holds a pipe, and the kernel its buffers; the rest stays where it is, and nothing is lost."""
    made = Joined(small=True)
    try:
        made.left.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 256 << 20:
                sent += made.left.send(b"x" * 65536)
        assert sent < 32 << 20  # sockets' buffers, which the kernel sizes, and the pipe
        made.left.shutdown(socket.SHUT_WR)
        assert _digest_to_end(made.right)[0] == sent
    finally:
        made.close()


def test_one_that_is_stopped_does_not_keep_the_other_direction(joined: Joined) -> None:
    """Each direction has its own pipe and its own pace."""
    joined.left.settimeout(0.3)
    with pytest.raises(TimeoutError):
        while True:
            joined.left.send(b"x" * 65536)
    joined.left.settimeout(PATIENCE_S)
    joined.right.sendall(b"y" * 1_000_000)
    assert _receive(joined.left, 1_000_000) == b"y" * 1_000_000


def test_a_link_that_is_cut_is_a_reset_on_both_sides(joined: Joined) -> None:
    """Whatever was on its way."""
    joined.loop.call_later(0, joined.link.cut)
    for sock in (joined.left, joined.right):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert joined.parted.is_set()


def test_pipes_are_held_only_while_something_is_on_its_way(joined: Joined) -> None:
    """A link without traffic costs its two sockets."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        joined.left.sendall(b"1")
        assert joined.right.recv(1) == b"1"
        joined.right.sendall(b"2")
        assert joined.left.recv(1) == b"2"
    assert len(os.listdir("/proc/self/fd")) <= before + 4
    assert PIPE == 256 << 10


def test_the_relay_process_carries_what_it_is_told_and_ends_with_its_node() -> None:
    """As the daemon starts it: two sockets beside a message; ends are told."""
    loop = Loop()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(relay.command(theirs.fileno()), pass_fds=[theirs.fileno()])
    theirs.close()
    heard: list[object] = []
    node = Packets(loop, ours, lambda message, _fds: heard.append(message), lambda _reason: None, schema=RELAY)
    pairs = [connected() for _ in range(4)]
    try:
        for number in (1, 2):
            one, two = pairs[2 * number - 2][1], pairs[2 * number - 1][1]
            node.send(Splice(number), [one.fileno(), two.fileno()])
            one.close()
            two.close()
        for number in (1, 2):
            left, right = pairs[2 * number - 2][0], pairs[2 * number - 1][0]
            left.sendall(b"hello")
            assert _receive(right, 5) == b"hello"
        pairs[0][0].close()
        assert pairs[1][0].recv(1) == b""
        pairs[1][0].close()
        node.send(Cut(2))
        with pytest.raises(ConnectionResetError):
            pairs[2][0].recv(1)
        while len(heard) < 2:
            loop.step(PATIENCE_S)
        assert sorted(each.link for each in heard if isinstance(each, Parted)) == [1, 2]
    finally:
        node.close()
        assert process.wait(PATIENCE_S) == 0
        loop.close()
        for left, right in pairs:
            left.close()
            right.close()


def test_a_turn_that_ends_with_something_in_the_pipe_goes_on_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though the sender has sent all, so that nothing more comes that could wake this direction."""
    monkeypatch.setattr(relay, "_TURN", 1)
    splice = os.splice

    def half(source: int, target: int, count: int, **how: int) -> int:
        """A socket that has room for half of what it is given, which is how it may be."""
        is_out = stat.S_ISSOCK(os.fstat(target).st_mode)
        return splice(source, target, max(1, count // 2) if is_out else count, **how)

    monkeypatch.setattr(os, "splice", half)
    made = Joined()
    try:
        for size in (2, 1000, 100_000):
            made.left.sendall(b"x" * size)
            assert len(_receive(made.right, size)) == size
    finally:
        made.close()


def _wait_until_acknowledged(sock: socket.socket) -> None:
    """Wait until the other kernel has all."""
    while int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4), sys.byteorder):
        pass
