"""Why does it wait? Standstills are named unasked, slow programs are left alone, and who asks is shown who waits for whom."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from benchmarks.measure import MARK
from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Leftovers

_PROGRAM = """
import asyncio, os, signal, sys, threading, time
from constellation import Receiver, Resources, Sender, init, join, parent, pid, select, spawn, watch, whereis

LOOP = sys.argv[2] if len(sys.argv) > 2 else ""
if LOOP == "trio":
    import trio
if LOOP == "uvloop":
    import uvloop

def go(function):
    if LOOP == "trio":
        trio.run(function)
    elif LOOP == "uvloop":
        uvloop.run(function())
    else:
        asyncio.run(function())

async def together(*functions):
    if LOOP == "trio":
        async with trio.open_nursery() as nursery:
            for function in functions:
                nursery.start_soon(function)
    else:
        await asyncio.gather(*(function() for function in functions))

async def nap(seconds):
    await (trio if LOOP == "trio" else asyncio).sleep(seconds)

def receives():
    Receiver(parent()).recv().block()

async def awaits():
    await Receiver(parent()).recv()

# What stands still

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

def joined():
    pids = [spawn(receives).block() for _ in range(2)]
    join(*(Receiver(each).recv() for each in pids)).block()

def selected():
    pids = [spawn(receives).block() for _ in range(2)]
    select(*(Receiver(each).recv() for each in pids)).block()

def watched():
    watch(spawn(receives).block()).block()

def closing():
    spawn(receives).block()
    deployment.__exit__(None, None, None)

def named():
    whereis("nobody").block()

def in_threads():
    child = spawn(receives).block()
    def waits(name):
        Receiver(child, name).recv().block()
    threads = [threading.Thread(target=waits, args=(str(name),)) for name in range(2)]
    for thread in threads:
        thread.start()
    Receiver(child).recv().block()

def awaited():
    Receiver(spawn(awaits).block()).recv().block()

def tasks():
    child = spawn(receives).block()
    async def one():
        await Receiver(child, "one").recv()
    async def two():
        try:
            if LOOP == "trio":
                with trio.fail_after(0.3):
                    await Receiver(child, "x").recv()
            else:
                await asyncio.wait_for(asyncio.ensure_future(waits(child)), 0.3)
        except (TimeoutError, asyncio.TimeoutError, *([trio.TooSlowError] if LOOP == "trio" else [])):
            pass
        await Receiver(child, "two").recv()
    async def waits(peer):
        await Receiver(peer, "x").recv()
    async def main():
        await together(one, two)
    go(main)

# What is only slow

def sleeper(seconds):
    time.sleep(seconds)
    Sender(parent()).send("slept").block()

def sends_late():
    sleeper(1.5)
    receives()

def slow():
    print("ready")
    print(Receiver(spawn(sleeper, 6.5).block()).recv().block(), "went on")

def with_a_limit():
    try:
        Receiver(spawn(receives).block()).recv().block(timeout=6.5)
    except TimeoutError:
        print("went on")

def with_an_alarm():
    def ends(*_):
        print("went on")
        sys.exit(0)
    signal.signal(signal.SIGALRM, ends)
    signal.alarm(7)
    Receiver(spawn(receives).block()).recv().block()

def goes_on():
    print("went on")
    os._exit(0)

def with_a_thread():
    threading.Timer(6.5, goes_on).start()
    Receiver(spawn(receives).block()).recv().block()

def with_a_timer():
    child = spawn(receives).block()
    async def one():
        await Receiver(child, "one").recv()
    async def two():
        await nap(6.5)
        goes_on()
    async def main():
        await together(one, two)
    go(main)

def with_a_timer_set_late():
    # One await has been judged to wait for ever when another goes on, and then takes a nap.
    child = spawn(sends_late).block()
    async def one():
        await Receiver(child, "one").recv()
    async def two():
        await Receiver(child).recv()
        await nap(6.5)
        goes_on()
    async def main():
        await together(one, two)
    go(main)

def with_a_descriptor():
    child = spawn(receives).block()
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        time.sleep(6.5)
        os.write(write_end, b"x")
        os._exit(0)
    async def one():
        await Receiver(child, "one").recv()
    async def two():
        if LOOP == "trio":
            await trio.lowlevel.wait_readable(read_end)
        else:
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().add_reader(read_end, lambda: future.done() or future.set_result(None))
            await future
        goes_on()
    async def main():
        await together(one, two)
    go(main)

