"""Await round trips over asyncio's streams, under asyncio's loop and under uvloop: pickles with their length before them."""

from __future__ import annotations

import asyncio
import os
import pickle
import struct
from typing import TYPE_CHECKING, Any

from benchmarks.measure import ROUND_TRIPS, now, payload, report_latency, scaled
from benchmarks.peers.sockets import fork

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

LENGTH = struct.Struct("<I")


async def send(writer: asyncio.StreamWriter, value: object) -> None:
    """Send one value, and wait while the stream is full."""
    body = pickle.dumps(value, 5)
    writer.write(LENGTH.pack(len(body)) + body)
    await writer.drain()


async def recv(reader: asyncio.StreamReader) -> object:
    """Take the next value."""
    (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    return pickle.loads(await reader.readexactly(size))


async def far(port: int, scale: float) -> None:
    """Echo all values of all phases."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _, count in ROUND_TRIPS:
        number = scaled(count, scale)
        for _ in range(number + number // 10):
            await send(writer, await recv(reader))
    writer.close()


async def near(drive: Callable[[Coroutine[Any, Any, None]], None], scale: float) -> None:
    """Measure the round trips.

    Args:
        drive: Runs a coroutine under the loop of this peer; used in the far process.
        scale: As in `measure.scaled`.
    """
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_server(lambda r, w: accepted.put_nowait((r, w)), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    def child() -> None:
        asyncio._set_running_loop(None)  # the fork happens while this process's loop runs; the child makes its own
        drive(far(port, scale))

    os_pid = fork(child)
    reader, writer = await accepted.get()
    for name, count in ROUND_TRIPS:
        value, number = payload(name), scaled(count, scale)
        samples = []
        for _ in range(number + number // 10):
            began = now()
            await send(writer, value)
            await recv(reader)
            samples.append(now() - began)
        report_latency(f"await round trip {name}", samples[number // 10 :])
    writer.close()
    server.close()
    os.waitpid(os_pid, 0)


def run(peer: str, scale: float) -> None:
    """Measure await round trips between this process and a forked one.

    Args:
        peer: "asyncio" or "uvloop".
        scale: As in `measure.scaled`.
    """
    if peer == "uvloop":
        import uvloop

        def drive(coroutine: Coroutine[Any, Any, None]) -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(coroutine)
    else:

        def drive(coroutine: Coroutine[Any, Any, None]) -> None:
            asyncio.run(coroutine)

    drive(near(drive, scale))
