"""Sent is delivered before exit, in every way of ending that Python knows: to who takes it at once, and to who comes late.

Each way stands for a process that is spawned and for the first one. The process sends small values, large ones and some above the
credit, on one channel to a receiver that waits for them, on another to one that makes its end only when the sender's own
code is over, and then takes its time.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import RunProgram
from tests.io.channel_programs import run

CREDIT = 100_000

PROGRAM = """
import asyncio, atexit, concurrent.futures, weakref
SIZES = [10] * 200 + [1000, 50_000, 90_000, 30_000] * 3
ABOVE = [10, 400_000, 10, 150_000]
LATE = [10] * 200 + [1000, 50_000, 30_000]  # what the channel takes before anybody asks for it: less than the credit
def value(n, size):
    return n, bytes([n % 251]) * size
def send_all(to, name, sizes):
    s = Sender(to, name)
    for n, size in enumerate(sizes):
        s.send(value(n, size)).block()
async def await_all(to, name, sizes):
    s = Sender(to, name)
    for n, size in enumerate(sizes):
        await s.send(value(n, size))
def is_over():
    with open(f"over-{pid()}", "w"):
        pass
def receive_all(source, name, sizes, delay):
    got, error = [], None
    r = Receiver(source, name)
    try:
        for n, data in r:
            assert (n, data) == value(n, len(data)), (name, n)
            got.append(len(data))
            time.sleep(delay)
    except PeerDied as died:
        error = died
    assert got == sizes, (name, len(got), len(sizes), error)
    return error
def receiving(source, name):
    waiting = [("early", SIZES, 0), ("above", ABOVE, 0)]
    threads = [threading.Thread(target=receive_all, args=(source, *each)) for each in waiting]
    for thread in threads:
        thread.start()
    until(lambda: os.path.exists(f"over-{source}"))
    time.sleep(0.1)
    error = receive_all(source, "late", LATE, 0.002)
    for thread in threads:
        thread.join()
    status = watch(source).block(timeout=30)
    print(f"{name}: {status.code} {status.signal} {error is None}", flush=True)
@WAYS@
def first(name, sending):
    result = sending(spawn(receiving, pid(), name).block())
    if result is not None:
        asyncio.run(result)
def receives_and_sends(sending):
    # The receiver has to be told the sender's Pid, and the sender's function that of the receiver.
    sending(Receiver[Pid](parent()).recv().block())
async def awaits_and_sends(sending):
    await sending(await Receiver[Pid](parent()).recv())
def spawned(name, sending):
    run = awaits_and_sends if asyncio.iscoroutinefunction(sending) else receives_and_sends
    sender = spawn(run, sending).block()
    receiver = spawn(receiving, sender, name).block()
    Sender(sender).send(receiver).block()
    return receiver
init()
if sys.argv[1] == "first":
    first(*ways[0])
else:
    for at in range(0, len(ways), 4):
        for receiver in [spawned(*way) for way in ways[at : at + 4]]:
            status = watch(receiver).block()
            assert status.ok, status
