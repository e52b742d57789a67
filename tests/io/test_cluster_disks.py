"""A disk that fills in the middle, wherever one is written to: said in words, nothing lost or left, and it goes on with room."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from constellation.core.address import parse_address
from constellation.fabric.serving import _folder_of
from tests.conftest import MARK, Leftovers
from tests.io.cluster import LIMIT_S, Cluster, cluster, daemon_below, kill
from tests.io.test_environments import has_pip, wheel

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk"),
]

HELLO = "from constellation import init\ninit()\nprint('hello')\n"

TALKER = """
    import os, sys, time
    from constellation import init
    init()
    print("begun", flush=True)
    while not os.path.exists("go"):
        time.sleep(0.02)
    for number in range(60_000):
        print(f"line {number}")
    sys.exit(7)
"""
LINES = ["begun", *(f"line {number}" for number in range(60_000))]


class Disk:
    """A small one, at a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Leave no room on it."""
        with open(self._filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def make_room(self) -> None:
        """Take back what filled it."""
        self._filler.unlink()


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Disk]:
    """Mount one."""
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "none", str(folder)], check=True)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def folder_of(made: Cluster, name: str) -> Path:
    """Where a daemon keeps its files."""
    at = int(name[1:]) - 1
    return made.folder / "state" / "constellation" / _folder_of(parse_address(made.addresses[at]))


@contextlib.contextmanager
def fabric_with(made: Cluster) -> Iterator[None]:
    """Start all of it, and stop it."""
    try:
        made.start_all()
        made.wait_for_nodes()
        yield
    finally:
        made.stop()


def wait(done: Callable[[], object], what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + LIMIT_S
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def begun(made: Cluster, talker: str = TALKER) -> subprocess.Popen[str]:
    """Deploy the talker, and wait until it runs."""
    client = made.begin(talker, options=("--format", "raw"))
    assert client.stdout is not None
    assert client.stdout.readline() == "begun\n"
    return client


def go(made: Cluster) -> None:
    """Have the talker write all its lines."""
    (made.folder / "program" / "go").touch()


@pytest.mark.parametrize("is_killed", [False, True], ids=["", "bridge killed meanwhile"])
def test_output_waits_for_room_at_the_bridge_and_none_is_lost(
    tmp_path: Path, leftovers: Leftovers, is_killed: bool
) -> None:
    """Who watches is told why nothing comes; with room again all lines come, once, in order, and the exit code."""
    made = Cluster(tmp_path, leftovers, 2)
    with small_disk(folder_of(made, "n1") / "events", "1m") as disk, fabric_with(made):
        client = begun(made)
        disk.fill()
        go(made)
        made.wait_for("n1", "cannot be kept")
        assert "No space left on device" in made.log("n1")
        assert client.stderr is not None
        told = client.stderr.readline()
        assert "No space left on device" in told, told
        assert "make room" in told, told
        if is_killed:
            bridge = bridge_of(made)
            kill(bridge)
            made.wait_for("n1", "the bridge has ended: it is started again")
            wait(lambda: bridge_of(made) not in {0, bridge}, "the bridge does not come back")
        disk.make_room()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk.folder)], check=True)
        out, _ = client.communicate(timeout=2 * LIMIT_S)
        assert out.splitlines() == LINES[1:]
        assert client.returncode == 7
        assert made.deploy(HELLO, options=("--format", "raw")).stdout == "hello\n"


def bridge_of(made: Cluster) -> int:
    """OS pid of the bridge; 0: it is not there."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes()
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if b"serving\0bridge" in command and int(parent) == daemon_below(made.daemons["n1"]):
                return int(folder.name)
    return 0


def test_a_deployment_whose_events_cannot_be_kept_is_refused_before_it_runs(
    tmp_path: Path, leftovers: Leftovers
) -> None:
    """Code 4 and the folder; what runs goes on, the bridge lives, nothing is left, and the next one runs when there is room."""
    made = Cluster(tmp_path, leftovers, 2)
    with small_disk(folder_of(made, "n1") / "events", "1m") as disk, fabric_with(made):
        made.wait_for("n1", "a bridge listens")
        before = bridge_of(made)
        disk.fill()
        done = made.deploy("from constellation import init\ninit()\nopen('ran', 'w')\n")
        assert done.returncode == 4, done
        assert f"in {disk.folder}: No space left on device; make room on that disk, and deploy again" in done.stderr
        assert not (made.folder / "program" / "ran").exists()
        assert [each.name for each in disk.folder.iterdir()] == ["filler"]
        assert bridge_of(made) == before
        disk.make_room()
        assert made.deploy(HELLO, options=("--format", "raw")).stdout == "hello\n"


