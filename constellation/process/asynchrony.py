"""`await` under asyncio (any loop) and trio.

One watcher per event loop: it has the loop call it when the reactor's epoll is readable (an epoll can itself be
watched), and then drives once. While somebody awaits, the background thread keeps out, so that each event wakes one
thread. A watcher that is called while nobody awaits disarms; the next await arms it again.

Before it yields to the loop an await polls for a moment, as a blocking wait does, where the loop has nothing else to do.
Every millisecond it yields in any case, so that timers and other descriptors are served.
"""

from __future__ import annotations

import _thread
import asyncio
import math
import sys
from collections.abc import Callable, Generator, Sized
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from constellation.core import settings
from constellation.core.errors import UsageError
from constellation.process.waits import place_of_task, place_of_trio_task

if TYPE_CHECKING:
    from constellation.process.operations import Operation
    from constellation.process.reactor import Reactor

_FAIR = 0.001
"""Seconds after which an await that is ready yields to the loop all the same."""

_LOOK_AFTER = settings.LONG_WAIT + 0.05

_LONGEST_PAUSE = 30.0
"""Between two looks at a loop whose awaits wait for long and in which something else goes on: a look wakes the process."""

_last_yield = 0.0


def run(operation: Operation[Any]) -> Generator[Any, Any, None]:
    """Complete an operation in whichever loop runs here.

    Raises:
        UsageError: No event loop that is known runs here.
    """
    global _last_yield  # fairness is of the whole process
    # Where it is time to yield, that comes first: a task that is cancelled meanwhile has taken nothing.
    fair = perf_counter() - _last_yield < _FAIR
    # But not for a send: tasks that were begun in order put their values in in that order; accepted, it stays accepted.
    if (fair or operation.keeps_order) and operation.poll():
        if not fair:
            _last_yield = perf_counter()
            yield from _yield_once()
        return
    trio: Any = sys.modules.get("trio")
    if trio is not None and _in_trio(trio):
        if not fair:
            _last_yield = perf_counter()  # before: who is cancelled at each yield still gets on at the next try
            yield from trio.lowlevel.checkpoint().__await__()
            if operation.poll():
                return
        yield from _trio_watcher(operation.runtime().reactor, trio).park(operation)
        _last_yield = perf_counter()
        return
    watcher = _asyncio_watcher(operation.runtime().reactor)
    if not fair:
        _last_yield = perf_counter()  # before, as above
        yield  # a bare yield is asyncio's way to let the others run
        if operation.poll():
            return
    elif watcher.spin(operation):
        return
    yield from watcher.park(operation)
    _last_yield = perf_counter()


def _yield_once() -> Generator[Any, Any, None]:
    trio: Any = sys.modules.get("trio")
    if trio is not None and _in_trio(trio):
        yield from trio.lowlevel.cancel_shielded_checkpoint().__await__()
    else:
        yield


def _in_trio(trio: Any) -> bool:
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True


