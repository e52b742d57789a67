"""The table of metrics, and what is counted."""

from __future__ import annotations

import re

import pytest

from constellation.core.gauges import BY_NAME, COUNTER, METRICS, Tally, kind_of_end


def test_names_are_as_prometheus_wants_them() -> None:
    """One prefix, base units, and ``_total`` for what only grows and for nothing else; each once."""
    assert len(BY_NAME) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"constellation_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == COUNTER)
        assert not re.search(r"_(ms|kib|mib|percent|count)(_|$)", metric.name)
        assert metric.text.endswith(".")


@pytest.mark.parametrize(
    ("code", "signal", "kind"),
    [(0, None, "success"), (7, None, "failure"), (None, "SIGKILL", "signal"), (None, None, "unknown")],
)
def test_every_end_is_of_one_kind(code: int | None, signal: str | None, kind: str) -> None:
    """By code or signal; without either nobody knows."""
    assert kind_of_end(code, signal) == kind


def test_a_tally_gives_all_kinds_also_those_that_have_not_been() -> None:
    """A counter that comes into being with its first increase would hide that one from ``rate``."""
    tally = Tally()
    tally.ended(0, None)
    tally.wrote(1, 5)
    tally.wrote(2, 7)
    tally.wrote(99, 1000)
    samples = {(sample.name, sample.labels): sample.value for sample in tally.samples("node")}
    assert {name for name, _ in samples} <= BY_NAME.keys()
    assert samples["constellation_node_exits_total", ("success",)] == 1
    assert samples["constellation_node_exits_total", ("unknown",)] == 0
    assert sum(value for (name, _), value in samples.items() if name.endswith("bytes_total")) == 12
    fabric = {sample.name for sample in tally.samples("fabric")}
    assert fabric == {"constellation_fabric_spawns_total", "constellation_fabric_exits_total"}
