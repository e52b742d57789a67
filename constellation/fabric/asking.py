"""The other side of a door: finds the running deployments of this user, and asks them. Blocks, each step for a time.

`Visit` is one connection. Everything that can go wrong while somebody else's deployment ends is a `NoAnswer`.
"""

from __future__ import annotations

import os
import socket
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgpack

from constellation.core import messages
from constellation.core.door import DOOR, AskWhy, Describe, Description, End, Lines, doors_in, is_meant
from constellation.fabric.door import peer_of
from constellation.fabric.proc import state_of

if TYPE_CHECKING:
    from typing import Self

PATIENCE_S = 5.0
"""How long an answer may take: the fabric answers between two other things, in milliseconds."""

_TABLE = "/proc/net/unix"


class NoAnswer(Exception):
    """A deployment does not answer; says why, as far as that can be seen."""


class Visit:
    """A connection to one deployment.

    Args:
        name: The abstract name of its door.

    Raises:
        NoAnswer: It has ended meanwhile, or the door is somebody else's.
    """

    def __init__(self, name: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(PATIENCE_S)
        self._os_pid = 0
        try:
            self._socket.connect("\0" + name)
            self._os_pid, uid = peer_of(self._socket)
        except OSError as error:
            self._socket.close()
            raise NoAnswer(f"it does not answer: {error.strerror or error}") from error
        if uid != os.geteuid():
            self._socket.close()
            raise NoAnswer(f"it is of the user with the number {uid}")

    def describe(self, os_pid: int = 0) -> Description:
        """Ask who it is, and whether an OS pid is one of its own."""
        answer: Description = self._ask(Describe(os_pid), Description)
        return answer

    def why(self) -> list[str]:
        """Ask what its processes wait for."""
        lines: list[str] = []
        answer: Any = self._ask(AskWhy(), Lines | End)
        while isinstance(answer, Lines):
            lines += map(str, answer.lines)
            answer = self._receive(Lines | End)
        return lines

    def _ask(self, question: Any, expected: Any) -> Any:
        try:
            self._socket.sendall(msgpack.packb(DOOR.fields_of(question)))
        except OSError as error:
            raise self._failure(error) from error
        return self._receive(expected)

    def _receive(self, expected: Any) -> Any:
        try:
            packet = self._socket.recv(messages.LARGEST_PACKET)
        except OSError as error:
            raise self._failure(error) from error
        if not packet:
            raise NoAnswer("it has closed the connection: it is ending, or is of another version")
        try:
            answer = DOOR.read(msgpack.unpackb(packet))
        except (ValueError, msgpack.UnpackException) as error:
            raise NoAnswer(f"its answer cannot be read: {error}") from error
        if not isinstance(answer, expected):
            raise NoAnswer(f"its answer was {type(answer).__name__}, which nobody had asked for")
        return answer

    def _failure(self, error: OSError) -> NoAnswer:
        if isinstance(error, TimeoutError):
            state = state_of(self._os_pid)
            stopped = (
                ", because it is stopped (kill -CONT lets it go on)" if state is not None and state.is_stopped else ""
            )
            return NoAnswer(f"its fabric (OS pid {self._os_pid}) has not answered for {PATIENCE_S:g} s{stopped}")
        return NoAnswer(f"it does not answer: {error.strerror or error}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


def doors() -> list[tuple[int, str]]:
    """The doors of this user's deployments: OS pid of the keeper, and the name.

    Raises:
        NoAnswer: The system does not say which sockets there are.
    """
    try:
        with open(_TABLE, encoding="utf-8", errors="replace") as table:
            return doors_in(table, os.geteuid())
    except OSError as error:
        raise NoAnswer(f"cannot look for deployments in {_TABLE}: {error.strerror}") from error


def find(wanted: str | None) -> tuple[list[tuple[str, Description]], list[str]]:
    """The deployments of this user that somebody means.

    Args:
        wanted: An OS pid, a program, the first digits of a Pid; None: any.

    Returns:
        The name of the door and the description of each; and one line for each that does not answer.
    """
    os_pid = int(wanted) if wanted is not None and wanted.isdecimal() and len(wanted) < 10 else 0
    found: list[tuple[str, Description]] = []
    silent: list[str] = []
    for keeper, name in doors():
        try:
            with Visit(name) as visit:
                description = visit.describe(os_pid)
        except NoAnswer as error:
            if wanted is None or keeper == os_pid:
                silent.append(f"{keeper}  {error}")
            continue
        if wanted is None or description.holds or any(is_meant(description, each) for each in _ways_to_say(wanted)):
            found.append((name, description))
    holders = [each for each in found if each[1].holds]
    return holders or found, silent


def _ways_to_say(wanted: str) -> list[str]:
    return [wanted, os.path.abspath(wanted)] if os.sep in wanted else [wanted]
