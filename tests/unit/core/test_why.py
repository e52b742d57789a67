"""The standstill and its words."""

from __future__ import annotations

import pytest

from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.core.settings import STANDSTILL
from constellation.core.why import (
    MOST_WAITS,
    Standstill,
    Wait,
    Waiter,
    explain,
    explain_demand,
    from_fields,
    nothing_can_wake,
    to_fields,
)

_RECV = Wait("recv from 0101010", "prog.py:3", 100.0, Pid(1, 1, bytes([1]) * 16).to_bytes())


def _waiter(number: int, *waits: Wait, endless: bool = True) -> Waiter:
    return Waiter(Pid(1, number, bytes([number]) * 16), "prog:child", waits, endless)


def test_all_must_wait_without_end() -> None:
    """One that runs, or can wake by itself, is enough to end the others' wait."""
    assert nothing_can_wake([_waiter(1, _RECV), _waiter(2, _RECV)])
    assert not nothing_can_wake([_waiter(1, _RECV), _waiter(2)])
    assert not nothing_can_wake([_waiter(1, _RECV), _waiter(2, _RECV, endless=False)])
    assert not nothing_can_wake([])


def test_a_standstill_is_said_once_after_its_time() -> None:
    """The deadline leads to the moment; afterwards nothing is said again."""
    machine = Standstill()
    waiters = [_waiter(1, _RECV)]

    assert not machine.step(waiters, is_quiet=True, now=10.0)
    assert machine.next_deadline() == 10.0 + STANDSTILL
    assert not machine.step(waiters, is_quiet=True, now=10.0 + STANDSTILL - 0.1)
    assert machine.step(waiters, is_quiet=True, now=10.0 + STANDSTILL)
    assert machine.next_deadline() is None
    assert not machine.step(waiters, is_quiet=True, now=30.0)


@pytest.mark.parametrize("how", ["runs", "noise", "restart"])
def test_any_change_begins_the_time_anew(how: str) -> None:
    """A process that ran, one that was started, and a change in between."""
    machine = Standstill()
    waiters = [_waiter(1, _RECV)]
    machine.step(waiters, is_quiet=True, now=0.0)
    if how == "restart":
        machine.restart()
    else:
        machine.step([_waiter(1)] if how == "runs" else waiters, is_quiet=how != "noise", now=4.0)

    assert not machine.step(waiters, is_quiet=True, now=6.0)
    assert machine.step(waiters, is_quiet=True, now=6.0 + STANDSTILL)


def test_words_name_process_operation_time_and_place() -> None:
    """One line for each wait; a place that is not known is left out."""
    waiters = [_waiter(1, _RECV), _waiter(2), _waiter(3, Wait("spawn of prog:x", "", 104.0))]

    assert explain(waiters, now=105.5) == [
        "0101010 (prog:child) waits in recv from 0101010, since 5.5 s at prog.py:3",
        "0202020 (prog:child) runs, or has waited for less than a moment",
        "0303030 (prog:child) waits in spawn of prog:x, since 1.5 s",
    ]


def test_waits_travel_as_plain_values() -> None:
    """What comes out equals what went in; the number is limited."""
    assert from_fields(to_fields([_RECV])) == (_RECV,)
    assert len(from_fields(to_fields([_RECV] * 200))) == MOST_WAITS


@pytest.mark.parametrize("field", [1, [], ["a", "b"], ["a", "b", "c"], [b"a", "b", 1.0]])
def test_other_values_are_refused(field: object) -> None:
    """A process cannot upset the node with what it says of itself."""
    with pytest.raises(ValueError, match="cannot read a wait"):
        from_fields([field])


def test_a_queued_spawn_names_what_it_wants_and_who_holds_it() -> None:
    """Only what is missing; those who hold most of it first; of many a few."""
    capacity = Resources(mem="300 MiB", cpu=4, gpu=1)
    pids = [Pid(1, number, bytes([number]) * 16) for number in range(1, 9)]

    text = explain_demand(
        "prog:child",
        Resources(mem="100 MiB", cpu=1),
        capacity,
        [(pids[0], Resources(mem="50 MiB", cpu=1)), (pids[1], Resources(mem="200 MiB", cpu=1))],
    )
    assert text == (
        "the spawn of prog:child waits for 100 MiB of memory (50 MiB of 300 MiB free); "
        "held by 0202020 (200 MiB) and 0101010 (50 MiB)"
    )
    text = explain_demand("f", Resources(gpu=1), capacity, [(pids[0], Resources(mem=0, cpu=0, gpu=1))])
    assert text == "the spawn of f waits for 1 gpu (0 of 1 free); held by 0101010 (1)"
    text = explain_demand("f", Resources(cpu=1), capacity, [(pid, Resources(cpu=0.5, mem=0)) for pid in pids])
    assert text.endswith("0505050 (0.5) and 3 more")
    assert explain_demand("f", Resources(cpu=0), capacity, []).endswith("behind demands that came before it")


def test_the_stuck_are_marked_and_states_are_told() -> None:
    """Where not all stand still it is said of whom; notes follow, indented."""
    waiter = _waiter(1, _RECV)._replace(state="is stopped", notes=("more",))

    assert explain([waiter], 101.0, [waiter.pid]) == [
        "0101010 (prog:child) is stopped",
        "0101010 (prog:child) waits in recv from 0101010, since 1.0 s at prog.py:3; nothing can wake it",
        "    more",
    ]
