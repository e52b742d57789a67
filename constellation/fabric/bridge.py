"""The bridge: gathers what happens in a deployment for the terminal that started it, and finds the run's exit code."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from constellation.core.human import PARTIAL_S
from constellation.core.output import Renderer, run_exit_code
from constellation.core.pid import Pid
from constellation.core.status import ExitStatus

if TYPE_CHECKING:
    from constellation.core.plugins import Plugins
    from constellation.fabric.books import Member
    from constellation.fabric.lastwords import Book
    from constellation.fabric.loop import Loop, Timer


class Sink(Protocol):
    """Takes rendered chunks, each for 1 or 2, without waiting."""

    puts: int
    """How many times something has been put."""

    def put(self, chunks: Sequence[tuple[int, bytes]]) -> None: ...


class Bridge:
    """Events in, rendered output and news to plugins out.

    Args:
        loop: For the time at which a part of a line is shown.
        renderer: Knows the format.
        sink: Writes.
        plugins: Hear the news.
        book: Has the processes whose end has not been written; None: nobody would read it.
    """

    def __init__(self, loop: Loop, renderer: Renderer, sink: Sink, plugins: Plugins, book: Book | None = None) -> None:
        self._loop = loop
        self._renderer = renderer
        self._sink = sink
        self._plugins = plugins
        self._book = book
        self._timer: Timer | None = None
        self._ends: dict[tuple[int | None, str | None], ExitStatus] = {}

    def news(self, hook: str, **arguments: Any) -> None:
        """Tell the plugins; nothing is spent where there are none."""
        if self._plugins.names:
            self._plugins.news(hook, **arguments)

    def spawned(self, process: Member) -> None:
        """A process runs."""
        if self._book is not None and not process.is_attached:
            self._book.add(process.key)
        self.news(
            "process_spawned",
            pid=process.pid,
            parent=process.parent,
            function=process.function,
            node=process.computer.name,
            resources=process.resources,
        )
        self._put(
            self._renderer.spawn(
                time.time(), process.pid, process.parent, process.function, process.computer.name, process.resources
            )
        )

    def output(self, pid: Pid, number: int, data: bytes, *, at_once: bool = False) -> None:
        """A process has written ``data`` to its stdout (1) or stderr (2).

        Args:
            pid: The process.
            number: The stream.
            data: What it wrote.
            at_once: Show a part of a line without delay: it is the echo of a key.
        """
        now = time.time()
        self._put(self._renderer.output(now, pid, number, data))
        if at_once:
            self._put(self._renderer.tick(now + PARTIAL_S))

    def draining(self, process: Member) -> None:
        """A process has returned and still delivers what it sent, since a while."""
        self._put(self._renderer.draining(time.time(), process.pid, process.draining))

    def exited(self, status: ExitStatus, *, counts: bool = True) -> None:
        """A process has ended and its output has been read.

        Args:
            status: Its certificate.
            counts: Whether it has a part in the exit code of the run.
        """
        if counts:
            self._ends.setdefault((status.code, status.signal), status)
        self.news("process_exited", status=status)
        self._put(self._renderer.exit(time.time(), status))
        if self._book is not None:
            self._book.remove(status.pid.to_bytes(), self._sink.puts)

    def exit_code(self, *, interrupted: bool) -> int:
        """The exit code of the run, from the ends so far."""
        return run_exit_code(self._ends.values(), interrupted)

    def finish(self) -> None:
        """Show what is held back: parts of lines."""
        self._put(self._renderer.finish(time.time()))

    def _put(self, chunks: list[tuple[int, bytes]]) -> None:
        if chunks:
            self._sink.put(chunks)
        # One look each time instead of a timer that is moved: it is at most one wake-up for every burst of output.
        if self._timer is None and self._renderer.next_deadline() is not None:
            self._arm()

    def _arm(self) -> None:
        deadline = self._renderer.next_deadline()
        if deadline is None:
            self._timer = None
            return
        # The renderer's clock is that of the events, which somebody may set; a wait is never longer than its hold time.
        wait = min(max(0.0, deadline - time.time()), PARTIAL_S)
        self._timer = self._loop.call_later(wait, self._tick)

    def _tick(self) -> None:
        chunks = self._renderer.tick(time.time())
        if chunks:
            self._sink.put(chunks)
        self._arm()
