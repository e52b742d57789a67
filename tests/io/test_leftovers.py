"""What is left when whoever could sweep was killed with the rest: gone by itself, or at the next start, and nothing else."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Leftovers, RunProgram

RUNAWAYS = """
import ctypes, os, subprocess, sys, time
from constellation import Receiver, Sender, init, parent, spawn
def wait():
    time.sleep(1000)
def runs_away():
    subprocess.Popen(["setsid", "sleep", "1000"])
    if os.fork() == 0:  # a daemon as in the books, and it executes nothing
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 100)
            wait()
        os._exit(0)
    code = "import os, time\\nif os.fork() == 0:\\n os.setsid()\\n time.sleep(1000)"
    subprocess.run([sys.executable, "-c", code])
    Sender(parent()).send(1).block()
    Receiver(parent()).recv().block()  # so that it has left before
    ctypes.PyDLL(None).sleep(1000)  # and no other thread of this process runs meanwhile
"""
PLAIN = (
    RUNAWAYS
    + """
def roles():
    found = [os.getpid()]
    while len(found) < 4:
        found.append(int(open(f"/proc/{found[-1]}/stat").read().rpartition(")")[2].split()[1]))
    return found
if __name__ == "__main__":
    init()
    runaway = spawn(runs_away).block()
    Receiver(runaway).recv().block()
    Sender(runaway).send(1).block()
    print("ROLES", *roles(), flush=True)
    wait()
"""
)
FIRST, TEMPLATE, FABRIC, KEEPER = range(4)
RAW = {"CONSTELLATION_FORMAT": "raw"}
NOTHING = "from constellation import init\ninit()\n"


class Running:
    """A program that has written ``ROLES`` and OS pids."""

    def __init__(
        self, leftovers: Leftovers, folder: Path, source: str, *args: str, name: str = "prog.py", grace: str = "5"
    ) -> None:
        (folder / name).write_text(source)
        self.process = subprocess.Popen(
            [sys.executable, name, *args],
            cwd=folder,
            env={**leftovers.environment, **RAW, "CONSTELLATION_GRACE": grace},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        while "ROLES" not in (line := self.process.stdout.readline()):
            assert line, "the program has ended"
        self.roles = [int(word) for word in line.split()[1:]]

    def kill(self, *roles: int) -> None:
        """Kill several in the same instant, and wait for the one that is ours to wait for."""
        for role in roles:
            os.kill(self.roles[role], signal.SIGKILL)
        if KEEPER in roles:
            self.wait()

    def wait(self) -> None:
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


def _settles(leftovers: Leftovers, seconds: float) -> list[str]:
    """What is left after that time, or nothing sooner."""
    end = time.monotonic() + seconds
    while (left := leftovers.found()) and time.monotonic() < end:
        time.sleep(0.01)
    return left


def _start_another(run_program: RunProgram, folder: Path) -> None:
    # Its own processes have no part in what is looked for.
    other = folder / "other"
    other.mkdir(exist_ok=True)
    done = run_program(other, NOTHING, env={**RAW, "CONSTELLATION_TEST_MARK": "another"})
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


SETS = [roles for count in (1, 2, 3) for roles in itertools.combinations(range(4), count)]
SWEPT_BY_NOBODY = [(TEMPLATE, FABRIC, KEEPER), (FIRST, TEMPLATE, FABRIC, KEEPER)]


@pytest.mark.parametrize("roles", [roles for roles in SETS if roles not in {(FIRST,), *SWEPT_BY_NOBODY}], ids=str)
def test_whoever_is_killed_at_once_the_rest_goes(leftovers: Leftovers, tmp_path: Path, roles: tuple[int, ...]) -> None:
    """While one of keeper, fabric and template is left it sweeps: daemons and sessions of their own included."""
    program = Running(leftovers, tmp_path, PLAIN)
    program.kill(*roles)
    assert _settles(leftovers, 3) == []
    program.wait()


@pytest.mark.parametrize("roles", SWEPT_BY_NOBODY, ids=str)
def test_the_next_start_sweeps_where_nobody_was_left(
    leftovers: Leftovers, run_program: RunProgram, tmp_path: Path, roles: tuple[int, ...]
) -> None:
    """Keeper, fabric and template in one instant: the runaways live on, until any program of this user is started."""
    program = Running(leftovers, tmp_path, PLAIN)
    program.kill(*roles)
    # Not looked at before: any other start on this computer sweeps as well.
    _start_another(run_program, tmp_path)
    assert _settles(leftovers, 1) == []


def test_a_start_touches_nobody_else(leftovers: Leftovers, run_program: RunProgram, tmp_path: Path) -> None:
    """Neither a living deployment and its daemons, nor one that is ending, nor who has a marker from another computer."""
    program = Running(leftovers, tmp_path, PLAIN)
    foreign = subprocess.Popen(
        ["sleep", "1000"],
        env={**leftovers.environment, "CONSTELLATION_DEPLOYMENT": "0123456789abcdef-1-1:1.1.1.1"},
    )
    # A moment after its exec the kernel shows no environment of it as yet.
    while not any(line.startswith(f"process {foreign.pid}:") for line in leftovers.found()):
        assert foreign.poll() is None
    before = leftovers.found()
    _start_another(run_program, tmp_path)
    assert leftovers.found() == before
    assert foreign.poll() is None and program.process.poll() is None
    foreign.kill()
    foreign.wait()
    program.kill(KEEPER, FABRIC)
    assert _settles(leftovers, 3) == []


def test_a_stopped_template_keeps_nobody(leftovers: Leftovers, run_program: RunProgram, tmp_path: Path) -> None:
    """It cannot sweep: the processes see for themselves that their node is gone, and the next start has the rest."""
    program = Running(leftovers, tmp_path, PLAIN)
    os.kill(program.roles[TEMPLATE], signal.SIGSTOP)
    program.kill(KEEPER, FABRIC)
    end = time.monotonic() + 3
    while os.path.exists(f"/proc/{program.roles[FIRST]}") and not _is_zombie(program.roles[FIRST]):
        assert time.monotonic() < end, "the first process lives"
        time.sleep(0.01)
    _start_another(run_program, tmp_path)
    assert _settles(leftovers, 1) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_template_keeps_no_end_waiting(leftovers: Leftovers, tmp_path: Path, number: int) -> None:
    """The keeper killed or asked: the fabric does not wait for reports that do not come."""
    program = Running(leftovers, tmp_path, PLAIN, grace="0.2")
    os.kill(program.roles[TEMPLATE], signal.SIGSTOP)
    os.kill(program.roles[KEEPER], number)
    program.wait()
    assert _settles(leftovers, 3) == []


def test_a_fabric_without_a_keeper_does_not_wait_for_a_reader(leftovers: Leftovers, tmp_path: Path) -> None:
    """Of an output that nobody reads: there is nobody left who could end it."""
    flood = PLAIN.replace("    wait()\n", "    while True: print('x' * 1000)\n")
    assert flood != PLAIN
    program = Running(leftovers, tmp_path, flood)
    time.sleep(0.5)
    os.kill(program.roles[KEEPER], signal.SIGKILL)
    assert _settles(leftovers, 4) == []
    program.wait()


def _is_zombie(os_pid: int) -> bool:
    try:
        return Path("/proc", str(os_pid), "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


NESTING = (
    RUNAWAYS
    + """
