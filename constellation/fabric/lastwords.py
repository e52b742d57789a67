"""What is said of processes whose fabric was killed: by the keeper, out of a book that the fabric keeps for it.

The book is memory that both have. In it are the processes whose beginning is known and whose end has not been written
out yet, and how output is to look. The fabric writes to it at each beginning and end; the keeper reads it once, when the
fabric is dead and all below it swept away, and then nothing in it changes any more.

    0   FORMAT, COLOUR, JOINED, DESCRIPTOR, IS_WRITING, IS_OVER: one byte each
    32  a Pid of 32 bytes, or zeros, in each place
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque

from constellation.core.lifecycle import NODE_LOST
from constellation.core.output import FORMATS, Renderer
from constellation.core.pid import Pid
from constellation.core.signals import signal_name
from constellation.core.status import ExitStatus

_PLACE = 32
_EMPTY = bytes(_PLACE)
_FORMAT, _COLOUR, _JOINED, _DESCRIPTOR, _IS_WRITING, _IS_OVER = range(6)
_LARGEST_DESCRIPTOR = 255


class Book:
    """The fabric's side.

    Args:
        fd: The memory; stays the caller's.
        form: The format of the output.
        colour: Whether it has colours.
        joined: Whether stdout and stderr go to the same place.
        output: Where the keeper finds stdout.
    """

    def __init__(self, fd: int, form: str, *, colour: bool, joined: bool, output: int) -> None:
        self._fd = fd
        self._places: dict[bytes, int] = {}
        self._free: list[int] = []
        self._next = 1
        self._leaving: deque[tuple[int, bytes]] = deque()
        """Processes whose end is on its way to stdout, with the number of the put that took it."""
        os.pwrite(fd, bytes((FORMATS.index(form), colour, joined, min(output, _LARGEST_DESCRIPTOR))), 0)

    def add(self, key: bytes) -> None:
        """A process has begun."""
        if not self._free:
            self._free.append(self._next)
            self._next += 1
        place = self._free.pop()
        self._places[key] = place
        with contextlib.suppress(OSError):  # a limit of the user's on the size of files: it is left out
            os.pwrite(self._fd, key, place * _PLACE)

    def remove(self, key: bytes, puts: int) -> None:
        """A process has ended: it is in the book until the writer has written ``puts`` puts."""
        self._leaving.append((puts, key))

    def begin(self, size: int) -> None:
        """The writer is about to write ``size`` bytes: if they are so few, a pipe takes them all or none."""
        if size > select.PIPE_BUF:
            os.pwrite(self._fd, b"\1", _IS_WRITING)

    def end(self, puts: int) -> None:
        """The writer has written the first ``puts`` puts. In the writer's thread."""
        os.pwrite(self._fd, b"\0", _IS_WRITING)
        while self._leaving and self._leaving[0][0] <= puts:
            place = self._places.pop(self._leaving.popleft()[1], 0)
            if place:
                with contextlib.suppress(OSError):
                    os.pwrite(self._fd, _EMPTY, place * _PLACE)
                self._free.append(place)

    def close(self) -> None:
        """The deployment has ended, and everything was said."""
        os.pwrite(self._fd, b"\1", _IS_OVER)


def say(fd: int, code: int) -> None:
    """Say of each process in the book that it was lost with the fabric.

    Args:
        fd: The memory of the book.
        code: How the fabric ended: its exit code, or a signal below zero.
    """
    size = os.fstat(fd).st_size
    data = os.pread(fd, size, 0)
    if size < _PLACE or data[_IS_OVER]:
        return
    how = f"was killed by {signal_name(-code)}" if code < 0 else f"ended with {code}"
    renderer = Renderer(FORMATS[data[_FORMAT]], colour=bool(data[_COLOUR]), joined=bool(data[_JOINED]))
    now = time.time()
    # The line that was being written may be whole or not: what follows must not be taken for the rest of it.
    text = b"\n" if data[_IS_WRITING] else b""
    for at in range(_PLACE, size, _PLACE):
        key = data[at : at + _PLACE]
        if len(key) == _PLACE and key != _EMPTY:
            cause = f"{NODE_LOST}: the fabric {how}, and with it all its processes"
            status = ExitStatus(Pid.from_bytes(key), None, None, cause)
            text += b"".join(chunk for _, chunk in renderer.exit(now, status))
    if text.strip():
        while text:
            text = text[os.write(data[_DESCRIPTOR], text) :]
