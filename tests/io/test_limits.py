"""Demands that hold without root: the watchdog with real processes, version 2 of control groups with a tree in a folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from constellation.core.lifecycle import KillOrder
from constellation.core.limits import OUT_OF_MEMORY, Owner, Place
from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.fabric import cgroups, usergroups
from constellation.fabric.books import Process
from constellation.fabric.limits import Limits
from constellation.fabric.loop import Loop
from constellation.fabric.monitor import Monitor
from constellation.fabric.users import Account
from tests.conftest import RunProgram

LIMIT_S = 20.0
_HOG = """
import sys, time
sys.stdin.readline()
taken = []
for _ in range(int(sys.argv[1])):
    taken.append(b"x" * (1 << 20))
    time.sleep(0.002)
print("done", flush=True)
sys.stdin.readline()
"""


class Stage:
    """Limits with a loop and a monitor, and processes that nobody but the test has started."""

    def __init__(self, found: dict[str, Place], *, is_all: bool = False) -> None:
        self.loop = Loop()
        self.words: list[str] = []
        self.monitor = Monitor(self.loop, lambda *_: None, lambda: True)
        self.limits = Limits(self.loop, self.monitor, found, self.words.append, is_all=is_all)
        self._numbers = 1

    def process(self, demand: Resources) -> Process:
        """A process that has not begun."""
        self._numbers += 1
        return Process(self._numbers, Pid(1, self._numbers, os.urandom(16)), None, "prog:f", demand, None)

    def begin(self, process: Process, os_pid: int) -> None:
        """It has been forked."""
        process.os_pid, process.pidfd = os_pid, os.pidfd_open(os_pid)
        process.is_ready = True
        self.limits.began(process)

    def until(self, condition: Callable[[], bool]) -> None:
        """Run the loop."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline
            self.loop.step(0.01)

    def close(self) -> None:
        """Give everything back."""
        self.limits.close()
        self.loop.close()


