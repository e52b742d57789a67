"""Demands that hold by real control groups, version 1. Needs root, and says so where it is skipped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from constellation.core.limits import OUT_OF_MEMORY, owner_of
from constellation.fabric import cgroups
from tests.conftest import Leftovers, Result, RunProgram
from tests.io.memory_groups import PLACES, needs_memory_groups

pytestmark = [pytest.mark.root, needs_memory_groups]

RAW = {"CONSTELLATION_FORMAT": "raw"}
_COMMON = """
import os, signal, sys, time
from constellation import Receiver, Resources, Sender, init, join, parent, spawn, watch

def greedy(size=1000):
    taken = []
    for _ in range(size):
        taken.append(b"x" * (1 << 20))

def sleeping():
    time.sleep(100)

def fabric():
    with open(f"/proc/{os.getppid()}/stat") as file:
        return int(file.read().split()[3])
"""


def program(source: str) -> str:
    """The common part and a main part."""
    return _COMMON + "if __name__ == '__main__':\n" + textwrap.indent(textwrap.dedent(source), "    ")


def left() -> set[str]:
    """Groups of fabrics that are dead."""
    found = {os.path.join(place.folder, name) for place in set(PLACES.values()) for name in os.listdir(place.folder)}
    owners = {folder: owner_of(os.path.basename(folder)) for folder in found}
    return {folder for folder, owner in owners.items() if owner is not None and not cgroups._is_alive(owner)}


@pytest.fixture(autouse=True)
def _no_group_is_left() -> Iterator[None]:
    before = left()
    yield
    deadline = time.monotonic() + 3
    while more := left() - before:
        assert time.monotonic() < deadline, more
        time.sleep(0.02)


def test_the_greedy_one_dies_alone_each_time(run_program: RunProgram, tmp_path: Path) -> None:
    """By the kernel, at its limit, while those beside it go on; the certificate says why each time."""
    result = run_program(
        tmp_path,
        program("""
            init()
            calm = [spawn(greedy, 8, resources=Resources(mem="40 MiB")).block() for _ in range(3)]
            for _ in range(30):
                print(watch(spawn(greedy, resources=Resources(mem="24 MiB")).block()).block().describe())
            print({watch(pid).block().describe() for pid in calm})
        """),
        env=RAW,
    )
    lines = result.stdout.splitlines()
    assert set(lines[:-1]) == {"killed: SIGKILL (memory limit: it asked for 24 MiB and needed more)"}
    assert (len(lines), lines[-1]) == (31, "{'exited: 0'}")
    assert result.stderr == ""


def test_a_process_is_in_groups_of_its_own_with_its_limits(run_program: RunProgram, tmp_path: Path) -> None:
    """Beneath the fabric's own; what it had from its template is not counted."""
    result = run_program(
        tmp_path,
        program("""
            ballast = b"x" * (64 << 20)
            def look():
                for line in open("/proc/self/cgroup"):
                    _, names, path = line.strip().split(":")
                    for name, file in (("memory", "memory.limit_in_bytes"), ("cpu", "cpu.shares")):
                        if name in names.split(","):
                            folder = "/sys/fs/cgroup/" + names + path
                            print(name, "constellation-" in path, open(folder + "/" + file).read().strip())
                            if name == "memory":
                                print(int(open(folder + "/memory.usage_in_bytes").read()) < 32 << 20)
            init()
            watch(spawn(look, resources=Resources(mem="48 MiB", cpu=0.25)).block()).block()
        """),
        env=RAW,
    )
    found = set(result.stdout.splitlines())
    assert found == {f"memory True {48 << 20}", "True", "cpu True 256"}, result.stderr


def test_a_kill_from_elsewhere_is_not_called_a_limit(run_program: RunProgram, tmp_path: Path) -> None:
    """Also for a process that has a limit, and for one without."""
    result = run_program(
        tmp_path,
        program("""
            def ends():
                os.kill(os.getpid(), signal.SIGKILL)
            init()
            for demand in (None, Resources(mem="64 MiB")):
                print(watch(spawn(ends, resources=demand).block()).block().describe())
        """),
        env=RAW,
    )
    assert result.stdout.splitlines() == ["killed: SIGKILL (not by constellation)"] * 2


def test_the_machine_may_run_out_of_memory_first(leftovers: Leftovers, tmp_path: Path) -> None:
    """Of what the group around the fabric has; with a limit of its own above that, and without one."""
    result = _in_a_group_of(
        200 << 20,
        leftovers,
        tmp_path,
        program("""
            def first_in_line():
                # Whom the kernel takes where a whole group is full, is its choice: by size, in the moment in which somebody
                # needs a page. That may be early, when this is smaller than the program that has just been compiled.
                with open("/proc/self/oom_score_adj", "w") as file:
                    file.write("1000")
                greedy()
            init()
            for demand in (None, Resources(mem="1 GiB"), Resources(mem="30 MiB")):
                print(watch(spawn(first_in_line, resources=demand).block()).block().cause)
        """),
    )
    assert result.stdout.splitlines() == [
        OUT_OF_MEMORY,
        OUT_OF_MEMORY,
        "memory limit: it asked for 30 MiB and needed more",
    ], result.stderr


