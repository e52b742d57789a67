"""Operations: what `send`, `recv`, `spawn` and the others give back. Lazy and one-shot.

An operation does nothing until it is run: `.block()` in plain code, `await` under asyncio or trio, or inside `select` or
`join`. Everything that can wait is one object with one rule, `poll()`: try to complete without waiting. What it waits
for are its `sources`: channels and requests that call back when they have been touched.
"""

from __future__ import annotations

import _thread
import warnings
from collections.abc import Callable, Generator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast, overload

from constellation.core.errors import UsageError
from constellation.core.settings import LONG_WAIT, LONGEST_POLL
from constellation.core.why import ALL, ANY

if TYPE_CHECKING:
    from constellation.core.why import Need
    from constellation.process.runtime import Runtime

T = TypeVar("T")
U = TypeVar("U")
V = TypeVar("V")

FRESH, RUNNING, DONE, OWNED, LOST = range(5)
"""States. OWNED: given to `select` or `join`, which runs it. LOST: came back from a select, and may be used again or not."""


class Source(Protocol):
    """What an operation waits for."""

    waiters: list[Callable[[], None]]


class Operation(Generic[T]):
    """Something that can be waited for, once.

    Dropped without being run, it warns (RuntimeWarning).
    """

    __slots__ = ("__weakref__", "_result", "_state")

    _result: T
    _state: int

    keeps_order = False
    """Whether an await tries at once, also where it is time to let others run. Internal."""

    # What each kind says

    def poll(self) -> bool:
        """Try to complete without waiting; True when the result is there. Internal: use `block` or `await`."""
        raise NotImplementedError

    def sources(self) -> Sequence[Source]:
        """What to wait for. Internal."""
        raise NotImplementedError

    def withdraw(self) -> bool:
        """Take the operation back; False when it is too late and it will complete. Internal."""
        return True

    def can_rewind(self) -> bool:
        """Whether `withdraw` would still undo it whole. Internal, for select."""
        return True

    def choose(self, chooses: bool) -> None:
        """It is one of a select's from now on, or no longer. Internal."""

    def rewind(self) -> bool:
        """Lose a select: be as before, and ready to be used again. False when it is too late. Internal."""
        return self.withdraw()

    def runtime(self) -> Runtime:
        """The runtime that drives it. Internal."""
        raise NotImplementedError

    def describe(self) -> str:
        """What it does, for messages. Internal."""
        raise NotImplementedError

    def explain(self) -> str:
        """What it waits for. Internal."""
        return self.describe()

    def need(self) -> Need:
        """Whose doing can end the wait (core/why.py). Internal."""
        return None

    # Running

    def block(self, timeout: float | None = None) -> T:
        """Wait for the result in plain code. Blocks.

        Args:
            timeout: Seconds to wait at most; None waits as long as it takes.

        Raises:
            TimeoutError: The time has passed; the operation is withdrawn.
            UsageError: It has been run before.
            ConstellationError: What the operation itself raises.
        """
        self.begin()
        try:
            if self.poll():
                return self._result
        except BaseException:
            reactor = self.runtime().reactor
            reactor.deferred += (reactor.redo,)
            self.withdraw()
            reactor.rouse()
            raise
        return self._block_slowly(timeout)

    def _block_slowly(self, timeout: float | None) -> T:
        try:
            if wait(self, self.runtime(), timeout):
                return self._result
        except BaseException:
            self.withdraw()
            raise
        if not self.withdraw():
            wait(
                self, self.runtime(), None
            )  # it had begun to leave, and is now a copy: this takes no time of the peer's
            return self._result
        raise TimeoutError(f"{self.describe()}: not done after {timeout:g} s")

    def __await__(self) -> Generator[Any, Any, T]:
        from constellation.process import asynchrony  # plain programs never need it

        self.begin()
        try:
            yield from asynchrony.run(self)
        except BaseException:
            self.withdraw()
            raise
        return self._result

    def begin(self) -> None:
        """Mark the operation as run. Internal.

        Raises:
            UsageError: It has been run before, or belongs to a select or join.
        """
        if self._state and self._state != LOST:
            raise UsageError(
                f"{self.describe()}: has been run before, or was given to select or join; an operation runs once, make another"
            )
        self._state = RUNNING

    def __del__(self) -> None:
        if getattr(self, "_state", DONE) == FRESH:  # a Ctrl-C may come before it is set
            warnings.warn(
                f"{self.describe()}: was made and never run; call .block(), await it, or give it to select or join",
                RuntimeWarning,
                stacklevel=2,
                source=self,
            )

    def __repr__(self) -> str:
        return f"<operation {self.describe()}, {('not run', 'running', 'done', 'in select or join', 'not run')[self._state]}>"


