"""A fabric of several nodes on this computer, as people start one: the commands, loopback, folders of the test's own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conftest import MARK, Leftovers, Result

LIMIT_S = 30.0
COMMAND = [sys.executable, "-m", "constellation"]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]


class Cluster:
    """A master with a bridge, and further nodes.

    Args:
        folder: For all files.
        leftovers: Of the test.
        nodes: How many in all.
        lines: Lines for each node's entry in nodes.toml.
        lease: Seconds.
        drain_limit: Seconds; 0, so that nothing waits at the end of a test.
    """

    def __init__(
        self,
        folder: Path,
        leftovers: Leftovers,
        nodes: int = 2,
        lines: tuple[str, ...] = (),
        lease: float = 5.0,
        drain_limit: float = 0.0,
    ) -> None:
        self.folder = folder
        self.environment = {
            **leftovers.environment,
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_STATE_HOME": str(folder / "state"),
        }
        self.mark = leftovers.mark
        self.lease = lease
        self.drain_limit = drain_limit
        bridge, *self.ports = free_ports(nodes + 1)
        self.addresses = [f"127.0.0.1:{port}" for port in self.ports]
        self.bridge = f"127.0.0.1:{bridge}"
        self.file = folder / "nodes.toml"
        entries = []
        for at, address in enumerate(self.addresses):
            entry = [f'[[nodes]]\nfabric_addr = "{address}"\nname = "n{at + 1}"']
            if at == 0:
                entry.append(f'bridge_bind = "{self.bridge}"')
            entry += lines[at : at + 1]
            entries.append("\n".join(entry))
        self.file.write_text("\n".join(entries) + "\n")
        self.clients: list[subprocess.Popen[str]] = []
        self.command = COMMAND
        self.credential: tuple[str, ...] = ()
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        """Start a daemon: n1 is the master."""
        at = int(name[1:]) - 1
        command = (
            ["master", self.addresses[0], str(self.file), "--lease", str(self.lease)]
            if at == 0
            else ["node", self.addresses[at]]
        )
        with open(self.folder / f"{name}.log", "ab") as log:
            daemon = subprocess.Popen(
                [*self.command_on(name), *command, "--drain-limit", str(self.drain_limit), *options],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stderr=log,
                stdout=log,
            )
        self.daemons[name] = daemon
        return daemon

    def command_on(self, name: str) -> list[str]:  # all are here
        """What starts a daemon."""
        return COMMAND

    def start_all(self) -> None:
        """Start all daemons."""
        for at in range(len(self.addresses)):
            self.start(f"n{at + 1}")

    def log(self, name: str) -> str:
        """What a daemon has logged."""
        return (self.folder / f"{name}.log").read_text()

    def run(self, *args: str, timeout: float = LIMIT_S, cwd: Path | None = None, input: str | None = None) -> Result:  # noqa: A002
        """Run a command of ours."""
        done = subprocess.run(
            [*self.command, args[0], *self.credential, *args[1:]],
            env=self.environment,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=cwd or self.folder,
            check=False,
        )
        return Result(done.stdout, done.stderr, done.returncode)

    def program(self, source: str, name: str = "prog.py") -> Path:
        """Write a program into a folder of its own."""
        folder = self.folder / "program"
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_text(textwrap.dedent(source))
        return path

    def deploy(self, source: str, *args: str, options: tuple[str, ...] = (), **given: Any) -> Result:
        """Deploy a program and wait for its end."""
        path = self.program(source)
        mark = ("--env", f"{MARK}={self.mark}")
        return self.run(
            "deploy", "--in-place", *mark, *options, self.bridge, path.name, *args, cwd=path.parent, **given
        )

    def begin(self, source: str, *args: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """Deploy a program and go on."""
        path = self.program(source)
        mark = ("--env", f"{MARK}={self.mark}")
        client = subprocess.Popen(
            [*self.command, "deploy", *self.credential, "--in-place", *mark, *options, self.bridge, path.name, *args],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=path.parent,
        )
        self.clients.append(client)
        return client

    def wait_for(self, name: str, text: str, limit: float = LIMIT_S) -> None:
        """Wait until a daemon has logged something."""
        deadline = time.monotonic() + limit
        while text not in self.log(name):
            assert time.monotonic() < deadline, f"{name} did not log {text!r}:\n{self.log(name)}"
            time.sleep(0.02)

    def wait_for_nodes(self) -> None:
        """Wait until every node has joined."""
        for at in range(len(self.addresses)):
            self.wait_for("n1", f"'n{at + 1}' at")

    def stop(self) -> None:
        """Stop all daemons and clients, and wait for them."""
        for client in self.clients:
            if client.poll() is None:
                client.kill()
                client.communicate()
        for daemon in self.daemons.values():
            with contextlib.suppress(ProcessLookupError):
                daemon.send_signal(signal.SIGCONT)
                daemon.terminate()
        for daemon in self.daemons.values():
            daemon.wait(LIMIT_S)


@contextlib.contextmanager
def cluster(folder: Path, leftovers: Leftovers, nodes: int = 2, **given: Any) -> Iterator[Cluster]:
    """A running fabric, stopped at the end."""
    made = Cluster(folder, leftovers, nodes, **given)
    try:
        made.start_all()
        yield made
    finally:
        made.stop()


def children_of(os_pid: int) -> list[int]:
    """OS pids of the children of a process."""
    with open(f"/proc/{os_pid}/task/{os_pid}/children", encoding="ascii") as file:
        return [int(text) for text in file.read().split()]


def daemon_below(keeper: subprocess.Popen[bytes]) -> int:
    """OS pid of the daemon that a keeper keeps; waited for, if the keeper has just been started."""
    deadline = time.monotonic() + LIMIT_S
    while not (children := children_of(keeper.pid)):
        assert time.monotonic() < deadline, "the keeper has no daemon"
        time.sleep(0.01)
    return children[0]


def kill(os_pid: int, signum: int = signal.SIGKILL) -> None:
    """Send a signal to a process of the test."""
    os.kill(os_pid, signum)
