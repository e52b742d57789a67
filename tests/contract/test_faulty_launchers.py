"""Faults planted in a right launcher: each is found by the check of the promise that it breaks."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from constellation.launchers.local import LocalLauncher
from constellation.plugin import Launcher, NodeCommand
from constellation.testing import LAUNCHER_CHECKS, BrokenPromise

FAULTS: list[tuple[str, type[Launcher]]] = []
"""The name of a check, and a launcher that breaks its promise."""

LEFT: list[int] = []
"""Descriptors that faulty launchers have left."""
STARTED: list[subprocess.Popen[bytes]] = []
"""What they have started, to be ended."""


TOGETHER = threading.Barrier(4)


def found_by(check: str) -> Callable[[Any], Any]:
    """Mark a faulty launcher with the check that must find it."""

    def mark(faulty: Any) -> Any:
        FAULTS.append((check, faulty))
        return faulty

    return mark


def process_of(handle: str) -> int:
    """The OS pid that a handle of the local launcher names."""
    return int(json.loads(handle)["pid"])


@found_by("says_what_it_is")
class CannotBeAsked(LocalLauncher):
    """Starts and stops only."""

    ended = None  # type: ignore[assignment]  # the fault


@found_by("runs_the_command_as_it_is")
class UsesAShell(LocalLauncher):
    """Joins the arguments with blanks, as ssh does."""

    def start(self, command: NodeCommand, place: str) -> str:
        code = f"{shlex.join(command.argv[:3])} {' '.join(command.argv[3:])}"
        return super().start(command._replace(argv=("sh", "-c", code)), place)


@found_by("runs_the_command_as_it_is")
class DropsEmptyArguments(LocalLauncher):
    """As a template of words does."""

    def start(self, command: NodeCommand, place: str) -> str:
        return super().start(command._replace(argv=tuple(filter(None, command.argv))), place)


@found_by("runs_the_command_as_it_is")
class ForgetsTheEnvironment(LocalLauncher):
    """Passes nothing on."""

    def start(self, command: NodeCommand, place: str) -> str:
        return super().start(command._replace(environment={}), place)


@found_by("gives_standard_input")
class GivesNoInput(LocalLauncher):
    """Nothing to read."""

    def start(self, command: NodeCommand, place: str) -> str:
        return super().start(command._replace(stdin=b""), place)


@found_by("gives_standard_input")
class CutsInputAtAPipe(LocalLauncher):
    """Writes what fits into a pipe."""

    def start(self, command: NodeCommand, place: str) -> str:
        return super().start(command._replace(stdin=command.stdin[: 64 << 10]), place)


@found_by("keeps_the_secret")
class ShowsTheSecret(LocalLauncher):
    """In a variable, which others may read."""

    def start(self, command: NodeCommand, place: str) -> str:
        environment = {**command.environment, "CREDENTIAL": command.stdin.decode(errors="replace").replace("\0", "")}
        return super().start(command._replace(environment=environment), place)


@found_by("outlives_who_started_it")
class TiesTheNodeToItself(LocalLauncher):
    """The node ends with the process that started it."""

    def start(self, command: NodeCommand, place: str) -> str:
        die = (
            "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9, 0, 0, 0); "  # PR_SET_PDEATHSIG
            "os.getppid() == int(sys.argv[1]) or os._exit(1); os.execvp(sys.argv[2], sys.argv[2:])"
        )
        argv = (command.argv[0], "-c", die, str(os.getpid()), *command.argv)
        return super().start(command._replace(argv=argv), place)


@found_by("outlives_who_started_it")
class StopsOnlyItsOwn(LocalLauncher):
    """Knows the nodes of this process, and takes those of another one for ended."""

    def stop(self, handle: str, grace: float) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, process_of(handle), os.WEXITED | os.WNOHANG | os.WNOWAIT)
            super().stop(handle, grace)


@found_by("gives_handles_that_can_be_stored")
class KeepsItsNodesInTheObject(LocalLauncher):
    """The handle is a number in a table."""

    def __init__(self) -> None:
        self.table: list[str] = []

    def start(self, command: NodeCommand, place: str) -> str:
        self.table.append(super().start(command, place))
        return str(len(self.table))

    def ended(self, handle: str) -> str | None:
        return super().ended(self.table[int(handle) - 1])

    def stop(self, handle: str, grace: float) -> None:
        super().stop(self.table[int(handle) - 1], grace)


@found_by("gives_handles_that_can_be_stored")
class GivesObjects(LocalLauncher):
    """Whatever it has at hand."""

    def start(self, command: NodeCommand, place: str) -> Any:
        return json.loads(super().start(command, place))

    def ended(self, handle: Any) -> str | None:
        return super().ended(json.dumps(handle))

    def stop(self, handle: Any, grace: float) -> None:
        super().stop(json.dumps(handle), grace)


@found_by("gives_handles_that_can_be_stored")
class StopsAll(LocalLauncher):
    """Whichever was meant."""

    nodes: list[str] = []  # noqa: RUF012  # the fault

    def start(self, command: NodeCommand, place: str) -> str:
        handle = super().start(command, place)
        self.nodes.append(handle)
        return handle

    def stop(self, handle: str, grace: float) -> None:
        while self.nodes:
            super().stop(self.nodes.pop(), grace)


@found_by("stop_asks_and_waits")
class KillsAtOnce(LocalLauncher):
    """Without asking."""

    def stop(self, handle: str, grace: float) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_of(handle), signal.SIGKILL)
        super().stop(handle, 1.0)


@found_by("stop_asks_and_waits")
class DoesNotWait(LocalLauncher):
    """Asks, and believes."""

    def stop(self, handle: str, grace: float) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_of(handle), signal.SIGTERM)


@found_by("stop_asks_and_waits")
class AsksByHangup(LocalLauncher):
    """By another signal than the one that was agreed upon."""

    def stop(self, handle: str, grace: float) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_of(handle), signal.SIGINT)
        super().stop(handle, 0.0)


@found_by("stop_kills_after_the_grace_time")
class LeavesStubbornNodes(LocalLauncher):
    """Asks and waits for the grace time; then it gives up."""

    def stop(self, handle: str, grace: float) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_of(handle), signal.SIGTERM)
        deadline = time.monotonic() + grace
        while self.ended(handle) is None and time.monotonic() < deadline:
            time.sleep(0.01)


@found_by("leaves_nothing_of_a_node")
class KillsTheLeaderOnly(LocalLauncher):
    """What the node has started runs on."""

    def stop(self, handle: str, grace: float) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_of(handle), signal.SIGTERM)
            time.sleep(grace if grace < 1 else 0)
            os.kill(process_of(handle), signal.SIGKILL)


@found_by("stopping_again_is_no_fault")
class StopsOnce(LocalLauncher):
    """Nobody is there any more."""

    def stop(self, handle: str, grace: float) -> None:
        os.kill(process_of(handle), 0)
        super().stop(handle, grace)
        os.kill(process_of(handle), 0)


@found_by("tells_how_it_ended")
class TellsNothing(LocalLauncher):
    """It has ended, and that is all."""

    def ended(self, handle: str) -> str | None:
        return None if super().ended(handle) is None else "it has ended"


@found_by("tells_how_it_ended")
class TakesRunningForEnded(LocalLauncher):
    """Says something in any case."""

    def ended(self, handle: str) -> str | None:
        return super().ended(handle) or "running"


@found_by("says_why_it_cannot_start")
class HasNoWords(LocalLauncher):
    """Something did not work."""

    def start(self, command: NodeCommand, place: str) -> str:
        try:
            return super().start(command, place)
        except Exception as error:
            raise RuntimeError("start failed") from error


@found_by("several_at_once")
class MixesThemUp(LocalLauncher):
    """Keeps a part of its work in the object."""

    command: NodeCommand

    def start(self, command: NodeCommand, place: str) -> str:
        self.command = command
        TOGETHER.wait(10)  # all of them come here before one goes on
        return super().start(self.command, place)


@found_by("passes_no_descriptor")
class PassesEverything(LocalLauncher):
    """What the caller has open, the node has open."""

    def start(self, command: NodeCommand, place: str) -> str:
        made = subprocess.Popen(
            command.argv,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **command.environment},
            start_new_session=True,
            close_fds=False,
        )
        STARTED.append(made)
        return json.dumps({"name": command.name, "pid": made.pid, "start": 0, "output": ""})


@found_by("leaves_nothing_in_the_caller")
class LeavesAZombie(LocalLauncher):
    """Does not wait for its child."""

    def stop(self, handle: str, grace: float) -> None:
        from constellation.launchers import local

        kept = local._children.pop(process_of(handle), None)
        if kept is not None:
            STARTED.append(kept)
        super().stop(handle, grace)


@found_by("leaves_nothing_in_the_caller")
class LeavesADescriptor(LocalLauncher):
    """One for each node."""

    def start(self, command: NodeCommand, place: str) -> str:
        LEFT.append(os.eventfd(0))
        return super().start(command, place)


@pytest.fixture(autouse=True)
def _end_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End what faulty launchers have left: by the table of the right one."""
    from constellation.launchers import local

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    yield
    StopsAll.nodes.clear()
    STARTED.extend(local._children.values())
    local._children.clear()
    for process in STARTED:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    STARTED.clear()
    while LEFT:
        os.close(LEFT.pop())


def test_enough_faults_are_planted() -> None:
    """Every check is there for a fault that it finds."""
    assert {check for check, _ in FAULTS} == {str(check) for check in LAUNCHER_CHECKS}


@pytest.mark.parametrize(("check", "faulty"), FAULTS, ids=[faulty.__name__ for _, faulty in FAULTS])
def test_fault_is_found(check: str, faulty: type[Launcher]) -> None:
    """By the check of that name, in words that say what was promised and how to repeat it."""
    by_name = {str(each): each for each in LAUNCHER_CHECKS}
    with pytest.raises(BrokenPromise) as caught:
        by_name[check](faulty, patience=4.0)
    assert caught.value.seen
    assert f"to repeat: {check}(make, seed=0)" in str(caught.value)
