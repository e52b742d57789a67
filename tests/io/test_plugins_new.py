"""`constellation plugins new`: what it writes is a distribution whose tests pass as they are."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import Leftovers
from tests.io.test_plugins_enabled import environment

KINDS = ("transport", "serializer", "scheduler", "launcher", "news")


def begin(leftovers: Leftovers, folder: Path, kind: str) -> Path:
    """Have a distribution written for a plugin ``my-own`` and give its folder."""
    done = subprocess.run(
        [sys.executable, "-m", "constellation", "plugins", "new", "my-own", "--kind", kind],
        cwd=folder,
        env=leftovers.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    made = folder / "constellation-my-own"
    written = done.stdout.split("\n\n")[0].splitlines()
    assert sorted(written) == sorted(str(path.relative_to(folder)) for path in made.rglob("*") if path.is_file())
    return made


def run_tests(leftovers: Leftovers, made: Path, site: Path) -> str:
    """Run the tests of a distribution with what is installed in a folder; they must pass."""
    env = environment(leftovers, {"PYTHONPATH": str(site)})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=made,
        env={**leftovers.environment, **env, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_passes_its_tests(leftovers: Leftovers, tmp_path: Path, kind: str) -> None:
    """With its entry point, as pip would install it in place: a dist-info beside a path to the folder."""
    made = begin(leftovers, tmp_path, kind)
    project = tomllib.loads((made / "pyproject.toml").read_text())["project"]
    site = tmp_path / "site"
    info = site / f"constellation_my_own-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    [(name, target)] = project["entry-points"]["constellation"].items()
    (info / "entry_points.txt").write_text(f"[constellation]\n{name} = {target}\n")
    (site / "constellation_my_own").symlink_to(made / "constellation_my_own")
    assert "passed" in run_tests(leftovers, made, site)


@pytest.mark.slow
def test_what_is_written_can_be_installed(leftovers: Leftovers, tmp_path: Path) -> None:
    """By pip, as a user does it."""
    made = begin(leftovers, tmp_path, "scheduler")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(tmp_path / "site"), str(made)],
        env=leftovers.environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if "No matching distribution found for hatchling" in done.stderr:
        pytest.skip("hatchling, which builds it, cannot be had here")
    assert done.returncode == 0, done.stderr
    assert "passed" in run_tests(leftovers, made, tmp_path / "site")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_keeps_the_usual_style(leftovers: Leftovers, tmp_path: Path, kind: str) -> None:
    """No line is long, none is left over from the text that it was made of."""
    made = begin(leftovers, tmp_path, kind)
    for path in made.rglob("*.*"):
        text = path.read_text()
        assert "$" not in text, path
        assert max(map(len, text.splitlines()), default=0) <= 120, path
