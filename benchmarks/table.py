"""From figures to tables: medians over rounds, ratios within a round, and whether a target is reached.

All of it is arithmetic on values that the rounds gave; nothing here runs or measures.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OURS = "constellation"


@dataclass(frozen=True, slots=True)
class Target:
    """What our figure in one row is to reach."""

    amount: float
    """So many times as good as `base`, or, without one, this figure at worst."""
    base: str | None = None
    """The peer that is compared with."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure that several peers have."""

    what: str
    unit: str
    lower_is_better: bool
    base: str | None = None
    """The peer of the ratio column."""
    targets: tuple[Target, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """One peer in one row."""

    peer: str
    median: float
    least: float
    most: float
    ratio: float | None
    """How many times as good as the base: the median of the ratios of each round."""
    values: tuple[float, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How our figure stands to one target."""

    target: Target
    got: float | None
    """The figure or the ratio; None if one of the two was not measured."""
    is_reached: bool


def ratio(row: Row, peer: str, base: str, rounds: Sequence[Mapping[str, float]]) -> float | None:
    """Give how many times as good a peer is as another, as the median over the rounds that have both.

    Args:
        row: Says which direction is better.
        peer: The one that is looked at.
        base: The one that it is compared with.
        rounds: For each round, each peer's figure.

    Returns:
        The ratio, above 1 if `peer` is the better one; None if no round has both.
    """
    ratios = []
    for one in rounds:
        mine, theirs = one.get(peer), one.get(base)
        if mine is None or theirs is None:
            continue
        above, below = (theirs, mine) if row.lower_is_better else (mine, theirs)
        if below:
            ratios.append(above / below)
    return statistics.median(ratios) if ratios else None


def lines(row: Row, rounds: Sequence[Mapping[str, float]]) -> list[Line]:
    """Sum up each peer of a row, the best first.

    Args:
        row: The row.
        rounds: For each round, each peer's figure.
    """
    peers = dict.fromkeys(peer for one in rounds for peer in one)
    out = []
    for peer in peers:
        values = [one[peer] for one in rounds if peer in one]
        compared = ratio(row, peer, row.base, rounds) if row.base is not None else None
        out.append(Line(peer, statistics.median(values), min(values), max(values), compared, tuple(values)))
    return sorted(out, key=lambda line: line.median, reverse=not row.lower_is_better)


def verdicts(row: Row, rounds: Sequence[Mapping[str, float]]) -> list[Verdict]:
    """Hold our figure against each target of a row.

    Args:
        row: The row.
        rounds: For each round, each peer's figure.
    """
    out = []
    for target in row.targets:
        if target.base is not None:
            got = ratio(row, OURS, target.base, rounds)
            out.append(Verdict(target, got, got is not None and got >= target.amount))
            continue
        mine = [one[OURS] for one in rounds if OURS in one]
        got = statistics.median(mine) if mine else None
        reached = got is not None and (got <= target.amount if row.lower_is_better else got >= target.amount)
        out.append(Verdict(target, got, reached))
    return out


def number(value: float) -> str:
    """Write a figure with about three digits and no exponent.

    Args:
        value: Any finite number.
    """
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def aim(row: Row, target: Target) -> str:
    """Write a target for people.

    Args:
        row: The row that it belongs to.
        target: One of its targets.
    """
    if target.base is not None:
        return f"{target.amount:g}x {target.base}"
    return f"{'at most' if row.lower_is_better else 'at least'} {number(target.amount)} {row.unit}".rstrip()


def grid(cells: Sequence[Sequence[str]], left: int = 1) -> str:
    """Set cells in columns under a header row.

    Args:
        cells: The header row, then the others, all of one length.
        left: How many of the first columns are set to the left; the others are set to the right.
    """
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    out = []
    for row in cells:
        set_cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        out.append("  ".join(set_cells).rstrip())
    out.insert(1, "-" * max(map(len, out)))
    return "\n".join(out)


def show(row: Row, rounds: Sequence[Mapping[str, float]], tails: Sequence[Mapping[str, float]] = ()) -> str:
    """Write one row's table.

    Args:
        row: The row.
        rounds: For each round, each peer's figure.
        tails: For each round, each peer's 99th percentile; none for rows without.
    """
    direction = "lower" if row.lower_is_better else "higher"
    head = f"{row.what} ({row.unit}, {direction} is better)" if row.unit else f"{row.what} ({direction} is better)"
    cells = [["peer", "median", "least", "most"]]
    if tails:
        cells[0].append("p99")
    if row.base is not None:
        cells[0].append(f"x {row.base}")
    for line in lines(row, rounds):
        texts = [line.peer, number(line.median), number(line.least), number(line.most)]
        if tails:
            values = [one[line.peer] for one in tails if line.peer in one]
            texts.append(number(statistics.median(values)) if values else "")
        if row.base is not None:
            texts.append("" if line.ratio is None else f"{line.ratio:.2f}")
        cells.append(texts)
    return f"{head}\n{grid(cells)}"


def show_targets(results: Sequence[tuple[Row, Sequence[Mapping[str, float]]]]) -> str:
    """Write the table of all targets.

    Args:
        results: Each row with its rounds.
    """
    cells = [["what", "target", "reached", "constellation", "got"]]
    for row, rounds in results:
        for verdict in verdicts(row, rounds):
            mine = [one[OURS] for one in rounds if OURS in one]
            ours = f"{number(statistics.median(mine))} {row.unit}".rstrip() if mine else "-"
            got = "-" if verdict.got is None or verdict.target.base is None else f"{verdict.got:.2f}x"
            word = "not measured" if verdict.got is None else "yes" if verdict.is_reached else "NO"
            cells.append([row.what, aim(row, verdict.target), word, ours, got])
    return grid(cells, left=3) if len(cells) > 1 else ""


def as_json(row: Row, rounds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Give one row with all that was measured, for `--json`.

    Args:
        row: The row.
        rounds: For each round, each peer's figure.
    """
    return {
        "what": row.what,
        "unit": row.unit,
        "lower_is_better": row.lower_is_better,
        "base": row.base,
        "rounds": [dict(one) for one in rounds],
        "peers": {
            line.peer: {"median": line.median, "least": line.least, "most": line.most, "ratio": line.ratio}
            for line in lines(row, rounds)
        },
        "targets": [
            {
                "amount": verdict.target.amount,
                "base": verdict.target.base,
                "got": verdict.got,
                "reached": verdict.is_reached,
            }
            for verdict in verdicts(row, rounds)
        ],
    }
