"""Operations: lazy, one-shot, withdrawn by a timeout; select and join."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import RunProgram
from tests.io.channel_programs import passes


def test_an_operation_that_is_never_run_warns(run_program: RunProgram, tmp_path: Path) -> None:
    """RuntimeWarning at the line that dropped it, for each kind; nothing has been sent. Run, owned or lost ones do not."""
    source = """
        import warnings
        init()
        me = pid()
        s, r = Sender(me), Receiver(me)
        def warned(make):
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                make()
                gc.collect()
            return [str(each.message) for each in seen if each.category is RuntimeWarning]
        assert "send" in warned(lambda: s.send(1))[0]
        assert "recv" in warned(lambda: r.recv())[0]
        assert "spawn" in warned(lambda: spawn(print))[0]
        assert "watch" in warned(lambda: watch(me))[0]
        assert len(warned(lambda: select(r.recv(), s.send(1)))) == 1
        assert len(warned(lambda: join(s.send(1)))) == 1
        raises(WouldBlock, r.try_recv)
        assert warned(lambda: s.send(2).block()) == []
        assert warned(lambda: r.recv().block()) == []
        assert warned(lambda: select(Receiver(me, "x").recv(), s.send(3)).block()) == []
        assert warned(lambda: raises(TimeoutError, lambda: select(Receiver(me, "y").recv()).block(0.01))) == []
        assert r.recv().block() == 3
    """
    passes(run_program, tmp_path, source)


def test_an_operation_runs_once(run_program: RunProgram, tmp_path: Path) -> None:
    """A second run, or a run of one that select or join owns, is a UsageError; the ends' reuse of operations is not seen."""
    source = """
        init()
        me = pid()
        s, r = Sender(me), Receiver(me)
        send, recv = s.send(1), r.recv()
        send.block(); assert recv.block() == 1
        raises(UsageError, send.block); raises(UsageError, recv.block)
        raises(UsageError, select, send)
        owned = s.send(2)
        chosen = select(owned)
        raises(UsageError, owned.block)
        raises(UsageError, join, owned)
        raises(UsageError, select); raises(UsageError, join)
        raises(UsageError, select, 3)
        raises(UsageError, lambda: select(*[s.send(9)] * 2))
        assert chosen.block() == (0, None)
        assert r.recv().block() == 2
        kept = [s.send(n) for n in range(5)]
        for one in reversed(kept): one.block()
        reads = [r.recv() for _ in range(5)]
        assert [one.block() for one in reads] == [4, 3, 2, 1, 0]
        for n in range(100):
            a, b = s.send(n), s.send(-n)
            b.block(); a.block()
            x, y = r.recv(), r.recv()
            assert (y.block(), x.block()) == (-n, n)
            assert x is not y and a is not b
    """
    passes(run_program, tmp_path, source, env={"PYTHONWARNINGS": "ignore"})


def test_a_timeout_withdraws(run_program: RunProgram, tmp_path: Path) -> None:
    """TimeoutError, in about that time, and the operation has taken and sent nothing; 0 only looks."""
    source = """
        def child():
            r, s = Receiver(parent()), Sender(parent())
            assert r.recv().block() == "go"
            s.send("late").block()
            assert list(r) == ["after"]
        init()
        pid = spawn(child).block()
        s, r = Sender(pid), Receiver(pid)
        for seconds in (0, 0.05, 0.2):
            begin = time.monotonic()
            raises(TimeoutError, lambda: r.recv().block(timeout=seconds))
            assert seconds <= time.monotonic() - begin < seconds + 5
        raises(TimeoutError, lambda: select(r.recv(), watch(pid)).block(timeout=0.05))
        raises(TimeoutError, lambda: join(r.recv(), watch(pid)).block(timeout=0.05))
        s.send("go").block(timeout=5)
        assert r.recv().block(timeout=20) == "late"
        s.send("after").block(); s.close()
        assert watch(pid).block(timeout=20).ok
    """
    passes(run_program, tmp_path, source)


def test_a_send_that_timed_out_while_it_left_is_accepted_whole(run_program: RunProgram, tmp_path: Path) -> None:
    """Either TimeoutError and nothing arrives, or it is sent as it was, whatever the buffer's owner does next."""
    source = """
        import random
        def child():
            rnd = random.Random(1)
            r = Receiver(parent())
            for value in r:
                kind = value[0]
                assert value == bytes([kind]) * len(value)
                Sender(parent()).send(kind).block()
                time.sleep(rnd.random() * 0.004)
        init()
        rnd = random.Random(2)
        pid = spawn(child).block()
        s, r = Sender(pid), Receiver(pid)
        sent = []
        for n in range(150):
            value = bytearray([n % 251]) * rnd.choice((70_000, 1_500_000, 5_000_000))
            try:
                s.send(value).block(timeout=rnd.random() * 0.003)
                sent.append(n % 251)
            except TimeoutError:
                pass
            value[:] = b"\\xff" * len(value)
        s.close()
        assert list(r) == sent and len(sent) > 5, len(sent)
    """
    passes(run_program, tmp_path, source)


