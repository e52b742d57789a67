"""The leak check for authors finds each kind of thing that can be left behind, and removes what it can."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from constellation.testing import nothing_left
from constellation.testing.leaks import MARK, look, marked

SLEEPER = [sys.executable, "-c", "import time; print('runs', flush=True); time.sleep(1000)"]


@pytest.fixture
def undo() -> Iterator[list[Callable[[], object]]]:
    """What a test has to take back after the check has found it."""
    actions: list[Callable[[], object]] = []
    yield actions
    for action in actions:
        action()


def found(leave: Callable[[], object]) -> str:
    """What the check says of a block."""
    with pytest.raises(AssertionError) as caught, nothing_left(patience=0.1):
        leave()
    return str(caught.value)


def test_nothing_left_is_content() -> None:
    """What is given back is not counted."""
    before = look()
    with nothing_left() as folder:
        process = subprocess.Popen(SLEEPER, stdout=subprocess.PIPE)
        process.kill()
        process.communicate()
        thread = threading.Thread(target=time.sleep, args=(0.01,))
        thread.start()
        with tempfile.NamedTemporaryFile() as file:
            assert os.path.dirname(file.name) == folder == tempfile.gettempdir()
    assert look() == before
    assert not os.path.exists(folder)
    assert MARK not in os.environ


def test_what_is_still_ending_is_waited_for() -> None:
    """A thread that ends a moment later is no leak."""
    with nothing_left():
        threading.Thread(target=time.sleep, args=(0.2,)).start()


def test_a_descriptor_is_found(undo: list[Callable[[], object]]) -> None:
    """With what it leads to."""
    fds: list[int] = []
    undo.append(lambda: os.close(fds[0]))
    text = found(lambda: fds.append(os.open(os.devnull, os.O_RDONLY)))
    assert text == f"left behind: descriptor {fds[0]}: /dev/null"


def test_a_thread_is_found(undo: list[Callable[[], object]]) -> None:
    """By its name."""
    stop = threading.Event()
    undo.append(stop.set)
    text = found(lambda: threading.Thread(target=stop.wait, name="the pump", daemon=True).start())
    assert text == "left behind: thread 'the pump'"


def test_a_process_is_found_and_ended(undo: list[Callable[[], object]]) -> None:
    """Also one that has a session of its own, whose parent has ended."""
    code = f"import subprocess; subprocess.Popen({SLEEPER!r}, start_new_session=True, stdout=subprocess.DEVNULL)"
    marks: list[str] = []

    def leave() -> None:
        marks.append(os.environ[MARK])
        subprocess.run([sys.executable, "-c", code], check=True)

    text = found(leave)
    assert text.startswith("left behind: process ")
    assert "time.sleep(1000)" in text
    deadline = time.monotonic() + 10
    while marked(marks[0]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert marked(marks[0]) == []


def test_a_zombie_is_found(undo: list[Callable[[], object]]) -> None:
    """A child that has ended and was not waited for."""
    processes: list[subprocess.Popen[bytes]] = []

    def leave() -> None:
        processes.append(subprocess.Popen(["true"]))
        undo.append(processes[0].wait)
        os.waitid(os.P_PID, processes[0].pid, os.WEXITED | os.WNOWAIT)

    assert found(leave) == f"left behind: zombie {processes[0].pid}: a child that was not waited for"


def test_a_temporary_file_is_found_and_removed() -> None:
    """Also one that a started program has made."""
    code = "import tempfile; print(tempfile.mkstemp(suffix='.left')[1], end='')"
    paths: list[str] = []
    text = found(
        lambda: paths.append(
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout
        )
    )
    assert text == f"left behind: {paths[0]}"
    assert not os.path.exists(paths[0])


def test_shared_memory_is_found(undo: list[Callable[[], object]]) -> None:
    """A file in /dev/shm, as transports through shared memory make them."""
    path = f"/dev/shm/constellation-test-{os.getpid()}"
    undo.append(lambda: os.unlink(path))
    assert f"/dev/shm/{os.path.basename(path)}" in found(lambda: Path(path).write_bytes(b""))


def test_a_failure_inside_is_not_hidden() -> None:
    """What the block raises comes out, and not what it has left because of that."""
    with pytest.raises(ZeroDivisionError), nothing_left():
        _ = 1 / 0


def test_the_fixture_fails_a_test_that_leaves_something(tmp_path: Path) -> None:
    """As an author writes it: one import in a conftest, one argument of a test."""
    (tmp_path / "conftest.py").write_text("from constellation.testing import leak_check as leak_check\n")
    (tmp_path / "test_author.py").write_text(
        "import os, threading\n"
        "def test_right(leak_check): open(leak_check + '/file', 'w').close(); os.unlink(leak_check + '/file')\n"
        "def test_wrong(leak_check): open(leak_check + '/file', 'w').close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert "2 passed, 1 error" in done.stdout
    assert "left behind: " in done.stdout
    assert "ERROR test_author.py::test_wrong" in done.stdout


def test_the_suites_work_without_pytest() -> None:
    """An author's own runner needs none."""
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "from constellation.testing import check_scheduler, check_serializer, check_transport, check_launcher\n"
        "from constellation.schedulers.bin_packing import BinPacking\n"
        "check_scheduler(BinPacking); print('conforms')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.stdout == "conforms\n", done.stderr
