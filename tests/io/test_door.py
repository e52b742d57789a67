"""The door of a fabric: only the same user is let in, and whatever comes in does not harm the deployment."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from constellation.core.door import DOOR, AskWhy, Describe
from constellation.fabric.asking import NoAnswer, Visit, doors
from constellation.fabric.door import MOST_GUESTS
from tests.conftest import Leftovers

PROGRAM = """
from constellation import init
init()
print("ready")
input()
"""


class Running:
    """A program that runs, and the name of its door."""

    def __init__(self, program: subprocess.Popen[str]) -> None:
        self.program = program

    @property
    def name(self) -> str:
        """Of the door."""
        deadline = time.monotonic() + 20
        while not (found := [name for keeper, name in doors() if keeper == self.program.pid]):
            assert time.monotonic() < deadline
        return found[0]

    def guest(self) -> socket.socket:
        """A connection to the door."""
        guest = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        guest.settimeout(20)
        guest.connect("\0" + self.name)
        return guest


@pytest.fixture
def running(tmp_path: Path, leftovers: Leftovers) -> Iterator[Running]:
    """Give a deployment; afterwards it must still be there and go on."""
    (tmp_path / "prog.py").write_text(PROGRAM)
    program = subprocess.Popen(
        [sys.executable, "prog.py"],
        cwd=tmp_path,
        env=leftovers.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    try:
        while "ready" not in program.stdout.readline():
            assert program.poll() is None
        yield Running(program)
        with Visit(Running(program).name) as visit:
            assert visit.describe(program.pid).holds
        output, errors = program.communicate("\n", timeout=20)
        assert (program.returncode, errors) == (0, ""), output
    finally:
        if program.poll() is None:
            program.send_signal(signal.SIGTERM)
            program.communicate(timeout=20)


def is_closed(guest: socket.socket) -> bool:
    """Wait for the end of a connection, over what was said before it."""
    try:
        while guest.recv(1 << 20):
            pass
    except ConnectionResetError:
        pass
    return True


def hostile(rng: random.Random) -> Any:
    """Something that may look like a message."""
    kinds: list[Callable[[], Any]] = [
        lambda: None,
        lambda: rng.randrange(-9, 9),
        rng.random,
        lambda: rng.randbytes(rng.randrange(9)),
        lambda: [hostile(rng) for _ in range(rng.randrange(5))],
        lambda: {"a": 1, "b": 2},
        lambda: [rng.randrange(6), *(hostile(rng) for _ in range(rng.randrange(8)))],
    ]
    return rng.choice(kinds)()


def test_hostile_packets_close_their_own_connection_only(running: Running) -> None:
    """Bytes that are no msgpack, values that are no message, answers in the place of questions."""
    rng = random.Random(5)
    for round_ in range(150):
        packet = rng.randbytes(rng.randrange(1, 200)) if round_ % 3 else msgpack.packb(hostile(rng))
        with running.guest() as guest:
            with contextlib.suppress(BrokenPipeError):
                guest.send(packet)
                guest.shutdown(socket.SHUT_WR)
            assert is_closed(guest)


def test_a_packet_that_does_not_fit_closes_the_connection(running: Running) -> None:
    """It is cut off by the kernel, and not read for what is left of it."""
    with running.guest() as guest:
        guest.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        guest.send(bytes(150_000))
        assert is_closed(guest)


def test_descriptors_that_come_with_a_question_are_closed(running: Running) -> None:
    """Whoever passes some does not fill the fabric's table."""
    read_end, write_end = os.pipe()
    with running.guest() as guest:
        for _ in range(20):
            socket.send_fds(guest, [msgpack.packb(DOOR.fields_of(Describe(0)))], [write_end] * 4)
            assert guest.recv(1 << 17)
    os.close(write_end)
    # End of file comes when nobody holds the other end any more.
    assert select.select([read_end], [], [], 20)[0]
    assert os.read(read_end, 1) == b""
    os.close(read_end)


def test_a_crowd_is_sent_away_and_the_next_one_served(running: Running) -> None:
    """No more than a few at a time; who leaves makes room."""
    guests = [running.guest() for _ in range(MOST_GUESTS + 4)]
    for guest in guests[MOST_GUESTS:]:
        assert is_closed(guest)
    with pytest.raises(NoAnswer), Visit(running.name) as visit:
        visit.describe()
    for guest in guests:
        guest.close()
    deadline = time.monotonic() + 20
    while True:
        try:
            with Visit(running.name) as visit:
                assert visit.describe().processes == 1
                return
        except NoAnswer:  # the fabric has not yet seen that the others are gone
            assert time.monotonic() < deadline


def test_who_does_not_read_the_answers_is_cut_off(running: Running) -> None:
    """They wait in a bounded queue, and the fabric goes on."""
    question = msgpack.packb(DOOR.fields_of(AskWhy()))
    with running.guest() as guest:
        guest.settimeout(5)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                guest.send(question)


@pytest.mark.root
def test_another_user_is_not_let_in(running: Running) -> None:
    """By the kernel's word on who knocks, and the asker does not believe a door of another either."""
    if os.geteuid():
        pytest.skip("needs root: to be another user")
    name = running.name
    source = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "s.settimeout(20); s.connect('\\0' + sys.argv[1])\n"
        "try: s.send(b'\\x92\\x00\\x00'); print(s.recv(100))\n"
        "except (BrokenPipeError, ConnectionResetError): print(b'')"
    )
    told = subprocess.run([sys.executable, "-c", source, name], capture_output=True, text=True, timeout=30, check=True)
    assert told.stdout == "b''\n"

    foreign = "\0constellation/0/1/abcd"
    source = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "s.bind(sys.argv[1].replace('@', '\\0')); s.listen(); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source, foreign.replace("\0", "@")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            with pytest.raises(NoAnswer, match="user with the number 65534"):
                Visit(foreign[1:])
        finally:
            other.kill()


_KILLS_THE_FABRIC = """
import os
from constellation import init
init()
fabric = int(open(f"/proc/{os.getppid()}/stat").read().rpartition(")")[2].split()[1])
os.kill(fabric, 9)
input()
"""


@pytest.mark.parametrize("source", [PROGRAM.replace("input()", ""), _KILLS_THE_FABRIC], ids=["good end", "killed"])
def test_nothing_is_left_of_a_door(tmp_path: Path, leftovers: Leftovers, source: str) -> None:
    """After a good end as after the fabric's kill -9: the name is gone with the socket."""
    (tmp_path / "prog.py").write_text(source)
    program = subprocess.Popen(
        [sys.executable, "prog.py"],
        cwd=tmp_path,
        env=leftovers.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    program.wait(timeout=30)

    assert [keeper for keeper, _ in doors() if keeper == program.pid] == []
