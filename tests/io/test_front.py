"""The front door of a daemon, against strangers of every kind."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from constellation.core.address import Address, parse_address
from constellation.core.errors import UsageError
from constellation.core.preamble import PREAMBLE_BYTES, WINDOW, Preamble, Purpose
from constellation.fabric import front
from constellation.fabric.front import FrontDoor, Limits, listen
from constellation.fabric.loop import Loop
from tests.conftest import Leftovers
from tests.io.security import address_of, make_keys, make_preamble, run_until

LOOPBACK = parse_address("127.0.0.1:0")


class House:
    """A front door with what came of it."""

    def __init__(self, limits: Limits | None = None, keys: dict[Purpose, bytes] | None = None) -> None:
        self.loop = Loop()
        self.keys = keys or make_keys()
        self.accepted: list[tuple[socket.socket, Preamble, str]] = []
        self.lines: list[str] = []
        self.visitors: list[socket.socket] = []
        self.door = FrontDoor(
            self.loop,
            listen(LOOPBACK),
            self.keys,
            lambda *each: self.accepted.append(each),
            lambda line, **_about: self.lines.append(line),
            limits or Limits(),
        )

    def visit(self, data: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
        """Dial and say something; the door has not looked yet."""
        sock = socket.socket()
        sock.settimeout(5)
        sock.bind((source, 0))
        sock.connect(self.door.address[:2])
        sock.sendall(data)
        self.visitors.append(sock)
        return sock

    def run(self, done: Any, what: str) -> None:
        run_until(self.loop, done, what)

    def close(self) -> None:
        """Close everything."""
        self.door.close()
        for sock in [*self.visitors, *(each[0] for each in self.accepted)]:
            sock.close()
        self.loop.close()


@pytest.fixture
def house() -> Iterator[House]:
    """A door with the usual limits."""
    made = House()
    yield made
    made.close()


def is_closed(sock: socket.socket) -> bool:
    """Whether the other side has closed, and said nothing before."""
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True  # it had not read all that was sent


def test_who_belongs_here_is_let_in(house: House) -> None:
    """The callee gets the connection, what the preamble says, and where the peer is; not a byte after it was read."""
    visitor = house.visit(make_preamble(house.keys) + b"hello")
    house.run(lambda: house.accepted, "it is let in")
    sock, preamble, peer = house.accepted[0]
    assert preamble.purpose is Purpose.LINK
    assert peer == address_of(visitor)
    assert sock.recv(100) == b"hello"
    assert house.door.pending == 0
    assert house.lines == []


def test_a_preamble_may_come_in_pieces(house: House) -> None:
    """One byte at a time, as a network may cut it."""
    visitor = house.visit()
    for byte in make_preamble(house.keys) + b"!":
        visitor.sendall(bytes([byte]))
        house.loop.step(0.01)
    house.run(lambda: house.accepted, "it is let in")
    assert house.accepted[0][0].recv(10) == b"!"


def wrong_preambles(keys: dict[Purpose, bytes]) -> dict[str, bytes]:
    right = make_preamble(keys)
    return {
        "its proof is wrong": make_preamble(make_keys()),
        "served here are": make_preamble(keys, Purpose.DEPLOY),
        "wire version 99": right[:4] + b"\0\x63" + right[6:],
        "does not speak our protocol": b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        "began with b'\\x16\\x03\\x01": b"\x16\x03\x01" + bytes(200),
        "behind ours": make_preamble(keys, age=WINDOW + 10),
        "ahead of ours": make_preamble(keys, age=-WINDOW - 10),
    }


@pytest.mark.parametrize("words", wrong_preambles(make_keys()))
def test_who_does_not_belong_here_is_closed_and_logged(words: str) -> None:
    """With the peer's address and the reason in the log, and nothing for the peer."""
    keys = make_keys()
    house = House(keys={purpose: keys[purpose] for purpose in (Purpose.DAEMON, Purpose.LINK)})
    visitor = house.visit(wrong_preambles(keys)[words])
    house.run(lambda: house.lines, "it is refused")
    assert is_closed(visitor)
    assert house.lines[0].startswith(f"refused a connection from {address_of(visitor)}: ")
    assert words in house.lines[0]
    assert house.accepted == []
    house.close()


