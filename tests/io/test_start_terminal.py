"""The first process on a terminal: prompts, input, getpass, breakpoint, Ctrl-C."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from tests.conftest import Leftovers

Start = Callable[[str], "pexpect.spawn[str]"]


@pytest.fixture
def start(leftovers: Leftovers, tmp_path: Path) -> Iterator[Start]:
    started: list[pexpect.spawn[str]] = []

    def begin(source: str) -> pexpect.spawn[str]:
        (tmp_path / "prog.py").write_text(textwrap.dedent(source))
        program = pexpect.spawn(
            sys.executable,
            ["prog.py"],
            cwd=str(tmp_path),
            env={**leftovers.environment, "TERM": "xterm"},
            timeout=15,
            encoding="utf-8",
            dimensions=(30, 100),
        )
        started.append(program)
        return program

    yield begin
    for program in started:
        program.close(force=True)


def finish(program: pexpect.spawn[str]) -> int:
    program.expect(pexpect.EOF)
    program.close()
    status: int = program.exitstatus if program.exitstatus is not None else -1
    return status


def test_input(start: Start) -> None:
    """The first process reads from the terminal."""
    program = start("""
        from constellation import init
        init()
        print("hello " + input("name? "))
    """)
    program.expect(r"name\? ")
    program.sendline("ada")
    program.expect("hello ada")
    assert finish(program) == 0


def test_getpass_does_not_show(start: Start) -> None:
    """A password is read without echo."""
    program = start("""
        import getpass
        from constellation import init
        init()
        print(getpass.getpass("secret? ")[::-1])
    """)
    program.expect(r"secret\? ")
    program.waitnoecho(5)
    program.sendline("abcde")
    program.expect("edcba")
    assert "abcde" not in program.before
    assert finish(program) == 0


def test_breakpoint(start: Start) -> None:
    """The debugger works in the first process."""
    program = start("""
        from constellation import init
        init()
        n = 41
        breakpoint()
        print("after", n)
    """)
    program.expect(r"\(Pdb\) ")
    program.sendline("p n + 1")
    program.expect("42")
    program.expect(r"\(Pdb\) ")
    program.sendline("c")
    program.expect("after 41")
    assert finish(program) == 0


def test_it_is_a_terminal(start: Start) -> None:
    """A pty of its own, with the real one's size; output is not given carriage returns twice."""
    program = start("""
        import os, sys
        from constellation import init
        init()
        print(sys.stdin.isatty(), sys.stdout.isatty(), tuple(os.get_terminal_size()), os.tcgetpgrp(0) == os.getpid())
        print(open("/dev/tty").isatty())
    """)
    assert finish(program) == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", program.before)
    assert "True True (100, 30) True\r\n" in text
    assert "\r\r" not in text


def test_ctrl_c(start: Start) -> None:
    """Ctrl-C raises KeyboardInterrupt in the first process, and the run ends with 130."""
    program = start("""
        import time
        from constellation import init
        init()
        print("sleeping")
        try:
            time.sleep(60)
        finally:
            print("cleaned up")
    """)
    program.expect("sleeping")
    program.sendintr()
    program.expect("cleaned up")
    assert finish(program) == 130
