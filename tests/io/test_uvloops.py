"""Whether a uvloop loop is seen to go on by itself: with each thing that it may wait for (process/uvloops.py)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from constellation.process import uvloops

uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed: it is one of the test extra")


def looked(*doings: Callable[[Any], Awaitable[object]]) -> list[bool]:
    """Whether a loop that watches one descriptor is idle, at first and after each of some doings."""

    async def main() -> list[bool]:
        loop = asyncio.get_running_loop()
        read_end, write_end = os.pipe()
        loop.add_reader(read_end, lambda: None)
        found = []
        kept = []
        try:
            for doing in (asyncio.sleep, *doings):
                kept.append(await doing(loop if doing is not asyncio.sleep else 0))
                future = loop.create_future()
                timers: list[asyncio.TimerHandle] = []

                def look() -> None:
                    future.set_result(uvloops.is_idle(loop, read_end, timers))  # noqa: B023  # called in this round

                timers.append(loop.call_later(0.01, look))
                found.append(await future)
        finally:
            loop.remove_reader(read_end)
            os.close(read_end)
            os.close(write_end)
        return found

    result: list[bool] = uvloop.run(main())
    return result


async def waits(loop: Any) -> object:
    return asyncio.create_task(asyncio.Event().wait())


async def has_a_timer(loop: Any) -> object:
    return loop.call_later(1000, print)


async def has_a_descriptor(loop: Any) -> object:
    pair = socket.socketpair()
    pair[0].setblocking(False)
    return pair, asyncio.create_task(loop.sock_recv(pair[0], 1))


async def has_a_connection(loop: Any) -> object:
    pair = socket.socketpair()
    return pair, await loop.create_unix_connection(asyncio.Protocol, sock=pair[0])


async def has_a_pipe(loop: Any) -> object:
    ends = os.pipe()
    return ends[1], await loop.connect_read_pipe(asyncio.Protocol, os.fdopen(ends[0], "rb"))


async def has_a_server(loop: Any) -> object:
    return await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)


async def has_datagrams(loop: Any) -> object:
    return await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))


async def has_a_program(loop: Any) -> object:
    return await asyncio.create_subprocess_exec("sleep", "0.5")


async def has_a_signal_handler(loop: Any) -> object:
    return loop.add_signal_handler(signal.SIGUSR1, print)


async def has_looked_up_a_name(loop: Any) -> object:
    return await loop.getaddrinfo("localhost", 80)


def test_a_loop_is_idle_where_only_our_descriptor_is_watched() -> None:
    """However many of its tasks wait for each other."""
    assert looked(waits, waits) == [True, True, True]


@pytest.mark.filterwarnings("ignore")  # what is left open is closed with the loop
@pytest.mark.parametrize(
    "doing",
    [
        has_a_timer,
        has_a_descriptor,
        has_a_connection,
        has_a_pipe,
        has_a_server,
        has_datagrams,
        has_a_program,
        has_a_signal_handler,
    ],
)
def test_a_loop_is_not_idle_with_something_of_its_own(doing: Callable[[Any], Awaitable[object]]) -> None:
    """What it is, is seen."""
    assert looked(doing)[-1] is False


def test_a_loop_that_has_looked_up_a_name_may_be_waiting_for_an_answer() -> None:
    """Last, for the threads that it does so in stay."""
    assert looked(has_looked_up_a_name)[-1] is False


def test_of_other_loops_nothing_is_known() -> None:
    """Each has to be learned."""

    async def main() -> bool:
        return uvloops.is_idle(asyncio.get_running_loop(), 0, ())

    assert asyncio.run(main()) is False
