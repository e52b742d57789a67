"""A channel that is closed and opened again: the n-th incarnation of one end meets the n-th of the other."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import RunProgram
from tests.io.channel_programs import passes, run


def test_the_nth_incarnation_meets_the_nth_each_with_a_type_of_its_own(run_program: RunProgram, tmp_path: Path) -> None:
    """Values of three incarnations wait at the receiver at once, and do not mix."""
    source = """
        def child():
            with Sender[int](parent()) as s:
                s.send(1).block(); s.send(2).block()
            with Sender[str](parent()) as s:
                s.send("one").block()
            with Sender[list](parent()) as s:
                s.send([3]).block()
            Sender(parent(), "all").send(True).block()
        init()
        pid = spawn(child).block()
        assert Receiver(pid, "all").recv().block()
        with Receiver[int](pid) as r:
            assert list(r) == [1, 2]
        with Receiver[str](pid) as r:
            assert list(r) == ["one"]
        with Receiver[list](pid) as r:
            assert list(r) == [[3]]
    """
    passes(run_program, tmp_path, source)


def test_close_of_a_receiver_discards_only_its_own_incarnation(run_program: RunProgram, tmp_path: Path) -> None:
    """What the second Sender has sent is there for the second Receiver, though it came before the first one closed."""
    source = """
        def child():
            with Sender[int](parent()) as s:
                for n in range(100):
                    s.send(n).block()
            with Sender[str](parent()) as s:
                s.send("mine").block()
            Sender(parent(), "all").send(True).block()
        init()
        pid = spawn(child).block()
        assert Receiver(pid, "all").recv().block()
        with Receiver[int](pid) as r:
            assert r.recv().block() == 0
        with Receiver[str](pid) as r:
            assert list(r) == ["mine"]
    """
    passes(run_program, tmp_path, source)


def test_a_sender_learns_that_its_receiver_has_closed(run_program: RunProgram, tmp_path: Path) -> None:
    """ChannelClosed for that incarnation, blocked or later; the next ones meet."""
    source = """
        def child():
            with Receiver(parent()) as r:
                assert r.recv().block() == 0
            with Receiver(parent()) as r:
                assert r.recv().block() == "next"
        init()
        pid = spawn(child).block()
        with Sender(pid) as s:
            try:
                n = 0
                while True:
                    s.send(n).block(); n += 1
            except ChannelClosed as error:
                assert "has closed" in str(error)
            raises(ChannelClosed, lambda: s.send(1).block())
            raises(ChannelClosed, s.try_send, 1)
        with Sender(pid) as s:
            s.send("next").block()
        assert watch(pid).block().ok
    """
    passes(run_program, tmp_path, source)


def test_a_receiver_closed_before_anything_came(run_program: RunProgram, tmp_path: Path) -> None:
    """Its incarnation counts, used or not."""
    source = """
        def child():
            Receiver(parent()).close()
            Sender(parent()).send("closed").block()
            assert Receiver(parent()).recv().block() == "second"
        init()
        pid = spawn(child).block()
        assert Receiver(pid).recv().block() == "closed"
        s = Sender(pid)
        try:
            while True:
                s.send("first").block()
        except ChannelClosed:
            s.close()
        Sender(pid).send("second").block()
        assert watch(pid).block().ok
    """
    passes(run_program, tmp_path, source)


def test_a_sender_closed_before_anything_was_sent(run_program: RunProgram, tmp_path: Path) -> None:
    """Its receiver sees an empty channel; the next ones meet. With and without a link between the two."""
    source = """
        def child(linked):
            if linked:
                Sender(parent(), "link").send(0).block()
            Sender(parent()).close()
            Sender(parent()).send("second").block()
        init()
        for linked in (False, True):
            pid = spawn(child, linked).block()
            with Receiver(pid) as r:
                assert list(r) == []
            with Receiver(pid) as r:
                assert list(r) == ["second"]
    """
    passes(run_program, tmp_path, source)


def test_a_dropped_end_parks_its_channel(run_program: RunProgram, tmp_path: Path) -> None:
    """The next end of that name goes on where it left: nothing is lost, nothing is closed."""
    source = """
        def child():
            for n in range(50):
                Sender(parent()).send(n).block()
            for n in range(50, 100):
                Sender(parent()).try_send(n)
            Sender(parent()).close()
        init()
        pid = spawn(child).block()
        got = [Receiver(pid).recv().block() for _ in range(60)]
        for value in Receiver(pid):
            got.append(value)
        assert got == list(range(100)), got
    """
    passes(run_program, tmp_path, source)


def test_incarnations_do_not_pile_up(run_program: RunProgram, tmp_path: Path) -> None:
    """Three thousand of them, closed by either side first, leave nothing behind in either process."""
    source = """
        from constellation.process import runtime
        def size(pid):
            peer = runtime.current().peers[pid]
            return len(peer._incoming) + len(peer.incoming_by_number) + len(peer.outgoing_by_number)
        def child():
            to, back = Receiver(parent(), "to"), Sender(parent(), "back")
            for n in range(1500):
                with Receiver(parent()) as r:
                    assert r.recv().block() == n
                    if n % 2:
                        raises(ChannelClosed, lambda: r.recv().block())
                back.send(n).block()
                to.recv().block()
            assert size(parent()) < 20, size(parent())
            back.send("done").block()
            Receiver(parent(), "never").recv().block()
        init()
        pid = spawn(child).block()
        to, back = Sender(pid, "to"), Receiver(pid, "back")
        for n in range(1500):
            with Sender(pid) as s:
                s.send(n).block()
                if not n % 2:
                    assert back.recv().block() == n
            if n % 2:
                assert back.recv().block() == n
            to.send(n).block()
        assert back.recv().block() == "done"
        assert size(pid) < 20, size(pid)
        kill(pid, grace=0).block()
    """
    result = run(run_program, tmp_path, source)
    assert (result.returncode, result.stderr) == (137, ""), result
