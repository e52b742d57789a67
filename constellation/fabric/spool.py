"""What a bridge keeps of a deployment's events: on disk, in segments, until they have been read, and not without bound.

One folder a deployment. A segment is a file named after the number of its first event; a record is its length, u32 big
endian, and msgpack of ``[number, fields, node, message]``: the event, and the message of a node that it came of, if any.
What was written is in the page cache: it outlives the bridge, not the computer. A record that a killed bridge has written
in part is cut off at the next start.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
from collections.abc import Iterator
from typing import Any, Final

import msgpack

from constellation.core import events

LIMIT: Final = 1 << 30
"""Bytes of one deployment's events that nobody has read; the oldest go first, and that is said."""
SEGMENT: Final = 8 << 20

_LENGTH = struct.Struct(">I")
_READ: Final = 1 << 20


class Spool:
    """The events of one deployment.

    Args:
        folder: Where they are kept; made if it is not there, read if it is.
        limit: Bytes to keep at most.

    Raises:
        OSError: The folder cannot be made or read.
    """

    def __init__(self, folder: str, limit: int = LIMIT) -> None:
        self.folder = folder
        self.first = 1
        """Number of the first event that is kept."""
        self.last = 0
        """Number of the last one; below `first` where there is none."""
        self.code: int | None = None
        """The exit code, when all is over."""
        self.living: dict[bytes, None] = {}
        """Processes whose beginning is kept, or was, and whose end is not."""
        self.sources: dict[int, int] = {}
        """By node: its last message of which an event is kept, or was."""
        self._limit = limit
        self._segments: list[tuple[int, int]] = []
        """First number and size of each."""
        self._file: Any = None
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._load()

    def _load(self) -> None:
        firsts = sorted(int(name) for name in os.listdir(self.folder) if name.isdigit())
        for first in firsts:
            size = 0
            for number, fields, source, end in self._records(first, 0):
                self.last, size = number, end
                self._note(fields, *source)
            os.truncate(self._path(first), size)
            self._segments.append((first, size))
        if firsts:
            self.first = firsts[0]

    def _path(self, first: int) -> str:
        return os.path.join(self.folder, str(first))

    def _records(self, first: int, offset: int) -> Iterator[tuple[int, list[Any], tuple[int, int], int]]:
        """The records of a segment from an offset: number, event, its source, and where it ends."""
        with open(self._path(first), "rb") as file:
            file.seek(offset)
            while len(head := file.read(_LENGTH.size)) == _LENGTH.size:
                data = file.read(_LENGTH.unpack(head)[0])
                if len(data) < _LENGTH.unpack(head)[0]:
                    return
                offset += len(head) + len(data)
                try:
                    number, fields, node_id, source = msgpack.unpackb(data)
                    yield number, events.check(fields), (node_id, source), offset
                except (ValueError, TypeError, msgpack.UnpackException):
                    return

    def append(self, number: int, fields: list[Any], node_id: int = 0, source: int = 0) -> None:
        """Keep an event. One that is here already is passed over.

        Args:
            number: Of the event.
            fields: What it says.
            node_id: The node whose message it came of; 0: none.
            source: The number of that message.

        Raises:
            OSError: The disk is full, or fails.
        """
        if number <= self.last:
            return
        record = msgpack.packb([number, fields, node_id, source])
        if not self._segments or self._segments[-1][1] > SEGMENT:
            self._begin_segment(number)
        elif self._file is None:
            self._file = open(self._path(self._segments[-1][0]), "ab", buffering=0)  # noqa: SIM115  # kept open
        data = _LENGTH.pack(len(record)) + record
        first, size = self._segments[-1]
        written = self._file.write(data)
        if written < len(data):
            os.ftruncate(self._file.fileno(), size)
            raise OSError(28, os.strerror(28))
        self._segments[-1] = (first, size + written)
        self.last = number
        self._note(fields, node_id, source)
        self._drop_above_limit()

    def _note(self, fields: list[Any], node_id: int, source: int) -> None:
        if node_id:
            self.sources[node_id] = source
        if fields[0] == "spawn":
            self.living[fields[2]] = None
        elif fields[0] == "exit":
            self.living.pop(fields[2][0], None)
        elif fields[0] == "code":
            self.code = fields[1]

    def _begin_segment(self, number: int) -> None:
        if self._file is not None:
            self._file.close()
        # To its end, wherever that is: behind what a full disk took only in part there must be no hole.
        self._file = open(self._path(number), "ab", buffering=0)  # noqa: SIM115  # kept open
        self._segments.append((number, 0))
        if len(self._segments) == 1:
            self.first = number

    def _drop_above_limit(self) -> None:
        while len(self._segments) > 1 and sum(size for _, size in self._segments) > self._limit:
            self._drop_first()

    def _drop_first(self) -> None:
        first, _ = self._segments.pop(0)
        self.first = self._segments[0][0]
        with contextlib.suppress(FileNotFoundError):
            os.remove(self._path(first))

    def read_to(self, number: int) -> None:
        """All events up to this number have been read by the one whom they are for: whole segments of them go."""
        while len(self._segments) > 1 and self._segments[1][0] <= number + 1:
            self._drop_first()

    def after(self, number: int, place: tuple[int, int] | None = None) -> tuple[list[tuple[int, list[Any]]], Any]:
        """Some of the events after a number, in order; none at the end.

        Args:
            number: The last one that is not wanted.
            place: What the former call gave, so that it goes on from there.

        Returns:
            Numbers and events, about a megabyte; and the place for the next call.
        """
        wanted = max(number + 1, self.first)
        if place is None or not any(first == place[0] for first, _ in self._segments):
            begins = [first for first, _ in self._segments if first <= wanted]
            if not begins:
                return [], None
            place = (begins[-1], 0)
        found: list[tuple[int, list[Any]]] = []
        size = 0
        first, offset = place
        for found_number, fields, _, end in self._records(first, offset):
            offset = end
            if found_number > number:
                found.append((found_number, fields))
                size += events.size_of(fields)
                if size > _READ:
                    break
        if not found:
            later = [begin for begin, _ in self._segments if begin > first]
            if later:
                return self.after(number, (later[0], 0))
        return found, (first, offset)

    def remove(self) -> None:
        """Forget all of it."""
        if self._file is not None:
            self._file.close()
            self._file = None
        shutil.rmtree(self.folder, ignore_errors=True)
