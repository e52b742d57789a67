"""How a node leaves: what it does when, by a clock that the test holds."""

from __future__ import annotations

from constellation.core.leaving import (
    DRAIN_LIMIT,
    LAST_WORDS,
    SAME_WISH,
    AskAll,
    Asked,
    Drain,
    Leave,
    Leaving,
    LeavingState,
    Looked,
)
from constellation.core.settings import GRACE

TERM = Asked("SIGTERM", at_once=False)
INT = Asked("SIGINT", at_once=True)
BUSY, OVER = Looked(is_over=False), Looked(is_over=True)


def draining(limit: float = 20.0, grace: float = 5.0) -> Leaving:
    """One that was asked at 100."""
    made = Leaving(limit, grace)
    assert made.step(TERM, 100.0) == [Drain("SIGTERM", limit)]
    return made


def test_what_runs_goes_on_for_the_limit_and_is_then_asked_to_end() -> None:
    """Each step once, by the clock."""
    made = draining()
    assert made.next_deadline() == 120.0
    assert made.step(BUSY, 119.9) == []
    assert made.step(BUSY, 120.0) == [AskAll("SIGTERM")]
    assert made.state is LeavingState.ENDING
    assert made.step(BUSY, 120.1) == []
    assert made.next_deadline() == 125.0 + LAST_WORDS
    assert made.step(BUSY, 125.0 + LAST_WORDS) == [Leave("SIGTERM")]
    assert made.step(BUSY, 200.0) == []


def test_a_node_leaves_as_soon_as_all_is_over() -> None:
    """While it drains, and while what was asked ends."""
    made = draining()
    assert made.step(OVER, 100.0) == [Leave("SIGTERM")]
    made = draining()
    made.step(BUSY, 120.0)
    assert made.step(OVER, 121.0) == [Leave("SIGTERM")]
    assert made.state is LeavingState.GONE
    assert made.next_deadline() is None


def test_without_a_limit_what_runs_is_asked_at_the_first_look() -> None:
    """0 means: at once, with the grace time."""
    assert draining(0.0).step(BUSY, 100.0) == [AskAll("SIGTERM")]


def test_a_second_wish_ends_it_and_the_same_signal_by_two_ways_is_one() -> None:
    """Service managers and `timeout` send to the keeper and to the daemon."""
    made = draining()
    assert made.step(TERM, 100.0 + SAME_WISH / 2) == []
    assert made.step(TERM, 100.0 + SAME_WISH) == [Leave("SIGTERM")]
    assert made.step(TERM, 101.0) == []


def test_ctrl_c_ends_it_at_once_in_every_state() -> None:
    """The first reason stays the one that is told."""
    assert Leaving(20.0, 5.0).step(INT, 100.0) == [Leave("SIGINT")]
    assert draining().step(INT, 100.1) == [Leave("SIGTERM")]
    made = draining()
    made.step(BUSY, 120.0)
    assert made.step(INT, 120.1) == [Leave("SIGTERM")]


def test_nothing_happens_to_a_node_that_stays() -> None:
    """Looks mean nothing then."""
    made = Leaving(20.0, 5.0)
    assert made.step(OVER, 1.0) == []
    assert made.step(BUSY, 1.0) == []
    assert (made.state, made.left(1.0)) == (LeavingState.STAYING, 0.0)
    assert draining().left(110.0) == 10.0


def test_the_default_fits_into_what_kubernetes_gives() -> None:
    """Thirty seconds, and some for the interpreters to end."""
    assert DRAIN_LIMIT + GRACE + LAST_WORDS < 28
