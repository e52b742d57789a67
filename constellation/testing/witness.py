"""Nodes that tell what they are: for launchers under test. They dial the witness, say what they were started with, and obey."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from constellation.core.contracts import NodeCommand

RUNS: Final = "runs"
"""Ends when it is asked to, and not before the witness has said that it may."""
OBEYS: Final = "obeys"
"""Ends when it is asked to."""
STUBBORN: Final = "stubborn"
"""Takes no notice of being asked."""
FAILS: Final = "fails"
"""Says something on stderr and ends with 3."""
FAMILY: Final = "family"
"""Starts a process that takes no notice, and takes none itself."""

LAST_WORDS: Final = "no such credential: 4711"

_NODE = f"""
import json, os, signal, socket, subprocess, sys, threading
host, port, token, mode, *rest = sys.argv[1:]
fds = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))
data = b"" if mode == "child" else sys.stdin.buffer.read()
link = socket.create_connection((host, int(port)))
lock = threading.RLock()
def say(**words):
    with lock:
        link.sendall((json.dumps(words) + "\\n").encode())
def asked(*_):
    say(asked=True)
    if mode == "{OBEYS}":
        os._exit(0)
signal.signal(signal.SIGTERM, asked)
signal.signal(signal.SIGHUP, asked)
if mode == "{FAMILY}":
    subprocess.Popen([sys.executable, "-c", sys.orig_argv[2], host, port, token + "-child", "child"])
say(token=token, argv=rest, environment=dict(os.environ), stdin=data.hex(), fds=fds)
if mode == "{FAILS}":
    print("{LAST_WORDS}", file=sys.stderr)
    sys.exit(3)
for word in link.makefile():
    if word.strip() == "end":
        os._exit(0)
    say(echo=word.strip())
os._exit(1)
"""


class Told:
    """What one node has told."""

    def __init__(self) -> None:
        self.hello: dict[str, Any] | None = None
        self.was_asked = False
        self.echoes: list[str] = []
        self.ended = False
        self._sock: socket.socket | None = None

    def word(self, word: str) -> None:
        """Say something to the node."""
        assert self._sock is not None
        with contextlib.suppress(OSError):
            self._sock.sendall(f"{word}\n".encode())


class Witness:
    """Listens to the nodes of one check.

    Args:
        address: Where nodes reach this computer.
        python: A Python where the nodes run.
        patience: How long to wait for a node.
        progress: Called while something is waited for.
    """

    def __init__(self, address: str, python: str, patience: float, progress: Callable[[], None]) -> None:
        self._address = address
        self._python = python
        self._patience = patience
        self._progress = progress
        self._sock = socket.create_server(("" if address != "127.0.0.1" else address, 0))
        self._nodes: dict[str, Told] = {}
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True, name="constellation.testing witness").start()

    def close(self) -> None:
        """Let go of all nodes: those that still run end."""
        for sock in (self._sock, *self._connections):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def command(self, mode: str, *rest: str, **fields: Any) -> tuple[NodeCommand, Told]:
        """Make the command of a node that dials here, and what it will have told."""
        token = secrets.token_hex(8)
        port = str(self._sock.getsockname()[1])
        argv = (self._python, "-c", _NODE, self._address, port, token, mode, *rest)
        given = {"environment": {}, "stdin": b"", **fields}
        self._nodes[token] = Told()
        self._nodes[f"{token}-child"] = Told()
        return NodeCommand(f"node {token[:4]}", argv, **given), self._nodes[token]

    def child_of(self, told: Told) -> Told:
        """What the process that a node has started has told."""
        token = next(token for token, each in self._nodes.items() if each is told)
        return self._nodes[f"{token}-child"]

    def wait(self, until: Callable[[], object], seconds: float | None = None) -> bool:
        """Wait until something holds, as long as patience lasts. Blocks."""
        deadline = time.monotonic() + (self._patience if seconds is None else seconds)
        while not until():
            if time.monotonic() > deadline:
                return False
            self._progress()
            time.sleep(0.005)
        return True

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return
            self._connections.append(sock)
            threading.Thread(target=self._hear, args=(sock,), daemon=True, name="constellation.testing witness").start()

    def _hear(self, sock: socket.socket) -> None:
        told: Told | None = None
        try:
            with sock.makefile("rb") as lines:
                for line in lines:
                    words = json.loads(line)
                    if told is None:
                        told = self._nodes.get(words.get("token", ""))
                        if told is None:
                            return
                        told._sock = sock
                    if "token" in words:
                        told.hello = words
                    if "echo" in words:
                        told.echoes += (words["echo"],)
                    told.was_asked = told.was_asked or "asked" in words
        except (OSError, ValueError):
            pass
        if told is not None:
            told.ended = True