"""


class Way(NamedTuple):
    """How a process sends and ends."""

    name: str
    code: str
    """The exit code, as the certificate has it."""
    body: str
    is_async: bool = False


SEND = """
send_all(to, "early", SIZES)
send_all(to, "above", ABOVE)
LATE
"""
"""What most do."""
ASYNC = """
await asyncio.gather(await_all(to, "early", SIZES), await_all(to, "above", ABOVE))
await await_all(to, "late", LATE)
"""

WAYS = [
    Way("return", "0", SEND + "is_over()"),
    Way("exception", "1", SEND + "is_over(); raise ValueError('planned')"),
    Way(
        "exception whose text cannot be had",
        "1",
        SEND + "is_over(); raise type('Odd', (Exception,), {'__str__': None})",
    ),
    Way("sys.exit", "0", SEND + "is_over(); sys.exit()"),
    Way("sys.exit 3", "3", SEND + "is_over(); sys.exit(3)"),
    Way("SystemExit with text", "1", SEND + "is_over(); raise SystemExit('planned')"),
    Way("KeyboardInterrupt", "130", SEND + "is_over(); raise KeyboardInterrupt"),
    Way("SIGINT", "130", SEND + "is_over(); os.kill(os.getpid(), signal.SIGINT); time.sleep(30)"),
    Way("SIGTERM", "143", SEND + "is_over(); os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)"),
    Way(
        "SIGTERM handled",
        "7",
        """
        def handler(*_):
            send_all(to, "early", SIZES)
            send_all(to, "above", ABOVE)
            LATE
            is_over()
            sys.exit(7)
        signal.signal(signal.SIGTERM, handler)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
        """,
    ),
    Way(
        "finally",
        "143",
        """
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        finally:
            send_all(to, "early", SIZES)
            send_all(to, "above", ABOVE)
            LATE
            is_over()
        """,
    ),
    Way(
        "a thread goes on",
        "0",
        """
        def later():
            time.sleep(0.1)
            send_all(to, "early", SIZES)
            send_all(to, "above", ABOVE)
            LATE
            is_over()
        threading.Thread(target=later).start()
        """,
    ),
    Way(
        "a thread goes on after an exception",
        "1",
        """
        def later():
            time.sleep(0.1)
            send_all(to, "early", SIZES)
            LATE
            is_over()
        threading.Thread(target=later).start()
        threading.Thread(target=send_all, args=(to, "above", ABOVE)).start()
        raise ValueError("planned")
        """,
    ),
    Way(
        "a daemon thread has sent",
        "0",
        """
        def work():
            send_all(to, "early", SIZES)
            send_all(to, "above", ABOVE)
            LATE
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        while thread.is_alive():
            time.sleep(0.01)
        is_over()
        """,
    ),
    Way(
        "a pool's threads",
        "0",
        """
        pool = concurrent.futures.ThreadPoolExecutor(2)
        pool.submit(send_all, to, "early", SIZES)
        pool.submit(send_all, to, "above", ABOVE)
        def last():
            LATE
            is_over()
        pool.submit(last)
        """,
    ),
    Way(
        "atexit",
        "0",
        """
        def last():
            LATE
            is_over()
        atexit.register(last)
        atexit.register(send_all, to, "above", ABOVE)
        atexit.register(send_all, to, "early", SIZES)
        """,
    ),
    Way(
        "atexit after an exception",
        "1",
        """
        def last():
            send_all(to, "early", SIZES)
            send_all(to, "above", ABOVE)
            LATE
            is_over()
        atexit.register(last)
        raise ValueError("planned")
        """,
    ),
    Way(
        "a finalizer",
        "0",
        """
        globals()["thing"] = thing = type("Thing", (), {})()
        def last():
            send_all(to, "early", SIZES)
            send_all(to, "above", ABOVE)
            LATE
            is_over()
        weakref.finalize(thing, last)
        """,
    ),
    Way(
        "a generator's finally",
        "0",
        """
        def generate():
            try:
                yield
            finally:
                send_all(to, "early", SIZES)
                send_all(to, "above", ABOVE)
                LATE
                is_over()
        next(generated := generate())
        """,
    ),
    Way(
        "__del__",
        "0",
        """
        class Last:
            def __del__(self):
                send_all(to, "early", SIZES)
                send_all(to, "above", ABOVE)
                LATE
                is_over()
        last = Last()
        """,
    ),
    Way("async def", "0", ASYNC + "is_over()", is_async=True),
    Way("async def with an exception", "1", ASYNC + "is_over(); raise ValueError('planned')", is_async=True),
    Way(
        "async def asked to end",
        "143",
        ASYNC + "is_over(); os.kill(os.getpid(), signal.SIGTERM); await asyncio.sleep(30)",
        is_async=True,
    ),
    Way(
        "tasks that are cancelled at the end",
        "0",
        """
        async def last():
            try:
                await asyncio.sleep(30)
            finally:
                await asyncio.gather(await_all(to, "early", SIZES), await_all(to, "above", ABOVE))
                await await_all(to, "late", LATE)
                is_over()
        task = asyncio.create_task(last())
        await asyncio.sleep(0.01)
        """,
        is_async=True,
    ),
    Way(
        "an async generator's finally",
        "0",
        """
        async def generate():
            try:
                yield
            finally:
                await asyncio.gather(await_all(to, "early", SIZES), await_all(to, "above", ABOVE))
                await await_all(to, "late", LATE)
                is_over()
        globals()["generated"] = generated = generate()  # else its end is a task that is cancelled with the rest
        await anext(generated)
        """,
        is_async=True,
    ),
]


def program(ways: Sequence[Way]) -> str:
    """The program of some ways."""
    lines = []
    for number, way in enumerate(ways):
        body = textwrap.dedent(way.body)
        if not way.is_async:
            body = body.replace("LATE", 'send_all(to, "late", LATE)')
        lines += [f"{'async ' if way.is_async else ''}def way_{number}(to):", textwrap.indent(body, " " * 4)]
    names = ", ".join(f"({way.name!r}, way_{number})" for number, way in enumerate(ways))
    return PROGRAM.replace("@WAYS@", "\n".join([*lines, f"ways = [{names}]"]))


def test_what_spawned_processes_sent_is_delivered(run_program: RunProgram, tmp_path: Path) -> None:
    """Every value, in order, and then the end that the sender's exit code says: closed for a good one, died for others."""
    result = run(run_program, tmp_path, program(WAYS), "spawned", env={"CONSTELLATION_CREDIT": str(CREDIT)})
    assert sorted(result.stdout.splitlines()) == sorted(
        f"{way.name}: {way.code} None {way.code == '0'}" for way in WAYS
    )
    assert "AssertionError" not in result.stderr, result


@pytest.mark.parametrize("way", WAYS, ids=[way.name for way in WAYS])
def test_what_the_first_process_sent_is_delivered(run_program: RunProgram, tmp_path: Path, way: Way) -> None:
    """The same where the interpreter itself ends, as in any program."""
    result = run(run_program, tmp_path, program([way]), "first", env={"CONSTELLATION_CREDIT": str(CREDIT)})
    # Uncaught in a program of its own, Python makes a KeyboardInterrupt the signal that it stands for.
    end = "None SIGINT" if way.code == "130" else f"{way.code} None"
    assert result.stdout == f"{way.name}: {end} {way.code == '0'}\n", result
    assert "AssertionError" not in result.stderr, result
    assert result.returncode == int(way.code), result


def test_os_exit_and_kill_lose_what_has_not_left(run_program: RunProgram, tmp_path: Path) -> None:
    """What arrived is a prefix; the receiver is told of the death, and nobody waits."""
    source = """
        def child(end):
            s = Sender(parent())
            for n in range(3):
                s.send((n, bytes(1000))).block()
            thread = threading.Thread(target=lambda: s.send((3, bytes(50_000_000))).block())
            thread.start()
            time.sleep(0.1)
            os._exit(5) if end == "exit" else os.kill(os.getpid(), signal.SIGKILL)
        init()
        for end, wanted in (("exit", (5, None)), ("kill", (None, "SIGKILL"))):
            r = Receiver(spawn(child, end).block())
            assert [r.recv().block()[0] for _ in range(3)] == [0, 1, 2]
            time.sleep(0.3)
            status = raises(PeerDied, lambda: r.recv().block()).status
            assert (status.code, status.signal) == wanted, status
    """
    result = run(run_program, tmp_path, source)
    assert (result.stderr, result.returncode) == ("", 1), result
