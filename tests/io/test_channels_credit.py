"""Credit: a slow receiver stops its sender, and nobody else; what is accepted at once; what memory it costs."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import RunProgram
from tests.io.channel_programs import passes
from tests.io.plugin_harness import SERIALIZER, module


def test_a_slow_receiver_stops_its_sender_and_no_other_channel(run_program: RunProgram, tmp_path: Path) -> None:
    """The channel beside it, on the same link, goes on; what was accepted is about the credit."""
    source = """
        def child():
            slow, fast, go = Sender(parent(), "slow"), Sender(parent(), "fast"), Receiver(parent())
            accepted = 0
            while True:
                try:
                    slow.send(bytes(10_000)).block(0.3)
                except TimeoutError:
                    break
                accepted += 1
            for n in range(2000):
                fast.send((n, bytes(10_000))).block()
            raises(WouldBlock, slow.try_send, bytes(10_000))
            fast.send(accepted).block()
            assert go.recv().block() == "reading"
            slow.send("after").block(); slow.close()
        init()
        pid = spawn(child).block()
        fast = Receiver(pid, "fast")
        for n in range(2000):
            assert fast.recv().block()[0] == n
        accepted = fast.recv().block()
        credit = 4 << 20
        assert credit - 20_000 <= accepted * 10_000 <= credit + (256 << 10), accepted
        Sender(pid).send("reading").block()
        got = list(Receiver(pid, "slow"))
        assert len(got) == accepted + 1 and got[-1] == "after"
        assert watch(pid).block().ok
    """
    passes(run_program, tmp_path, source)


def test_try_send_on_an_idle_channel_takes_a_value_up_to_the_credit(run_program: RunProgram, tmp_path: Path) -> None:
    """No recv need be posted; one byte more needs one, and is taken when the receiver waits."""
    source = """
        credit = 1 << 20
        def child():
            r, go = Receiver(parent()), Receiver(parent(), "go")
            assert go.recv().block() == "sent"
            assert len(r.recv().block()) == credit
            Sender(parent()).send("one").block()
            assert len(r.recv().block()) == credit + 1
            assert len(r.recv().block()) == credit
        init()
        pid = spawn(child).block()
        s, go = Sender(pid), Sender(pid, "go")
        s.try_send(bytes(credit))
        raises(WouldBlock, s.try_send, bytes(credit))
        go.send("sent").block()
        assert Receiver(pid).recv().block() == "one"
        s.send(bytes(credit + 1)).block()
        s.send(bytes(credit)).block(timeout=5)
        assert watch(pid).block().ok
    """
    passes(run_program, tmp_path, source, env={"CONSTELLATION_CREDIT": str(1 << 20)})


def test_a_send_above_the_credit_waits_for_a_recv_and_can_be_withdrawn(run_program: RunProgram, tmp_path: Path) -> None:
    """A timeout takes it back whole; the next value is the next one."""
    source = """
        def child():
            assert Receiver(parent(), "go").recv().block()
            r = Receiver(parent())
            assert r.recv().block() == "small"
            assert len(r.recv().block()) == 6 << 20
        init()
        pid = spawn(child).block()
        s = Sender(pid)
        raises(TimeoutError, lambda: s.send(bytes(5 << 20)).block(timeout=0.1))
        raises(TimeoutError, lambda: s.send(bytearray(5 << 20)).block(timeout=0.1))
        raises(WouldBlock, s.try_send, bytes(5 << 20))
        s.send("small").block(timeout=5)
        Sender(pid, "go").send(True).block()
        s.send(bytes(6 << 20)).block()
        assert watch(pid).block().ok
    """
    passes(run_program, tmp_path, source)


def test_the_receivers_memory_is_bounded(run_program: RunProgram, tmp_path: Path) -> None:
    """Twenty senders that nobody reads: the receiver takes in its budget and a window for each, not twenty credits."""
    source = """
        def child():
            s = Sender(parent())
            try:
                while True:
                    s.send(os.urandom(50_000)).block(timeout=1)
            except TimeoutError:
                Sender(parent(), "full").send(True).block()
            assert Receiver(parent()).recv().block()
            s.close()
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        init(Resources(mem="40 MiB"))
        before = peak()
        pids = [spawn(child).block() for _ in range(20)]
        for pid in pids:
            assert Receiver(pid, "full").recv().block()
        held = peak() - before
        assert held < (10 << 20) + 20 * (64 << 10) + (12 << 20), held
        ends = [Receiver(pid) for pid in pids]
        for pid, end in zip(pids, ends):
            Sender(pid).send(True).block()
            assert sum(map(len, end)) > 4_000_000
    """
    passes(run_program, tmp_path, source)


def test_a_small_demand_still_passes_everything(run_program: RunProgram, tmp_path: Path) -> None:
    """With a budget of next to nothing a window for each channel is left, and what a posted recv needs."""
    source = """
        def child():
            r = Receiver(parent())
            for n in range(3000):
                assert r.recv().block() == (n, bytes(2000))
            assert len(r.recv().block()) == 3 << 20
            assert len(r.recv().block()) == 6 << 20
        init()
        pid = spawn(child, resources=Resources(mem="2 MiB")).block()
        s = Sender(pid)
        for n in range(3000):
            s.send((n, bytes(2000))).block()
        s.send(bytes(3 << 20)).block()
        s.send(bytes(6 << 20)).block()
        assert watch(pid).block().ok
    """
    passes(run_program, tmp_path, source)


def test_a_receiver_that_computes_takes_in_up_to_the_credit(run_program: RunProgram, tmp_path: Path) -> None:
    """Its main thread runs Python and never waits; the sender's values up to the credit leave all the same."""
    source = """
        def child():
            s = Sender(parent())
            for _ in range(30):
                s.send(bytes(100_000)).block()
            s.close()
        init()
        pid = spawn(child).block()
        Receiver(pid, "other")
        asked = watch(pid)
        done = []
        thread = threading.Thread(target=lambda: done.append(asked.block()))
        end = time.monotonic() + 20
        r = Receiver(pid)
        first = r.recv().block()
        while len(r._channel.queue) < 29:
            sum(range(1000))
            assert time.monotonic() < end
        thread.start(); thread.join()
        assert done[0].ok and len(list(r)) == 29
    """
    passes(run_program, tmp_path, source)


