"""The arithmetic of the benchmarks' tables; no time is measured here."""

from __future__ import annotations

import pytest

from benchmarks.measure import MARK, scaled
from benchmarks.plan import WORKLOADS, rows
from benchmarks.runner import figures_in, median_of
from benchmarks.table import Row, Target, aim, as_json, grid, lines, number, ratio, show, show_targets, verdicts

LATENCY = Row("round trip", "µs", True, "tcp", (Target(1.6, "tcp"), Target(40)))
RATE = Row("stream", "/s", False, "tcp", (Target(4, "tcp"), Target(500)))


def test_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    """A ratio is formed within each round; it is not the ratio of the medians."""
    rounds = [
        {"constellation": 10.0, "tcp": 20.0},
        {"constellation": 100.0, "tcp": 300.0},
        {"constellation": 10.0, "tcp": 10.0},
    ]
    # The rounds' ratios are 2, 3 and 1. Of the first two the ratio of the medians would be 2.91.
    assert ratio(LATENCY, "constellation", "tcp", rounds) == 2.0
    assert ratio(RATE, "constellation", "tcp", rounds) == 0.5
    assert ratio(LATENCY, "constellation", "tcp", [*rounds[:2], {"tcp": 1.0}]) == 2.5


def test_ratio_needs_a_round_with_both() -> None:
    """Figures of different rounds are never compared."""
    assert ratio(LATENCY, "constellation", "tcp", [{"constellation": 1.0}, {"tcp": 1.0}]) is None
    assert ratio(LATENCY, "constellation", "tcp", []) is None


def test_ratio_leaves_out_a_round_that_would_divide_by_zero() -> None:
    """A figure of zero has no ratio."""
    rounds = [{"constellation": 0.0, "tcp": 5.0}, {"constellation": 5.0, "tcp": 5.0}]
    assert ratio(LATENCY, "constellation", "tcp", rounds) == 1.0


def test_lines_are_medians_with_the_best_first() -> None:
    """The order follows the direction that is better."""
    rounds = [{"a": 3.0, "b": 9.0}, {"a": 1.0, "b": 8.0}, {"a": 2.0}]
    assert [(line.peer, line.median, line.least, line.most) for line in lines(LATENCY, rounds)] == [
        ("a", 2.0, 1.0, 3.0),
        ("b", 8.5, 8.0, 9.0),
    ]
    assert [line.peer for line in lines(RATE, rounds)] == ["b", "a"]


@pytest.mark.parametrize(
    ("row", "mine", "reached"),
    [
        (LATENCY, 40.0, [True, True]),
        (LATENCY, 50.0, [True, False]),
        (LATENCY, 60.0, [False, False]),
        (RATE, 320.0, [True, False]),
        (RATE, 500.0, [True, True]),
        (RATE, 100.0, [False, False]),
    ],
)
def test_targets_by_ratio_and_by_figure(row: Row, mine: float, reached: list[bool]) -> None:
    """A target is against a peer in the same round, or against a plain figure."""
    rounds = [{"constellation": mine, "tcp": 80.0}]
    assert [verdict.is_reached for verdict in verdicts(row, rounds)] == reached


def test_target_without_our_figure_is_not_reached() -> None:
    """What was not measured is not reached, and is called so."""
    assert [(verdict.got, verdict.is_reached) for verdict in verdicts(RATE, [{"tcp": 1.0}])] == [(None, False)] * 2
    assert "not measured" in show_targets([(RATE, [{"tcp": 1.0}])])


def test_tables_for_people() -> None:
    """The tables have even columns, and no column that is empty for all."""
    rounds = [{"constellation": 32.0, "tcp": 80.0}]
    assert show(LATENCY, rounds, [{"tcp": 120.0}]) == (
        "round trip (µs, lower is better)\n"
        "peer           median  least  most  p99  x tcp\n"
        "----------------------------------------------\n"
        "constellation      32     32    32        2.50\n"
        "tcp                80     80    80  120   1.00"
    )
    assert show_targets([(LATENCY, rounds)]).splitlines()[2].split() == [
        *("round", "trip", "1.6x", "tcp", "yes", "32", "µs", "2.50x"),
    ]
    assert show_targets([]) == ""
    assert aim(RATE, RATE.targets[1]) == "at least 500 /s"
    assert aim(Row("modules", "", True), Target(0)) == "at most 0"
    assert grid([["a", "b"], ["long", "1"]]) == "a     b\n-------\nlong  1"


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (1.234, "1.23"), (12.34, "12.3"), (1234567.8, "1,234,568"), (3.0, "3")]
)
def test_number(value: float, text: str) -> None:
    """Figures have about three digits."""
    assert number(value) == text


def test_json_holds_rounds_and_verdicts() -> None:
    """The file for programs has all that was measured."""
    whole = as_json(LATENCY, [{"constellation": 32.0, "tcp": 80.0}])
    assert whole["rounds"] == [{"constellation": 32.0, "tcp": 80.0}]
    assert whole["peers"]["constellation"]["ratio"] == 2.5
    assert [target["reached"] for target in whole["targets"]] == [True, True]


def test_figures_are_read_from_output_and_joined() -> None:
    """Variants are peers of their own; repeats of a round become their median."""
    output = f'noise\n{MARK}{{"what": "stream", "value": 4, "variant": ""}}\n'
    first = figures_in(output + f'{MARK}{{"what": "stream", "value": 9, "variant": "try_send"}}\n', "constellation")
    assert first == {"stream": {"constellation": 4.0, "constellation try_send": 9.0}}
    assert median_of([first, figures_in(output.replace("4", "6"), "constellation")]) == {
        "stream": {"constellation": 5.0, "constellation try_send": 9.0}
    }


def test_plan_names_each_row_once_and_a_target_only_against_peers_that_run() -> None:
    """No target waits for a peer that never runs."""
    names = [row.what for row in rows()]
    assert len(names) == len(set(names))
    running = {
        peer for commands in WORKLOADS.values() for command in commands for peer in (command.peer, *command.names)
    }
    for row in rows():
        assert {target.base for target in row.targets} | {row.base} <= running | {None}


def test_scaled_keeps_two() -> None:
    """A quick run still measures."""
    assert [scaled(100, 1.0), scaled(100, 0.1), scaled(5, 0.1)] == [100, 10, 2]
