"""Items in the order of a key, of which only those are given that have room: without a walk over all of them.

The items stand in sorted chunks, each with the largest free amounts in it; above the chunks stands a tree of the largest
amounts of two, four, eight chunks and so on. A change touches one chunk and one path up the tree. A search goes down to the
next chunk whose largest amounts suffice, and looks at the items in it.

Sorted is what makes it quick where it matters: nodes that are full stand together, so whole branches of them are passed over.
The largest amounts of a chunk may be those of different items, so a chunk may be opened in vain.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")
Key = tuple[int, ...]
"""What orders items; no two items have the same."""

CHUNK = 64
"""Items in a chunk, up to twice as many: a change or a search costs about this many steps."""


class Room(NamedTuple):
    """Free amounts, or what is asked for: mem in bytes, cpu and custom ones in millionths."""

    mem: int
    cpu: int
    custom: tuple[tuple[str, int], ...] = ()

    def holds(self, asked: Room) -> bool:
        """Whether so much of each is free."""
        if self.mem < asked.mem or self.cpu < asked.cpu:
            return False
        if not asked.custom:
            return True
        have = dict(self.custom)
        return all(have.get(name, 0) >= amount for name, amount in asked.custom)


NO_ROOM = Room(-1, -1)
"""Less than nothing: holds no demand."""


def _larger(left: Room, right: Room) -> Room:
    custom = left.custom
    if right.custom != custom:
        amounts = dict(custom)
        for name, amount in right.custom:
            amounts[name] = max(amounts.get(name, 0), amount)
        custom = tuple(sorted(amounts.items()))
    return Room(max(left.mem, right.mem), max(left.cpu, right.cpu), custom)


class _Chunk(Generic[T]):
    """Sorted rows, never none, and the largest free amounts among them."""

    __slots__ = ("most", "rows")

    def __init__(self, rows: list[tuple[Key, Room, T]]) -> None:
        self.rows = rows
        self.measure()

    def measure(self) -> None:
        most = NO_ROOM
        for _, room, _ in self.rows:
            most = _larger(most, room)
        self.most = most


class Index(Generic[T]):
    """Items with a key and room; see the module."""

    def __init__(self) -> None:
        self._chunks: list[_Chunk[T]] = []
        self._ends: list[Key] = []  # the last key of each chunk, to bisect
        self._known: dict[T, Key] = {}
        self._width = 1  # leaves of the tree, a power of two; cell i has the children 2i and 2i + 1, the root is cell 1
        self._most: list[Room] = [NO_ROOM, NO_ROOM]

    def __len__(self) -> int:
        return len(self._known)

    @property
    def most(self) -> Room:
        """The largest free amounts of all items."""
        return self._most[1]

    def put(self, item: T, key: Key, room: Room) -> None:
        """Take an item in, or its new key and room.

        Cost: O(CHUNK + log n), and O(n / CHUNK) when a chunk is split or joined.
        """
        if item in self._known:
            self.remove(item)
        self._known[item] = key
        row = (key, room, item)
        if not self._chunks:
            self._replace(0, 0, [_Chunk([row])])
            return
        at = min(bisect_left(self._ends, key), len(self._chunks) - 1)
        chunk = self._chunks[at]
        insort(chunk.rows, row)  # never compares more than the key, which no other item has
        if len(chunk.rows) > 2 * CHUNK:
            self._replace(at, at + 1, [_Chunk(chunk.rows[:CHUNK]), _Chunk(chunk.rows[CHUNK:])])
            return
        self._ends[at] = chunk.rows[-1][0]
        chunk.most = _larger(chunk.most, room)
        self._rise(at)

    def remove(self, item: T) -> None:
        """Forget an item.

        Cost: As that of `put`.
        """
        key = self._known.pop(item)
        at = bisect_left(self._ends, key)
        rows = self._chunks[at].rows
        del rows[bisect_left(rows, (key,))]  # shorter, so before the row with this key
        after = at + 1
        if not rows:
            self._replace(at, after, [])
        elif after < len(self._chunks) and len(rows) + len(self._chunks[after].rows) <= CHUNK:
            # Small neighbours are joined: else a shrinking index keeps as many chunks as it ever had.
            self._replace(at, after + 1, [_Chunk(rows + self._chunks[after].rows)])
        else:
            self._ends[at] = rows[-1][0]
            self._chunks[at].measure()
            self._rise(at)

    def having(self, asked: Room) -> Iterator[T]:
        """Give the items with room for what is asked, in the order of their keys.

        Cost: O(CHUNK + log n) for the first, where the largest amounts of a chunk are those of one item.
        """
        at = self._next(1, 0, self._width, 0, asked)
        while at >= 0:
            for _, room, item in self._chunks[at].rows:
                if room.holds(asked):
                    yield item
            at = self._next(1, 0, self._width, at + 1, asked)

    def _next(self, cell: int, low: int, high: int, start: int, asked: Room) -> int:
        """The first chunk from ``start`` on, below a cell that stands over those from ``low`` to ``high``; -1: none."""
        if high <= start or not self._most[cell].holds(asked):
            return -1
        if high - low == 1:
            return low
        middle = (low + high) // 2
        found = self._next(2 * cell, low, middle, start, asked)
        return found if found >= 0 else self._next(2 * cell + 1, middle, high, start, asked)

    def _rise(self, at: int) -> None:
        """A chunk's largest amounts have changed."""
        cell = self._width + at
        most = self._most
        most[cell] = self._chunks[at].most
        while cell > 1:
            cell //= 2
            joined = _larger(most[2 * cell], most[2 * cell + 1])
            if joined == most[cell]:
                return
            most[cell] = joined

    def _replace(self, start: int, end: int, chunks: list[_Chunk[T]]) -> None:
        self._chunks[start:end] = chunks
        self._ends[start:end] = [chunk.rows[-1][0] for chunk in chunks]
        width = 1
        while width < len(self._chunks):
            width *= 2
        self._width = width
        below = [chunk.most for chunk in self._chunks]
        self._most = [NO_ROOM] * width + below + [NO_ROOM] * (width - len(below))
        for cell in range(width - 1, 0, -1):
            self._most[cell] = _larger(self._most[2 * cell], self._most[2 * cell + 1])
