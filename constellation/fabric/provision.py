"""What a deployment needs on a node before it can run: its files, and a Python that has what it asks for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from constellation.core import trunk
from constellation.core.settings import CREDIT

if TYPE_CHECKING:
    from constellation.fabric.loop import Loop
    from constellation.fabric.parts import Part


class Provision:
    """Prepares deployments on this computer.

    Args:
        loop: The daemon's loop.
        folder: Where copies of files and environments are kept.
        need: Asks the master for chunks that are not here.
        log: Writes one line.
    """

    def __init__(
        self, loop: Loop, folder: str, need: Callable[[bytes, list[bytes]], None], log: Callable[[str], None]
    ) -> None:
        self._loop = loop
        self._folder = folder
        self._need = need
        self._log = log

    def prepare(self, part: Part, on_ready: Callable[[dict[str, Any]], None], on_failed: Callable[[str], None]) -> None:
        """Get a deployment's files and Python ready.

        Args:
            part: The deployment.
            on_ready: Called with the keys program, cwd, environment, borrowed and sys_path of its configuration.
            on_failed: Called with why it cannot be.
        """
        specification = part.specification
        root = specification.root
        cwd = os.path.join(root, specification.folder)
        if not os.path.isdir(cwd):
            on_failed(f"the folder {cwd!r} is not on this node")
            return
        on_ready(configuration(specification, sys.executable, cwd))

    def reaped(self, os_pid: int) -> None:
        """A child of the daemon has been waited for."""

    def forget(self, part: Part) -> None:
        """A deployment is over here."""

    def chunk(self, chunk: trunk.Chunk) -> None:
        """A chunk has come."""

    def chunk_of(self, digest: bytes) -> bytes | None:
        """A chunk that is here."""

    def missing_of(self, manifest: list[Any]) -> list[bytes]:
        """The chunks of a manifest that are not here."""
        return []

    def put(self, chunk: trunk.Chunk) -> str:
        """Keep a chunk; why it cannot be, in words."""
        return ""


def configuration(specification: trunk.Specification, python: str, cwd: str) -> dict[str, Any]:
    """What the monitor process is told of the program.

    Args:
        specification: The deployment.
        python: The interpreter to run it with.
        cwd: Its working folder on this computer.
    """
    settings = {str(name): str(value) for name, value in specification.settings}
    kept = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {str(name): str(value) for name, value in specification.environment}
    borrowed = {
        "CONSTELLATION_CAPACITY": "[4611686018427387904, 1000000000, []]",
        "CONSTELLATION_GRACE": settings.get("grace", "5"),
        "CONSTELLATION_LINGER": settings.get("linger", "60"),
        "CONSTELLATION_CREDIT": settings.get("credit", str(CREDIT)),
        "CONSTELLATION_PLUGINS": ",".join(map(str, specification.plugins)),
    }
    return {
        "program": [python, *map(str, specification.program)],
        "cwd": cwd,
        "environment": environment,
        "borrowed": borrowed,
        "sys_path": sys.path,
    }
