"""The right program is right, and every line of the wrong one is wrong, for mypy and for pyright."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ["tests/types/right.py", "tests/types/wrong.py"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("checker", "arguments"),
    [
        ("mypy", ["--no-error-summary", *PROGRAMS]),
        pytest.param("pyright", ["--pythonpath", sys.executable], marks=pytest.mark.slow),
    ],
)
def test_checkers_agree_with_the_programs(checker: str, arguments: list[str]) -> None:
    """An unexpected error and a missing one both fail: ignores that are not needed are errors."""
    if find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed: make lint brings it and runs it")
    done = subprocess.run(
        [sys.executable, "-m", checker, *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
