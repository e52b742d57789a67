"""Faults that the examples brought to light, each in a program of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

CLOSED_UNUSED = """
    from constellation import Receiver, Sender, init, parent, spawn

    def child():
        print(list(Receiver[int](parent(), "unused")))

    init()
    pid = spawn(child).block()
    Sender[int](pid, "unused").close()
    list(Receiver[int](pid, "until the child has ended"))
"""

LOSERS = """
    from constellation import Receiver, Sender, init, pid, select

    init()
    used, other = Receiver[int](pid(), "used"), Receiver[int](pid(), "other")
    Sender[int](pid(), "used").send(1).block()
    waiting = other.recv()
    print(select(waiting, used.recv()).block())
    Sender[int](pid(), "other").send(2).block()
    print(waiting.block())
    Sender[int](pid(), "used").send(3).block()
    print(select(other.recv(), used.recv()).block())
"""

LARGE_ARGUMENT = """
    from constellation import init, spawn

    init()
    spawn(lambda text: print(len(text)), "x" * 1_000_000).block()
"""

CHAIN = """
    from constellation import Receiver, Sender, init, parent, spawn

    def stage(left):
        values = Receiver(parent())
        if not left:
            print(sum(values))
            return
        following = Sender(spawn(stage, left - 1).block())
        for value in values:
            following.send(value).block()
        following.close()

    init()
    first = Sender(spawn(stage, 4).block())
    for value in range(100):
        first.send(value).block()
    first.close()
"""

DROPPED = """
    from constellation import Receiver, Sender, init, parent, spawn

    def child():
        for _ in range(100):
            n = Receiver[int](parent()).recv().block()
            Sender[int](parent()).send(n + 1).block()

    init()
    pid = spawn(child).block()
    for n in range(100):
        Sender[int](pid).send(n).block()
        assert Receiver[int](pid).recv().block() == n + 1
    print("all came")
"""


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        pytest.param(DROPPED, ["all came"], id="an end that is dropped parks at once, and the next one goes on"),
        pytest.param(CLOSED_UNUSED, ["[]"], id="a Sender closed before any link was made ends the iteration"),
        pytest.param(
            LOSERS, ["(1, 1)", "2", "(1, 3)"], id="a loser of a select may be used again, or dropped in silence"
        ),
        pytest.param(LARGE_ARGUMENT, ["1000000"], id="an argument that does not fit into a packet arrives"),
        pytest.param(CHAIN, ["4950"], id="processes that close and end at the same time do not wait for each other"),
    ],
)
def test_program_ends_well_and_soon(run_program: Any, tmp_path: Path, program: str, expected: list[str]) -> None:
    """It prints what it should, warns of nothing, and ends long before the linger time."""
    ran = run_program(tmp_path, program, timeout=20.0)
    said = [line.strip() for line in ran.stdout.splitlines() if line.startswith("    ") and "exited: 0" not in line]
    assert (ran.returncode, ran.stderr, said) == (0, "", expected)
