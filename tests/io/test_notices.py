"""What a service manager hears over NOTIFY_SOCKET: from the keeper, which it has started, and from nobody else."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Leftovers
from tests.io.cluster import LIMIT_S, Cluster, daemon_below, kill


class Manager:
    """A socket as systemd has it, which tells who speaks."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.heard: list[tuple[int, str]] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._sock.settimeout(LIMIT_S)
        self._sock.bind("\0" + address[1:] if address.startswith("@") else address)

    @property
    def words(self) -> list[str]:
        """All that was said."""
        return [text for _, text in self.heard]

    def next(self) -> str:
        """The next word."""
        data, about, _, _ = self._sock.recvmsg(4096, socket.CMSG_SPACE(12))
        os_pid = struct.unpack("iII", about[0][2])[0]
        self.heard.append((os_pid, data.decode()))
        return self.heard[-1][1]

    def until(self, wanted: str) -> None:
        """Listen until something is said."""
        while self.next() != wanted:
            pass

    def silent_for(self, seconds: float) -> bool:
        """Whether nothing is said for so long."""
        self._sock.settimeout(seconds)
        try:
            self.next()
        except TimeoutError:
            return True
        finally:
            self._sock.settimeout(LIMIT_S)
        return False

    def close(self) -> None:
        self._sock.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    """Of both kinds of address."""
    name = secrets.token_hex(8)
    made = Manager(f"@constellation-test-{name}" if request.param == "abstract" else str(tmp_path / name))
    yield made
    made.close()


def _node(made: Cluster, manager: Manager, **more: str) -> subprocess.Popen[bytes]:
    kept = made.environment
    made.environment = {**kept, "NOTIFY_SOCKET": manager.address, **more}
    try:
        return made.start("n2")
    finally:
        made.environment = kept


def test_a_node_is_ready_when_it_listens_and_tells_how_it_is(
    tmp_path: Path, leftovers: Leftovers, manager: Manager
) -> None:
    """Before it is in a fabric, which may come later; and all of it from the process that the manager has started."""
    made = Cluster(tmp_path, leftovers)
    try:
        node = _node(made, manager)
        manager.until("READY=1")
        manager.until(f"STATUS=listens on {made.addresses[1]}, in no fabric now, 0 processes")
        made.start("n1")
        manager.until("STATUS=in the fabric as n2, 0 processes")
        made.wait_for("n1", "a bridge listens on")
        source = """
            import os, time
            from constellation import init, spawn
            def child():
                print(sorted(name for name in os.environ if "NOTIFY" in name or "WATCHDOG" in name), flush=True)
                time.sleep(600)
            init()
            spawn(child, on="n2").block()
        """
        client = made.begin(source, options=("--format", "raw"))
        manager.until("STATUS=in the fabric as n2, 1 process")
        assert client.stdout is not None
        assert client.stdout.readline() == "[]\n"  # what runs here is not meant to speak to the manager
        node.terminate()
        manager.until("STOPPING=1")
        assert node.wait(LIMIT_S) == 0
        client.communicate(timeout=LIMIT_S)
        assert {os_pid for os_pid, _ in manager.heard} == {node.pid}
        assert manager.words.count("READY=1") == 1
        assert any(word.startswith("STATUS=ending (SIGTERM): 1 process asked to end") for word in manager.words)
    finally:
        made.stop()


def test_a_master_is_ready_when_its_bridge_listens(tmp_path: Path, leftovers: Leftovers, manager: Manager) -> None:
    """Whatever is ordered after it may deploy."""
    made = Cluster(tmp_path, leftovers, 1)
    made.environment["NOTIFY_SOCKET"] = manager.address
    try:
        master = made.start("n1")
        manager.until("READY=1")
        assert made.run("nodes", made.bridge).returncode == 0
        manager.until("STATUS=the master of 1 node, itself n1, 0 processes")
        master.terminate()
        manager.until("STOPPING=1")
        assert {os_pid for os_pid, _ in manager.heard} == {master.pid}
    finally:
        made.stop()


def test_the_watchdog_hears_a_node_that_goes_round_and_not_one_that_stands_still(
    tmp_path: Path, leftovers: Leftovers, manager: Manager
) -> None:
    """The keeper says nothing of its own: it passes on what the loop says."""
    made = Cluster(tmp_path, leftovers)
    try:
        node = _node(made, manager, WATCHDOG_USEC="400000")
        for _ in range(3):
            manager.until("WATCHDOG=1")
        daemon = daemon_below(node)
        kill(daemon, signal.SIGSTOP)
        try:
            manager.silent_for(0.2)  # what was on its way
            assert manager.silent_for(1.0)
        finally:
            kill(daemon, signal.SIGCONT)
        manager.until("WATCHDOG=1")
    finally:
        made.stop()


def test_a_watchdog_that_is_meant_for_another_process_gets_nothing(tmp_path: Path, leftovers: Leftovers) -> None:
    """WATCHDOG_PID names who is meant (sd_watchdog_enabled(3))."""
    manager = Manager(str(tmp_path / "manager"))
    made = Cluster(tmp_path, leftovers)
    try:
        _node(made, manager, WATCHDOG_USEC="100000", WATCHDOG_PID=str(os.getpid()))
        manager.until(f"STATUS=listens on {made.addresses[1]}, in no fabric now, 0 processes")
        assert manager.silent_for(1.0)
    finally:
        made.stop()
        manager.close()


@pytest.mark.parametrize("address", ["/no/such/socket", "vsock:1:2", "nonsense"])
def test_a_manager_that_cannot_be_reached_stops_nobody(tmp_path: Path, leftovers: Leftovers, address: str) -> None:
    """Its variable may be left over from elsewhere."""
    made = Cluster(tmp_path, leftovers, 1)
    made.environment["NOTIFY_SOCKET"] = address
    try:
        made.start("n1")
        made.wait_for("n1", "a bridge listens on")
    finally:
        made.stop()
