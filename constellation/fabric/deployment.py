"""One deployment in local mode: which role is where, who hears of what, and how it ends.

All roles are objects in this one interpreter. A deployment ends with its last process; or sooner, by what `Ending`
decides on Ctrl-C, signals, and the loss of stdout, of the keeper or of the attached client. Then whatever is left below
is killed, the pipes are read to their end, and the exit code is found.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from constellation.core import messages
from constellation.core.contracts import NodeView
from constellation.core.door import Description
from constellation.core.lifecycle import (
    Ending,
    EndingEvent,
    Interrupted,
    Lost,
    Terminated,
)
from constellation.core.output import Renderer
from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.fabric import cgroups, keeper
from constellation.fabric.books import Member, Process
from constellation.fabric.bridge import Bridge
from constellation.fabric.coordinator import Coordinator
from constellation.fabric.door import Door
from constellation.fabric.lastwords import Book
from constellation.fabric.limits import Limits
from constellation.fabric.master import Master
from constellation.fabric.monitor import Monitor
from constellation.fabric.node import Node
from constellation.fabric.proc import command_of
from constellation.fabric.sight import NOT_READ_S, Sight
from constellation.fabric.signals import Signals
from constellation.fabric.templates import Starter, Template
from constellation.fabric.terminal import Terminal
from constellation.fabric.why import Why
from constellation.fabric.writer import Writer, are_joined, wants_colour

if TYPE_CHECKING:
    from constellation.core.plugins import Plugins
    from constellation.fabric.loop import Loop

WORDS = 3
"""The writer's number for what is said to the user: stderr, wherever the output of processes goes."""

BROKEN_PIPE = 128 + signal.SIGPIPE
LAST_WORDS_S = 0.5
"""How long a fabric without a keeper waits for a reader of stdout: nobody is left who could end it."""


