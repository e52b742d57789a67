"""The template: the program as it stood at its init(), which forks every process of a deployment on request.

Single-threaded. It waits for packets of the node and for the ends of its children, and does nothing else; what it has in
memory is what each process begins with, so it makes as little garbage as it can. It is a subreaper: what its processes
leave behind comes to it, and when the node goes it kills all of that before it ends.

Order within one Fork: fork, Forked with a pidfd, close. A child that ends before Forked is sent stays a zombie until
`_reap`, so its pidfd is the right one.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import msgpack

import constellation
from constellation.core import messages
from constellation.core.fitting import Made
from constellation.core.messages import Ended, Fork, Forked, ForkFailed, Lacking, Message, Ready, TemplateReady
from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.process import kernel, laststack, life, runtime

FD_VARIABLE = "CONSTELLATION_TEMPLATE"
"""Descriptor of the control socket; makes init() become the template instead of a deployment's start."""
ONCE_VARIABLE = "CONSTELLATION_TEMPLATE_ONCE"
"""Where forks are unsafe: this interpreter is used for one process."""

FAR_VARIABLE = "CONSTELLATION_TEMPLATE_FAR"
"""The deployment has more than this computer."""

BORROWED_VARIABLE = "CONSTELLATION_TEMPLATE_BORROWED"
"""Names, joined by commas, of variables that were set for the imports before init() only."""

_BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""The node ends the template, nobody else; and a handler of the program must not run in its loop. Blocked and not
ignored: one that is sent to a process right after its fork is kept until that process can handle it."""

_OURS = frozenset(
    {"cloudpickle", "constellation", "importlib_metadata", "lz4", "msgpack", "packaging", "pluggy", "psutil", "zipp"}
)
"""What constellation itself needs, and has from the node."""

_DESCRIPTORS_PER_PACKET = 8
_SWEEP_LIMIT_S = 10.0


def send(control: socket.socket, message: Message, fds: list[int] | None = None) -> None:
    """Send one message; blocks while the socket is full.

    Raises:
        OSError: The other end has gone.
    """
    packet = msgpack.packb(messages.fields_of(message))
    if fds:
        socket.send_fds(control, [packet], fds, socket.MSG_NOSIGNAL)
    else:
        control.send(packet, socket.MSG_NOSIGNAL)


def receive(control: socket.socket) -> tuple[Message | None, list[int]]:
    """Receive one message and its descriptors, none where there is no room for all of them; None at the end."""
    packet, fds, flags, _ = socket.recv_fds(
        control, messages.LARGEST_PACKET, _DESCRIPTORS_PER_PACKET, socket.MSG_CMSG_CLOEXEC
    )
    if flags & socket.MSG_CTRUNC:
        for fd in fds:
            os.close(fd)
        fds = []
    return (messages.read(msgpack.unpackb(packet)) if packet else None), fds


class First(NamedTuple):
    """What the first process of a deployed program is told when its init() goes on."""

    pid: Pid
    resources: Resources
    control: socket.socket


class Template:
    """The loop of a template.

    Args:
        control: Socket to the node.
        config: Settings of the deployment; every process gets them.
        is_far: Whether the deployment has more than this computer.
    """

    def __init__(self, control: socket.socket, config: dict[str, Any], *, is_far: bool = False) -> None:
        self._is_far = is_far
        self._control = control
        self._config = config
        self._os_pid = os.getpid()
        self._children: set[int] = set()
        self._adopted: list[tuple[int, int]] = []
        self._child_handler: Any = signal.SIG_DFL
        self._mask: Iterable[int] = ()
        self._wakeup: tuple[socket.socket, socket.socket] | None = None
        self._former_wakeup = -1
        self._poll = select.epoll()

    def adopt(self, os_pid: int, process: int) -> None:
        """Count a child that was forked by init() itself; `run` reports it."""
        self._children.add(os_pid)
        self._adopted.append((process, os_pid))

    def run(self, signals: Iterable[int] | None = None) -> First:
        """Blocks. Serve the node until it goes; then kill what is left and end.

        Args:
            signals: The signal mask of the processes; None: the present one.

        Returns:
            In the first process of a program that was deployed, and there only: what it is.
        """
        try:
            for process, os_pid in self._adopted:
                self._report_fork(process, os_pid)
            self._prepare(signals)
            first = self._serve()
            if first is not None:
                return first
        except OSError:
            pass  # the node has gone
        except BaseException:
            sys.excepthook(*sys.exc_info())
        self._sweep()
        os._exit(0)

    def _prepare(self, signals: Iterable[int] | None) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        self._mask = before if signals is None else signals
        signal.pthread_sigmask(signal.SIG_SETMASK, {*self._mask, *_BLOCKED} - {signal.SIGCHLD})
        self._child_handler = signal.signal(signal.SIGCHLD, _ignore)
        # Signals that end what they interrupt wake the loop through this pair: PEP 475 has epoll go on by itself.
        self._wakeup = socket.socketpair()
        for end in self._wakeup:
            end.setblocking(False)
        self._former_wakeup = signal.set_wakeup_fd(self._wakeup[1].fileno(), warn_on_full_buffer=False)
        life.prepare_processes()
        self._control.setblocking(True)
        self._poll.register(self._control, select.EPOLLIN)
        self._poll.register(self._wakeup[0], select.EPOLLIN)
        # The package loads its names on demand; once here is better than once in every process.
        # Not what stands on it: the supervisor needs asyncio, 5 MB that every fork would have to map.
        for name in set(constellation.__all__) - {"ChildSpec", "Supervisor"}:
            getattr(constellation, name)
        if self._is_far:
            # A link to another computer is encrypted: 10 ms of imports, here once instead of in every process.
            importlib.import_module("constellation.process.secure")
        gc.collect()
        gc.freeze()

    def _serve(self) -> First | None:
        assert self._wakeup is not None
        control, wakeup = self._control.fileno(), self._wakeup[0]
        self._reap()  # a child may have ended before the handler was there
        while True:
            for fd, _ in self._poll.poll():
                if fd == control:
                    message, fds = receive(self._control)
                    if message is None:
                        return None
                    if isinstance(message, Fork) and (first := self._fork(message, fds)) is not None:
                        return first
                else:
                    with contextlib.suppress(BlockingIOError):
                        wakeup.recv(4096)
            self._reap()

    def _fork(self, message: Fork, fds: list[int]) -> First | None:
        try:
            if not fds:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            with life.forking():
                os_pid = os.fork()
        except OSError as error:
            for fd in fds:
                os.close(fd)
            send(self._control, ForkFailed(message.process, f"its template: {kernel.describe_lack(error)}"))
            return None
        if os_pid == 0:
            if message.parent:
                self._become_process(message, fds)
            return self._become_first(message, fds)
        for fd in fds:
            os.close(fd)
        self._children.add(os_pid)
        self._report_fork(message.process, os_pid)  # there is room for its descriptor now, whatever the limit is
        return None

    def _report_fork(self, process: int, os_pid: int) -> None:
        pidfd = os.pidfd_open(os_pid)
        try:
            send(self._control, Forked(process, os_pid), [pidfd])
        finally:
            os.close(pidfd)

    def _reap(self) -> None:
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return
            if found is None:
                return
            if found.si_pid in self._children:  # else an orphan of a process: nobody asks for it
                self._children.discard(found.si_pid)
                exited = found.si_code == os.CLD_EXITED
                code, number = (found.si_status, None) if exited else (None, found.si_status)
                send(self._control, Ended(found.si_pid, code, number))

    def _become_process(self, message: Fork, fds: list[int]) -> NoReturn:
        """Turn the fresh child into the process asked for: nothing of the template's stays."""
        try:
            self._leave_template()
            become(message, fds, self._config, self._mask)
        except BaseException as error:
            sys.excepthook(*sys.exc_info())
            with contextlib.suppress(OSError):
                os.write(fds[0], msgpack.packb(messages.fields_of(life.raised(error))))
        finally:
            os._exit(1)

    def _become_first(self, message: Fork, fds: list[int]) -> First:
        """Turn the fresh child into the first process, which goes on from its init() and ends as any program does."""
        try:
            self._leave_template()
            first = become_first(message, fds)
            gc.unfreeze()
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        return first

    def _leave_template(self) -> None:
        os.setsid()
        kernel.die_with_parent(self._os_pid)
        self._poll.close()
        self._control.close()
        signal.set_wakeup_fd(self._former_wakeup)
        if self._wakeup is not None:
            for end in self._wakeup:
                end.close()
        if self._child_handler is not None:  # None: set by foreign C code, which is not to be had back
            signal.signal(signal.SIGCHLD, self._child_handler)

    def _sweep(self) -> None:
        """Kill all descendants until none is left; new ones may be born meanwhile, and some have more rights than we."""
        me = os.getpid()
        if me != self._os_pid:
            return
        deadline = time.monotonic() + _SWEEP_LIMIT_S
        while time.monotonic() < deadline:
            for os_pid in kernel.descendants(me):
                with contextlib.suppress(OSError):
                    os.kill(os_pid, signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(0.001)


def _ignore(_number: int, _frame: Any) -> None:
    """Let the signal only wake the loop. Not SIG_IGN: that would be inherited by what the processes exec."""


def become(message: Fork, fds: list[int], config: dict[str, Any], mask: Iterable[int]) -> NoReturn:
    """Go on as the process that a Fork describes, in this very OS process.

    Args:
        message: What the node asks for.
        fds: What came with it.
        config: Settings of the deployment.
        mask: Signals that the process blocks.
    """
    control, stdout, stderr, last_stack = fds[:4]
    # First of all: what the node sends from now on waits in the socket, so the spawner need not wait for the rest.
    with contextlib.suppress(OSError):
        os.write(control, msgpack.packb(messages.fields_of(Ready(os.getpid()))))
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    laststack.aim(last_stack)
    payload, rest = message.payload, fds[4:]
    memory = None if payload else rest.pop(0)
    for entrance in rest:
        _enter(entrance)
    if memory is not None:
        with open(memory, "rb") as file:
            file.seek(0)  # the position is the writer's, who stands at the end
            payload = file.read()
    life.run(message, payload, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=control), config, mask)