def wait(operation: Operation[Any], runtime: Runtime, timeout: float | None) -> bool:
    """Drive until the operation is done (True) or the time has passed (False). Blocks."""
    reactor = runtime.reactor
    deadline = None if timeout is None else perf_counter() + timeout
    if _thread.get_ident() == reactor.main:
        return reactor.drive(operation, deadline)
    touched = _thread.allocate_lock()
    touched.acquire()

    def notify() -> None:
        if touched.locked():
            try:
                touched.release()
            except RuntimeError:
                pass  # two threads at once: once is enough

    def sleep(seconds: float | None) -> None:
        waits, me = reactor.waits, _thread.get_ident()
        if seconds is not None and seconds <= LONG_WAIT:
            if seconds > 0:
                touched.acquire(True, seconds)
        elif not touched.acquire(True, LONG_WAIT) and waits is not None:
            waits.begin(me, me, operation, waits.place_of_thread(me), LONG_WAIT, is_endless=seconds is None)
            try:
                touched.acquire(True, -1 if seconds is None else min(seconds - LONG_WAIT, LONGEST_POLL))
            finally:
                waits.end(me)

    sources = operation.sources()
    for source in sources:
        source.waiters.append(notify)
    try:
        return reactor.drive_aside(operation, deadline, sleep)
    finally:
        for source in sources:
            source.waiters.remove(notify)


class _Many(Operation[T]):
    """Several operations of one runtime run as one."""

    __slots__ = ("_operations",)

    _operations: tuple[Operation[Any], ...]

    def __init__(self, operations: tuple[Operation[Any], ...], name: str) -> None:
        self._state = DONE  # nothing to warn of where the arguments are refused
        if not operations:
            raise UsageError(f"{name}() without operations would never end: give it at least one")
        for operation in operations:
            if not isinstance(operation, Operation):
                raise UsageError(f"{name}() takes operations such as receiver.recv(), not {operation!r}")
            if operation._state and operation._state != LOST:
                raise UsageError(f"{operation.describe()}: has been run before; make another for {name}()")
        if len({id(operation) for operation in operations}) != len(operations):
            raise UsageError(f"{name}() was given the same operation twice: make one for each place")
        for operation in operations:
            operation._state = OWNED
        self._operations = operations
        self._state = FRESH

    def sources(self) -> Sequence[Source]:
        return [source for operation in self._operations for source in operation.sources()]

    def runtime(self) -> Runtime:
        return self._operations[0].runtime()

    def __del__(self) -> None:
        if getattr(self, "_state", DONE) == FRESH:  # as in `Operation`
            for operation in self._operations:
                operation._state = DONE
        super().__del__()


