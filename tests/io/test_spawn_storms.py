"""Spawns in crowds: the queue starts them in order and each once; crowds and deep trees ended in the middle leave nothing."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Leftovers, Result, RunProgram

JSON = {"CONSTELLATION_FORMAT": "json"}
CAPACITY = 4
GRACE_S = 1000
"""Far more than a test may take: who oversleeps the signal is not killed in time."""

QUEUE = f"""
import os, sys
from constellation import Resources, init, join, spawn
def say(n):
    os.write(1, b"%d\\n" % n)
init(Resources(mem="1 GiB", cpu=0), capacity=Resources(mem="100 GiB", cpu={CAPACITY}))
join(*(spawn(say, n, resources=Resources(mem="50 MiB", cpu=1)) for n in range(int(sys.argv[1])))).block()
"""


@pytest.mark.parametrize(
    "count", [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])], ids=str
)
def test_queued_spawns_start_in_order_and_run_once(run_program: RunProgram, tmp_path: Path, count: int) -> None:
    """With room for four: never more at once, none starts before those that were asked for sooner, and none twice."""
    result = run_program(tmp_path, QUEUE, str(count), env=JSON, timeout=580)
    assert (result.returncode, result.stderr) == (0, ""), result
    numbers: dict[str, int] = {}
    events = [json.loads(line) for line in result.stdout.splitlines()]
    for event in events:
        if event["event"] == "output":
            assert event["pid"] not in numbers, "it ran twice"
            numbers[event["pid"]] = int(event["data"])
    assert sorted(numbers.values()) == list(range(count))
    running: set[int] = set()
    begun = ended = 0
    for event in events[1:]:
        number = numbers.get(event["pid"])
        if number is None or event["event"] == "output":
            continue
        if event["event"] == "spawn":
            begun += 1
            running.add(number)
            assert len(running) <= CAPACITY
            # In order: it has room only when so many have ended that all before it had room, too. (They say that they run
            # when they do: one may be slow.)
            assert number < ended + CAPACITY
        else:
            running.remove(number)
            ended += 1
            assert event["code"] == 0
    assert begun == ended == count


def _interrupted(leftovers: Leftovers, folder: Path, source: str, begun: int, delay: float) -> Result:
    """Run a program, press Ctrl-C some time after so many processes have begun, and see it end."""
    (folder / "prog.py").write_text(textwrap.dedent(source))
    with open(folder / "err", "w+") as err:
        program = subprocess.Popen(
            [sys.executable, "prog.py"],
            cwd=folder,
            env={**leftovers.environment, **JSON, "CONSTELLATION_GRACE": str(GRACE_S)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        )
        assert program.stdout is not None
        lines: list[str] = []
        while sum('"spawn"' in line for line in lines) < begun:
            line = program.stdout.readline()
            assert line, "the program has ended"
            lines.append(line)
        time.sleep(delay)
        program.send_signal(signal.SIGINT)
        out = program.stdout.read()  # not by communicate(), which passes over what readline() has in its buffer
        program.wait(60)
        program.stdout.close()
        return Result("".join(lines) + out, (folder / "err").read_text(), program.returncode)


def _check_ends(result: Result) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in result.stdout.splitlines()]
    began = [event["pid"] for event in events if event["event"] == "spawn"]
    ends = [event for event in events if event["event"] == "exit"]
    assert len(set(began)) == len(began)
    assert sorted(end["pid"] for end in ends) == sorted(began), "each has ended once"
    assert result.returncode == 130
    return ends


CROWD = """
    import time
    from constellation import ConstellationError, init, join, spawn
    def sleeps():
        time.sleep(1000)
    def spawns(count):
        try:
            for _ in range(count):
                spawn(sleeps).block()
        except ConstellationError:
            pass  # the deployment is ending
        time.sleep(1000)
    init()
    join(*(spawn(spawns, 30) for _ in range(10))).block()
    time.sleep(1000)
"""


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ctrl_c_in_the_middle_of_hundreds_of_spawns(leftovers: Leftovers, tmp_path: Path, seed: int) -> None:
    """Ten processes spawn thirty others each: all that have begun end, and what comes later does not begin."""
    rng = random.Random(seed)
    ends = _check_ends(_interrupted(leftovers, tmp_path, CROWD, rng.randrange(1, 250), rng.random() * 0.05))
    assert len(ends) <= 311
    assert leftovers.found() == []


DEEP = """
    from constellation import Receiver, Sender, init, parent, spawn
    def deeper(left):
        if left:
            below = Receiver(spawn(deeper, left - 1).block())
            Sender(parent()).send(below.recv().block() + 1).block()
        else:
            Sender(parent()).send(1).block()
            Receiver(parent(), "never").recv().block()
    init()
    depth = Receiver(spawn(deeper, 99).block()).recv().block()
    print("depth", depth)
    Receiver(spawn(deeper, 0).block(), "never").recv().block()
"""


def test_a_tree_a_hundred_deep(leftovers: Leftovers, tmp_path: Path) -> None:
    """What the deepest says reaches the first; and then Ctrl-C ends what is there."""
    result = _interrupted(leftovers, tmp_path, DEEP, 102, 0.2)
    assert "depth 100" in result.stdout
    _check_ends(result)
    assert leftovers.found() == []


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ctrl_c_in_the_middle_of_a_deep_tree(leftovers: Leftovers, tmp_path: Path, seed: int) -> None:
    """Each waits for the one below it."""
    rng = random.Random(seed)
    _check_ends(_interrupted(leftovers, tmp_path, DEEP, rng.randrange(1, 100), rng.random() * 0.02))
    assert leftovers.found() == []


@pytest.mark.parametrize("seed", [1, 2])
def test_a_killed_role_in_the_middle_of_hundreds_of_spawns(leftovers: Leftovers, tmp_path: Path, seed: int) -> None:
    """The keeper: the fabric kills all, also who is forked meanwhile."""
    rng = random.Random(seed)
    (tmp_path / "prog.py").write_text(textwrap.dedent(CROWD))
    program = subprocess.Popen(
        [sys.executable, "prog.py"],
        cwd=tmp_path,
        env={**leftovers.environment, **JSON},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    begun = rng.randrange(1, 250)
    while begun:
        begun -= '"spawn"' in program.stdout.readline()
    program.kill()
    program.communicate(timeout=30)
    end = time.monotonic() + 3
    while leftovers.found() and time.monotonic() < end:
        time.sleep(0.01)
    assert leftovers.found() == []