def test_a_preamble_that_is_sent_again_is_refused(house: House) -> None:
    """Somebody on the way has recorded it."""
    right = make_preamble(house.keys)
    house.visit(right)
    house.run(lambda: house.accepted, "the first is let in")
    again = house.visit(right)
    house.run(lambda: house.lines, "the second is refused")
    assert "used before" in house.lines[0]
    assert is_closed(again)
    assert len(house.accepted) == 1


def test_a_preamble_that_is_cut_short_is_refused(house: House) -> None:
    """The peer has closed before it was whole."""
    visitor = house.visit(make_preamble(house.keys)[:-1])
    visitor.shutdown(socket.SHUT_WR)
    house.run(lambda: house.lines, "it is refused")
    assert f"closed after {PREAMBLE_BYTES - 1} bytes" in house.lines[0]


def test_who_says_nothing_in_time_is_closed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether nothing comes or a byte now and then."""
    monkeypatch.setattr(front, "PREAMBLE_TIME", 0.3)
    slow, silent = house.visit(), house.visit()
    for byte in make_preamble(house.keys)[:-1]:
        try:
            slow.send(bytes([byte]))
        except OSError:
            break  # it is closed
        until = time.monotonic() + 0.01
        while time.monotonic() < until:
            house.loop.step(0.01)
    house.run(lambda: is_closed(slow) and is_closed(silent), "both are closed")
    assert house.door.pending == 0
    assert "bytes of its preamble came in" in house.lines[0]
    assert house.accepted == []


def test_one_address_cannot_keep_the_others_out() -> None:
    """Its own oldest connections give way to its newest; somebody else's stay."""
    house = House(Limits(pending=100, pending_per_address=10))
    other = house.visit(source="127.0.0.9")
    flood = [house.visit(source="127.0.0.1") for _ in range(40)]
    house.run(lambda: sum(map(is_closed, flood)) == 30, "the oldest are closed")
    assert house.door.pending == 11
    assert not any(map(is_closed, [*flood[30:], other]))
    other.setblocking(True)
    other.sendall(make_preamble(house.keys))
    house.run(lambda: house.accepted, "the other is let in")
    house.close()


def test_many_addresses_cannot_keep_the_others_out() -> None:
    """The oldest of all give way, and an honest peer is never that for long."""
    house = House(Limits(pending=50, pending_per_address=10))
    flood = [house.visit(source=f"127.0.0.{host}") for host in range(1, 21) for _ in range(10)]
    visitor = house.visit(make_preamble(house.keys), source="127.0.1.1")
    house.run(lambda: house.accepted, "the honest one is let in")
    house.run(lambda: sum(map(is_closed, flood)) == 150, "the oldest are closed")
    assert house.door.pending == 50
    assert house.accepted[0][2] == address_of(visitor)
    house.close()


def test_the_refused_do_not_fill_the_log(house: House) -> None:
    """A line for each host, then a count."""
    for number in range(300):
        house.visit(b"x", source=f"127.0.0.{1 + number % 3}")
    house.run(lambda: len(house.lines) == 3 and not house.door.pending, "all are refused")
    house.run(lambda: sum(map(is_closed, house.visitors)) == 300, "all are closed")
    house.door.close()
    assert len(house.lines) == 4
    assert house.lines[3].startswith("refused 297 more connections")
    assert "127.0.0.2 (99)" in house.lines[3]


def test_a_daemon_without_descriptors_says_so_once_and_goes_on(leftovers: Leftovers) -> None:
    """It closes what it cannot take, sleeps in between, and takes connections when there are descriptors again."""
    program = """
        import os, resource, socket, time
        from tests.io.test_front import House
        from tests.io.security import make_preamble
        house = House()
        dialled = [socket.socket() for _ in range(30)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        held = []
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        for sock in dialled[:20]:
            sock.settimeout(5)
            sock.connect(house.door.address[:2])
            house.loop.step(0.05)
        # Closed, not left in the queue; and no line for each.
        assert [sock.recv(1) for sock in dialled[:20]] == [b""] * 20
        before = time.process_time()
        house.loop.step(0.3)
        assert time.process_time() - before < 0.2
        print("\\n".join(house.lines))
        for fd in held[:10]:
            os.close(fd)
        dialled[20].settimeout(5)
        dialled[20].connect(house.door.address[:2])
        dialled[20].sendall(make_preamble(house.keys))
        house.run(lambda: house.accepted, "there is a descriptor again")
        house.close()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**leftovers.environment, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no descriptor is left") == 1
    assert "ulimit -n" in done.stdout


def test_closing_the_door_closes_who_waits(house: House) -> None:
    """And leaves no descriptor."""
    before = len(os.listdir("/proc/self/fd"))
    visitor = house.visit()
    house.run(lambda: house.door.pending, "somebody waits")
    house.door.close()
    house.door.close()
    assert is_closed(visitor)
    visitor.close()
    assert len(os.listdir("/proc/self/fd")) == before - 2  # the listener and the spare one


FLOODER = """
    import resource, socket, sys
    count, port, slow = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "slow"
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 50, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    socks = []
    for number in range(count):
        sock = socket.socket()
        sock.bind((f"127.0.{2 + number % 5}.{1 + number % 40}", 0))
        sock.connect(("127.0.0.1", port))
        socks.append(sock)
        if number % 1000 == 999 and slow:
            for sock in socks:
                try:
                    sock.send(b"C")
                except OSError:
                    pass
    print("all there", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["half-open", "slow"])
