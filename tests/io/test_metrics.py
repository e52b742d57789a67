"""The metrics of a fabric's daemons, as Prometheus reads them."""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from constellation.core.gauges import METRICS
from tests.conftest import Leftovers
from tests.io.cluster import LIMIT_S, Cluster, cluster, daemon_below, free_ports, kill

Labels = frozenset[tuple[str, str]]
SERVE = ("--metrics", "127.0.0.1:0")


class Page(dict[tuple[str, Labels], float]):
    """A page that was read: values by name and labels."""

    def of(self, name: str, **labels: str) -> float | None:
        """One value; None where there is none."""
        return self.get((f"constellation_{name}", frozenset(labels.items())))


def _text(port: int, path: str = "/metrics") -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read().decode()


def _read(port: int) -> Page:
    page = Page()
    for family in text_string_to_metric_families(_text(port)):
        for sample in family.samples:
            page[sample.name, frozenset(sample.labels.items())] = sample.value
    return page


def _port(made: Cluster, name: str) -> int:
    made.wait_for(name, "metrics are at ")
    found = re.findall(r"metrics are at http://127\.0\.0\.1:(\d+)/metrics", made.log(name))
    return int(found[-1])


def _until(port: int, is_right: Callable[[Page], object]) -> Page:
    deadline = time.monotonic() + LIMIT_S
    while not is_right(page := _read(port)):
        assert time.monotonic() < deadline, dict(page)
        time.sleep(0.1)
    return page


def test_a_fabric_can_be_measured(tmp_path: Path, leftovers: Leftovers) -> None:
    """What runs, waits, has run, how it ended and what it wrote; of a node that drains, and of one that is lost."""
    go = tmp_path / "go"
    lines = ('mem = "1 GiB"\ncpu = 2', 'mem = "2 GiB"\ncpu = 1.5\nresources = { gpu = 2 }')
    source = """
        import os, signal, sys, time
        from constellation import Resources, init, spawn
        def good(): print("12345", end="", flush=True)
        def bad(): sys.stderr.write("x" * 1000); sys.stderr.flush(); sys.exit(7)
        def killed(): os.kill(os.getpid(), signal.SIGKILL)
        def stays():
            while not os.path.exists(sys.argv[1]):
                time.sleep(0.02)
        init(Resources(mem="100 MiB", cpu=0.25))
        for each in (good, good, bad, killed):
            spawn(each, on="n2").block()
        full = Resources(mem="10 MiB", cpu=0.25, gpu=1.5)
        spawn(stays, resources=full).block()
        print("ready", flush=True)
        spawn(stays, resources=full).block()
    """
    with cluster(tmp_path, leftovers, lines=lines, drain_limit=600.0) as made:
        for name in ("n1", "n2"):
            made.daemons[name].terminate()
            made.daemons[name].wait(LIMIT_S)
            made.start(name, *SERVE)
        made.wait_for("n1", "'n2' at")
        master, node = _port(made, "n1"), _port(made, "n2")
        page = _until(master, lambda page: page.of("fabric_nodes", state="present") == 2)
        assert page.of("fabric_capacity_mem_bytes", node="n2") == 2 << 30
        assert page.of("fabric_capacity_cpu_cores", node="n2") == 1.5
        assert page.of("fabric_capacity_custom", node="n2", resource="gpu") == 2
        assert page.of("fabric_held_mem_bytes", node="n1") == 0
        version, python = made.run("--version").stdout.split()[-1], sys.version.split()[0]
        assert page.of("build_info", version=version, python=python, role="master") == 1

        client = made.begin(source, str(go), options=("--format", "raw"))
        assert client.stdout is not None
        assert "ready" in client.stdout.readline()
        page = _until(master, lambda page: page.of("fabric_demands_queued") == 1)
        assert page.of("fabric_processes", state="running") == 2
        assert page.of("fabric_processes", state="starting") == 0
        assert page.of("fabric_deployments") == page.of("fabric_deployments_started_total") == 1
        assert page.of("fabric_spawns_total") == 6
        ends = {end: page.of("fabric_exits_total", end=end) for end in ("success", "failure", "signal", "unknown")}
        assert ends == {"success": 2, "failure": 1, "signal": 1, "unknown": 0}
        assert page.of("fabric_held_custom", node="n2", resource="gpu") == 1.5
        assert page.of("fabric_bridge_connected") == 1
        assert page.of("fabric_relayed_links") == 0
        here = _until(node, lambda page: page.of("node_exits_total", end="signal") == 1)
        assert here.of("node_exits_total", end="success") == 2
        assert here.of("node_exits_total", end="failure") == 1
        assert (here.of("node_output_bytes_total", stream="stderr") or 0) >= 1000
        assert (here.of("node_output_bytes_total", stream="stdout") or 0) >= 10
        assert here.of("node_in_fabric") == 1
        assert here.of("node_lease_seconds") == made.lease
        assert 0 <= (here.of("node_lease_age_seconds") or 0) < made.lease + 1
        assert here.of("fabric_spawns_total") is None  # the master's to tell

        made.daemons["n2"].terminate()
        _until(master, lambda page: page.of("fabric_nodes", state="draining") == 1)
        _until(node, lambda page: page.of("node_draining") == 1)
        kill(daemon_below(made.daemons["n2"]))
        made.daemons["n2"].wait(LIMIT_S)
        page = _until(master, lambda page: page.of("fabric_nodes", state="absent") == 1)
        assert page.of("fabric_nodes_lost_total") == 1
        assert page.of("fabric_nodes", state="draining") == 0
        assert page.of("fabric_capacity_mem_bytes", node="n2") is None
        assert (page.of("fabric_exits_total", end="unknown") or 0) >= 1
        client.communicate(timeout=LIMIT_S)
        page = _until(master, lambda page: page.of("fabric_deployments") == 0)
        assert page.of("fabric_events_waiting") == 0
        assert page.of("fabric_demands_queued") == 0


