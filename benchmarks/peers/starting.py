"""Ways to start a process: os.fork, and multiprocessing's forkserver and spawn.

A process counts as started when its own first word has arrived: this is what our `spawn` waits for too.
"""

from __future__ import annotations

import multiprocessing
import os
from typing import TYPE_CHECKING, Protocol, cast

from benchmarks.measure import BURST, WAITING, now, report, report_latency, scaled
from benchmarks.proc import report_waiting

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

BEGUN = b"b"


class Child(Protocol):
    """A started process that waits for the word to end."""

    os_pid: int

    def begun(self) -> None:
        """Wait for its first word."""

    def end(self) -> None:
        """Give it the word to end, and wait for its end."""


class Forked:
    """os.fork and two pipes."""

    def __init__(self) -> None:
        self.reader, child_writer = os.pipe()
        child_reader, self.writer = os.pipe()
        self.os_pid = os.fork()
        if self.os_pid == 0:
            os.close(self.writer)
            os.write(child_writer, BEGUN)
            os.read(child_reader, 1)
            os._exit(0)
        os.close(child_reader)
        os.close(child_writer)

    def begun(self) -> None:
        """Wait for its first word."""
        os.read(self.reader, 1)

    def end(self) -> None:
        """End it and wait."""
        # By a byte, not by closing: later children hold copies of the write end.
        os.write(self.writer, BEGUN)
        os.close(self.writer)
        os.close(self.reader)
        os.waitpid(self.os_pid, 0)


def child(connection: Connection[bytes, bytes]) -> None:
    """Say that it has begun, and wait for the word to end."""
    connection.send_bytes(BEGUN)
    connection.recv_bytes()


class Multiprocess:
    """A multiprocessing.Process and a Pipe."""

    def __init__(self, method: str) -> None:
        context = cast("multiprocessing.context.SpawnContext", multiprocessing.get_context(method))
        self.connection, far = context.Pipe()
        self.process = context.Process(target=child, args=(far,))
        self.process.start()
        far.close()
        assert self.process.pid is not None
        self.os_pid = self.process.pid

    def begun(self) -> None:
        """Wait for its first word."""
        self.connection.recv_bytes()

    def end(self) -> None:
        """End it and wait."""
        self.connection.send_bytes(BEGUN)
        self.process.join()


def run(peer: str, workload: str, scale: float) -> None:
    """Measure starts, or processes that wait.

    Args:
        peer: "fork", "forkserver" or "spawn".
        workload: "init" (the first start of all), "spawn" or "waiting".
        scale: As in `measure.scaled`.
    """

    def start() -> Child:
        return Forked() if peer == "fork" else Multiprocess(peer)

    def once() -> int:
        began = now()
        one = start()
        one.begun()
        spent = now() - began
        one.end()
        return spent

    match workload:
        case "init":
            report("init() to the next line", once() / 1e6, "ms")
        case "spawn":
            once()
            report_latency("spawn to Pid", [once() for _ in range(scaled(30, scale))], "ms")
            number = scaled(BURST, scale)
            began = now()
            burst = [start() for _ in range(number)]
            for one in burst:
                one.begun()
            report(f"spawn burst of {BURST}", number / ((now() - began) / 1e9), "/s")
            for one in burst:
                one.end()
        case "waiting":
            waiting = [start() for _ in range(WAITING)]
            for one in waiting:
                one.begun()
            report_waiting("waiting process", [one.os_pid for one in waiting])
            for one in waiting:
                one.end()
        case _:
            raise ValueError(workload)
