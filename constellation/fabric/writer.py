"""The thread that writes to stdout and stderr, so that a reader that does not read never stops the fabric.

Chunks wait in a queue bounded in bytes. When it is full the fabric stops reading the processes' pipes; they fill up, and
then the processes wait, as they would if they wrote to stdout themselves.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from constellation.fabric.lastwords import Book

QUEUE_BYTES = 1 << 20
"""Large enough that a terminal never stops the fabric for a burst, small enough that Ctrl-C shows within a second."""


class Writer:
    """Writes chunks to descriptors in order, in a thread of its own.

    Attributes:
        wake_fd: Becomes readable when there is room again, or when a descriptor has failed.
        failure: The error of stdout, once it has one; what is put after that is thrown away.
    """

    def __init__(self, outputs: dict[int, int], book: Book | None = None) -> None:
        """Start the thread.

        Args:
            outputs: Where to write what is meant for 1 and for 2, by that number.
            book: Told before and after writing, in the thread; None: nobody is.
        """
        self.puts = 0
        self._book = book
        self.failure: OSError | None = None
        self.writes_to = 0
        self._write_began: float | None = None
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._outputs = outputs
        self._dead: set[int] = set()
        self._queue: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._was_full = False
        self._is_closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        # Signals are for the main thread: it waits for some of them by name.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._thread.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def unwritten(self) -> int:
        """Bytes that are queued."""
        return self._bytes

    @property
    def waited(self) -> float:
        """For how many seconds the write that is under way has waited for its reader; 0 where there is none."""
        began = self._write_began
        return 0.0 if began is None else time.monotonic() - began

    @property
    def is_full(self) -> bool:
        """Whether the fabric should stop reading until `wake_fd` says that there is room."""
        if self._bytes < QUEUE_BYTES:
            return False
        with self._changed:
            self._was_full = self._bytes >= QUEUE_BYTES
            return self._was_full

    def put(self, chunks: Sequence[tuple[int, bytes]]) -> None:
        """Queue chunks, each for 1 or 2. Never waits and takes all, full or not."""
        if not chunks:
            return
        with self._changed:
            self._queue.extend(chunks)
            self.puts += 1
            self._bytes += sum(len(data) for _, data in chunks)
            self._changed.notify()

    def close(self, timeout: float | None) -> bool:
        """Blocks. Write what is queued, then end the thread.

        Returns:
            Whether all was written within ``timeout`` seconds.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    if self._is_closing:
                        return
                    self._changed.wait()
                chunks = list(self._queue)
                self._queue.clear()
                puts = self.puts
            if self._book is not None:
                self._book.begin(sum(len(data) for _, data in chunks))
            number = chunks[0][0]
            pending: list[bytes] = []
            for other, data in chunks:
                if other != number:
                    self._write(number, b"".join(pending))
                    number, pending = other, []
                pending.append(data)
            self._write(number, b"".join(pending))
            if self._book is not None:
                self._book.end(puts)

    def _write(self, number: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            done = len(view)
            if number not in self._dead:
                self.writes_to = number
                self._write_began = time.monotonic() if self._write_began is None else self._write_began
                try:
                    done = os.write(self._outputs[number], view[: 64 << 10])
                except BlockingIOError:
                    # Somebody who shares the open file description has made it non-blocking.
                    self._wait_for_room(self._outputs[number])
                    continue  # and the wait goes on
                except OSError as error:
                    self._dead.add(number)
                    if number == 1:
                        self.failure = error
                        os.eventfd_write(self.wake_fd, 1)
            self._write_began = None
            view = view[done:]
            with self._changed:
                self._bytes -= done
                if self._was_full and self._bytes < QUEUE_BYTES // 2:
                    self._was_full = False
                    os.eventfd_write(self.wake_fd, 1)

    @staticmethod
    def _wait_for_room(fd: int) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        poll.poll()

    @property
    def is_broken_pipe(self) -> bool:
        """Whether the reader of stdout has gone."""
        return self.failure is not None and self.failure.errno == errno.EPIPE


def wants_colour() -> bool:
    """Whether stdout is a terminal that shows colours, and nobody has said that he wants none (https://no-color.org)."""
    return os.isatty(1) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in {None, "", "dumb"}


def are_joined() -> bool:
    """Whether stdout and stderr go to the same place."""
    try:
        one, two = os.fstat(1), os.fstat(2)
    except OSError:
        return True
    return (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)
