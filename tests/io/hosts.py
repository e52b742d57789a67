"""Several computers on this one: network namespaces on one switch, made and removed by the test. Needs root and iproute2.

A cut is made without a firewall: who must not reach another host has a wrong hardware address for it in its neighbour
table, so that its frames go nowhere. That cuts one direction; two make a partition.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Leftovers
from tests.io.cluster import COMMAND, Cluster

NOBODY = "02:00:00:00:00:01"
"""A hardware address that no interface has."""

needs_hosts = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None,
    reason="needs root and iproute2 (`ip`), to make network namespaces",
)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Hosts:
    """Hosts h1 to hN at 10.99.0.1 to N, each with a loopback of its own."""

    def __init__(self, count: int) -> None:
        self._prefix = f"cstl{secrets.token_hex(3)}"
        self._switch = f"{self._prefix}-sw"
        self.count = count
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "br0", "up")
        for at in range(1, count + 1):
            name = self.name(at)
            _ip("netns", "add", name)
            _ip("link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", f"h{at}", "netns", self._switch)
            _ip("-n", self._switch, "link", "set", f"h{at}", "master", "br0", "up")
            _ip("-n", name, "addr", "add", f"{self.address(at)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", "eth0", "up")

    def name(self, at: int) -> str:
        """The namespace of host ``at``, counted from 1."""
        return f"{self._prefix}-h{at}"

    @staticmethod
    def address(at: int) -> str:
        """The address of host ``at``."""
        return f"10.99.0.{at}"

    def on(self, at: int) -> list[str]:
        """What stands before a command that is to run on host ``at``."""
        return ["ip", "netns", "exec", self.name(at)]

    def cut(self, one: int, other: int, *, both: bool = True) -> None:
        """Let nothing through from ``one`` to ``other``, or in both directions."""
        for sender, target in [(one, other), (other, one)][: 2 if both else 1]:
            where = ("to", self.address(target), "dev", "eth0")
            _ip("-n", self.name(sender), "neigh", "replace", *where, "lladdr", NOBODY, "nud", "permanent")

    def heal(self, one: int, other: int) -> None:
        """Let everything through again."""
        for sender, target in ((one, other), (other, one)):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("-n", self.name(sender), "neigh", "del", "to", self.address(target), "dev", "eth0")

    def remove(self) -> None:
        """Remove the hosts and the switch."""
        for name in (*map(self.name, range(1, self.count + 1)), self._switch):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


class HostCluster(Cluster):
    """A fabric of which each node is on a host of its own, with a credential, and a client on the last host."""

    def __init__(
        self, folder: Path, leftovers: Leftovers, hosts: Hosts, lines: tuple[str, ...] = (), lease: float = 5.0
    ) -> None:
        super().__init__(folder, leftovers, hosts.count - 1, lines, lease)
        self.hosts = hosts
        text = self.file.read_text()
        for at, former in enumerate(self.addresses):
            text = text.replace(former, f"{hosts.address(at + 1)}:5000")
        self.file.write_text(text.replace(self.bridge, f"{hosts.address(1)}:5001"))
        self.addresses = [f"{hosts.address(at + 1)}:5000" for at in range(hosts.count - 1)]
        self.bridge = f"{hosts.address(1)}:5001"
        self.command = [*hosts.on(hosts.count), *COMMAND]
        subprocess.run(
            [*COMMAND, "keygen", str(folder / "credentials")], env=self.environment, check=True, capture_output=True
        )
        self.credential = ("--credential", str(folder / "credentials" / "deployer.pem"))
        self.users = folder / "users.toml"
        self.users.write_text('[users]\nroot = {user = "root", run_as_root = true}\n')

    def start(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        """Start a daemon on its host."""
        credential = str(self.folder / "credentials" / "node.pem")
        files = ("--state", str(self.folder / f"state-{name}"), "--users", str(self.users))
        return super().start(name, "--credential", credential, *files, *options)

    def command_on(self, name: str) -> list[str]:
        """What starts a daemon."""
        return [*self.hosts.on(int(name[1:])), *COMMAND]


@contextlib.contextmanager
def host_cluster(
    folder: Path, leftovers: Leftovers, nodes: int, lines: tuple[str, ...] = (), lease: float = 5.0
) -> Iterator[HostCluster]:
    """A running fabric on hosts of its own."""
    hosts = Hosts(nodes + 1)
    try:
        made = HostCluster(folder, leftovers, hosts, lines, lease)
        try:
            made.start_all()
            made.wait_for_nodes()
            yield made
        finally:
            made.stop()
    finally:
        hosts.remove()
