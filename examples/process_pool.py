"""A process pool to be used again and again: `run` and `map` under asyncio, errors carried back to the caller.

Shows functions as values on a channel, await, cancellation, exceptions that travel with the traceback of the process
that raised them, and a pool that replaces a process that dies while it works (`PeerDied`).

    python examples/process_pool.py [--crash]

With --crash a job ends its process: the pool goes on, and the exit code of the run says that a process has failed.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self, TypeVar

from constellation import PeerDied, Pid, Receiver, Resources, Sender, SerializationError, init, join, parent, spawn

R = TypeVar("R")
T = TypeVar("T")


class Job(NamedTuple):
    """What a member of the pool is to call."""

    number: int
    fn: Callable[..., Any]
    args: tuple[Any, ...]


class Outcome(NamedTuple):
    """What came of a job: a value, or the exception that it raised."""

    number: int
    value: Any = None
    error: Exception | None = None


class JobFailed(Exception):
    """Stands for an exception or a result that cannot travel; holds its text."""


def serve() -> None:
    """Run jobs for the parent until it closes the channel. This is what each process of the pool runs."""
    outcomes = Sender[Outcome](parent(), "outcomes")
    for number, fn, args in Receiver[Job](parent(), "jobs"):
        try:
            outcome = Outcome(number, value=fn(*args))
        except Exception as error:  # whatever a job raises belongs to the one who asked for it
            error.add_note(f"in the pool's process:\n{traceback.format_exc()}")
            outcome = Outcome(number, error=error)
        try:
            outcomes.send(outcome).block()
        except SerializationError as error:
            outcomes.send(Outcome(number, error=JobFailed(f"{outcome.error or error!r}"))).block()


class Member:
    """One process of the pool and the two channels to it."""

    def __init__(self, pid: Pid) -> None:
        self.jobs = Sender[Job](pid, "jobs")
        self.outcomes = Receiver[Outcome](pid, "outcomes")

    async def call(self, job: Job) -> Outcome:
        """Run one job. The outcome of an earlier one, whose caller was cancelled, is passed over."""
        await self.jobs.send(job)
        while (outcome := await self.outcomes.recv()).number != job.number:
            pass
        return outcome


class ProcessPool:
    """A number of processes that run functions; an async context manager.

    Args:
        size: How many processes, at least 1.
        resources: What each of them asks for.
    """

    def __init__(self, size: int, resources: Resources | None = None) -> None:
        self._size = size
        self._resources = resources
        self._idle: asyncio.Queue[Member] = asyncio.Queue()
        self._jobs = 0

    async def __aenter__(self) -> Self:
        for pid in await join(*(spawn(serve, resources=self._resources) for _ in range(self._size))):
            self._idle.put_nowait(Member(pid))
        return self

    async def __aexit__(self, *_: object) -> None:
        while not self._idle.empty():
            self._idle.get_nowait().jobs.close()  # its loop ends, and so does the process

    async def run(self, fn: Callable[..., R], *args: Any) -> R:
        """Call ``fn(*args)`` in a process of the pool and give its result; raises what it raised.

        Raises:
            PeerDied: The process ended while it ran the job; another one has taken its place.
            JobFailed: The result, or the exception, cannot travel.
        """
        member = await self._idle.get()
        self._jobs += 1
        try:
            outcome = await member.call(Job(self._jobs, fn, args))
        except PeerDied:
            member = Member(await spawn(serve, resources=self._resources))
            raise
        finally:
            self._idle.put_nowait(member)
        if outcome.error is not None:
            raise outcome.error
        result: R = outcome.value
        return result

    async def map(self, fn: Callable[[T], R], values: Iterable[T]) -> list[R]:
        """Call ``fn`` with each value, as many at once as there are processes; results in the order of the values."""
        return list(await asyncio.gather(*(self.run(fn, value) for value in values)))


def count_primes(limit: int) -> int:
    """Count the primes below a limit, slowly."""
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, limit))


async def main(crash: bool) -> None:
    """Use one pool for results, for an error, and for a process that dies."""
    async with ProcessPool(size=max(2, os.cpu_count() or 2)) as pool:
        print("primes:", await pool.map(count_primes, range(1_000, 11_000, 1_000)))
        print("again:", await pool.map(lambda text: text.upper(), ["a", "b", "c"]))
        try:
            await pool.run(int, "twelve")
        except ValueError as error:
            print("an error came back:", error)
        if crash:
            try:
                await pool.run(os._exit, 3)
            except PeerDied as error:
                print("a process died:", error.status.describe())
            print("the pool goes on:", await pool.run(count_primes, 100))


if __name__ == "__main__":
    init()
    asyncio.run(main(crash="--crash" in sys.argv[1:]))