def test_two_that_send_each_other_within_the_credit(run_program: RunProgram, tmp_path: Path) -> None:
    """Both send three megabytes before they receive: no order of events stops them."""
    source = """
        def both(pid):
            s, r = Sender(pid), Receiver(pid)
            for n in range(300):
                s.send((n, bytes(10_000))).block()
            for n in range(300):
                assert r.recv().block()[0] == n
        def child():
            both(parent())
        init()
        pid = spawn(child).block()
        both(pid)
        assert watch(pid).block().ok
    """
    passes(run_program, tmp_path, source)


def test_a_credit_below_the_window(run_program: RunProgram, tmp_path: Path) -> None:
    """Values far above it and below it in turns: what was taken of the large ones is reported, and nobody waits for ever."""
    source = """
        import random
        sizes = [300_000, 5000, 5000, 20_000, 20_000, 20_000, 30]
        rng = random.Random(1)
        sizes += [rng.choice((1, 30, 200, 5000, 20_000, 300_000)) for _ in range(150)]
        def child():
            s = Sender(parent())
            for n, size in enumerate(sizes):
                s.send((n, bytes(size))).block()
        init()
        assert [(n, len(data)) for n, data in Receiver(spawn(child).block())] == list(enumerate(sizes))
    """
    passes(run_program, tmp_path, source, env={"CONSTELLATION_CREDIT": "500"}, timeout=20)


def test_thousands_of_values_in_parts_wait_and_then_leave(run_program: RunProgram, tmp_path: Path) -> None:
    """Each that has left lets the next one leave; how many wait does not matter."""
    module(tmp_path, "parts", SERIALIZER.replace("[pickle.dumps(value)]", "[pickle.dumps(value), b'tail']"))
    source = """
        def child():
            s, go = Sender(parent()), Sender(parent(), "go")
            for n in range(5000):
                s.send((n, bytes(20))).block()
            go.send("all accepted").block()
        init(plugins=["plug.parts"])
        pid = spawn(child).block()
        assert Receiver(pid, "go").recv().block() == "all accepted"
        assert list(Receiver(pid)) == [(n, bytes(20)) for n in range(5000)]
        assert watch(pid).block().ok
    """
    passes(run_program, tmp_path, source)
