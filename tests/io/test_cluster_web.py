"""A fabric over WebSocket: its nodes, its bridge and the links between its processes, directly and through a real nginx."""

from __future__ import annotations

import importlib.util
import json
import signal
from pathlib import Path

import pytest

from tests.conftest import Leftovers
from tests.io.cluster import daemon_below, kill
from tests.io.web import needs_nginx, web_cluster

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("constellation_websocket") is None, reason="constellation-websocket is not installed"
)

ONE_EACH = ('mem = "150 MiB"\ncpu = 1',) * 3
"""Room for one process of the default demand on each node."""

ALL_TO_ALL = """
    import json
    from constellation import Receiver, Sender, init, parent, pid, spawn
    def worker():
        others = Receiver(parent()).recv().block()
        for other in others:
            Sender(other).send(bytes([pid().node]) * (1 << 20)).block()
        got = [Receiver(other).recv().block() for other in others]
        Sender(parent()).send((pid().node, [(len(each), each[0]) for each in got])).block()
    init()
    workers = [spawn(worker).block() for _ in range(2)]
    everybody = [pid(), *workers]
    for one in workers:
        Sender(one).send([each for each in workers if each != one]).block()
    print(json.dumps([Receiver(one).recv().block() for one in workers]), len({each.node for each in everybody}))
"""

WAITER = """
    import time
    from constellation import AwayFrom, init, pid, spawn, watch
    def sleeper():
        print("runs", flush=True)
        time.sleep(600)
    init()
    child = spawn(sleeper, on=AwayFrom(pid())).block()
    print("node", child.node, flush=True)
    print("cause", watch(child).block().cause, flush=True)
"""

COUNTER = """
    import time
    from constellation import init
    init()
    for n in range(100):
        print(n, flush=True)
        time.sleep(0.05)
"""

BROKEN = """
    import time
    from constellation import AwayFrom, PeerDied, Receiver, Sender, init, parent, pid, spawn
    def speaker():
        for n in range(1000000):
            Sender(parent()).send(n).block()
            time.sleep(0.02)
    init()
    child = spawn(speaker, on=AwayFrom(pid())).block()
    expected = 0
    try:
        for value in Receiver(child):
            assert value == expected, (value, expected)
            expected += 1
            if value == 10:
                print("speaks", flush=True)
    except PeerDied as error:
        print("broken:", error, flush=True)
"""


def _all_to_all(done: str) -> None:
    words, nodes = done.rsplit(maxsplit=1)
    reports = json.loads(words)
    assert nodes == "3"
    (one, from_other), (other, from_one) = reports
    assert from_other == [[1 << 20, other]]
    assert from_one == [[1 << 20, one]]


def test_nodes_that_listen_by_a_plugin_run_a_program_together(tmp_path: Path, leftovers: Leftovers) -> None:
    """Master, nodes, bridge and links: all is dialled by its URL."""
    with web_cluster(tmp_path, leftovers, lines=ONE_EACH) as made:
        made.wait_for_nodes()
        done = made.deploy(ALL_TO_ALL, options=("--format", "raw"))
        assert done.returncode == 0, done.stderr
        _all_to_all(done.stdout)
        rows = made.run("nodes", made.bridge)
        assert "ws://127.0.0.1:" in rows.stdout, rows.stderr


@needs_nginx
def test_a_proxy_in_between_changes_nothing(tmp_path: Path, leftovers: Leftovers) -> None:
    """Real nginx with TLS, which closes what is silent for a second: the fabric is reached at its addresses, and stays."""
    with web_cluster(tmp_path, leftovers, idle="1s", lines=ONE_EACH, ping_s=0.3) as made:
        made.wait_for_nodes()
        done = made.deploy(ALL_TO_ALL, options=("--format", "raw"))
        assert done.returncode == 0, done.stderr
        _all_to_all(done.stdout)
        quiet = made.deploy(
            "from constellation import init\nimport time\ninit()\ntime.sleep(2.5)\nprint('still there')\n"
        )
        assert quiet.returncode == 0, quiet.stderr
        assert "still there" in quiet.stdout
        assert "is lost" not in made.log("n1")


@needs_nginx
def test_a_node_behind_a_proxy_that_is_killed_is_named(tmp_path: Path, leftovers: Leftovers) -> None:
    """As one that is reached by TCP."""
    with web_cluster(tmp_path, leftovers, 2, idle="60s", lines=ONE_EACH, lease=2.0) as made:
        made.wait_for_nodes()
        running = made.begin(WAITER, options=("--format", "raw"))
        assert running.stdout is not None
        lines = [running.stdout.readline() for _ in range(2)]
        node = next(line.split()[1] for line in lines if line.startswith("node"))
        name = next(name for name in ("n1", "n2") if f"node {node} {name!r}" in made.log("n1"))
        if name == "n1":
            pytest.skip("the child is on the master's node, which ends the fabric")
        kill(daemon_below(made.daemons[name]), signal.SIGKILL)
        out, err = running.communicate(timeout=30)
        assert f"cause node {name} lost" in out, (out, err)


@needs_nginx
def test_a_proxy_that_is_started_again_costs_links_and_no_output(tmp_path: Path, leftovers: Leftovers) -> None:
    """The trunk, the bridge's line and the client come again within the lease; a link says why it has ended."""
    with web_cluster(tmp_path, leftovers, 2, idle="60s", lines=ONE_EACH, lease=5.0) as made:
        made.wait_for_nodes()
        assert made.proxy is not None
        linked = made.begin(BROKEN, options=("--format", "raw"))
        assert linked.stdout is not None
        assert linked.stdout.readline() == "speaks\n"
        made.proxy.stop()
        made.proxy.start()
        out, err = linked.communicate(timeout=30)
        assert out.startswith("broken: "), (out, err)
        counting = made.begin(COUNTER, options=("--format", "raw"))
        assert counting.stdout is not None
        first = [counting.stdout.readline() for _ in range(5)]
        made.proxy.stop()
        made.proxy.start()
        out, err = counting.communicate(timeout=60)
        assert "".join(first) + out == "".join(f"{n}\n" for n in range(100)), err
        assert counting.returncode == 0, err
        assert "is lost" not in made.log("n1")
