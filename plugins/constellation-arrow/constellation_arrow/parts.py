"""The memory of a value: large pieces travel as they lie, small ones together in one.

A part of its own costs a system call and a page on the other side, so a piece below `APART` is copied into the *tray*, which
is the second buffer of a value. Everything else borrows the value's own memory. A piece is named by (part, start, length).
"""

from __future__ import annotations

from typing import TypeAlias

from constellation.plugin import Buffer

APART = 16 << 10
"""Bytes from which on a piece travels as it lies; below, a copy is cheaper than a page."""

MOST_APART = 1_000
"""Pieces that travel as they lie, for one value; the smallest of more are copied: a table of 10,000 columns must pass too."""

_ALIGNED = 64
"""As Arrow recommends; every piece in the tray begins at a multiple."""

Piece: TypeAlias = list[int]
"""Part, start and length: a list, to be filled when the parts are settled."""


class Writer:
    """Gathers the pieces of one value."""

    def __init__(self) -> None:
        self._pieces: list[tuple[memoryview, Piece]] = []

    def add(self, data: Buffer | object) -> Piece:
        """Take a piece; what is returned names it once `parts` has been called."""
        view = memoryview(data)  # type: ignore[arg-type]  # whatever exports its memory
        if view.format != "B" or view.ndim != 1:
            view = view.cast("B")
        piece = [0, 0, view.nbytes]
        self._pieces.append((view, piece))
        return piece

    def parts(self) -> list[Buffer]:
        """Give the buffers that follow the head: the tray, where there is one, then the large pieces."""
        apart = [item for item in self._pieces if item[0].nbytes >= APART]
        if len(apart) > MOST_APART:
            apart = sorted(apart, key=lambda item: item[0].nbytes, reverse=True)[:MOST_APART]
        kept = {id(item[1]) for item in apart}
        tray = bytearray()
        for view, piece in self._pieces:
            if id(piece) not in kept and view.nbytes:
                tray += bytes(-len(tray) % _ALIGNED)
                piece[0], piece[1] = 0, len(tray)
                tray += view
        for number, (_, piece) in enumerate(apart, 1):
            piece[0] = number
        return [tray, *[view for view, _ in apart]] if tray or apart else []


class Reader:
    """Finds the pieces of one value in the parts that came.

    Args:
        parts: The tray and the large pieces.
    """

    def __init__(self, parts: list[memoryview]) -> None:
        self._parts = parts

    def piece(self, named: object) -> memoryview:
        """The memory of a piece.

        Raises:
            ValueError: There is no such piece.
        """
        match named:
            case [int(part), int(start), int(length)] if length == 0 and part == start == 0:
                return memoryview(b"")
            case [int(part), int(start), int(length)] if 0 <= part < len(self._parts) and start >= 0 and length >= 0:
                view = self._parts[part]
                if start + length <= len(view):
                    return view[start : start + length]
        raise ValueError(f"a piece of memory that is not there: {named!r:.80}")
