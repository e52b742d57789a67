"""How soon a planted deadlock is named, and how often programs that are only slow are taken for one.

The programs run as users run them, and are watched from outside: what counts is what stands on their stderr.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from benchmarks.measure import SLOW, SLOW_S, report, scaled  # noqa: E402  # the path had to be set before

ALARM = "nothing can wake them"

DEADLOCK = """
import time
from constellation import Receiver, Sender, init, parent, spawn

def waits():
    Receiver(parent(), "go").recv().block()
    Receiver(parent()).recv().block()

init()
child = spawn(waits).block()
Sender(child, "go").send(None).block()
print("planted", time.time(), flush=True)
Receiver(child).recv().block()
"""

PROGRAM = """
import os, signal, subprocess, sys, threading, time
from constellation import Receiver, Resources, Sender, init, join, parent, pid, select, spawn, watch

def receives():
    Receiver(parent()).recv().block()

def sleeps(seconds):
    time.sleep(seconds)
    Sender(parent()).send(None).block()

def computes(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))
        time.sleep(0.01)
    Sender(parent()).send(None).block()

def reads_a_pipe(seconds):
    subprocess.run(["sleep", str(seconds)], check=True)
    Sender(parent()).send(None).block()

def waits_with_a_limit(seconds):
    try:
        Receiver(pid()).recv().block(timeout=seconds)
    except TimeoutError:
        Sender(parent()).send(None).block()

def awaits_with_a_timer(seconds):
    import asyncio
    async def main():
        waits = asyncio.create_task(receives_in_a_task())
        await asyncio.sleep(seconds)
        waits.cancel()
    async def receives_in_a_task():
        await Receiver(parent(), "never").recv()
    asyncio.run(main())
    Sender(parent()).send(None).block()

def is_behind_another(seconds):
    # Only the last of three runs.
    child = spawn(sleeps, seconds).block()
    Receiver(child).recv().block()
    Sender(parent()).send(None).block()

def has_a_thread(seconds):
    got = threading.Event()
    threading.Thread(target=lambda: (time.sleep(seconds), got.set())).start()
    got.wait()
    Sender(parent()).send(None).block()

def has_an_alarm(seconds):
    class Over(Exception): pass
    def over(*_): raise Over
    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        receives()
    except Over:
        Sender(parent(), "late").send(None).block()

def polls(seconds):
    until = time.monotonic() + seconds
    receiver = Receiver(parent())
    while time.monotonic() < until:
        try:
            receiver.recv().block(timeout=1)
        except TimeoutError:
            pass
    Sender(parent()).send(None).block()

KINDS = [sleeps, computes, reads_a_pipe, waits_with_a_limit, awaits_with_a_timer, is_behind_another, has_a_thread,
         has_an_alarm, polls, sleeps]

kind = KINDS[int(sys.argv[1]) % len(KINDS)]
init(capacity=Resources(mem="4 GiB", cpu=4)) if int(sys.argv[1]) >= len(KINDS) else init()
child = spawn(kind, float(sys.argv[2])).block()
select(Receiver(child).recv(), Receiver(child, "late").recv()).block()
print("went on", flush=True)
os._exit(0)
"""


def start(path: Path, *arguments: str) -> subprocess.Popen[str]:
    """Run a program as a user does.

    Args:
        path: The program.
        arguments: Its arguments.
    """
    return subprocess.Popen(
        [sys.executable, str(path), *arguments],
        env=os.environ | {"CONSTELLATION_FORMAT": "raw"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def deadlock(folder: Path) -> float:
    """Give the seconds from the moment in which nothing can wake anybody to the line that says so.

    Args:
        folder: For the program.

    Raises:
        RuntimeError: The deadlock was not named.
    """
    path = folder / "deadlock.py"
    path.write_text(DEADLOCK)
    program = start(path)
    assert program.stdout is not None
    assert program.stderr is not None
    try:
        planted = float(program.stdout.readline().split()[1])
        for line in program.stderr:
            if ALARM in line:
                return time.time() - planted
    finally:
        program.send_signal(signal.SIGTERM)
        program.communicate(timeout=20)
    raise RuntimeError("the deadlock was not named")


def slow(folder: Path, seconds: float) -> int:
    """Run the slow ones at once; give the number of alarms.

    Args:
        folder: For the program.
        seconds: How slow they are.

    Raises:
        RuntimeError: One has not gone on, so it was not slow but stood still.
    """
    path = folder / "slow.py"
    path.write_text(PROGRAM)
    programs = [start(path, str(number), str(seconds)) for number in range(SLOW)]
    alarms, stood = 0, []
    for number, program in enumerate(programs):
        try:
            output, errors = program.communicate(timeout=seconds + 60)
        except subprocess.TimeoutExpired:
            program.kill()
            output, errors = program.communicate(timeout=20)
        alarms += errors.count(ALARM)
        if "went on" not in output:
            stood.append(f"the slow program {number} did not go on: {errors[-500:]}")
    if stood:
        raise RuntimeError("; ".join(stood))
    return alarms


def main(scale: float) -> None:
    """Measure both."""
    with tempfile.TemporaryDirectory() as folder:
        report("a planted deadlock is named after", deadlock(Path(folder)), "s")
        seconds = max(6.5, scaled(int(SLOW_S), scale))  # less would not be slow
        report(f"alarms in {SLOW} slow programs", slow(Path(folder), seconds), "")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