deployment = init()
globals()[sys.argv[1]]()
"""


def _start(tmp_path: Path, leftovers: Leftovers, *arguments: str, source: str = _PROGRAM) -> subprocess.Popen[str]:
    path = tmp_path / "program.py"
    if not path.exists():  # several run it at once
        path.write_text(source)
    return subprocess.Popen(
        [sys.executable, str(path), *arguments],
        env=leftovers.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def _words(program: subprocess.Popen[str], lines: int) -> list[str]:
    assert program.stderr is not None
    return [program.stderr.readline().strip() for _ in range(lines)]


def _end(program: subprocess.Popen[str]) -> tuple[str, str]:
    if program.poll() is None:
        program.send_signal(signal.SIGCONT)
        program.send_signal(signal.SIGTERM)
    return program.communicate(timeout=20)


def _ask(leftovers: Leftovers, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "constellation", "why", *arguments],
        env=leftovers.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def _ask_until(leftovers: Leftovers, program: subprocess.Popen[str], is_shown: Callable[[str], bool]) -> str:
    """Ask until the processes have come as far as a test wants them, and have waited for long enough to say so."""
    deadline = time.monotonic() + 20
    while True:
        answer = _ask(leftovers, str(program.pid))
        if is_shown(answer.stdout):
            return answer.stdout
        assert time.monotonic() < deadline, answer
        assert program.poll() is None, program.communicate()


STANDSTILLS = {
    "ring": ["watch of", "recv from", "recv from", "recv from"],
    "two_senders": ["send to", "send to"],
    "to_itself": ["send to"],
    "joined": ["join(recv from", "recv from", "recv from"],
    "selected": ["select(recv from", "recv from", "recv from"],
    "watched": ["watch of", "recv from"],
    "closing": ["the end of all other processes", "recv from"],
    "named": ["whereis of 'nobody'"],
    "in_threads": ["recv from"] * 4,
    "awaited": ["recv from", "recv from"],
    "tasks asyncio": ["recv from"] * 3,
    "tasks uvloop": ["recv from"] * 3,
    "tasks trio": ["recv from"] * 3,
}
LIVE = [
    "slow",
    "with_a_limit",
    "with_an_alarm",
    "with_a_thread",
    *(
        f"{name} {loop}"
        for name in ("with_a_timer", "with_a_timer_set_late", "with_a_descriptor")
        for loop in ("asyncio", "uvloop", "trio")
    ),
]


def test_standstills_are_named(tmp_path: Path, leftovers: Leftovers) -> None:
    """Each process is shown with what it waits for and the line of the program, without being asked. All at once."""
    programs = {name: _start(tmp_path, leftovers, *name.split()) for name in STANDSTILLS}
    shown = {}
    try:
        for name, program in programs.items():
            shown[name] = _words(program, 1 + len(STANDSTILLS[name]))
    finally:
        for program in programs.values():
            _end(program)

    for name, (title, *lines) in shown.items():
        assert "nothing can wake them" in title, (name, title)
        assert all(f"waits in {what}" in line for what, line in zip(STANDSTILLS[name], lines, strict=True)), (
            name,
            lines,
        )
        assert all("program.py:" in line for line in lines), (name, lines)


def test_what_is_only_slow_gives_no_alarm(tmp_path: Path, leftovers: Leftovers) -> None:
    """A process that sleeps, or waits with a limit, a timer, a thread or a descriptor of its own, can still wake others."""
    programs = {name: _start(tmp_path, leftovers, *name.split()) for name in LIVE}
    try:
        for program in programs.values():
            program.wait(timeout=40)
    finally:
        said = {name: _end(program) for name, program in programs.items()}

    assert {name: errors for name, (_, errors) in said.items() if "nothing can wake" in errors} == {}
    assert {name: output for name, (output, _) in said.items() if "went on" not in output} == {}


@pytest.mark.slow
def test_twenty_slow_programs_give_no_alarm(leftovers: Leftovers) -> None:
    """Those of the benchmark, which also finds a planted deadlock: ten ways to be slow, with a capacity and without."""
    program = ROOT / "benchmarks" / "standing.py"
    done = subprocess.run(
        [sys.executable, str(program)],
        env=leftovers.environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )

    figures = [json.loads(line.removeprefix(MARK)) for line in done.stdout.splitlines() if line.startswith(MARK)]
    assert [figure["value"] for figure in figures if "alarms" in figure["what"]] == [0]


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


_BUSY = """
import os, sys, time
from constellation import Receiver, Resources, Sender, init, join, parent, pid, spawn
from constellation.core import settings

if sys.argv[1] == "drains":
    settings.DRAIN_LIMIT, settings.BUDGET_FLOOR, settings.BUDGET_SHARE = 1 << 20, 0, 1000

def ring():
    peers = [spawn(in_ring, place, pid()).block() for place in range(2)]
    for peer in peers:
        Sender(peer, "peers").send(peers).block()
    time.sleep(1000)

def in_ring(place, first):
    peers = Receiver(first, "peers").recv().block()
    Receiver(peers[1 - place]).recv().block()

def sleeps():
    time.sleep(1000)

def memory():
    spawn(sleeps, resources=Resources(mem="200 MiB", cpu=0.1)).block()
    join(*(spawn(sleeps, resources=Resources(mem="100 MiB", cpu=0.1)) for _ in range(3))).block()

