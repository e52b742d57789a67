"""The start of a plain script: a chain of forks before any exec.

    P0, the shell's child   execs the keeper
     +-- F                  execs the fabric
          +-- T             the template; goes on in Python, in init()
               +-- U1       the first process; init() returns here

Nobody waits for anybody: what U1 and T send waits in their sockets until the fabric reads. All signals are blocked while
it happens, so that a Ctrl-C meets either the whole of the old program or the whole of the new tree. P0 and F are subreapers
before they fork, so that at no moment an orphan falls out of the tree.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import signal
import socket
import struct
import sys
import termios
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from constellation.core.messages import TemplateReady
from constellation.process import boot, kernel, laststack, life, marking
from constellation.process.template import Template, send

_SOCKET_BUFFER = 1 << 20
_BLOCKED_AT_EXEC = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


class _Ends(NamedTuple):
    """Descriptors of one start: those of the first process, of the template, of the fabric, of the keeper."""

    first: dict[str, int]
    template: int
    fabric: dict[str, int]
    keeper: int


def start(config: dict[str, Any], *, human: bool) -> socket.socket:
    """Make this program a deployment: return in its first process only, with the socket to the node.

    Args:
        config: The fabric's configuration, all but its descriptors.
        human: Whether output is shown for people, so that a terminal may be replaced by a pty.

    Raises:
        OSError: A descriptor or a process could not be had; nothing has changed then.
    """
    kernel.fill_standard_descriptors()
    life.line_buffer()
    life.note_open_files()
    life.flush_standard_streams()
    gc.collect()
    gc.freeze()
    carried = _Carried()
    marking.leave_dead()
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    keeper = os.getpid()
    opened: list[int] = []
    try:
        ends = _open_ends(opened, human=human)
        fds = {**ends.fabric, "output": -1}
        config_fd = write_config({**config, "fds": fds})
        opened.append(config_fd)
        kernel.become_subreaper()
        with kernel.fork_warnings_off(), life.forking():
            fabric = os.fork()
    except OSError:
        kernel.become_subreaper(on=False)
        gc.unfreeze()
        for fd in opened:
            os.close(fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        raise
    if fabric:
        book = fds["book"]
        _exec(boot.keeper_command(fabric, ends.keeper, book), [ends.keeper, book], keep_stdin=fds["pty"] >= 0)
    # From here on a failure has no program to be raised in: it is said, and the keeper ends with the fabric.
    try:
        first = _fork_below(keeper, ends, fds, config_fd)
        if first:
            _become_template(ends, first, signals, config)
        _take_standard_descriptors(ends.first)
        laststack.prepare()
        laststack.aim(ends.first["last_stack"])
        carried.restore()
        gc.unfreeze()
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        return socket.socket(fileno=ends.first["control"])
    except OSError:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def _fork_below(keeper: int, ends: _Ends, fds: dict[str, int], config_fd: int) -> int:
    """Fork the template and the first process, become the fabric; 0 in the first process, its OS pid in the template."""
    kept = [config_fd, *(fd for fd in fds.values() if fd >= 0)]
    with kernel.fork_warnings_off(), life.forking():
        fabric = os.getpid()
        kernel.become_subreaper()
        if os.fork():
            _exec(boot.fabric_command(config_fd), kept, keep_stdin=fds["pty"] >= 0)
        # No die_with_parent: it sees its socket close, and then sweeps, which may be all that is left to do so.
        os.setsid()
        kernel.become_subreaper()
        marking.mark(keeper, fabric)
        for fd in {*kept, ends.keeper}:
            os.close(fd)
        template = os.getpid()
        first = os.fork()
    if not first:
        os.setsid()
        kernel.die_with_parent(template)
        os.close(ends.template)
    return first


class _Carried:
    """What a fork takes away and the program must still find: its timers, the state of `random`."""

    def __init__(self) -> None:
        self._timers = [(which, signal.getitimer(which)) for which in _TIMERS]
        random = sys.modules.get("random")
        self._random = (random, random.getstate()) if random is not None else None

    def restore(self) -> None:
        for which, (seconds, interval) in self._timers:
            if seconds:
                signal.setitimer(which, seconds, interval)
        if self._random is not None:
            # os.fork reseeds it in each child; but a program that called random.seed() goes on with its sequence.
            self._random[0].setstate(self._random[1])


def _open_ends(opened: list[int], *, human: bool) -> _Ends:
    """Open all; what is open so far stands in ``opened``, should one fail."""

    def pair(make: Callable[[], tuple[int, int]]) -> tuple[int, int]:
        ends = make()
        opened.extend(ends)
        return ends

    first_control, fabric_control = pair(control_pair)
    template_control, fabric_template = pair(control_pair)
    keeper_read, keeper_write = pair(os.pipe)
    first = {"control": first_control, "stdin": -1}
    fabric = {"control": fabric_control, "template": fabric_template, "keeper": keeper_read, "pty": -1}
    fabric["book"] = os.memfd_create("constellation-book")
    opened.append(fabric["book"])
    fabric["last_stack"], first["last_stack"] = pair(laststack.open_pipe)
    if os.isatty(0):
        fabric["pty"], first["stdin"] = pair(_open_pty)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if fabric["pty"] >= 0 and human and os.isatty(number):
            first[name], fabric[name] = os.dup(first["stdin"]), -1
            opened.append(first[name])
        else:
            fabric[name], first[name] = pair(os.pipe)
    return _Ends(first, template_control, fabric, keeper_write)


def control_pair() -> tuple[int, int]:
    """Make the two ends of a control connection, with room for some large packets."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER)
    return pair[0].detach(), pair[1].detach()


