"""What every benchmark program shares: payloads, sizes, samples, and reports of one line each.

A benchmark program is a process tree of its own that prints one line for each figure; the runner gathers them. Nothing
heavy is imported here, because the programs that measure starts and memory import this module too.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

now = time.perf_counter_ns

MIB = 1 << 20
MARK = "@figure "
"""Begins each line that carries a figure; all other output of a program is ignored."""

ROUND_TRIPS = (("int", 5_000), ("dict", 5_000), ("1 KiB", 5_000))
STREAMS = (("int", 200_000), ("dict", 200_000), ("1 KiB", 100_000))
BULKS = (("1 MiB bytes", 256, 1), ("64 MiB bytes", 6, 64), ("64 MiB array", 6, 64))
"""What is sent, how often, and how many MiB each value has."""
COMPUTING = (("thread", "64 MiB bytes", 4, 64), ("polling", "1 MiB bytes", 128, 1))
"""How the receiver takes the values while its main thread computes; what, how often, and MiB of each value."""
PLUGINS = 20
PLUGGED_TRIPS = ("int", 10_000)
PLUGGED_STREAM = ("dict", 200_000)
"""What is measured with so many plugins enabled, and without."""
BURST = 100
TRACKED_PHASES = 80
"""With and without the tracking of waits, in turns."""
SLOW = 20
SLOW_S = 12.0
"""Programs that are only slow, and for how long."""
ENDED = 500
"""Processes that Ctrl-C ends."""
PLACING_NODES = (1_000, 10_000, 100_000)
PLACED = 1_000_000
"""Nodes and demands of the placement machine."""
WAITING = 10
IDLE_S = 2.0
FABRIC_NODES = 3
FABRIC_LEASE_S = 2.0
CROWD = 1_000
CROWD_NODES = 8
"""Processes over nodes, all on this computer."""


def scaled(count: int, scale: float) -> int:
    """Give the number of repetitions at a scale, at least two.

    Args:
        count: Repetitions at full scale.
        scale: 1.0 for a full run, less for a quick one.
    """
    return max(2, int(count * scale))


def payload(name: str) -> object:
    """Make the value that a workload sends.

    Args:
        name: One of the names in the tables above.

    Raises:
        KeyError: There is no such payload.
    """
    match name:
        case "int":
            return 7
        case "dict":
            return {"id": 123_456, "kind": "tick", "price": 101.25, "ok": True}
        case "1 KiB":
            return os.urandom(1024)
        case "1 MiB bytes":
            return os.urandom(MIB)
        case "64 MiB bytes":
            return os.urandom(MIB) * 64
        case "64 MiB array":
            import numpy as np

            return np.arange(8 * MIB, dtype=np.float64)
        case _:
            raise KeyError(name)


def report(what: str, value: float, unit: str, variant: str = "") -> None:
    """Print one figure for the runner.

    Args:
        what: The row of the table, such as "round trip int".
        value: The figure.
        unit: Its unit, the same for all peers of a row.
        variant: Sets a second way of the same peer apart, such as "try_send".
    """
    print(MARK + json.dumps({"what": what, "value": value, "unit": unit, "variant": variant}), flush=True)


def report_latency(what: str, samples_ns: Sequence[int], unit: str = "µs", variant: str = "") -> None:
    """Print the median of samples, and the 99th percentile as a row of its own.

    Args:
        what: The row of the table.
        samples_ns: Times in nanoseconds, at least one.
        unit: "µs" or "ms".
        variant: As in `report`.
    """
    ordered = sorted(samples_ns)
    divisor = {"µs": 1e3, "ms": 1e6}[unit]
    report(what, ordered[len(ordered) // 2] / divisor, unit, variant)
    report(f"{what}, p99", ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] / divisor, unit, variant)


def time_calls(call: Callable[[], object], count: int) -> list[int]:
    """Time each of many calls after a tenth as many unmeasured ones.

    Args:
        call: What is measured.
        count: How many samples.

    Returns:
        Nanoseconds of each call.
    """
    for _ in range(count // 10):
        call()
    samples = [0] * count
    for index in range(count):
        began = now()
        call()
        samples[index] = now() - began
    return samples


def compute() -> int:
    """Do about 50 µs of plain Python arithmetic, as a program does between its receives."""
    total = 0
    for number in range(1000):
        total += number * number
    return total


def compute_speed(seconds: float) -> float:
    """Give how many `compute` calls a second this process makes when nothing else goes on in it.

    Args:
        seconds: How long to measure.
    """
    began, calls = now(), 0
    until = began + int(seconds * 1e9)
    while now() < until:
        compute()
        calls += 1
    return calls / ((now() - began) / 1e9)
