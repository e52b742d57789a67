"""Channels: order, names, two directions, a channel to oneself."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import RunProgram
from tests.io.channel_programs import passes


def test_values_arrive_in_the_order_sent(run_program: RunProgram, tmp_path: Path) -> None:
    """Small and large, combined and alone, with and without buffers of their own: one order."""
    source = """
        import random
        def make(n, rnd):
            kind = rnd.randrange(7)
            if kind == 0: return n
            if kind == 1: return {"n": n}
            if kind == 2: return n.to_bytes(8, "little") + bytes(rnd.choice((0, 5_000, 65_530, 300_000)))
            if kind == 3: return bytearray(n.to_bytes(8, "little") + bytes(rnd.choice((0, 70_000))))
            if kind == 4: return (n, "x" * rnd.choice((1, 4_000, 100_000)))
            if kind == 5: return str(n)
            return memoryview(n.to_bytes(8, "little") + bytes(rnd.choice((3, 80_000))))
        def number(value):
            if type(value) is int: return value
            if type(value) is dict: return value["n"]
            if type(value) is tuple: return value[0]
            if type(value) is str: return int(value)
            return int.from_bytes(value[:8], "little")
        def child():
            rnd = random.Random(5)
            s = Sender(parent())
            for n in range(4000):
                s.send(make(n, rnd)).block()
        init()
        got = list(Receiver(spawn(child).block()))
        assert list(map(number, got)) == list(range(4000))
        rnd = random.Random(5)
        for n, value in enumerate(got):
            wanted = make(n, rnd)
            assert type(value) is type(wanted) and value == wanted
    """
    passes(run_program, tmp_path, source)


def test_channels_of_other_names_go_their_own_way(run_program: RunProgram, tmp_path: Path) -> None:
    """Names tell channels apart, in each direction; one that nobody reads holds up none."""
    source = """
        def child():
            a, b, none = Sender[int](parent(), "a"), Sender[str](parent(), "b"), Sender(parent())
            back = Receiver(parent(), "a")
            for n in range(100):
                a.send(n).block(); b.send(str(n)).block(); none.send(bytes(10_000)).block()
            assert back.recv().block() == "other direction"
        init()
        pid = spawn(child).block()
        Sender(pid, "a").send("other direction").block()
        assert list(Receiver[str](pid, "b")) == [str(n) for n in range(100)]
        assert list(Receiver[int](pid, "a")) == list(range(100))
        assert len(list(Receiver(pid))) == 100
    """
    passes(run_program, tmp_path, source)


def test_a_second_end_of_one_channel_is_refused(run_program: RunProgram, tmp_path: Path) -> None:
    """One Sender and one Receiver for each process and name; after close() another is fine."""
    source = """
        def child():
            assert Receiver(parent()).recv().block() == 1
            again = Receiver(parent(), "x")
            assert again.recv().block() == 2
        init()
        pid = spawn(child).block()
        s, r = Sender(pid), Receiver(pid)
        assert "Sender" in str(raises(ChannelInUse, Sender, pid))
        assert "Receiver" in str(raises(ChannelInUse, Receiver[int], pid))
        x = Sender(pid, "x")
        assert "'x'" in str(raises(ChannelInUse, Sender[int], pid, "x"))
        raises(TypeError, Sender, None)
        raises(TypeError, Sender, pid, 3)
        raises(UsageError, Sender, pid, "n" * 5000)
        raises(UsageError, Sender, pid, "a\\0b")
        s.send(1).block(); s.close(); s.close(); r.close()
        s, r = Sender(pid), Receiver(pid)
        x.send(2).block()
        assert watch(pid).block().ok
        raises(ChannelClosed, lambda: r.recv().block())
    """
    passes(run_program, tmp_path, source)


def test_an_end_cannot_travel(run_program: RunProgram, tmp_path: Path) -> None:
    """Pids can be sent; ends belong to their process."""
    source = """
        def child():
            friend = Receiver[Pid](parent()).recv().block()
            Sender(friend).send("hello").block()
        init()
        one = spawn(child).block()
        s = Sender(one)
        raises(SerializationError, lambda: s.send(s).block())
        s.send(pid()).block()
        assert Receiver(one).recv().block() == "hello"
    """
    passes(run_program, tmp_path, source)


def test_a_channel_to_oneself(run_program: RunProgram, tmp_path: Path) -> None:
    """Small and large, several names, close: as with any other process, in the first and in a spawned one."""
    source = """
        def both():
            me = pid()
            s, r = Sender[int](me), Receiver[int](me)
            for n in range(3000):
                s.send(n).block()
            assert [r.recv().block() for _ in range(3000)] == list(range(3000))
            x, y = Sender(me, "large"), Receiver(me, "large")
            value = os.urandom(3 << 20)
            x.send(value).block()
            s.send(7).block()
            assert r.recv().block() == 7
            assert y.recv().block() == value
            raises(WouldBlock, y.try_recv)
            x.send("last").block(); x.close()
            assert list(y) == ["last"]
            r.close()
            until(lambda: closed(s))
            s.close()
            again, back = Sender[str](me), Receiver[str](me)
            again.send("again").block()
            assert back.recv().block() == "again"
            again.close(); back.close(); y.close()
        def closed(s):
            try:
                s.send(1).block()
            except ChannelClosed:
                return True
            Sender(pid(), "nudge").send(1).block(); Receiver(pid(), "nudge").recv().block()
            return False
        init()
        both()
        assert watch(spawn(both).block()).block().ok
    """
    passes(run_program, tmp_path, source)


def test_more_than_the_credit_to_oneself(run_program: RunProgram, tmp_path: Path) -> None:
    """Sender and receiver in two threads of one process, with values above the credit."""
    source = """
        init()
        s, r = Sender(pid()), Receiver(pid())
        value = os.urandom(9 << 20)
        thread = threading.Thread(target=lambda: [s.send(value).block() for _ in range(3)])
        thread.start()
        for _ in range(3):
            assert r.recv().block() == value
        thread.join()
    """
    passes(run_program, tmp_path, source)
