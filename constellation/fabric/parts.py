"""One deployment's part on this computer, as the node daemon sees it: its monitor process, and what is on its way.

What the monitor process tells the coordinator gets a number here and is kept until the master has acknowledged it, so
that a master or a bridge that is started again misses nothing. When too much is kept, the monitor process is not read,
so its processes wait at their full pipes: output is never dropped on a node.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgpack
import pluggy

from constellation.core import trunk
from constellation.core.gauges import Tally
from constellation.core.interpreter import preface
from constellation.core.resources import Resources
from constellation.core.trunk import Specification
from constellation.fabric.accounts import launch_options
from constellation.fabric.books import close_fds
from constellation.fabric.ledger import Ledger
from constellation.fabric.loop import Loop
from constellation.fabric.packets import Packets
from constellation.fabric.users import Account

if TYPE_CHECKING:
    from constellation.fabric.usergroups import PartGroups

MOST_KEPT: Final = 32 << 20
"""Bytes that a part keeps until the master acknowledges them; more are left where they are."""

INLINE: Final = 48 << 10
"""A payload above this goes to the monitor process in a memfd."""

LARGEST_PAYLOAD: Final = 4 << 30
"""Bytes that a monitor process may hand over at once."""

_RESUME: Final = MOST_KEPT // 2
_END_S: Final = 2.0
"""For a monitor process that was told to end: to kill what it runs takes milliseconds."""

_COMMAND = """\
from constellation.fabric.station import main
sys.exit(main(int(sys.argv[2])))
"""


class Kept(NamedTuple):
    """What has not been acknowledged."""

    number: int
    message: list[Any]
    payload: bytes
    size: int = 0
    """About how many bytes it takes here."""


class Part:
    """One deployment on this computer.

    Args:
        loop: The daemon's loop.
        deployment: Its name, 16 bytes.
        specification: What it is.
        on_message: Called with each `Kept` as it comes.
        on_gone: Called once when the monitor process has ended without having been told to.
        tally: Counts what happens here.
    """

    def __init__(
        self,
        loop: Loop,
        deployment: bytes,
        specification: Specification,
        on_message: Callable[[Part, Kept], None],
        on_gone: Callable[[Part, str], None],
        tally: Tally,
    ) -> None:
        self.deployment = deployment
        self.specification = specification
        self.kept: deque[Kept] = deque()
        self.living: set[bytes] = set()
        """Keys of the processes that were ordered here and have not ended."""
        self.ledger = Ledger()
        self.last_down = 0
        """Number of the last message from the master that has come."""
        self.folder = ""
        """The copy of its files, to be removed at the end; empty: there is none."""
        self.account: Account | None = None
        """Whom it runs as; None: as the daemon."""
        self.groups: PartGroups | None = None
        """Where root's daemon holds what processes of another user have asked for; None: that is the monitor process's."""
        self.is_unfit = False
        """Whether the program does not fit this node, while it may fit others."""
        self.words = bytearray()
        """What the monitor process itself has said on stderr: why it has ended."""
        self._loop = loop
        self._on_message = on_message
        self._on_gone = on_gone
        self._tally = tally
        self._number = 0
        self._kept_bytes = 0
        self._waiting: list[tuple[trunk.StationMessage, bytes]] = []
        self._packets: Packets | None = None
        self._stderr = -1
        self.os_pid = 0
        self.is_over = False
        self._is_trying = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs here, and the master has all that has."""
        return not (self.living or self._is_trying or self.kept)

    @property
    def begun(self) -> list[bytes]:
        """Keys of the processes that run here."""
        entries = self.ledger.entries
        return [key for key in self.living if key in entries and entries[key].began]

    # The monitor process

    def begin(self, config: dict[str, Any]) -> None:
        """Start the monitor process; what was meant for it meanwhile follows.

        Raises:
            OSError: A descriptor or a process could not be had.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        config_fd = os.memfd_create("constellation-config")
        read_end, write_end = os.pipe()
        try:
            with open(config_fd, "w", encoding="utf-8", closefd=False) as file:
                json.dump({**config, "daemon": theirs.fileno(), "is_mapped": self.account is not None}, file)
            os.lseek(config_fd, 0, os.SEEK_SET)
            started = subprocess.Popen(
                command(config_fd),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=write_end,
                pass_fds=[config_fd, theirs.fileno()],
                start_new_session=True,
                **launch_options(self.account),
            )
        except BaseException:
            ours.close()
            os.close(read_end)
            raise
        finally:
            theirs.close()
            os.close(config_fd)
            os.close(write_end)
        started.returncode = 0  # the daemon reaps; Popen must not
        self.os_pid = started.pid
        if self.groups is not None:
            self.groups.take_in(started.pid)
        os.set_blocking(read_end, False)
        self._stderr = read_end
        self._loop.watch(read_end, self._read_words)
        self._packets = Packets(self._loop, ours, self._on_packet, self._on_end, schema=trunk.STATION)
        waiting, self._waiting = self._waiting, []
        for message, payload in waiting:
            self.down(message, payload)

    def _read_words(self) -> None:
        if self._stderr < 0:
            return
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._stderr, 64 << 10)
            if data:
                self.words += data
                del self.words[: max(0, len(self.words) - (16 << 10))]
            else:
                self._loop.unwatch(self._stderr)
                os.close(self._stderr)
                self._stderr = -1

    def _on_end(self, reason: str | None) -> None:
        self._read_words()
        if not self.is_over:
            self.is_over = True
            words = self.words.decode(errors="replace").strip() or reason
            self._on_gone(self, f"its monitor process has ended{f': {words}' if words else ''}")

    def end(self) -> None:
        """Have the monitor process kill what it runs and end; at once, for it is over here."""
        self.is_over = True
        if self._packets is not None:
            self._packets.close()
        self._loop.call_later(_END_S, self._kill)
        if not self.os_pid:
            self._close_groups()

    def _close_groups(self) -> None:
        if self.groups is not None:
            self.groups.close()

    def _kill(self) -> None:
        if self.os_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.os_pid, signal.SIGKILL)

    def reaped(self) -> None:
        """The daemon has waited for the monitor process."""
        self.os_pid = 0
        self._close_groups()
        if self._stderr >= 0:
            self._read_words()
        if self._stderr >= 0:
            self._loop.unwatch(self._stderr)
            os.close(self._stderr)
            self._stderr = -1

    # Down

    def down(self, message: trunk.StationMessage, payload: bytes = b"") -> None:
        """Pass a message on, with its payload, now or when the monitor process is there."""
        if isinstance(message, trunk.Start):
            self.living.add(message.pid)
        elif isinstance(message, trunk.Recce):
            self._is_trying = True
        self.ledger.down(message)
        if self.is_over:
            return
        if self._packets is None:
            self._waiting.append((message, payload))
            return
        if isinstance(message, trunk.Start) and self.groups is not None:
            self._give_groups(self.groups, message)
        if not payload:
            self._packets.send(message)
        elif len(payload) <= INLINE and isinstance(message, trunk.Start):
            self._packets.send(message._replace(payload=payload))
        else:
            memory = os.memfd_create("constellation-payload")
            try:
                with open(memory, "wb", closefd=False) as file:
                    file.write(payload)
                self._packets.send(message, [memory])
            finally:
                os.close(memory)

    def _give_groups(self, groups: PartGroups, order: trunk.Start) -> None:
        assert self._packets is not None
        made = groups.give(order.pid, Resources.from_fields(order.resources))
        entrances = [group.take_entrance() for _, group in made]
        try:
            rows = [[" ".join(sorted(tree.holds)), tree.version, group.folder] for tree, group in made]
            self._packets.send(trunk.Grouped(order.pid, rows), entrances)
        finally:
            close_fds(entrances)

    def pass_on(self, message: trunk.Dialled, sock: socket.socket) -> bool:
        """Give a socket to a process; it is closed here."""
        with sock:
            return self._packets is not None and not self.is_over and self._packets.send(message, [sock.fileno()])

    # Up

    def _on_packet(self, message: trunk.StationMessage, fds: list[int]) -> None:
        payload = b""
        try:
            if fds:
                payload = read_memory(fds[0])
        except (OSError, ValueError) as error:
            self._on_end(f"it passed what is no payload: {error}")
            self._kill()
            return
        finally:
            close_fds(fds)
        if isinstance(message, trunk.Over | trunk.NotBegun):
            self.living.discard(message.key)
            if self.groups is not None:
                self.groups.release(message.key)
        elif isinstance(message, trunk.Began) and self.groups is not None:
            self.groups.began(message.key, message.os_pid)
        self.tell(message, payload)

    def tell(self, message: trunk.StationMessage, payload: bytes = b"") -> None:
        """Tell the coordinator something of this part."""
        self._number += 1
        if isinstance(message, trunk.Reached | trunk.Missed):
            self._is_trying = False
        self._count(message)
        self.ledger.up(self._number, message, payload)
        kept = Kept(self._number, trunk.STATION.fields_of(message), payload, _size(message, payload))
        self.kept.append(kept)
        self._kept_bytes += kept.size
        if self._kept_bytes > MOST_KEPT and self._packets is not None:
            self._packets.pause()
        self._on_message(self, kept)

    def _count(self, message: trunk.StationMessage) -> None:
        match message:
            case trunk.Wrote(_, fd, data):
                self._tally.wrote(fd, len(data))
            case trunk.Began():
                self._tally.spawns += 1
            case trunk.Over(_, status):
                self._tally.ended(*status[1:3])
            case _:
                pass

    @property
    def kept_bytes(self) -> int:
        """About how much is kept for the master."""
        return self._kept_bytes

    def acknowledged(self, number: int) -> None:
        """Forget what the master has."""
        while self.kept and self.kept[0].number <= number:
            self._kept_bytes -= self.kept.popleft().size
        if self._kept_bytes < _RESUME and self._packets is not None:
            self._packets.resume()


def read_memory(fd: int) -> bytes:
    """Read what another user's process may have passed: a memfd, which can be read without waiting, and no other file.

    Raises:
        OSError: It is none.
        ValueError: There is too much in it.
    """
    fcntl.fcntl(fd, fcntl.F_GET_SEALS)  # other files have none
    size = os.fstat(fd).st_size
    if size > LARGEST_PAYLOAD:
        raise ValueError(f"{size} bytes: expected at most {LARGEST_PAYLOAD}")
    payload = bytearray()
    while len(payload) < size and (data := os.pread(fd, size - len(payload), len(payload))):
        payload += data
    return bytes(payload)


def _size(message: trunk.StationMessage, payload: bytes) -> int:
    return 256 + len(payload) + (len(message.data) if isinstance(message, trunk.Wrote) else 0)


def command(config: int) -> list[str]:
    """The command line of a monitor process: isolated, with this very copy of the package."""
    return [sys.executable, "-I", "-c", preface(msgpack, pluggy) + _COMMAND, "monitor", str(config)]
