"""Round trips, streams and bulk over any blocking two-way link: the near end measures, the far end answers.

Both ends know the sizes of each phase, so nothing but the measured values passes.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from benchmarks.measure import (
    BULKS,
    COMPUTING,
    ROUND_TRIPS,
    STREAMS,
    compute,
    compute_speed,
    now,
    payload,
    report,
    report_latency,
    scaled,
    time_calls,
)

if TYPE_CHECKING:
    from collections.abc import Callable

DONE = "done"
"""What the far end says when it has taken all values of a phase."""


class Link(Protocol):
    """One end of a blocking two-way link."""

    def send(self, value: object) -> None:
        """Send one value. Blocks while the link is full."""

    def flush(self) -> None:
        """Send what is still held back by an end that joins its writes."""

    def recv(self) -> object:
        """Take the next value. Blocks until there is one."""

    def ready(self) -> bool:
        """Tell whether a value, or a part of one, is there."""


def near(link: Link, workload: str, scale: float) -> None:
    """Measure one workload and report its figures.

    Args:
        link: The near end.
        workload: "rtt", "stream", "bulk" or "computes".
        scale: As in `measure.scaled`.
    """
    match workload:
        case "rtt":
            for name, count in ROUND_TRIPS:
                value = payload(name)

                def call(value: object = value) -> None:
                    link.send(value)
                    link.flush()
                    link.recv()

                report_latency(f"round trip {name}", time_calls(call, scaled(count, scale)))
        case "stream":
            for name, count in STREAMS:
                push(link, payload(name), warm_up(count, scale))
                number = scaled(count, scale)
                report(f"stream {name}", number / push(link, payload(name), number), "/s")
        case "bulk":
            for name, count, mib in BULKS:
                push(link, payload(name), warm_up(count, scale))
                number = scaled(count, scale)
                report(f"bulk {name}", number * mib / push(link, payload(name), number), "MiB/s")
        case "computes":
            for how, name, count, mib in COMPUTING:
                number = scaled(count, scale)
                report(f"peer computes, {how}", number * mib / push(link, payload(name), number), "MiB/s")
                kept = link.recv()
                assert isinstance(kept, float)
                report(f"peer computes, {how}: its speed kept", kept, "%")
        case _:
            raise ValueError(workload)


def far(link: Link, workload: str, scale: float) -> None:
    """Answer one workload.

    Args:
        link: The far end.
        workload: As in `near`.
        scale: As in `near`.
    """
    match workload:
        case "rtt":
            for _, count in ROUND_TRIPS:
                number = scaled(count, scale)
                for _ in range(number + number // 10):
                    link.send(link.recv())
                    link.flush()
        case "stream":
            for _, count in STREAMS:
                take(link, warm_up(count, scale))
                take(link, scaled(count, scale))
        case "bulk":
            for _, count, _ in BULKS:
                take(link, warm_up(count, scale))
                take(link, scaled(count, scale))
        case "computes":
            full = compute_speed(0.2)
            for how, _, count, _ in COMPUTING:
                speed = (take_by_thread if how == "thread" else take_by_polling)(link, scaled(count, scale))
                link.send(DONE)
                link.send(100 * speed / full)
                link.flush()
        case _:
            raise ValueError(workload)


def warm_up(count: int, scale: float) -> int:
    """Give the number of values before the measured ones: a tenth as many.

    Args:
        count: As in `measure.scaled`.
        scale: As in `measure.scaled`.
    """
    return scaled(count // 10, scale)


def push(link: Link, value: object, count: int) -> float:
    """Send a value many times, and wait until the far end has them all.

    Args:
        link: The near end.
        value: What is sent.
        count: How often.

    Returns:
        Seconds.
    """
    send = link.send
    began = now()
    for _ in range(count):
        send(value)
    link.flush()
    if link.recv() != DONE:
        raise RuntimeError("the far end did not say that it is done")
    return (now() - began) / 1e9


def take(link: Link, count: int) -> None:
    """Take many values and say so.

    Args:
        link: The far end.
        count: How many.
    """
    recv = link.recv
    for _ in range(count):
        recv()
    link.send(DONE)
    link.flush()


def take_by_thread(link: Link, count: int) -> float:
    """Take values in a second thread while this one computes.

    Args:
        link: The far end.
        count: How many.

    Returns:
        Calls of `compute` a second meanwhile.
    """

    def run() -> None:
        for _ in range(count):
            link.recv()

    return compute_beside(run)


def compute_beside(run: Callable[[], None]) -> float:
    """Compute in this thread until a second one has ended.

    Args:
        run: What the second thread does.

    Returns:
        Calls of `compute` a second meanwhile.
    """
    thread = threading.Thread(target=run)
    began, calls = now(), 0
    thread.start()
    while thread.is_alive():
        compute()
        calls += 1
    return calls / ((now() - began) / 1e9)


def take_by_polling(link: Link, count: int) -> float:
    """Compute about a millisecond, take what is there, and so on.

    Args:
        link: The far end.
        count: How many values.

    Returns:
        Calls of `compute` a second meanwhile.
    """
    began, calls, taken = now(), 0, 0
    while taken < count:
        for _ in range(20):
            compute()
        calls += 20
        while taken < count and link.ready():
            link.recv()
            taken += 1
    return calls / ((now() - began) / 1e9)
