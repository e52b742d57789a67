"""The terminal while a deployment runs: Ctrl-C twice, Ctrl-Z, the background, and how it is given back."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from tests.conftest import Leftovers

Shell = Callable[[str], "pexpect.spawn[str]"]

TICKS = """
import time
from constellation import init
init()
for number in range(100):
    print("tick", number)
    time.sleep(0.05)
print("got", input("more? "))
"""
STUBBORN = """
import signal, time
from constellation import init, spawn
def child():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("child is up")
    time.sleep(1000)
init()
try:
    spawn(child).block()
    time.sleep(1000)
except KeyboardInterrupt:
    print("interrupted")
time.sleep(1000)
"""


@pytest.fixture
def shell(leftovers: Leftovers, tmp_path: Path) -> Iterator[Shell]:
    """Give a shell with job control in which ``$PY prog.py`` runs a program."""
    started: list[pexpect.spawn[str]] = []

    def begin(source: str) -> pexpect.spawn[str]:
        (tmp_path / "prog.py").write_text(source)
        environment = {**leftovers.environment, "TERM": "xterm", "PS1": "ready$ ", "PY": sys.executable}
        environment["CONSTELLATION_GRACE"] = "60"
        program = pexpect.spawn(
            "/bin/bash",
            ["--norc", "--noprofile", "-i"],
            cwd=str(tmp_path),
            env=environment,
            timeout=20,
            encoding="utf-8",
            dimensions=(30, 100),
        )
        program.expect(r"ready\$ ")
        started.append(program)
        return program

    yield begin
    for program in started:
        program.close(force=True)


def _settings(program: pexpect.spawn[str]) -> str:
    program.sendline("stty -g; echo done")
    program.expect(r"([0-9a-f]+(?::[0-9a-f]+)+)\r\ndone")
    assert program.match is not None and not isinstance(program.match, type)
    settings: str = program.match.group(1)
    program.expect(r"ready\$ ")
    return settings


def test_ctrl_c_twice_kills_at_once(shell: Shell) -> None:
    """Who ignores the first is not waited for."""
    program = shell(STUBBORN)
    program.sendline("$PY prog.py")
    program.expect("child is up")
    program.sendintr()
    program.expect("interrupted")
    program.sendintr()
    program.expect(r"ready\$ ")
    program.sendline("echo code $?")
    program.expect("code 130")


def test_ctrl_z_stops_and_fg_goes_on(shell: Shell) -> None:
    """The shell gets its terminal as it was, and the processes stop too."""
    program = shell(TICKS)
    before = _settings(program)
    program.sendline("$PY prog.py")
    program.expect("tick 3")
    program.send("\x1a")
    program.expect("Stopped")
    program.expect(r"ready\$ ")
    assert _settings(program) == before
    program.sendline("fg")
    program.expect("tick 9")
    program.expect(r"more\? ")
    program.sendline("yes")
    program.expect("got yes")
    program.expect(r"ready\$ ")
    assert _settings(program) == before


def test_a_background_job_leaves_the_terminal_alone(shell: Shell) -> None:
    """Until it comes to the foreground."""
    program = shell(TICKS)
    before = _settings(program)
    program.sendline("$PY prog.py > out.txt &")
    program.expect(r"ready\$ ")
    time.sleep(1.0)
    assert _settings(program) == before
    program.sendline("fg")
    program.expect("prog.py")
    time.sleep(1.0)
    program.sendintr()
    program.expect(r"ready\$ ")
    program.sendline("echo code $?")
    program.expect("code 130")


@pytest.mark.parametrize("levels", [2, 3])
def test_the_terminal_is_given_back_after_a_kill(shell: Shell, levels: int) -> None:
    """Whether the template or the fabric is killed by SIGKILL."""
    chain = "pid = os.getpid()\nfor _ in range(%d): pid = int(open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[1])\n"
    source = f"import os\nfrom constellation import init\ninit()\ninput('go? ')\n{chain % (levels - 1)}os.kill(pid, 9)\ninput()\n"
    program = shell(source)
    before = _settings(program)
    program.sendline("$PY prog.py")
    program.expect(r"go\? ")
    program.sendline("")
    program.expect(r"ready\$ ")
    assert _settings(program) == before


def test_the_size_of_the_terminal_follows(shell: Shell) -> None:
    """The first process is told when it changes."""
    source = (
        "import os, signal\nfrom constellation import init\ninit()\n"
        "signal.signal(signal.SIGWINCH, lambda *_: print('now', os.get_terminal_size()[:]))\n"
        "print('at first', os.get_terminal_size()[:])\ninput('go? ')\n"
    )
    program = shell(source)
    program.sendline("$PY prog.py")
    program.expect(r"at first \(100, 30\)")
    program.expect(r"go\? ")
    program.setwinsize(40, 120)
    program.expect(r"now \(120, 40\)")
    program.sendline("")
    program.expect(r"ready\$ ")
