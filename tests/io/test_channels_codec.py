"""A serializer that looks at types is asked once for each end that states one, and sees every value of it."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import RunProgram

PLUGIN = """
import pickle
from constellation.plugin import SerializationError, UsageError, hookimpl

asked = []

class Codec:
    def __init__(self, stated):
        self.stated = stated

    def encode(self, value):
        return [pickle.dumps(value)]

    def decode(self, buffers):
        value = pickle.loads(buffers[0])
        self.check(value)
        return value

    def check(self, value):
        if not isinstance(value, self.stated):
            raise SerializationError("value", f"expected {self.stated.__name__}, got {type(value).__name__}")

class Checking(Codec):
    name = "checking"
    foreign_safe = False
    takes_all_plain = True

    def for_type(self, stated):
        asked.append(stated)
        if not isinstance(stated, type):
            raise UsageError(f"cannot check values as {stated}: expected a class")
        return Codec(stated)

@hookimpl
def register_serializers():
    return [Checking(object)]
"""


def with_plugin(tmp_path: Path) -> None:
    """Put the plugin where the program finds it."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "checking.py").write_text(PLUGIN)


def said(output: str) -> list[str]:
    """What the processes printed."""
    return [line.strip() for line in output.splitlines() if line.startswith("    ") and "exited" not in line]


def test_every_value_of_a_typed_channel_is_checked(run_program: RunProgram, tmp_path: Path) -> None:
    """Small and large, pickled or bytes as they are, in a stream too; a wrong one is passed over, the next one arrives."""
    with_plugin(tmp_path)
    ran = run_program(
        tmp_path,
        """
        from mine import checking
        from constellation import Receiver, Sender, SerializationError, init, parent, spawn

        def child():
            sender = Sender[bytes](parent())
            for value in (1, b"a", b"b" * 2000, b"c" * 500_000, [b"d" * 50_000], b"e"):
                sender.send(value).block()
            numbers = Sender[int](parent(), "numbers")
            for number in range(2000):
                numbers.send(number if number % 500 else "none").block()
            wrong = Sender[str](parent(), "wrong")
            for value in (b"f" * 2000, b"g" * 500_000, bytearray(9), "right"):
                wrong.send(value).block()

        def taken(receiver):
            while True:
                try:
                    value = receiver.recv().block()
                except SerializationError as error:
                    yield error.reason
                else:
                    yield value if type(value) in (int, str) else (value[:1], len(value))
                    if value in ("right", b"e", 1999):
                        return

        if __name__ == "__main__":
            init(plugins=["mine.checking"], serializer="checking")
            pid = spawn(child).block()
            print(*taken(Receiver[bytes](pid)), sep="\\n")
            numbers = list(taken(Receiver[int](pid, "numbers")))
            print([at for at, value in enumerate(numbers) if value != at], numbers[500])
            print(*taken(Receiver[str](pid, "wrong")), sep="\\n")
            print(checking.asked)
        """,
    )
    assert (ran.stderr, ran.returncode) == ("", 0)
    assert said(ran.stdout) == [
        "expected bytes, got int",
        "(b'a', 1)",
        "(b'b', 2000)",
        "(b'c', 500000)",
        "expected bytes, got list",
        "(b'e', 1)",
        "[0, 500, 1000, 1500] expected int, got str",
        "expected str, got bytes",
        "expected str, got bytes",
        "expected str, got bytearray",
        "right",
        "[<class 'bytes'>, <class 'int'>, <class 'str'>]",
    ]


def test_ends_without_a_type_use_the_serializer_itself(run_program: RunProgram, tmp_path: Path) -> None:
    """Nor is it asked for object and Any, which match all."""
    with_plugin(tmp_path)
    ran = run_program(
        tmp_path,
        """
        from typing import Any
        from mine import checking
        from constellation import Receiver, Sender, init, pid

        if __name__ == "__main__":
            init(plugins=["mine.checking"], serializer="checking")
            for name, kinds in {"none": (Sender, Receiver), "any": (Sender[Any], Receiver[object])}.items():
                sender, receiver = kinds[0](pid(), name), kinds[1](pid(), name)
                sender.send(1).block()
                sender.send(b"x" * 5000).block()
                print(receiver.recv().block(), len(receiver.recv().block()))
            print(checking.asked)
        """,
    )
    assert (ran.stderr, ran.returncode) == ("", 0)
    assert said(ran.stdout) == ["1 5000", "1 5000", "[]"]


def test_a_type_that_cannot_be_checked_is_refused_at_the_first_operation(
    run_program: RunProgram, tmp_path: Path
) -> None:
    """By the serializer's own words, at either end."""
    with_plugin(tmp_path)
    ran = run_program(
        tmp_path,
        """
        from constellation import Receiver, Sender, UsageError, init, pid

        if __name__ == "__main__":
            init(plugins=["mine.checking"], serializer="checking")
            sender, receiver = Sender[int | str](pid()), Receiver[int | str](pid())
            for operation in (lambda: sender.send(1).block(), lambda: sender.try_send(1), receiver.try_recv):
                try:
                    operation()
                except UsageError as error:
                    print(error)
        """,
    )
    assert (ran.stderr, ran.returncode) == ("", 0)
    words = "cannot check values as int | str: expected a class"
    assert said(ran.stdout) == [words] * 3
