"""A fabric on three hosts: links between computers, partitions in both directions and in one, and their end."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.conftest import Leftovers
from tests.io.hosts import HostCluster, host_cluster, needs_hosts
from tests.io.test_cluster_failures import ONE_EACH, Events

pytestmark = [pytest.mark.root, needs_hosts]

LEASE_S = 2.0

TALKERS = """
    import time
    from constellation import ChannelError, Receiver, Sender, init, parent, spawn, watch
    def child():
        to = Sender(parent())
        for n in range(100_000):
            to.send(n).block()
            time.sleep(0.02)
    init()
    pid = spawn(child).block()
    try:
        for value in Receiver(pid):
            print(value, flush=True)
    except ChannelError as error:
        print(type(error).__name__, error, flush=True)
    status = watch(pid).block()
    print("status", status.code, status.cause, flush=True)
"""


def _begin(made: HostCluster, source: str, *args: str) -> Events:
    return Events(made.begin(source, *args, options=("--format", "json")))


def _far_node(events: Events) -> int:
    """The host on which the child runs, which is not the master's."""
    first, child = events.node_of("prog:__main__"), events.node_of("prog:child")
    assert first != child
    return int(child[1:])


@pytest.mark.parametrize("both", [True, False], ids=["both ways", "one way"])
def test_a_node_that_is_cut_off_kills_what_it_runs_and_comes_back(
    tmp_path: Path, leftovers: Leftovers, both: bool
) -> None:
    """Its lease ends before its work is given to others; when the cut is mended it is a node again."""
    # The master's node has room for nobody, so that both processes are elsewhere.
    with host_cluster(tmp_path, leftovers, 3, lines=('mem = "1 MiB"', *ONE_EACH[1:]), lease=LEASE_S) as made:
        events = _begin(made, TALKERS)
        events.until("20\n")
        far = _far_node(events)
        near = int(events.node_of("prog:__main__")[1:])
        made.hosts.cut(far, 1, both=both)
        made.hosts.cut(far, near, both=both)
        made.wait_for(f"n{far}", "lease")
        made.wait_for("n1", f"'n{far}' is lost")
        killed, lost = (_time_of(made.log(name), text) for name, text in ((f"n{far}", "lease"), ("n1", "is lost")))
        assert killed <= lost
        assert events.rest() == 1
        assert "PeerDied" in events.output()
        assert f"node n{far} lost" in events.output()
        made.hosts.heal(far, 1)
        made.hosts.heal(far, near)
        deadline = time.monotonic() + 60
        while made.log("n1").count(f"'n{far}' at") < 2:
            assert time.monotonic() < deadline, made.log("n1")
            time.sleep(0.05)


def _time_of(log: str, text: str) -> str:
    """When a line was written; text that sorts like the time."""
    return next(line[:19] for line in log.splitlines() if text in line)


def test_a_short_cut_loses_nothing(tmp_path: Path, leftovers: Leftovers) -> None:
    """What is shorter than the lease is only a delay: values, output and the node stay."""
    with host_cluster(tmp_path, leftovers, 3, lines=('mem = "1 MiB"', *ONE_EACH[1:]), lease=10.0) as made:
        events = _begin(made, TALKERS.replace("100_000", "150"))
        events.until("20\n")
        far = _far_node(events)
        near = int(events.node_of("prog:__main__")[1:])
        made.hosts.cut(far, 1)
        made.hosts.cut(far, near)
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            time.sleep(0.05)
        made.hosts.heal(far, 1)
        made.hosts.heal(far, near)
        assert events.rest() == 0
        assert events.output() == "".join(f"{n}\n" for n in range(150)) + "status 0 None\n"


def test_a_deployment_over_three_hosts(tmp_path: Path, leftovers: Leftovers) -> None:
    """Everybody talks to everybody, over TLS, on computers of their own."""
    source = """
        from constellation import Receiver, Resources, Sender, init, parent, spawn
        def child(number, count):
            pids = Receiver(parent()).recv().block()
            for other in pids:
                Sender(other, "all").send(number).block()
            total = sum(Receiver(other, "all").recv().block() for other in pids)
            Sender(parent()).send(total).block()
        init(Resources(mem="50 MiB", cpu=0.1))
        pids = [spawn(child, n, 6, resources=Resources(mem="70 MiB", cpu=0.1)).block() for n in range(6)]
        for pid in pids:
            Sender(pid).send(pids).block()
        print([Receiver(pid).recv().block() for pid in pids])
    """
    with host_cluster(tmp_path, leftovers, 3, lines=('mem = "200 MiB"',) * 3) as made:
        done = made.deploy(source, options=("--format", "raw"))
        assert (done.stdout, done.returncode) == ("[15, 15, 15, 15, 15, 15]\n", 0), done
