"""Items in the order of a key, of which only those are given that have room: without a walk over all of them.

A tournament tree. Its leaves are the items; each inner cell has the smallest key and the largest free amounts below it. A
change goes up one path. A search takes cells in the order of their keys out of a heap, and passes over those whose largest
amounts do not suffice. The largest amounts of a cell may be those of different items, so a cell can promise what no item
holds: then it is opened in vain.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")
Key = tuple[int, ...]
"""What orders items; no two items have the same."""


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


class _Cell(NamedTuple):
    key: Key
    most: Room


def _larger(left: Room, right: Room) -> Room:
    custom = left.custom
    if right.custom != custom:
        amounts = dict(custom)
        for name, amount in right.custom:
            amounts[name] = max(amounts.get(name, 0), amount)
        custom = tuple(sorted(amounts.items()))
    return Room(max(left.mem, right.mem), max(left.cpu, right.cpu), custom)


class Index(Generic[T]):
    """Items with a key and room; see the module."""

    def __init__(self) -> None:
        self._width = 1  # leaves, a power of two; cell i has the children 2i and 2i + 1, the root is cell 1
        self._cells: list[_Cell | None] = [None, None]
        self._items: list[T | None] = [None]
        self._places: dict[T, int] = {}
        self._free = [0]

    def __len__(self) -> int:
        return len(self._places)

    @property
    def most(self) -> Room:
        """The largest free amounts of all items, of which there must be one."""
        root = self._cells[1]
        assert root is not None
        return root.most

    def put(self, item: T, key: Key, room: Room) -> None:
        """Take an item in, or its new key and room.

        Cost: O(log n).
        """
        place = self._places.get(item)
        if place is None:
            if not self._free:
                self._grow()
            place = self._places[item] = self._free.pop()
            self._items[place] = item
        self._set(place, _Cell(key, room))

    def remove(self, item: T) -> None:
        """Forget an item.

        Cost: O(log n).
        """
        place = self._places.pop(item)
        self._items[place] = None
        self._free.append(place)
        self._set(place, None)

    def having(self, asked: Room) -> Iterator[T]:
        """Give the items with room for what is asked, in the order of their keys.

        Cost: O(log n) for each, where the largest amounts of a cell are those of one item.
        """
        root = self._cells[1]
        if root is None:
            return
        waiting: list[tuple[Key, int]] = [(root.key, 1)]
        while waiting:
            number = heapq.heappop(waiting)[1]
            cell = self._cells[number]
            if cell is None or not cell.most.holds(asked):
                continue
            if number >= self._width:
                item = self._items[number - self._width]
                assert item is not None
                yield item
                continue
            for child in (2 * number, 2 * number + 1):
                below = self._cells[child]
                if below is not None:
                    heapq.heappush(waiting, (below.key, child))

    def _set(self, place: int, cell: _Cell | None) -> None:
        number = self._width + place
        cells = self._cells
        cells[number] = cell
        while number > 1:
            number //= 2
            joined = _join(cells[2 * number], cells[2 * number + 1])
            if joined == cells[number]:
                return
            cells[number] = joined

    def _grow(self) -> None:
        width = self._width
        self._width = 2 * width
        self._items += [None] * width
        self._free = list(range(2 * width - 1, width - 1, -1))
        self._cells = [None] * (2 * width) + self._cells[width:] + [None] * width
        for number in range(2 * width - 1, 0, -1):
            self._cells[number] = _join(self._cells[2 * number], self._cells[2 * number + 1])


def _join(left: _Cell | None, right: _Cell | None) -> _Cell | None:
    if left is None or right is None:
        return left or right
    return _Cell(min(left.key, right.key), _larger(left.most, right.most))
