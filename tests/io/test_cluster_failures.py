"""What a fabric does when one of its daemons is killed, stopped or started again, or a client goes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Leftovers
from tests.io.cluster import Cluster, children_of, cluster, daemon_below, kill

ONE_EACH = ('mem = "150 MiB"\ncpu = 1',) * 3
"""Room for one process of the default demand on each node."""

LEASE_S = 2.0

WATCHER = """
    import sys, time
    from constellation import init, spawn, watch
    def sleeper():
        print("runs", flush=True)
        time.sleep(60)
    init()
    child = spawn(sleeper).block()
    status = watch(child).block()
    print("status", status.code, status.signal, status.cause, flush=True)
"""

COUNTER = """
    import time
    from constellation import init
    init()
    for n in range(int(__import__("sys").argv[1])):
        print(n, flush=True)
        time.sleep(0.05)
"""


class Events:
    """The events of a deployment that runs, as they come."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        self.running = running
        self.seen: list[dict[str, Any]] = []

    def next(self) -> dict[str, Any] | None:
        """The next one; None at the end."""
        assert self.running.stdout is not None
        line = self.running.stdout.readline()
        if not line:
            return None
        self.seen.append(json.loads(line))
        return self.seen[-1]

    def until(self, wanted: str) -> None:
        """Read until some output has come."""
        while wanted not in self.output():
            assert self.next() is not None, f"the end came before {wanted!r}: {self.seen}"

    def rest(self) -> int:
        """Read to the end; the exit code."""
        while self.next() is not None:
            pass
        self.running.communicate()
        return self.running.returncode

    def output(self) -> str:
        """All output so far."""
        return "".join(event["data"] for event in self.seen if event["event"] == "output")

    def node_of(self, function: str) -> str:
        """On which node a function runs."""
        return next(str(e["node"]) for e in self.seen if e["event"] == "spawn" and e["function"] == function)


def _begin(made: Cluster, source: str, *args: str, options: tuple[str, ...] = ()) -> Events:
    return Events(made.begin(source, *args, options=("--format", "json", *options)))


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_node_that_is_lost_is_named_in_the_certificates(
    tmp_path: Path, leftovers: Leftovers, signum: signal.Signals
) -> None:
    """Killed -9 or stopped: within the lease and a margin its processes are lost, by name; the others go on."""
    with cluster(tmp_path, leftovers, 3, lines=ONE_EACH, lease=LEASE_S) as made:
        made.wait_for_nodes()
        events = _begin(made, WATCHER)
        events.until("runs")
        child_node, first_node = events.node_of("prog:sleeper"), events.node_of("prog:__main__")
        if child_node == "n1":
            pytest.skip("the child is on the master's node, which another test loses")
        assert child_node != first_node
        daemon = daemon_below(made.daemons[child_node])
        kill(daemon, signum)
        assert events.rest() == 1, events.seen
        assert f"node {child_node} lost" in events.output()
        lost = [event for event in events.seen if event["event"] == "exit" and event["cause"]]
        assert [(event["code"], event["signal"]) for event in lost] == [(None, None)]
        if signum == signal.SIGSTOP:
            kill(daemon, signal.SIGCONT)
            made.wait_for("n1", f"'{child_node}' is lost")


def test_a_master_that_stood_still_for_longer_than_the_lease_learns_what_its_nodes_have_killed(
    tmp_path: Path, leftovers: Leftovers
) -> None:
    """It goes on before it would give a node up: nobody but the node can tell it."""
    with cluster(tmp_path, leftovers, 2, lines=ONE_EACH, lease=LEASE_S) as made:
        made.wait_for_nodes()
        events = _begin(made, WATCHER)
        events.until("runs")
        master = daemon_below(made.daemons["n1"])
        kill(master, signal.SIGSTOP)
        try:
            made.wait_for("n2", "the lease is over")
        finally:
            kill(master, signal.SIGCONT)
        assert events.rest() == 1, events.seen
        causes = [event["cause"] or "" for event in events.seen if event["event"] == "exit"]
        assert any(cause.startswith("node n2 lost: no") for cause in causes), events.seen


