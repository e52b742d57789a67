"""The reference and the list of settings are whole and up to date."""

from __future__ import annotations

import importlib
import re
import typing
from types import ModuleType

import pytest

from .conftest import ROOT, Run

REFERENCE = ROOT / "docs" / "reference.md"


def headings() -> set[str]:
    """The names that have a section in the reference."""
    return set(re.findall(r"^### ([\w.]+)$", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE))


def test_reference_is_up_to_date(run: Run) -> None:
    """What stands in the repository is what the docstrings give."""
    ran = run("docs/build_reference.py", "--check")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("module", ["constellation", "constellation.plugin", "constellation.testing"])
def test_every_public_name_has_its_section(module: str) -> None:
    """Public is what ``__all__`` lists, or without one what does not begin with an underscore, is no module and is ours."""
    imported = importlib.import_module(module)
    visible = [
        name
        for name, value in vars(imported).items()
        if not isinstance(value, ModuleType) and not hasattr(typing, name)
    ]
    names = [name for name in getattr(imported, "__all__", visible) if not name.startswith("_")]
    assert names
    prefix = "" if module == "constellation" else f"{module}."
    assert [name for name in names if f"{prefix}{name}" not in headings()] == []


def test_every_variable_is_documented() -> None:
    """Each CONSTELLATION_ variable that the code uses is in docs/settings.md, and no other is."""
    used = set()
    for path in (ROOT / "constellation").rglob("*.py"):
        if "testing" in path.parts:
            continue  # what the suites set for their own processes
        used |= set(re.findall(r"\bCONSTELLATION_[A-Z][A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8")))
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert used == set(re.findall(r"`(CONSTELLATION_[A-Z_]+)`", page))
