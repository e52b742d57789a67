"""The hot paths of channels, which have the rule of credit written out, against core/credit.py."""

from __future__ import annotations

from random import Random
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from constellation.core import credit
from constellation.core.settings import WINDOW
from constellation.process.incoming import NOTHING, Incoming
from constellation.process.outgoing import WAITS, Large, Outgoing
from tests.unit.process.pairs import Pair

CREDIT = 4 * WINDOW
SIZES = (0, 3, 900, 5_000, WINDOW // 4, WINDOW, WINDOW + 1, CREDIT - 1, CREDIT, CREDIT + 1)


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.booleans())
def test_what_is_written_out_equals_the_rule(seed: int, has_budget: bool) -> None:
    """Accepting, room and reports over random histories of one channel, with and without budget."""
    random = Random(seed)
    pair = Pair(credit=CREDIT, room=300_000)
    if not has_budget:
        pair.processes[1].budget = 0
    sender, receiver = pair.peers[0].sending(""), pair.peers[1].receiving("")
    sender.prepare()
    receiver.post()
    waiting: Large | None = None
    for _ in range(150):
        kind = random.randrange(4)
        if kind == 0 and waiting is None:
            waiting = offer(sender, bytes(random.choice(SIZES)))
        elif kind == 1:
            take(receiver)
        elif steps := pair.enabled():
            random.choice(steps)()
        if waiting is not None and sender.retry(waiting):
            waiting = None
        check(sender, receiver)


def offer(sender: Outgoing, value: bytes) -> Large | None:
    """Offer a value; it is accepted just when the rule says so."""
    expected = credit.accepts(len(value), sender._accepted, sender._consumed, CREDIT)
    large = sender.offer(value)
    if len(value) > 4096:  # of others the size is that of their pickle
        assert (large is None or large.state != WAITS) == expected
    return large


def take(receiver: Incoming) -> None:
    """Take a value; a report is made just when the rule says so."""
    first = receiver.queue[0] if receiver.queue and not receiver.values else None
    due = first is not None and credit.is_due(receiver.taken + first[2] - receiver._reported, receiver.window)
    with mock.patch.object(Incoming, "_report", autospec=True, side_effect=Incoming._report) as report:
        value = receiver.take()
    assert bool(report.call_count) == due
    assert (value is NOTHING) == (first is None) or receiver.values


def check(sender: Outgoing, receiver: Incoming) -> None:
    """The numbers of both ends fit together, and the room is that of the rule."""
    numbers = sender._accepted, sender._sent, sender._consumed, sender._granted
    has_way = not sender._queue and sender._current is None
    assert sender._room == (credit.room(*numbers, CREDIT) if has_way else 0)
    assert (
        sender._consumed <= receiver.taken <= receiver.received <= sender._sent <= sender._granted <= receiver.granted
    )
    assert sender._accepted == sender._sent + sum(large.size for large in sender._queue)
