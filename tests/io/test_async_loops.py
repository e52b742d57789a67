"""await under asyncio, uvloop and trio: the same promises, and cancellation that loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import RunProgram
from tests.io.channel_programs import passes

LOOPS = ["asyncio", "uvloop", "trio"]
RUNS = """
        import asyncio, random
        LOOP = {loop!r}
        if LOOP == "trio": import trio
        if LOOP == "uvloop": import uvloop
        def go(function, *args):
            if LOOP == "trio": return trio.run(function, *args)
            if LOOP == "uvloop": return uvloop.run(function(*args))
            return asyncio.run(function(*args))
        async def together(*functions):
            if LOOP == "trio":
                async with trio.open_nursery() as nursery:
                    for function in functions: nursery.start_soon(function)
            else:
                await asyncio.gather(*(function() for function in functions))
        async def nap(seconds=0):
            await (trio if LOOP == "trio" else asyncio).sleep(seconds)
        async def within(seconds, operation):
            # None when cancelled by the time, else (value,)
            if LOOP == "trio":
                with trio.move_on_after(seconds):
                    return (await operation,)
                return None
            async def wrapped():
                return (await operation,)
            try:
                async with asyncio.timeout(seconds):
                    return (await operation,)
            except TimeoutError:
                return None
        def echo():
            s, r = Sender(parent()), Receiver(parent())
            for value in r:
                s.send(value).block()
        async def async_echo():
            s, r = Sender(parent()), Receiver(parent())
            async for value in r:
                await s.send(value)
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_await_of_every_operation(run_program: RunProgram, tmp_path: Path, loop: str) -> None:
    """send, recv, spawn, select, join, watch and iteration, small and large; again in a second loop of the process."""
    source = f"""{RUNS.format(loop=loop)}
        async def main():
            pid = await spawn(async_echo)
            s, r = Sender(pid), Receiver(pid)
            for n in range(2000):
                await s.send(n)
                assert await r.recv() == n
            for n in range(500):
                await s.send((n, bytes(n % 3 * 50_000)))
                if n % 8 == 7:
                    assert [(await r.recv())[0] for _ in range(8)] == list(range(n - 7, n + 1))
            [(await r.recv()) for _ in range(500 % 8)]
            value = bytearray(os.urandom(9 << 20))
            async def out(): await s.send(value)
            async def back():
                nonlocal got
                got = await r.recv()
            got = None
            await together(out, back)
            assert got == value
            assert await select(Receiver(pid, "x").recv(), s.send(1)) == (1, None)
            assert await join(r.recv(), s.send(2)) == [1, None]
            s.close()
            assert [value async for value in r] == [2]
            assert (await watch(pid)).ok
            try:
                await s.send(1)
                assert False
            except ChannelClosed:
                pass
        init()
        go(main)
        go(main)
    """
    passes(run_program, tmp_path, source)


