"""Several threads of one process, with a main thread that waits, computes or sleeps; and an idle process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import RunProgram
from tests.io.channel_programs import passes, run

MAIN = {
    "joins": "for thread in threads: thread.join()",
    "computes": "while any(thread.is_alive() for thread in threads): sum(range(2000))",
    "receives": "assert Receiver(extra).recv().block() == 'late'; [thread.join() for thread in threads]",
    "streams": "back_and_forth(); [thread.join() for thread in threads]",
}


@pytest.mark.parametrize("main", sorted(MAIN))
def test_threads_on_channels_of_their_own(run_program: RunProgram, tmp_path: Path, main: str) -> None:
    """Four threads do round trips with two processes, small and large; the main thread does something else meanwhile."""
    source = f"""
        def echo(names):
            def one(name):
                s, r = Sender(parent(), name), Receiver(parent(), name)
                for value in r:
                    s.send(value).block()
            threads = [threading.Thread(target=one, args=(name,)) for name in names]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
        def other():
            s, r = Sender(parent(), "m"), Receiver(parent(), "m")
            for n in range(1500):
                try:
                    s.send(r.recv().block(2)).block()
                except TimeoutError:
                    break
                except ChannelClosed:
                    return
            Sender(parent()).send("late").block()
        def work(pid, name):
            s, r = Sender(pid, name), Receiver(pid, name)
            for n in range(400):
                s.send((n, bytes(n % 5 * 30_000))).block()
                assert r.recv().block()[0] == n
            for n in range(400):
                s.send(n).block()
            assert [r.recv().block() for _ in range(400)] == list(range(400))
            s.close()
            done.append(name)
        def back_and_forth():
            s, r = Sender(extra, "m"), Receiver(extra, "m")
            for n in range(1500):
                s.send(n).block()
                assert r.recv().block() == n
        init()
        done = []
        extra = spawn(other).block()
        pids = [spawn(echo, ("a", "b")).block() for _ in range(2)]
        threads = [threading.Thread(target=work, args=(pid, name)) for pid in pids for name in ("a", "b")]
        for thread in threads: thread.start()
        {MAIN[main]}
        assert sorted(done) == ["a", "a", "b", "b"], done
    """
    passes(run_program, tmp_path, source)


def test_threads_on_one_channel(run_program: RunProgram, tmp_path: Path) -> None:
    """Four send into one Sender and four take from one Receiver: every value once, each sender's own in order."""
    source = """
        def child():
            s, r = Sender(parent()), Receiver(parent())
            for value in r:
                s.send(value).block()
        def put(who):
            for n in range(1000):
                s.send((who, n, bytes(100_000) if n % 250 == 9 else b"")).block()
        def get():
            mine = []
            while True:
                who, n, _ = r.recv().block()
                if who < 0: break
                mine.append((who, n))
            got.append(mine)
        init()
        pid = spawn(child).block()
        s, r = Sender(pid), Receiver(pid)
        got = []
        takers = [threading.Thread(target=get) for _ in range(4)]
        givers = [threading.Thread(target=put, args=(who,)) for who in range(4)]
        for thread in takers + givers: thread.start()
        for thread in givers: thread.join()
        for _ in takers:
            s.send((-1, 0, b"")).block()
        for thread in takers: thread.join()
        everything = [pair for mine in got for pair in mine]
        assert sorted(everything) == [(who, n) for who in range(4) for n in range(1000)]
        for mine in got:
            for who in range(4):
                own = [n for other, n in mine if other == who]
                assert own == sorted(own)
    """
    passes(run_program, tmp_path, source)


def test_a_thread_that_waits_hears_of_close(run_program: RunProgram, tmp_path: Path) -> None:
    """close() in one thread ends the recv that another one, or the main thread, waits in."""
    source = """
        def child():
            Receiver(parent()).recv().block()
        init()
        pid = spawn(child).block()
        r = Receiver(pid)
        errors = []
        def wait():
            errors.append(raises(ChannelClosed, lambda: r.recv().block()))
        thread = threading.Thread(target=wait)
        thread.start()
        until(lambda: r._channel.used)
        time.sleep(0.05)
        r.close()
        thread.join(20)
        assert len(errors) == 1
        r = Receiver(pid)
        threading.Timer(0.1, r.close).start()
        raises(ChannelClosed, lambda: r.recv().block())
        Sender(pid).send(1).block()
    """
    passes(run_program, tmp_path, source)


def test_a_large_send_of_one_thread_ends_while_another_drives(run_program: RunProgram, tmp_path: Path) -> None:
    """Its last byte may leave in another thread's hands: the sender is told all the same."""
    source = """
        def child():
            r, back = Receiver(parent(), "large"), Sender(parent())
            for value in Receiver(parent()):
                back.send(value).block()
                if value % 10 == 0:
                    assert len(r.recv().block()) == 2_000_000
        def large():
            for _ in range(60):
                big.send(bytearray(2_000_000)).block()
        init()
        pid = spawn(child).block()
        big, s, r = Sender(pid, "large"), Sender(pid), Receiver(pid)
        thread = threading.Thread(target=large)
        thread.start()
        for n in range(600):
            s.send(n).block()
            assert r.recv().block() == n
        thread.join(30)
        assert not thread.is_alive()
    """
    passes(run_program, tmp_path, source)


def test_a_large_stream_to_a_process_that_computes_ends(run_program: RunProgram, tmp_path: Path) -> None:
    """Its main thread never waits; another thread takes the values."""
    source = """
        def child():
            s = Sender(parent())
            for n in range(40):
                s.send((n, bytes(1 << 20))).block()
        init()
        pid = spawn(child).block()
        got = []
        thread = threading.Thread(target=lambda: got.extend(n for n, _ in Receiver(pid)))
        thread.start()
        end = time.monotonic() + 50
        while thread.is_alive():
            sum(range(5000))
            assert time.monotonic() < end
        assert got == list(range(40))
    """
    passes(run_program, tmp_path, source)


@pytest.mark.parametrize("how", ["recv", "sleep", "await", "trio"])
def test_an_idle_process_makes_no_wake_ups(run_program: RunProgram, tmp_path: Path, how: str) -> None:
    """No thread of it is switched to in a second: not where it waits in recv, in an event loop, or elsewhere."""
    source = f"""
        import asyncio
        if {how!r} == "trio": import trio
        async def waits(r):
            return await r.recv()
        def child():
            s, r = Sender(parent()), Receiver(parent())
            s.send(os.getpid()).block()
            assert r.recv().block() == "used"
            if {how!r} == "recv": r.recv().block()
            elif {how!r} == "sleep": time.sleep(600)
            elif {how!r} == "await": asyncio.run(waits(r))
            else: trio.run(waits, r)
        def switches(os_pid):
            return [
                [line.split()[1] for line in open(f"/proc/{{os_pid}}/task/{{task}}/status") if "ctxt_switches" in line]
                for task in sorted(os.listdir(f"/proc/{{os_pid}}/task"))
            ]
        init()
        pid = spawn(child).block()
        os_pid = Receiver[int](pid).recv().block()
        s = Sender(pid)
        s.send("used").block()
        end = time.monotonic() + 20
        before = None
        while True:
            before, after = switches(os_pid), (time.sleep(1.0), switches(os_pid))[1]
            if before == after: break
            assert time.monotonic() < end, (before, after)
        kill(pid, grace=0).block()
    """
    result = run(run_program, tmp_path, source)
    assert (result.returncode, result.stderr) == (137, ""), result
