"""The process in which a node installs what a program asks for: beside the daemon, so that it can be ended at any time.

It is given all by JSON on stdin, and says on stdout, a JSON object a line: ``log`` for each step, then ``python`` or ``error``.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any, Final

from constellation.core.errors import DeployError
from constellation.core.requirements import Stated
from constellation.fabric.environments import Environments

KEPT: Final = 32
"""Environments of one owner on a node; those that were used longest ago go first."""

_PR_SET_PDEATHSIG = 1


def command() -> list[str]:
    """The command line of such a process."""
    return [sys.executable, "-P", "-m", "constellation.fabric.installing"]


def request(folder: str, root: str, program: Stated) -> bytes:
    """What it is given.

    Args:
        folder: Of the owner's environments.
        root: The copy of the program.
        program: What it asks for.
    """
    return json.dumps({"folder": folder, "root": root, "program": program}).encode()


def main() -> None:
    """Blocks. Make an environment, or find that there is one."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    signal.signal(signal.SIGTERM, _leave)
    given = json.load(sys.stdin)
    fields: list[Any] = [tuple(each) if isinstance(each, list) else each for each in given["program"]]
    program = Stated(*fields)
    try:
        environments = Environments(given["folder"])
        python = environments.ensure(program, sys.executable, lambda text: _say("log", text), root=given["root"])
        _say("python", python)
        environments.trim(KEPT)
    except DeployError as error:
        _say("error", str(error))


def _leave(_signum: int, _frame: object) -> None:
    sys.exit(143)  # what it has begun is taken back on the way


def _say(kind: str, text: str) -> None:
    os.write(1, json.dumps({kind: text}).encode() + b"\n")


if __name__ == "__main__":
    main()
