"""The built-in scheduler passes the suite that plugins pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from constellation.schedulers.bin_packing import BinPacking
from constellation.testing.schedulers import SCHEDULER_CHECKS, Make, check_scheduler


@pytest.mark.parametrize("check", SCHEDULER_CHECKS, ids=lambda check: check.__name__)
def test_bin_packing_conforms(check: Callable[[Make], None]) -> None:
    """Each check by its name."""
    check(BinPacking)


def test_bin_packing_conforms_at_once() -> None:
    """As a plugin author writes it."""
    check_scheduler(BinPacking)
