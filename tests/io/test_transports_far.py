"""Transports of plugins between computers: one that reaches them, and one that does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Leftovers
from tests.io.cluster import Cluster

# Each node has room for one process only, so the two are on different ones.
LINES = ('mem = "150 MiB"\ncpu = 1', 'mem = "150 MiB"\ncpu = 1')

FAR = """
from constellation.plugin import hookimpl
from constellation.transports.tcp import TcpTransport


class Far(TcpTransport):
    name = "far"


@hookimpl
def register_transports():
    return [Far()]
"""

NEAR = """
import socket
from constellation.plugin import hookimpl
from constellation.transports.tcp import SocketLink


class Near:
    name = "near"

    def pair(self):
        one, other = socket.socketpair()
        return one.detach(), other.detach()

    def adopt(self, fd):
        return SocketLink(socket.socket(fileno=fd))


@hookimpl
def register_transports():
    return [Near()]
"""

PROGRAM = """
    from constellation import PeerDied, Receiver, Sender, init, parent, spawn
    def child():
        Sender(parent()).send("hello from afar").block()
    init(plugins=["plug_pkg.transport"])
    pid = spawn(child).block()
    try:
        print(Receiver(pid).recv().block(timeout=20))
    except PeerDied as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        (FAR, "hello from afar"),
        (
            NEAR,
            "transport 'near': raised PluginError: it makes links within one computer only",
        ),
    ],
)
def test_a_plugin_s_transport_between_computers(tmp_path: Path, leftovers: Leftovers, plugin: str, said: str) -> None:
    """One that has `remote` carries values; one for a single computer is told so by name, and nothing hangs."""
    (tmp_path / "plug_pkg").mkdir()
    (tmp_path / "plug_pkg" / "transport.py").write_text(plugin)
    made = Cluster(tmp_path, leftovers, 2, lines=LINES)
    made.environment["PYTHONPATH"] = f"{tmp_path}:{made.environment.get('PYTHONPATH', '')}"
    try:
        made.start_all()
        made.wait_for_nodes()
        path = ("--env", f"PYTHONPATH={made.environment['PYTHONPATH']}")
        done = made.deploy(PROGRAM, options=("--format", "json", *path))
    finally:
        made.stop()
    events = [json.loads(line) for line in done.stdout.splitlines()]
    output = "".join(event["data"] for event in events if event["event"] == "output")
    assert said in output, done
    assert all(event["signal"] is None for event in events if event["event"] == "exit")
    assert {event["node"] for event in events if event["event"] == "spawn"} == {"n1", "n2"}


SIZES = """
    import random
    from constellation import Receiver, Sender, init, parent, spawn
    def child():
        to = Sender(parent())
        for size in Receiver(parent()):
            to.send(bytes(size)).block()
    init()
    pid = spawn(child).block()
    ask, come = Sender(pid), Receiver(pid)
    chance = random.Random(1)
    for near in (60, 16 << 10, 64 << 10, (256 << 10) + 60, (256 << 10) + 9000, 700_000):
        for _ in range(10):
            size = near + chance.randrange(-50, 50)
            ask.send(size).block()
            assert len(come.recv().block(timeout=20)) == size
    print("all")
"""


def test_values_of_every_size_arrive_alone(tmp_path: Path, leftovers: Leftovers) -> None:
    """Nothing comes after them that would wake a reader whose encrypted link holds the rest."""
    made = Cluster(tmp_path, leftovers, 2, lines=LINES)
    try:
        made.start_all()
        made.wait_for_nodes()
        done = made.deploy(SIZES, options=("--format", "raw"))
    finally:
        made.stop()
    assert (done.stdout, done.returncode) == ("all\n", 0), done