class _Select(_Many[tuple[int, Any]]):
    """The first of several operations that is ready."""

    __slots__ = ("_chosen",)

    def __init__(self, operations: tuple[Operation[Any], ...]) -> None:
        super().__init__(operations, "select")
        self._chosen = -1
        for operation in operations:
            operation.choose(True)

    def poll(self) -> bool:
        if self._chosen >= 0:
            return self._try(self._chosen)
        for index, operation in enumerate(self._operations):
            if not operation.can_rewind():
                self._chosen = index  # it has begun to leave since the last look: it is the winner, and completes soon
                return self._try(index)
        for index, operation in enumerate(self._operations):
            if self._try(index):
                return True
            if not operation.can_rewind():
                self._chosen = index
                return False
        return False

    def _try(self, index: int) -> bool:
        operation = self._operations[index]
        try:
            done = operation.poll()
        except BaseException:
            self._release(index)
            raise
        if done:
            self._release(index)
            self._result = (index, operation._result)
        return done

    def _release(self, winner: int) -> None:
        """The losers are as they were before, and may be used again."""
        self._operations[winner]._state = DONE
        for index, operation in enumerate(self._operations):
            if index != winner and operation.rewind():
                operation._state = LOST
                operation.choose(False)

    def withdraw(self) -> bool:
        self._chosen = -1
        for index, operation in enumerate(self._operations):
            # One that is done gives back what it took; what it has sent is sent.
            if not operation.withdraw():
                self._chosen = index
            elif operation._state == OWNED:
                operation._state = LOST
                operation.choose(False)
        return self._chosen < 0

    def describe(self) -> str:
        return f"select({', '.join(operation.describe() for operation in self._operations)})"

    def need(self) -> Need:
        return [ANY, *(operation.need() for operation in self._operations)]


class _Join(_Many[list[Any]]):
    """All of several operations."""

    __slots__ = ("_left",)

    def __init__(self, operations: tuple[Operation[Any], ...]) -> None:
        super().__init__(operations, "join")
        self._left = list(operations)

    def poll(self) -> bool:
        left = self._left
        for operation in tuple(left):
            if operation.poll():
                operation._state = DONE
                left.remove(operation)
        if left:
            return False
        self._result = [operation._result for operation in self._operations]
        return True

    def withdraw(self) -> bool:
        # Backwards, so that what two of them took from one channel is given back in its order.
        for operation in reversed(self._operations):
            operation.withdraw()  # a send that has begun to leave is accepted; that must not make the others wait
            operation._state = DONE
        return True

    def describe(self) -> str:
        return f"join({', '.join(operation.describe() for operation in self._operations)})"

    def explain(self) -> str:
        left = ", ".join(operation.explain() for operation in self._left)
        done = len(self._operations) - len(self._left)
        return f"join({left}{f', {done} done' if done else ''})"

    def need(self) -> Need:
        return [ALL, *(operation.need() for operation in self._left)]


# Of one type, of two, of three; of more than that nobody tells them apart by their types.
@overload
def select(*operations: Operation[T]) -> Operation[tuple[int, T]]: ...
@overload
def select(first: Operation[T], second: Operation[U], /) -> Operation[tuple[int, T | U]]: ...
@overload
def select(first: Operation[T], second: Operation[U], third: Operation[V], /) -> Operation[tuple[int, T | U | V]]: ...
@overload
def select(*operations: Operation[Any]) -> Operation[tuple[int, Any]]: ...
def select(*operations: Operation[Any]) -> Operation[tuple[int, Any]]:
    """An operation: the first of several that is ready.

    The losers stay as they were and may be used again; the earlier argument wins where several are ready.

    Returns:
        An operation that gives ``(index, value)``.

    Raises:
        UsageError: No operation, something else than an operation, or one that has been run.
    """
    return _Select(operations)


def join(*operations: Operation[T]) -> Operation[list[T]]:
    """An operation: all of several, in any order of completion.

    The first that fails ends the join with its error; the others are withdrawn where that is still possible, and a process
    that a spawn among them has started, whose Pid nobody gets, is killed.

    Returns:
        An operation that gives the list of all values, in the order of the arguments.

    Raises:
        UsageError: No operation, something else than an operation, or one that has been run.
    """
    return cast("Operation[list[T]]", _Join(operations))
