"""Plugins for tests of real programs: installed as a stranger's distribution would be, or plain modules beside the program."""

from __future__ import annotations

import textwrap
from pathlib import Path

HEAD = """
from __future__ import annotations
import socket, sys, time
from constellation.plugin import Option, PluginError, SerializationError, hookimpl
"""

SCHEDULER = """
class Pick:
    name = NAME
    def __init__(self): self.nodes = {}
    def node_changed(self, node): self.nodes[node.id] = node
    def node_removed(self, node_id): del self.nodes[node_id]
    def place(self, demand):
        return next((n.id for n in self.nodes.values() if demand <= n.free), None)
@hookimpl
def register_schedulers(options): return [Pick()]
"""

TRANSPORT = """
class Link:
    def __init__(self, fd):
        self.sock = sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        self.fileno, self.close = sock.fileno, sock.close
        self.send, self.send_many, self.receive, self.receive_into = sock.send, sock.sendmsg, sock.recv, sock.recv_into
class Pairs:
    name = NAME
    def pair(self):
        left, right = socket.socketpair()
        return left.detach(), right.detach()
    def adopt(self, fd): return Link(fd)
@hookimpl
def register_transports(): return [Pairs()]
"""

SERIALIZER = """
import pickle
class Plain:
    name = NAME
    foreign_safe = False
    def encode(self, value): return [pickle.dumps(value)]
    def decode(self, buffers): return pickle.loads(buffers[0])
@hookimpl
def register_serializers(): return [Plain()]
"""


def module(folder: Path, name: str, *parts: str) -> None:
    """Write a plugin as a module ``plug.NAME`` beside the program; ``NAME`` in its parts is its name."""
    package = folder / "plug"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    source = HEAD + "\n".join(textwrap.dedent(part) for part in parts)
    (package / f"{name}.py").write_text(source.replace("NAME", repr(name)))


def install(folder: Path, name: str, *parts: str, version: str = "1.5", distribution: str = "") -> dict[str, str]:
    """Install a distribution with a plugin into a folder that stands for site-packages; gives the environment for it."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    distribution = distribution or f"constellation-{name}"
    package = distribution.replace("-", "_")
    source = HEAD + "\n".join(textwrap.dedent(part) for part in parts)
    (site / f"{package}.py").write_text(source.replace("NAME", repr(name)))
    info = site / f"{package}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[constellation]\n{name} = {package}\n")
    return {"PYTHONPATH": str(site)}