def _in_a_group_of(size: int, leftovers: Leftovers, tmp_path: Path, source: str) -> Result:
    folder = f"{PLACES['memory'].folder}/test-{os.getpid()}"
    os.mkdir(folder)
    try:
        Path(folder, "memory.limit_in_bytes").write_text(str(size))
        script = tmp_path / "prog.py"
        script.write_text(source)
        done = subprocess.run(
            ["sh", "-c", f'echo 0 > {folder}/cgroup.procs; exec "$0" "$1"', sys.executable, str(script)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            env={**leftovers.environment, **RAW},
            check=False,
        )
        assert [name for name in os.listdir(folder) if owner_of(name) is not None] == []
        return Result(done.stdout, done.stderr, done.returncode)
    finally:
        os.rmdir(folder)


def test_a_fabric_that_is_killed_leaves_no_group(run_program: RunProgram, tmp_path: Path) -> None:
    """The keeper removes them."""
    result = run_program(
        tmp_path,
        program("""
            init(Resources(cpu=1))
            for _ in range(3):
                spawn(sleeping, resources=Resources(mem="32 MiB", cpu=0.5)).block()
            os.kill(fabric(), signal.SIGKILL)
            time.sleep(100)
        """),
    )
    assert "the fabric was killed by SIGKILL" in result.stderr
    assert left() == set()


def test_the_next_start_removes_what_nobody_could(run_program: RunProgram, tmp_path: Path) -> None:
    """When the keeper was killed too."""
    result = run_program(
        tmp_path,
        program("""
            init()
            for _ in range(3):
                spawn(sleeping, resources=Resources(mem="32 MiB", cpu=0.5)).block()
            above = fabric()
            with open(f"/proc/{above}/stat") as file:
                keeper = int(file.read().split()[3])
            os.kill(above, signal.SIGSTOP)  # it would tidy up when the keeper goes
            os.kill(keeper, signal.SIGKILL)
            os.kill(above, signal.SIGKILL)
            time.sleep(100)
        """),
    )
    assert result.returncode == -signal.SIGKILL
    assert len(left()) >= 6
    run_program(tmp_path, "from constellation import init\ninit()\n")
    assert left() == set()


def test_cores_are_weights_and_no_quota(run_program: RunProgram, tmp_path: Path) -> None:
    """Two on one core share it as they asked, whoever else is on it; nothing keeps one of them from a core that is free."""
    result = run_program(
        tmp_path,
        program("""
            def compute(seconds):
                Receiver[int](parent()).recv().block()
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    pass
                Sender[float](parent()).send(time.process_time()).block()
            def run(*cores):
                pids = [spawn(compute, 1.5, resources=Resources(cpu=each)).block() for each in cores]
                for pid in pids:
                    Sender[int](pid).send(0).block()
                return [Receiver[float](pid).recv().block() for pid in pids]
            os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
            init()
            small, large = run(0.125, 1)
            print(large > 2.5 * small)
            def look():
                for line in open("/proc/self/cgroup"):
                    _, names, path = line.strip().split(":")
                    if "cpu" in names.split(","):
                        print("constellation-" in path, open("/sys/fs/cgroup/" + names + path + "/cpu.cfs_quota_us").read())
            watch(spawn(look, resources=Resources(cpu=0.05)).block()).block()
        """),
        env=RAW,
    )
    assert result.stdout.split() == ["True", "True", "-1"], result.stdout + result.stderr


def test_without_control_groups_memory_holds_and_the_weight_is_said_not_to(
    leftovers: Leftovers, tmp_path: Path
) -> None:
    """As for a user who may not make them: the folder is hidden here."""
    script = tmp_path / "prog.py"
    script.write_text(
        program("""
            init()
            for _ in range(2):
                print(watch(spawn(greedy, resources=Resources(mem="24 MiB", cpu=0.5)).block()).block().cause)
        """)
    )
    hide = 'mount -t tmpfs -o ro none /sys/fs/cgroup && exec "$0" "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", hide, sys.executable, str(script)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={**leftovers.environment, **RAW},
        check=False,
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"needs to hide a folder: {done.stderr}")
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all(line.startswith("memory limit: it asked for 24 MiB and had ") for line in lines)
    (word,) = done.stderr.splitlines()
    assert word.startswith("constellation: cpu=0.5 is counted but not held: no control group can be made: ")
    with contextlib.suppress(FileNotFoundError):
        script.unlink()
