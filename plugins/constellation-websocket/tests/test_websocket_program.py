"""A program runs with the transport, enabled as a user enables it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

Run = Callable[..., "subprocess.CompletedProcess[str]"]

PROGRAM = """
    from constellation import Receiver, Sender, init, parent, spawn

    def child():
        sender = Sender[bytes](parent())
        for size in (10, 100_000, 1_000_000):
            sender.send(b"x" * size).block()

    if __name__ == "__main__":
        INIT
        print(sum(map(len, Receiver[bytes](spawn(child).block()))))
"""


def test_program_runs_with_the_transport(run_program: Run) -> None:
    """On one computer its links are socketpairs, as those of the default."""
    ran = run_program(PROGRAM.replace("INIT", 'init(plugins=["websocket"], transport="websocket")'))
    assert (ran.stderr, ran.returncode) == ("", 0)
    assert "1100010" in ran.stdout


def test_transport_is_enabled_on_the_command_line(run_program: Run) -> None:
    """With an option."""
    ran = run_program(
        PROGRAM.replace("INIT", 'init(transport="websocket")'),
        command=(
            *(sys.executable, "-m", "constellation", "run", "--plugin", "websocket"),
            *("--plugin-option", "websocket.ping_s=5"),
        ),
    )
    assert (ran.stderr, ran.returncode) == ("", 0)
    assert "1100010" in ran.stdout
