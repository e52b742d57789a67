"""Death certificates: every cause is named to the watcher, in the channel's error, in the events and on the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Leftovers
from tests.io import certificate_programs
from tests.io.certificate_programs import KINDS, Run, check

WIDTH = 10


def _check_all(found: Run, count: int) -> None:
    tops = [told["name"] for told in found.told if told["kind"] == "killed with its tree"]
    twigs = 0
    for told in found.told:
        is_twig = told["kind"] == "killed with the tree"
        check(told, found, tops[twigs] if is_twig else "")
        twigs += is_twig
    for kind in KINDS:
        assert sum(told["kind"] == kind for told in found.told) == count, (kind, found.text)


@pytest.mark.parametrize("human", [False, True])
def test_each_cause_is_named_in_each_place(leftovers: Leftovers, tmp_path: Path, human: bool) -> None:
    """Once each: to the watcher, in the channel's error, and in the events or as the red line under the process."""
    _check_all(certificate_programs.run(leftovers, tmp_path, 1, 1, *KINDS, human=human), 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("human", [False, True])
def test_each_cause_is_named_a_hundred_times_of_a_hundred(leftovers: Leftovers, tmp_path: Path, human: bool) -> None:
    """Several at once, so that they are on their way to their ends together."""
    _check_all(certificate_programs.run(leftovers, tmp_path, 100, WIDTH, *KINDS, human=human), 100)
