"""Supervisors: processes that keep other processes running, after Erlang/OTP.

What to do is decided in `core/supervision.py`; this module does it with what every program has: `spawn`, `watch`, `kill`,
`link`, `register` and a channel. It runs under asyncio, one task for each process of a child, from its spawn to its end.

A child begins with a few words to its supervisor. It links itself with it, so that nothing is left when a supervisor is
killed; it registers its name; then it waits for a word of the supervisor and answers it. So a child has started only when
its supervisor knows of it, and a spawn that was withdrawn too late ends by itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from types import FrameType, TracebackType
from typing import Any, Self, assert_never

from constellation.core.childspec import AutoShutdown, ChildSpec, Strategy, check_children, check_flags
from constellation.core.errors import ChannelError, ConstellationError, SupervisionError, UsageError
from constellation.core.pid import Pid
from constellation.core.supervision import (
    AllStarted,
    Begin,
    CancelStart,
    Effect,
    Ended,
    Event,
    Failure,
    Finished,
    NotStarted,
    Report,
    Requeue,
    Shutdown,
    Start,
    Started,
    Stop,
    Supervision,
)
from constellation.process import life
from constellation.process.channel import Receiver, Sender
from constellation.process.names import check_name, link, register
from constellation.process.requests import kill, spawn, watch
from constellation.process.runtime import current, parent

_CHANNEL = "constellation.supervisor"
_AS_LONG_AS_IT_TAKES = 1e8
"""Seconds; three years."""
_log = logging.getLogger("constellation.supervisor")


class Supervisor:
    """Starts processes in order, and restarts them when they end, as Erlang/OTP's supervisor does.

    It is a description until it is run, in one of these ways:

        with Supervisor(children): ...              in a process of its own, which is shut down at the end of the block
        spawn(Supervisor(children).run).block()     in a process of its own
        Supervisor(children).run()                  in this process, until it is asked to end
        await Supervisor(children).serve()          in this process, under asyncio
        ChildSpec("web", Supervisor(children).run, shutdown=None)      below another supervisor

    More than ``intensity`` restarts within ``period`` seconds, or a child that cannot be started at the beginning, and
    it gives up: it stops its children in reverse order and raises SupervisionError, which ends its process. Its children
    are linked with it: they end when it is killed. A child that gets SIGTERM, and does not handle it in its own way, ends
    with 0, as services do.

    Ends of children that are no good ends, and what follows, go to the logger ``constellation.supervisor``, which writes
    to stderr unless the program has set up logging.

    Args:
        children: What to start, in this order.
        strategy: Whom a restart concerns. "one_for_one": the child that ended. "one_for_all": all; the others are
            stopped in reverse order, then all are started. "rest_for_one": that child and those after it.
        intensity: How many restarts are allowed within ``period``.
        period: Seconds.
        auto_shutdown: "never"; or it ends well when "any_significant" child, or the last one of them
            ("all_significant"), has ended by itself and is not restarted.
        name: A name that its process registers.

    Raises:
        UsageError: Something cannot be used; says what, and what was expected.
    """

    def __init__(
        self,
        children: Iterable[ChildSpec],
        *,
        strategy: Strategy = "one_for_one",
        intensity: int = 1,
        period: float = 5.0,
        auto_shutdown: AutoShutdown = "never",
        name: str | None = None,
    ) -> None:
        check_flags(strategy, intensity, period, auto_shutdown)
        self._children = check_children(children, auto_shutdown)
        self._strategy: Strategy = strategy
        self._intensity = intensity
        self._period = period
        self._auto_shutdown: AutoShutdown = auto_shutdown
        self._name = None if name is None else check_name(name)
        self._pid: Pid | None = None
        self._on_started: Callable[[], None] | None = None

    @property
    def children(self) -> tuple[ChildSpec, ...]:
        """What it starts, in order."""
        return self._children

    @property
    def pid(self) -> Pid:
        """The process in which it runs, inside a ``with`` block.

        Raises:
            UsageError: It does not run in a ``with`` block of this process.
        """
        if self._pid is None:
            raise UsageError("this supervisor has no process: it has one inside `with supervisor:`")
        return self._pid

    # In this process

    def run(self) -> None:
        """Supervise in this process until it is asked to end, by SIGTERM or Ctrl-C, or ends by itself. Blocks.

        The children are shut down before it returns or raises. A signal that asked it to end then has the effect that it
        has without a supervisor. Also what a process is spawned with, or a child of another supervisor starts.

        Raises:
            SupervisionError: It has given up.
            NameInUse: Another process has its name.
            UsageError: Before `init`, or where an event loop runs; there `serve` is right.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise UsageError("an event loop runs here: use `await supervisor.serve()`")
        with _Signals() as signals:
            failure = asyncio.run(self._run(signals))
        self._raise(failure)
        signals.pass_on()

    async def serve(self) -> None:
        """Supervise in this process, under asyncio. When it is cancelled it first shuts the children down.

        Raises:
            SupervisionError, NameInUse: As for `run`.
        """
        self._raise(await self._run(None))

    async def _run(self, signals: _Signals | None) -> Failure | None:
        current()  # before anything is tried
        if self._name is not None:
            await register(self._name)
        machine = Supervision(
            self._children,
            strategy=self._strategy,
            intensity=self._intensity,
            period=self._period,
            auto_shutdown=self._auto_shutdown,
        )
        driver = _Driver(machine, self._name or "", self._say_started)
        if signals is not None:
            signals.tell(asyncio.get_running_loop(), driver.shut_down)
        return await driver.run()

    def _say_started(self) -> None:
        if self._on_started is not None:
            self._on_started()

    def _raise(self, failure: Failure | None) -> None:
        if failure is not None:
            raise SupervisionError(self._name or "", *failure)

    # In a process of its own

    def __enter__(self) -> Self:
        """Spawn its process; returns when all children have been started.

        Raises:
            SupervisionError: A child could not be started; the others have been stopped.
        """
        if self._pid is not None:
            raise UsageError("this supervisor runs already: make another for a second `with`")
        self._pid = pid = spawn(_Call(self.run, (), {}, None)).block()
        try:
            with Sender[None](pid, _CHANNEL) as words, Receiver[None](pid, _CHANNEL) as answers:
                words.send(None).block()
                answers.recv().block()
        except ChannelError:
            self._pid = None
            status = watch(pid).block()
            if not status.ok:
                reason = f"it ended before its children were started: {status.describe()}"
                raise SupervisionError(self._name or "", None, reason, status) from None
            self._pid = pid  # its significant children have ended already
        except BaseException:
            self._pid = None
            kill(pid, _AS_LONG_AS_IT_TAKES).block()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Shut it down, and wait for its end.

        Raises:
            SupervisionError: It has given up, or was killed; where the block raised, that goes on, with a note.
        """
        pid, self._pid = self.pid, None
        status = kill(pid, _AS_LONG_AS_IT_TAKES).block()
        if status.ok:
            return
        failed = SupervisionError(self._name or "", None, f"its process {pid} {status.describe()}", status)
        if error is None:
            raise failed
        error.add_note(str(failed))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pid": None, "_on_started": None}

    def __repr__(self) -> str:
        which = f" {self._name!r}" if self._name else ""
        return f"<Supervisor{which} of {', '.join(spec.id for spec in self._children)}, {self._strategy}>"


class _Driver:
    """Does what the machine says."""

    def __init__(self, machine: Supervision, name: str, on_started: Callable[[], None]) -> None:
        self._machine = machine
        self._words = f"supervisor {name!r}" if name else "supervisor"
        self._on_started = on_started
        self._specs = {child.spec.id: child.spec for child in machine.children}
        self._events: asyncio.Queue[Event | BaseException] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._starts: dict[str, tuple[asyncio.Task[None], list[Pid]]] = {}
        self._failure: Failure | None = None
        self._is_over = False

    def shut_down(self) -> None:
        """Ask it to end."""
        self._events.put_nowait(Shutdown())

    async def run(self) -> Failure | None:
        """Supervise until all has ended.

        Raises:
            asyncio.CancelledError: It was cancelled, and all has ended; at once where it is cancelled twice.
        """
        cancelled: asyncio.CancelledError | None = None
        self._events.put_nowait(Begin())
        try:
            while not self._is_over:
                try:
                    event = await self._events.get()
                except asyncio.CancelledError as error:
                    if cancelled is not None:
                        raise
                    cancelled = error
                    self.shut_down()
                    continue
                if isinstance(event, BaseException):
                    raise event
                for effect in self._machine.step(event, now=time.monotonic()):
                    self._do(effect)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if cancelled is not None:
            raise cancelled
        return self._failure

    def _do(self, effect: Effect) -> None:
        match effect:
            case Start(child):
                pids: list[Pid] = []
                task = self._task(self._care(self._specs[child], pids))
                # Not in the task itself: one that is cancelled before its first step never sees it.
                task.add_done_callback(lambda task: self._on_withdrawn(child) if task.cancelled() else None)
                self._starts[child] = (task, pids)
            case CancelStart(child):
                task, pids = self._starts[child]
                if pids:
                    self._task(self._kill(pids[0], self._specs[child].shutdown))
                else:
                    task.cancel()
            case Stop(_, pid, grace):
                self._task(self._kill(pid, grace))
            case Requeue(event):
                self._events.put_nowait(event)
            case Report():
                self._report(effect)
            case AllStarted():
                self._on_started()
            case Finished(failure):
                self._failure = failure
                self._is_over = True
            case _:
                assert_never(effect)

    def _task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._events.put_nowait(error)

    def _on_withdrawn(self, child: str) -> None:
        self._events.put_nowait(NotStarted(child, "its start was withdrawn"))

    async def _care(self, spec: ChildSpec, pids: list[Pid]) -> None:
        """One process of a child, from its spawn to its end."""
        try:
            call = _Call(spec.start, tuple(spec.args), dict(spec.kwargs), spec.name)
            pid = await spawn(call, resources=spec.resources)
        except ConstellationError as error:
            self._events.put_nowait(NotStarted(spec.id, f"{type(error).__name__}: {error}"))
            return
        pids.append(pid)
        try:
            with Sender[None](pid, _CHANNEL) as words, Receiver[None](pid, _CHANNEL) as answers:
                await words.send(None)
                await answers.recv()
        except ChannelError:
            status = await watch(pid)
            self._events.put_nowait(NotStarted(spec.id, status.describe(), status))
            return
        self._events.put_nowait(Started(spec.id, pid))
        status = await watch(pid)
        self._events.put_nowait(Ended(spec.id, pid, status))

    @staticmethod
    async def _kill(pid: Pid, grace: float | None) -> None:
        await kill(pid, _AS_LONG_AS_IT_TAKES if grace is None else grace)

    def _report(self, report: Report) -> None:
        which = f"child {report.child!r}" + (f" ({report.pid})" if report.pid is not None else "")
        match report.context:
            case "child_terminated":
                _log.warning("%s: %s %s", self._words, which, report.text)
            case "start_error":
                _log.warning("%s: %s could not be started: %s", self._words, which, report.text)
            case "shutdown_error":
                _log.warning("%s: %s did not end as it was asked to: %s", self._words, which, report.text)
            case "shutdown":
                _log.error("%s: gives up: %s: %s", self._words, which, report.text)


class _Call:
    """What the process of a child runs: a few words with its supervisor, then the child's own function."""

    def __init__(
        self, fn: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None
    ) -> None:
        self._fn = fn
        self._args = args
        self._kwargs = kwargs
        self._name = name
        # The event stream, and the warning of a value that is returned, are to speak of the user's function.
        self.__module__ = getattr(fn, "__module__", None) or type(fn).__module__
        self.__qualname__ = getattr(fn, "__qualname__", None) or type(fn).__qualname__

    def __call__(self) -> object:
        _end_well_when_asked()
        supervisor = parent()
        assert supervisor is not None, "a child has been spawned"
        words, answers = Receiver[None](supervisor, _CHANNEL), Sender[None](supervisor, _CHANNEL)

        def answer() -> None:
            answers.send(None).block()
            answers.close()
            words.close()

        try:
            link(supervisor, both=False).block()
            if self._name is not None:
                register(self._name).block()
            words.recv().block()
            owner = getattr(self._fn, "__self__", None)
            if isinstance(owner, Supervisor) and self._fn in {owner.run, owner.serve}:
                owner._on_started = answer  # it has started when its own children have
            else:
                answer()
        except ChannelError:
            return None  # the supervisor has ended meanwhile
        return self._fn(*self._args, **self._kwargs)


class _Signals:
    """SIGTERM and SIGINT taken as a wish to shut down, for a block; in the main thread only, where they arrive."""

    def __init__(self) -> None:
        self._got: list[int] = []
        self._before: dict[int, Any] = {}
        self._call: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def tell(self, loop: asyncio.AbstractEventLoop, shut_down: Callable[[], None]) -> None:
        """Call ``shut_down`` in the loop at the first signal, or now where it has come already."""

        def call() -> None:
            loop.call_soon_threadsafe(shut_down)

        self._call = call
        if self._got:
            shut_down()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._got.append(number)
        if len(self._got) > 1 and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._call is not None and len(self._got) == 1:
            self._call()

    def pass_on(self) -> None:
        """Have the first signal take its usual effect."""
        if self._got:
            signal.raise_signal(self._got[0])


def _end_well_when_asked() -> None:
    """Have SIGTERM end this process with 0: to obey is no failure. What the program has set stays."""
    if signal.getsignal(signal.SIGTERM) is life._on_sigterm:
        signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, _frame: FrameType | None) -> None:
    if life.is_foreign():
        # A child that the program forked by itself: multiprocessing's terminate() counts on the default.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    raise SystemExit(0)
