"""A program runs under the schedulers, chosen as a user chooses them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
COMMAND = (sys.executable, "-m", "constellation")

PROGRAM = """
    import sys
    from constellation import Receiver, Resources, Sender, init, join, parent, spawn

    def child(number):
        Sender[int](parent()).send(number * number).block()

    if __name__ == "__main__":
        options = {"scheduler": sys.argv[1], "plugins": ["spread"]} if len(sys.argv) > 1 else {}
        init(Resources(mem="20 MiB", cpu=0.1), capacity=Resources(mem="300 MiB", cpu=1), **options)
        squares = 0
        for number in range(8):
            pid = spawn(child, number, resources=Resources(mem="90 MiB", cpu=0.25)).block()
            squares += Receiver[int](pid).recv().block()
        print("sum", squares)
"""


@pytest.mark.parametrize("scheduler", ["spread", "pack"])
def test_program_runs_under_the_scheduler(run_program: Run, scheduler: str) -> None:
    """More demands than there is room for at once: they wait, and all get their turn."""
    ran = run_program(PROGRAM, scheduler)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "sum 140" in ran.stdout


def test_plugin_is_listed_with_what_it_offers() -> None:
    """`constellation plugins` finds the installed package by its entry point."""
    ran = subprocess.run(
        [*COMMAND, "plugins", "--json", "--plugin", "spread"], capture_output=True, text=True, timeout=60, check=True
    )
    listed = {line["name"]: line for line in json.loads(ran.stdout)}
    spread = listed["spread"]
    assert (spread["package"], spread["state"]) == ("constellation-spread", "ok")
    assert spread["provides"] == ["scheduler spread", "scheduler pack"]


def test_wrong_option_is_refused_with_words(run_program: Run) -> None:
    """The deployment does not begin with half of an option."""
    ran = run_program(
        PROGRAM,
        "spread",
        command=(*COMMAND, "run", "--plugin", "spread", "--plugin-option", "spread.by=zone,,"),
    )
    assert ran.returncode != 0
    assert "expected names of labels, such as zone,rack" in ran.stderr
