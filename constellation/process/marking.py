"""Marking the processes of a deployment, so that a later start knows them for what they are (`core/marker.py`)."""

from __future__ import annotations

import contextlib
import os

from constellation.core import marker
from constellation.process import kernel


def mark(keeper: int, fabric: int) -> None:
    """Mark this process, and all that come from it, as of a deployment with this keeper and this fabric.

    Args:
        keeper: OS pid.
        fabric: OS pid.
    """
    with contextlib.suppress(OSError):  # where /proc is not to be had, nobody could sweep either
        here = marker.machine(_read, os.readlink)
        chain = marker.outer(os.environ.get(marker.VARIABLE), here, _lives)
        text = marker.to_text(marker.inside(chain, marker.role(keeper, _read), marker.role(fabric, _read)))
        os.environ[marker.VARIABLE] = text
        fd = os.memfd_create(marker.MAPPED + text)
        try:
            kernel.map_for_good(fd)
        finally:
            os.close(fd)


def leave_dead() -> None:
    """Take a marker out of the environment that this program owes to a dead deployment: what it starts belongs to none."""
    text = os.environ.get(marker.VARIABLE)
    if text is not None:
        with contextlib.suppress(OSError):
            if not marker.outer(text, marker.machine(_read, os.readlink), _lives).deployments:
                del os.environ[marker.VARIABLE]


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="surrogateescape") as file:
        return file.read()


def _lives(role: marker.Role) -> bool:
    return marker.lives(role, _read)