def nests():
    inner = subprocess.Popen([sys.executable, "inner.py"], stdout=subprocess.PIPE, text=True)
    Sender(parent()).send(inner.stdout.readline()).block()
    inner.wait()
if __name__ == "__main__":
    init()
    roles = [os.getpid()]
    while len(roles) < 4:
        roles.append(int(open(f"/proc/{roles[-1]}/stat").read().rpartition(")")[2].split()[1]))
    inner = Receiver(spawn(nests).block()).recv().block()
    print("ROLES", *roles, *inner.split()[1:], flush=True)
    wait()
"""
)
INNER = 4  # the inner deployment's roles come behind the outer one's


def test_a_deployment_inside_another(leftovers: Leftovers, run_program: RunProgram, tmp_path: Path) -> None:
    """It lives as long as the outer one: other starts leave it alone; when all that could sweep is killed at once, it goes too."""
    (tmp_path / "inner.py").write_text(PLAIN)
    program = Running(leftovers, tmp_path, NESTING, name="outer.py")
    before = leftovers.found()
    _start_another(run_program, tmp_path)
    assert leftovers.found() == before
    # The inner one, as a whole: its runaways are the outer one's as well, which lives; so they are left to the sweep.
    for role in (TEMPLATE, FABRIC, KEEPER):
        os.kill(program.roles[INNER + role], signal.SIGKILL)
    _start_another(run_program, tmp_path)
    end = time.monotonic() + 1
    while any("sleep 1000" in line for line in leftovers.found()) and time.monotonic() < end:
        time.sleep(0.01)
    assert not [line for line in leftovers.found() if "sleep 1000" in line]
    assert all(os.path.exists(f"/proc/{program.roles[role]}") for role in range(INNER)), "the outer one lives"
    program.kill(KEEPER, FABRIC)
    assert _settles(leftovers, 3) == []


def test_a_deployment_goes_with_the_one_that_it_was_started_in(
    leftovers: Leftovers, run_program: RunProgram, tmp_path: Path
) -> None:
    """Though its own keeper and fabric live: what a deployment has started is part of it."""
    (tmp_path / "inner.py").write_text(PLAIN)
    program = Running(leftovers, tmp_path, NESTING, name="outer.py")
    program.kill(FIRST, TEMPLATE, FABRIC, KEEPER)
    _start_another(run_program, tmp_path)
    assert _settles(leftovers, 2) == []


OUTLIVED = """
import os, pathlib, signal, subprocess, sys, time
from constellation import init, spawn, watch
role = sys.argv[1]
if role == "look":  # who kills the whole deployment but for the shell, and waits for what was done in it
    program = subprocess.Popen([sys.executable, "prog.py", "begin"], stdout=subprocess.PIPE, text=True)
    for os_pid in program.stdout.readline().split():
        os.kill(int(os_pid), signal.SIGKILL)
    program.wait()
    pathlib.Path("dead").touch()
    while not os.path.exists("result"):
        time.sleep(0.01)
    print(pathlib.Path("result").read_text())
