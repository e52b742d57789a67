"""The layer table of the design: who may import whom. A new arrow needs a decision record."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "constellation"

LAYERS: dict[str, set[str]] = {
    "core": {"core"},
    "process": {"core", "process", "serializers"},  # functions travel as our own pickles whatever the values travel as
    "fabric": {"core", "fabric"},
    "transports": {"core", "transports"},
    "serializers": {"core", "serializers"},
    "schedulers": {"core", "schedulers"},
    "launchers": {"core", "launchers"},
    "cli": {"cli", "core", "fabric", "process"},
    "testing": {"core", "fabric", "process", "serializers", "schedulers", "testing", "transports", ""},
    "": {"cli", "core", "process"},  # constellation/__init__.py, __main__.py, plugin.py
}
"""Folder -> the folders that it may import."""

IMPURE = frozenset(
    {
        "_thread",
        "asyncio",
        "concurrent",
        "datetime",
        "fcntl",
        "http",
        "multiprocessing",
        "queue",
        "random",
        "resource",
        "sched",
        "secrets",
        "select",
        "selectors",
        "socket",
        "socketserver",
        "ssl",
        "subprocess",
        "threading",
        "time",
        "urllib",
        "uuid",
    }
)
"""What core may not use of the standard library: sockets, threads, processes, clocks, randomness. (`signal` has names, too.)"""

THIRD_PARTY: dict[str, set[str]] = {
    "core": {"pluggy", "importlib_metadata"},
    "cli": {"click", "importlib_metadata"},
    "schedulers": set(),
    "": set(),
}
"""Folder -> the packages of others that it may import; folders without a line may import what pyproject.toml lists."""


class Import(NamedTuple):
    """One module that a file imports."""

    file: Path
    line: int
    module: str
    for_types: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(PACKAGE.parent)}:{self.line} imports {self.module}"


def layer(file: Path) -> str:
    """Say which layer a file belongs to: its folder's name, "" for the package's own files."""
    parts = file.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imports(file: Path) -> Iterator[Import]:
    """Find all imports of a file, also those inside functions."""
    tree = ast.parse(file.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, id(node) in typing_only)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports relatively: write the whole name"
            assert node.module is not None
            names = (
                [f"constellation.{alias.name}" for alias in node.names]
                if node.module == "constellation"
                else [node.module]
            )
            for name in names:
                yield Import(file, node.lineno, name, id(node) in typing_only)


EVERY = [each for file in sorted(PACKAGE.rglob("*.py")) for each in imports(file)]


def test_every_folder_has_a_line_in_the_table() -> None:
    """A new folder is a new layer, and says what it may use."""
    assert {layer(file) for file in PACKAGE.rglob("*.py")} <= set(LAYERS)


def test_arrows_between_layers_are_those_of_the_table() -> None:
    """No file imports from a layer that its own may not use."""
    wrong = []
    for each in EVERY:
        parts = each.module.split(".")
        if parts[0] != "constellation" or len(parts) == 1:  # the name alone, for __file__ and __version__, is no arrow
            continue
        used = parts[1] if (PACKAGE / parts[1]).is_dir() else ""
        lone = used == "" and layer(each.file) == ""
        if used not in LAYERS[layer(each.file)] and not lone:
            wrong.append(str(each))
    assert wrong == []


def test_core_uses_no_socket_thread_clock_or_randomness() -> None:
    """Decisions take time, keys and bytes as arguments, so that they can be replayed."""
    used = [each for each in EVERY if layer(each.file) == "core" and not each.for_types]
    assert [str(each) for each in used if each.module.split(".")[0] in IMPURE] == []


@pytest.mark.parametrize("folder", sorted(THIRD_PARTY))
def test_packages_of_others_are_used_where_they_belong(folder: str) -> None:
    """A folder does not come to depend on a package unseen."""
    allowed = THIRD_PARTY[folder] | {"constellation"} | set(sys.stdlib_module_names)
    used = [each for each in EVERY if layer(each.file) == folder and not each.for_types]
    assert [str(each) for each in used if each.module.split(".")[0] not in allowed] == []
