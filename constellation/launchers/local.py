"""Start nodes on this computer, as plain processes: for a fabric of one machine, and to see what a launcher is.

A node is a session of its own, so that it outlives the command that started it, and no Ctrl-C of that command's terminal
reaches it. Its handle names the process by OS pid and start time, which together are never used twice, and the file with
its output, which is kept until the node is stopped.

The caller may or may not be the process that started the node. If it is, it must also wait for it, or a zombie stays: that
is why the children stand in a table of the process, and not of an object. If not, the end is seen by a pidfd, and the exit
code is for its own parent only.

Nodes sweep what they have started themselves (the keeper does). What is left of a session whose leader had to be killed is
killed here.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from typing import Any, NamedTuple

from constellation.core.contracts import Launcher, NodeCommand
from constellation.core.errors import LaunchError
from constellation.core.hooks import hookimpl

_TAIL_BYTES = 2000
_TAIL_LINES = 10
_LOOK_S = 0.01
_SWEEP_S = 10.0

_children: dict[int, subprocess.Popen[bytes]] = {}
"""Nodes that this process has started and not yet waited for, by OS pid."""


class _Handle(NamedTuple):
    """What is stored of a node."""

    name: str
    pid: int
    start: int
    """In ticks since the computer's start, as in /proc."""
    output: str


class LocalLauncher:
    """The launcher; see the module."""

    name = "local"

    def start(self, command: NodeCommand, place: str) -> str:
        """Start a node in a session of its own.

        Raises:
            LaunchError: A place is named, or the program cannot be run.
        """
        if place:
            raise LaunchError(
                f"cannot start node {command.name!r} at {place!r}: the launcher 'local' knows this computer only; name no place"
            )
        output = ""
        try:
            folder = _folder()
            os.makedirs(folder, mode=0o700, exist_ok=True)
            fd, output = tempfile.mkstemp(prefix=f"{_plain(command.name)}-", suffix=".log", dir=folder)
            try:
                # In memory: a pipe would have to be fed by somebody as long as the node does not read.
                stdin = os.memfd_create("stdin", os.MFD_CLOEXEC)
                try:
                    _write_all(stdin, command.stdin)
                    os.lseek(stdin, 0, os.SEEK_SET)
                    child = subprocess.Popen(
                        command.argv,
                        stdin=stdin,
                        stdout=fd,
                        stderr=fd,
                        env={**os.environ, **command.environment},
                        cwd=os.path.expanduser("~") if os.path.isdir(os.path.expanduser("~")) else "/",
                        start_new_session=True,
                    )
                finally:
                    os.close(stdin)
            finally:
                os.close(fd)
        except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
            if output:
                os.unlink(output)
            raise LaunchError(
                f"cannot start node {command.name!r} on this computer: {error}; the program was {command.argv[0]!r}"
            ) from error
        _children[child.pid] = child
        start = _start_of(child.pid)
        return json.dumps(_Handle(command.name, child.pid, start if start is not None else 0, output)._asdict())

    def ended(self, handle: str) -> str | None:
        """Say how a node has ended, or None while it runs.

        Raises:
            LaunchError: The handle is none of this launcher.
        """
        node = _read(handle)
        if _is_running(node):
            return None
        child = _children.get(node.pid)
        code = child.poll() if child is not None else None
        how = "it has ended" if code is None else f"it ended with {_words(code)}"
        tail = _tail(node.output)
        return f"{how}; it said:\n{tail}" if tail else how

    def stop(self, handle: str, grace: float) -> None:
        """Ask a node to end, kill it and its session after ``grace`` seconds, wait for its end. Blocks.

        Raises:
            LaunchError: It belongs to somebody else, or the handle is none of this launcher.
        """
        node = _read(handle)
        try:
            with _pidfd(node) as pidfd:
                if pidfd is not None:
                    signal.pidfd_send_signal(pidfd, signal.SIGTERM)
                    if not _has_ended(pidfd, grace):
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                        _sweep(node)
                        _has_ended(pidfd, _SWEEP_S)
        except PermissionError as error:
            raise LaunchError(
                f"cannot stop node {node.name!r}, process {node.pid}: {error.strerror}; stop it as who started it"
            ) from error
        except ProcessLookupError:
            pass  # it has ended in between
        _sweep(node)
        child = _children.pop(node.pid, None)
        if child is not None:
            child.wait()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(node.output)


@contextlib.contextmanager
def _pidfd(node: _Handle) -> Any:
    """The process, held by a descriptor, so that it stays the one that was looked at; None: it has ended."""
    try:
        fd = os.pidfd_open(node.pid)
    except OSError:
        yield None
        return
    try:
        yield fd if _is_running(node) else None
    finally:
        os.close(fd)


def _has_ended(pidfd: int, wait: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(0.0, wait) * 1000))


def _sweep(node: _Handle) -> None:
    """Kill what is left of the session. A leader of another start time means that the number is somebody else's."""
    deadline = time.monotonic() + _SWEEP_S
    while time.monotonic() < deadline:
        start = _start_of(node.pid)
        if start not in (None, node.start):
            return
        left = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _is_of_session(pid, node.pid)]
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_LOOK_S)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on, the state; None: no such process. proc(5)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def _start_of(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def _is_running(node: _Handle) -> bool:
    fields = _stat(node.pid)
    return fields is not None and fields[0] not in "ZX" and int(fields[19]) == node.start


def _is_of_session(pid: int, session: int) -> bool:
    fields = _stat(pid)
    return fields is not None and fields[0] not in "ZX" and int(fields[3]) == session


def _read(handle: str) -> _Handle:
    try:
        fields = json.loads(handle)
        node = _Handle(**fields)
        if [type(value) for value in node] == [str, int, int, str]:
            return node
    except (ValueError, TypeError):
        pass
    raise LaunchError(f"{handle!r:.200} is no handle of the launcher 'local': give what start() gave")


def _tail(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(f"    {line}" for line in lines[-_TAIL_LINES:])


def _words(code: int) -> str:
    if code >= 0:
        return f"code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _folder() -> str:
    """Where output of nodes is kept."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "constellation", "nodes")


def _plain(name: str) -> str:
    return "".join(each if each.isalnum() else "-" for each in name)[:40] or "node"


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


_: type[Launcher] = LocalLauncher


@hookimpl
def register_launchers() -> list[Launcher]:
    """Offer `LocalLauncher`; it has no options."""
    return [LocalLauncher()]
