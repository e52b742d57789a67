"""What the tests of all distributions share: running a program as a user does who has installed them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("constellation", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("constellation")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_program(tmp_path: Path) -> Run:
    """Give a function that writes a program to a file and runs it, by default with Python, in a clean environment."""

    def run(
        source: str, *args: str, command: tuple[str, ...] = (sys.executable,), timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "prog.py"
        script.write_text(textwrap.dedent(source))
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        return subprocess.run(
            [*command, str(script), *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=tmp_path,
            env={**kept, "LANG": "C.UTF-8"},
            check=False,
        )

    return run
