"""Why does it wait? Standstills are named unasked, slow programs are left alone, the quit key shows who waits for whom."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Leftovers

_PROGRAM = """
import asyncio, sys, time
from constellation import Receiver, Resources, Sender, init, parent, pid, spawn, watch

def in_ring(place, first):
    peers = Receiver(first, "peers").recv().block()
    Receiver(peers[(place + 1) % 3]).recv().block()

def ring():
    peers = [spawn(in_ring, place, pid()).block() for place in range(3)]
    for peer in peers:
        Sender(peer, "peers").send(peers).block()
    for peer in peers:
        watch(peer).block()

def floods(peer):
    sender = Sender(peer)
    while True:
        sender.send(bytes(100_000)).block()

def child_floods():
    floods(parent())

def two_senders():
    floods(spawn(child_floods).block())

def to_itself():
    Sender(pid()).send(bytes(10_000_000)).block()

async def awaits():
    await Receiver(parent()).recv()

def awaited():
    Receiver(spawn(awaits).block()).recv().block()

def sleeper(seconds):
    time.sleep(seconds)
    Sender(parent()).send("slept").block()

def slow():
    print("ready")
    print(Receiver(spawn(sleeper, 6.5).block()).recv().block())

def with_a_limit():
    try:
        Receiver(spawn(awaits).block()).recv().block(timeout=6.5)
    except TimeoutError:
        print("timed out")
        sys.exit(0)

init()
globals()[sys.argv[1]]()
"""


def _start(tmp_path: Path, leftovers: Leftovers, name: str) -> subprocess.Popen[str]:
    path = tmp_path / "program.py"
    path.write_text(_PROGRAM)
    return subprocess.Popen(
        [sys.executable, str(path), name],
        env=leftovers.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def _words(program: subprocess.Popen[str], lines: int) -> list[str]:
    assert program.stderr is not None
    return [program.stderr.readline().strip() for _ in range(lines)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ring", ["watch of", "recv from", "recv from", "recv from"]),
        ("two_senders", ["send to", "send to"]),
        ("to_itself", ["send to"]),
        ("awaited", ["recv from", "recv from"]),
    ],
)
def test_a_standstill_is_named(tmp_path: Path, leftovers: Leftovers, name: str, expected: list[str]) -> None:
    """Each process is shown with what it waits for and the line of the program, without being asked."""
    program = _start(tmp_path, leftovers, name)
    try:
        title, *shown = _words(program, 1 + len(expected))
    finally:
        program.send_signal(signal.SIGTERM)
        program.communicate(timeout=20)

    assert "nothing can wake them" in title
    assert all(f"waits in {what}" in line for what, line in zip(expected, shown, strict=True)), shown
    assert all("program.py:" in line for line in shown)


@pytest.mark.parametrize("name", ["slow", "with_a_limit"])
def test_what_is_only_slow_gives_no_alarm(tmp_path: Path, leftovers: Leftovers, name: str) -> None:
    """A process that sleeps, or waits with a time limit, can still wake the others."""
    program = _start(tmp_path, leftovers, name)
    _, errors = program.communicate(timeout=30)

    assert "nothing can wake" not in errors


def test_sigquit_shows_what_each_process_waits_for(tmp_path: Path, leftovers: Leftovers) -> None:
    """The signal goes to the program's own pid, as the quit key sends it; the program goes on."""
    program = _start(tmp_path, leftovers, "slow")
    assert program.stdout is not None
    while "ready" not in program.stdout.readline():  # what shows it listens to signals by then
        assert program.poll() is None
    try:
        # Until the first process has waited for long: the answer says "runs" before that.
        deadline = time.monotonic() + 20
        shown: list[str] = []
        while not any("waits in recv from" in line for line in shown):
            assert time.monotonic() < deadline, shown
            program.send_signal(signal.SIGQUIT)
            shown = _words(program, 2)
    finally:
        output, _ = program.communicate(timeout=30)

    assert "slept" in output
    assert program.returncode == 0
