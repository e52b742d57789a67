"""Whether this computer lets a test make control groups that count memory."""

from __future__ import annotations

import os

import pytest

from constellation.fabric import cgroups

PLACES = cgroups.find()


def _why_not() -> str:
    if os.geteuid() != 0:
        return "needs root, to make control groups"
    memory = PLACES.get("memory")
    if memory is None or memory.version != 1:
        return "needs the memory controller of control groups version 1"
    if not os.access(memory.folder, os.W_OK):
        return f"needs to write to {memory.folder}"
    return ""


needs_memory_groups = pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "can be run")
