"""The terminal's part: between the real terminal and the pty of the first process.

The real terminal is set to raw input while we read it: editing, echo and end of file are the pty's, so that the first
process may change them (getpass, readline, pdb). Its output processing stays on; the pty's is off. What Ctrl-C means
depends on the pty: in line mode it is for the deployment, in any other the first process has chosen to read keys itself.

In the background the terminal is not touched: changing it or reading it would stop us.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios
import time
from collections.abc import Callable

from constellation.fabric.loop import Loop

_READ = 64 << 10
_INPUT_LIMIT = 64 << 10
_FOREGROUND_POLL_S = 0.5
"""A shell does not always say when a job comes to the foreground."""
_IFLAG, _LFLAG, _CC = 0, 3, 6


class Terminal:
    r"""Relay between the terminal at descriptor 0 and a pty.

    Args:
        loop: The fabric's loop.
        master: The pty's master side; taken over.
        on_output: Called with what the first process shows, and whether a person has just typed.
        on_interrupt: Called for Ctrl-C.
        on_suspend: Called for Ctrl-Z; returns when the job goes on.
        on_quit: Called for Ctrl-\.
        has_room: Asked after each read of the pty; False pauses it until `resume`.
    """

    def __init__(
        self,
        loop: Loop,
        master: int,
        on_output: Callable[[bytes, bool], None],
        on_interrupt: Callable[[], None],
        on_suspend: Callable[[], None],
        on_quit: Callable[[], None],
        has_room: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._master = master
        self._on_output = on_output
        self._on_interrupt = on_interrupt
        self._on_suspend = on_suspend
        self._on_quit = on_quit
        self._has_room = has_room
        self._saved: list[object] | None = None
        self._input = bytearray()
        self._typed_at = 0.0
        self._reads_input = False
        self._is_open = True
        os.set_blocking(master, False)
        loop.watch(master, self._read_pty)

    def enter(self) -> None:
        """Take the terminal, if this is its foreground job; look again later if not."""
        if not self._is_open or self._saved is not None:
            return
        if not self._in_foreground():
            self._loop.call_later(_FOREGROUND_POLL_S, self.enter)
            return
        try:
            self._saved = termios.tcgetattr(0)
            raw = termios.tcgetattr(0)
            raw[_IFLAG] &= ~(termios.BRKINT | termios.ICRNL | termios.INPCK | termios.ISTRIP | termios.IXON)
            raw[_LFLAG] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
            raw[_CC][termios.VMIN], raw[_CC][termios.VTIME] = 1, 0
            termios.tcsetattr(0, termios.TCSADRAIN, raw)
        except termios.error:
            self._saved = None
            return
        self.resize()
        self._watch_input()

    def leave(self) -> None:
        """Give the terminal back as it was."""
        saved, self._saved = self._saved, None
        if saved is None:
            return
        self._unwatch_input()
        if self._in_foreground():
            with contextlib.suppress(termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, saved)  # type: ignore[arg-type]  # what tcgetattr gave

    def resize(self) -> None:
        """Give the pty the size of the terminal; the kernel tells the first process if it has changed."""
        if self._is_open:
            with contextlib.suppress(OSError):
                size = fcntl.ioctl(0, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
                fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def pause(self) -> None:
        """Do not read the pty until `resume`."""
        self._loop.unwatch(self._master)

    def resume(self) -> None:
        """Read the pty again."""
        if self._is_open:
            self._loop.watch(self._master, self._read_pty)

    def drain(self) -> None:
        """Read what the first process left in the pty."""
        while self._is_open and self._read_pty():
            pass

    def close(self) -> None:
        """Give the terminal and the pty back."""
        self.leave()
        self._close_pty()

    def _close_pty(self) -> None:
        if self._is_open:
            self._is_open = False
            self._loop.unwatch(self._master)
            os.close(self._master)

    def _read_pty(self) -> bool:
        try:
            data = os.read(self._master, _READ)
        except BlockingIOError:
            return False
        except OSError:
            data = b""  # EIO: nobody holds the other side any more
        if not data:
            self._close_pty()
            return False
        self._on_output(data, time.monotonic() - self._typed_at < 0.1)
        if not self._has_room():
            self.pause()
        return True

    @staticmethod
    def _in_foreground() -> bool:
        try:
            return os.tcgetpgrp(0) == os.getpgrp()
        except OSError:
            return False

    def _watch_input(self) -> None:
        if not self._reads_input and self._saved is not None:
            self._reads_input = True
            self._loop.watch(0, self._read_input)

    def _unwatch_input(self) -> None:
        if self._reads_input:
            self._reads_input = False
            self._loop.unwatch(0)

    def _read_input(self) -> None:
        if not self._in_foreground():
            self.leave()
            self._loop.call_later(_FOREGROUND_POLL_S, self.enter)
            return
        try:
            data = os.read(0, 4096)
        except OSError:
            data = b""
        if not data or not self._is_open:
            self._unwatch_input()
            return
        self._typed_at = time.monotonic()
        self._input += self._take_keys(data)
        self._feed()

    def _take_keys(self, data: bytes) -> bytes:
        """Take out the keys that are for the deployment; give what is for the first process."""
        try:
            settings = termios.tcgetattr(self._master)
        except termios.error:
            return data
        if not (settings[_LFLAG] & termios.ISIG and settings[_LFLAG] & termios.ICANON):
            return data
        keys = settings[_CC]
        interrupt, quit_key, suspend = keys[termios.VINTR], keys[termios.VQUIT], keys[termios.VSUSP]
        for _ in range(data.count(interrupt)):
            self._on_interrupt()
        if quit_key != b"\0" and quit_key in data:
            self._on_quit()
        is_suspend = suspend in data
        for key in (interrupt, quit_key, suspend):
            if key != b"\0":
                data = data.replace(key, b"")
        if is_suspend:
            self.leave()
            self._on_suspend()
            self.enter()
        return data

    def _feed(self) -> None:
        try:
            while self._input:
                del self._input[: os.write(self._master, self._input)]
        except BlockingIOError:
            self._loop.watch_room(self._master, self._feed)
            if len(self._input) > _INPUT_LIMIT:
                self._unwatch_input()
            return
        except OSError:
            self._input.clear()
        if self._is_open:
            self._loop.watch_room(self._master, None)
        self._watch_input()
