"""One link for each pair of processes: made on use, gone with the last channel."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import RunProgram
from tests.io.channel_programs import passes


def test_one_link_for_a_pair_made_on_use_gone_with_the_last_channel(run_program: RunProgram, tmp_path: Path) -> None:
    """Counted by the sockets in /proc/self/fd, at both ends."""
    source = """
        def child():
            before = sockets()
            ends = [Receiver(parent(), name) for name in "abc"]
            assert sockets() == before
            open("counted", "w").close()
            assert [end.recv().block() for end in ends] == list("abc")
            assert sockets() == before + 1
            back = Sender(parent())
            back.send("got").block()
            assert ends[0].recv().block() == "closing"
            for end in ends:
                raises(ChannelClosed, lambda: end.recv().block())
                end.close()
            back.close()
            until(lambda: sockets() == before)
            open("gone", "w").close()
            until(lambda: os.path.exists("go_on"))  # the other end has seen it too
            again = Receiver(parent(), "again")
            assert again.recv().block() == 1
            assert sockets() == before + 1
        init()
        before = sockets()
        pid = spawn(child).block()
        senders = {name: Sender(pid, name) for name in "abc"}
        back = Receiver(pid)
        until(lambda: os.path.exists("counted"))  # this end's first send makes the link
        for name, sender in senders.items():
            sender.send(name).block()
        assert back.recv().block() == "got"
        assert sockets() == before + 1
        senders["a"].send("closing").block()
        for sender in senders.values():
            sender.close()
        raises(ChannelClosed, lambda: back.recv().block())
        back.close()
        until(lambda: sockets() == before)
        until(lambda: os.path.exists("gone"))
        open("go_on", "w").close()
        Sender(pid, "again").send(1).block()
        assert watch(pid).block().ok
        until(lambda: sockets() == before)
    """
    passes(run_program, tmp_path, source)


def test_descriptors_grow_with_peers_and_not_with_channels(run_program: RunProgram, tmp_path: Path) -> None:
    """Two hundred channels with one process take one link; with ten processes, ten."""
    source = """
        def child(count):
            ends = [Receiver(parent(), str(n)) for n in range(count)]
            assert [end.recv().block() for end in ends] == list(range(count))
            Sender(parent()).send("all").block()
            Receiver(parent(), "end").recv().block()
        init()
        before = sockets()
        pids = [spawn(child, 200).block()] + [spawn(child, 3).block() for _ in range(9)]
        senders = [Sender(pid, str(n)) for pid in pids for n in range(200 if pid is pids[0] else 3)]
        for sender in senders:
            sender.send(int(sender.name)).block()
        for pid in pids:
            Receiver(pid).recv().block()
        assert sockets() == before + 10, (sockets(), before)
        for pid in pids:
            Sender(pid, "end").send(0).block()
        for pid in pids:
            assert watch(pid).block().ok
    """
    passes(run_program, tmp_path, source)


def test_a_link_comes_and_goes_a_thousand_times(run_program: RunProgram, tmp_path: Path) -> None:
    """Both ends open and close at their own pace: BYE, OPEN and a new link cross each other, and nothing is lost."""
    source = """
        def child(count):
            for n in range(count):
                with Receiver(parent()) as r, Sender(parent()) as s:
                    s.send(r.recv().block() + 1).block()
        init()
        count = 1000
        before = sockets()
        pid = spawn(child, count).block()
        for n in range(count):
            with Sender(pid) as s:
                s.send(n).block()
                with Receiver(pid) as r:
                    assert r.recv().block() == n + 1
        assert watch(pid).block().ok
        until(lambda: sockets() == before)
    """
    passes(run_program, tmp_path, source)


def test_links_in_both_directions_come_and_go(run_program: RunProgram, tmp_path: Path) -> None:
    """Each side streams through incarnations of its own; neither waits for the other."""
    source = """
        def stream(pid, count):
            for n in range(count):
                with Sender(pid) as s:
                    for k in range(n % 4):
                        s.send((n, k)).block()
        def drain(pid, count):
            for n in range(count):
                with Receiver(pid) as r:
                    assert list(r) == [(n, k) for k in range(n % 4)], n
        def both(pid, count):
            thread = threading.Thread(target=stream, args=(pid, count))
            thread.start()
            drain(pid, count)
            thread.join()
        def child(count):
            both(parent(), count)
        init()
        pid = spawn(child, 300).block()
        both(pid, 300)
        assert watch(pid).block().ok
    """
    passes(run_program, tmp_path, source)
