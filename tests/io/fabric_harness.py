"""A fabric as a child process, with this process as its keeper, its template and its first process.

What the template is asked to fork is a shell script: the payload of the spawn.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, TypeVar

import msgpack

from constellation.core import messages
from constellation.core.messages import Ended, Fork, Forked, Message, Ready
from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.core.status import ExitStatus

M = TypeVar("M", bound=tuple[Any, ...])
LIMIT_S = 20.0
_RUN = "import sys; from constellation.fabric.main import main; sys.exit(main(int(sys.argv[1])))"


class Conversation:
    """This side of a control connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fds: list[int] = []
        self._kept: list[Message] = []
        sock.settimeout(LIMIT_S)

    def send(self, message: Message, fds: list[int] | None = None) -> None:
        """Send one message."""
        socket.send_fds(self.sock, [msgpack.packb(messages.fields_of(message))], fds or [])

    def receive(self) -> Message | None:
        """Receive one message; its descriptors go to `fds`."""
        packet, self.fds, _, _ = socket.recv_fds(self.sock, messages.LARGEST_PACKET, 8)
        return messages.read(msgpack.unpackb(packet)) if packet else None

    def expect(self, kind: type[M]) -> M:
        """Receive until a message of this kind comes; others are kept for later."""
        for at, kept in enumerate(self._kept):
            if isinstance(kept, kind):
                del self._kept[at]
                return kept
        while True:
            message = self.receive()
            assert message is not None, f"the connection ended before {kind.__name__}"
            if isinstance(message, kind):
                return message
            self._kept.append(message)