@pytest.mark.parametrize("loop", LOOPS)
def test_many_tasks_at_once(run_program: RunProgram, tmp_path: Path, loop: str) -> None:
    """Thirty tasks on three processes, timers beside them: none starves, none sees another's values."""
    source = f"""{RUNS.format(loop=loop)}
        def server(names):
            def one(name):
                s, r = Sender(parent(), name), Receiver(parent(), name)
                for value in r: s.send(value).block()
            threads = [threading.Thread(target=one, args=(name,)) for name in names]
            for thread in threads: thread.start()
        async def main():
            names = [str(n) for n in range(10)]
            pids = [await spawn(server, names) for _ in range(3)]
            done, ticks = [], 0
            def task(pid, name):
                async def run():
                    s, r = Sender(pid, name), Receiver(pid, name)
                    for n in range(60):
                        await s.send((name, n, bytes(n % 7 * 12_000)))
                        got = await r.recv()
                        assert got[:2] == (name, n)
                    s.close()
                    done.append(name)
                return run
            async def ticker():
                nonlocal ticks
                while len(done) < 30:
                    await nap(0.001)
                    ticks += 1
            await together(ticker, *(task(pid, name) for pid in pids for name in names))
            assert sorted(done) == sorted(names * 3) and ticks > 5, ticks
        init()
        go(main)
    """
    passes(run_program, tmp_path, source)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_storm_of_cancellations(run_program: RunProgram, tmp_path: Path, loop: str, seed: int) -> None:
    """Values are received once and in order; a cancelled send arrives whole or not at all, one that completed does."""
    source = f"""{RUNS.format(loop=loop)}
        def source_(seed):
            rnd = random.Random(seed)
            s = Sender(parent())
            for n in range(1500):
                s.send(n if rnd.random() < 0.8 else (n, bytes(rnd.choice((9, 90_000))))).block()
                if rnd.random() < 0.05: time.sleep(rnd.random() * 0.002)
        def sink():
            seen = []
            for value in Receiver(parent()):
                assert value == bytes([value[0]]) * len(value)
                seen.append(int(value[0]) + 251 * len(value))
            Sender(parent()).send(seen).block()
        async def main():
            rnd = random.Random({seed})
            sources = [await spawn(source_, seed) for seed in range(2)]
            receivers = [Receiver(pid) for pid in sources]
            got, cancelled = [[], []], 0
            def keep(index, value):
                got[index].append(value if isinstance(value, int) else value[0])
            over = False
            while not over:
                try:
                    if rnd.random() < 0.5:
                        index = rnd.randrange(2)
                        done = await within(rnd.random() * 0.0005, receivers[index].recv())
                        if done: keep(index, done[0])
                    else:
                        done = await within(rnd.random() * 0.0005, select(*(r.recv() for r in receivers)))
                        if done: keep(*done[0])
                    cancelled += not done
                except ChannelClosed:
                    over = True
            for index, r in enumerate(receivers):
                async for value in r: keep(index, value)
                assert got[index] == list(range(1500)), (index, len(got[index]))
            assert cancelled > 0, cancelled
            pid = await spawn(sink)
            s, sure, maybe = Sender(pid), [], []
            for n in range(300):
                value = bytearray([n % 251]) * rnd.choice((10, 80_000, 700_000, 5_000_000 if n % 5 == 0 else 20))
                token = n % 251 + 251 * len(value)
                maybe.append(token)
                if await within(rnd.random() * 0.001, s.send(value)): sure.append(token)
                value[:] = b"\\xff" * len(value)
            s.close()
            seen = await Receiver(pid).recv()
            rest = iter(maybe)
            assert all(any(token == other for other in rest) for token in seen), "order"
            rest = iter(seen)
            assert all(any(token == other for other in rest) for token in sure), "lost"
        init()
        go(main)
    """
    passes(run_program, tmp_path, source, env={"PYTHONWARNINGS": "ignore"})


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_tasks_cancelled_by_others(run_program: RunProgram, tmp_path: Path, loop: str) -> None:
    """task.cancel() in the very turns in which a value comes: who is cancelled has taken nothing."""
    source = f"""{RUNS.format(loop=loop)}
        async def main():
            pid = await spawn(echo)
            s, r = Sender(pid), Receiver(pid)
            rnd = random.Random(3)
            got, sent = [], 0
            for _ in range(600):
                for _ in range(rnd.randrange(3)):
                    await s.send(sent)
                    sent += 1
                async def take():
                    got.append(await r.recv())
                tasks = [asyncio.create_task(take()) for _ in range(rnd.randrange(1, 4))]
                for _ in range(rnd.randrange(4)):
                    await asyncio.sleep(0 if rnd.random() < 0.5 else 0.0003)
                for task in tasks: task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            s.close()
            got += [value async for value in r]
            assert got == list(range(sent))
        init()
        go(main)
    """
    passes(run_program, tmp_path, source)


def test_await_in_threads_that_have_loops_of_their_own(run_program: RunProgram, tmp_path: Path) -> None:
    """Two loops in two threads beside a main thread that blocks."""
    source = f"""{RUNS.format(loop="asyncio")}
        async def work(pid, name):
            s, r = Sender(pid, name), Receiver(pid, name)
            for n in range(300):
                await s.send((n, bytes(n % 4 * 20_000)))
                assert (await r.recv())[0] == n
            s.close()
            done.append(name)
        def server(names):
            def one(name):
                s, r = Sender(parent(), name), Receiver(parent(), name)
                for value in r: s.send(value).block()
            threads = [threading.Thread(target=one, args=(name,)) for name in names]
            for thread in threads: thread.start()
        init()
        done = []
        pid = spawn(server, "abc").block()
        threads = [threading.Thread(target=lambda name=name: asyncio.run(work(pid, name))) for name in "ab"]
        for thread in threads: thread.start()
        s, r = Sender(pid, "c"), Receiver(pid, "c")
        for n in range(300):
            s.send(n).block()
            assert r.recv().block() == n
        s.close()
        for thread in threads: thread.join()
        assert sorted(done) == ["a", "b"]
    """
    passes(run_program, tmp_path, source)


def test_await_outside_of_any_loop(run_program: RunProgram, tmp_path: Path) -> None:
    """A UsageError that says what to do; and block() inside a loop still works, for who wants it."""
    source = """
        import asyncio
        init()
        s, r = Sender(pid()), Receiver(pid())
        async def one(): return await r.recv()
        coroutine = one()
        assert ".block()" in str(raises(UsageError, coroutine.send, None))
        async def two():
            s.send(1).block()
            return r.recv().block()
        assert asyncio.run(two()) == 1
    """
    passes(run_program, tmp_path, source)


@pytest.mark.parametrize("loop", LOOPS)
def test_values_come_in_while_no_task_awaits_them(run_program: RunProgram, tmp_path: Path, loop: str) -> None:
    """The loop sleeps in something else, or is over: the sender is served, and leaves well."""
    source = f"""{RUNS.format(loop=loop)}
        def child():
            s = Sender(parent())
            for n in range(30): s.send((n, bytes(100_000))).block()
        async def main():
            pid = await spawn(child)
            r = Receiver(pid)
            assert (await r.recv())[0] == 0
            while len(r._channel.queue) < 29:
                await nap(0.001)
            return r, pid
        init()
        r, pid = go(main)
        assert watch(pid).block(timeout=20).ok
        assert [n for n, _ in r] == list(range(1, 30))
    """
    passes(run_program, tmp_path, source)
