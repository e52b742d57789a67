"""The hand-over of the driver's role, as a model: `process/reactor.py` and the waits of `process/asynchrony.py` in small steps.

This is a model only: the reactor does not run it, because a call per step would cost more than the message. It has one
step for each line there that reads or writes what threads share; the comment beside a step is that line. Whoever
changes one changes the other. `tests/unit/core/test_driver.py` walks through every interleaving and proves that

* when everybody sleeps, nothing is readable, deferred or untold, and whoever waits for the role or the end has it;
* without news from outside everybody falls asleep: no two threads keep waking each other;
* a Ctrl-C in any line of the main thread leaves all this true.

Three threads. ``main`` may be interrupted: it blocks in an operation (`Reactor.drive`), polls once (`poll_now`), runs an
event loop with an await in it, sends something that waits for company (`defer`), writes what completes the other
thread's send (`touch`), or stops the reactor. ``other`` is a second thread of the program: it blocks
(`Reactor.drive_aside`), or runs an event loop. ``back`` is the background thread. Which thread moves next is anybody's
choice, so time needs no model: a tick (`settings.TICK`) may pass at any moment.

Two operations are under way at most, one of ``main`` and one of ``other``; each needs one message from the wire
(`mail`), which a driver takes in (`got`), and tells (`touched`, then `told`) the thread that sleeps for it. Sockets are
level-triggered: what has been reported and not read is reported again.

Not modelled: what handlers do (their commits), more than two threads of the program, the spinning before a sleep (it
polls, as the sleep does), a Ctrl-C inside an event loop (asyncio and trio turn it into a cancellation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple, TypeAlias

Thread: TypeAlias = Literal["main", "other", "back"]
MAIN: Final = "main"
OTHER: Final = "other"
BACK: Final = "back"


class State(NamedTuple):
    """What the threads share, and the step that each does next ("away" while it runs the program's own code)."""

    main: str = "away"
    other: str = "away"
    back: str = "hot.label"
    # Fields of the reactor.
    claim: str = ""  # who holds this lock
    role: str = ""  # who holds this lock
    sleeping: bool = False
    moved: bool = False  # `turn` is no longer what the background thread has seen
    roused: bool = False
    label: str = "hot"  # its `state`
    idle: bool = False  # its `_idle` can be acquired
    loops: int = 0
    deferred: bool = False  # a wire stands in `deferred`
    redo: bool = False  # `redo` does: an exception has come into the middle of something
    touched: frozenset[str] = frozenset()  # threads whose operation has been touched, and who are not told yet
    stopped: bool = False
    # The kernel.
    wake: bool = False  # the wake-up pipe is readable
    mail: frozenset[str] = frozenset()  # a message for the thread's operation is readable
    reported: frozenset[str] = frozenset()  # what the driver's epoll_wait has given it
    # The waiting threads.
    got: frozenset[str] = frozenset()  # the thread's operation can complete
    told: frozenset[str] = frozenset()  # the lock or the future that the thread sleeps on has been released


Step: TypeAlias = Callable[[State, Thread], "State | None"]
"""Gives the state after a step of a thread, None where the thread has to wait."""

PROGRAM: Final[tuple[Thread, ...]] = (MAIN, OTHER)
NOBODY: Final[frozenset[str]] = frozenset()


def _go(state: State, thread: Thread, step: str, **changes: object) -> State:
    """`_replace`, in half the time: ``thread`` goes on with ``step``, and stores."""
    fields: list[object] = list(state)
    fields[_FIELDS[thread]] = step
    for name, value in changes.items():
        fields[_FIELDS[name]] = value
    after = tuple.__new__(State, fields)
    if step == "away" and thread in after.got | after.touched | after.told:
        mine = {thread}  # its operation is over, and nobody is to be told of it
        return after._replace(got=after.got - mine, touched=after.touched - mine, told=after.told - mine)
    return after


_FIELDS: Final = {name: place for place, name in enumerate(State._fields)}


def _to(step: str, **changes: object) -> Step:
    """A step that only stores."""
    return lambda state, thread: _go(state, thread, step, **changes)


def _if(test: Callable[[State, Thread], object], yes: str, no: str) -> Step:
    """A step that only looks."""
    return lambda state, thread: _go(state, thread, yes if test(state, thread) else no)


def _acquire(lock: str, then: str, busy: str = "") -> Step:
    """Take a lock, or wait for it; with ``busy`` go there instead."""

    def step(state: State, thread: Thread) -> State | None:
        if not getattr(state, lock):
            return _go(state, thread, then, **{lock: thread})
        return _go(state, thread, busy) if busy else None

    return step


def _release(lock: str, then: str) -> Step:
    return _to(then, **{lock: ""})


def _readable(state: State) -> frozenset[str]:
    return state.mail | {"wake"} if state.wake else state.mail


def _poll(then: str, timeout: float | None) -> Step:
    """epoll_wait: what is readable, however long that takes; with a timeout of 0 whatever there is."""

    def step(state: State, thread: Thread) -> State | None:
        assert state.role == thread, "who polls holds the role"
        assert state.main != "ended", "the epoll has been closed"
        ready = _readable(state)
        return _go(state, thread, then, reported=ready) if ready or timeout == 0 else None

    return step


def _handle(then: str) -> Step:
    """The handlers of what was reported: read it, and note whose operation it touches."""

    def step(state: State, thread: Thread) -> State:
        mail = state.reported - {"wake"}
        return _go(
            state,
            thread,
            then,
            wake=state.wake and "wake" not in state.reported,
            mail=state.mail - mail,
            got=state.got | (mail & _waiting(state)),
            touched=state.touched | (mail & _waiting(state)),
            reported=NOBODY,
        )

    return step


def _notify(then: str) -> Step:
    return lambda state, thread: _go(state, thread, then, touched=NOBODY, told=state.told | state.touched)


def _flush(then: str) -> Step:
    """`Reactor.flush_deferred`; `redo` tells whom an exception has kept from being told."""

    def step(state: State, thread: Thread) -> State:
        told = state.touched if state.redo else NOBODY
        return _go(
            state,
            thread,
            then,
            deferred=False,
            redo=False,
            touched=state.touched - told,
            told=state.told | told,
        )

    return step


def _complete(done: str, else_: str) -> Step:
    """``operation.poll()``."""

    def step(state: State, thread: Thread) -> State:
        if thread in state.got:
            return _go(state, thread, done, got=state.got - {thread})
        return _go(state, thread, else_)

    return step


def _wait_told(then: str) -> Step:
    def step(state: State, thread: Thread) -> State | None:
        return _go(state, thread, then, told=state.told - {thread}) if thread in state.told else None

    return step


def _select(told: str, readable: str) -> Step:
    """An event loop asleep in its selector: its future has been set, or the epoll is readable."""

    def step(state: State, thread: Thread) -> State | None:
        if thread in state.told:
            return _go(state, thread, told, told=state.told - {thread})
        if state.stopped or not _readable(state):  # remove_reader
            return None
        if thread == MAIN:
            return _go(state, thread, readable)
        # poll_now in another thread: `if not self.role.acquire(False): return False`. The loop calls it again and
        # again until who drives has read; only the time when the role is free makes a difference.
        return None if state.role else _go(state, thread, "loop.turn", role=thread)

    return step


def _rouse(name: str, then: str) -> dict[str, Step]:
    """`Reactor.rouse`, called at ``name``."""
    return {
        name: _to(f"{name}.wake", roused=True),  # self.roused = True
        f"{name}.wake": _to(f"{name}.idle", wake=True),  # self.wake()
        # if self.state in ("hot", "idle") and self._idle.locked(): self._idle.release()
        f"{name}.idle": lambda state, thread: _go(
            state, thread, then, idle=state.idle or state.label in {"hot", "idle"}
        ),
    }


def _driver(name: str, timeout: float | None, after: str) -> dict[str, Step]:
    """`Reactor.handle`: called at ``name``."""
    return {
        name: _if(lambda state, _: state.deferred or state.redo, f"{name}.flush", f"{name}.poll"),  # if self.deferred:
        f"{name}.flush": _flush(f"{name}.look"),  # self.flush_deferred()
        f"{name}.look": _poll(f"{name}.handle", 0),  # timeout = 0; events = self.poll_once(timeout)
        f"{name}.poll": _poll(f"{name}.handle", timeout),  # events = self.poll_once(timeout)
        f"{name}.handle": _handle(f"{name}.notify"),  # handler.on_ready(mask)
        f"{name}.notify": _notify(after),  # if self.touched: self.notify_touched()
    }


def _claimed(name: str, yes: str, no: str) -> dict[str, Step]:
    """`Reactor.is_claimed`: called at ``name``."""
    return {
        name: _acquire("claim", f"{name}.free", busy=yes),  # if not self.claim.acquire(False): return True
        f"{name}.free": _release("claim", no),  # self.claim.release(); return False
    }


# Reactor.drive
_DRIVE: dict[str, Step] = {
    "drive": _acquire("claim", "drive.look"),  # with self.claim:
    "drive.look": _if(lambda state, _: state.sleeping, "drive.wake", "drive.role"),  # if self.sleeping:
    "drive.wake": _to("drive.role", wake=True),  # self.wake()
    "drive.role": _acquire("role", "drive.turn"),  # with self.role:
    "drive.turn": _to("drive.told", moved=True),  # self.turn += 1
    "drive.told": _notify("drive.flush"),  # if self.touched: self.notify_touched()
    "drive.flush": _flush("drive.try"),  # if self.deferred: self.flush_deferred()
    "drive.try": _complete("drive.leave", "drive.poll"),  # if poll(): return True
    "drive.poll": _poll("drive.handle", None),  # events = self._sleep(...)
    "drive.handle": _handle("drive.told"),  # handlers.get(fd, _NOBODY).on_ready(mask)
    "drive.leave": _release("role", "drive.unclaim"),  # the end of `with self.role`
    "drive.unclaim": _release("claim", "away"),  # the end of `with self.claim`
}


def _interrupted(name: str) -> dict[str, Step]:
    """The way out of `drive` and `poll_now` after a Ctrl-C."""
    return {
        f"{name}.broken": _release("role", f"{name}.raise"),  # the end of `with self.role`
        f"{name}.raise": _release("claim", f"{name}.except"),  # the end of `with self.claim`
        f"{name}.except": _to(f"{name}.rouse", redo=True),  # except: self.deferred += (self.redo,)
        **_rouse(f"{name}.rouse", "away"),  # self.rouse(); raise
    }


# Reactor.poll_now in the main thread; `once` is called by try_send and try_recv, `loop` by an event loop.
_POLL_NOW: dict[str, Step] = {}
for _name, _then in (("once", "away"), ("loop", "await.select")):
    _POLL_NOW |= {
        _name: _acquire("claim", f"{_name}.look"),  # with self.claim:
        f"{_name}.look": _if(lambda state, _: state.sleeping, f"{_name}.wake", f"{_name}.role"),  # if self.sleeping:
        f"{_name}.wake": _to(f"{_name}.role", wake=True),  # self.wake()
        f"{_name}.role": _acquire("role", f"{_name}.turn"),  # with self.role:
        f"{_name}.turn": _to(f"{_name}.do", moved=True),  # self.turn += 1
        **_driver(f"{_name}.do", 0, f"{_name}.leave"),  # return self.handle(0)
        f"{_name}.leave": _release("role", f"{_name}.unclaim"),
        f"{_name}.unclaim": _release("claim", _then),
    }

# asynchrony: park, and Reactor.enter_loop and leave_loop
_AWAIT: dict[str, Step] = {
    "await": lambda state, thread: _go(state, thread, "await.cold", loops=state.loops + 1),  # self.loops += 1
    "await.cold": _if(lambda state, _: state.label == "cold", "await.rouse", "await.try"),  # if self.state == "cold":
    **_rouse("await.rouse", "await.try"),  # self.rouse()
    "await.try": _complete("await.exit", "await.flush"),  # while not operation.poll():
    "await.flush": _to("await.select", deferred=False),  # if reactor.deferred: reactor.flush_aside()
    "await.select": _select("await.try", "loop"),  # yield from future
    "await.exit": lambda state, thread: _go(state, thread, "await.turn", loops=state.loops - 1),  # self.loops -= 1
    "await.turn": _to("await.last", moved=True),  # self.turn += 1
    # if not self.loops and self.state == "idle":
    "await.last": _if(lambda state, _: not state.loops and state.label == "idle", "await.over", "away"),
    **_rouse("await.over", "away"),  # self.rouse()
}

# Reactor.poll_now in another thread, the role taken at `await.select`
_LOOP_ASIDE: dict[str, Step] = {
    "loop.turn": _to("loop.stopped", moved=True),  # self.turn += 1
    "loop.stopped": _if(lambda state, _: state.stopped, "loop.leave", "loop.do"),  # return not self.stopped and ...
    **_driver("loop.do", 0, "loop.leave"),  # ... self.handle(0)
    "loop.leave": _release("role", "await.select"),  # finally: self.role.release()
}

# Reactor.drive_aside
_ASIDE: dict[str, Step] = {
    "aside": _complete("away", "aside.stopped"),  # if operation.poll(): return True
    "aside.stopped": _if(lambda state, _: state.stopped, "away", "aside.claimed"),  # if self.stopped: raise
    **_claimed("aside.claimed", "aside.sleep", "aside.role"),  # if not self.is_claimed() ...
    "aside.role": _acquire("role", "aside.turn", busy="aside.sleep"),  # ... and self.role.acquire(False):
    "aside.turn": _to("aside.asleep", moved=True),  # self.turn += 1
    "aside.asleep": _to("aside.look", sleeping=True),  # self.sleeping = True
    **_claimed("aside.look", "aside.awake", "aside.run"),  # while not (self.is_claimed() ...
    "aside.run": _if(lambda state, _: state.stopped, "aside.awake", "aside.try"),  # ... or self.stopped):
    "aside.try": _complete("aside.done", "aside.do"),  # if operation.poll(): return True
    **_driver("aside.do", None, "aside.look"),  # self.handle(left)
    "aside.awake": _to("aside.leave", sleeping=False),  # finally: self.sleeping = False
    "aside.leave": _release("role", "aside"),  # self.role.release(); continue
    "aside.sleep": _wait_told("aside"),  # sleep(...)
    "aside.done": _to("aside.done.leave", sleeping=False),  # the same `finally`, on the way out
    "aside.done.leave": _release("role", "away"),
}

# Reactor._run_background
_BACK: dict[str, Step] = {
    "hot.label": _to("hot", label="hot"),  # self.state = "hot"
    # _stay_hot
    "hot": _if(lambda state, _: state.stopped, "ended", "hot.calm"),  # while not self.stopped:
    "hot.calm": _to("hot.seen", roused=False),  # self.roused = False
    "hot.seen": _to("hot.tick", moved=False),  # seen = self.turn
    "hot.tick": _to("hot.deferred", idle=False),  # self._idle.acquire(True, settings.TICK)
    "hot.deferred": _if(lambda state, _: state.deferred, "hot.flush", "hot.turn"),  # if self.deferred and ...
    "hot.flush": _to("hot", deferred=False),  # ... self._flush_for_others(): continue
    "hot.turn": _if(lambda state, _: state.moved, "hot", "decide"),  # if self.turn == seen: return
    # _run_background goes on
    "decide": _if(lambda state, _: state.loops, "idle.label", "cold.role"),  # if self.loops:
    "idle.label": _to("idle.deferred", label="idle"),  # self.state = "idle"
    "idle.deferred": _if(lambda state, _: state.deferred or state.redo, "idle.role", "idle.loops"),  # if self.deferred:
    "idle.role": _acquire("role", "idle.flush", busy="hot.label"),  # if self.role.acquire(False):
    "idle.flush": _flush("idle.leave"),  # self.flush_deferred()
    "idle.leave": _release("role", "hot.label"),  # self.role.release()
    "idle.loops": _if(lambda state, _: state.loops, "idle.stopped", "hot.label"),  # elif self.loops ...
    "idle.stopped": _if(lambda state, _: state.stopped, "hot.label", "idle.wait"),  # ... and not self.stopped:
    # self._idle.acquire()
    "idle.wait": lambda state, thread: _go(state, thread, "hot.label", idle=False) if state.idle else None,
    "cold.role": _acquire("role", "cold.label", busy="parked.label"),  # elif self.role.acquire(False):
    "cold.label": _to("cold.asleep", label="cold"),  # self.state = "cold"
    # _drive_cold
    "cold.asleep": _to("cold", sleeping=True),  # self.sleeping = True
    **_claimed("cold", "cold.awake", "cold.roused"),  # while not (self.is_claimed() ...
    "cold.roused": _if(lambda state, _: state.roused, "cold.awake", "cold.loops"),  # ... or self.roused ...
    "cold.loops": _if(lambda state, _: state.loops, "cold.awake", "cold.stopped"),  # ... or self.loops ...
    "cold.stopped": _if(lambda state, _: state.stopped, "cold.awake", "cold.do"),  # ... or self.stopped):
    **_driver("cold.do", None, "cold"),  # self.handle(-1)
    "cold.awake": _to("cold.leave", sleeping=False),  # finally: self.sleeping = False
    "cold.leave": _release("role", "hot.label"),  # self.role.release()
    "parked.label": _to("parked.flush", label="parked"),  # self.state = "parked"
    "parked.flush": _to("parked", deferred=False),  # if self.deferred: self._flush_for_others()
    "parked": _acquire("role", "parked.leave"),  # self.role.acquire()
    "parked.leave": _release("role", "hot.label"),  # self.role.release()
}

# Reactor.defer, Reactor.touch, Reactor.stop
_CALLS: dict[str, Step] = {
    "defer": _to("defer.hot", deferred=True),  # self.deferred += (wire,)
    "defer.hot": _if(lambda state, _: state.label != "hot", "defer.rouse", "away"),  # if self.state != "hot":
    **_rouse("defer.rouse", "away"),  # self.rouse()
    # self.touched += (source,)
    "touch": lambda state, thread: _go(
        state, thread, "touch.wake", got=state.got | _waiting(state), touched=state.touched | _waiting(state)
    ),
    "touch.wake": _to("away", wake=True),  # if not self.role._is_owned(): self.wake()
    "stop": _to("stop.rouse", stopped=True),  # self.stopped = True
    **_rouse("stop.rouse", "stop.end"),  # self.rouse()
    # self._ended.acquire()
    "stop.end": lambda state, thread: _go(state, thread, "stop.role") if state.back == "ended" else None,
    "stop.role": _acquire("role", "stop.notify"),  # with self.role:
    "stop.notify": _notify("stop.close"),  # self.notify_touched()
    "stop.close": _release("role", "ended"),  # self.epoll.close()
}


PROGRAMS: Final[dict[Thread, dict[str, Step]]] = {
    MAIN: _DRIVE | _POLL_NOW | _interrupted("drive") | _interrupted("once") | _AWAIT | _CALLS,
    OTHER: _ASIDE | _AWAIT | _LOOP_ASIDE | _CALLS,
    BACK: _BACK,
}
"""The steps of each thread, by name. A thread whose next step has no entry does nothing more by itself."""

Programs: TypeAlias = dict[Thread, dict[str, Step]]


def moves(state: State, programs: Programs = PROGRAMS) -> Iterator[State]:
    """What may happen next without news from outside: one step of one thread."""
    for thread in (MAIN, OTHER, BACK):
        step = programs[thread].get(_at(state, thread))
        if step is not None:
            after = step(state, thread)
            if after is not None:
                yield after


def _at(state: State, thread: Thread) -> str:
    return state.main if thread == MAIN else state.other if thread == OTHER else state.back


class World(NamedTuple):
    """What the program under test does: the entry points that its threads call while they are away."""

    main: tuple[str, ...]
    other: tuple[str, ...]
    interrupts: bool = True
    """Whether Ctrl-C is pressed, any number of times."""


def news(state: State, world: World) -> Iterator[State]:
    """What may happen from outside: a call by the program, a message, a time limit, a Ctrl-C."""
    waiting = _waiting(state)
    for thread in PROGRAM:
        if thread in waiting:
            if thread not in state.mail | state.got:
                yield state._replace(mail=state.mail | {thread})
        elif _at(state, thread) == "away" and not state.stopped:
            for entry in world.main if thread == MAIN else world.other:
                yield _go(state, thread, entry)
    yield from _give_up(state)
    if world.interrupts:
        yield from _interrupt(state)


def _waiting(state: State) -> frozenset[str]:
    """The threads that are in an operation."""
    return _IN_MAIN[state.main.partition(".")[0]] | _IN_OTHER[state.other.partition(".")[0]]


_WAITS: Final = ("drive", "await", "loop", "aside")
_CALLED: Final = ("away", "ended", "once", "defer", "touch", "stop")
_IN_MAIN: Final = {**dict.fromkeys(_CALLED, NOBODY), **dict.fromkeys(_WAITS, frozenset((MAIN,)))}
_IN_OTHER: Final = {**dict.fromkeys(_CALLED, NOBODY), **dict.fromkeys(_WAITS, frozenset((OTHER,)))}


def _give_up(state: State) -> Iterator[State]:
    """A time limit passes, or a task is cancelled: checked where the thread sleeps."""
    if state.main == "drive.poll":
        yield state._replace(main="drive.leave")
    elif state.main == "await.select":
        yield state._replace(main="await.exit")
    if state.other == "aside.do.poll":
        yield state._replace(other="aside.done")
    elif state.other == "aside.sleep":
        yield _go(state, OTHER, "away")
    elif state.other == "await.select":
        yield state._replace(other="await.exit")


def _interrupt(state: State) -> Iterator[State]:
    """A Ctrl-C in the main thread while it drives: both `with` statements are left, what was polled is forgotten."""
    entry, _, line = state.main.partition(".")
    if entry in {"drive", "once"} and line and line not in _UNINTERRUPTED:
        if state.role == MAIN:
            yield state._replace(main=f"{entry}.broken", reported=NOBODY)
        else:
            yield state._replace(main=f"{entry}.raise")


_UNINTERRUPTED: Final = frozenset(
    ("leave", "unclaim", "broken", "raise", "except", "rouse", "rouse.wake", "rouse.idle")
)
"""The ends of `with` are C. A second Ctrl-C within the microseconds of the ``except`` is not modelled."""


def faults(state: State) -> Iterator[str]:
    """What is wrong with a state in which nobody moves by himself."""
    if state.mail and not state.stopped:
        yield "a message is readable and everybody sleeps"
    if (state.deferred or state.redo) and not state.stopped:
        yield "a deferred write waits and everybody sleeps"
    for thread in PROGRAM:
        step = _at(state, thread)
        if thread in state.got:
            yield f"{thread} sleeps at {step} though its operation can complete"
        if step.endswith(".role"):
            yield f"{thread} never gets the role, which {state.role} holds"
        if step in {"drive", "once", "loop"}:
            yield f"{thread} never gets the claim, which {state.claim} holds"
    if state.main == "stop.end":
        yield f"main waits for ever for the background thread, which is at {state.back}"
