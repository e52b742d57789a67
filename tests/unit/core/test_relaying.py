"""Which links are relayed: only what was ordered, each half once, and what does not come ends with a reason."""

from __future__ import annotations

import random

import pytest

from constellation.core.relaying import (
    ORDER_S,
    RELAY,
    Cut,
    Drop,
    Effect,
    End,
    Failed,
    Join,
    Order,
    Parted,
    Relays,
    Splice,
)

A, B, C = (bytes([n]) * 32 for n in (1, 2, 3))
NAME = b"d" * 16


def _order(caller: bytes = A, called: bytes = B, number: int = 1, nodes: tuple[int, int] = (2, 3)) -> Order:
    return Order(NAME, caller, called, number, nodes)


@pytest.fixture
def relays() -> Relays:
    """Room for three links."""
    return Relays(3)


@pytest.mark.parametrize("caller_first", [True, False])
def test_two_halves_of_an_order_are_joined_whoever_comes_first(relays: Relays, caller_first: bool) -> None:
    """Who calls stays who calls."""
    order = _order(caller=B, called=A)
    assert relays.order(order, 0.0) == []
    halves = [(10, A, B), (20, B, A)]
    if not caller_first:
        halves.reverse()
    assert relays.arrived(*halves[0], 1) == []
    assert relays.arrived(*halves[1], 1) == [Join(1, 10, 20)]
    assert relays.count_of(2) == relays.count_of(3) == 1
    assert relays.count_of(1) == 0
    assert relays.next_deadline() is None
    assert relays.parted(1) == order
    assert relays.parted(1) is None
    relays.check()


@pytest.mark.parametrize(
    ("target", "source", "number"),
    [(B, A, 2), (B, A, 0), (B, C, 1), (C, A, 1), (A, C, 1), (C, B, 1)],
    ids=["later number", "earlier number", "other source", "other target", "third to A", "third to B"],
)
def test_a_half_that_nobody_ordered_is_dropped(relays: Relays, target: bytes, source: bytes, number: int) -> None:
    """Both Pids and the number must be those of the order."""
    relays.order(_order(), 0.0)
    assert not relays.expects(target, source, number)
    assert relays.arrived(5, target, source, number) == [Drop(5)]
    assert relays.expects(B, A, 1)


def test_nothing_is_expected_without_an_order(relays: Relays) -> None:
    """Not even between processes that live."""
    assert not relays.expects(B, A, 1)


def test_each_half_comes_once(relays: Relays) -> None:
    """Neither a second one while the first waits, nor a third after both have come."""
    relays.order(_order(), 0.0)
    relays.arrived(1, B, A, 1)
    assert relays.arrived(2, B, A, 1) == [Drop(2)]
    assert relays.arrived(3, A, B, 1) == [Join(1, 1, 3)]
    assert relays.arrived(4, B, A, 1) == [Drop(4)]
    assert relays.arrived(5, A, B, 1) == [Drop(5)]


@pytest.mark.parametrize(("comes", "words"), [(False, "neither side has"), (True, "one of the two sides has")])
def test_an_order_that_is_not_met_ends_with_a_reason(relays: Relays, comes: bool, words: str) -> None:
    """Who had come is closed."""
    order = _order()
    relays.order(order, 5.0)
    if comes:
        relays.arrived(7, B, A, 1)
    assert relays.next_deadline() == 5.0 + ORDER_S
    assert relays.expire(5.0 + ORDER_S - 0.01) == []
    effects = relays.expire(5.0 + ORDER_S)
    assert effects[:-1] == ([Drop(7)] if comes else [])
    assert effects[-1] == Failed(order, f"{words} reached the relay within 10 s")
    assert relays.expire(99.0) == []
    assert relays.next_deadline() is None


def test_a_new_order_of_a_pair_takes_the_place_of_the_former(relays: Relays) -> None:
    """The half of the former one is of no use."""
    relays.order(_order(number=1), 0.0)
    relays.arrived(1, B, A, 1)
    assert relays.order(_order(number=2), 1.0) == [Drop(1)]
    assert not relays.expects(B, A, 1)
    assert relays.expects(B, A, 2)
    relays.check()


