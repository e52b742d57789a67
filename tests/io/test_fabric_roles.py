"""Real programs whose roles are killed: what is said, which code, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Leftovers, RunProgram

PROGRAM = """
import os, subprocess, time
from constellation import Receiver, Sender, init, parent, spawn
def child():
    subprocess.Popen(["setsid", "sleep", "1000"])
    Sender(parent()).send(1).block()
    time.sleep(1000)
if __name__ == "__main__":
    init()
    for pid in [spawn(child).block() for _ in range(3)]:
        Receiver(pid).recv().block()
    roles = [os.getpid()]
    while len(roles) < 4:
        roles.append(int(open(f"/proc/{roles[-1]}/stat").read().rpartition(")")[2].split()[1]))
    print("ROLES", *roles)
    time.sleep(1000)
"""
FIRST, TEMPLATE, FABRIC, KEEPER = range(4)


def _run(leftovers: Leftovers, folder: Path, role: int, number: int) -> tuple[int, list[dict[str, object]], str]:
    (folder / "prog.py").write_text(PROGRAM)
    program = subprocess.Popen(
        [sys.executable, "prog.py"],
        cwd=folder,
        env={**leftovers.environment, "CONSTELLATION_FORMAT": "json"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    while "ROLES" not in (line := program.stdout.readline()):
        assert line, "the program has ended"
    roles = [int(word) for word in json.loads(line)["data"].split()[1:]]
    assert roles[KEEPER] == program.pid
    os.kill(roles[role], number)
    out, err = program.communicate(timeout=30)
    return program.returncode, [json.loads(line) for line in out.splitlines()], err


@pytest.mark.parametrize(
    ("role", "number", "code", "cause"),
    [
        (TEMPLATE, signal.SIGKILL, 137, "template lost: killed by SIGKILL"),
        (KEEPER, signal.SIGKILL, -9, "killed by the loss of the keeper"),
        (KEEPER, signal.SIGTERM, 143, "killed by SIGTERM"),
        (KEEPER, signal.SIGINT, 130, "killed by Ctrl-C"),
        (FABRIC, signal.SIGTERM, 143, "killed by SIGTERM"),
    ],
)
def test_the_end_of_a_role_ends_all_and_says_why(
    leftovers: Leftovers, tmp_path: Path, role: int, number: int, code: int, cause: str
) -> None:
    """Every process has an exit event with the cause, and nothing is left, grandchildren in sessions of their own included."""
    returncode, events, _ = _run(leftovers, tmp_path, role, number)
    ends = [event for event in events if event["event"] == "exit"]
    assert returncode == code
    assert len(ends) == 4
    assert {event["cause"] for event in ends} == {cause}


def test_the_death_of_the_fabric_is_said_by_the_keeper(leftovers: Leftovers, tmp_path: Path) -> None:
    """Of each process, too; and all of them are gone."""
    returncode, events, stderr = _run(leftovers, tmp_path, FABRIC, signal.SIGKILL)
    assert returncode == 1
    ends = [(event["code"], event["signal"], event["cause"]) for event in events if event["event"] == "exit"]
    assert ends == [(None, None, "node lost: the fabric was killed by SIGKILL, and with it all its processes")] * 4
    assert stderr == "constellation: the fabric was killed by SIGKILL; all its processes have been killed\n"


def test_a_full_disk_is_said(leftovers: Leftovers, tmp_path: Path) -> None:
    """What cannot be written is not lost in silence."""
    (tmp_path / "prog.py").write_text("from constellation import init\ninit()\nprint('hello')\n")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "prog.py"],
            check=False,
            cwd=tmp_path,
            env=leftovers.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=30,
        )
    assert (done.returncode, done.stderr) == (1, b"constellation: cannot write to stdout: No space left on device\n")


def test_several_deployments_in_a_row(run_program: RunProgram, tmp_path: Path) -> None:
    """Each has its own first Pid, its own spawns and ends."""
    source = """
        from constellation import Receiver, Sender, init, parent, spawn
        def child(n):
            Sender(parent()).send(n * 2).block()
        if __name__ == "__main__":
            for n in range(3):
                with init():
                    print("value", Receiver(spawn(child, n).block()).recv().block())
    """
    done = run_program(tmp_path, source, env={"CONSTELLATION_FORMAT": "json"})
    events = [json.loads(line) for line in done.stdout.splitlines()]
    spawned = [event["pid"] for event in events if event["event"] == "spawn"]
    ended = [event["pid"] for event in events if event["event"] == "exit"]
    assert done.returncode == 0
    assert len(set(spawned)) == 6 and sorted(spawned) == sorted(ended)
    assert "".join(event["data"] for event in events if event["event"] == "output") == "value 0\nvalue 2\nvalue 4\n"
