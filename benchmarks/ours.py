"""Constellation's side of each workload: `python benchmarks/ours.py WORKLOAD [SCALE]`, the same script as a user's.

A stream's sender calls `send(value).block()` once for each value, and the receiver iterates; the variant "try_send"
calls `try_send`, and blocks only for a value that finds no room.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING

# As a script this file's folder is first on the path: there `benchmarks` itself cannot be found, and `profile` is not
# the standard library's.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from benchmarks import proc  # noqa: E402  # the path had to be set before this and the next two
from benchmarks.measure import (  # noqa: E402
    BULKS,
    BURST,
    COMPUTING,
    ROUND_TRIPS,
    STREAMS,
    WAITING,
    compute,
    compute_speed,
    now,
    payload,
    report,
    report_latency,
    scaled,
    time_calls,
)
from constellation import Pid, Receiver, Resources, Sender, WouldBlock, init, join, parent, spawn, watch  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

PROFILE = os.environ.get("BENCHMARKS_PROFILE")
"""How and where to write profiles, set by `benchmarks.profile`."""


def first() -> Pid:
    """Give the first process, from a spawned one."""
    pid = parent()
    assert pid is not None
    return pid


def profiled(end: str) -> AbstractContextManager[object]:
    """Profile one end of a link if that is asked for.

    Args:
        end: "near" or "far".
    """
    if PROFILE is None:
        return nullcontext()
    from benchmarks.profile import recording

    return recording(PROFILE, end)


# --- round trips ---


def rtt(scale: float) -> None:
    """Measure round trips with `.block()` on both sides."""
    peer = spawn(echo, scale).block()
    there, back = Sender[object](peer), Receiver[object](peer)
    with profiled("near"):
        for name, count in ROUND_TRIPS:
            value = payload(name)

            def call(value: object = value) -> None:
                there.send(value).block()
                back.recv().block()

            report_latency(f"round trip {name}", time_calls(call, scaled(count, scale)))


def echo(scale: float) -> None:
    """Send back what comes."""
    there, back = Receiver[object](first()), Sender[object](first())
    with profiled("far"):
        for _, count in ROUND_TRIPS:
            number = scaled(count, scale)
            for _ in range(number + number // 10):
                back.send(there.recv().block()).block()


def await_rtt(scale: float) -> None:
    """Measure await round trips under asyncio's own loop."""
    import asyncio  # not at the top: small programs start faster, and "spawn" and "waiting" measure one

    peer = spawn(await_echo, scale).block()
    asyncio.run(await_near(peer, scale))


def uvloop_rtt(scale: float) -> None:
    """Measure await round trips under uvloop."""
    import asyncio

    import uvloop

    peer = spawn(uvloop_echo, scale).block()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(await_near(peer, scale, "uvloop"))