@pytest.fixture
def hog() -> Iterator[Callable[[int], subprocess.Popen[bytes]]]:
    """Start an interpreter that takes so many MiB after a line on its stdin."""
    started: list[subprocess.Popen[bytes]] = []

    def start(size: int) -> subprocess.Popen[bytes]:
        child = subprocess.Popen([sys.executable, "-c", _HOG, str(size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def _go(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    child.stdin.write(b"\n")
    child.stdin.flush()


def test_the_watchdog_kills_the_greedy_one_alone(hog: Callable[[int], subprocess.Popen[bytes]]) -> None:
    """And says how much it had; one that keeps to its demand lives."""
    stage = Stage({})
    greedy, modest = hog(400), hog(5)
    one, other = (stage.process(Resources(mem="64 MiB")) for _ in range(2))
    stage.begin(one, greedy.pid)
    stage.begin(other, modest.pid)
    _go(modest)
    _go(greedy)
    stage.until(lambda: greedy.poll() is not None)

    cause = stage.limits.cause(one, signal.SIGKILL)
    assert greedy.returncode == -signal.SIGKILL
    assert cause is not None and cause.startswith("memory limit: it asked for 64 MiB and had ")
    assert 64 <= int(cause.removesuffix(" MiB").rpartition(" ")[2]) < 400
    assert modest.poll() is None
    assert stage.limits.cause(one, signal.SIGTERM) is None
    stage.limits.release(one)
    stage.limits.release(other)
    stage.close()
    assert stage.words == []


def test_an_unwritten_demand_holds_nobody(hog: Callable[[int], subprocess.Popen[bytes]]) -> None:
    """100 MiB are what is counted, and not what anybody asked for; with a capacity they are held."""
    for is_all in (False, True):
        stage = Stage({}, is_all=is_all)
        child = hog(200)
        process = stage.process(Resources())
        stage.begin(process, child.pid)
        _go(child)
        assert child.stdout is not None
        if is_all:
            stage.until(lambda child=child: child.poll() is not None)  # type: ignore[misc]
            assert stage.limits.cause(process, signal.SIGKILL) is not None
        else:
            assert child.stdout.readline() == b"done\n"
        stage.close()


def test_a_kill_from_elsewhere_is_not_called_a_memory_limit(hog: Callable[[int], subprocess.Popen[bytes]]) -> None:
    """Nothing is claimed that is not known."""
    stage = Stage({})
    child = hog(1)
    process = stage.process(Resources(mem="64 MiB"))
    stage.begin(process, child.pid)
    child.kill()
    child.wait()
    assert stage.limits.cause(process, signal.SIGKILL) is None
    stage.close()


def test_what_cannot_be_held_is_said_once() -> None:
    """Only where the user has written it: a weight without a control group, for one."""
    stage = Stage({})
    me = os.getpid()
    for demand in (Resources(mem="1 TiB"), Resources(), Resources(cpu=0.5), Resources(cpu=0.25)):
        stage.begin(stage.process(demand), me)
    assert stage.words == [
        "constellation: cpu=0.5 is counted but not held: no control group can be made: the controller is not there\n"
    ]
    stage.close()


def test_a_caller_that_is_attached_is_not_killed() -> None:
    """It was there before; that its demand is not held is said where it wrote one."""
    for demand, count in ((Resources(), 0), (Resources(mem="20 MiB"), 1)):
        stage = Stage({}, is_all=True)
        process = stage.process(demand)
        process.is_attached = True
        process.os_pid = os.getpid()
        stage.limits.take_in(process)
        assert len(stage.words) == count
        stage.close()


# Version 2, in a folder


class FakeTree:
    """What the kernel does in a folder of version 2, as far as it is needed: files appear, and vanish with their folder."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.base = base
        self.full: set[str] = set()
        """Folders that hold processes."""
        base.mkdir()
        self._fill(base)
        monkeypatch.setattr(cgroups, "_make", self._make)
        monkeypatch.setattr(cgroups, "_remove", self._remove)

    def _fill(self, folder: Path) -> None:
        for name in ("cgroup.procs", "cgroup.kill", "memory.max", "memory.swap.max", "cpu.weight"):
            (folder / name).touch()
        (folder / "cgroup.subtree_control").write_text("memory cpu pids\n")
        for name in ("memory.events", "memory.events.local"):
            (folder / name).write_text("max 0\noom 0\noom_kill 0\n")

    def _make(self, folder: str) -> None:
        os.mkdir(folder)
        self._fill(Path(folder))

    def _remove(self, folder: str) -> None:
        if not os.path.exists(folder):
            raise FileNotFoundError(folder)
        if (Path(folder) / "cgroup.kill").read_text() == "1":
            self.full.discard(folder)
        if folder in self.full or any(each.is_dir() for each in Path(folder).iterdir()):
            raise OSError(16, "Device or resource busy")
        shutil.rmtree(folder)

    @property
    def places(self) -> dict[str, Place]:
        """As `cgroups.find` gives them."""
        here = Place(str(self.base), 2)
        return {"memory": here, "cpu": here}

    @property
    def groups(self) -> list[Path]:
        """Those of ours."""
        return sorted(self.base.glob("constellation-*"))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTree:
    """A fake tree that has both controllers."""
    return FakeTree(tmp_path / "cgroup", monkeypatch)


def _enter(entrances: list[int]) -> None:
    for entrance in entrances:
        os.write(entrance, b"0")
        os.close(entrance)


def test_version_2_limits_weighs_and_explains(tree: FakeTree) -> None:
    """One group has both limits, is entered by its cgroup.procs, and its events are the cause."""
    stage = Stage(tree.places)
    process = stage.process(Resources(mem="20 MiB", cpu=0.5))
    _enter(stage.limits.prepare(process))
    stage.limits.hold(process)
    stage.begin(process, os.getpid())

    (group,) = tree.groups
    assert (group / "cgroup.procs").read_text() == "0"
    assert (group / "memory.max").read_text() == str(20 << 20)
    assert (group / "memory.swap.max").read_text() == "0"
    assert (group / "cpu.weight").read_text() == "50"
    assert stage.limits.cause(process, signal.SIGKILL) is None
    (group / "memory.events").write_text("max 3\noom 1\noom_kill 1\n")
    assert stage.limits.cause(process, signal.SIGKILL) == "memory limit: it asked for 20 MiB and needed more"
    (group / "memory.events").write_text("max 0\noom 0\noom_kill 1\n")
    assert stage.limits.cause(process, signal.SIGKILL) == OUT_OF_MEMORY
    stage.limits.release(process)
    stage.until(lambda: group not in tree.groups)
    stage.close()
    assert tree.groups == [] and stage.words == []


def test_one_without_a_group_of_its_own_is_explained_by_the_outer_one(tree: FakeTree) -> None:
    """Each kill there explains one end; an end that we wanted, or that took the template along, needs none."""
    stage = Stage(tree.places)
    processes = [stage.process(Resources()) for _ in range(3)]
    for process in processes:
        assert stage.limits.prepare(process) == []
    (tree.base / "memory.events.local").write_text("oom 1\noom_kill 1\n")
    processes[0].order = KillOrder()
    processes[0].order.kill("somebody")
    causes = [stage.limits.cause(process, signal.SIGKILL) for process in processes]
    assert causes == [None, OUT_OF_MEMORY, None]
    stage.close()
    assert tree.groups == []


def test_weights_are_for_all_once_somebody_has_one(tree: FakeTree) -> None:
    """Else a process that asks for nothing would weigh as much as one that asks for a core."""
    stage = Stage(tree.places)
    before, asking, after = (stage.process(demand) for demand in (Resources(), Resources(cpu=1), Resources()))
    counts = []
    for process in (before, asking, after):
        entrances = stage.limits.prepare(process)
        counts.append(len(entrances))
        _enter(entrances)
        stage.limits.hold(process)
    assert counts == [0, 1, 1]
    assert sorted((group / "cpu.weight").read_text() for group in tree.groups) == ["100", "6"]
    assert [(group / "memory.max").read_text() for group in tree.groups] == ["", ""]
    stage.close()
    assert tree.groups == []


def test_groups_are_made_ahead_and_used(tree: FakeTree) -> None:
    """So that a spawn does not wait for the kernel; all are gone at the end."""
    stage = Stage(tree.places)
    first = stage.process(Resources(mem="20 MiB"))
    _enter(stage.limits.prepare(first))
    stage.until(lambda: len(tree.groups) == 1 + cgroups.SPARES)
    made = tree.groups
    _enter(stage.limits.prepare(stage.process(Resources(mem="20 MiB"))))
    assert tree.groups == made
    stage.close()
    assert tree.groups == []


def test_what_a_process_left_in_its_group_is_killed_at_the_end(tree: FakeTree) -> None:
    """Until then the group stays; cgroup.kill takes all of it at once."""
    stage = Stage(tree.places)
    process = stage.process(Resources(mem="20 MiB"))
    _enter(stage.limits.prepare(process))
    (group,) = tree.groups
    tree.full.add(str(group))
    stage.limits.release(process)
    stage.loop.step(0.01)
    assert group in tree.groups
    stage.close()
    assert tree.groups == []


def test_a_tree_that_is_not_ours_to_write_is_watched_instead(
    tree: FakeTree, hog: Callable[[int], subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory holds all the same, and nothing is said of it; of the weight it is, with the reason."""

    def refuse(folder: str) -> None:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(cgroups, "_make", refuse)
    stage = Stage(tree.places)
    child = hog(400)
    process = stage.process(Resources(mem="32 MiB", cpu=0.5))
    assert stage.limits.prepare(process) == []
    stage.limits.hold(process)
    stage.begin(process, child.pid)
    _go(child)
    stage.until(lambda: child.poll() is not None)
    cause = stage.limits.cause(process, signal.SIGKILL)
    assert cause is not None and "asked for 32 MiB and had " in cause
    (word,) = stage.words
    assert word.startswith("constellation: cpu=0.5 is counted but not held") and "Permission denied" in word
    stage.close()


def test_a_tree_without_the_controllers_is_not_used(tree: FakeTree) -> None:
    """They are asked for, and the kernel refuses where there are processes beside the group."""
    control = tree.base / "cgroup.subtree_control"
    control.write_text("pids\n")
    stage = Stage(tree.places)
    _enter(stage.limits.prepare(stage.process(Resources(mem="20 MiB"))))
    assert control.read_text() == "+cpu +memory"
    stage.close()


def test_groups_of_the_dead_are_removed_and_no_others(tree: FakeTree) -> None:
    """By the next start, and by a keeper whose fabric was killed: the name tells who made them."""
    me = cgroups.myself()
    with subprocess.Popen(["true"]) as child:
        pass
    names = {
        "dead": Owner(me.namespace, child.pid, 1).folder(1),
        "another time": Owner(me.namespace, me.os_pid, me.start - 1).folder(2),
        "alive": me.folder(3),
        "elsewhere": Owner(me.namespace + 1, child.pid, 1).folder(4),
        "foreign": "constellation-of-stars",
    }
    for name in names.values():
        cgroups._make(str(tree.base / name))
    tree.full.add(str(tree.base / names["dead"]))
    cgroups.remove_left(tree.places)
    left = {group.name for group in tree.groups}
    assert left == {names["alive"], names["elsewhere"], names["foreign"]}


def _user_groups(tree: FakeTree, monkeypatch: pytest.MonkeyPatch, loop: Loop, log: list[str]) -> usergroups.UserGroups:
    """As root's daemon has them; who runs the test stands for the user."""
    monkeypatch.setattr(usergroups, "open_entrance", lambda _account, path: os.open(path, os.O_WRONLY | os.O_CLOEXEC))
    return usergroups.UserGroups(loop, lambda: Resources(mem="1 GiB", cpu=4), log.append, tree.places)


_ACCOUNT = Account("somebody", os.getuid(), os.getgid(), (os.getgid(),), "/", "/bin/sh")


def test_version_2_has_a_mapped_users_groups_in_one_of_the_deployment(
    tree: FakeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one bounds and weighs all of it and takes in no process; the monitor process and each other one have theirs."""
    log: list[str] = []
    loop = Loop()
    groups = _user_groups(tree, monkeypatch, loop, log)
    part = groups.of(_ACCOUNT)
    assert part is not None
    own = Path(part.folder)
    assert (own / "memory.max").read_text() == str((1 << 30) + usergroups.BESIDE)
    assert (own / "cpu.weight").read_text() == "100"
    part.take_in(1234)
    (station,) = (each for each in own.iterdir() if each.is_dir())
    assert (station / "cgroup.procs").read_text() == "1234"

    ((held, group),) = part.give(b"one", Resources(mem="64 MiB", cpu=0.5))
    assert held.holds == {"mem", "cpu"}
    assert Path(group.folder).parent == own
    assert (Path(group.folder) / "memory.max").read_text() == str(64 << 20)
    assert (Path(group.folder) / "cpu.weight").read_text() == "50"
    assert (own / "cpu.weight").read_text() == "150"
    os.write(group.entrance, b"0")
    (station / "cgroup.procs").write_text("1234\n5678\n")
    part.began(b"one", 999)
    assert (Path(group.folder) / "cgroup.procs").read_text() == "0", "it was not born in this deployment"
    part.began(b"one", 5678)
    assert (Path(group.folder) / "cgroup.procs").read_text().startswith("5678"), "it had not entered"

    part.release(b"one")
    loop.step(0.1)
    assert not Path(group.folder).exists()
    assert (own / "cpu.weight").read_text() == "100"
    tree.full.add(str(station))  # what the program has left: it is killed, and gone at the next look
    part.close()
    deadline = time.monotonic() + LIMIT_S
    while tree.groups:
        assert time.monotonic() < deadline
        loop.step(0.01)
    groups.close()
    loop.close()
    assert log == []


def test_a_mapped_user_is_watched_where_no_group_can_be_made(tree: FakeTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said in the log once, with why; nothing half-made stays."""
    log: list[str] = []
    loop = Loop()
    groups = _user_groups(tree, monkeypatch, loop, log)

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(cgroups, "_make", refuse)
    assert [groups.of(_ACCOUNT), groups.of(_ACCOUNT)] == [None, None]
    assert len(log) == 1 and log[0].endswith(": Permission denied")
    groups.close()
    loop.close()
    assert tree.groups == []


def test_groups_in_a_group_of_the_dead_are_removed_with_it(tree: FakeTree) -> None:
    """What a daemon has left whose keeper was killed with it; what is in them is killed."""
    me = cgroups.myself()
    with subprocess.Popen(["true"]) as child:
        pass
    dead = Owner(me.namespace, child.pid, 1)
    outer = tree.base / dead.folder(1)
    cgroups._make(str(outer))
    cgroups._make(str(outer / dead.folder(2)))
    tree.full.add(str(outer / dead.folder(2)))
    cgroups.remove_left(tree.places)
    assert tree.groups == []


# Whole programs

_PROGRAM = """
from constellation import Resources, init, spawn, watch

def greedy():
    taken = []
    for _ in range(1000):
        taken.append(b"x" * (1 << 20))

def modest():
    pass

if __name__ == "__main__":
    init({init})
    one = spawn(greedy, resources=Resources(mem="30 MiB")).block()
    other = spawn(modest, resources=Resources(mem="30 MiB")).block()
    print(watch(one).block().describe())
    print(watch(other).block().describe())
"""


def test_the_greedy_one_dies_alone_and_its_certificate_says_why(run_program: RunProgram, tmp_path: Path) -> None:
    """Whatever this computer allows: a control group or the watchdog."""
    result = run_program(tmp_path, _PROGRAM.format(init=""), env={"CONSTELLATION_FORMAT": "raw"})
    assert result.returncode == 137, result.stderr
    first, second = result.stdout.splitlines()
    assert first.startswith("killed: SIGKILL (memory limit: it asked for 30 MiB and ")
    assert second == "exited: 0"
    assert result.stderr == ""


def test_the_first_process_is_held_too(run_program: RunProgram, tmp_path: Path) -> None:
    """By watching, for it began before there was anybody to hold it."""
    result = run_program(
        tmp_path,
        """
        import time
        from constellation import Resources, init
        init(Resources(mem="40 MiB"))
        taken = []
        for _ in range(2000):
            taken.append(b"x" * (1 << 20))
            time.sleep(0.002)
        """,
    )
    assert result.returncode == 137
    assert "killed: SIGKILL (memory limit: it asked for 40 MiB and had " in result.stdout


def test_a_demand_that_is_sent_stays_written(run_program: RunProgram, tmp_path: Path) -> None:
    """A spawner may get its children's demand from somebody else, by any serializer."""
    for serializer in ("pickle", "msgpack"):
        result = run_program(
            tmp_path,
            f"""
            from constellation import Receiver, Resources, Sender, init, parent, pid, spawn
            def child():
                Sender[Resources](parent()).send(Receiver[Resources](parent()).recv().block()).block()
            init(serializer={serializer!r})
            other = spawn(child).block()
            for demand in (Resources(mem="30 MiB"),):
                Sender[Resources](other).send(demand).block()
            print(Receiver[Resources](other).recv().block().written)
            """,
            env={"CONSTELLATION_FORMAT": "raw"},
        )
        assert result.stdout == "('mem',)\n", result.stderr
