"""What the tests of channels have in common: programs that check themselves, and what they import."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import Result, RunProgram

PREAMBLE = """
import gc, os, resource, signal, sys, threading, time
from constellation import *

def raises(kind, call, *args):
    try:
        value = call(*args)
    except kind as error:
        return error
    raise AssertionError(f"{call} gave {value!r}, and no {kind.__name__}")

def until(check):
    \"\"\"Wait for what another process or the kernel does soon, and nobody tells.\"\"\"
    end = time.monotonic() + 20
    while not check():
        assert time.monotonic() < end, "did not come true"
        time.sleep(0.001)

def sockets():
    names = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass
    return sum(name.startswith("socket:") for name in names)
"""


def run(
    run_program: RunProgram,
    tmp_path: Path,
    source: str,
    *args: str,
    env: Mapping[str, str] | None = None,
    timeout: float = 60.0,
) -> Result:
    """Run a program behind `PREAMBLE`, its output untouched."""
    return run_program(
        tmp_path,
        PREAMBLE + textwrap.dedent(source),
        *args,
        env={"CONSTELLATION_FORMAT": "raw", **(env or {})},
        timeout=timeout,
    )


def passes(
    run_program: RunProgram,
    tmp_path: Path,
    source: str,
    *args: str,
    env: Mapping[str, str] | None = None,
    timeout: float = 60.0,
) -> list[str]:
    """Run a program whose assertions all hold, and which says nothing on stderr; give its lines."""
    result = run(run_program, tmp_path, source, *args, env=env, timeout=timeout)
    assert (result.returncode, result.stderr) == (0, ""), result
    return result.stdout.splitlines()