class _Patience:
    """Tells the node that a loop's process waits, and that it goes on (see `Reactor.tell_waiting`)."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._told = False
        self._looks = False
        self._cpu = 0.0

    def begin(self, call_later: Callable[[Callable[[], bool]], None]) -> None:
        """An await has been parked: have the loop look after a while, by calling what `call_later` is given."""
        if self._reactor.tell_waiting is not None and not self._looks and not self._told:
            self._looks = True
            self._cpu = process_time()
            call_later(self._look)

    def _look(self) -> bool:
        """Called by the loop after `settings.PATIENCE`. Whether to look again."""
        self._looks = False
        tell = self._reactor.tell_waiting
        if not self._reactor.loops or tell is None:
            return False
        if process_time() - self._cpu >= settings.IDLE_CPU:
            return True
        self._told = True
        tell(True)
        return False

    def end(self) -> None:
        """Something has come: the process runs."""
        if self._told:
            self._told = False
            if self._reactor.tell_waiting is not None:
                self._reactor.tell_waiting(False)


class _Parked:
    """The awaits of one loop that are parked; tells of those that have been for long (`process/waits.py`).

    One timer per loop, and only while there are any: an await itself costs two entries in a dict.

    Whether only other processes can end the waits is a fact of the whole loop, and it is *judged* at a look: nothing else
    may be going on in it. As soon as one await goes on, its task may do anything, so the judgement is withdrawn then, and
    given anew at a later look. Looks at a loop in which something else is going on become rare.
    """

    def __init__(
        self,
        reactor: Reactor,
        call_later: Callable[[float, Callable[[], object]], object],
        place_of: Callable[[Any], str],
        is_idle: Callable[[], bool],
    ) -> None:
        self._reactor = reactor
        self._call_later = call_later
        self._place_of = place_of
        self._is_idle = is_idle
        self._thread = _thread.get_ident()
        self._parked: dict[Operation[Any], tuple[Any, float]] = {}
        self._told: set[Operation[Any]] = set()
        self._judged = False
        self._pause = _LOOK_AFTER
        self._is_timed = False

    def add(self, operation: Operation[Any], task: Any) -> None:
        """A task has been parked."""
        self._parked[operation] = (task, perf_counter())
        if not self._is_timed:
            self._look_in(_LOOK_AFTER)

    def remove(self, operation: Operation[Any]) -> None:
        """It goes on."""
        self._parked.pop(operation, None)
        if self._told:
            self._went_on(operation)

    def _went_on(self, operation: Operation[Any]) -> None:
        waits = self._reactor.waits
        if waits is None:
            return
        self._pause = _LOOK_AFTER
        is_told = operation in self._told
        if is_told:
            self._told.discard(operation)
            waits.end(operation)
        if self._told and self._judged:
            waits.judge(self._told, is_endless=False)
        self._judged = False
        if self._told and not self._is_timed:
            self._look_in(_LOOK_AFTER)

    def _look_in(self, seconds: float) -> None:
        self._is_timed = True
        self._call_later(seconds, self._look)

    def _look(self) -> None:
        self._is_timed = False
        waits, now = self._reactor.waits, perf_counter()
        if self._reactor.stopped or waits is None or not self._parked:
            return
        is_idle = self._is_idle()
        if self._judged != is_idle and self._told:
            waits.judge(self._told, is_endless=is_idle)
        self._judged = is_idle
        for operation, (task, since) in self._parked.items():
            if operation not in self._told and now - since >= settings.LONG_WAIT:
                self._told.add(operation)
                waited = now - since
                waits.begin(operation, self._thread, operation, self._place_of(task), waited, is_endless=is_idle)
        if len(self._told) < len(self._parked):
            self._look_in(_LOOK_AFTER)
        elif not is_idle:
            self._look_in(self._pause)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)


class _AsyncioWatcher:
    """One asyncio loop, for one reactor."""

    def __init__(self, reactor: Reactor, loop: asyncio.AbstractEventLoop) -> None:
        self._reactor = reactor
        self._loop = loop
        self._thread = _thread.get_ident()
        self._waiting = 0
        self._armed = False
        self._patience = _Patience(reactor)
        self._patience_timer: asyncio.TimerHandle | None = None
        self._look_timer: asyncio.TimerHandle | None = None
        self._parked = _Parked(reactor, self._call_later, place_of_task, self._is_idle)
        self._score = 4
        self._turns = 0
        # uvloop does not show its queue: there only the time limits keep an await from holding up the others.
        self._ready: Sized = getattr(loop, "_ready", ())

    def spin(self, operation: Operation[Any]) -> bool:
        """Poll for a moment, where that has paid lately and the loop has nothing else to do. Whether it is done."""
        reactor = self._reactor
        if not reactor.spin or self._thread != reactor.main:
            return False
        self._turns += 1
        if self._score <= 0 and self._turns & 15:
            return False
        if reactor.drive_briefly(operation, self._ready):
            self._score = min(self._score + 1, 8)
            return True
        if not self._ready:
            self._score -= 1
        return False

    def park(self, operation: Operation[Any]) -> Generator[Any, Any, None]:
        """Wait for an operation without holding up the loop."""
        reactor, loop = self._reactor, self._loop
        future: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not future.done():
                future.set_result(None)

        def notify() -> None:
            if _thread.get_ident() == self._thread:
                settle()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(settle)

        sources = operation.sources()
        for source in sources:
            source.waiters.append(notify)
        self._enter()
        self._parked.add(operation, asyncio.current_task(loop))
        try:
            while True:
                if operation.poll():
                    return
                if reactor.deferred:
                    reactor.flush_aside()
                yield from future
                future = loop.create_future()
        finally:
            for source in sources:
                source.waiters.remove(notify)
            self._parked.remove(operation)
            self._leave()

    def _call_later(self, seconds: float, call: Callable[[], object]) -> None:
        self._look_timer = self._loop.call_later(seconds, call)

    def _is_idle(self) -> bool:
        """Whether nothing but our operations can make this loop go on; if that cannot be seen, something can.

        Its other tasks do not matter: without a timer, a descriptor or a callback that is due, nothing wakes them either.
        """
        loop: Any = self._loop
        try:
            if loop._ready or loop._selector.get_map().keys() - {loop._ssock.fileno(), self._reactor.epoll.fileno()}:
                return False
            return all(timer.cancelled() or timer is self._patience_timer for timer in loop._scheduled)
        except AttributeError:
            from constellation.process import uvloops  # late: few have such a loop, and wait for long

            return uvloops.is_idle(loop, self._reactor.epoll.fileno(), (self._patience_timer, self._look_timer))

    def _enter(self) -> None:
        self._waiting += 1
        if self._waiting == 1:
            self._reactor.enter_loop()
        if not self._armed:
            self._armed = True
            self._loop.add_reader(self._reactor.epoll.fileno(), self._on_readable)
        self._patience.begin(self._look_later)

    def _leave(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._reactor.leave_loop()
        self._patience.end()
        if self._waiting:
            self._patience.begin(self._look_later)

    def _look_later(self, look: Callable[[], bool]) -> None:
        def again() -> None:
            if look() and self._waiting:
                self._patience.begin(self._look_later)

        self._patience_timer = self._loop.call_later(settings.PATIENCE, again)

    def _on_readable(self) -> None:
        self._patience.end()
        if self._reactor.stopped or not self._waiting:
            self._armed = False
            self._loop.remove_reader(self._reactor.epoll.fileno())
        if not self._reactor.stopped:
            self._reactor.poll_now()
            if self._waiting:
                self._patience.begin(self._look_later)


class _TrioWatcher:
    """One trio run, for one reactor."""

    def __init__(self, reactor: Reactor, trio: Any, on_end: Callable[[], object]) -> None:
        self._reactor = reactor
        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self._thread = _thread.get_ident()
        self._waiting = 0
        self._armed = False
        self._patience = _Patience(reactor)
        self._parked = _Parked(reactor, self._call_later, place_of_trio_task, self._is_idle)
        self._on_end = on_end

    def park(self, operation: Operation[Any]) -> Generator[Any, Any, None]:
        """Wait for an operation without holding up the run."""
        trio = self._trio
        task = trio.lowlevel.current_task()
        parked = False

        def settle() -> None:
            nonlocal parked
            if parked:
                parked = False
                trio.lowlevel.reschedule(task)

        def notify() -> None:
            if _thread.get_ident() == self._thread:
                settle()
            else:
                try:
                    self._token.run_sync_soon(settle)
                except trio.RunFinishedError:
                    return

        def abort(_raise: object) -> Any:
            nonlocal parked
            parked = False
            return trio.lowlevel.Abort.SUCCEEDED

        sources = operation.sources()
        for source in sources:
            source.waiters.append(notify)
        self._enter()
        self._parked.add(operation, task)
        try:
            while True:
                if operation.poll():
                    return
                if self._reactor.deferred:
                    self._reactor.flush_aside()
                parked = True
                yield from trio.lowlevel.wait_task_rescheduled(abort).__await__()
        finally:
            for source in sources:
                source.waiters.remove(notify)
            self._parked.remove(operation)
            self._leave()

    def _enter(self) -> None:
        self._waiting += 1
        if self._waiting == 1:
            self._reactor.enter_loop()
        if not self._armed:
            self._armed = True
            self._trio.lowlevel.spawn_system_task(self._watch)
        self._patience.begin(self._look_later)

    def _leave(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._reactor.leave_loop()
        self._patience.end()
        if self._waiting:
            self._patience.begin(self._look_later)

    def _is_idle(self) -> bool:
        """As for asyncio. The run's own wake-up and our watcher are all that waits to read."""
        runner: Any = getattr(self._trio._core._run.GLOBAL_RUN_CONTEXT, "runner", None)
        if getattr(runner, "is_guest", True):
            return False  # another loop carries this one
        now = self._trio.lowlevel.current_statistics()
        return bool(
            not now.tasks_runnable
            and not now.run_sync_soon_queue_size
            and now.seconds_to_next_deadline == math.inf
            and now.io_statistics.tasks_waiting_read == 1 + self._armed
            and not now.io_statistics.tasks_waiting_write
        )

    def _call_later(self, seconds: float, call: Callable[[], object]) -> None:
        async def wait() -> None:
            await self._trio.sleep(seconds)
            call()

        self._trio.lowlevel.spawn_system_task(wait)

    def _look_later(self, look: Callable[[], bool]) -> None:
        async def wait() -> None:
            await self._trio.sleep(settings.PATIENCE)
            if look() and self._waiting:
                self._patience.begin(self._look_later)

        self._trio.lowlevel.spawn_system_task(wait)

    async def _watch(self) -> None:
        try:
            while True:
                await self._trio.lowlevel.wait_readable(self._reactor.epoll.fileno())
                self._patience.end()
                if self._reactor.stopped or not self._waiting:
                    return
                self._reactor.poll_now()
                self._patience.begin(self._look_later)
        finally:
            self._armed = False
            self._on_end()


_asyncio_watchers: WeakKeyDictionary[asyncio.AbstractEventLoop, _AsyncioWatcher] = WeakKeyDictionary()
_trio_watchers: dict[Any, _TrioWatcher] = {}


def _asyncio_watcher(reactor: Reactor) -> _AsyncioWatcher:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        message = "await on an operation outside asyncio and trio: use .block() in plain code, or run it in one of them"
        raise UsageError(message) from None
    watcher = _asyncio_watchers.get(loop)
    if watcher is None or watcher._reactor is not reactor:
        watcher = _asyncio_watchers[loop] = _AsyncioWatcher(reactor, loop)
    return watcher


def _trio_watcher(reactor: Reactor, trio: Any) -> _TrioWatcher:
    token = trio.lowlevel.current_trio_token()
    watcher = _trio_watchers.get(token)
    if watcher is None or watcher._reactor is not reactor:
        watcher = _trio_watchers[token] = _TrioWatcher(reactor, trio, lambda: _trio_watchers.pop(token, None))
    return watcher
