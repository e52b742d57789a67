"""A fabric of which two hosts let nobody in: a firewall drops what would begin a connection to them."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Leftovers
from tests.io.cluster import LIMIT_S, daemon_below, kill
from tests.io.hosts import HostCluster, Hosts, needs_hosts
from tests.io.test_cluster_failures import Events
from tests.io.test_cluster_relay import TALKERS, relay_of, resident

pytestmark = [
    pytest.mark.root,
    needs_hosts,
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables (`nft`), to close hosts to connections"),
]

LEASE_S = 2.0
CLOSED = (2, 3)
"""Hosts that let nobody in."""

_RULES = """
table inet closed {
    chain input {
        type filter hook input priority 0; policy accept;
        iifname "eth0" tcp flags & (syn | ack) == syn drop
    }
}
"""

_LISTENER = """
import socket
with socket.create_server(("", 5999)) as sock:
    print("listens", flush=True)
    sock.accept()
"""


class ClosedCluster(HostCluster):
    """Three hosts: a master on the first; the two others join it, and cannot be dialled. A client on the fourth."""

    def __init__(
        self, folder: Path, leftovers: Leftovers, hosts: Hosts, line: str, lease: float, mem: str = "150 MiB"
    ) -> None:
        super().__init__(folder, leftovers, hosts, (line,), lease)
        self.mem = mem
        self.file.write_text("[[nodes]]" + self.file.read_text().split("[[nodes]]")[1])
        for at in CLOSED:
            subprocess.run([*hosts.on(at), "nft", "-f", "-"], input=_RULES, text=True, check=True)

    def start(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        """Start a daemon on its host."""
        if name == "n1":
            return super().start(name, *options)
        with open(self.folder / f"{name}.log", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                [
                    *self.command_on(name), "node", "--join", self.addresses[0], "--name", name,
                    "--credential", str(self.folder / "credentials" / "node.pem"),
                    "--state", str(self.folder / f"state-{name}"), "--users", str(self.users),
                    "--mem", self.mem, "--cpu", "1", *options,
                ],
                env=self.environment, stdin=subprocess.DEVNULL, stderr=log, stdout=log,
            )  # fmt: skip
        return self.daemons[name]


@contextlib.contextmanager
def _closed(
    folder: Path,
    leftovers: Leftovers,
    line: str = 'mem = "1 MiB"\ncpu = 0.01',
    lease: float = 5.0,
    mem: str = "150 MiB",
) -> Iterator[ClosedCluster]:
    hosts = Hosts(4)
    try:
        made = ClosedCluster(folder, leftovers, hosts, line, lease, mem)
        try:
            made.start_all()
            made.wait_for_nodes()
            yield made
        finally:
            made.stop()
    finally:
        hosts.remove()


def _reaches(hosts: Hosts, one: int, other: int) -> bool:
    """Whether a connection from a host to another one can be made."""
    listener = subprocess.Popen([*hosts.on(other), sys.executable, "-c", _LISTENER], stdout=subprocess.PIPE, text=True)
    try:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listens\n"
        code = f"import socket; socket.create_connection(({hosts.address(other)!r}, 5999), timeout=1.5)"
        return (
            subprocess.run(
                [*hosts.on(one), sys.executable, "-c", code], stderr=subprocess.DEVNULL, check=False
            ).returncode
            == 0
        )
    finally:
        listener.kill()
        listener.communicate()


def test_everybody_talks_to_everybody_though_two_hosts_let_nobody_in(tmp_path: Path, leftovers: Leftovers) -> None:
    """Six processes over three hosts, all pairs: within a host, from one that lets nobody in, and between two such."""
    source = """
        from constellation import Receiver, Sender, init, parent, spawn
        def child(number, count):
            pids = Receiver(parent()).recv().block()
            for other in pids:
                Sender(other, "all").send(number).block()
            total = sum(Receiver(other, "all").recv().block() for other in pids)
            Sender(parent()).send(total).block()
        init()
        pids = [spawn(child, n, 6, on=f"n{n % 3 + 1}").block() for n in range(6)]
        for pid in pids:
            Sender(pid).send(pids).block()
        print([Receiver(pid).recv().block() for pid in pids])
    """
    with _closed(tmp_path, leftovers, 'mem = "500 MiB"\ncpu = 2', mem="500 MiB") as made:
        assert not _reaches(made.hosts, 2, 3)
        assert not _reaches(made.hosts, 3, 2)
        assert not _reaches(made.hosts, 1, 2)
        assert _reaches(made.hosts, 2, 1)
        done = made.deploy(source, options=("--format", "raw"))
        assert (done.stdout, done.returncode) == ("[15, 15, 15, 15, 15, 15]\n", 0), (done, made.log("n1"))


def test_bulk_between_two_hosts_that_let_nobody_in(tmp_path: Path, leftovers: Leftovers) -> None:
    """64 MiB in one value, both ways at once, whole; the relay is no larger afterwards, and no lease was missed."""
    source = """
        import hashlib
        from constellation import Receiver, Resources, Sender, init, join, parent, spawn
        def exchange(peer, fill):
            to, back = Sender(peer), Receiver(peer)
            to.send(b"small").block(), back.recv().block()
            value = bytes([fill]) * (64 << 20)
            _, got = join(to.send(value), back.recv()).block()
            print(len(got), set(got[:: 1 << 20]), flush=True)
        def child():
            exchange(parent(), 1)
        demand = Resources(mem="400 MiB", cpu=0.5)
        init(demand)
        exchange(spawn(child, resources=demand).block(), 2)
    """
    with _closed(tmp_path, leftovers, lease=LEASE_S, mem="450 MiB") as made:
        small = made.deploy(source.replace("64 << 20", "1 << 20"), options=("--format", "raw"))
        assert small.returncode == 0, small
        before = resident(relay_of(made))
        done = made.deploy(source, options=("--format", "raw"), timeout=90)
        assert sorted(done.stdout.splitlines()) == [f"{64 << 20} {{1}}", f"{64 << 20} {{2}}"], (done, made.log("n1"))
        assert done.returncode == 0
        assert resident(relay_of(made)) - before < 8 << 20
        assert "not heard for" not in made.log("n1")


@pytest.mark.parametrize("how", ["killed", "cut off"])
def test_a_host_that_lets_nobody_in_and_is_lost_is_named_and_comes_back(
    tmp_path: Path, leftovers: Leftovers, how: str
) -> None:
    """Its daemon killed -9, or its network cut: what ran there is lost by name, the relay forgets it, and it joins again."""
    with _closed(tmp_path, leftovers, lease=LEASE_S) as made:
        events = Events(made.begin(TALKERS, options=("--format", "json")))
        events.until("20\n")
        far = events.node_of("prog:child")
        assert {far, events.node_of("prog:__main__")} == {"n2", "n3"}
        at = int(far[1:])
        if how == "killed":
            kill(daemon_below(made.daemons[far]))
        else:
            made.hosts.cut(at, 1)
        made.wait_for("n1", f"'{far}' is lost")
        assert events.rest() == 1
        assert "PeerDied" in events.output()
        assert f"node {far} lost" in events.output()
        if how == "killed":
            made.daemons[far].wait(LIMIT_S)
            made.start(far)
        else:
            made.wait_for(far, "the lease is over")
            made.hosts.heal(at, 1)
        deadline = time.monotonic() + 60
        while made.log("n1").count(f"'{far}' at no address joined") < 2:
            assert time.monotonic() < deadline, made.log("n1")
            time.sleep(0.05)
        again = Events(made.begin(TALKERS.replace("100_000", "20"), options=("--format", "json")))
        assert again.rest() == 0, (again.seen, made.log("n1"))
        assert again.output().startswith("0\n1\n2\n")
