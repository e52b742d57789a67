"""Best fit: each demand goes to the node that it fills most, so that large demands find room later.

Of the nodes that have room it takes the one with the fewest kinds of custom resources (work without a gpu leaves nodes with
gpus alone), then the least free memory, then the least free cores, then the one that joined first.

The index: one group of nodes per set of custom names. A group keeps its nodes sorted by (free mem, free cores, joining), in
chunks of about `CHUNK` rows, each with the chunk's largest free amounts. A search starts at the demand's memory by bisection
and skips the chunks whose largest amounts do not suffice; in one that is left it looks at single rows.

Source: D. S. Johnson, Near-optimal bin packing algorithms, 1973 (best fit).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from operator import eq
from typing import TypeAlias

from constellation.core.contracts import NodeView, Scheduler
from constellation.core.hooks import hookimpl
from constellation.core.resources import Resources

CHUNK = 100
"""Rows per chunk: a change costs about this many steps, a search one step per chunk. Tried on 100,000 nodes."""

_Names: TypeAlias = tuple[str, ...]
_Row: TypeAlias = tuple[int, int, int, tuple[int, ...]]
"""Free mem, free cores in millionths, number of joining, free custom amounts in the order of the group's names."""


class BinPacking:
    """The scheduler; see the module."""

    name = "bin_packing"

    def __init__(self) -> None:
        self._groups: dict[_Names, _Group] = {}
        self._search_order: list[tuple[_Names, _Group]] = []
        self._rows: dict[int, tuple[_Names, _Row]] = {}
        self._ids: dict[int, int] = {}
        self._joined = 0

    def node_changed(self, node: NodeView) -> None:
        """Take in a node, or what is free of it now.

        Cost: O(CHUNK + number of chunks).
        """
        known = self._rows.get(node.id)
        if known is None:
            self._joined += 1
            number = self._joined
            self._ids[number] = node.id
        else:
            number = known[1][2]
            self._remove(*known)
        free = node.free
        names: _Names = ()
        amounts: tuple[int, ...] = ()
        if node.capacity.custom_millionths:
            # By capacity: a node whose gpus are all in use is still one with gpus.
            names = tuple(name for name, _ in node.capacity.custom_millionths)
            have = dict(free.custom_millionths)
            amounts = tuple(have.get(name, 0) for name in names)
        row = (free.mem, free.cpu_millionths, number, amounts)
        group = self._groups.get(names)
        if group is None:
            group = self._groups[names] = _Group()
            self._sort_groups()
        group.add(row)
        self._rows[node.id] = (names, row)

    def node_removed(self, node_id: int) -> None:
        """Forget a node; an unknown one is no fault."""
        known = self._rows.pop(node_id, None)
        if known is not None:
            del self._ids[known[1][2]]
            self._remove(*known)

    def place(self, demand: Resources) -> int | None:
        """Choose the node that the demand fills most.

        Cost: O(log CHUNK + number of chunks) for each set of custom names, and CHUNK for each chunk whose largest
        amounts suffice while no single row's do.
        """
        asked = demand.custom_millionths
        best: _Row | None = None
        kinds = 0
        for names, group in self._search_order:
            if best is not None and len(names) > kinds:
                break
            row = group.find(demand.mem, demand.cpu_millionths, _positions(asked, names))
            if row is not None and (best is None or row[:3] < best[:3]):
                best, kinds = row, len(names)
        return None if best is None else self._ids[best[2]]

    def _remove(self, names: _Names, row: _Row) -> None:
        group = self._groups[names]
        group.remove(row)
        if not group.chunks:
            del self._groups[names]
            self._sort_groups()

    def _sort_groups(self) -> None:
        self._search_order = sorted(self._groups.items(), key=lambda item: (len(item[0]), item[0]))


def _positions(asked: tuple[tuple[str, int], ...], names: _Names) -> list[tuple[int, int]] | None:
    """Where a group with ``names`` keeps each amount that is asked for; None if it lacks one."""
    positions = []
    for name, amount in asked:
        if name not in names:
            return None
        positions.append((names.index(name), amount))
    return positions


