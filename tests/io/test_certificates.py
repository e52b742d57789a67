"""Death certificates: every cause is named to the watcher, in the channel's error, in the events and on the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Leftovers, RunProgram
from tests.io import certificate_programs
from tests.io.certificate_programs import KINDS, Run, check

WIDTH = 10


def _check_all(found: Run, count: int) -> None:
    tops = [told["name"] for told in found.told if told["kind"] == "killed with its tree"]
    twigs = 0
    for told in found.told:
        is_twig = told["kind"] == "killed with the tree"
        check(told, found, tops[twigs] if is_twig else "")
        twigs += is_twig
    for kind in KINDS:
        assert sum(told["kind"] == kind for told in found.told) == count, (kind, found.text[-3000:])


@pytest.mark.parametrize("human", [False, True])
def test_each_cause_is_named_in_each_place(leftovers: Leftovers, tmp_path: Path, human: bool) -> None:
    """Once each: to the watcher, in the channel's error, and in the events or as the red line under the process."""
    _check_all(certificate_programs.run(leftovers, tmp_path, 1, 1, *KINDS, human=human), 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("human", [False, True])
def test_each_cause_is_named_a_hundred_times_of_a_hundred(leftovers: Leftovers, tmp_path: Path, human: bool) -> None:
    """Several at once, so that they are on their way to their ends together."""
    _check_all(certificate_programs.run(leftovers, tmp_path, 100, WIDTH, *KINDS, human=human), 100)


FIRST = {
    "sys.exit(3)": (3, None, "SystemExit: 3"),
    "sys.exit('no luck today')": (1, None, "SystemExit"),
    "raise ValueError('odd')": (1, None, "uncaught ValueError: odd"),
    "sys.excepthook = lambda *_: None; raise ValueError('odd')": (1, None, "uncaught ValueError: odd"),
    "os._exit(7)": (7, None, "without a word, as by os._exit"),
    "os.abort()": (None, "SIGABRT", "Aborted in <module> at {prog}"),
    "import faulthandler; faulthandler.enable(); os.abort()": (None, "SIGABRT", "Aborted in <module> at {prog}"),
    "import faulthandler; faulthandler.disable(); os.abort()": (None, "SIGABRT", None),
    "os.kill(os.getpid(), signal.SIGKILL)": (None, "SIGKILL", "not by constellation"),
    "os.kill(os.getpid(), signal.SIGUSR1)": (None, "SIGUSR1", "not by constellation"),
    "os.kill(os.getpid(), signal.SIGTERM); time.sleep(1)": (143, None, "SIGTERM, not by constellation"),
    "os.fork() or os.abort(); os.wait(); sys.exit(4)": (4, None, "SystemExit: 4"),
    "os.fork() or os.abort(); os.wait(); os.kill(os.getpid(), signal.SIGSEGV)": (
        None,
        "SIGSEGV",
        "Segmentation fault in <module> at {prog}",
    ),
    "deployment.close(); sys.exit(3)": (3, None, "SystemExit: 3"),
    "deployment.close(); raise ValueError('after')": (1, None, "uncaught ValueError: after"),
    "deployment.close(); os._exit(4)": (4, None, "without a word, as by os._exit"),
}


@pytest.mark.parametrize("end", FIRST)
def test_the_first_process_has_its_certificate(run_program: RunProgram, tmp_path: Path, end: str) -> None:
    """It ends by Python's own end, so it is not asked what it does; a child that it forks by itself does not count."""
    source = f"import os, signal, sys, time\nfrom constellation import init\ndeployment = init()\n{end}\n"
    result = run_program(tmp_path, source, env={"CONSTELLATION_FORMAT": "json"})
    events = [json.loads(line) for line in result.stdout.splitlines()]
    (found,) = [event for event in events if event["event"] == "exit"]
    code, signum, cause = FIRST[end]
    expected = (code, signum, cause and cause.replace("{prog}", f"{tmp_path / 'prog.py'}:4"))
    assert (found["code"], found["signal"], found["cause"]) == expected


def test_a_program_s_own_fault_handler_stays_its_own(run_program: RunProgram, tmp_path: Path) -> None:
    """What it has enabled before init() writes where it was told to, in every process; and is found in stderr."""
    source = """
        import faulthandler, os, sys
        from constellation import init, spawn, watch
        def aborts():
            os.abort()
        faulthandler.enable()
        init()
        status = watch(spawn(aborts).block()).block()
        print(status.cause, status.stack)
    """
    result = run_program(tmp_path, source, env={"CONSTELLATION_FORMAT": "raw"})
    place = f"aborts at {tmp_path / 'prog.py'}:5"
    assert result.stdout == f"Aborted in {place} ('{place}',)\n"
    assert result.stderr.count("Fatal Python error: Aborted") == 1
    assert "Current thread" in result.stderr  # as faulthandler writes it by itself: with all threads


def test_a_stack_is_shown_once_and_without_our_calls(run_program: RunProgram, tmp_path: Path) -> None:
    """As if the process had written it to stderr, above the red line."""
    source = """
        import os
        from constellation import init, spawn, watch
        def aborts():
            os.abort()
        init()
        print(watch(spawn(aborts).block()).block().stderr)
    """
    result = run_program(tmp_path, source, env={"CONSTELLATION_FORMAT": "raw"})
    assert result.stderr == (
        "Fatal Python error: Aborted\n\nStack (most recent call first):\n"
        f'  File "{tmp_path / "prog.py"}", line 5 in aborts\n'
    )
    assert result.stdout == "()\n"
