"""How a deployment ends from outside: signals, a reader that goes, a keeper that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from constellation.core import messages
from tests.io import fabric_harness
from tests.io.fabric_harness import LIMIT_S


def _wait_all(harness: fabric_harness.Harness) -> None:
    for child in harness.children.values():
        child.wait(LIMIT_S)


def test_ctrl_c_asks_everybody_and_gives_130() -> None:
    """SIGINT to the first process, SIGTERM to the others."""
    with fabric_harness.running() as harness:
        pid = harness.spawn("exec sleep 1000")
        harness.fabric.send_signal(signal.SIGINT)
        harness.reap(2)
        code, events, _ = harness.finish()
    ends = {event["pid"]: (event["signal"], event["cause"]) for event in events if event["event"] == "exit"}
    assert code == 130
    assert ends == {harness.pid.hex(): ("SIGINT", "killed by Ctrl-C"), pid.hex(): ("SIGTERM", "killed by Ctrl-C")}


def test_a_second_ctrl_c_kills_at_once() -> None:
    """Long before the grace time is over."""
    with fabric_harness.running(grace=60.0) as harness:
        harness.spawn("trap '' TERM; while :; do sleep 0.05; done")
        time.sleep(0.2)
        harness.fabric.send_signal(signal.SIGINT)
        time.sleep(0.2)
        harness.fabric.send_signal(signal.SIGINT)
        harness.reap(2)
        code, events, _ = harness.finish()
    assert code == 130
    assert {event["signal"] for event in events if event["event"] == "exit"} == {"SIGINT", "SIGKILL"}


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_to_the_fabric_ends_all_with_its_code(number: int, expected: int) -> None:
    """Asked, then killed after the grace time."""
    with fabric_harness.running(grace=0.2) as harness:
        harness.spawn("trap '' TERM; while :; do sleep 0.05; done")
        time.sleep(0.2)
        harness.fabric.send_signal(number)
        harness.reap(2)
        assert harness.finish()[0] == expected


def test_sigquit_does_not_end_the_fabric() -> None:
    """It goes on and serves."""
    with fabric_harness.running() as harness:
        harness.spawn("exit 0")
        harness.fabric.send_signal(signal.SIGQUIT)
        harness.reap()
        harness.spawn("exit 0")
        harness.reap()
        harness.end_first()
        assert harness.finish()[0] == 0


def test_no_spawn_begins_while_the_deployment_ends() -> None:
    """It is refused with the reason."""
    with fabric_harness.running() as harness:
        harness.spawn("trap '' TERM; while :; do sleep 0.05; done")
        harness.fabric.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        harness.ask_spawn("exit 0")
        failed = harness.first.expect(messages.SpawnFailed)
    assert failed.kind == "SpawnError" and "SIGTERM" in failed.text


def test_the_death_of_the_keeper_kills_all() -> None:
    """Nobody would wait for the fabric any more."""
    with fabric_harness.running() as harness:
        harness.spawn("trap '' TERM; while :; do sleep 0.05; done")
        os.close(harness.keeper)
        harness.keeper = -1
        harness.reap(2)
        assert harness.finish()[0] == 1


def test_a_reader_of_stdout_that_goes_ends_the_deployment_quietly() -> None:
    """As SIGPIPE would: no traceback, 141."""
    with fabric_harness.running(grace=0.5) as harness:
        harness.spawn("while :; do echo y; done")
        assert harness.fabric.stdout is not None
        harness.fabric.stdout.readline()
        harness.fabric.stdout.close()
        harness.reap(2)
        os.close(harness.stdout)
        os.close(harness.stderr)
        harness.stdout = harness.stderr = -1
        assert harness.fabric.wait(LIMIT_S) == 141
        assert harness.fabric.stderr is not None and harness.fabric.stderr.read() == b""


def test_a_reader_that_does_not_read_stops_neither_spawns_nor_ends() -> None:
    """Processes that write wait; everything else goes on."""
    with fabric_harness.running() as harness:
        flood = harness.spawn("exec yes")
        time.sleep(0.5)
        pid = harness.spawn("exit 3")
        harness.reap()
        status = harness.watch(pid)
        assert status is not None and status.code == 3
        harness.first.send(messages.Kill(harness.request(), flood.to_bytes(), 5.0, False))
        harness.reap()
        harness.end_first()
        assert harness.finish()[0] == 1


def _run_keeper(body: str) -> subprocess.CompletedProcess[bytes]:
    """Run a keeper over a child that does ``body``, in an interpreter as bare as the real one."""
    lines = [
        f"import os, sys, signal, subprocess; sys.path.insert(0, {os.getcwd()!r})",
        "from constellation.fabric.keeper import main",
        "ready, end = os.pipe()",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])",  # as the start does, so that none is lost
        "child = os.fork()",
        # Not before the keeper is there: it is a subreaper only from then on.
        f"if child == 0: os.read(ready, 1); {body}",
        "sys.exit(main(child, end))",
    ]
    command = [sys.executable, "-I", "-S", "-c", "\n".join(lines)]
    return subprocess.run(command, check=False, capture_output=True, timeout=LIMIT_S)


def test_keeper_gives_the_fabric_s_code_and_sweeps() -> None:
    """What was left below it is gone when it has ended, with setsid too."""
    done = _run_keeper("print(subprocess.Popen(['setsid', 'sleep', '1000']).pid, flush=True); os._exit(7)")
    assert done.returncode == 7, done.stderr
    assert not os.path.exists(f"/proc/{int(done.stdout)}")


def test_keeper_says_that_the_fabric_was_killed() -> None:
    """One sentence, and code 1."""
    done = _run_keeper("os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == 1
    assert done.stderr == b"constellation: the fabric was killed by SIGKILL; all its processes have been killed\n"


def test_keeper_passes_signals_on() -> None:
    """A SIGINT sent to it alone reaches the fabric."""
    done = _run_keeper("os.kill(os.getppid(), 2); signal.sigwait([2]); os._exit(9)")
    assert done.returncode == 9
