"""The author's guide: its files are written, step by step, and its commands are run and print what stands below them."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from constellation.core import hooks

from .conftest import ROOT

GUIDE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STEPS = [(info, text) for info, text in FENCE.findall(GUIDE) if "file=" in info or "run" in info.split()]
PARTS = ("meter", "emptiest")
HOOKS = [name for name, value in vars(hooks).items() if hasattr(value, "constellation_spec")]


def install(folder: Path, site: Path) -> None:
    """Do what `pip install -e .` does: a path to the folder, and the entry points."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = "".join(f"{name} = {target}\n" for name, target in project["entry-points"]["constellation"].items())
    (info / "entry_points.txt").write_text(f"[constellation]\n{points}")


def run(command: str, folder: Path, site: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run one line of a shell block; gives its exit code and all that it prints."""
    if command == "pip install -e .":
        install(folder, site)
        return 0, ""
    words = shlex.split(command)
    if words[0] in {"pytest", "constellation"}:
        words = [sys.executable, "-m", *words, *(["-p", "no:cacheprovider"] if words[0] == "pytest" else [])]
    elif words[0] == "python":
        words[0] = sys.executable
    path = [str(folder), str(site), *filter(None, [environment.get("PYTHONPATH")])]
    done = subprocess.run(
        words,
        cwd=folder,
        env={**environment, "PYTHONPATH": ":".join(path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def commands(text: str) -> list[tuple[str, list[str]]]:
    """The commands of a shell block, each with the lines that it is said to print."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


@pytest.mark.parametrize("part", PARTS)
def test_each_step_does_what_the_guide_says(leftovers: Any, tmp_path: Path, part: str) -> None:
    """Files replace those of the step before; the last command of a block has the block's exit code."""
    ran = 0
    for info, text in STEPS:
        written = re.search(r"file=(\S+)", info)
        if written:
            if written[1].startswith(f"{part}/"):
                path = tmp_path / written[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            continue
        if f"in={part}" not in info.split():
            continue
        wanted = re.search(r"exit=(\d+)", info)
        for command, lines in commands(text):
            code, output = run(command, tmp_path / part, tmp_path / "site", leftovers.environment)
            ran += 1
            is_refused = any("Error: " in line for line in lines)
            assert code == (int(wanted[1]) if wanted else 1 if is_refused else 0), (command, output)
            flat = " ".join(output.split())
            for line in lines:
                assert " ".join(line.replace("...", "").split()) in flat, (command, line, output)
    assert ran >= 3


def test_every_file_and_command_of_the_guide_belongs_to_a_part() -> None:
    """None is left out of the test above."""
    for info, _ in STEPS:
        assert re.search(rf"file=({'|'.join(PARTS)})/|in=({'|'.join(PARTS)})\b", info), info


def test_the_hooks_are_found() -> None:
    """By pluggy's mark."""
    assert {"register_transports", "register_options", "process_exited", "deployment_ended"} <= set(HOOKS)


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_its_signature_and_its_arguments_on_the_page(name: str) -> None:
    """As the code has them: a heading, the signature, a line for each argument, and where it is called."""
    page = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    [section] = re.findall(rf"^### {name}\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
    signature = inspect.signature(getattr(hooks, name))
    shown = f"def {name}{signature}".replace("'", "")
    block = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert block is not None
    made = ast.unparse(
        ast.parse(f"{block[1].strip()}: ..." if block[1].startswith("def") else f"def {block[1].strip()}: ...")
    )
    assert made == ast.unparse(ast.parse(f"{shown}: ..."))
    for argument in signature.parameters:
        assert f"* `{argument}`: " in section, argument
    assert "Called in " in section


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_a_test(name: str) -> None:
    """A hook that no test implements is one that nobody has tried."""
    marked = re.compile(rf"^\s*(?:async )?def {name}\(|def {name}\(", re.MULTILINE)
    files = [
        *ROOT.glob("tests/**/*.py"),
        *ROOT.glob("constellation/cli/skeletons/*.txt"),
        *ROOT.glob("plugins/**/*.py"),
    ]
    assert any(marked.search(path.read_text(encoding="utf-8")) for path in files)