@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_flood_uses_up_neither_descriptors_nor_memory(count: int, how: str, leftovers: Leftovers) -> None:
    """Thousands say nothing, or a byte now and then; meanwhile honest peers are let in."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < count + 50:
        pytest.skip(f"the limit of open files does not allow {count} connections")
    house = House()
    house.visit(make_preamble(house.keys))
    house.run(lambda: house.accepted, "an honest one is let in before")
    descriptors, memory = len(os.listdir("/proc/self/fd")), _memory()
    flooder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(FLOODER), str(count), str(house.door.address.port), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=leftovers.environment,
    )
    assert flooder.stdout is not None
    assert flooder.stdin is not None
    os.set_blocking(flooder.stdout.fileno(), False)
    most = 0
    said = None
    deadline = time.monotonic() + 90
    while not said:
        assert time.monotonic() < deadline
        house.loop.step(0.05)
        most = max(most, house.door.pending)
        said = flooder.stdout.read()
    house.visit(make_preamble(house.keys))
    house.run(lambda: len(house.accepted) == 2, "an honest one is let in meanwhile")
    assert most <= 512
    assert len(os.listdir("/proc/self/fd")) < descriptors + 520
    assert _memory() - memory < 16 << 20
    assert len(house.lines) < 40
    flooder.stdin.close()
    flooder.wait(20)
    flooder.stdout.close()
    house.run(lambda: not house.door.pending, "all are gone")
    house.close()


def _memory() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_any_bytes_are_refused() -> None:
    """Whatever is said, in whatever pieces: a close, a line, and no exception."""
    house = House()

    @given(st.lists(st.binary(min_size=1, max_size=150), min_size=1, max_size=3), st.booleans())
    @examples(max_examples=60)
    def check(pieces: list[bytes], begins_right: bool) -> None:
        data = (b"CSTL" if begins_right else b"") + b"".join(pieces)
        visitor = house.visit(data)
        visitor.shutdown(socket.SHUT_WR)
        house.run(lambda: is_closed(visitor), "it is closed")
        visitor.close()

    check()
    assert house.accepted == []
    assert house.door.pending == 0
    house.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("127.0.0.1:{port}", "another program listens there (ss -ltnp 'sport = :{port}' shows which)"),
        ("192.0.2.1:0", "192.0.2.1 is no address of this computer"),
        ("no-such-name.invalid:0", "is not known here"),
    ],
)
def test_where_one_cannot_listen_is_said(text: str, words: str) -> None:
    """With what to do."""
    with listen(LOOPBACK) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError) as caught:
            listen(parse_address(text.format(port=port)))
    assert words.format(port=port) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "dialled"), [("[::]:0", "127.0.0.1"), ("[::1]:0", "::1"), ("localhost:0", "localhost")]
)
def test_both_families_are_listened_on(text: str, dialled: str) -> None:
    """`::` takes IPv4 too, whose peers are then shown as IPv4."""
    try:
        listener = listen(parse_address(text))
    except UsageError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with listener:
        port = Address.of(listener.getsockname()).port
        with socket.create_connection((dialled, port), timeout=5) as sock:
            listener.setblocking(True)
            accepted, name = listener.accept()
            accepted.close()
            assert str(Address.of(name)) == str(Address.of(sock.getsockname()))
