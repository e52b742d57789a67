"""A fabric of several nodes on this computer, as people start one: until it is ready, deploying, spawns and links between nodes.

Beside the links between nodes stands a bare blocking TLS socket with pickle (`benchmarks/tls.py`).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from benchmarks.measure import (  # noqa: E402  # the path had to be set before
    CROWD,
    CROWD_NODES,
    FABRIC_LEASE_S,
    FABRIC_NODES,
    report,
    scaled,
)
from benchmarks.tls import measure  # noqa: E402
from constellation.testing.certificates import make_contexts  # noqa: E402

BARE = "bare TLS socket"
OURS = "constellation"
COMMAND = [sys.executable, "-m", "constellation"]

HELLO = """
from constellation import init
init()
print("hello")
"""
LINKS = """
import json, statistics, sys, time
from constellation import AwayFrom, Receiver, Resources, Sender, init, kill, parent, pid, spawn

def echo():
    back = Sender(parent())
    for value in Receiver(parent()):
        back.send(value).block()

def greets():
    Sender(parent()).send(1).block()

def sink():
    done = Sender(parent())
    for value in Receiver(parent()):
        done.send(len(value)).block()

def median(call, count):
    times = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)

trips, spawns, bulks = map(int, sys.argv[1:])
large = Resources(mem="1 GiB", cpu=0.1)
init(large)
far = AwayFrom(pid())
spawn(echo, on=far).block()  # the template of the other node
def started():
    began = time.perf_counter()
    new = spawn(greets, on=far).block()
    took = time.perf_counter() - began
    Receiver(new).recv().block()  # its link is made in its own time, not in the next spawn's
    return took
found = {"spawn": 1e3 * statistics.median(started() for _ in range(spawns))}
other = spawn(echo, on=far).block()
to, back = Sender(other), Receiver(other)
for n in range(200):
    to.send(n).block(); back.recv().block()
def trip():
    to.send(1).block(); back.recv().block()
found["trip"] = 1e6 * median(trip, trips)
other = spawn(sink, on=far, resources=large).block()
to, back, data = Sender(other), Receiver(other), bytes(64 << 20)
def bulk():
    to.send(data).block(); back.recv().block()
bulk()
found["bulk"] = 64 / median(bulk, bulks)
print(json.dumps(found), flush=True)
kill(pid(), tree=True).block()
"""
WATCHED = """
import time
from constellation import AwayFrom, init, pid, spawn, watch

def sleeps():
    time.sleep(600)

init()
child = spawn(sleeps, on=AwayFrom(pid())).block()
print(child.node, flush=True)
watch(child).block()
print("lost", time.time(), flush=True)
"""

CROWDED = """
import sys, time
from constellation import Resources, init, join, pid, kill, spawn

def sleeps():
    time.sleep(600)