def test_what_waits_for_room_gets_it_on_a_node_that_joins(tmp_path: Path, leftovers: Leftovers) -> None:
    """A node that comes back is a node like any other."""
    with cluster(tmp_path, leftovers, 2, lines=ONE_EACH, lease=LEASE_S) as made:
        made.wait_for_nodes()
        kill(daemon_below(made.daemons["n2"]))
        made.daemons["n2"].wait(20)
        made.wait_for("n1", "'n2' is lost")
        holder = _begin(made, COUNTER, "10000")
        holder.until("1\n")
        waiting = _begin(made, COUNTER, "3")
        made.start("n2")
        assert waiting.rest() == 0
        assert waiting.output() == "0\n1\n2\n"
        assert waiting.node_of("prog:__main__") == "n2"
        holder.running.send_signal(signal.SIGINT)
        assert holder.rest() == 130


def test_no_output_is_lost_when_the_bridge_is_killed(tmp_path: Path, leftovers: Leftovers) -> None:
    """It is started again; the client comes back, and every line is there once."""
    with cluster(tmp_path, leftovers, 2) as made:
        made.wait_for_nodes()
        events = _begin(made, COUNTER, "80")
        events.until("5\n")
        for _ in range(2):
            bridge = [each for each in children_of(daemon_below(made.daemons["n1"])) if b"bridge" in _command(each)]
            kill(bridge[0])
            events.until(f"{int(events.output().split()[-1]) + 10}\n")
        assert events.rest() == 0
        assert events.output() == "".join(f"{n}\n" for n in range(80))


def test_running_goes_on_while_the_master_is_started_again(tmp_path: Path, leftovers: Leftovers) -> None:
    """Its books are rebuilt from the nodes: no process ends, no line is lost or comes twice, spawns go on."""
    source = """
        import sys, time
        from constellation import Receiver, Sender, init, parent, register, spawn, watch, whereis
        def child(n):
            with_parent = Sender(parent())
            for at in range(n):
                with_parent.send(at).block()
                time.sleep(0.05)
        def late():
            print("late", flush=True)
        init()
        register("first").block()
        pid = spawn(child, 100).block()
        got = []
        for value in Receiver(pid):
            got.append(value)
            print(value, flush=True)
        print(got == list(range(100)), watch(pid).block().code, flush=True)
        print(watch(spawn(late).block()).block().code, flush=True)
    """
    lines = ("", 'mem = "250 MiB"\ncpu = 1', 'mem = "250 MiB"\ncpu = 1')
    with cluster(tmp_path, leftovers, 3, lines=('mem = "1 MiB"\ncpu = 0.01', *lines[1:]), lease=6.0) as made:
        made.wait_for_nodes()
        events = _begin(made, source)
        events.until("10\n")
        kill(daemon_below(made.daemons["n1"]))
        made.daemons["n1"].wait(20)
        made.start("n1")
        assert events.rest() == 0, (events.output(), made.log("n1"), made.log("n2"))
        first = events.seen[0]["pid"]
        said = "".join(event["data"] for event in events.seen if event["event"] == "output" and event["pid"] == first)
        assert said == "".join(f"{n}\n" for n in range(100)) + "True 0\n0\n"
        assert events.output().count("late") == 1
        assert [event["code"] for event in events.seen if event["event"] == "exit"] == [0, 0, 0]


def test_a_deployment_ends_with_its_client(tmp_path: Path, leftovers: Leftovers) -> None:
    """Killed -9, the client takes the deployment along after the grace time; with --detach it goes on."""
    with cluster(tmp_path, leftovers, 1) as made:
        made.wait_for_nodes()
        events = _begin(made, COUNTER, "1000")
        events.until("3\n")
        events.running.kill()
        events.running.communicate()
        deadline = time.monotonic() + 20
        while "prog.py" in made.run("ps", made.bridge).stdout:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        name = made.deploy(COUNTER, "5", options=("--detach",)).stdout.strip()
        done = made.run("attach", "--format", "raw", made.bridge, name)
        assert (done.stdout, done.returncode) == ("0\n1\n2\n3\n4\n", 0)


