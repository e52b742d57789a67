"""Run programs of the documentation as a reader would: in an interpreter of their own, with their output in pipes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Ran(NamedTuple):
    """What came of a program."""

    code: int
    out: str
    err: str

    def lines(self) -> list[str]:
        """The lines of stdout with every Pid replaced, sorted: the order between processes is nobody's promise."""
        return sorted(without_pids(self.out))


def without_pids(text: str) -> list[str]:
    """The lines of a text, each Pid in them replaced by PID, without trailing blanks and empty lines."""
    return [re.sub(r"\b[0-9a-f]{7}\b", "PID", line.rstrip()) for line in text.splitlines() if line.strip()]


Run = Callable[..., Ran]


@pytest.fixture
def run(leftovers: Any) -> Run:
    """Run ``python ARGS`` in the root of the repository and wait for it; nothing of it may be left behind."""

    def start(*args: str | Path, cwd: Path = ROOT, seconds: float = 90) -> Ran:
        done = subprocess.run(
            [sys.executable, *map(str, args)],
            cwd=cwd,
            env=leftovers.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    return start
