"""What the daemon takes from a monitor process, which may be another user's and say what it likes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from constellation.fabric import parts
from constellation.fabric.parts import read_memory


def test_a_payload_is_read_from_its_start_wherever_the_writer_stands() -> None:
    """The offset is shared with who passed it."""
    memory = os.memfd_create("payload")
    try:
        os.write(memory, b"x" * 100_000)
        assert read_memory(memory) == b"x" * 100_000
    finally:
        os.close(memory)


@pytest.mark.parametrize("kind", ["file without seals", "device", "pipe", "folder"])
def test_what_is_no_memory_is_refused_without_waiting(kind: str, tmp_path: Path) -> None:
    """A pipe would keep the daemon waiting, a device has no end, and a file may be on a server that does not answer."""
    read_end, write_end = os.pipe()
    opened = {"file without seals": "/proc/self/status", "device": "/dev/zero", "folder": str(tmp_path)}
    fd = os.dup(read_end) if kind == "pipe" else os.open(opened[kind], os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Invalid argument"):
            read_memory(fd)
    finally:
        for each in (fd, read_end, write_end):
            os.close(each)


def test_more_than_may_be_handed_over_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory with holes costs who passes it nothing."""
    monkeypatch.setattr(parts, "LARGEST_PAYLOAD", 1000)
    memory = os.memfd_create("payload")
    try:
        os.truncate(memory, 1001)
        with pytest.raises(ValueError, match="1001 bytes: expected at most 1000"):
            read_memory(memory)
    finally:
        os.close(memory)