def _command(os_pid: int) -> bytes:
    with open(f"/proc/{os_pid}/cmdline", "rb") as file:
        return file.read()


def test_nothing_is_left_when_all_daemons_are_killed(tmp_path: Path, leftovers: Leftovers) -> None:
    """Whichever is killed -9: its keeper sweeps what it ran, grandchildren in sessions of their own included."""
    source = """
        import os, subprocess, sys, time
        from constellation import init, spawn
        def child():
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
            print("runs", flush=True)
            time.sleep(60)
        init()
        for _ in range(4):
            spawn(child).block()
        time.sleep(60)
    """
    with cluster(tmp_path, leftovers, 2, lease=LEASE_S) as made:
        made.wait_for_nodes()
        events = _begin(made, source)
        while events.output().count("runs") < 4:
            assert events.next() is not None
        for daemon in made.daemons.values():
            kill(daemon_below(daemon))
        events.running.kill()
        events.running.communicate()
        for daemon in made.daemons.values():
            daemon.wait(10)
    assert os.getpid()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_fabric_under_kills_loses_nothing_without_a_word() -> None:
    """A minute of `make soak`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "60", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def _below(os_pid: int, word: bytes, limit: float = 20.0) -> int:
    """The child of a process whose command line has a word; waited for."""
    deadline = time.monotonic() + limit
    while True:
        for child in children_of(os_pid):
            if word in _command(child).split(b"\0"):
                return child
        assert time.monotonic() < deadline, f"process {os_pid} has no child {word!r}"
        time.sleep(0.01)


def test_a_stopped_template_keeps_no_end_waiting(tmp_path: Path, leftovers: Leftovers) -> None:
    """Who should report the ends of killed processes does nothing: it is killed too, and Ctrl-C ends all."""
    source = """
        import time
        from constellation import init, spawn
        def sleeper():
            time.sleep(600)
        init()
        spawn(sleeper).block()
        print("all run", flush=True)
        time.sleep(600)
    """
    with cluster(tmp_path, leftovers, 1) as made:
        made.wait_for_nodes()
        made.environment["CONSTELLATION_GRACE"] = "0.5"
        events = _begin(made, source)
        events.until("all run")
        monitor = _below(daemon_below(made.daemons["n1"]), b"monitor")
        kill(_below(monitor, b"prog.py"), signal.SIGSTOP)
        events.running.send_signal(signal.SIGINT)
        assert events.rest() == 130
        exits = [event for event in events.seen if event["event"] == "exit"]
        assert len(exits) == 2, events.seen


def test_a_monitor_process_that_is_killed_ends_its_deployment_with_the_reason(
    tmp_path: Path, leftovers: Leftovers
) -> None:
    """Before the program has come to its init(), and while it runs; the node goes on, and its room is free again."""
    lines = ('mem = "150 MiB"\ncpu = 1',)
    with cluster(tmp_path, leftovers, 1, lines=lines) as made:
        made.wait_for_nodes()
        daemon = daemon_below(made.daemons["n1"])
        trying = made.begin("import time\ntime.sleep(600)")
        monitor = _below(daemon, b"monitor")
        _below(monitor, b"prog.py")
        kill(monitor)
        _, err = trying.communicate(timeout=20)
        assert trying.returncode == 4, err
        assert "monitor lost" in err
        events = _begin(made, COUNTER, "100000")
        events.until("3\n")
        kill(_below(daemon, b"monitor"))
        assert events.rest() == 1
        (end,) = [event for event in events.seen if event["event"] == "exit"]
        assert "monitor lost" in end["cause"]
        done = made.deploy(COUNTER, "2", options=("--format", "raw"))
        assert (done.stdout, done.returncode) == ("0\n1\n", 0), done