init(Resources(mem="200 MiB", cpu=0.01))
began = time.perf_counter()
pids = join(*(spawn(sleeps, resources=Resources(mem="20 MiB", cpu=0.01)) for _ in range(int(sys.argv[1])))).block()
print(time.perf_counter() - began, len({each.node for each in pids}), flush=True)
kill(pid(), tree=True).block()
"""


class Fabric:
    """Daemons in a folder.

    Args:
        folder: For all files.
        count: Nodes.
        mem: Memory of each, as nodes.toml has it.
    """

    def __init__(self, folder: Path, count: int, mem: str = "8 GiB") -> None:
        self._folder = folder
        self._environment = {**os.environ, "XDG_CONFIG_HOME": str(folder), "XDG_STATE_HOME": str(folder)}
        socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(count + 1)]
        bridge, *ports = (sock.getsockname()[1] for sock in socks)
        for sock in socks:
            sock.close()
        self.bridge = f"127.0.0.1:{bridge}"
        lines = []
        for at, port in enumerate(ports):
            lines.append(f'[[nodes]]\nname = "n{at + 1}"\nfabric_addr = "127.0.0.1:{port}"\nmem = "{mem}"')
            if not at:
                lines.append(f'bridge_bind = "{self.bridge}"')
        (folder / "nodes.toml").write_text("\n".join(lines) + "\n")
        master = ["master", f"127.0.0.1:{ports[0]}", str(folder / "nodes.toml"), "--lease", str(FABRIC_LEASE_S)]
        commands = [master, *(["node", f"127.0.0.1:{port}"] for port in ports[1:])]
        self.daemons = [self._start(command, at) for at, command in enumerate(commands)]

    def _start(self, command: list[str], at: int) -> subprocess.Popen[bytes]:
        with open(self._folder / f"n{at + 1}.log", "wb") as log:
            return subprocess.Popen(
                [*COMMAND, *command], env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def wait(self, count: int) -> None:
        """Wait until all nodes and the bridge are there."""
        while True:
            log = (self._folder / "n1.log").read_text()
            if log.count(" joined, with ") >= count and "a bridge listens" in log:
                return
            time.sleep(0.005)

    def deploy(self, source: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a deployment."""
        program = self._folder / "program"
        program.mkdir(exist_ok=True)
        (program / "prog.py").write_text(source)
        return subprocess.Popen(
            [*COMMAND, "deploy", "--format", "raw", self.bridge, "prog.py", *arguments],
            env=self._environment,
            cwd=program,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )

    def first_line(self, source: str, *arguments: str) -> tuple[str, float]:
        """Deploy, and wait for the first line and the end.

        Returns:
            The line, and the seconds until it came.
        """
        began = time.perf_counter()
        running = self.deploy(source, *arguments)
        assert running.stdout is not None
        line = running.stdout.readline()
        took = time.perf_counter() - began
        running.communicate()
        return line, took

    def keeper_of(self, node: int) -> int:
        """OS pid of the keeper of a node, by its number: that is given in the order of joining."""
        log = (self._folder / "n1.log").read_text()
        at = next(at for at in range(len(self.daemons)) if f"node {node} 'n{at + 1}'" in log)
        return self.daemons[at].pid

    def stop(self) -> None:
        """Stop all daemons."""
        for daemon in self.daemons:
            daemon.terminate()
        for daemon in self.daemons:
            daemon.wait()


def crowd(scale: float) -> None:
    """Many processes over many nodes: the seconds from the first spawn until all run, the templates of the nodes included."""
    count = scaled(CROWD, scale)
    with tempfile.TemporaryDirectory() as folder:
        # No more room on each than its share, and one first process.
        fabric = Fabric(Path(folder), CROWD_NODES, f"{200 + 20 * -(-count // CROWD_NODES)} MiB")
        try:
            fabric.wait(CROWD_NODES)
            line, _ = fabric.first_line(CROWDED, str(count))
            took, nodes = line.split()
            assert int(nodes) >= min(count, CROWD_NODES - 1), line
            report(f"{CROWD:,} processes over {CROWD_NODES} nodes, all running", float(took), "s", OURS)
        finally:
            fabric.stop()


def lost(fabric: Fabric) -> float:
    """Kill a node; the seconds until its process is known to be lost."""
    running = fabric.deploy(WATCHED)
    assert running.stdout is not None
    keeper = fabric.keeper_of(int(running.stdout.readline()))
    with open(f"/proc/{keeper}/task/{keeper}/children") as file:
        daemon = int(file.read().split()[0])
    began = time.time()
    os.kill(daemon, 9)
    found = float(running.stdout.readline().split()[1])
    running.communicate()
    return found - began


def main(scale: float) -> None:
    """Measure all, and print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        fabric = Fabric(Path(folder), FABRIC_NODES)
        try:
            fabric.wait(FABRIC_NODES)
            report(f"fabric of {FABRIC_NODES} nodes, start to ready", time.perf_counter() - began, "s", OURS)
            fabric.first_line(HELLO)
            takes = sorted(fabric.first_line(HELLO)[1] for _ in range(scaled(5, scale)))
            report("deploy hello world, until its line", takes[len(takes) // 2], "s", OURS)
            counts = (scaled(3000, scale), scaled(30, scale), scaled(5, scale))
            found: dict[str, Any] = json.loads(fabric.first_line(LINKS, *map(str, counts))[0])
            report("far spawn to Pid", found["spawn"], "ms", OURS)
            report("far round trip int", found["trip"], "µs", OURS)
            report("far bulk 64 MiB", found["bulk"], "MiB/s", OURS)
            trip, speed = measure(BARE, make_contexts())
            report("far round trip int", trip, "µs", BARE)
            report("far bulk 64 MiB", speed, "MiB/s", BARE)
            report("lost node noticed, beyond the lease", lost(fabric) - FABRIC_LEASE_S, "s", OURS)
        finally:
            fabric.stop()
    crowd(scale)


main(float(sys.argv[-1]))
