"""The built-in scheduler passes the suite that every scheduler must pass."""

from __future__ import annotations

import pytest

from constellation.plugin import Scheduler
from constellation.schedulers.bin_packing import BinPacking
from constellation.testing import SCHEDULER_CHECKS, Check, check_scheduler


@pytest.mark.parametrize("check", SCHEDULER_CHECKS, ids=str)
def test_bin_packing_conforms(check: Check[Scheduler]) -> None:
    """Each check by its name."""
    check(BinPacking)


def test_bin_packing_conforms_at_once() -> None:
    """As a plugin author writes it."""
    check_scheduler(BinPacking)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_right_scheduler_passes_a_hundred_runs() -> None:
    """Whatever the chances."""
    for seed in range(100):
        check_scheduler(BinPacking, seed=seed)
