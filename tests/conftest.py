"""What all tests share: running a program as a user does, and the check that nothing of it is left behind."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple, Protocol

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
MARK = "CONSTELLATION_TEST_MARK"
PATIENCE_S = 3.0
"""How long what is ending may take to be gone; a second is promised, and the machine may be busy."""

# The same examples everywhere and each time: a test that fails only now and then tells nobody what to mend.
hypothesis.settings.register_profile("constellation", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("constellation")

# Set on some machines, it hides what is tested: buffering. Of the rest of ours nothing may come in from outside.
for name in [name for name in os.environ if name == "PYTHONUNBUFFERED" or name.startswith("CONSTELLATION_")]:
    del os.environ[name]


class Result(NamedTuple):
    """What a program left."""

    stdout: str
    stderr: str
    returncode: int


class RunProgram(Protocol):
    """Writes ``source`` to a file and runs it with ``args`` as a user would."""

    def __call__(
        self,
        tmp_path: Path,
        source: str,
        *args: str,
        input: str | None = None,  # noqa: A002  # as subprocess.run calls it
        env: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        command: tuple[str, ...] = (),
    ) -> Result: ...


class Leftovers(NamedTuple):
    """The check of one test."""

    mark: str
    """Value of the environment variable `MARK` in all that the test starts."""
    environment: dict[str, str]
    """A clean environment for programs, with the mark."""
    found: Callable[[], list[str]]
    """What is alive of the test, or lies in /dev/shm since it began; one line each."""


@contextlib.contextmanager
def nothing_left() -> Iterator[Leftovers]:
    """Fail where a process or an entry in /dev/shm is left at the end of the block; end what is left."""
    mark = secrets.token_hex(8)
    before = _shared_memory()

    def found() -> list[str]:
        alive = [f"process {pid}: {_command(pid)}" for pid in _marked(mark)]
        return alive + [f"/dev/shm/{name}" for name in sorted(_shared_memory() - before)]

    yield Leftovers(mark, clean_environment(mark), found)
    deadline = time.monotonic() + PATIENCE_S
    while left := found():
        if time.monotonic() > deadline:
            for pid in _marked(mark):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            pytest.fail("left behind: " + "; ".join(left))
        time.sleep(0.02)


@pytest.fixture
def leftovers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Leftovers]:
    """Fail a test that leaves a process or an entry in /dev/shm; end what it has left."""
    with nothing_left() as left:
        monkeypatch.setenv(MARK, left.mark)
        yield left


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest) -> None:
    """Check every test of tests/io, also those that start programs in their own way."""
    if (ROOT / "tests" / "io") in request.path.parents:
        request.getfixturevalue("leftovers")


@pytest.fixture
def run_program(leftovers: Leftovers) -> RunProgram:
    """Give a function that runs a script with this interpreter in a clean environment."""

    def run(
        tmp_path: Path,
        source: str,
        *args: str,
        input: str | None = None,  # noqa: A002
        env: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        command: tuple[str, ...] = (),
    ) -> Result:
        script = tmp_path / "prog.py"
        script.write_text(textwrap.dedent(source))
        done = subprocess.run(
            [sys.executable, *command, str(script), *args],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            cwd=tmp_path,
            env={**leftovers.environment, **(env or {})},
            check=False,
        )
        return Result(done.stdout, done.stderr, done.returncode)

    return run


def clean_environment(mark: str) -> dict[str, str]:
    """Make the environment of a program under test: what a login has, and the mark."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "USER") if name in os.environ}
    environment = {**kept, "LANG": "C.UTF-8", MARK: mark}
    if not any(metadata.distributions(name="constellation")):
        environment["PYTHONPATH"] = str(ROOT)  # the tests are run out of the folder, without an installation
    return environment


def _marked(mark: str) -> list[int]:
    wanted = f"{MARK}={mark}".encode()
    pids = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended meanwhile, or is somebody else's
                if wanted in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                    pids.append(int(entry))
    return pids


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path("/proc", str(pid), "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return "(ended meanwhile)"


def _shared_memory() -> set[str]:
    try:
        return set(os.listdir("/dev/shm"))
    except FileNotFoundError:
        return set()