def test_every_metric_of_the_table_is_on_the_page_of_a_master_and_conforms(
    tmp_path: Path, leftovers: Leftovers
) -> None:
    """With its help and kind; what has to do with custom resources where there are some. Prometheus' own parser reads it."""
    with cluster(tmp_path, leftovers, 1, lines=("resources = { gpu = 1 }",)) as made:
        made.daemons["n1"].terminate()
        made.daemons["n1"].wait(LIMIT_S)
        made.start("n1", *SERVE)
        port = _port(made, "n1")
        _until(port, lambda page: page.of("fabric_capacity_custom", node="n1", resource="gpu"))
        text = _text(port)
    found = {family.name: family for family in text_string_to_metric_families(text)}
    # Nothing is held, so no custom amount is.
    wanted = [metric for metric in METRICS if metric.name != "constellation_fabric_held_custom"]
    assert sorted(found) == sorted(metric.name.removesuffix("_total") for metric in wanted)
    for metric in wanted:
        family = found[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.text)
        for sample in family.samples:
            assert sample.name == metric.name
            assert set(sample.labels) == set(metric.labels)


def test_strangers_at_the_port_are_counted(tmp_path: Path, leftovers: Leftovers) -> None:
    """By the step at which they were refused."""
    made = Cluster(tmp_path, leftovers)
    try:
        made.start("n2", *SERVE)
        port = _port(made, "n2")
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", made.ports[1])) as stranger:
                stranger.settimeout(LIMIT_S)
                stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
                with contextlib.suppress(ConnectionError):
                    assert stranger.recv(100) == b""
        page = _until(port, lambda page: page.of("node_refused_connections_total", step="preamble") == 3)
        assert page.of("node_refused_connections_total", step="handshake") == 0
        assert page.of("node_in_fabric") == 0
    finally:
        made.stop()


def test_who_asks_slowly_or_in_numbers_stops_nobody(tmp_path: Path, leftovers: Leftovers) -> None:
    """A hundred who say nothing: the fabric runs a program, and when they are cut off the page is there again."""
    with cluster(tmp_path, leftovers, 1) as made:
        made.daemons["n1"].terminate()
        made.daemons["n1"].wait(LIMIT_S)
        made.start("n1", *SERVE)
        port = _port(made, "n1")
        made.wait_for("n1", "a bridge listens on")
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                silent = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S))
                silent.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
            hello = "from constellation import init\ninit()\nprint('hello')"
            assert made.deploy(hello, options=("--format", "raw")).stdout == "hello\n"
            deadline = time.monotonic() + LIMIT_S
            while True:  # they have ten seconds, four of them at a time; the others are closed
                try:
                    assert "constellation_build_info" in _text(port)
                    break
                except (OSError, http.client.HTTPException):
                    assert time.monotonic() < deadline
                    time.sleep(0.2)


def test_a_daemon_that_stands_still_is_seen(tmp_path: Path, leftovers: Leftovers) -> None:
    """Its page is of the last reading: that of a frozen one cannot be had, and a thawed one tells a new one."""
    made = Cluster(tmp_path, leftovers)
    try:
        node = made.start("n2", *SERVE)
        port = _port(made, "n2")
        kill(daemon_below(node), signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=0.5)
            with contextlib.closing(connection):
                connection.request("GET", "/metrics")
                connection.getresponse()
        kill(daemon_below(node), signal.SIGCONT)
        _until(port, lambda page: (page.of("snapshot_age_seconds") or 0) < 1.0)
    finally:
        made.stop()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("0.0.0.0:9464", "expected an address of this computer only, such as 127.0.0.1:9464"),
        ("10.0.0.2:9464", "nobody is asked who they are there"),
        ("example.org:9464", "expected an address of this computer only"),
        ("ws://127.0.0.1:9464/", "expected an address of this computer only"),
        ("9464", "cannot serve metrics: "),
        ("127.0.0.1:99999", "'99999' is no port"),
    ],
)
def test_an_address_that_others_could_reach_or_that_is_none_is_refused(
    tmp_path: Path, leftovers: Leftovers, address: str, words: str
) -> None:
    """With the reason and what to do, before anything is started."""
    done = Cluster(tmp_path, leftovers).run("node", "127.0.0.1:0", "--metrics", address)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "state").exists()


def test_a_port_in_use_is_refused_with_what_shows_by_whom(tmp_path: Path, leftovers: Leftovers) -> None:
    """Nothing is started."""
    made = Cluster(tmp_path, leftovers)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = made.run("node", f"127.0.0.1:{free_ports(1)[0]}", "--metrics", f"127.0.0.1:{port}")
    assert done.returncode == 2
    assert f"cannot serve metrics: cannot listen on 127.0.0.1:{port}: another program listens there" in done.stderr


def test_without_the_package_the_command_that_installs_it_is_said(tmp_path: Path, leftovers: Leftovers) -> None:
    """And nothing is started; without the option nobody needs it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'prometheus_client' else find(name, *more)\n"
    )
    made = Cluster(tmp_path, leftovers)
    made.environment["PYTHONPATH"] = str(tmp_path)
    done = made.run("node", "127.0.0.1:0", *SERVE)
    assert done.returncode == 2
    assert f"{sys.executable} -m pip install prometheus-client" in done.stderr


def test_without_the_option_the_package_is_not_imported() -> None:
    """The daemon is loaded without it."""
    code = "import sys, constellation.fabric.serving; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=LIMIT_S).returncode == 0
