"""The start where the caller stays as it is: REPL, notebook, pytest, ``-c``, a running event loop, other threads.

The caller is the first process. Keeper and fabric are child interpreters that end when its control socket closes, however
that comes about; the output of the processes comes through a pipe, and a thread here writes it to the caller's sys.stdout,
whatever that is at the time (a notebook's cell, pytest's capture).
"""

from __future__ import annotations

import codecs
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

from constellation.process import boot, forked, marking

_END_S = 10.0
"""How long to wait for a fabric that was told to end; its own limits are shorter, so this is for a broken one."""


class Attachment:
    """A fabric that hangs on this process.

    Attributes:
        control: Socket to the node, for the runtime of this process.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        """Start the fabric.

        Args:
            config: The fabric's configuration, all but its descriptors.

        Raises:
            OSError: A descriptor or a process could not be had.
        """
        marking.leave_dead()
        ours: list[int] = []
        passed: list[int] = []
        try:
            self._keeper = self._start(config, ours, passed)
        except OSError:
            for fd in ours:
                os.close(fd)
            raise
        finally:
            for fd in passed:
                os.close(fd)
        control, self._output = ours
        self.control = socket.socket(fileno=control)
        self._copier = threading.Thread(target=self._copy, name="constellation-output", daemon=True)
        # Signals are for the caller's threads: one taken here would not wake what waits there.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._copier.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @staticmethod
    def _start(config: dict[str, Any], ours: list[int], passed: list[int]) -> subprocess.Popen[bytes]:
        """Start keeper and fabric; what has been opened stands in ``ours`` and ``passed``, should something fail."""
        mine, theirs = forked.control_pair()
        ours.append(mine)
        passed.append(theirs)
        output_read, output_write = os.pipe()
        ours.append(output_read)
        passed.append(output_write)
        keeper_read, keeper_write = os.pipe()
        passed += (keeper_read, keeper_write)
        book = os.memfd_create("constellation-book")
        passed.append(book)
        fds = {
            "control": theirs,
            "template": -1,
            "stdout": -1,
            "stderr": -1,
            "last_stack": -1,
            "pty": -1,
            "keeper": keeper_read,
            "output": output_write,
            "book": book,
        }
        config_fd = forked.write_config({**config, "fds": fds})
        passed.append(config_fd)
        # A session of its own: a Ctrl-C at the REPL's terminal is for the REPL.
        return subprocess.Popen(
            boot.attached_command(config_fd, keeper_write, book),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=passed,
            start_new_session=True,
        )

    def _copy(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with open(self._output, "rb", buffering=0) as pipe:
            while True:
                data = pipe.read(64 << 10)
                text = decoder.decode(data, final=not data)
                # Not ours to judge: a stream may be closed, or be anything with a write().
                with contextlib.suppress(Exception):
                    if text and sys.stdout is not None:
                        sys.stdout.write(text)
                        sys.stdout.flush()
                if not data:
                    return

    def finish(self) -> None:
        """Blocks. Wait for the fabric's end, and until all output is written. The control socket must be closed before."""
        try:
            self._keeper.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
        if self._copier is not threading.current_thread():
            self._copier.join(_END_S)
