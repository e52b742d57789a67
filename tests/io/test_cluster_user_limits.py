"""What holds the processes of two users on a node of root, and what becomes of them when everything above is killed at once."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from constellation.core.limits import owner_of
from tests.conftest import Leftovers, nothing_left
from tests.io.cluster import LIMIT_S, children_of, daemon_below
from tests.io.memory_groups import PLACES, needs_memory_groups
from tests.io.test_cluster_users import ALICE, UserCluster, user_cluster, why_not

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(why_not()), reason=why_not() or "can be run")]


class HiddenCluster(UserCluster):
    """A node that can make no control groups."""

    def command_on(self, name: str) -> list[str]:
        """What starts the daemon."""
        hide = 'mount -t tmpfs -o ro none /sys/fs/cgroup && exec "$0" "$@"'
        return ["unshare", "--mount", "sh", "-c", hide, *super().command_on(name)]


@pytest.fixture(scope="module")
def shared() -> Iterator[UserCluster]:
    """A fabric for the whole module."""
    with nothing_left() as left, user_cluster(left) as made:
        yield made


def groups(daemon: int) -> list[str]:
    """All groups that a daemon has made: others run fabrics on this computer too."""
    folders = {place.folder for place in PLACES.values()}
    found = [(f"{folder}/{name}", owner_of(name)) for folder in folders for name in os.listdir(folder)]
    return [path for path, owner in found if owner is not None and owner.os_pid == daemon]


def wait_until_gone(daemon: int) -> None:
    """Wait until no group is left that a daemon has made for a deployment."""
    deadline = time.monotonic() + LIMIT_S
    while left := groups(daemon):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


GREEDY = """
    import os, sys, time
    from constellation import Resources, init, spawn, watch

    if sys.argv[1:] == ["outside"]:
        from constellation.process import template
        template._enter = os.close

    def greedy():
        kept = []
        time.sleep("outside" in sys.argv)
        for _ in range(2048):
            kept.append(b"x" * (1 << 20))

    init(Resources(mem="100 MiB", cpu=0.1))
    if sys.argv[1:] == ["first"]:
        greedy()
    pid = spawn(greedy, resources=Resources(mem="64 MiB", cpu=0.1)).block()
    print(watch(pid).block())
"""


@needs_memory_groups
def test_the_kernel_holds_the_demands_of_a_mapped_user(shared: UserCluster) -> None:
    """A spawned process and the first one die at their limits, by name; groups go with their deployment."""
    done = shared.deploy_by("alice", GREEDY)
    assert "memory limit: it asked for 64 MiB and needed more" in done.stdout, done
    assert "not held" not in done.stderr
    done = shared.deploy_by("bob", GREEDY, "first")
    assert done.returncode == 137, done
    wait_until_gone(daemon_below(shared.daemons["n1"]))
    assert "held by looking" not in shared.log("n1")


ESCAPE = """
    import json, os, signal, sys
    from constellation.process import template

    kept = []

    def keep(entrance):
        kept.append(os.dup(entrance))
        enter(entrance)

    enter, template._enter = template._enter, keep
    from constellation import Receiver, Resources, Sender, init, parent, spawn

    def tried(outcomes, name, attempt):
        try:
            attempt()
        except OSError as error:
            outcomes[name] = type(error).__name__
        else:
            outcomes[name] = "done"

    def write(path, text):
        with open(path, "w") as file:
            file.write(text)

    def attempts(others):
        outcomes = {}
        with open("/proc/self/cgroup") as file:
            rows = [line.strip().split(":") for line in file]
        for _, names, path in rows:
            if names not in ("memory", "cpu"):
                continue
            own = "/sys/fs/cgroup/" + names + path
            for limit in ("memory.limit_in_bytes", "cpu.shares"):
                if os.path.exists(own + "/" + limit):
                    tried(outcomes, limit, lambda: write(own + "/" + limit, "100000000000"))
                    outcomes["is " + limit] = int(open(own + "/" + limit).read())
            for folder in (own, os.path.dirname(own), os.path.dirname(os.path.dirname(own))):
                for name in ("tasks", "cgroup.procs"):
                    tried(outcomes, f"{names} {folder} {name}", lambda: write(folder + "/" + name, "0"))
                tried(outcomes, f"{names} {folder} mkdir", lambda: os.mkdir(folder + "/mine"))
                tried(outcomes, f"{names} {folder} chmod", lambda: os.chmod(folder, 0o777))
            beside = os.path.dirname(own)
            for name in os.listdir(beside):
                if os.path.isdir(beside + "/" + name):
                    tried(outcomes, f"{names} {name} tasks", lambda: write(f"{beside}/{name}/tasks", "0"))
                    tried(outcomes, f"{names} {name} rmdir", lambda: os.rmdir(f"{beside}/{name}"))
        for entrance in kept:
            for name, os_pid in others.items():
                tried(outcomes, f"moves {name}", lambda: os.write(entrance, str(os_pid).encode()))
        Sender(parent()).send([len(kept), outcomes]).block()

    init()
    pid = spawn(attempts, json.loads(sys.argv[1]), resources=Resources(mem="64 MiB", cpu=0.5)).block()
    print(json.dumps(Receiver(pid).recv().block()))
