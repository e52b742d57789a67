"""Ends: what is sent is delivered before a process goes; ChannelClosed against PeerDied; draining and linger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import RunProgram
from tests.io.channel_programs import passes, run


@pytest.mark.parametrize(
    ("count", "size"),
    [(10_000, 0), (100, 100_000), (3, 3_000_000), pytest.param(100, 1_000_000, marks=pytest.mark.slow)],
)
def test_what_was_sent_is_delivered_before_exit(run_program: RunProgram, tmp_path: Path, count: int, size: int) -> None:
    """The child returns right after its last send; the parent makes its Receiver after that, and gets all."""
    source = f"""
        def child():
            s = Sender(parent())
            Sender(parent(), "begin").send(True).block()
            for n in range({count}):
                s.send((n, bytes({size})) if {size} else n).block()
        init()
        pid = spawn(child).block()
        assert Receiver(pid, "begin").recv().block()
        r = Receiver(pid)
        time.sleep(0.1)
        for n in range({count}):
            value = r.recv().block()
            assert (value[0] if {size} else value) == n
        raises(ChannelClosed, lambda: r.recv().block())
        assert watch(pid).block().ok
    """
    passes(run_program, tmp_path, source)


def test_a_leaving_process_is_drained_beyond_the_credit(run_program: RunProgram, tmp_path: Path) -> None:
    """Its last value is three credits large in several pieces; it ends though nobody receives, and nothing is lost."""
    source = """
        def child():
            for name in "abc":
                s = Sender(parent(), name)
                for n in range(4):
                    s.send((n, bytes(1 << 20))).block()
        init()
        pid = spawn(child).block()
        assert watch(pid).block(timeout=20).ok
        for name in "abc":
            assert [n for n, _ in Receiver(pid, name)] == [0, 1, 2, 3]
    """
    passes(run_program, tmp_path, source, env={"CONSTELLATION_CREDIT": str(4 << 20)})


def test_drained_bytes_count_while_they_are_held_and_not_for_ever(run_program: RunProgram, tmp_path: Path) -> None:
    """A receiver that takes what its many leaving peers sent may be sent more than the drain limit in all."""
    source = """
        from constellation.core import settings
        settings.DRAIN_LIMIT, settings.BUDGET_FLOOR, settings.BUDGET_SHARE = 8 << 20, 0, 1000
        def child():
            s = Sender(parent())
            for n in range(3):
                s.send((n, bytes(1_300_000))).block()
        init()
        for _ in range(8):
            pid = spawn(child).block()
            assert watch(pid).block(timeout=10).ok
            assert [n for n, _ in Receiver(pid)] == [0, 1, 2]
    """
    passes(run_program, tmp_path, source)


def test_all_leave_at_once(run_program: RunProgram, tmp_path: Path) -> None:
    """A parent and ten children send each other a little and end: nobody waits for the other, all end well."""
    source = """
        def child(friends):
            for friend in [parent(), *friends]:
                try:
                    Sender(friend).send(bytes(20_000)).block()
                except ChannelClosed:
                    pass  # that one has left already
        init()
        pids = []
        for _ in range(10):
            pids.append(spawn(child, list(pids)).block())
        for pid in pids:
            try:
                Sender(pid).send(bytes(20_000)).block()
            except ChannelClosed:
                pass  # that one has left already
    """
    passes(run_program, tmp_path, source)


def test_several_peers_get_all_that_one_leaves_behind(run_program: RunProgram, tmp_path: Path) -> None:
    """A sender to five receivers returns at once; each gets its own stream whole."""
    source = """
        def receiver(count):
            r = Receiver(Receiver[Pid](parent()).recv().block())
            assert list(r) == list(range(count))
        def sender(pids, count):
            ends = [Sender(pid) for pid in pids]
            for n in range(count):
                for end in ends:
                    end.send(n).block()
        init()
        pids = [spawn(receiver, 2000).block() for _ in range(5)]
        one = spawn(sender, pids, 2000).block()
        for pid in pids:
            Sender(pid).send(one).block()
        for pid in pids:
            assert watch(pid).block().ok
        assert watch(one).block().ok
    """
    passes(run_program, tmp_path, source)


def test_what_nobody_takes_ends_the_linger_and_stands_in_the_certificate(
    run_program: RunProgram, tmp_path: Path
) -> None:
    """More than the drain limit for a receiver that never receives: shown as draining, then as undelivered."""
    source = """
        import constellation
        from constellation.core import settings
        settings.DRAIN_LIMIT, settings.BUDGET_FLOOR, settings.BUDGET_SHARE = 1 << 20, 0, 1000
        def child():
            s = Sender(parent(), "results")
            for _ in range(3):
                s.send(bytes(1_300_000)).block()
            Sender(parent(), "small").send("arrives").block()
        init()
        pid = spawn(child).block()
        status = watch(pid).block(timeout=20)
        assert status.code == 0, status
        assert status.cause == f"undelivered: 1 channel to {constellation.pid()} ('results' 3.7 MiB)", status
        assert Receiver(pid, "small").recv().block() == "arrives"
    """
    passes(run_program, tmp_path, source, env={"CONSTELLATION_LINGER": "1"})


ENDS = [
    ("pass", "ChannelClosed"),
    ("sys.exit(0)", "ChannelClosed"),
    ("sys.exit(3)", "PeerDied"),
    ("raise ValueError('odd')", "PeerDied"),
]


@pytest.mark.parametrize(("end", "error"), ENDS)
def test_a_receiver_after_the_end_of_its_sender(run_program: RunProgram, tmp_path: Path, end: str, error: str) -> None:
    """The delivered values, then ChannelClosed for a good end, PeerDied for any other; iteration ends for the good one."""
    source = f"""
        def child():
            s = Sender(parent())
            for n in range(1000):
                s.send(n).block()
            {end}
        init()
        pid = spawn(child).block()
        r = Receiver(pid)
        got = []
        try:
            for value in r:
                got.append(value)
            assert {error!r} == "ChannelClosed"
        except PeerDied as died:
            assert {error!r} == "PeerDied"
            assert died.pid == pid and died.status == watch(pid).block()
        assert got == list(range(1000))
        for _ in range(2):
            assert type(raises(ChannelError, lambda: r.recv().block())).__name__ == {error!r}
        assert type(raises(ChannelError, r.try_recv)).__name__ == {error!r}
        assert type(raises(ChannelError, lambda: Receiver(pid, "never used").recv().block())).__name__ == {error!r}
    """
    result = run(run_program, tmp_path, source)
    assert "Traceback" not in result.stderr.replace("ValueError: odd", "") or "odd" in end, result
    assert result.returncode == {"sys.exit(3)": 3, "raise ValueError('odd')": 1}.get(end, 0), result
    assert "AssertionError" not in result.stderr, result


@pytest.mark.parametrize(("end", "error"), ENDS)
def test_a_sender_after_the_end_of_its_receiver(run_program: RunProgram, tmp_path: Path, end: str, error: str) -> None:
    """Blocked on credit when it happens, and at every later try."""
    source = f"""
        def child():
            assert Receiver(parent(), "go").recv().block()
            {end}
        init()
        pid = spawn(child).block()
        s = Sender(pid)
        while True:
            try:
                s.try_send(bytes(50_000))
            except WouldBlock:
                break
        threading.Timer(0.2, lambda: Sender(pid, "go").send(True).block()).start()
        blocked = raises(ChannelError, lambda: s.send(bytes(50_000)).block())
        assert type(blocked).__name__ == {error!r}, repr(blocked)
        assert type(raises(ChannelError, lambda: s.send(1).block())).__name__ == {error!r}
        assert type(raises(ChannelError, s.try_send, 1)).__name__ == {error!r}
        fresh = Sender(pid, "fresh")
        def often():
            for _ in range(10_000):
                fresh.send(1).block()
                fresh.try_send(1)
        assert type(raises(ChannelError, often)).__name__ == {error!r}
    """
    result = run(run_program, tmp_path, source)
    assert result.returncode == {"sys.exit(3)": 3, "raise ValueError('odd')": 1}.get(end, 0), result
    assert "AssertionError" not in result.stderr, result


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(7)"])
def test_a_sender_that_is_gone_in_the_middle_of_a_large_value(
    run_program: RunProgram, tmp_path: Path, end: str
) -> None:
    """What arrived whole is given, then PeerDied with the signal or the code; never a part of a value."""
    source = f"""
        def child():
            s = Sender(parent())
            s.send("whole").block()
            s.send(bytes(200_000)).block()
            Receiver(parent()).recv().block()
            threading.Timer(0.2, lambda: {end}).start()
            s.send(bytes(64 << 20)).block()
            for _ in range(10_000):
                s.send(bytes(64 << 20)).block()
        init()
        pid = spawn(child).block()
        r = Receiver(pid)
        Sender(pid).send("go").block()
        assert r.recv().block() == "whole"
        assert r.recv().block() == bytes(200_000)
        def rest():
            while True:
                assert len(r.recv().block()) == 64 << 20
        died = raises(PeerDied, rest)
        assert died.pid == pid
        assert (died.status.code, died.status.signal) == {"(None, 'SIGKILL')" if "kill" in end else "(7, None)"}, died.status
    """
    result = run(run_program, tmp_path, source)
    assert (result.returncode, result.stderr) == (137 if "kill" in end else 7, ""), result


def test_a_receiver_that_is_killed_in_the_middle_of_a_large_value(run_program: RunProgram, tmp_path: Path) -> None:
    """The sender, blocked in that very send, gets PeerDied; so do the ones after it."""
    source = """
        def child():
            r = Receiver(parent())
            threading.Timer(0.2, lambda: os.kill(os.getpid(), 9)).start()
            while True:
                r.recv().block()
        init()
        pid = spawn(child).block()
        s = Sender(pid)
        value = bytearray(64 << 20)
        def stream():
            while True:
                s.send(value).block()
        died = raises(PeerDied, stream)
        assert died.status.signal == "SIGKILL"
        raises(PeerDied, lambda: s.send(1).block())
    """
    result = run(run_program, tmp_path, source)
    assert (result.returncode, result.stderr) == (137, ""), result


def test_a_closed_channel_stays_closed_whatever_becomes_of_the_process(run_program: RunProgram, tmp_path: Path) -> None:
    """The sender closed before it failed: its receiver is told of the close, early or late; the open channel of the death."""
    source = """
        def child():
            with Sender(parent()) as s:
                s.send(1).block()
            Sender(parent(), "open").send(2).block()
            Receiver(parent()).recv().block()
            sys.exit(5)
        init()
        pid = spawn(child).block()
        Sender(pid).send("end").block()
        assert watch(pid).block().code == 5
        closed, still = Receiver(pid), Receiver(pid, "open")
        assert still.recv().block() == 2
        raises(PeerDied, lambda: still.recv().block())
        assert list(closed) == [1]
    """
    result = run(run_program, tmp_path, source)
    assert (result.returncode, result.stderr) == (5, ""), result


def test_nobody_by_that_name(run_program: RunProgram, tmp_path: Path) -> None:
    """A Pid of another deployment: a ChannelError that says so, when an operation waits."""
    source = """
        init()
        foreign = Pid.from_bytes(bytes([0, 0, 0, 1]) + bytes(len(pid().to_bytes()) - 4))
        r = Receiver(foreign)
        error = raises(ChannelError, lambda: r.recv().block())
        assert "another deployment" in str(error), error
        raises(UsageError, lambda: watch(foreign).block())
    """
    passes(run_program, tmp_path, source)


def test_watch_and_kill(run_program: RunProgram, tmp_path: Path) -> None:
    """watch gives the certificate, before and after the end; kill asks first, and kills what does not listen."""
    source = """
        def ends(code): Receiver(parent()).recv().block(); sys.exit(code)
        def asks():
            try:
                Sender(parent()).send("ready").block()
                time.sleep(60)
            finally:
                Sender(parent()).send("cleaned up").block()
        def deaf():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            Sender(parent()).send("deaf").block()
            time.sleep(60)
        init()
        pid = spawn(ends, 4).block()
        raises(TimeoutError, lambda: watch(pid).block(timeout=0.05))
        Sender(pid).send(0).block()
        assert watch(pid).block().code == watch(pid).block().code == 4
        polite = spawn(asks).block()
        assert Receiver(polite).recv().block() == "ready"
        assert kill(polite).block().code == 143
        assert Receiver(polite).recv().block() == "cleaned up"
        stubborn = spawn(deaf).block()
        assert Receiver(stubborn).recv().block() == "deaf"
        assert kill(stubborn, grace=0.2).block().signal == "SIGKILL"
        raises(UsageError, kill, pid, -1)
        raises(TypeError, watch, 3)
    """
    result = run(run_program, tmp_path, source)
    assert (result.returncode, result.stderr) == (1, ""), result


def test_a_parent_that_watches_takes_in_what_its_child_flushes(run_program: RunProgram, tmp_path: Path) -> None:
    """watch drives: a child that leaves ten megabytes behind is drained by the parent that waits for its end."""
    source = """
        def child():
            s = Sender(parent())
            for n in range(30):
                s.send((n, bytes(130_000))).block()
        init()
        pids = [spawn(child).block() for _ in range(3)]
        for pid in pids:
            assert watch(pid).block(timeout=20).ok
        for pid in pids:
            assert [n for n, _ in Receiver(pid)] == list(range(30))
    """
    passes(run_program, tmp_path, source)


def test_the_undelivered_in_the_json_events(run_program: RunProgram, tmp_path: Path) -> None:
    """A good end with something undelivered keeps its code; the cause of the exit event says how many channels."""
    source = """
        from constellation.core import settings
        settings.DRAIN_LIMIT, settings.BUDGET_FLOOR, settings.BUDGET_SHARE = 0, 0, 1000
        def child():
            Sender(parent(), "results").send(bytes(1_300_000)).block()
        init()
        watch(spawn(child).block()).block(timeout=20)
    """
    result = run(run_program, tmp_path, source, env={"CONSTELLATION_FORMAT": "json", "CONSTELLATION_LINGER": "0.5"})
    ends = [json.loads(line) for line in result.stdout.splitlines()]
    ends = [event for event in ends if event["event"] == "exit"]
    assert ends[0]["code"] == 0
    assert ends[0]["cause"].startswith("undelivered: 1 channel to "), ends
