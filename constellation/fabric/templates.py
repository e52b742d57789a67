"""The fabric's side of templates: who forks processes, what becomes of them when it is lost, how one is started.

A forked deployment begins with its template running. An attached one starts it here when the first process is wanted:
the program run again up to its init(), or a bare interpreter. Forks are safe where one thread is left after a trial fork;
if not, it is tried with the numeric libraries told to use one thread; and only then every process gets an interpreter of
its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import resource
import signal
import socket
import subprocess
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from constellation.core.lifecycle import closing_words
from constellation.core.messages import Ended, Fork, Forked, ForkFailed, Lacking, Message, TemplateReady
from constellation.fabric import leftovers
from constellation.fabric.books import Process, close_fds
from constellation.fabric.loop import Loop, Timer
from constellation.fabric.packets import Packets

START_LIMIT_S = 30.0
"""For a program to reach init() when it is run again: imports of the largest libraries take some seconds, cold."""

SOCKET_BUFFER = 1 << 20
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl  # looked up here: not between a fork and an exec
_LOST_POLL_S = 0.01
_LOST_POLLS = 30
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_FD_VARIABLE = "CONSTELLATION_TEMPLATE"
_ONCE_VARIABLE = "CONSTELLATION_TEMPLATE_ONCE"
_BORROWED_VARIABLE = "CONSTELLATION_TEMPLATE_BORROWED"
_FAR_VARIABLE = "CONSTELLATION_TEMPLATE_FAR"
"""Names of the variables that were set for the imports only, for the template to take back."""


class Owner(Protocol):
    """What a template tells the node."""

    def template_runs(self, template: Template, os_pid: int) -> None: ...

    def forked(self, process: Process, os_pid: int, pidfd: int) -> None: ...

    def fork_failed(self, process: Process, text: str) -> None: ...

    def has_begun(self, process: Process) -> bool: ...

    def ended(self, process: Process, code: int | None, signum: int | None) -> None: ...


class Template:
    """A connection to one template, and the processes that it has forked.

    Args:
        loop: The fabric's loop.
        sock: Control socket; taken over.
        owner: Told of forks and ends.
        on_ready: Called with the template's word that it is ready, or that plugins are lacking.
        on_lost: Called once when it has gone before that.
        is_once: Whether it becomes the process itself, so that its end is ours to wait for.
    """

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        owner: Owner,
        *,
        on_ready: Callable[[TemplateReady | Lacking], None] | None = None,
        on_lost: Callable[[], None] | None = None,
        is_once: bool = False,
    ) -> None:
        self.pending: dict[int, Process] = {}
        self.running: dict[int, Process] = {}
        self.is_lost = False
        self.is_once = is_once
        self.end: tuple[int | None, int | None] | None = None
        """Code and signal, where the fabric has waited for it."""
        self._loop = loop
        self._owner = owner
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._connection = Packets(loop, sock, self._on_message, self._on_end)

    def fork(self, process: Process, message: Fork, fds: Sequence[int]) -> None:
        """Ask for a process; ``fds`` stay the caller's."""
        process.template = self
        self.pending[process.number] = process
        if (
            not self._connection.send(message, fds)
            and self.is_lost
            and self.pending.pop(process.number, None) is not None
        ):
            self._owner.fork_failed(process, "the template has gone")

    def expect(self, process: Process) -> None:
        """Count a process that the template forks by itself: the first one."""
        process.template = self
        self.pending[process.number] = process

    def close(self) -> None:
        """Let the template end; all its processes have ended."""
        self._connection.close()
        self.is_lost = True

    def _on_message(self, message: Message, fds: list[int]) -> None:
        match message:
            case Forked(number, os_pid) if number in self.pending and fds:
                process = self.pending.pop(number)
                self.running[os_pid] = process
                self._owner.forked(process, os_pid, fds.pop(0))
            case ForkFailed(number, text) if number in self.pending:
                self._owner.fork_failed(self.pending.pop(number), text)
            case Ended(os_pid, code, signum) if os_pid in self.running:
                self._owner.ended(self.running.pop(os_pid), code, signum)
            case TemplateReady() | Lacking():
                if isinstance(message, TemplateReady):
                    self._owner.template_runs(self, message.os_pid)
                if self._on_ready is not None:
                    self._on_ready(message)
            case _:
                pass
        close_fds(fds)

    def _on_end(self, reason: str | None) -> None:
        self.is_lost = True
        if self._on_lost is not None:
            self._on_lost()
        for number, process in list(self.pending.items()):
            if not self.is_once and self._owner.has_begun(process):
                self.running[process.os_pid or -number] = process
            else:
                self._owner.fork_failed(process, f"the template has gone{f': {reason}' if reason else ''}")
        self.pending.clear()
        if not self.is_once:
            self._settle(_LOST_POLLS)

    def _settle(self, polls: int) -> None:
        """Find out how the processes of a lost template ended.

        They die with it (PDEATHSIG) and then are the fabric's to reap, unless the template had reaped them itself and
        did not come to say so: then nothing is left that could be asked.

        Args:
            polls: How often to look before those are given up of which the template had not even said that they are.
        """
        for key, process in list(self.running.items()):
            if process.reaped is not None:
                del self.running[key]
                self._owner.ended(process, *process.reaped)
                continue
            try:
                if process.pidfd >= 0:
                    signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
                elif polls <= 0:
                    raise ProcessLookupError
            except ProcessLookupError:
                del self.running[key]
                self._owner.ended(process, None, None)
            except PermissionError:
                continue
        if self.running:
            self._loop.call_later(_LOST_POLL_S, lambda: self._settle(polls - 1))