class Harness:
    """One fabric and what plays with it."""

    def __init__(self, *, hard_file_limit: int = 0, **changes: Any) -> None:
        self.pid = Pid(1, 1, os.urandom(16))
        mine, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        template, template_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stdout_read, self.stdout = os.pipe()
        stderr_read, self.stderr = os.pipe()
        keeper_read, self.keeper = os.pipe()
        fds = {
            "control": control.fileno(),
            "template": template_end.fileno(),
            "stdout": stdout_read,
            "stderr": stderr_read,
            "last_stack": -1,
            "book": -1,
            "pty": -1,
            "keeper": keeper_read,
            "output": -1,
        }
        config: dict[str, Any] = {
            "mode": "forked",
            "format": "json",
            "capacity": None,
            "plugins": [],
            "plugin_options": {},
            "scheduler": None,
            "transport": None,
            "serializer": None,
            "sys_path": [],
            "program": ["prog.py"],
            "cwd": os.getcwd(),
            "grace": 5.0,
            "linger": 60.0,
            "credit": 1 << 20,
            "node": "local",
            "node_id": 1,
            "first": {
                "pid": self.pid.to_bytes().hex(),
                "process": 1,
                "function": "prog:__main__",
                "resources": Resources().to_fields(),
            },
            "fds": fds,
        } | changes
        config_fd = os.memfd_create("config")
        os.write(config_fd, json.dumps(config).encode())
        os.lseek(config_fd, 0, os.SEEK_SET)
        passed = [*(fd for fd in fds.values() if fd >= 0), config_fd]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        self.fabric = subprocess.Popen(
            [sys.executable, "-c", _RUN, str(config_fd)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=passed,
            env=environment,
        )
        if hard_file_limit:  # the interpreter takes longer to start than this call
            resource.prlimit(self.fabric.pid, resource.RLIMIT_NOFILE, (hard_file_limit, hard_file_limit))
        for sock in (control, template_end):
            sock.close()
        for fd in (stdout_read, stderr_read, keeper_read, config_fd):
            os.close(fd)
        self.first = Conversation(mine)
        self.template = Conversation(template)
        self.children: dict[int, subprocess.Popen[bytes]] = {}
        self.controls: dict[bytes, Conversation] = {}
        self.starts_ready = True
        self._requests = 0
        # A first process that only waits for its end.
        self.leader = subprocess.Popen(["sleep", "1000"], process_group=0)
        self._report(1, self.leader)
        self.first.send(Ready(self.leader.pid))

    def _report(self, number: int, child: subprocess.Popen[bytes]) -> None:
        self.children[child.pid] = child
        pidfd = os.pidfd_open(child.pid)
        self.template.send(Forked(number, child.pid), [pidfd])
        os.close(pidfd)

    def request(self) -> int:
        """A fresh number."""
        self._requests += 1
        return self._requests

    def spawn(self, script: str, *, wait: bool = True, **resources: Any) -> Pid:
        """Spawn a shell script as a process and wait for its Pid."""
        self.ask_spawn(script, wait=wait, **resources)
        self.serve_fork()
        return Pid.from_bytes(self.first.expect(messages.Spawned).pid)

    def ask_spawn(self, script: str, *, wait: bool = True, **resources: Any) -> int:
        """Only ask."""
        request = self.request()
        demand = Resources(**resources).to_fields()
        self.first.send(messages.Spawn(request, "prog:child", "prog.py:7", demand, wait, script.encode()))
        return request

    def serve_fork(self) -> Conversation:
        """Be the template for one Fork."""
        fork = self.template.expect(Fork)
        control, stdout, stderr, last_stack = self.template.fds[:4]
        os.close(last_stack)
        child = subprocess.Popen(
            ["sh", "-c", fork.payload.decode()], stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, process_group=0
        )
        os.close(stdout)
        os.close(stderr)
        self._report(fork.process, child)
        conversation = self.controls[fork.pid] = Conversation(socket.socket(fileno=control))
        if self.starts_ready:
            conversation.send(Ready(child.pid))
        return conversation

    def serve_fork_or_failure(self) -> messages.SpawnFailed | None:
        """Be the template for one Fork, or give the failure that came instead of it."""
        ready, _, _ = select.select([self.template.sock, self.first.sock], [], [], LIMIT_S)
        if self.first.sock in ready:
            return self.first.expect(messages.SpawnFailed)
        self.serve_fork()
        return None

    def reap(self, count: int = 1) -> None:
        """Be the template's wait for some children."""
        for _ in range(count):
            deadline = time.monotonic() + LIMIT_S
            while not (ended := [child for child in self.children.values() if child.poll() is not None]):
                assert time.monotonic() < deadline, "no child has ended"
                time.sleep(0.005)
            for child in ended[:1]:
                del self.children[child.pid]
                code = child.returncode
                self.template.send(Ended(child.pid, code if code >= 0 else None, -code if code < 0 else None))

    def end_first(self, code_or_signal: int = signal.SIGKILL) -> None:
        """Let the first process end."""
        self.leader.send_signal(code_or_signal)
        self.leader.wait()
        self.children.pop(self.leader.pid, None)
        self.template.send(Ended(self.leader.pid, 0, None))

    def watch(self, pid: Pid) -> ExitStatus | None:
        """Wait for the certificate of a process."""
        request = self.request()
        self.first.send(messages.Watch(request, pid.to_bytes()))
        fields = self.first.expect(messages.Exited).status
        return ExitStatus.from_fields(fields) if fields is not None else None

    def finish(self) -> tuple[int, list[dict[str, Any]], str]:
        """Wait for the fabric's end; give its exit code, its events and its stderr."""
        os.close(self.stdout)
        os.close(self.stderr)
        self.stdout = self.stderr = -1
        out, err = self.fabric.communicate(timeout=LIMIT_S)
        return self.fabric.returncode, [json.loads(line) for line in out.splitlines()], err.decode()

    def close(self) -> None:
        """End what is left."""
        if self.fabric.poll() is None:
            self.fabric.kill()
        self.fabric.wait()
        for stream in (self.fabric.stdout, self.fabric.stderr):
            if stream is not None:
                stream.close()
        for child in self.children.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        for fd in (self.stdout, self.stderr, self.keeper):
            if fd >= 0:
                os.close(fd)
        for conversation in (self.first, self.template, *self.controls.values()):
            conversation.sock.close()


@contextlib.contextmanager
def running(**changes: Any) -> Iterator[Harness]:
    """A harness with a fabric that runs, ended afterwards."""
    harness = Harness(**changes)
    try:
        yield harness
    finally:
        harness.close()