def stopped():
    print(spawn(sleeps).block())
    os.kill(os.getpid(), 19)

def unread():
    sys.stdout.write("x" * 2_000_000)
    sys.stdout.flush()

def drains():
    spawn(leaves).block()
    time.sleep(1000)

def leaves():
    sender = Sender(parent(), "results")
    for _ in range(3):
        sender.send(bytes(1_300_000)).block()

init(capacity=Resources(mem="300 MiB", cpu=2)) if sys.argv[1] == "memory" else init()
globals()[sys.argv[1]]()
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ring", ["recv from", "nothing can wake it", "runs, or has waited"]),
        (
            "memory",
            ["waits for 100 MiB of memory (0 B of 300 MiB free); held by", "(200 MiB)", "and 2 more spawns wait"],
        ),
        ("stopped", ["(program:__main__) is stopped (kill -CONT", "runs, or has waited"]),
        ("unread", ["nobody reads our stdout: 1", "(program:__main__) waits until its output is read"]),
    ],
)
def test_another_terminal_is_told(tmp_path: Path, leftovers: Leftovers, name: str, expected: list[str]) -> None:
    """By `constellation why`: who stands still beside one that runs, what a spawn waits for, who is stopped or not read."""
    program = _start(tmp_path, leftovers, name, source=_BUSY)
    try:
        shown = _ask_until(leftovers, program, lambda text: all(each in text for each in expected))
    finally:
        _end(program)

    assert shown.startswith("constellation: what the processes wait for:\n")


def test_the_quit_key_is_answered_though_nobody_reads_stdout(tmp_path: Path, leftovers: Leftovers) -> None:
    """What is said on stderr does not wait behind the output that waits."""
    program = _start(tmp_path, leftovers, "unread", source=_BUSY)
    try:
        _ask_until(leftovers, program, lambda text: "nobody reads our stdout" in text)
        program.send_signal(signal.SIGQUIT)
        assert "what the processes wait for" in _words(program, 1)[0]
    finally:
        output, _ = _end(program)

    assert output.count("x") <= 2_000_000


def test_asking_without_a_name(tmp_path: Path, leftovers: Leftovers) -> None:
    """None, one and several deployments; the wrong name; and a fabric that does not answer."""
    alone = _ask(leftovers, str(os.getpid()))
    assert (alone.returncode, alone.stdout) == (3, "")
    assert f"no program of yours that runs here is meant by '{os.getpid()}'" in alone.stderr

    first = _start(tmp_path, leftovers, "ring", source=_BUSY)
    second = _start(tmp_path, leftovers, "ring", source=_BUSY)
    try:
        _ask_until(leftovers, first, lambda text: "nothing can wake it" in text)
        _ask_until(leftovers, second, lambda text: "nothing can wake it" in text)
        several = _ask(leftovers)
        assert several.returncode == 2
        assert "several programs of yours run: say which, as in constellation why " in several.stderr
        assert f"{first.pid}  " in several.stderr
        assert f"{second.pid}  " in several.stderr
        assert _ask(leftovers, str(tmp_path / "program.py")).returncode == 2
    finally:
        _end(first)
        _end(second)


def test_a_fabric_that_is_stopped_is_said_to_be(tmp_path: Path, leftovers: Leftovers) -> None:
    """Who asks does not wait for ever."""
    program = _start(tmp_path, leftovers, "ring", source=_BUSY)
    try:
        _ask_until(leftovers, program, lambda text: "nothing can wake it" in text)
        (fabric,) = children_of(program.pid)
        os.kill(fabric, signal.SIGSTOP)
        try:
            answer = _ask(leftovers, str(program.pid))
        finally:
            os.kill(fabric, signal.SIGCONT)
        assert answer.returncode == 3
        assert "because it is stopped (kill -CONT lets it go on)" in answer.stderr
    finally:
        _end(program)


def test_draining_is_shown_by_name_in_the_terminal_and_to_who_asks(tmp_path: Path, leftovers: Leftovers) -> None:
    """How much is left of which channel to whom, and until when; after a second, while it lasts."""
    program = _start(tmp_path, leftovers, "drains", source=_BUSY)
    assert program.stdout is not None
    try:
        while "draining: " not in (line := program.stdout.readline()):
            assert line
        asked = _ask_until(leftovers, program, lambda text: "is draining" in text)
    finally:
        _end(program)

    assert "draining: 1 channel to " in line
    assert "('results' 3.7 MiB) until linger (60 s)" in line
    assert "(program:leaves) is draining: 1 channel to " in asked


def children_of(os_pid: int) -> list[int]:
    """The children of a process, by its main thread's word."""
    with open(f"/proc/{os_pid}/task/{os_pid}/children") as file:
        return [int(each) for each in file.read().split()]
