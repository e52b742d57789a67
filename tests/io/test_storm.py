"""The kill storm: every role killed -9 at random moments, and what must be true afterwards each time.

A failure names its run as ``SEED:NUMBER``; ``STORM_SEED=SEED:NUMBER`` makes the slow test do that run only. The moments of the
kills are those of the clock, so a run comes out a little different each time: repeat it some ten times.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from constellation.core.limits import owner_of
from constellation.fabric import cgroups
from tests.conftest import MARK, Leftovers

PROGRAM = Path(__file__).with_name("storm_program.py")
CLOSED, DIED = -1, -2
ENDS_S = 80.0
"""Far more than any run takes: what is still there then hangs."""
GONE_S = 3.0
"""A second is promised, and the machine may be busy."""
FATAL = {"keeper", "fabric"}
ROLES = ("process", "first", "template", "fabric", "keeper")
VICTIMS = [
    (100, ("process",)),
    (30, ("process", "process", "process")),
    (8, ("first",)),
    (8, ("template",)),
    (6, ("fabric",)),
    (6, ("keeper",)),
    (2, ("keeper", "fabric")),
    (2, ("template", "fabric", "keeper")),
    (1, ("template", "keeper")),
    (1, ("first", "fabric", "keeper")),
    (1, ("first", "template", "fabric", "keeper")),
    (1, ("first", "template", "process", "process")),
]


class Tree(NamedTuple):
    """OS pids of a deployment at one moment, by role. A role is known by its place below the program under test."""

    keeper: list[int]
    fabric: list[int]
    template: list[int]
    first: list[int]
    process: list[int]


def look(program: int, *, is_attached: bool) -> Tree:
    """Find the roles below a program; those that are not there, or not yet, are missing."""
    below: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
                if fields[0] not in {"Z", "X"}:
                    below.setdefault(int(fields[1]), []).append(int(name))

    def children(*os_pids: int) -> list[int]:
        return sorted(child for os_pid in os_pids for child in below.get(os_pid, []))

    keeper = children(program) if is_attached else [program]
    fabric = children(*keeper)
    template = children(*fabric)
    processes = children(*template)
    if is_attached:
        return Tree(keeper, fabric, template, [program], processes)
    return Tree(keeper, fabric, template, processes[:1], processes[1:])


class Run:
    """One run of the storm's program and the kills that it gets."""

    def __init__(self, leftovers: Leftovers, folder: Path, seed: str) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.folder = folder
        self.leftovers = leftovers
        self.killed: Counter[str] = Counter()
        self.dead: set[str] = set()
        self.is_attached = self.rng.random() < 0.25
        self.sockets: set[int] = set()
        self.fabrics: set[int] = set()
        folder.mkdir()
        (folder / "logs").mkdir()
        (folder / "tmp").mkdir()

    def go(self) -> None:
        """Run, kill, check."""
        before = descriptors()
        environment = {
            **self.leftovers.environment,
            "CONSTELLATION_FORMAT": "json",
            "CONSTELLATION_GRACE": "1",
            "CONSTELLATION_CREDIT": str(self.rng.choice((4 << 20, 64 << 10, 500))),
            "TMPDIR": str(self.folder / "tmp"),
        }
        flags = ["-i"] if self.is_attached else []  # a prompt is no program that could be forked or run again
        with open(self.folder / "out", "wb") as out, open(self.folder / "err", "wb") as err:
            program = subprocess.Popen(
                [sys.executable, "-W", "ignore", *flags, str(PROGRAM), str(self.folder / "logs"), self.seed],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        try:
            self.kill_some(program)
            try:
                program.wait(ENDS_S)
            except subprocess.TimeoutExpired:
                self.fail(f"hangs: {self.why(program)}")
            self.check_gone()
        finally:
            with contextlib.suppress(ProcessLookupError):
                program.kill()
            program.wait()
        self.check_delivery(self.check_events(program.returncode))
        assert descriptors() == before, self.name

    @property
    def name(self) -> str:
        return f"run {self.seed} ({'attached' if self.is_attached else 'forked'}, killed {dict(self.killed)})"

    def fail(self, words: str) -> None:
        err = (self.folder / "err").read_text(errors="replace")[-3000:]
        pytest.fail(f"{self.name}: {words}\n{err}")

    def why(self, program: subprocess.Popen[bytes]) -> str:
        """What the processes wait for, where there is somebody to say it."""
        left = "\n".join(self.leftovers.found())
        for fabric in look(program.pid, is_attached=self.is_attached).fabric:
            os.kill(fabric, signal.SIGQUIT)
            time.sleep(2)
        return left

    # Killing

    def kill_some(self, program: subprocess.Popen[bytes]) -> None:
        weights, choices = zip(*VICTIMS, strict=True)
        most = self.rng.randrange(1, 16)
        while self.killed.total() < most:
            time.sleep(self.rng.choice((0.0, 0.005, 0.02, 0.06, 0.15)) * self.rng.random() * 2)
            if program.poll() is not None:
                return
            tree = look(program.pid, is_attached=self.is_attached)
            self.note(tree)
            (victims,) = self.rng.choices(choices, weights)
            os_pids: dict[int, str] = {}
            for role in victims:
                found = [os_pid for os_pid in getattr(tree, role) if os_pid not in os_pids]
                if found:
                    os_pids[self.rng.choice(found)] = role
            self.kill(os_pids)
            if self.dead & FATAL:
                return
        if self.rng.random() < 0.3:
            # Attached, the end of the caller is what ends all.
            program.send_signal(
                signal.SIGKILL if self.is_attached else self.rng.choice((signal.SIGINT, signal.SIGTERM))
            )

    def kill(self, os_pids: dict[int, str]) -> None:
        """In one instant, as nearly as one thread can. A number that has become another process's is left alone."""
        wanted = f"{MARK}={self.leftovers.mark}".encode()
        with contextlib.ExitStack() as stack:
            pidfds = []
            for os_pid, role in os_pids.items():
                with contextlib.suppress(OSError):
                    pidfd = os.pidfd_open(os_pid)
                    stack.callback(os.close, pidfd)
                    if wanted in Path("/proc", str(os_pid), "environ").read_bytes().split(b"\0"):
                        pidfds.append((pidfd, role))
            for pidfd, role in pidfds:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    self.killed[role] += 1
                    self.dead.add(role)

    def note(self, tree: Tree) -> None:
        """Remember which sockets there are, and whose control groups."""
        self.fabrics.update(tree.fabric)
        for os_pid in {os_pid for role in tree for os_pid in role}:
            with contextlib.suppress(OSError):
                for fd in os.listdir(f"/proc/{os_pid}/fd"):
                    found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{os_pid}/fd/{fd}"))
                    if found:
                        self.sockets.add(int(found[1]))

    # Checking

    def check_gone(self) -> None:
        """Nothing is left of it; where nobody was left to sweep, after the next start."""
        if self.dead >= FATAL:
            subprocess.run(
                [sys.executable, "-c", "from constellation import init\ninit().close()"],
                env={**self.leftovers.environment, MARK: "another", "CONSTELLATION_FORMAT": "raw"},
                check=True,
                timeout=ENDS_S,
            )
        end = time.monotonic() + GONE_S
        while left := [*self.leftovers.found(), *self.left_in_kernel()]:
            if time.monotonic() > end:
                self.fail(f"left behind: {left}")
            time.sleep(0.01)
        kept = {path.name for path in self.folder.iterdir()}
        if kept != {"logs", "tmp", "out", "err"} or list((self.folder / "tmp").iterdir()):
            self.fail(f"left files: {kept} {list((self.folder / 'tmp').iterdir())}")

    def left_in_kernel(self) -> list[str]:
        """Sockets that somebody of the run had, and control groups that its fabrics had made."""
        left = []
        for table, column in (("tcp", 9), ("tcp6", 9), ("udp", 9), ("unix", 6)):
            with contextlib.suppress(OSError):
                for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                    fields = line.split()
                    if int(fields[column]) in self.sockets:
                        left.append(f"{table}: {line}")
        for place in cgroups.find().values():
            with contextlib.suppress(OSError):
                for name in os.listdir(place.folder):
                    owner = owner_of(name)
                    if owner is not None and owner.os_pid in self.fabrics:
                        left.append(f"{place.folder}/{name}")
        return left

    def check_events(self, code: int) -> dict[str, dict[str, Any]]:
        """The event stream: whole lines, each end once and after its beginning. Gives the ends by Pid."""
        text = (self.folder / "out").read_text()
        lines = text.split("\n")
        if lines.pop() and not self.dead & {"fabric", *(["first"] if self.is_attached else [])}:
            self.fail(f"the last event is cut: {text[-200:]!r}")
        began: set[str] = set()
        ends: dict[str, dict[str, Any]] = {}
        for line in lines:
            if self.is_attached and line.endswith("r has written this"):
                continue  # the caller's own stdout is left alone
            try:
                event = json.loads(line)
            except ValueError:
                self.fail(f"not an event: {line!r}")
            if event["event"] == "spawn":
                began.add(event["pid"])
            elif event["event"] == "exit":
                if event["pid"] in ends or event["pid"] not in began:
                    self.fail(f"an end of a process that had ended, or not begun: {event}")
                ends[event["pid"]] = event
            elif event["fd"] == 2:
                self.check_words(event["data"])
        self.check_words((self.folder / "err").read_text())
        if not self.is_attached and not self.dead & FATAL:
            if ends.keys() != began:
                self.fail(f"no end of {began - ends.keys()}")
            if code < 0 and began:  # before init() it is a program like another
                self.fail(f"ended by signal {-code}, though nobody killed the keeper")
        return ends

    def check_words(self, text: str) -> None:
        """No exception but the planned one."""
        for found in re.finditer(r"^(\w[\w.]*(?:Error|Exception|Died|Closed|Interrupt)\b.*)$", text, re.MULTILINE):
            if found[1] not in {
                "ValueError: planned",
                "KeyboardInterrupt",
                "KeyboardInterrupt: ",
            }:  # the last of a callback
                self.fail(f"a process said {found[1]!r}")

    def check_delivery(self, ends: dict[str, dict[str, Any]]) -> None:
        """What came is a prefix of what was sent; all of it, where the sender ended in a good way and the receiver saw it."""
        logs = self.folder / "logs"
        pids = {path.name[4:]: path.read_text() for path in logs.glob("pid-*")}
        for path in logs.glob("got-*"):
            channel = path.name[4:]
            got, end = _numbers(path)
            sent, sender_end = _numbers(logs / f"sent-{channel}") if (logs / f"sent-{channel}").exists() else ([], None)
            if got != list(range(len(got))) or len(got) > len(sent):
                self.fail(f"{channel}: {len(sent)} were sent, {got} came")
            if end is None or len(got) == len(sent):
                continue
            direction, _, key = channel.partition("-")
            sender = key if direction == "up" else key.rpartition(".")[0]
            how = ends.get(pids.get(sender, ""), {})
            # An error of the sender means that the receiver had gone; what ends by os._exit or a signal delivers nothing.
            has_ended_well = how.get("code") in {0, 1, 3} and not (how["cause"] or "").startswith("undelivered")
            if sender_end == CLOSED and (end == CLOSED or has_ended_well):
                self.fail(f"{channel}: {len(sent)} were sent before {how}, and only {len(got)} came, then {end}")


def _numbers(path: Path) -> tuple[list[int], int | None]:
    """The numbers in a log, and how it ends."""
    data = path.read_bytes()
    numbers = [int.from_bytes(data[at : at + 4], "little", signed=True) for at in range(0, len(data) - 3, 4)]
    end = numbers.pop() if numbers and numbers[-1] < 0 else None
    return numbers, end


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


def _runs(leftovers: Leftovers, folder: Path, seed: str, kills: int) -> Iterator[Run]:
    done, number = 0, 0
    while done < kills:
        run = Run(leftovers, folder / str(number), f"{seed}:{number}")
        run.go()
        yield run
        done += run.killed.total()
        number += 1


def test_a_small_storm(leftovers: Leftovers, tmp_path: Path) -> None:
    """Thirty kills: delivered prefixes are prefixes of what was sent, and nothing is left."""
    killed: Counter[str] = Counter()
    for run in _runs(leftovers, tmp_path, "small", 30):
        killed += run.killed
    assert killed.total() >= 30


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_storm(leftovers: Leftovers, tmp_path: Path) -> None:
    """A thousand kills of every role."""
    wanted = os.environ.get("STORM_SEED", "1")
    if ":" in wanted:
        Run(leftovers, tmp_path / "one", wanted).go()
        return
    killed: Counter[str] = Counter()
    for run in _runs(leftovers, tmp_path, wanted, 1000):
        killed += run.killed
    assert all(killed[role] >= 10 for role in ROLES), killed