class _Chunk:
    """Sorted rows, never none, with the largest free cores and custom amounts among them.

    Where ``is_stale`` these may be larger than they are.
    """

    __slots__ = ("cpu", "custom", "is_stale", "rows")

    cpu: int
    custom: tuple[int, ...]

    def __init__(self, rows: list[_Row]) -> None:
        self.rows = rows
        self.measure()

    def add(self, row: _Row) -> None:
        insort(self.rows, row)
        self.cpu = max(self.cpu, row[1])
        if row[3]:
            self.custom = tuple(map(max, self.custom, row[3]))

    def remove(self, row: _Row) -> None:
        """Take a row out, not the last one."""
        del self.rows[bisect_left(self.rows, row)]
        # Only marked: that they are too large makes nothing wrong, and most chunks change many times before they are searched.
        if row[1] == self.cpu or (row[3] and any(map(eq, row[3], self.custom))):
            self.is_stale = True

    def measure(self) -> None:
        """Make the largest amounts exact."""
        self.is_stale = False
        self.cpu = max([row[1] for row in self.rows])
        # Most nodes have no custom amounts.
        self.custom = tuple(map(max, zip(*[row[3] for row in self.rows], strict=True))) if self.rows[0][3] else ()

    def may_hold(self, cpu: int, custom: list[tuple[int, int]]) -> bool:
        """Whether the largest amounts suffice, each by itself."""
        return self.cpu >= cpu and (not custom or _suffices(self.custom, custom))


class _Group:
    """The nodes that have the same custom names."""

    def __init__(self) -> None:
        self.chunks: list[_Chunk] = []
        self._ends: list[_Row] = []  # the last row of each chunk, to bisect

    def add(self, row: _Row) -> None:
        if not self.chunks:
            self._put(0, 0, [_Chunk([row])])
            return
        position = min(bisect_left(self._ends, row), len(self.chunks) - 1)
        chunk = self.chunks[position]
        chunk.add(row)
        rows = chunk.rows
        if len(rows) > 2 * CHUNK:
            self._put(position, position + 1, [_Chunk(rows[:CHUNK]), _Chunk(rows[CHUNK:])])
        else:
            self._ends[position] = rows[-1]

    def remove(self, row: _Row) -> None:
        position = bisect_left(self._ends, row)
        chunk = self.chunks[position]
        after = position + 1
        if len(chunk.rows) == 1:
            self._put(position, after, [])
            return
        chunk.remove(row)
        rows = chunk.rows
        # Small neighbours are joined: else a shrinking group keeps as many chunks as it ever had.
        if after < len(self.chunks) and len(rows) + len(self.chunks[after].rows) <= CHUNK:
            self._put(position, after + 1, [_Chunk(rows + self.chunks[after].rows)])
        else:
            self._ends[position] = rows[-1]

    def find(self, mem: int, cpu: int, custom: list[tuple[int, int]] | None) -> _Row | None:
        """The first row with at least so much of each; None for ``custom`` fits nowhere."""
        if custom is None:
            return None
        wanted = (mem, cpu, 0, ())
        first = bisect_left(self._ends, wanted)
        for position in range(first, len(self.chunks)):
            chunk = self.chunks[position]
            if chunk.cpu < cpu or not chunk.may_hold(cpu, custom):  # most often the first says it
                continue
            if chunk.is_stale:
                chunk.measure()
                if not chunk.may_hold(cpu, custom):
                    continue
            rows = chunk.rows
            start = bisect_left(rows, wanted) if position == first else 0
            for index in range(start, len(rows)):
                row = rows[index]
                if row[1] >= cpu and (not custom or _suffices(row[3], custom)):
                    return row
        return None

    def _put(self, start: int, end: int, chunks: list[_Chunk]) -> None:
        self.chunks[start:end] = chunks
        self._ends[start:end] = [chunk.rows[-1] for chunk in chunks]


def _suffices(have: tuple[int, ...], custom: list[tuple[int, int]]) -> bool:
    return all(have[position] >= amount for position, amount in custom)


@hookimpl
def register_schedulers() -> list[Scheduler]:
    """Offer `BinPacking`; it has no options."""
    return [BinPacking()]
