"""Every interleaving of the hand-over of the driver's role (core/driver.py), by breadth-first search over its states."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from constellation.core.driver import (
    BACK,
    MAIN,
    OTHER,
    PROGRAMS,
    Programs,
    State,
    Step,
    Thread,
    World,
    faults,
    moves,
    news,
)


class Found(NamedTuple):
    """What an exploration has found."""

    states: int
    fault: str
    story: list[State]
    """How it came to that, from the start on."""


def explore(world: World, programs: Programs = PROGRAMS) -> Found:
    """Walk through every state that can be reached; stop at the first fault."""
    start = State()
    came_from: dict[State, State | None] = {start: None}
    inner: dict[State, list[State]] = {}
    for state in (order := [start]):
        after = list(moves(state, programs))
        if not after:
            for fault in faults(state):
                return Found(len(order), fault, _story(state, came_from))
        # A tick is long: where somebody else can move, he has moved before it is over. The search goes on with both.
        inner[state] = after[:-1] if state.back == "hot.tick" and len(after) > 1 else after
        for each in (*after, *news(state, world)):
            if each not in came_from:
                came_from[each] = state
                order.append(each)
    turning = _turning(inner)
    if turning is not None:
        return Found(len(order), "threads keep waking each other", _story(turning, came_from))
    return Found(len(order), "", [])


def _turning(inner: dict[State, list[State]]) -> State | None:
    """A state from which the threads, left alone, need not come to rest: all others are taken away from the end."""
    left = {state: len(after) for state, after in inner.items()}
    before: dict[State, list[State]] = {}
    for state, after in inner.items():
        for each in after:
            before.setdefault(each, []).append(state)
    rest = [state for state, count in left.items() if not count]
    for state in rest:
        for each in before.get(state, ()):
            left[each] -= 1
            if not left[each]:
                rest.append(each)
    return next((state for state, count in left.items() if count), None)


def _story(state: State, came_from: dict[State, State | None]) -> list[State]:
    story = [state]
    while (earlier := came_from[story[-1]]) is not None:
        story.append(earlier)
    return story[::-1]


def tell(story: list[State]) -> str:
    """Write a story down: what each step has changed."""
    lines = [
        ", ".join(
            f"{name}={new!r}"
            for name, old, new in zip(State._fields, story[at - 1] if at else State(), state, strict=True)
            if old != new
        )
        for at, state in enumerate(story)
    ]
    return "\n".join(lines)


@contextmanager
def no_collection() -> Iterator[None]:
    """Hundreds of thousands of tuples, and no cycle among them: the collector would walk through them again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def check(world: World) -> None:
    """Fail with the story of a fault."""
    with no_collection():
        found = explore(world)
    assert not found.fault, f"{found.fault} after\n{tell(found.story)}"
    assert found.states > 1000, "the world is as large as it was meant to be"


ALL_OF_MAIN = ("drive", "once", "await", "defer", "stop")
SMALL = [
    World(ALL_OF_MAIN, ()),
    World(("drive",), ("aside",), interrupts=False),
    World(("drive",), ("touch",)),
    World(("touch",), ("aside",), interrupts=False),
    World(("defer",), ("aside",), interrupts=False),
    World(("drive",), ("defer",), interrupts=False),
    World(("await",), ("touch",), interrupts=False),
    World(("stop",), ("aside",), interrupts=False),
    World(("stop",), ("await",), interrupts=False),
]
LARGE = [
    World(("drive",), ("aside",)),
    World(("drive", "stop"), ("aside",), interrupts=False),
    World(("once",), ("aside",)),
    World(("drive",), ("defer",)),
    World(("drive",), ("await",)),
    World(("await",), ("aside",)),
    World(("await",), ("defer",)),
]


def name_of(world: World) -> str:
    """Name a world for the list of tests."""
    return (
        f"{'+'.join(world.main)} beside {'+'.join(world.other) or 'nobody'}{' with Ctrl-C' if world.interrupts else ''}"
    )


