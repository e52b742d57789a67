"""What it costs that waits are tracked for `constellation why`: the same program with and without, in turns.

Both ends change between phases of one run, so that the two ways meet the same cores, caches and other work. Without: a
driver that sleeps does only that, and an await that is parked is not noted.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from benchmarks.measure import TRACKED_PHASES, now, report, scaled  # noqa: E402  # the path had to be set before
from constellation import Receiver, Sender, init, parent, spawn  # noqa: E402
from constellation.process import asynchrony, runtime  # noqa: E402

if TYPE_CHECKING:
    from constellation import Pid

TRIPS = 400
VALUES = 10_000
UNTRACKED = "untracked"


class Tracking:
    """Turns the tracking of waits in this process off and on."""

    def __init__(self) -> None:
        parked = asynchrony._Parked
        self._reactor: Any = runtime.current().reactor
        self._parked: Any = parked
        self._methods = (parked.add, parked.remove)

    def set(self, *, is_on: bool) -> None:
        """Track or do not."""
        if is_on:
            self._reactor.__dict__.pop("_sleep", None)
            self._parked.add, self._parked.remove = self._methods
        else:
            poll = self._reactor.poll_once
            self._reactor._sleep = lambda _operation, left: poll(left)
            self._parked.add = self._parked.remove = lambda _self, *_arguments: None


def first() -> Pid:
    """Give the first process, from a spawned one."""
    pid = parent()
    assert pid is not None
    return pid


def far(scale: float) -> None:
    """Answer, count and echo, phase by phase as `near` does."""
    import asyncio

    tracking = Tracking()
    there, back = Receiver[object](first()), Sender[object](first())
    trips, values = scaled(TRIPS, scale), scaled(VALUES, scale)

    async def echo() -> None:
        for _ in range(trips):
            await back.send(await there.recv())

    for phase in range(TRACKED_PHASES):
        tracking.set(is_on=phase % 2 == 0)
        for _ in range(trips):
            back.send(there.recv().block()).block()
        for _ in range(values):
            there.recv().block()
        back.send(None).block()
        asyncio.run(echo())


def near(scale: float) -> None:
    """Measure each phase; the figures of a way are the medians over its phases."""
    import asyncio

    peer = spawn(far, scale).block()
    tracking = Tracking()
    there, back = Sender[object](peer), Receiver[object](peer)
    trips, values = scaled(TRIPS, scale), scaled(VALUES, scale)
    found: dict[tuple[str, str], list[float]] = {}

    async def call() -> None:
        for _ in range(trips):
            await there.send(7)
            await back.recv()

    for phase in range(TRACKED_PHASES):
        tracking.set(is_on=phase % 2 == 0)
        variant = "" if phase % 2 == 0 else UNTRACKED
        began = now()
        for _ in range(trips):
            there.send(7).block()
            back.recv().block()
        found.setdefault(("round trip int", variant), []).append((now() - began) / trips / 1e3)
        began = now()
        for _ in range(values):
            there.send(7).block()
        back.recv().block()
        found.setdefault(("stream int", variant), []).append(values / ((now() - began) / 1e9))
        began = now()
        asyncio.run(call())
        found.setdefault(("await round trip int", variant), []).append((now() - began) / trips / 1e3)
    for (what, variant), figures in found.items():
        ordered = sorted(figures[2:] or figures)  # the first of each way warm up
        unit = "/s" if what.startswith("stream") else "µs"
        report(f"waits tracked: {what}", ordered[len(ordered) // 2], unit, variant or "constellation")


if __name__ == "__main__":
    init()
    near(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
