"""Who can still be woken, against brute force: every set of processes is tried for whether it can sleep for ever."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from constellation.core.pid import Pid
from constellation.core.why import (
    ALL,
    ANY,
    ANYONE,
    EVERYONE,
    Need,
    Wait,
    Waiter,
    from_fields,
    nothing_can_wake,
    to_fields,
    who_may_wake,
)

MOST = 7


def pid(number: int) -> Pid:
    """The Pid of a process in these tests."""
    return Pid(1, number, bytes([number]) * 16)


KEYS = [pid(number).to_bytes() for number in range(MOST + 1)]
leaves = st.sampled_from([*KEYS, *KEYS, ANYONE, EVERYONE, None])
needs = st.recursive(
    leaves,
    lambda inner: st.tuples(st.sampled_from([ANY, ALL]), st.lists(inner, min_size=1, max_size=3)).map(
        lambda pair: [pair[0], *pair[1]]
    ),
    max_leaves=5,
)
# Few ends by themselves, else hardly anybody ever sleeps.
sure_needs = needs.filter(lambda need: need is not None)


@st.composite
def graphs(draw: st.DrawFn) -> list[Waiter]:
    """Some processes, each with its waits; a number above theirs stands for one that has ended."""
    waiters = []
    for number in range(draw(st.integers(1, MOST))):
        found = draw(st.lists(sure_needs, min_size=0 if draw(st.integers(0, 4)) == 0 else 1, max_size=2))
        waits = tuple(Wait("recv", "", 1.0, need) for need in found)
        waiters.append(Waiter(pid(number), "f", waits, draw(st.integers(0, 5)) > 0))
    return waiters


def may_sleep(asleep: set[bytes], waiters: list[Waiter]) -> bool:
    """Whether these could all sleep for ever, whatever the others do: none of their needs is met by any other."""
    living = {waiter.pid.to_bytes() for waiter in waiters}
    return all(
        waiter.waits and waiter.is_endless and not any(met(wait.need, waiter, asleep, living) for wait in waiter.waits)
        for waiter in waiters
        if waiter.pid.to_bytes() in asleep
    )


def met(need: Need, waiter: Waiter, asleep: set[bytes], living: set[bytes]) -> bool:
    """Whether a need can be met by those that are not asleep."""
    others = living - {waiter.pid.to_bytes()}
    if need is None:
        return True
    if isinstance(need, bytes):
        return need not in asleep
    if need == ANYONE:
        return bool(others - asleep)
    if need == EVERYONE:
        return not others & asleep
    results = [met(each, waiter, asleep, living) for each in need[1:]]
    return any(results) if need[0] == ANY else all(results)


def sleepers(waiters: list[Waiter]) -> set[bytes]:
    """The union of all sets that may sleep for ever, found by trying each."""
    keys = [waiter.pid.to_bytes() for waiter in waiters]
    found: set[bytes] = set()
    for size in range(1, len(keys) + 1):
        for chosen in combinations(keys, size):
            if may_sleep(set(chosen), waiters):
                found |= set(chosen)
    return found


@settings(max_examples=400)
@given(graphs())
def test_who_may_wake_is_who_is_in_no_set_that_could_sleep_for_ever(waiters: list[Waiter]) -> None:
    """The fixpoint and the exhaustive search agree, whatever is waited for."""
    living = {waiter.pid.to_bytes() for waiter in waiters}
    awake = {each.to_bytes() for each in who_may_wake(waiters)}

    assert awake == living - sleepers(waiters)


@settings(max_examples=400)
@given(graphs())
def test_a_standstill_is_when_all_are_in_such_a_set(waiters: list[Waiter]) -> None:
    """It is claimed exactly when nobody may wake."""
    assert nothing_can_wake(waiters) == (not who_may_wake(waiters))


@given(graphs(), st.integers(0, MOST - 1))
def test_one_that_begins_to_run_puts_nobody_to_sleep(waiters: list[Waiter], number: int) -> None:
    """More that run, more that can be woken."""
    before = who_may_wake(waiters)
    chosen = number % len(waiters)
    waiters[chosen] = waiters[chosen]._replace(waits=())

    assert before | {waiters[chosen].pid} <= who_may_wake(waiters)


@given(st.lists(needs, max_size=70))
def test_needs_travel_or_are_told_as_not_known(several: list[Need]) -> None:
    """What is read is what was told; beyond the limits nothing is claimed that was not told."""
    waits = [Wait("recv", "prog.py:1", 1.0, need) for need in several]
    again = from_fields(to_fields(waits))

    assert [wait.need for wait in again[:49]] == several[:49]
    if len(several) > 50:
        assert again[49].need in (None, [ANY, *several[49:]])


def test_a_need_beyond_the_limits_is_one_that_is_not_known() -> None:
    """A select over thousands, and one in the other without end."""
    wide: Need = [ANY, *KEYS * 1000]
    deep: Any = KEYS[0]
    for _ in range(100):
        deep = [ALL, deep]

    assert [wait.need for wait in from_fields(to_fields([Wait("w", "", 1.0, wide), Wait("d", "", 1.0, deep)]))] == [
        None,
        None,
    ]