class Starter:
    """Starts templates for an attached deployment, the first time that a process is wanted.

    Args:
        loop: The fabric's loop.
        owner: As for `Template`.
        command: What to run; it finds its control socket by an environment variable.
        cwd: Where to run it.
        file_limit: RLIMIT_NOFILE as the user's programs know it; the fabric's own is higher.
        say: Takes one line for the user.
        environment: Of the program; None: as the fabric's.
        borrowed: Variables that the program finds until its init() only.
        on_unfit: Told where the program cannot run on this node, though it may on others: why, and the plugins that it lacks;
            what was to be forked is forgotten then. None: there are no others.

    Attributes:
        check: Says why the program is not here what it is elsewhere; empty: it is. None: nothing is expected of it.
        on_made: Told what the program is (`fitting.Made`), before anything is forked.
    """

    def __init__(
        self,
        loop: Loop,
        owner: Owner,
        command: Sequence[str],
        cwd: str,
        file_limit: tuple[int, int],
        say: Callable[[str], None],
        *,
        environment: Mapping[str, str] | None = None,
        borrowed: Mapping[str, str] | None = None,
        on_unfit: Callable[[str, list[Any]], None] | None = None,
    ) -> None:
        self.check: Callable[[list[Any]], str] | None = None
        self.on_made: Callable[[list[Any]], None] | None = None
        self._on_unfit = on_unfit
        self._is_unfit = False
        self._environment = environment
        self._borrowed = dict(borrowed or {})
        self._on_reached: Callable[[list[Any], bytes, list[Any]], None] | None = None
        self._on_missed: Callable[[str, bytes], None] | None = None
        self._loop = loop
        self._owner = owner
        self._command = list(command)
        self._cwd = cwd
        self._file_limit = file_limit
        self._say = say
        self._template: Template | None = None
        self._is_ready = False
        self._one_thread = False
        self._once = False
        self._waiting: list[tuple[Process, Fork, list[int]]] = []
        self._timer: Timer | None = None
        self._os_pid = 0
        self._stderr = -1
        self._words = bytearray()

    def reach(
        self, on_reached: Callable[[list[Any], bytes, list[Any]], None], on_missed: Callable[[str, bytes], None]
    ) -> None:
        """Run the program up to its init().

        Args:
            on_reached: Called with the Resources that it asks for, as fields, what it wrote, and what it is (`fitting.Made`).
            on_missed: Called where it does not come there, with why and what it wrote.
        """
        self._on_reached, self._on_missed = on_reached, on_missed
        self._start()

    def fork(self, process: Process, message: Fork, fds: Sequence[int]) -> None:
        """Ask for a process; ``fds`` stay the caller's."""
        if self._once:
            self._fork_once(process, message, fds)
            return
        if self._template is not None and self._is_ready and not self._template.is_lost:
            self._template.fork(process, message, fds)
            return
        self._waiting.append((process, message, [os.dup(fd) for fd in fds]))
        if self._template is None or self._template.is_lost:
            self._start()

    def _start(self) -> None:
        self._is_ready = False
        self._forget_stderr()
        self._words.clear()
        try:
            sock, self._os_pid, self._stderr = self._launch(once=False)
        except OSError as error:
            self._fail(f"cannot start {self._command[0]}: {error.strerror}")
            return
        self._loop.watch(self._stderr, self._read_words)
        self._template = Template(self._loop, sock, self._owner, on_ready=self._ready, on_lost=self._lost)
        self._timer = self._loop.call_later(START_LIMIT_S, self._too_late)

    def _launch(self, *, once: bool) -> tuple[socket.socket, int, int]:
        ours, theirs = control_pair()
        try:
            environment = {**(os.environ if self._environment is None else self._environment), **self._borrowed}
            environment[_FD_VARIABLE] = str(theirs.fileno())
            if self._environment is not None:
                environment[_FAR_VARIABLE] = "1"
            if once:
                environment[_ONCE_VARIABLE] = "1"
            borrowed = list(self._borrowed)
            if self._one_thread:
                borrowed += [name for name in _ONE_THREAD if name not in environment]
                environment |= _ONE_THREAD
            if borrowed:
                environment[_BORROWED_VARIABLE] = ",".join(borrowed)
            environment |= leftovers.marking(environment)
            words, words_write = os.pipe()
            try:
                # Python 3.12 warns of forks beside threads. Ours only writes, and what runs before the exec takes no lock.
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    started = subprocess.Popen(
                        self._command,
                        env=environment,
                        cwd=self._cwd,
                        stdin=subprocess.DEVNULL,
                        # A program that is tried out may end before its init(): then this is all there is of it.
                        stdout=subprocess.DEVNULL if self._on_reached is None else words_write,
                        stderr=words_write,
                        pass_fds=[theirs.fileno()],
                        process_group=0,
                        preexec_fn=functools.partial(_die_with_fabric, os.getpid()),  # noqa: PLW1509  # see above
                    )
            except BaseException:
                os.close(words)
                raise
            finally:
                os.close(words_write)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        os.set_blocking(words, False)
        started.returncode = 0  # the fabric reaps; Popen must not
        with contextlib.suppress(OSError, ValueError):
            resource.prlimit(started.pid, resource.RLIMIT_NOFILE, self._file_limit)
        return ours, started.pid, words

    def _read_words(self) -> None:
        if self._stderr < 0:  # an event of a predecessor, in the same batch
            return
        try:
            data = os.read(self._stderr, 64 << 10)
        except BlockingIOError:
            return
        if data:
            self._words += data
            del self._words[: max(0, len(self._words) - (16 << 10))]
        else:
            self._forget_stderr()

    def _forget_stderr(self) -> None:
        if self._stderr >= 0:
            self._loop.unwatch(self._stderr)
            os.close(self._stderr)
            self._stderr = -1

    def _ready(self, message: TemplateReady | Lacking) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if isinstance(message, Lacking):
            self._unfit(message.text, message.plugins)
            return
        wrong = self.check(message.made) if self.check is not None else ""
        if wrong:
            self._unfit(wrong, [])
            return
        if self.on_made is not None:
            self.on_made(message.made)
        if message.threads > 1:
            self._again(message)
            return
        self._is_ready = True
        if self._on_reached is not None:
            if self._stderr >= 0:
                self._read_words()
            self._on_reached(message.resources, bytes(self._words), message.made)
            self._on_reached = self._on_missed = None
        waiting, self._waiting = self._waiting, []
        for process, fork, fds in waiting:
            assert self._template is not None
            self._template.fork(process, fork, fds)
            close_fds(fds)

    def _again(self, message: TemplateReady) -> None:
        """Forks of it are unsafe: try with one thread, then without forks."""
        assert self._template is not None
        self._template.close()
        self._template = None
        self._forget_stderr()
        if not self._one_thread:
            self._one_thread = True
            self._start()
            return
        self._one_thread = False
        self._once = True
        if self._on_reached is not None:
            self._on_reached(message.resources, bytes(self._words), message.made)
            self._on_reached = self._on_missed = None
        self._say(
            f"constellation: {message.threads} threads run in the program before init(), so it cannot be forked: "
            "every process gets an interpreter of its own, and starts as slowly as the program does\n"
        )
        waiting, self._waiting = self._waiting, []
        for process, fork, fds in waiting:
            self._fork_once(process, fork, fds)
            close_fds(fds)

    def _fork_once(self, process: Process, message: Fork, fds: Sequence[int]) -> None:
        try:
            sock, _, words = self._launch(once=True)
        except OSError as error:
            self._owner.fork_failed(process, f"cannot start {self._command[0]}: {error.strerror}")
            return
        process.outputs[words] = 2  # what it says before it is the process: the reason, if it never gets there
        Template(self._loop, sock, self._owner, is_once=True).fork(process, message, fds)

    def _lost(self) -> None:
        if self._is_ready or self._is_unfit:
            return
        if self._stderr >= 0:
            self._read_words()
        self._fail("the program, run again as a template, ended before it came to init()")

    def _too_late(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._os_pid, signal.SIGKILL)
        if self._template is not None:
            self._template.close()
        self._fail(f"the program, run again as a template, did not come to init() within {START_LIMIT_S:g} s")

    def _unfit(self, text: str, plugins: list[Any]) -> None:
        """The program cannot run here: others are to run what was to be forked."""
        if self._timer is not None:
            self._timer.cancel()
        self._is_unfit = True
        if self._template is not None:
            self._template.close()
            self._template = None
        if self._on_unfit is None:
            self._fail(text)
            return
        self._on_reached = self._on_missed = None
        self._forget_stderr()
        waiting, self._waiting = self._waiting, []
        for _, _, fds in waiting:
            close_fds(fds)
        self._on_unfit(text, plugins)

    def _fail(self, text: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        words = "\n".join(f"    {line}" for line in closing_words(bytes(self._words), 20))
        if self.check is not None and self._on_unfit is not None and not self._is_unfit:
            # It did come to its init() elsewhere.
            self._unfit(f"{text}; it said:\n{words}" if words else text, [])
            return
        if self._on_missed is not None:
            self._on_missed(text, bytes(self._words))
            self._on_reached = self._on_missed = None
        waiting, self._waiting = self._waiting, []
        for process, _, fds in waiting:
            close_fds(fds)
            self._owner.fork_failed(process, f"{text}; it said:\n{words}" if words else text)


def _die_with_fabric(fabric: int) -> None:
    """Have the kernel kill this fresh child when the fabric ends: while it imports, it does not look at its socket."""
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != fabric:
        os._exit(1)


def control_pair() -> tuple[socket.socket, socket.socket]:
    """Make a control connection: the fabric's end, and the other one.

    Raises:
        OSError: The descriptors are exhausted.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    return ours, theirs
