"""Who waits, drives: the loop that reads and writes for all links of a process.

One epoll; whoever holds the `role` may poll it and handle what it reports. The thread that blocks in an operation takes
the role itself, so a reply reaches it without a thread switch. When nobody in the foreground drives, a background
thread does (`core/driver.py` is the model of this hand-over; its tests walk through every interleaving):

* HOT: the foreground drives now and then. The background thread looks at `turn` every `settings.TICK`.
* COLD: `turn` stood still for a tick and the role was free. The background thread holds the role, in epoll_wait.
* PARKED: `turn` stood still and the role was taken: somebody waits. The background thread waits for the role itself, in
  the kernel: an idle process wakes nobody, and when the waiter leaves, however it leaves, somebody drives.

* IDLE: an event loop watches the epoll. The background thread waits for `_idle` until there is none.

The main thread holds `claim`, a lock, while it wants or has the role, and writes the wake-up pipe if a poller may be asleep;
the others look at `claim` before they take the role and before each poll. Only the main thread may be interrupted
(Ctrl-C), so it takes both by `with` on the C lock and nothing else: between the lock and the block no signal handler can
run. (A flag in the place of `claim` can be left standing by two Ctrl-C, and who clears it then cannot know whether the
main thread is only slow.)

Rules that the rest of this package relies on:

* Level-triggered. An exception between epoll_wait and the read then loses nothing (docs/decisions/0005).
* CPython runs signal handlers, and gives the GIL away, only after calls, at backward jumps and on function entry. A
  commit that contains none of these is atomic against Ctrl-C and against other threads. Such lines are marked
  ``# commit``; `+=` on a list or deque is used there because it is no call.
* Before Python 3.14 the jump back of a loop lies outside of the `with` or `try` around it where the loop is a `while` with a
  condition, or its body ends with an `if` (CPython issue 130279): a Ctrl-C there skips the release of a lock. So a loop
  right inside a `with` is a ``while True`` or a `for`, and its body ends with something unconditional
  (tests/unit/process/test_loops_in_with.py).
* A system call whose result must not be lost is made as ``results += map(call, (argument,))``: the result is stored
  before any Python code can run.
"""

from __future__ import annotations

import _thread
import os
import select as _select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sized
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Protocol

from constellation.core import settings
from constellation.core.errors import ConstellationError

if TYPE_CHECKING:
    from constellation.core.why import Need
    from constellation.process.waits import Waits
    from constellation.process.wire import Wire

EPOLLIN = _select.EPOLLIN
EPOLLOUT = _select.EPOLLOUT


_OURS = bytes((0, signal.SIGURG))
"""What stands in the wake-up pipe for nobody's handler: our own bytes, and the signal that `_interrupt` sends, which would
else have itself sent again for ever."""
_INTERRUPT_AFTER = 0.005
"""Seconds in which a handler has most likely run by itself."""


class Handler(Protocol):
    """What the reactor calls when a descriptor is ready."""

    def on_ready(self, events: int) -> None: ...

    def resume(self) -> None:
        """Finish what an exception of a signal handler came into; the role is held."""
        ...


class Deferred(Protocol):
    """What the reactor has to do at its next wait."""

    @property
    def deferred(self) -> object:
        """Whether there is still something to do."""
        ...

    def release(self) -> None:
        """Do it."""
        ...


class Touched(Protocol):
    """A channel or request that somebody may wait for."""

    waiters: list[Callable[[], None]]


class Pollable(Protocol):
    """An operation, as the driver sees it."""

    def poll(self) -> bool:
        """Try to complete without waiting; True when it is done."""
        ...

    def explain(self) -> str:
        """What is waited for, in words."""
        ...

    def need(self) -> Need:
        """Whose doing can end the wait (core/why.py)."""
        ...