@pytest.mark.parametrize("world", SMALL, ids=name_of)
def test_no_interleaving_loses_a_wakeup_or_keeps_the_threads_awake(world: World) -> None:
    """When all sleep nothing is left to do, who wants the role has it, and without news all fall asleep."""
    check(world)


@pytest.mark.slow
@pytest.mark.parametrize("world", LARGE, ids=name_of)
def test_no_interleaving_of_a_large_world_loses_a_wakeup(world: World) -> None:
    """The same for two threads that wait at once, each step of one interrupted: up to two million states."""
    check(world)


def skip(step: str, to: str, **changes: object) -> Step:
    """A line that is not there: the next one comes at once."""
    return lambda state, thread: state._replace(**{thread: to}, **changes)  # type: ignore[arg-type]


MISTAKES: dict[str, tuple[Thread, str, Step, World]] = {
    "main does not wake a poller that sleeps": (
        MAIN,
        "drive.look",
        skip("drive.look", "drive.role"),
        World(("drive",), (), interrupts=False),
    ),
    "the background says too late that it may sleep": (
        BACK,
        "cold.asleep",
        skip("cold.asleep", "cold"),
        World(("drive",), (), interrupts=False),
    ),
    "another thread takes the role though main wants it": (
        OTHER,
        "aside.claimed",
        skip("aside.claimed", "aside.role"),
        World(("drive",), ("aside",), interrupts=False),
    ),
    "a parked background does not look at what was deferred": (
        BACK,
        "parked.flush",
        skip("parked.flush", "parked"),
        World(("drive",), ("defer",), interrupts=False),
    ),
    "what was deferred while the background sleeps wakes nobody": (
        MAIN,
        "defer.hot",
        skip("defer.hot", "away"),
        World(("defer",), (), interrupts=False),
    ),
    "an idle background does not look at the loops once more": (
        BACK,
        "idle.loops",
        skip("idle.loops", "idle.stopped"),
        World(("await",), (), interrupts=False),
    ),
    "who completes the operation of another thread does not wake the driver": (
        OTHER,
        "touch.wake",
        skip("touch.wake", "away"),
        World(("drive",), ("touch",), interrupts=False),
    ),
    "a Ctrl-C leaves no note that somebody is still to be told": (
        MAIN,
        "drive.except",
        skip("drive.except", "away"),
        World(("drive",), ("aside",)),
    ),
    "a driver in another thread does not look whether the reactor was stopped": (
        OTHER,
        "aside.run",
        skip("aside.run", "aside.try"),
        World(("stop",), ("aside",)),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_line_that_is_missing_is_found(mistake: str) -> None:
    """The search sees what it is there to see: each of these lines of the reactor is needed."""
    thread, step, wrong, world = MISTAKES[mistake]
    programs = {**PROGRAMS, thread: {**PROGRAMS[thread], step: wrong}}
    with no_collection():
        try:
            found = explore(world, programs)
        except AssertionError:  # a poll without the role, or after the end
            return
    assert found.fault
    assert tell(found.story)


def test_every_step_of_the_model_is_reached() -> None:
    """No step stands there for nothing."""
    reached: Counter[str] = Counter()
    worlds = (
        World(ALL_OF_MAIN, ()),
        World(("stop",), ("aside", "defer"), interrupts=False),
        World(("stop",), ("touch",), interrupts=False),
        World(("defer",), ("await",), interrupts=False),
    )
    with no_collection():
        for world in worlds:
            seen = {State()}
            for state in (order := [State()]):
                reached.update({f"main {state.main}", f"other {state.other}", f"back {state.back}"})
                for each in (*moves(state), *news(state, world)):
                    if each not in seen:
                        seen.add(each)
                        order.append(each)
    steps = {f"{thread} {step}" for thread, program in PROGRAMS.items() for step in program}
    elsewhere = {
        step for step in steps if step.startswith(("main touch", "other stop"))
    }  # the same steps, by the other
    assert steps - set(reached) - elsewhere == set()
