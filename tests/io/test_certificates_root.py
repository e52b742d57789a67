"""Death certificates of want of memory, by the kernel's counters. Needs root, and says so where it is skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from constellation.core.limits import OUT_OF_MEMORY
from tests.conftest import Leftovers
from tests.io import certificate_programs
from tests.io.certificate_programs import CAUSES, Cause, check
from tests.io.memory_groups import PLACES, needs_memory_groups

COUNTS = [1, pytest.param(100, marks=pytest.mark.slow)]


pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(600),
    needs_memory_groups,
]


@pytest.fixture
def small_machine() -> Iterator[str]:
    """A control group with little memory, for whole programs."""
    folder = f"{PLACES['memory'].folder}/test-{os.getpid()}"
    os.mkdir(folder)
    Path(folder, "memory.limit_in_bytes").write_text(str(200 << 20))
    yield folder
    os.rmdir(folder)


@pytest.mark.parametrize("human", [False, True])
@pytest.mark.parametrize("count", COUNTS)
def test_the_machine_s_want_of_memory_is_named(
    leftovers: Leftovers, tmp_path: Path, small_machine: str, count: int, human: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole program runs in a group that is too small for one of its processes, which asked for nothing."""
    monkeypatch.setitem(CAUSES, "out of memory", Cause(None, "SIGKILL", OUT_OF_MEMORY))
    found = certificate_programs.run(leftovers, tmp_path, count, 1, "out of memory", human=human, group=small_machine)
    assert len(found.told) == count, found.text[-3000:]
    for told in found.told:
        check(told, found)


@pytest.mark.parametrize("human", [False, True])
@pytest.mark.parametrize("count", COUNTS)
def test_a_group_s_limit_is_named(
    leftovers: Leftovers, tmp_path: Path, count: int, human: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel kills at the limit, so nobody knows how much it would have taken."""
    cause = "memory limit: it asked for 24 MiB and needed more"
    monkeypatch.setitem(CAUSES, "memory limit", Cause(None, "SIGKILL", cause))
    found = certificate_programs.run(leftovers, tmp_path, count, 4, "memory limit", human=human)
    assert len(found.told) == count, found.text[-3000:]
    for told in found.told:
        check(told, found)