class Deployment:
    """All roles of one local deployment.

    Args:
        loop: The fabric's loop.
        config: What init() wrote (`process/boot.py`).
        plugins: The deployment's plugins.
        file_limit: RLIMIT_NOFILE as it was when the fabric began.
    """

    def __init__(self, loop: Loop, config: dict[str, Any], plugins: Plugins, file_limit: tuple[int, int]) -> None:
        self._loop = loop
        self._plugins = plugins
        self._fds: dict[str, int] = config["fds"]
        self._is_attached = config["mode"] == "attached"
        self._program: list[str] = config["program"]
        self._ending = Ending(config["grace"])
        self._signals = Signals(loop)
        self._is_over = False
        self._aside: Writer | None = None
        self._are_joined = self._is_attached or are_joined()
        """How many lived at the last look since all were killed; None: they have not been."""
        form = config["format"] or "human"
        colour, joined = not self._is_attached and wants_colour(), self._are_joined
        self._book: Book | None = None
        if self._fds["book"] >= 0:
            output = self._fds["output"] if self._is_attached else 1
            self._book = Book(self._fds["book"], form, colour=colour, joined=joined, output=output)
        self._writer = Writer(self._outputs(form), self._book)
        loop.watch(self._writer.wake_fd, self._on_writer)
        self._bridge = Bridge(loop, Renderer(form, colour=colour, joined=joined), self._writer, plugins, self._book)
        self._monitor = Monitor(loop, self._bridge.output, self._has_room)
        self._limits = self._make_limits(is_all=config["capacity"] is not None)
        capacity = Resources.from_fields(config["capacity"]) if config["capacity"] is not None else None
        self._master = Master(
            plugins.scheduler(config["scheduler"]), capacity, config["node_id"], config["node"], lambda: self._node
        )
        self._news_of_node(self._master.node)
        self._coordinator = Coordinator(loop, self._master, self._bridge, config["grace"], self._on_change, self._say)
        self._node = Node(
            loop,
            self._coordinator,
            self._monitor,
            self._limits,
            lambda: plugins.transport(config["transport"]),
            config["node_id"],
            config["node"],
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            self._begin_again,
            self._say,
        )
        sight = Sight(self._node, self._monitor, self._writer)
        self._why = self._coordinator.why = Why(loop, self._coordinator, sight.look, self._say)
        self._first = self._make_first(config["first"])
        self._terminal: Terminal | None = None
        if self._fds["pty"] >= 0:
            self._terminal = Terminal(
                loop,
                self._fds["pty"],
                self._on_terminal,
                self._on_ctrl_c,
                self._suspend,
                self._why.show,
                self._has_room,
            )
        self._began = time.time()
        self._folder: str = config["cwd"]
        self._door: Door | None = None
        with contextlib.suppress(OSError):  # nobody can ask then, and all else goes on
            self._door = Door(loop, self, os.getppid())
        loop.watch(self._fds["keeper"], self._on_keeper)
        self._start(config, file_limit)

    # Beginning

    def _make_limits(self, *, is_all: bool) -> Limits:
        found = cgroups.find()
        cgroups.remove_left(found)
        return Limits(self._loop, self._monitor, found, self._say, is_all=is_all)

    def _outputs(self, form: str) -> dict[int, int]:
        if not self._is_attached:
            return {1: 1, 2: 2, WORDS: 2}
        # Only raw output has two streams, and a stream of text has one end in the caller.
        output = self._fds["output"]
        return {1: output, 2: 2 if form == "raw" else output, WORDS: 2}

    def _news_of_node(self, view: NodeView) -> None:
        if self._plugins.names:
            self._plugins.news("node_joined", node=view)

    def _make_first(self, first: dict[str, Any]) -> Process:
        process = Process(
            first["process"],
            Pid.from_bytes(bytes.fromhex(first["pid"])),
            None,
            first["function"],
            Resources.from_fields(first["resources"]),
            None,
        )
        process.is_attached = self._is_attached
        for name, number in (("stdout", 1), ("stderr", 2)):
            fd = self._fds[name]
            if fd >= 0:
                os.set_blocking(fd, False)
                process.outputs[fd] = number
        return process

    def _start(self, config: dict[str, Any], file_limit: tuple[int, int]) -> None:
        self._bridge.news("deployment_started", first=self._first.pid, program=self._program)
        if self._is_attached:
            self._node.forks = Starter(self._loop, self._node, self._program, config["cwd"], file_limit, self._say)
        else:
            template = Template(self._loop, socket.socket(fileno=self._fds["template"]), self._node)
            template.expect(self._first)
            self._node.forks = template
        self._node.begin(self._first, socket.socket(fileno=self._fds["control"]), self._fds["last_stack"])
        member = Member(
            self._first.number,
            self._first.pid,
            None,
            self._first.function,
            self._first.resources,
            None,
            None,
            self._node,
        )
        member.is_attached = self._is_attached
        self._coordinator.begin(member)

    # What happens

    def run(self) -> int:
        """Blocks. Run until the deployment has ended.

        Returns:
            The exit code of the run.
        """
        self._loop.call_later(0, self._node.reap)  # who ended before our handlers were there gave no signal
        try:
            while not self._is_over:
                self._loop.step(None)
                for number in self._signals.take():
                    self._on_signal(number)
            return self._finish()
        finally:
            self._limits.close()
            if self._terminal is not None:
                self._terminal.close()

    def _on_signal(self, number: int) -> None:
        match number:
            case signal.SIGCHLD:
                # What had been said before that end is heard first: a template's last words say whose end it was.
                self._loop.call_later(0, self._node.reap)
            case signal.SIGINT:
                self._step(Interrupted(is_typed=False))
            case signal.SIGTERM | signal.SIGHUP:
                self._step(Terminated(number))
            case signal.SIGWINCH if self._terminal is not None:
                self._terminal.resize()
            case signal.SIGQUIT:
                self._why.show()

    def _on_ctrl_c(self) -> None:
        self._step(Interrupted(is_typed=True))

    def _on_keeper(self) -> None:
        if os.read(self._fds["keeper"], 16):
            # It has remembered the terminal's settings, and would restore them if we could not.
            if self._terminal is not None:
                self._terminal.enter()
            return
        self._loop.unwatch(self._fds["keeper"])
        self._step(Lost("the keeper", 1, at_once=True))

    def _on_terminal(self, data: bytes, is_typed: bool) -> None:
        self._bridge.output(self._first.pid, 1, data, at_once=is_typed)

    def _on_change(self) -> None:
        self._why.changed()
        if self._coordinator.is_idle():
            self._is_over = True
        elif self._is_attached and not self._first.is_alive:
            self._step(Lost("the client", 0, at_once=False))

    def _on_writer(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._writer.wake_fd)
        failure = self._writer.failure
        if failure is not None:
            if self._writer.is_broken_pipe:
                self._step(Lost("stdout", BROKEN_PIPE, at_once=False))
            else:
                self._say(_say_failure(failure))
                self._step(Lost("stdout", 1, at_once=False))
        self._monitor.resume()
        if self._terminal is not None:
            self._terminal.resume()

    def _has_room(self) -> bool:
        return not self._writer.is_full

    def _say(self, line: str) -> None:
        if self._writer.waited > NOT_READ_S and not self._are_joined:
            # Nobody reads stdout, and what we say about it must not wait behind that.
            if self._aside is None:
                self._aside = Writer({WORDS: 2})
            self._aside.put([(WORDS, line.encode(errors="backslashreplace"))])
            return
        self._writer.put([(WORDS, line.encode(errors="backslashreplace"))])

    def _step(self, event: EndingEvent) -> None:
        self._coordinator.end(self._ending, event)

    # The door

    def describe(self, os_pid: int) -> Description:
        """Say to who asks at the door which deployment this is, and whether it has a process or a role of that OS pid."""
        first = self._first.os_pid
        own = {os.getpid(), os.getppid(), *(process.os_pid for process in self._node.living)}
        # Of an attached deployment the caller is the program; its template has a command line of ours.
        program = command_of(first) if self._is_attached else self._program
        return Description(
            os.getppid(),
            self._first.pid.hex(),
            program,
            self._folder,
            self._began,
            self._coordinator.count,
            os_pid > 0 and os_pid in own,
        )

    def explain_waits(self) -> list[str]:
        """Say to who asks at the door what each process waits for."""
        return self._why.lines()

    def _begin_again(self, process: Process, message: messages.Begin, template_fd: int) -> None:
        """The first process begins a new deployment: a new name, a new template, an empty book."""
        try:
            pid = Pid.from_bytes(message.pid)
            resources = Resources.from_fields(message.resources)
            capacity = Resources.from_fields(message.capacity) if message.capacity is not None else None
        except ValueError as error:
            os.close(template_fd)
            self._node.cut_off(process, f"it sent a malformed control message: {error}")
            return
        self._monitor.drain(process)
        self._limits.is_all = capacity is not None
        template = Template(self._loop, socket.socket(fileno=template_fd), self._node)
        self._node.begin_anew(process, pid, message.function, resources, template)
        self._coordinator.begin_again(message, pid, resources, lambda: self._room_again(capacity))
        self._node.tell(process.key, messages.Closed(message.request))

    def _room_again(self, capacity: Resources | None) -> Master:
        self._master = self._master.again(capacity)
        return self._master

    def _suspend(self) -> None:
        """Stop with all processes, as a job does, until the shell lets it go on."""
        self._monitor.signal_quietly(self._node.living, signal.SIGSTOP)
        os.kill(0, signal.SIGTSTP)
        self._monitor.signal_quietly(self._node.living, signal.SIGCONT)

    # Ending

    def _finish(self) -> int:
        if self._door is not None:
            self._door.close()
        keeper.sweep()
        self._limits.close()
        self._monitor.drain_all()
        if self._terminal is not None:
            self._terminal.drain()
        self._bridge.finish()
        code = self._ending.exit_code
        if code is None:
            code = self._bridge.exit_code(interrupted=False)
        self._bridge.news("deployment_ended", first=self._first.pid, code=code)
        began = self._loop.now()
        while not self._writer.close(0.05):
            # The reader of stdout does not read; whoever asks us to end need not wait for it.
            if self._signals.take() & {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}:
                break
            if self._loop.now() - began > LAST_WORDS_S and _is_hung_up(self._fds["keeper"]):
                break
        if self._aside is not None:
            self._aside.close(0.05)
        if self._book is not None:
            self._book.close()
        failure = self._writer.failure
        if failure is None or self._ending.exit_code is not None:
            return code
        if not self._writer.is_broken_pipe:
            sys.stderr.write(_say_failure(failure))
        return BROKEN_PIPE if self._writer.is_broken_pipe else 1


def _is_hung_up(pipe: int) -> bool:
    """Whether nobody holds the write end."""
    poll = select.poll()
    poll.register(pipe, 0)
    return any(mask & select.POLLHUP for _, mask in poll.poll(0))


def _say_failure(failure: OSError) -> str:
    return f"constellation: cannot write to stdout: {failure.strerror}\n"