async def await_near(peer: Pid, scale: float, variant: str = "") -> None:
    """Measure the round trips of both."""
    there, back = Sender[object](peer), Receiver[object](peer)
    with profiled("near"):
        for name, count in ROUND_TRIPS:
            value, number = payload(name), scaled(count, scale)
            samples = []
            for _ in range(number + number // 10):
                began = now()
                await there.send(value)
                await back.recv()
                samples.append(now() - began)
            report_latency(f"await round trip {name}", samples[number // 10 :], variant=variant)


async def await_echo(scale: float) -> None:
    """Send back what comes, under the running loop."""
    there, back = Receiver[object](first()), Sender[object](first())
    with profiled("far"):
        for _, count in ROUND_TRIPS:
            number = scaled(count, scale)
            for _ in range(number + number // 10):
                await back.send(await there.recv())


def uvloop_echo(scale: float) -> None:
    """Send back what comes, under uvloop."""
    import asyncio

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(await_echo(scale))


# --- streams and bulk ---


def push(peer: Pid, value: object, count: int, *, trying: bool = False) -> float:
    """Send a value many times and wait until the far end has them all.

    Args:
        peer: A process that runs `take`.
        value: What is sent.
        count: How often.
        trying: By `try_send` where there is room.

    Returns:
        Seconds from the first send to the far end's count.
    """
    values, counts = Sender[object](peer), Receiver[int](peer, "counts")
    began = now()
    if trying:
        try_send = values.try_send
        for _ in range(count):
            try:
                try_send(value)
            except WouldBlock:
                values.send(value).block()
    else:
        send = values.send
        for _ in range(count):
            send(value).block()
    values.close()
    got = counts.recv().block()
    seconds = (now() - began) / 1e9
    counts.close()
    if got != count:
        raise RuntimeError(f"the far end counted {got} values of {count}")
    return seconds


def take(phases: int) -> None:
    """Iterate over each phase's channel until the near end has closed it, and send the count."""
    with profiled("far"):
        for _ in range(phases):
            values, counts = Receiver[object](first()), Sender[int](first(), "counts")
            number = 0
            for _ in values:
                number += 1
            counts.send(number).block()
            values.close()
            counts.close()


def stream(scale: float) -> None:
    """Measure streams of small values."""
    peer = spawn(take, 3 * len(STREAMS)).block()
    with profiled("near"):
        for name, count in STREAMS:
            number, value = scaled(count, scale), payload(name)
            push(peer, value, scaled(count // 10, scale))
            report(f"stream {name}", number / push(peer, value, number), "/s")
            report(f"stream {name}", number / push(peer, value, number, trying=True), "/s", "try_send")


def bulk(scale: float) -> None:
    """Measure large values."""
    peer = spawn(take, 2 * len(BULKS)).block()
    with profiled("near"):
        for name, count, mib in BULKS:
            number, value = scaled(count, scale), payload(name)
            push(peer, value, scaled(count // 10, scale))
            report(f"bulk {name}", number * mib / push(peer, value, number), "MiB/s")


def computes(scale: float) -> None:
    """Measure transfers to a process whose main thread computes."""
    peer = spawn(compute_and_take, scale).block()
    speeds = Receiver[float](peer, "speeds")
    for how, name, count, mib in COMPUTING:
        number = scaled(count, scale)
        report(f"peer computes, {how}", number * mib / push(peer, payload(name), number), "MiB/s")
        report(f"peer computes, {how}: its speed kept", speeds.recv().block(), "%")


def compute_and_take(scale: float) -> None:
    """Take values by a second thread, then by polling, while this thread computes."""
    full = compute_speed(0.2)
    speeds = Sender[float](first(), "speeds")
    for how, _, count, _ in COMPUTING:
        number = scaled(count, scale)
        values, counts = Receiver[object](first()), Sender[int](first(), "counts")
        began = now()
        calls = (compute_beside if how == "thread" else compute_between)(values, number)
        speed = calls / ((now() - began) / 1e9)
        counts.send(number).block()
        values.close()
        counts.close()
        speeds.send(100 * speed / full).block()


def compute_beside(values: Receiver[object], count: int) -> int:
    """Compute until a second thread has taken all values, and give the number of `compute` calls."""

    def run() -> None:
        for _ in range(count):
            values.recv().block()

    thread = threading.Thread(target=run)
    calls = 0
    thread.start()
    while thread.is_alive():
        compute()
        calls += 1
    return calls


def compute_between(values: Receiver[object], count: int) -> int:
    """Compute about a millisecond, take what is there, and so on; give the number of `compute` calls."""
    calls = taken = 0
    while taken < count:
        for _ in range(20):
            compute()
        calls += 20
        try:
            while taken < count:
                values.try_recv()
                taken += 1
        except WouldBlock:
            pass
    return calls


# --- processes ---


def wait_for_word() -> None:
    """Tell the first process this one's number at the kernel, and wait for its word."""
    Sender[int](first()).send(os.getpid()).block()
    Receiver[int](first()).recv().block()


def end_all(pids: list[Pid]) -> None:
    """Give processes in `wait_for_word` the word, and wait for their ends."""
    for pid in pids:
        Sender[int](pid).send(0).block()
    join(*map(watch, pids)).block()


def spawns(scale: float) -> None:
    """Measure spawns one by one and in bursts, without and with a demand that the system must hold."""
    for variant, demand in (("", None), ("mem held", Resources(mem="64 MiB"))):
        samples = []
        for _ in range(1 + scaled(30, scale)):
            began = now()
            pid = spawn(wait_for_word, resources=demand).block()
            samples.append(now() - began)
            end_all([pid])
        report_latency("spawn to Pid", samples[1:], "ms", variant)
        number = scaled(BURST, scale)
        began = now()
        pids = join(*(spawn(wait_for_word, resources=demand) for _ in range(number))).block()
        report(f"spawn burst of {BURST}", number / ((now() - began) / 1e9), "/s", variant)
        end_all(pids)


def waiting(_scale: float) -> None:
    """Measure processes that wait for a value, and the roles above them."""
    pids = join(*(spawn(wait_for_word) for _ in range(WAITING))).block()
    os_pids = [Receiver[int](pid).recv().block() for pid in pids]
    proc.report_waiting("waiting process", os_pids)
    above = os_pids[0]
    for role in ("template", "fabric", "keeper"):
        above = proc.parent_of(above)
        proc.report_waiting("waiting process", [above], f"({role})")
    end_all(pids)


WORKLOADS: dict[str, Callable[[float], None]] = {
    "rtt": rtt,
    "stream": stream,
    "bulk": bulk,
    "computes": computes,
    "await": await_rtt,
    "await-uvloop": uvloop_rtt,
    "spawn": spawns,
    "waiting": waiting,
    "init": lambda _scale: None,
}


def main() -> None:
    """Run the workload that the command line names."""
    workload = sys.argv[1]
    if workload == "bulk":
        import numpy as np  # noqa: F401  # as a user's program would: before init(), so that all processes have it
    began = now()
    init()
    if workload == "init":
        report("init() to the next line", (now() - began) / 1e6, "ms")
    WORKLOADS[workload](float(sys.argv[2]) if len(sys.argv) > 2 else 1.0)


if __name__ == "__main__":
    main()
