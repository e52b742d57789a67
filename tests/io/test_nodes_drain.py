"""A node that is asked to end: it drains first, within a limit, and what could not begin there begins elsewhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Leftovers
from tests.io.cluster import LIMIT_S, Cluster, cluster, daemon_below, kill

LONG_S = 600.0
FIRST_ON_1 = ('mem = "300 MiB"\ncpu = 1', "")
"""The smaller one fits better: first processes go there."""

WORK = """
    import sys, time
    from constellation import init, spawn, watch
    def work(name):
        print("begin", name, flush=True)
        while not __import__("os").path.exists(name):
            time.sleep(0.02)
        print("end", name, flush=True)
    init()
    pids = [spawn(work, name, on="n2").block() for name in sys.argv[1:]]
    for pid in pids:
        status = watch(pid).block()
        print("status", status.code, status.cause, flush=True)
"""


class Running:
    """A deployment whose output is read as it comes."""

    def __init__(self, client: subprocess.Popen[str]) -> None:
        self.client = client
        self.seen: list[dict[str, Any]] = []

    @property
    def output(self) -> str:
        return "".join(event["data"] for event in self.seen if event["event"] == "output")

    def until(self, wanted: str) -> None:
        """Read until some output has come."""
        assert self.client.stdout is not None
        while wanted not in self.output:
            line = self.client.stdout.readline()
            assert line, f"the end came before {wanted!r}: {self.seen}"
            self.seen.append(json.loads(line))

    def rest(self) -> int:
        """Read to the end; the exit code."""
        out, _ = self.client.communicate(timeout=LIMIT_S)
        self.seen += [json.loads(line) for line in out.splitlines()]
        return self.client.returncode


def _begin(made: Cluster, source: str, *args: object) -> Running:
    return Running(made.begin(source, *map(str, args), options=("--format", "json")))


def test_what_runs_on_a_node_that_is_stopped_goes_on_to_its_end(tmp_path: Path, leftovers: Leftovers) -> None:
    """Nothing more is placed there, `nodes` says so, and the node ends with 0 as soon as it is empty."""
    go = tmp_path / "go"
    with cluster(tmp_path, leftovers, lines=FIRST_ON_1, drain_limit=LONG_S) as made:
        made.wait_for_nodes()
        running = _begin(made, WORK, go)
        running.until(f"begin {go}")
        made.daemons["n2"].terminate()
        made.wait_for("n1", "'n2' drains: SIGTERM")
        assert "1 process may go on for 600 s" in made.log("n2")
        listed = made.run("nodes", made.bridge).stdout
        assert [line.split()[2] for line in listed.splitlines()[1:]] == ["present", "draining"], listed
        where = "from constellation import init, spawn\ndef child(): pass\ninit()\nspawn(child).block()"
        events = [json.loads(line) for line in made.deploy(where, options=("--format", "json")).stdout.splitlines()]
        assert {event["node"] for event in events if event["event"] == "spawn"} == {"n1"}
        go.touch()
        assert made.daemons["n2"].wait(LIMIT_S) == 0
        assert running.rest() == 0
        assert f"end {go}" in running.output
        assert "status 0 None" in running.output


def test_what_runs_longer_than_the_limit_is_asked_to_end_and_says_why(tmp_path: Path, leftovers: Leftovers) -> None:
    """Its certificate has the reason; the node ends with 0."""
    with cluster(tmp_path, leftovers, lines=FIRST_ON_1, drain_limit=0.5) as made:
        made.wait_for_nodes()
        running = _begin(made, WORK, tmp_path / "never")
        running.until("begin")
        made.daemons["n2"].terminate()
        assert made.daemons["n2"].wait(LIMIT_S) == 0
        assert running.rest() == 143
        assert "status 143 killed by the stop of its node (SIGTERM)" in running.output
        assert "asks 1 process to end" in made.log("n2")


@pytest.mark.parametrize(
    "second", [pytest.param(signal.SIGTERM, id="SIGTERM again"), pytest.param(signal.SIGINT, id="Ctrl-C")]
)
def test_a_second_wish_ends_a_draining_node_at_once(
    tmp_path: Path, leftovers: Leftovers, second: signal.Signals
) -> None:
    """What ran there is over, and who watches it is told."""
    with cluster(tmp_path, leftovers, lines=FIRST_ON_1, drain_limit=LONG_S) as made:
        made.wait_for_nodes()
        running = _begin(made, WORK, tmp_path / "never")
        running.until("begin")
        made.daemons["n2"].terminate()
        made.wait_for("n2", "drains, because of SIGTERM")
        if second == signal.SIGTERM:
            time.sleep(0.6)  # within half a second two are one wish, which came by two ways
        made.daemons["n2"].send_signal(second)
        assert made.daemons["n2"].wait(LIMIT_S) == 0
        assert running.rest() == 1
        assert "node n2 lost: it was stopped (SIGTERM)" in running.output


def test_the_same_wish_by_two_ways_is_one(tmp_path: Path, leftovers: Leftovers) -> None:
    """A service manager may signal the keeper and the daemon, and the keeper passes its own on."""
    go = tmp_path / "go"
    with cluster(tmp_path, leftovers, lines=FIRST_ON_1, drain_limit=LONG_S) as made:
        made.wait_for_nodes()
        running = _begin(made, WORK, go)
        running.until("begin")
        kill(daemon_below(made.daemons["n2"]), signal.SIGTERM)
        made.daemons["n2"].terminate()
        made.wait_for("n1", "'n2' drains: SIGTERM")
        go.touch()
        assert running.rest() == 0
        assert made.daemons["n2"].wait(LIMIT_S) == 0


def test_a_node_without_work_ends_at_once_whatever_the_limit(tmp_path: Path, leftovers: Leftovers) -> None:
    """Also one that is in no fabric."""
    with cluster(tmp_path, leftovers, lines=FIRST_ON_1, drain_limit=LONG_S) as made:
        made.wait_for_nodes()
        for name in ("n2", "n1"):
            made.daemons[name].terminate()
            assert made.daemons[name].wait(LIMIT_S) == 0
        (tmp_path / "n2.log").unlink()
        alone = made.start("n2")
        made.wait_for("n2", "listens on")
        alone.terminate()
        assert alone.wait(LIMIT_S) == 0


def test_a_master_that_comes_anew_learns_that_a_node_drains(tmp_path: Path, leftovers: Leftovers) -> None:
    """Its book is made from what the nodes say."""
    go = tmp_path / "go"
    with cluster(tmp_path, leftovers, lines=FIRST_ON_1, drain_limit=LONG_S, lease=20.0) as made:
        made.wait_for_nodes()
        running = _begin(made, WORK, go)
        running.until("begin")
        made.daemons["n2"].terminate()
        made.wait_for("n1", "'n2' drains: SIGTERM")
        kill(daemon_below(made.daemons["n1"]))
        made.daemons["n1"].wait(LIMIT_S)
        made.start("n1")
        deadline = time.monotonic() + LIMIT_S
        while made.log("n1").count("'n2' drains: SIGTERM") < 2:
            assert time.monotonic() < deadline, made.log("n1")
            time.sleep(0.05)
        go.touch()
        assert made.daemons["n2"].wait(LIMIT_S) == 0
        running.rest()


def test_the_master_drains_its_own_node_and_the_others_go_on_under_the_next_one(
    tmp_path: Path, leftovers: Leftovers
) -> None:
    """What runs elsewhere has the lease until a master is there again: an upgrade of the master ends nothing there."""
    go = tmp_path / "go"
    source = """
        import os, sys, time
        from constellation import init
        init()
        print("begin", flush=True)
        while not os.path.exists(sys.argv[1]):
            time.sleep(0.02)
        print("end", flush=True)
    """
    lines = ('mem = "1 MiB"\ncpu = 0.01', "")  # no room on the master's node
    with cluster(tmp_path, leftovers, lines=lines, drain_limit=LONG_S, lease=20.0) as made:
        made.wait_for_nodes()
        running = _begin(made, source, go)
        running.until("begin")
        made.daemons["n1"].terminate()
        assert made.daemons["n1"].wait(LIMIT_S) == 0
        assert "goes on for the lease of 20 s" in made.log("n1")
        made.start("n1")
        made.wait_for("n1", "is taken up")
        go.touch()
        assert running.rest() == 0
        assert running.output == "begin\nend\n"


def test_a_signal_that_comes_while_a_daemon_is_loaded_is_heard(tmp_path: Path, leftovers: Leftovers) -> None:
    """It ends with 0 and is not killed by it, however early: here as soon as there is a daemon."""
    made = Cluster(tmp_path, leftovers)
    try:
        made.start("n2").poll()
        os.kill(daemon_below(made.daemons["n2"]), signal.SIGTERM)
        assert made.daemons["n2"].wait(LIMIT_S) == 0, made.log("n2")
    finally:
        made.stop()


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "soon"])
def test_a_limit_that_is_none_is_refused(tmp_path: Path, leftovers: Leftovers, value: str) -> None:
    """With its value, before anything is started."""
    done = Cluster(tmp_path, leftovers).run("node", "127.0.0.1:0", "--drain-limit", value)
    assert done.returncode == 2
    assert value in done.stderr
