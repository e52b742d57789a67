"""A process that is asked to end hears it at once, whenever the signal comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunProgram


@pytest.mark.parametrize("seed", [1, 2])
def test_sigterm_is_never_lost(run_program: RunProgram, tmp_path: Path, seed: int) -> None:
    """Asked at random moments of its start, a process ends by SystemExit(143): none is left to the grace time.

    Python loses a signal that comes just before a sleep begins, and drops an exception that comes into a ``__del__``.
    """
    result = run_program(
        tmp_path,
        f"""
        import random, time
        from constellation import Receiver, Sender, init, join, kill, parent, spawn

        def sleeps():
            while True:
                time.sleep(30)

        def receives():
            Sender(parent()).send(1).block()
            Receiver(parent()).recv().block()

        init()
        rng = random.Random({seed})
        codes = []
        for _ in range(150):
            pids = join(*(spawn(rng.choice([sleeps, receives])) for _ in range(4))).block()
            time.sleep(rng.random() * 0.01)
            codes += [status.code for status in join(*(kill(pid, grace=20) for pid in pids)).block()]
        print(len(codes), set(codes))
        """,
        env={"CONSTELLATION_FORMAT": "raw"},
        timeout=100,
    )

    assert result.stdout == "600 {143}\n", result