ONLY_THE_SECOND = ('mem = "10 MiB"', "")
"""No program fits on the first node."""


def deploy_whole(made: Cluster, folder: Path) -> tuple[str, str, int]:
    """Deploy prog.py of a folder, with its files."""
    done = made.run(
        "deploy",
        "--env",
        f"{MARK}={made.mark}",
        "--format",
        "raw",
        made.bridge,
        "prog.py",
        cwd=folder,
        timeout=2 * LIMIT_S,
    )
    return done.stdout, done.stderr, done.returncode


def test_a_node_whose_disk_fills_while_files_come_says_so_and_takes_the_next_program(
    tmp_path: Path, leftovers: Leftovers
) -> None:
    """The node is named; of the copy nothing is left, and with room the same program runs."""
    made = Cluster(tmp_path, leftovers, 2, lines=ONLY_THE_SECOND)
    program = tmp_path / "big"
    program.mkdir()
    (program / "prog.py").write_text(HELLO)
    (program / "noise.bin").write_bytes(os.urandom(4 << 20))
    with small_disk(folder_of(made, "n2"), "3m") as disk, fabric_with(made):
        _, err, code = deploy_whole(made, program)
        assert code == 4, err
        assert "on n2: cannot " in err
        assert "No space left on device; make room on that disk, and deploy again" in err
        wait(lambda: not list((disk.folder / "deployments").iterdir()), "a folder of the deployment is left")
        assert not [each for store in disk.folder.glob("store/*/incoming") for each in store.iterdir()]
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk.folder)], check=True)
        out, err, code = deploy_whole(made, program)
        assert (out, code) == ("hello\n", 0), err


@has_pip
def test_an_environment_that_has_no_room_is_said_and_taken_back(tmp_path: Path, leftovers: Leftovers) -> None:
    """Nothing runs, nothing half-made stays; a program that asks for less is installed and runs."""
    wheels = tmp_path / "wheels"
    wheel(wheels, "granite", "1.0")
    wheel(wheels, "boulder", "1.0", code="# " + "x" * (8 << 20))
    made = Cluster(tmp_path, leftovers, 2, lines=ONLY_THE_SECOND)
    made.environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    program = tmp_path / "asking"
    program.mkdir()
    (program / "prog.py").write_text("print('ran')\n" + HELLO)
    (program / "requirements.txt").write_text("boulder\n")
    with small_disk(folder_of(made, "n2") / "environments", "6m") as disk, fabric_with(made):
        out, err, code = deploy_whole(made, program)
        assert (out, code) == ("", 4), err
        assert "on n2: cannot install what requirements.txt asks for: the disk is full: make room where" in err
        owners = list(disk.folder.iterdir())
        assert [
            each.name for owner in owners for each in owner.iterdir() if each.is_dir() and list(each.iterdir())
        ] == []
        (program / "requirements.txt").write_text("granite\n")
        out, err, code = deploy_whole(made, program)
        assert (out, code) == ("ran\nhello\n", 0), err


def test_daemons_whose_log_has_no_room_go_on(tmp_path: Path, leftovers: Leftovers) -> None:
    """As on a full disk: what they would say is lost, and nothing else."""
    with cluster(tmp_path, leftovers, 1) as made:
        made.wait_for_nodes()
        made.daemons["n1"].terminate()
        made.daemons["n1"].wait(LIMIT_S)
        with open("/dev/full", "wb") as log:
            made.daemons["n1"] = subprocess.Popen(
                [*made.command, "master", made.addresses[0], str(made.file), "--drain-limit", "0"],
                env=made.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        assert made.deploy(HELLO, options=("--format", "raw")).stdout == "hello\n"
        assert made.daemons["n1"].poll() is None
