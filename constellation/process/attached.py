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
        mine, theirs = forked.control_pair()
        self.control = socket.socket(fileno=mine)
        self._output, output_write = os.pipe()
        keeper_read, keeper_write = os.pipe()
        fds = {
            "control": theirs,
            "template": -1,
            "stdout": -1,
            "stderr": -1,
            "last_stack": -1,
            "pty": -1,
            "keeper": keeper_read,
            "output": output_write,
            "book": os.memfd_create("constellation-book"),
        }
        config_fd = forked.write_config({**config, "fds": fds})
        passed = (config_fd, keeper_write, theirs, keeper_read, output_write, fds["book"])
        try:
            # A session of its own: a Ctrl-C at the REPL's terminal is for the REPL.
            self._keeper = subprocess.Popen(
                boot.attached_command(config_fd, keeper_write, fds["book"]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=passed,
                start_new_session=True,
            )
        finally:
            for fd in passed:
                os.close(fd)
        self._copier = threading.Thread(target=self._copy, name="constellation-output", daemon=True)
        # Signals are for the caller's threads: one taken here would not wake what waits there.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._copier.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

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