"""

SLEEPER = """
    import os, sys
    from constellation import init
    init()
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


@needs_memory_groups
def test_a_user_neither_leaves_his_groups_nor_changes_their_limits_nor_moves_others_in(shared: UserCluster) -> None:
    """Whatever is written where, the kernel refuses it; an entrance that a program has kept moves nobody else's process."""
    victim = shared.begin_by("bob", SLEEPER)
    assert victim.stdout is not None
    # Of this test's own processes only: should it come to be possible, it must not happen to those of the computer.
    others = {"bob's": int(victim.stdout.readline())}
    done = shared.deploy_by("alice", ESCAPE, json.dumps(others))
    assert done.returncode == 0, done
    entrances, outcomes = json.loads(done.stdout)
    assert entrances == 2
    assert outcomes.pop("is memory.limit_in_bytes") == 64 << 20
    assert outcomes.pop("is cpu.shares") == 512
    assert len(outcomes) > 20
    assert {name: outcome for name, outcome in outcomes.items() if outcome != "PermissionError"} == {}
    victim.communicate("", timeout=LIMIT_S)
    assert victim.returncode == 0
    wait_until_gone(daemon_below(shared.daemons["n1"]))


@needs_memory_groups
def test_a_program_that_keeps_its_processes_out_of_their_groups_has_them_put_there(shared: UserCluster) -> None:
    """The node looks when they have begun."""
    done = shared.deploy_by("alice", GREEDY, "outside")
    assert "memory limit: it asked for 64 MiB and needed more" in done.stdout, done


def test_without_control_groups_the_monitor_process_looks(leftovers: Leftovers) -> None:
    """It kills what takes more than it asked for, and the node's log says that it is so."""
    with user_cluster(leftovers, HiddenCluster) as made:
        done = made.deploy_by("alice", GREEDY)
        assert "memory limit: it asked for 64 MiB and had " in done.stdout, done
        assert made.log("n1").count("the memory of mapped users is held by looking") == 1


STRAYS = """
    import ctypes, os, subprocess, sys, time
    from constellation import init
    init()
    sleeper = "import time; time.sleep(600)"
    executed = subprocess.Popen([sys.executable, "-c", sleeper], start_new_session=True, stdout=subprocess.DEVNULL)
    forked = os.fork()
    if forked == 0:
        os.setsid()
        ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
        os.close(1)
        time.sleep(600)
        os._exit(0)
    print(executed.pid, forked, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    "kind",
    [pytest.param(UserCluster, marks=needs_memory_groups, id="groups"), pytest.param(HiddenCluster, id="marker alone")],
)
def test_the_next_start_ends_what_two_users_had_when_all_above_was_killed_at_once(
    leftovers: Leftovers, kind: type[UserCluster]
) -> None:
    """Keeper, daemon, monitor processes and templates die in one instant; programs in sessions of their own live on till then."""
    with user_cluster(leftovers, kind) as made:
        daemons = [daemon_below(made.daemons["n1"])]
        strays: list[int] = []
        for owner in ("alice", "bob"):
            client = made.begin_by(owner, STRAYS)
            assert client.stdout is not None
            strays += map(int, client.stdout.readline().split())
        users = {os.stat(f"/proc/{each}").st_uid for each in strays}
        assert users == {pwd.getpwnam(name).pw_uid for name in (ALICE, "daemon")}
        above = [each for each in _descendants(made.daemons["n1"].pid) if each not in strays]
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            for each in above:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signum)
        made.daemons["n1"].wait(LIMIT_S)
        assert all(_lives(each) for each in strays)
        assert bool(groups(daemons[0])) == (kind is UserCluster)
        made.start("n1")
        daemons.append(daemon_below(made.daemons["n1"]))
        deadline = time.monotonic() + LIMIT_S
        while living := [each for each in strays if _lives(each)]:
            assert time.monotonic() < deadline, living
            time.sleep(0.02)
        for client in made.clients:
            client.kill()
            client.communicate()
    for daemon in daemons:
        wait_until_gone(daemon)


def _descendants(os_pid: int) -> list[int]:
    found = [os_pid]
    for child in children_of(os_pid):
        found += _descendants(child)
    return found


def _lives(os_pid: int) -> bool:
    try:
        stat = Path(f"/proc/{os_pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}