def test_an_order_is_withdrawn_by_its_number(relays: Relays) -> None:
    """Another number means another order; one that was joined is not touched."""
    relays.order(_order(number=2), 0.0)
    relays.arrived(1, B, A, 2)
    assert relays.withdraw(_order(number=1)) == []
    assert relays.withdraw(_order(caller=B, called=A, number=2)) == [Drop(1)]
    assert relays.withdraw(_order(number=2)) == []


def test_what_a_lost_node_had_is_ended(relays: Relays) -> None:
    """Links and orders of it, and of no other."""
    relays.order(_order(), 0.0)
    relays.arrived(1, B, A, 1)
    relays.arrived(2, A, B, 1)
    relays.order(_order(A, C, 1, (2, 4)), 0.0)
    relays.arrived(3, C, A, 1)
    relays.order(_order(B, C, 1, (3, 4)), 0.0)
    effects = relays.forget(lambda order: 2 in order.nodes)
    assert effects == [Drop(3), End(1)]
    assert relays.expects(C, B, 1)
    assert relays.parted(1) is not None


def test_what_the_relay_process_carried_goes_with_it(relays: Relays) -> None:
    """What is still to come is not lost."""
    relays.order(_order(), 0.0)
    relays.arrived(1, B, A, 1)
    relays.arrived(2, A, B, 1)
    relays.order(_order(A, C), 0.0)
    assert relays.relay_lost() == [_order()]
    assert relays.relay_lost() == []
    assert relays.expects(C, A, 1)


def test_an_order_above_what_can_be_carried_fails_at_once(relays: Relays) -> None:
    """Joined and open ones count; the reason has the figures and says what mends it."""
    for number, called in enumerate((B, C)):
        relays.order(_order(A, called), 0.0)
        relays.arrived(2 * number, called, A, 1)
    relays.arrived(9, A, B, 1)
    relays.order(_order(B, C), 0.0)
    (failed,) = relays.order(_order(C, b"x" * 32), 0.0)
    assert isinstance(failed, Failed)
    assert "carries 1 links, and 2 more are to come: it can carry 3" in failed.reason
    assert "ulimit -n" in failed.reason
    relays.parted(1)
    assert relays.order(_order(C, b"x" * 32), 0.0) == []


def test_messages_of_the_relay_are_read_as_they_were_written() -> None:
    """Numbers and fields."""
    for message in (Splice(1), Cut(2), Parted(3, "why")):
        assert RELAY.read(RELAY.fields_of(message)) == message


@pytest.mark.parametrize("seed", range(20))
def test_halves_are_neither_lost_nor_used_twice(seed: int) -> None:
    """Whatever comes in whatever order: each half waits, or is dropped, or is joined with one that says the same."""
    chance = random.Random(seed)
    relays = Relays(5)
    waiting: dict[int, tuple[bytes, bytes, int]] = {}
    joined: set[int] = set()
    now, count = 0.0, 0

    def take(effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Join(link, caller, called):
                    (target, source, number), other = waiting.pop(caller), waiting.pop(called)
                    assert other == (source, target, number)
                    joined.add(link)
                case Drop(half):
                    del waiting[half]
                case End(link):
                    joined.discard(link)
                    assert relays.parted(link) is not None
                case Failed():
                    pass

    for _ in range(600):
        one, two = chance.sample([A, B, C], 2)
        number = chance.randint(1, 2)
        match chance.randint(0, 6):
            case 0 | 1:
                take(relays.order(Order(NAME, one, two, number, (one[0], two[0])), now))
            case 2 | 3 | 4:
                count += 1
                waiting[count] = (two, one, number)
                take(relays.arrived(count, two, one, number))
            case 5:
                take(relays.withdraw(_order(one, two, number)))
            case _:
                now += chance.random() * 6
                take(relays.expire(now))
                take(relays.forget(lambda order: order.nodes[0] == one[0] and chance.random() < 0.3))  # noqa: B023
        relays.check()
    take(relays.expire(now + ORDER_S))
    assert not waiting