def test_select_takes_the_first_ready_and_nothing_of_the_others(run_program: RunProgram, tmp_path: Path) -> None:
    """Three streams of random pace through one select in a loop, losers used again or made anew: each stream whole."""
    source = """
        import random
        def child(seed, count):
            rnd = random.Random(seed)
            s = Sender(parent())
            for n in range(count):
                s.send(n if rnd.random() < 0.7 else (n, bytes(rnd.choice((10, 70_000, 300_000))))).block()
                if rnd.random() < 0.01:
                    time.sleep(0.001)
        init()
        rnd = random.Random(0)
        for again in (True, False):
            ends = [Receiver(spawn(child, seed, 1500).block()) for seed in range(3)]
            got = [[] for _ in ends]
            operations = [end.recv() for end in ends]
            while operations:
                try:
                    index, value = select(*operations).block(timeout=None if rnd.random() < 0.8 else 0.0002)
                except TimeoutError:
                    continue
                except ChannelClosed:
                    break
                got[index].append(value if isinstance(value, int) else value[0])
                if again:
                    operations[index] = ends[index].recv()
                else:
                    operations = [end.recv() for end in ends]
            for index, end in enumerate(ends):
                got[index] += [value if isinstance(value, int) else value[0] for value in end]
                assert got[index] == list(range(1500)), index
    """
    passes(run_program, tmp_path, source, env={"PYTHONWARNINGS": "ignore"})


def test_select_prefers_the_earlier(run_program: RunProgram, tmp_path: Path) -> None:
    """Of several that are ready."""
    source = """
        init()
        me = pid()
        ends = [(Sender(me, str(n)), Receiver(me, str(n))) for n in range(3)]
        for s, _ in ends:
            s.send(s.name).block()
        until(lambda: (raises(WouldBlock, Receiver(me, "nothing").try_recv), all(r._channel.queue for _, r in ends))[1])
        for n in range(3):
            assert select(*(r.recv() for _, r in ends[n:])).block() == (0, str(n))
        assert select(ends[0][0].send("x"), ends[0][1].recv()).block() == (0, None)
        assert select(ends[1][1].recv(), ends[0][1].recv()).block() == (1, "x")
    """
    passes(run_program, tmp_path, source)


def test_select_with_sends(run_program: RunProgram, tmp_path: Path) -> None:
    """Borrowed and large ones too, against receives: the receivers see exactly the sends that won, each whole."""
    source = """
        import random
        def child(seed):
            rnd = random.Random(seed)
            r, s = Receiver(parent()), Sender(parent())
            seen = []
            for value in r:
                assert value == bytes([value[0]]) * len(value)
                seen.append(value[0])
                if rnd.random() < 0.2:
                    s.send(len(seen)).block()
                time.sleep(rnd.random() * 0.002)
            s.send(seen).block()
        init()
        rnd = random.Random(9)
        pids = [spawn(child, seed).block() for seed in range(2)]
        outs, ins = [Sender(pid) for pid in pids], [Receiver(pid) for pid in pids]
        won, last = [[], []], [0, 0]
        for n in range(300):
            values = [bytearray([n % 251]) * rnd.choice((10, 80_000, 900_000, 5_000_000)) for _ in outs]
            operations = [out.send(value) for out, value in zip(outs, values)] + [end.recv() for end in ins]
            order = list(range(4)); rnd.shuffle(order)
            try:
                index, value = select(*(operations[at] for at in order)).block(rnd.choice((None, 0.001)))
            except TimeoutError:
                pass
            else:
                at = order[index]
                if at < 2: won[at].append(n % 251)
                else:
                    assert value > last[at - 2]
                    last[at - 2] = value
            for value in values:
                value[:] = b"\\xff" * len(value)
        for at in range(2):
            outs[at].close()
            *_, seen = ins[at]
            assert seen == won[at], (at, seen, won[at])
        assert sum(map(len, won)) > 20
    """
    passes(run_program, tmp_path, source, env={"PYTHONWARNINGS": "ignore"})


