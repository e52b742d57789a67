"""The command `constellation` as a real process."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from tests.conftest import ROOT, Leftovers

SHOW = """\
import os, sys
print(sys.argv, __name__, sys.path[0], {k: v for k, v in os.environ.items() if k in ("CONSTELLATION_FORMAT", "CONSTELLATION_PLUGINS")})
sys.exit(7)
"""


def command(leftovers: Leftovers, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m constellation` in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "constellation", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=leftovers.environment,
        timeout=30,
        check=False,
    )


def test_run_equals_python(leftovers: Leftovers, tmp_path: Path) -> None:
    """argv, __main__, sys.path and exit code are those of `python prog.py ARGS`."""
    (tmp_path / "prog.py").write_text(SHOW)
    done = command(leftovers, tmp_path, "run", "prog.py", "--format", "x")
    plain = subprocess.run(
        [sys.executable, "prog.py", "--format", "x"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=leftovers.environment,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == (plain.stdout, plain.stderr, 7)


def test_run_m_with_options(leftovers: Leftovers, tmp_path: Path) -> None:
    """A module is run as by python -m, with the options in its environment."""
    (tmp_path / "module.py").write_text(SHOW)
    done = command(leftovers, tmp_path, "--plugin", "pickle", "run", "--format", "raw", "-m", "module", "a")
    assert "'a'] __main__ " in done.stdout
    assert "{'CONSTELLATION_FORMAT': 'raw', 'CONSTELLATION_PLUGINS': 'pickle'}" in done.stdout
    assert done.returncode == 7


def test_version(leftovers: Leftovers, tmp_path: Path) -> None:
    """--version is what pip installed, which is what pyproject.toml says."""
    if not any(metadata.distributions(name="constellation")):
        pytest.skip("constellation is not installed here")
    said = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert command(leftovers, tmp_path, "--version").stdout == f"constellation {said}\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("run", "--plugin", "msgpak", "prog.py"), "constellation: unknown plugin 'msgpak'; did you mean 'msgpack'"),
        (("run", "--mem", "much", "prog.py"), "constellation: cannot read mem='much': expected bytes"),
        (("run", "--nonsense", "prog.py"), "--nonsense"),
        (("plugins", "new", "Mine", "--kind", "news"), "constellation: cannot name a plugin 'Mine'"),
    ],
)
def test_wrong_use_exits_2_and_prints_no_traceback(
    leftovers: Leftovers, tmp_path: Path, words: tuple[str, ...], text: str
) -> None:
    """Words about the mistake go to stderr, and nothing runs."""
    (tmp_path / "prog.py").write_text("print('ran')")
    done = command(leftovers, tmp_path, *words)
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert (done.stdout, done.returncode) == ("", 2)
