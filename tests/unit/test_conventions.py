"""Conventions of the tests themselves."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
FILES = [*sorted(TESTS.rglob("test_*.py")), *sorted((TESTS.parent / "plugins").rglob("test_*.py"))]


def test_every_test_says_in_a_sentence_what_it_holds() -> None:
    """A test that fails tells its reader what was promised."""
    silent = [
        f"{file.relative_to(TESTS.parent)}:{node.lineno} {node.name}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_no_test_asserts_that_something_is_fast() -> None:
    """Figures belong to benchmarks/: a test that measures fails on a busy machine and tells nothing."""
    timed = [
        f"{file.relative_to(TESTS.parent)}:{number}"
        for file in FILES
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if line.strip().startswith("assert") and "perf_counter" in line
    ]
    assert timed == []