def test_losers_of_select_may_be_used_again(run_program: RunProgram, tmp_path: Path) -> None:
    """recv, send and watch stay as they were: run alone, in another select, or dropped without a warning."""
    source = """
        def child():
            assert Receiver(parent()).recv().block() == "used again"
        init()
        me, pid = pid(), spawn(child).block()
        s, r = Sender(me), Receiver(me)
        ended, wait, put = watch(pid), r.recv(), Sender(pid).send("used again")
        s.send(1).block()
        for n in range(200):
            index, value = select(r.recv(), ended).block()
            assert (index, value) == (0, n + 1)
            s.send(n + 2).block()
        assert select(r.recv(), put, wait).block() in ((0, 201), (1, None))
        try:
            put.block()
        except UsageError:
            pass
        index, status = select(Receiver(me, "x").recv(), ended).block()
        assert index == 1 and status.ok
        s.send("last").block()
        del wait
        gc.collect()
    """
    passes(run_program, tmp_path, source)


def test_select_passes_an_error_on(run_program: RunProgram, tmp_path: Path) -> None:
    """The first that fails ends it; the others are as they were."""
    source = """
        def child():
            pass
        init()
        me, pid = pid(), spawn(child).block()
        r, keep = Receiver(pid), Receiver(me).recv()
        raises(ChannelClosed, lambda: select(keep, r.recv()).block())
        Sender(me).send("kept").block()
        assert keep.block() == "kept"
    """
    passes(run_program, tmp_path, source)


def test_join_gives_all_values_in_the_order_of_its_arguments(run_program: RunProgram, tmp_path: Path) -> None:
    """Receives, sends, spawns and watches; one that fails ends it, and what others had taken is given back."""
    source = """
        def child(n):
            time.sleep((3 - n) * 0.05)
            Sender(parent()).send(n).block()
        def failing():
            assert Receiver(parent()).recv().block()
        init()
        me = pid()
        pids = join(*(spawn(child, n) for n in range(3))).block()
        assert join(*(Receiver(pid).recv() for pid in pids)).block() == [0, 1, 2]
        assert all(status.ok for status in join(*map(watch, pids)).block())
        s, r = Sender(me), Receiver(me)
        assert join(s.send(1), r.recv(), s.send(2), r.recv()).block() == [None, 1, None, 2]
        for n in range(3): s.send(n).block()
        other = spawn(failing).block()
        both = join(r.recv(), r.recv(), Receiver(other).recv())
        raises(TimeoutError, lambda: both.block(timeout=0.1))
        both = join(r.recv(), Receiver(other, "x").recv())
        threading.Timer(0.1, lambda: Sender(other).send(True).block()).start()
        raises(ChannelClosed, both.block)
        assert [r.recv().block() for _ in range(3)] == [0, 1, 2]
    """
    passes(run_program, tmp_path, source)


def test_iteration_ends_when_the_other_end_has_closed(run_program: RunProgram, tmp_path: Path) -> None:
    """Plain iteration, list() and next(); it goes on where recv left."""
    source = """
        def child():
            with Sender[int](parent()) as s:
                for n in range(10):
                    s.send(n).block()
        init()
        r = Receiver[int](spawn(child).block())
        assert next(r) == 0 and r.recv().block() == 1 and r.try_recv.__name__ == "try_recv"
        seen = []
        for value in r:
            seen.append(value)
            if value == 4: break
        assert seen == [2, 3, 4] and list(r) == [5, 6, 7, 8, 9] and list(r) == []
        raises(StopIteration, next, r)
        r.close()
        raises(ChannelClosed, lambda: r.recv().block())
        raises(ChannelClosed, next, r)
    """
    passes(run_program, tmp_path, source)


def test_use_before_init_and_in_a_fork(run_program: RunProgram, tmp_path: Path) -> None:
    """UsageError that says what to do; a user's own fork cannot use its parent's channels, and leaves them whole."""
    source = """
        for call in (pid, parent, resources, lambda: spawn(print)):
            assert "init" in str(raises(UsageError, call))
        def child():
            r = Receiver(parent())
            assert list(r) == list(range(100))
        init()
        pid_ = spawn(child).block()
        s, r = Sender(pid_), Receiver(pid_)
        for n in range(50): s.send(n).block()
        if not os.fork():
            try:
                for call in (lambda: s.send(1).block(), lambda: r.recv().block(), lambda: s.try_send(1), r.try_recv,
                             lambda: Sender(pid_, "y"), lambda: spawn(print), lambda: next(r), s.close, r.close):
                    if call in (s.close, r.close): call()
                    else: raises(UsageError, call)
                os._exit(0)
            except BaseException:
                import traceback; traceback.print_exc(); os._exit(1)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
        for n in range(50, 100): s.send(n).block()
        s.close()
        assert watch(pid_).block().ok
    """
    passes(run_program, tmp_path, source, env={"PYTHONWARNINGS": "ignore"})
