"""A process that waits lends its cores; where nobody runs and spawns wait, they fail and name the holders."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunProgram

_PROGRAM = """
import asyncio
from constellation import Infeasible, NoCapacity, Receiver, Resources, Sender, SpawnStalled
from constellation import init, parent, spawn, try_spawn

ONE = Resources(mem="1 MiB", cpu=1)
LARGE = Resources(mem="40 MiB", cpu=0.1)

def fibonacci(n):
    if n <= 1:
        return n
    left = spawn(child, n - 1, resources=ONE).block()
    right = spawn(child, n - 2, resources=ONE).block()
    return Receiver(left).recv().block() + Receiver(right).recv().block()

def child(n):
    Sender(parent()).send(fibonacci(n)).block()

async def fibonacci_awaited(n):
    if n <= 1:
        return n
    left = await spawn(child_awaited, n - 1, resources=ONE)
    right = await spawn(child_awaited, n - 2, resources=ONE)
    return await Receiver(left).recv() + await Receiver(right).recv()

async def child_awaited(n):
    await Sender(parent()).send(await fibonacci_awaited(n))

def child_in_trio(n):
    import trio

    trio.run(child_awaited, n)

def holder():
    Receiver(parent()).recv().block()

init(Resources(mem="1 MiB", cpu=0.1), capacity=Resources(mem="100 MiB", cpu=2))
"""


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("print(fibonacci(6))", "8"),
        ("print(asyncio.run(fibonacci_awaited(5)))", "5"),
        ("print(Receiver(spawn(child_in_trio, 4, resources=ONE).block()).recv().block())", "3"),
    ],
)
def test_waiting_processes_lend_their_cores(run_program: RunProgram, tmp_path: Path, call: str, expected: str) -> None:
    """A tree of processes deeper than the cores ends, blocked and awaited."""
    result = run_program(tmp_path, _PROGRAM + call, env={"CONSTELLATION_FORMAT": "raw"})

    assert (result.stdout.strip(), result.returncode) == (expected, 0), result.stderr


def test_memory_is_not_lent_and_the_stalled_spawn_names_the_holders(run_program: RunProgram, tmp_path: Path) -> None:
    """When nobody runs and a spawn waits for memory, it raises SpawnStalled; the other refusals come at once."""
    result = run_program(
        tmp_path,
        _PROGRAM
        + """
held = [spawn(holder, resources=LARGE).block() for _ in range(2)]
for attempt, error in (
    (lambda: spawn(holder, resources=LARGE), SpawnStalled),
    (lambda: try_spawn(holder, resources=LARGE), NoCapacity),
    (lambda: spawn(holder, resources=Resources(mem="400 MiB", cpu=0.1)), Infeasible),
):
    try:
        attempt().block()
    except error as raised:
        named = all(str(pid) in str(raised) for pid in held)
        print(type(raised).__name__, named if error is SpawnStalled else "")
for pid in held:
    Sender(pid).send(None).block()
""",
        env={"CONSTELLATION_FORMAT": "raw"},
    )

    assert result.stdout.split() == ["SpawnStalled", "True", "NoCapacity", "Infeasible"], result.stderr


def test_a_spawn_that_timed_out_or_lost_a_select_runs_once_or_never(run_program: RunProgram, tmp_path: Path) -> None:
    """A timed out spawn has left the queue; one that loses a select keeps its place and may be used again."""
    result = run_program(
        tmp_path,
        _PROGRAM
        + """
from constellation import join, select, watch

FULL = Resources(mem="60 MiB", cpu=0.1)

def counted():
    print("counted")

held = spawn(holder, resources=FULL).block()
try:
    spawn(counted, resources=FULL).block(timeout=0.1)
except TimeoutError:
    print("timed out")
receiver, sender = Receiver(init_pid, "own"), Sender(init_pid, "own")
waiting = spawn(counted, resources=FULL)
for number in range(3):
    sender.send(number).block()
    print(*select(receiver.recv(), waiting).block())
Sender(held).send(None).block()
index, pid = select(receiver.recv(), waiting).block()
print(index, watch(pid).block().code)
try:
    join(receiver.recv(), receiver.recv()).block(timeout=0.05)
except TimeoutError:
    print("timed out")
""".replace("init_pid", "__import__('constellation').pid()"),
        env={"CONSTELLATION_FORMAT": "raw"},
    )

    expected = ["timed out", "0 0", "0 1", "0 2", "counted", "1 0", "timed out"]
    assert (sorted(result.stdout.splitlines()), result.returncode) == (sorted(expected), 0), result.stderr


def test_who_is_draining_does_not_wait(run_program: RunProgram, tmp_path: Path) -> None:
    """It ends by itself at the latest when its linger is over: a spawn that waits for its memory is not stalled."""
    source = """
    import time
    from constellation import Resources, Sender, init, parent, spawn, watch

    def drains():
        Sender(parent()).send(bytes(300 << 20)).block()  # more than anybody takes in unasked

    def nothing():
        pass

    if __name__ == "__main__":
        half = Resources(mem="700 MiB", cpu=0)
        init(Resources(mem="100 MiB", cpu=0), capacity=Resources(mem="1000 MiB", cpu=4))
        first = spawn(drains, resources=half).block()
        second = spawn(nothing, resources=half).block()
        print(watch(first).block().cause.partition(":")[0], watch(second).block().ok)
    """
    env = {"CONSTELLATION_FORMAT": "raw", "CONSTELLATION_CREDIT": str(400 << 20), "CONSTELLATION_LINGER": "1.5"}
    result = run_program(tmp_path, textwrap.dedent(source), env=env)
    assert result.stdout.split() == ["undelivered", "True"], result
