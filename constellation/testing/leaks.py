"""Find what is left behind: descriptors, threads, processes, files. For tests of plugins and of programs.

`look` takes a picture of this process; `left` says what there is beyond it. Processes are known by a mark in their
environment, so that one that has left its parent and its session is found, too; files by a folder of their own for
temporary files, and by /dev/shm.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

MARK = "CONSTELLATION_LEAK_MARK"
"""Variable in the environment of all that is started under `nothing_left`."""

PATIENCE_S = 3.0
"""How long what is ending may take to be gone: a second is promised, and the machine may be busy."""

_LOOK_S = 0.02


class Picture(NamedTuple):
    """What this process has."""

    descriptors: frozenset[tuple[int, str]]
    """Number and what it leads to."""
    threads: frozenset[int]
    """Of Python, by ident."""
    shared: frozenset[str]
    """Own files in /dev/shm."""
    zombies: frozenset[int]
    """Children that have ended and were not waited for, by OS pid."""


def look() -> Picture:
    """Take a picture of what this process has now."""
    threads = frozenset(thread.ident or 0 for thread in threading.enumerate())
    return Picture(_descriptors(), threads, _shared(), _zombies())


def left(before: Picture, patience: float = PATIENCE_S) -> list[str]:
    """Say what this process has beyond a picture, one line each; waits up to ``patience`` seconds until it is nothing."""
    deadline = time.monotonic() + patience
    while lines := _beyond(before):
        if time.monotonic() > deadline:
            return lines
        time.sleep(_LOOK_S)
    return []


@contextlib.contextmanager
def nothing_left(patience: float = PATIENCE_S) -> Iterator[str]:
    """Fail a block that leaves descriptors, threads, processes or files behind, and remove what it has left.

    Inside, the environment has a mark, and temporary files are made in a folder of their own, whose path is given.

    Raises:
        AssertionError: Something is left ``patience`` seconds after the block; says what.
    """
    mark = secrets.token_hex(8)
    folder = tempfile.mkdtemp(prefix="constellation-test-")
    kept = {name: os.environ.get(name) for name in (MARK, "TMPDIR")}
    kept_folder = tempfile.tempdir
    before = look()
    os.environ[MARK], os.environ["TMPDIR"] = mark, folder
    tempfile.tempdir = None
    failed = True
    try:
        yield folder
        failed = False
    finally:
        tempfile.tempdir = kept_folder
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        lines = _all_left(before, mark, folder, 0.0 if failed else patience)
        for pid in marked(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
    if lines:
        raise AssertionError("left behind: " + "; ".join(lines))


def marked(mark: str) -> list[int]:
    """The OS pids of all processes but this one that have ``mark`` as `MARK` in their environment; zombies have none."""
    wanted = f"{MARK}={mark}".encode()
    pids = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                with open(f"/proc/{entry}/environ", "rb") as file:
                    environment = file.read().split(b"\0")
            except OSError:  # it has ended meanwhile, or is somebody else's
                continue
            if wanted in environment:
                pids.append(int(entry))
    return pids


def _all_left(before: Picture, mark: str, folder: str, patience: float) -> list[str]:
    deadline = time.monotonic() + patience
    while True:
        lines = [f"process {pid}: {_command(pid)}" for pid in marked(mark)]
        lines += [os.path.join(where, name) for where, _, names in os.walk(folder) for name in names]
        lines += _beyond(before)
        if not lines or time.monotonic() >= deadline:
            return lines
        time.sleep(_LOOK_S)


def _beyond(before: Picture) -> list[str]:
    now = look()
    lines = [f"descriptor {fd}: {target}" for fd, target in sorted(now.descriptors - before.descriptors)]
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines += [f"thread {names[ident]!r}" for ident in sorted(now.threads - before.threads) if ident in names]
    lines += [f"zombie {pid}: a child that was not waited for" for pid in sorted(now.zombies - before.zombies)]
    return lines + [f"/dev/shm/{name}" for name in sorted(now.shared - before.shared)]


def _descriptors() -> frozenset[tuple[int, str]]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own descriptor is gone by now
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
    return frozenset(found)


def _zombies() -> frozenset[int]:
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
            state, parent = file.read().rpartition(b")")[2].split()[:2]
            if state == b"Z" and int(parent) == os.getpid():
                found.add(int(pid))
    return frozenset(found)


def _shared() -> frozenset[str]:
    own = set()
    with contextlib.suppress(OSError), os.scandir("/dev/shm") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_uid == os.getuid():
                    own.add(entry.name)
    return frozenset(own)


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(ended meanwhile)"
