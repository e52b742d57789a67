"""Fixtures for pytest. In a conftest.py or a test module: ``from constellation.testing import leak_check``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from constellation.testing.leaks import nothing_left


@pytest.fixture
def leak_check() -> Iterator[str]:
    """Fail a test that leaves descriptors, threads, processes or files behind; remove what it has left.

    Gives the folder in which temporary files are made meanwhile, also by the programs that the test starts.
    """
    with nothing_left() as folder:
        yield folder
