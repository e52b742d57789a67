"""A program whose channels are checked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

Run = Callable[..., "subprocess.CompletedProcess[str]"]

PROGRAM = """
    import dataclasses
    from typing import Annotated, Any

    from msgspec import Meta, Struct
    from constellation import (
        Pid, Receiver, Sender, SerializationError, UsageError, init, parent, pid, spawn,
    )

    class Point(Struct):
        x: int
        y: float = 0.0

    @dataclasses.dataclass
    class Order:
        points: list[Point]
        sender: Pid

    def child():
        orders = Sender[Order](parent())
        orders.send(Order([Point(1), Point(2)], pid())).block()
        orders.send(Order([Point(1), Point("2")], pid())).block()
        orders.send(Order([], pid())).block()
        positive = Sender[Annotated[int, Meta(gt=0)]](parent(), "positive")
        for number in (*range(1, 3000), -1, 10**30):
            positive.send(number).block()
        raw = Sender[bytes | Point](parent(), "raw")
        raw.send(b"x" * 300_000).block()
        raw.send(Point(3)).block()
        Sender[Point](parent(), "points").send(b"x" * 300_000).block()
        Sender[Any](parent(), "plain").send({"x": 7}).block()

    def taken(receiver, count):
        for _ in range(count):
            try:
                yield receiver.recv().block()
            except SerializationError as error:
                yield str(error)

    if __name__ == "__main__":
        INIT
        process = spawn(child).block()
        first, second, third = taken(Receiver[Order](process), 3)
        print("first", first == Order([Point(1), Point(2)], process))
        print("second", second)
        print("third", third.sender == process)
        numbers = list(taken(Receiver[Annotated[int, Meta(gt=0)]](process, "positive"), 3001))
        print("numbers", numbers[:2999] == list(range(1, 3000)), numbers[2999:])
        large, point = taken(Receiver[bytes | Point](process, "raw"), 2)
        print("raw", len(large), point)
        print("points", *taken(Receiver[Point](process, "points"), 1))
        print("plain", *taken(Receiver[Point](process, "plain"), 1))
        try:
            Sender[type](pid()).send(int).block()
        except UsageError as error:
            print("refused", error)
"""
EXPECTED = [
    "first True",
    "second value.points[1].x: Expected `int`, got `str`",
    "third True",
    "numbers True ['value: Expected `int` >= 1', 1000000000000000000000000000000]",
    "raw 300000 Point(x=3, y=0.0)",
    "points value: Expected `Point`, got `bytes`",
    "plain Point(x=7, y=0.0)",
    "refused cannot check values as type: msgspec does not know a type: make it a Struct or a dataclass",
]


def said(ran: subprocess.CompletedProcess[str]) -> list[str]:
    """What the first process printed."""
    return [line.strip() for line in ran.stdout.splitlines() if line.startswith("    ") and "exited" not in line]


def test_program_gets_what_it_stated_or_an_error_that_names_the_member(run_program: Run) -> None:
    """Enabled by the program; in streams, large values, bytes as they are, and beside an end without a type."""
    ran = run_program(PROGRAM.replace("INIT", 'init(plugins=["msgspec"], serializer="msgspec")'))
    assert (ran.stderr, ran.returncode) == ("", 0)
    assert said(ran) == EXPECTED


def test_serializer_is_enabled_on_the_command_line(run_program: Run) -> None:
    """The program names the serializer, the command line the plugin."""
    ran = run_program(
        PROGRAM.replace("INIT", 'init(serializer="msgspec")'),
        command=(sys.executable, "-m", "constellation", "run", "--plugin", "msgspec"),
    )
    assert (ran.stderr, ran.returncode) == ("", 0)
    assert said(ran) == EXPECTED