def become_first(message: Fork, fds: list[int]) -> First:
    """Go on as the first process of a program that was deployed. Beside stdout and stderr it is given a stdin."""
    control, stdout, stderr, last_stack, stdin = fds[:5]
    with contextlib.suppress(OSError):
        os.write(control, msgpack.packb(messages.fields_of(Ready(os.getpid()))))
    for given, wanted in ((stdin, 0), (stdout, 1), (stderr, 2)):
        os.dup2(given, wanted)
        os.close(given)
    laststack.aim(last_stack)
    for entrance in fds[5:]:
        _enter(entrance)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=control)
    return First(Pid.from_bytes(message.pid), Resources.from_fields(message.resources), sock)


def _enter(entrance: int) -> None:
    """Enter a control group, which counts from now on."""
    try:
        os.write(entrance, b"0")
    except OSError as error:
        os.write(2, f"constellation: what this process asks for is not held: {error.strerror}\n".encode())
    os.close(entrance)


def run_for_program(resources: Resources, config: dict[str, Any]) -> First:
    """Become the template of a program that runs again up to init().

    Args:
        resources: What the program's init() asks for.
        config: Settings of the deployment, as this program's init() finds them.

    Returns:
        In the first process of a program that was deployed, and there only: what it is.
    """
    control = socket.socket(fileno=int(os.environ.pop(FD_VARIABLE)))
    control.set_inheritable(False)
    for name in os.environ.pop(BORROWED_VARIABLE, "").split(","):
        os.environ.pop(name, None)
    once = os.environ.pop(ONCE_VARIABLE, "") == "1"
    is_far = os.environ.pop(FAR_VARIABLE, "") == "1"
    life.line_buffer()
    life.note_open_files()
    life.flush_standard_streams()
    if once:  # the fabric has had the kernel kill it when the fabric ends
        return _run_once(control, config)
    kernel.become_subreaper()
    kernel.outlive_parent()  # it sees its socket close, and then sweeps, which may be all that is left to do so
    try:
        ready = TemplateReady(os.getpid(), kernel.threads_after_fork(), resources.to_fields(), made(config))
        send(control, ready)
    except OSError:
        os._exit(1)  # the fabric has gone
    return Template(control, config, is_far=is_far).run()


def made(config: dict[str, Any]) -> list[Any]:
    """What the program is in this template (`fitting.Made`): plugins, imported packages, transport."""
    plugins = tuple((name, f"{package} {version}".strip()) for name, package, version in config.get("stated", ()))
    transport, _ = runtime.prepare(config)
    return Made(plugins, tuple(_packages()), transport.name).to_fields()


def _packages() -> Iterator[tuple[str, str]]:
    """Name and version of the distributions whose modules have been imported, where both have one name.

    Only the names of folders are looked at: the metadata of all that is installed would take longer than the start.
    """
    folders: dict[str, dict[str, str]] = {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if "." in name or name in _OURS or not isinstance(file, str):
            continue
        base = os.path.dirname(file)
        folder = os.path.dirname(base) if hasattr(module, "__path__") else base
        if os.path.basename(folder) in {"site-packages", "dist-packages"}:
            if folder not in folders:
                folders[folder] = _versions_in(folder)
            version = folders[folder].get(name.lower())
            if version is not None:
                yield name, version


def _versions_in(folder: str) -> dict[str, str]:
    found = {}
    with contextlib.suppress(OSError):
        for entry in os.listdir(folder):
            if entry.endswith(".dist-info"):
                name, _, version = entry.removesuffix(".dist-info").partition("-")
                found[name.lower().replace("-", "_").replace(".", "_")] = version
    return found


def tell_lacking(plugins: Sequence[str], text: str) -> NoReturn:
    """End, in a template: the program wants plugins that are not installed here."""
    control = socket.socket(fileno=int(os.environ.pop(FD_VARIABLE)))
    with contextlib.suppress(OSError):
        send(control, Lacking(list(plugins), text))
    os._exit(1)


def run_bare(config: dict[str, Any]) -> NoReturn:
    """Become a template without a program: for a REPL, a notebook, pytest, ``-c``."""
    from constellation.process import start  # start imports this module

    start.prepare_template(config, has_main=False)
    run_for_program(Resources(), config)
    os._exit(1)  # only a program's own init() may be asked to go on


def _run_once(control: socket.socket, config: dict[str, Any]) -> First:
    message, fds = receive(control)
    if not isinstance(message, Fork):
        os._exit(0)
    if not fds:
        lack = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        send(control, ForkFailed(message.process, kernel.describe_lack(lack)))
        os._exit(1)
    pidfd = os.pidfd_open(os.getpid())
    send(control, Forked(message.process, os.getpid()), [pidfd])
    os.close(pidfd)
    control.close()
    life.prepare_processes()
    if not message.parent:
        return become_first(message, fds)
    gc.freeze()
    become(message, fds, config, signal.pthread_sigmask(signal.SIG_BLOCK, ()))