class Reactor:
    """The loop of one process."""

    def __init__(self) -> None:
        self.epoll = _select.epoll()
        self.poll_once = self.epoll.poll
        self.handlers: dict[int, Handler] = {}
        self.role = _thread.RLock()
        self.claim = _thread.RLock()
        self.sleeping = False  # whether a thread that would leave on a claim may be in epoll_wait
        self.turn = 0
        self.touched: list[Touched] = []
        self.deferred: list[Deferred] = []
        self.redo = _Redo(self)  # put into `deferred` where an exception may have come into the middle of something
        self.waits: Waits | None = None
        self.tell_waiting: Callable[[bool], None] | None = (
            None  # where the node lends what waiting processes do not use
        )
        self.loops = 0  # event loops that watch the epoll; while there are any, the background stays out
        self.main = _thread.get_ident()
        self.stopped = False
        self.spin = settings.SPIN if len(os.sched_getaffinity(0)) > 1 else 0.0
        self._spin_score = 4
        self._spin_turns = 0
        self._preempted = 0
        # Also the wake-up descriptor of signals: one that came just before epoll_wait would else be handled after it.
        self._wake_end, self._poke = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._hears_signals = False
        self._idle = _thread.allocate_lock()
        self._idle.acquire()
        self._ended: _thread.LockType | None = None
        self.roused = False
        self.state = "none"
        self.watch(self._wake_end, _Wake(self, self._wake_end))

    # Registration

    def watch(self, fd: int, handler: Handler) -> None:
        """Call ``handler`` when ``fd`` has something to read."""
        self.handlers[fd] = handler
        try:
            self.epoll.register(fd, EPOLLIN)
        except FileExistsError:
            pass  # once more, after a Ctrl-C

    def forget(self, fd: int) -> None:
        """Stop watching ``fd``; to be called before it is closed."""
        if fd in self.handlers:
            if not self.epoll.closed:
                try:
                    self.epoll.unregister(fd)
                except OSError:
                    pass  # once more, after a Ctrl-C
            self.handlers.pop(fd, None)

    # The foreground

    def drive(self, operation: Pollable, deadline: float | None) -> bool:
        """Drive until ``operation`` is done (True) or the time has come (False).

        Blocks. Called by the main thread, or by another thread that has no other driver (see `drive_aside`).
        """
        try:
            with self.claim:
                if self.sleeping:
                    self.wake()
                with self.role:
                    self.turn += 1
                    # Kept in locals: this loop is the round trip.
                    poll_once, handlers, poll = self.poll_once, self.handlers, operation.poll
                    while True:
                        if self.touched:
                            self.notify_touched()
                        if self.deferred:
                            self.flush_deferred()
                        if poll():
                            return True
                        events: list[tuple[int, int]] = []
                        if self.spin and self._may_spin():
                            until = perf_counter() + self.spin
                            while True:
                                events = poll_once(0)
                                if events or perf_counter() > until:
                                    break
                            self._spin_score += 1 if events else -1
                        if not events:
                            if deadline is None:
                                events = self._sleep(operation, None)
                            else:
                                left = deadline - perf_counter()
                                events = self._sleep(operation, left if left > 0 else 0)
                                if left <= 0 and not events:
                                    return False
                        for fd, mask in events:
                            handlers.get(fd, _NOBODY).on_ready(mask)
        except BaseException:
            self.deferred += (self.redo,)
            self.rouse()
            raise

    def drive_briefly(self, operation: Pollable, others: Sized) -> bool:
        """Poll for a moment, as a driver does before it sleeps. For event loops; in the main thread only.

        Args:
            operation: What is waited for.
            others: What the loop has ready to run: when there is something, this ends.

        Returns:
            Whether the operation is done.
        """
        try:
            with self.claim:
                if self.sleeping:
                    self.wake()
                with self.role:
                    self.turn += 1
                    until = perf_counter() + self.spin
                    while True:
                        if self.touched:
                            self.notify_touched()
                        if self.deferred:
                            self.flush_deferred()
                        if operation.poll():
                            return True
                        if others or perf_counter() > until:
                            return False
                        for fd, mask in self.poll_once(0):
                            self.handlers.get(fd, _NOBODY).on_ready(mask)
        except BaseException:
            self.deferred += (self.redo,)
            self.rouse()
            raise

    def drive_aside(self, operation: Pollable, deadline: float | None, sleep: Callable[[float | None], None]) -> bool:
        """Drive from a thread that is not the main one: leave when the main thread claims the role, then ``sleep``.

        ``sleep(seconds)`` returns when the operation's channel has been touched, or at the time. Blocks.

        Raises:
            ConstellationError: The reactor has been stopped.
        """
        while True:
            if operation.poll():
                return True
            if deadline is not None and perf_counter() >= deadline:
                return False
            if self.stopped:
                raise ConstellationError("this process has left its deployment: nothing comes any more")
            if not self.is_claimed() and self.role.acquire(False):
                try:
                    self.turn += 1
                    self.sleeping = True
                    while not (self.is_claimed() or self.stopped):
                        if operation.poll():
                            return True
                        left = -1.0 if deadline is None else deadline - perf_counter()
                        if deadline is not None and left <= 0:
                            return False
                        self.handle(left, operation)
                finally:
                    self.sleeping = False
                    self.role.release()
                continue  # claimed: whoever claimed takes the role now
            sleep(None if deadline is None else deadline - perf_counter())

    def handle(self, timeout: float, operation: Pollable | None = None) -> bool:
        """Poll once and handle what is there; the role must be held. Whether there was anything.

        ``operation`` is what the program waits for; None: it is the background that polls.
        """
        if self.deferred:
            self.flush_deferred()
            timeout = 0  # who waits for what this has brought looks first
        left = None if timeout < 0 else timeout
        events = self.poll_once(left) if operation is None else self._sleep(operation, left)
        for fd, mask in events:
            handler = self.handlers.get(fd)
            if handler is not None:
                handler.on_ready(mask)
        if self.touched:
            self.notify_touched()
        return bool(events)

    def poll_now(self) -> bool:
        """Handle what is there without waiting. For event loops and the ``try_`` calls. Whether there was anything."""
        if _thread.get_ident() != self.main:
            if not self.role.acquire(False):
                return False  # who drives handles it, and tells
            try:
                self.turn += 1
                return not self.stopped and self.handle(0)
            finally:
                self.role.release()
        try:
            with self.claim:
                if self.sleeping:
                    self.wake()
                with self.role:
                    self.turn += 1
                    return self.handle(0)
        except BaseException:
            self.deferred += (self.redo,)
            self.rouse()
            raise

    def is_claimed(self) -> bool:
        """Whether the main thread has the role or waits for it. For other threads."""
        if not self.claim.acquire(False):
            return True
        self.claim.release()
        return False

    def wake(self) -> None:
        """Make a poller that is asleep look at `claim`."""
        try:
            os.write(self._poke, b"\0")
        except BlockingIOError:
            pass  # full: whoever polls wakes

    def touch(self, source: Touched) -> None:
        """Tell those who wait for ``source``, from any thread."""
        self.touched += (source,)
        if not self.role._is_owned():  # type: ignore[attr-defined]  # what threading.Condition asks too
            self.wake()

    def notify_touched(self) -> None:
        """Call those who wait for what has been touched."""
        touched = self.touched
        while touched:
            for notify in list(touched[0].waiters):
                notify()
            del touched[0]

    def _sleep(self, operation: Pollable, left: float | None) -> list[tuple[int, int]]:
        """Sleep in the kernel until something is ready, or the time is over."""
        before = process_time() if self.tell_waiting is not None else 0.0
        while left is None or left > settings.PATIENCE:
            events = self.poll_once(settings.PATIENCE)
            if events:
                return events
            if left is not None:
                left -= settings.PATIENCE
            if self.tell_waiting is None or process_time() - before < settings.IDLE_CPU:
                return self._sleep_long(operation, left)
            before = process_time()
        return self.poll_once(left)

    def _sleep_long(self, operation: Pollable, left: float | None) -> list[tuple[int, int]]:
        """Go on sleeping after `settings.PATIENCE`; may return before the time is over.

        Where the node lends what a waiting process does not use, it is told at once, and again when the process goes on;
        what is waited for, and where, is told after `settings.LONG_WAIT`.
        """
        tell, waits, me = self.tell_waiting, self.waits, _thread.get_ident()
        try:
            if tell is not None:
                tell(True)
            events = self.poll_once(settings.LONG_WAIT if left is None else min(left, settings.LONG_WAIT))
            if events or waits is None or (left is not None and left <= settings.LONG_WAIT):
                return events
            waited = settings.PATIENCE + settings.LONG_WAIT
            waits.begin(me, me, operation, waits.place_of_thread(me), waited, is_endless=left is None)
            return self.poll_once(None if left is None else min(left - settings.LONG_WAIT, settings.LONGEST_POLL))
        finally:
            if waits is not None:
                waits.end(me)
            if tell is not None:
                tell(False)

    def _may_spin(self) -> bool:
        """Whether to poll before sleeping: not where that has not paid lately, or others want the core.

        Every 64th wait tries again. Involuntary context switches say that somebody else wants the core.
        """
        self._spin_turns = turns = self._spin_turns + 1
        score = self._spin_score
        if not turns & 63:
            preempted = _preemptions()
            score = -64 if preempted - self._preempted > 8 else max(score, 2)
            self._preempted = preempted
            self._spin_score = score
        if score > 8:
            self._spin_score = 8
        return score > 0

    # Writes that wait a moment for company

    def defer(self, wire: Wire) -> None:
        """Have ``wire`` flushed at the next wait, or by the background thread within a tick or two."""
        if wire not in self.deferred:
            self.deferred += (wire,)
        if self.state != "hot":
            self.rouse()

    def flush_deferred(self) -> None:
        """Write out what was deferred; the role must be held."""
        deferred = self.deferred
        while deferred:
            first = deferred[0]
            first.release()
            # It stays where it has been deferred again meanwhile, and the background may have taken it out.
            if deferred and deferred[0] is first and not first.deferred:
                del deferred[0]  # commit, from the `if` on

    def flush_aside(self) -> None:
        """Write out what was deferred, without the role: wires have locks of their own. What reads (`redo`) has to wait."""
        for wire in tuple(self.deferred):
            if wire is not self.redo:
                wire.release()

    def enter_loop(self) -> None:
        """An event loop watches the epoll from now on: the background keeps out."""
        self.loops += 1
        if self.state == "cold":
            self.rouse()

    def leave_loop(self) -> None:
        """The event loop has nothing to wait for any more."""
        self.loops -= 1
        self.turn += 1
        if not self.loops and self.state == "idle":
            self.rouse()

    # The background

    def start(self) -> None:
        """Start the background thread."""
        self._ended = _thread.allocate_lock()
        self._ended.acquire()
        self.state = "hot"
        if threading.current_thread() is threading.main_thread():
            former = signal.set_wakeup_fd(self._poke, warn_on_full_buffer=False)
            self._hears_signals = former == -1
            if not self._hears_signals:
                signal.set_wakeup_fd(former)  # the program's own, or its event loop's
            # trio takes the place for its run, and gives it back; that it was taken is nothing to warn of.
            warnings.filterwarnings("ignore", "It looks like Trio's signal handling code", RuntimeWarning)
        # The thread inherits the mask: a signal that it took in its first moments would not wake the main thread's sleep.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            _thread.start_new_thread(self._run_background, ())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def close_wake(self) -> None:
        """Close the wake-up pipe; no signal may be written to a descriptor of that number that comes later."""
        if self._hears_signals and threading.current_thread() is threading.main_thread():
            former = signal.set_wakeup_fd(-1)
            if former != self._poke:
                signal.set_wakeup_fd(former)
        os.close(self._wake_end)
        os.close(self._poke)

    def stop(self) -> None:
        """End the background thread and close the descriptors. The reactor is of no further use."""
        self.stopped = True
        self.rouse()
        if self._ended is not None:
            self._ended.acquire()
        with self.role:  # who waits in another thread has seen `stopped`, or waits for the role and will
            self.notify_touched()
            self.epoll.close()
        self.close_wake()

    def rouse(self) -> None:
        """Make the background thread, or whoever drives, look at `deferred`, `loops` and `stopped`."""
        self.roused = True
        self.wake()
        if self.state in ("hot", "idle") and self._idle.locked():
            try:
                self._idle.release()
            except RuntimeError:
                pass  # another thread was faster

    def _run_background(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # handlers belong to the main thread
        try:
            while not self.stopped:
                self.state = "hot"
                self._stay_hot()
                if self.stopped:
                    return
                if self.loops:
                    self.state = "idle"
                    if self.deferred:
                        # `redo`, left by a Ctrl-C just when the loop had looked: nothing else would wake the loop for it.
                        if self.role.acquire(False):
                            try:
                                self.flush_deferred()
                            finally:
                                self.role.release()
                    elif self.loops and not self.stopped:
                        self._idle.acquire()
                elif self.role.acquire(False):
                    try:
                        self.state = "cold"
                        self._drive_cold()
                    finally:
                        self.sleeping = False
                        self.role.release()
                else:
                    self.state = "parked"
                    if self.deferred:  # while the state was another, who deferred it relied on us
                        self._flush_for_others()
                    # Free when the waiter leaves, however it leaves. It will most likely come again: HOT first.
                    self.role.acquire()
                    self.role.release()
        except Exception:
            if not self.stopped:
                sys.excepthook(*sys.exc_info())
        finally:
            if self._ended is not None:
                self._ended.release()

    def _stay_hot(self) -> None:
        """Return when `turn` has stood still for a tick."""
        while not self.stopped:
            self.roused = False
            seen = self.turn
            self._idle.acquire(True, settings.TICK)
            if self.deferred and self._flush_for_others():
                continue
            if self.turn == seen:
                return

    def _flush_for_others(self) -> bool:
        """Write out what was deferred, beside the driver if there is one. Whether there was anything.

        What reads (`redo`) is left to the driver. A wire is taken out first: it may be deferred again at any moment.
        """
        wires = [wire for wire in self.deferred if wire is not self.redo]
        for wire in wires:
            try:
                self.deferred.remove(wire)
            except ValueError:
                pass  # the driver was faster
            wire.release()
        return bool(wires)

    def _drive_cold(self) -> None:
        self.sleeping = True
        while not (self.is_claimed() or self.roused or self.loops or self.stopped):
            self.handle(-1)


class _Wake:
    """Empties the wake-up pipe."""

    def __init__(self, reactor: Reactor, fd: int) -> None:
        self._reactor = reactor
        self._fd = fd

    def on_ready(self, events: int) -> None:
        try:
            read = os.read(self._fd, 4096)
            # A signal's own number. The kernel interrupts what the main thread waits in; but not what it was about to wait
            # in, as time.sleep: that would be over before the handler runs.
            if read.strip(_OURS) and _thread.get_ident() != self._reactor.main:
                _thread.start_new_thread(_interrupt, (self._reactor.main,))
        except BlockingIOError:
            pass

    def resume(self) -> None:
        """Nothing can be left over."""


class _Nobody:
    """Stands for a descriptor that has been forgotten since it was reported."""

    def on_ready(self, events: int) -> None:
        """Nothing to do."""

    def resume(self) -> None:
        """Nothing to do."""


_NOBODY = _Nobody()


class _Redo:
    """After an exception that may have come from a signal handler: go on wherever it came into the middle of something.

    Stands among the deferred, so that looking for it costs nothing.
    """

    deferred = False  # once it has been released

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor

    def release(self) -> None:
        """Have every handler go on."""
        for handler in list(self._reactor.handlers.values()):
            handler.resume()
        if self._reactor.touched:
            self._reactor.notify_touched()


def prepare_signals() -> None:
    """Give SIGURG, whose default is to be ignored, a handler that does nothing: it then interrupts what it finds."""
    if signal.getsignal(signal.SIGURG) == signal.SIG_DFL:
        signal.signal(signal.SIGURG, _nothing)


def _nothing(_number: int, _frame: object) -> None:
    """Handle a signal that only interrupts."""


def _interrupt(thread: int) -> None:
    """Interrupt what the main thread waits in, so that Python runs the handlers that are due."""
    time.sleep(_INTERRUPT_AFTER)
    if signal.getsignal(signal.SIGURG) is _nothing:
        signal.pthread_kill(thread, signal.SIGURG)


def _preemptions() -> int:
    """Involuntary context switches of this process so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
