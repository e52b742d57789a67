"""The test programs of the original: each shows the tree of output and ends that stands in its file, however it is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Leftovers
from tests.io.original_programs import (
    PROGRAMS,
    Tree,
    check,
    difference,
    exit_code,
    expectation,
    run,
    tree_of,
)

STRESS = "resource_limit_stress"


@pytest.mark.parametrize("how", ["python", "run"])
@pytest.mark.parametrize(
    "program", [program for program in PROGRAMS if program.stem != STRESS], ids=lambda program: program.stem
)
def test_program_of_the_original_shows_its_tree(program: Path, how: str, leftovers: Leftovers) -> None:
    """With `python prog.py` and with `constellation run`."""
    check(run(program, how, leftovers.environment), program)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_hundreds_of_processes_a_hundred_deep_fill_the_capacity_to_the_last_byte(leftovers: Leftovers) -> None:
    """Each is spawned, told of to all others, and ends, in the tree that the seed gives."""
    (program,) = [each for each in PROGRAMS if each.stem == STRESS]
    wanted = expectation(program).tree
    assert wanted.number() >= 250
    assert wanted.depth() >= 100
    check(run(program, "python", leftovers.environment), program)


def test_trees_are_compared_without_the_order_of_children() -> None:
    """And what differs is said."""
    leaf = Tree(b"x", b"", "0")
    tree = Tree(b"", b"", "0", (leaf, Tree(b"y", b"oh\n", "1")))
    wanted = Tree(b"", b"", "0", (Tree(b"y", b"o.*", "1"), leaf))
    assert difference(tree, wanted) is None
    assert exit_code(tree) == 1
    assert difference(tree._replace(out=b"z"), wanted) == "the first process wrote b'z': expected b''"
    assert "has 1 children: expected 2" in str(difference(tree._replace(children=(leaf,)), wanted))
    assert "a child of the first process" in str(difference(tree._replace(children=(leaf, leaf)), wanted))


def test_events_without_an_end_are_no_tree() -> None:
    """A process that vanished is not taken for one that ended."""
    spawned = {"event": "spawn", "pid": "a", "parent": None}
    with pytest.raises(AssertionError, match="without an end"):
        tree_of([spawned])
    with pytest.raises(AssertionError, match="ended twice"):
        tree_of([spawned, *[{"event": "exit", "pid": "a", "code": 0, "signal": None}] * 2])
