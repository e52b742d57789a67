"""Names for processes, and links between their ends: operations that ask the node.

A name is freed when its process has ended, and given to whom asks next, so a client that looks a name up again finds the
process that was started in the place of the dead one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from constellation.core import errors
from constellation.core.errors import ConstellationError, InternalError, UsageError
from constellation.core.messages import Done, Found, Message, Register, Tie, Unregister, Untie, Whereis
from constellation.core.pid import Pid
from constellation.core.settings import LARGEST_NAME
from constellation.core.why import ANYONE, Need
from constellation.process import runtime as runtimes
from constellation.process.operations import Operation
from constellation.process.requests import _Asking

T = TypeVar("T")


class _Ask(_Asking[T]):
    """One question to the registry of the node."""

    __slots__ = ("_message", "_need", "_take", "_words")

    def __init__(
        self, message: Callable[[int], Message], take: Callable[[Message], T], words: str, need: Need = None
    ) -> None:
        runtime = runtimes.current()
        self._need = need
        self._message = message
        self._take = take
        self._words = words
        super().__init__(runtime)

    def ask(self, number: int) -> None:
        self._runtime.control.send(self._message(number))

    def read(self, answer: Message) -> T:
        if isinstance(answer, Done) and answer.kind:
            kind = getattr(errors, answer.kind, ConstellationError)
            raise kind(answer.text)
        return self._take(answer)

    def describe(self) -> str:
        return self._words

    def need(self) -> Need:
        return self._need


def _nothing(answer: Message) -> None:
    if not isinstance(answer, Done):
        raise InternalError(f"the answer was {answer!r}")


def _somebody_or_none(answer: Message) -> Pid | None:
    if not isinstance(answer, Found):
        raise InternalError(f"the answer was {answer!r}")
    return Pid.from_bytes(answer.pid) if answer.pid else None


def _somebody(answer: Message) -> Pid:
    pid = _somebody_or_none(answer)
    if pid is None:
        raise InternalError("the node said that nobody has the name, and was to wait")
    return pid


def check_name(name: object) -> str:
    """Give the name of a process back, if it can be one.

    Raises:
        TypeError: It is no str.
        UsageError: It is empty, too long, or has characters that do not travel.
    """
    if not isinstance(name, str):
        raise TypeError(f"a process's name is a str, not {name!r}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = 0
    if not 1 <= size <= LARGEST_NAME:
        raise UsageError(f"cannot name a process {name[:50]!r}: expected 1 to {LARGEST_NAME} bytes of text")
    return name


def register(name: str) -> Operation[None]:
    """An operation: give this process a name in its deployment, under which `whereis` finds it.

    The process keeps it until its end. A process may have several names; to register one again changes nothing.

    Args:
        name: Any text that is not empty.

    Raises:
        TypeError: ``name`` is no str.
        UsageError: Before `init`; the name is empty or too long.

    The operation raises:
        NameInUse: Another process that lives has that name.
    """
    check_name(name)
    return _Ask(lambda number: Register(number, name), _nothing, f"register of {name!r}")


def unregister(name: str) -> Operation[None]:
    """An operation: take a name from this process, so that another one can have it.

    Raises:
        TypeError, UsageError: As for `register`.

    The operation raises:
        UsageError: This process does not have that name.
    """
    check_name(name)
    return _Ask(lambda number: Unregister(number, name), _nothing, f"unregister of {name!r}")


def whereis(name: str) -> Operation[Pid]:
    """An operation: the process that has a name. Waits until there is one, as with ``whereis("db").block(timeout=5)``.

    The Pid is of the process that has the name now. When that ends, ask again: the name leads to the process that was
    started in its place, as soon as it has registered.

    Raises:
        TypeError, UsageError: As for `register`.
    """
    check_name(name)
    return _Ask(lambda number: Whereis(number, name, True), _somebody, f"whereis of {name!r}", ANYONE)


def try_whereis(name: str) -> Operation[Pid | None]:
    """An operation: the process that has a name now, or None.

    Raises:
        TypeError, UsageError: As for `register`.
    """
    check_name(name)
    return _Ask(lambda number: Whereis(number, name, False), _somebody_or_none, f"try_whereis of {name!r}")


def link(pid: Pid, *, both: bool = True) -> Operation[None]:
    """An operation: tie the ends of two processes together. When one ends badly, the other one is ended.

    Badly is every end but exit code 0. The other one gets SIGTERM, which raises SystemExit(143) unless its program
    handles it, and is killed after the grace time; its certificate says ``linked process 3fecd01 died: ...``. A
    process that ends with 0 ends nobody. To link with a process that has ended badly already ends this one too, so it
    is no matter who was faster.

    Args:
        pid: The other process.
        both: False: the end of ``pid`` ends this process, but not the other way round.

    Raises:
        TypeError: ``pid`` is no Pid.
        UsageError: Before `init`.

    The operation raises:
        UsageError: The process is of another deployment.
    """
    wire = _key(pid)
    return _Ask(lambda number: Tie(number, wire, bool(both)), _nothing, f"link with {pid}")


def unlink(pid: Pid) -> Operation[None]:
    """An operation: take a `link` back, in both directions, whoever made it. Without one it does nothing.

    Raises:
        TypeError, UsageError: As for `link`.
    """
    wire = _key(pid)
    return _Ask(lambda number: Untie(number, wire), _nothing, f"unlink of {pid}")


def _key(pid: Pid) -> bytes:
    if not isinstance(pid, Pid):
        raise TypeError(f"expected the Pid of a process, not {pid!r}")
    return pid.to_bytes()