elif role == "begin":
    init()
    subprocess.Popen([sys.executable, "prog.py", "shell"], stdin=subprocess.DEVNULL, stdout=2, start_new_session=True)
    roles = [os.getpid()]
    while len(roles) < 4:
        roles.append(int(open(f"/proc/{roles[-1]}/stat").read().rpartition(")")[2].split()[1]))
    while not os.path.exists("shell"):
        pass
    print(*roles, flush=True)
    subprocess.run(["sleep", "1000"])
elif role == "shell":
    pathlib.Path("shell").touch()
    while not os.path.exists("dead"):
        time.sleep(0.01)
    done = [subprocess.run([sys.executable, "prog.py", "work"], capture_output=True, text=True) for _ in range(2)]
    pathlib.Path("made").write_text(" ".join(repr((each.returncode, each.stdout, each.stderr)) for each in done))
    os.rename("made", "result")
else:
    init()
    watch(spawn(time.sleep, 0.01).block()).block()
    print("worked")
"""


@pytest.mark.root
def test_a_shell_that_has_outlived_a_deployment_can_be_worked_in(leftovers: Leftovers, tmp_path: Path) -> None:
    """A start does not kill what it was started from, nor is its own deployment anything left over.

    In a pid namespace: any other start on this computer would kill that shell, and rightly.
    """
    (tmp_path / "prog.py").write_text(OUTLIVED)
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "prog.py", "look"],
        cwd=tmp_path,
        env={**leftovers.environment, **RAW},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == "(0, 'worked\\n', '') (0, 'worked\\n', '')\n", done


ATTACHED = (
    RUNAWAYS
    + """
import asyncio, threading
def parent_of(os_pid):
    return int(open(f"/proc/{os_pid}/stat").read().rpartition(")")[2].split()[1])
def where(has_template):
    template = os.getppid() if has_template else os.getpid()
    fabric = parent_of(template)
    Sender(parent()).send([template, fabric, parent_of(fabric)]).block()
    wait()
async def main():
    init()
    runaway = await spawn(runs_away)
    await Receiver(runaway).recv()
    await Sender(runaway).send(1)
    roles = await Receiver(await spawn(where, "loop" in sys.argv)).recv()
    print("ROLES", os.getpid(), *roles, file=sys.__stdout__, flush=True)
    wait()
if "threads" in sys.argv:
    threading.Thread(target=wait, daemon=True).start()
asyncio.run(main())
"""
)
CLIENT = FIRST


@pytest.mark.parametrize("kind", ["loop", pytest.param("threads", marks=pytest.mark.slow)])
@pytest.mark.parametrize("roles", SETS, ids=str)
def test_roles_of_an_attached_deployment(
    leftovers: Leftovers, run_program: RunProgram, tmp_path: Path, roles: tuple[int, ...], kind: str
) -> None:
    """The same where the fabric hangs on a caller, who is somebody else's child and lives on without it.

    With threads there is no template: every process has been executed, and the last one stands for it.
    """
    program = Running(leftovers, tmp_path, ATTACHED, kind)
    for role in roles:
        os.kill(program.roles[role], signal.SIGKILL)
    if CLIENT not in roles:
        time.sleep(0.2)
        assert program.process.poll() is None, "the caller lives on"
        program.process.kill()
    program.wait()
    if {FABRIC, KEEPER} <= set(roles):
        _start_another(run_program, tmp_path)
    assert _settles(leftovers, 3) == []