def _open_pty() -> tuple[int, int]:
    master, slave = os.openpty()
    settings = termios.tcgetattr(0)
    # The real terminal adds the carriage returns; twice would be seen in every pipe that the output goes to.
    settings[1] &= ~termios.OPOST
    termios.tcsetattr(slave, termios.TCSANOW, settings)
    with contextlib.suppress(OSError):
        size = fcntl.ioctl(0, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
        fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
    return master, slave


def write_config(config: Mapping[str, Any]) -> int:
    """Put a configuration into a memfd, to be read from its start."""
    fd = os.memfd_create("constellation")
    try:
        data = memoryview(json.dumps(config).encode())
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        os.close(fd)
        raise
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _exec(command: list[str], kept: list[int], *, keep_stdin: bool) -> NoReturn:
    """Become a clean interpreter with these descriptors, signals as a shell would give them, and no timers."""
    try:
        for which in _TIMERS:
            signal.setitimer(which, 0)
        # Those that ask for an end stay blocked until keeper and fabric have their handlers: one that came before would
        # end them with the interpreter's own words. What is pending stays so over the exec.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM):
            if number == signal.SIGCHLD or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, _BLOCKED_AT_EXEC)
        kernel.close_all_but(kept)
        for fd in kept:
            os.set_inheritable(fd, True)
        if not keep_stdin:
            os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0)
        os.execv(command[0], command)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def _become_template(ends: _Ends, first: int, signals: set[int | signal.Signals], config: dict[str, Any]) -> NoReturn:
    try:
        for fd in {fd for fd in ends.first.values() if fd >= 0}:
            os.close(fd)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        # Its stderr stays the program's own: should the template fail, that is where it can be said.
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)
        control = socket.socket(fileno=ends.template)
        with contextlib.suppress(OSError):  # the fabric has gone: it is found out at once
            send(control, TemplateReady(os.getpid(), 1, []))  # whose child it is the fabric knows then
        template = Template(control, config)
        template.adopt(first, 1)
        template.run(signals)
    finally:
        os._exit(1)


def _take_standard_descriptors(fds: dict[str, int]) -> None:
    if fds["stdin"] >= 0:
        fcntl.ioctl(fds["stdin"], termios.TIOCSCTTY, 0)
        os.dup2(fds["stdin"], 0)
    os.dup2(fds["stdout"], 1)
    os.dup2(fds["stderr"], 2)
    for name in ("stdin", "stdout", "stderr"):
        if fds[name] >= 0:
            os.close(fds[name])


def fork_template(control: int, foreign: tuple[int, ...], config: dict[str, Any]) -> None:
    """Fork a template from the first process as it is now, for its next deployment.

    Forked twice, so that it is not this process's child, which the program's own waits would find: the former template,
    a subreaper, becomes its parent.

    Args:
        control: The template's socket to the node.
        foreign: Descriptors that the template must not hold.
        config: Settings of the deployment.

    Raises:
        OSError: The kernel refused.
    """
    life.note_open_files()
    life.flush_standard_streams()
    gc.collect()
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        with kernel.fork_warnings_off(), life.forking():
            between = os.fork()
            if between == 0:
                try:
                    _fork_orphan(control, foreign, signals, config)
                finally:
                    os._exit(1)
        os.waitpid(between, 0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)


def _fork_orphan(
    control: int, foreign: tuple[int, ...], signals: set[int | signal.Signals], config: dict[str, Any]
) -> NoReturn:
    between = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == between:
        time.sleep(0.0001)
    kernel.die_with_parent(os.getppid())
    os.setsid()
    kernel.become_subreaper()
    for fd in foreign:
        os.close(fd)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
    Template(socket.socket(fileno=control), config).run(signals)
    os._exit(1)  # there is a first process already
