"""What processes wrote, according to strace, is what comes out, whoever of them is killed.

Each stream is numbered text, so that its length says what it is: strace need only say how much each write took.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import Leftovers

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace, which .ci/run installs")

PROGRAM = '''
import os, random, sys, threading, time
from constellation import init, pid, spawn
def stream(key, fd, begin, size):
    """A part of an endless text of lines of 20 bytes."""
    first = begin // 20
    lines = "".join(f"{key} {fd} {number:015d}\\n" for number in range(first, first + size // 20 + 2))
    return lines[begin - 20 * first :][:size].encode()
def note(name, text):
    with open(os.path.join("notes", "new-" + name), "w") as file:
        file.write(text)
    os.rename(file.name, os.path.join("notes", name))  # there whole, or not at all
def write(key, fd, seed):
    rng, done = random.Random(f"{seed}{key}{fd}"), 0
    note(f"thread-{key}{fd}", str(threading.get_native_id()))
    while done < 300_000:
        done += os.write(fd, stream(key, fd, done, rng.choice((1, 7, 90, 700, 5000, 70_000))))
        time.sleep(rng.choice((0, 0, 0.001)))
    time.sleep(1000)
def work(key, seed):
    note(f"pid-{key}", pid().hex())
    threading.Thread(target=write, args=(key, 2, seed), daemon=True).start()
    write(key, 1, seed)
if __name__ == "__main__":
    init()
    try:
        for key in "bcd":
            spawn(work, key, sys.argv[1]).block()
        work("a", sys.argv[1])
    except BaseException:
        os._exit(1)  # a traceback is no part of the text
'''
CALL = re.compile(r"^(\d+) +(\w+)\((?:(\d+), .*?, (\d+))?(?:.*\) += (\S+))?")
RESUMED = re.compile(r"^(\d+) +<\.\.\. write resumed>.*\) += (\S+)")


class Written(NamedTuple):
    """What strace saw of one thread's writes to one descriptor."""

    returned: int
    """Bytes that write() said it had taken."""
    pending: int
    """Size of the last write, where the thread did nothing after it: nobody can say what it returned. (strace shows what
    another thread's call gave, where the thread has just been killed.)"""


def stream(key: str, fd: int, size: int) -> bytes:
    """The beginning of a stream, as the program makes it."""
    return "".join(f"{key} {fd} {number:015d}\n" for number in range(size // 20 + 1)).encode()[:size]


def read_trace(path: Path) -> dict[tuple[int, int], Written]:
    """Sums by thread and descriptor."""
    returned: defaultdict[tuple[int, int], int] = defaultdict(int)
    last: dict[int, tuple[int, int, str]] = {}
    for line in path.read_text(errors="replace").splitlines():
        if found := RESUMED.match(line):
            thread = int(found[1])
            last[thread] = (*last[thread][:2], found[2])
        elif found := CALL.match(line):
            thread = int(found[1])
            if thread in last:  # it goes on: what strace said of its last write is true
                fd, _, result = last.pop(thread)
                returned[thread, fd] += max(0, int(result))
            if found[2] == "write":
                last[thread] = (int(found[3]), int(found[4]), found[5] or "")
    seen = {key: Written(count, 0) for key, count in returned.items()}
    for thread, (fd, size, _) in last.items():
        seen[thread, fd] = Written(returned[thread, fd], size)
    return seen


def children(os_pid: int) -> list[int]:
    """OS pids, oldest first."""
    try:
        return [int(word) for word in Path(f"/proc/{os_pid}/task/{os_pid}/children").read_text().split()]
    except OSError:
        return []


def run(leftovers: Leftovers, folder: Path, seed: str) -> int:
    """One run with kills; gives how many streams were compared."""
    rng = random.Random(seed)
    folder.mkdir()
    (folder / "notes").mkdir()
    (folder / "prog.py").write_text(PROGRAM)
    tracer = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-s",
        "0",
        "-e",
        "trace=write,clock_nanosleep",
        "-e",
        "signal=none",
        "-o",
        "trace",
    ]
    with open(folder / "out", "wb") as out:
        strace = subprocess.Popen(
            [*tracer, sys.executable, "prog.py", seed],
            cwd=folder,
            env={**leftovers.environment, "CONSTELLATION_FORMAT": "json", "CONSTELLATION_GRACE": "0.2"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
        )
    try:
        kill_some(rng, strace, folder / "notes")
        _, err = strace.communicate(timeout=60)
    finally:
        strace.kill()
        strace.wait()
    assert not [line for line in err.decode().splitlines() if "Traceback" in line], (seed, err)
    return compare(folder, seed)


def kill_some(rng: random.Random, strace: subprocess.Popen[bytes], notes: Path) -> None:
    """Kill processes at random moments of their writing, at last somebody without whom none goes on."""
    end = time.monotonic() + 60
    while len(list(notes.glob("thread-*"))) < rng.randrange(1, 9):
        assert time.monotonic() < end and strace.poll() is None, "nobody writes"
        time.sleep(0.005)
    (keeper,) = children(strace.pid)
    (fabric,) = children(keeper)
    (template, *_) = children(fabric)
    for _ in range(rng.randrange(4)):
        time.sleep(rng.random() * 0.05)
        processes = children(template)
        if processes:
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(rng.choice(processes), signal.SIGKILL)
    time.sleep(rng.random() * 0.1)
    last, number = rng.choice(
        ((template, signal.SIGKILL), (keeper, signal.SIGKILL), (keeper, signal.SIGINT), (keeper, signal.SIGTERM))
    )
    with contextlib.suppress(ProcessLookupError):  # all its processes have been killed, and so it has ended
        os.kill(last, number)


def compare(folder: Path, seed: str) -> int:
    """Each stream in the events against what strace saw."""
    came: defaultdict[tuple[str, int], bytes] = defaultdict(bytes)
    for line in (folder / "out").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "output":
            came[event["pid"], event["fd"]] += event["data"].encode()
    written = read_trace(folder / "trace")
    compared = 0
    for path in (folder / "notes").glob("thread-*"):
        key, fd = path.name[-2], int(path.name[-1])
        pid = (folder / "notes" / f"pid-{key}").read_text()
        data = came.pop((pid, fd), b"")
        seen = written.get((int(path.read_text()), fd), Written(0, 0))
        what = f"run {seed}: stream {fd} of {key}: {len(data)} bytes came, {seen} by strace"
        assert seen.returned <= len(data) <= seen.returned + seen.pending, what
        assert data == stream(key, fd, len(data)), what
        compared += 1
    # What Python prints of a Ctrl-C that came into a __del__, before the first process began its streams.
    nobody = {whose: data for whose, data in came.items() if not data.startswith(b"Exception ignored in")}
    assert not nobody, f"run {seed}: output of nobody: {nobody}"
    return compared


def test_output_of_killed_processes(leftovers: Leftovers, tmp_path: Path) -> None:
    """Ten runs in which processes, their template or their keeper are killed."""
    assert sum(run(leftovers, tmp_path / str(number), f"few:{number}") for number in range(10)) >= 40


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_output_of_three_hundred_killed_runs(leftovers: Leftovers, tmp_path: Path) -> None:
    """Not a byte more than was written, not one less than a write() returned for, in order."""
    assert sum(run(leftovers, tmp_path / str(number), f"many:{number}") for number in range(300)) >= 1200
