"""The type that an end states: compared as text at the first operation, on both sides."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import RunProgram
from tests.io.channel_programs import passes


def test_another_type_than_the_receivers_is_an_error_on_both_sides(run_program: RunProgram, tmp_path: Path) -> None:
    """TypeMismatch names both; it is raised again at the next try, and a new incarnation with the right type works."""
    source = """
        def child():
            s = Sender[int](parent())
            try:
                while True:
                    s.send(1).block()
            except TypeMismatch as error:
                assert "int" in str(error) and "str" in str(error), error
            raises(TypeMismatch, s.try_send, 1)
            s.close()
            s = Sender[str](parent())
            s.send("right").block()
        init()
        pid = spawn(child).block()
        r = Receiver[str](pid)
        error = raises(TypeMismatch, lambda: r.recv().block())
        assert "int" in str(error) and "str" in str(error), error
        raises(TypeMismatch, r.try_recv)
        raises(TypeMismatch, next, r)
        r.close()
        assert Receiver[str](pid).recv().block() == "right"
        assert watch(pid).block().ok
    """
    passes(run_program, tmp_path, source)


def test_types_that_match(run_program: RunProgram, tmp_path: Path) -> None:
    """The same type however it is written; and none, object and Any match all."""
    source = """
        import typing
        from typing import Any, Optional
        class Own: pass
        pairs = [
            (Sender[int], Receiver[int]), (Sender, Receiver[int]), (Sender[int], Receiver), (Sender[Any], Receiver[int]),
            (Sender[int], Receiver[object]), (Sender[Own], Receiver[Own]), (Sender[typing.List[int]], Receiver[list[int]]),
            (Sender[dict[str, list[Own]]], Receiver[dict[str, list[Own]]]), (Sender[int | None], Receiver[Optional[int]]),
            (Sender[None], Receiver[None]), (Sender["Later"], Receiver["Later"]), (Sender[tuple[int, ...]], Receiver[tuple[int, ...]]),
        ]
        def child():
            for n, (sender, _) in enumerate(pairs):
                sender(parent(), str(n)).send(n).block()
        init()
        pid = spawn(child).block()
        for n, (_, receiver) in enumerate(pairs):
            assert receiver(pid, str(n)).recv().block() == n
        assert watch(pid).block().ok
    """
    passes(run_program, tmp_path, source)


def test_types_that_differ(run_program: RunProgram, tmp_path: Path) -> None:
    """Arguments of a generic type count, and classes of one name in two places are two."""
    source = """
        class Own: pass
        class Outer:
            class Own: pass
        pairs = [(list[int], list[str]), (Own, Outer.Own), (int, float), (dict[str, int], dict), (None, int)]
        def child():
            senders = []
            for n, (one, _) in enumerate(pairs):
                s = Sender[one](parent(), str(n)); s.send(n).block(); senders.append(s)
            assert Receiver(parent()).recv().block() == "seen"
            for s in senders:
                raises(TypeMismatch, lambda: s.send(1).block())
        init()
        pid = spawn(child).block()
        for n, (_, other) in enumerate(pairs):
            raises(TypeMismatch, lambda: Receiver[other](pid, str(n)).recv().block())
        Sender(pid).send("seen").block()
        assert watch(pid).block().ok
    """
    passes(run_program, tmp_path, source)


def test_the_receiver_states_its_type_first(run_program: RunProgram, tmp_path: Path) -> None:
    """A receiver that waits already sees the mismatch when the sender comes."""
    source = """
        def child():
            s = Sender[str](parent())
            assert Receiver(parent(), "go").recv().block()
            raises(TypeMismatch, lambda: [s.send("no").block() for _ in iter(int, 1)])
        init()
        pid = spawn(child).block()
        r = Receiver[bytes](pid)
        raises(WouldBlock, r.try_recv)
        Sender(pid, "go").send(True).block()
        raises(TypeMismatch, lambda: r.recv().block())
        assert watch(pid).block().ok
    """
    passes(run_program, tmp_path, source)
