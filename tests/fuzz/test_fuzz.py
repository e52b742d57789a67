"""Every target of the fuzzer with some hundred inputs, the same each time; `make fuzz` goes on from here."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.targets import TARGETS, Target


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_hostile_input_is_read_or_refused(target: Target) -> None:
    """Nothing comes out of a reader but what it has read, or its own refusal."""

    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(target.inputs)
    def check(data: object) -> None:
        target.check(data)

    check()
