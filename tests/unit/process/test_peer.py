"""Two real peers over wires in memory: channels come and go at any moment, and nothing is lost (process/peer.py)."""

from __future__ import annotations

from collections import defaultdict
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constellation.core.errors import ChannelClosed
from constellation.process.incoming import NOTHING
from constellation.process.outgoing import Large
from tests.unit.process.pairs import Pair

Way = tuple[int, str]
"""A sending side and a channel's name."""


class Walk:
    """A random program of two processes."""

    def __init__(self, random: Random, **options: int) -> None:
        self.random = random
        self.pair = Pair(**options)
        self.sent: dict[Way, list[list[object]]] = defaultdict(list)
        self.got: dict[Way, list[list[object]]] = defaultdict(list)
        self.cut_short: dict[Way, set[int]] = defaultdict(set)
        self.senders: set[Way] = set()
        self.receivers: set[Way] = set()
        self.waiting: dict[Way, tuple[Large, object]] = {}

    def send(self, way: Way) -> None:
        """Open a sender if need be; send a value of any size."""
        if way in self.waiting:
            return
        side, name = way
        channel = self.pair.peers[side].sending(name)
        if way not in self.senders:
            self.senders.add(way)
            self.sent[way].append([])
        try:
            channel.prepare()
        except ChannelClosed:
            self.close_sender(way)
            return
        values = self.sent[way][-1]
        size = self.random.choice((0, 10, 5_000, 70_000, 300_000))
        mark = str(len(values)).encode()
        value = self.random.choice(((mark, "x" * size), mark + bytes(size), bytearray(mark + bytes(size)), bytearray()))
        large = channel.offer(value)
        if large is None:
            values.append(value)
        else:
            self.waiting[way] = large, value

    def retry(self) -> None:
        """What had to wait may go on."""
        for way, (large, value) in list(self.waiting.items()):
            channel = self.pair.peers[way[0]].sending(way[1])
            try:
                done = channel.retry(large)
            except ChannelClosed:
                del self.waiting[way]
                continue
            if done:
                del self.waiting[way]
                self.sent[way][-1].append(value)

    def close_sender(self, way: Way) -> None:
        """Close it, with what was accepted."""
        if way not in self.senders:
            return
        side, name = way
        channel = self.pair.peers[side].sending(name)
        if way in self.waiting:
            large, value = self.waiting.pop(way)
            if not channel.withdraw(large):
                self.sent[way][-1].append(value)
        channel.close()
        self.pair.peers[side].end_sending(channel)
        self.senders.discard(way)

    def receive(self, way: Way) -> bool:
        """Open a receiver if need be; take what is there. False where the sender has closed."""
        side, name = way
        channel = self.pair.peers[1 - side].receiving(name)
        if way not in self.receivers:
            self.receivers.add(way)
            self.got[way].append([])
            channel.post()
        try:
            value = channel.take()
        except ChannelClosed:
            self.pair.peers[1 - side].end_receiving(channel)
            self.receivers.discard(way)
            return False
        if value is not NOTHING:
            self.got[way][-1].append(value)
        return True

    def close_receiver(self, way: Way) -> None:
        """Close it, whatever is on its way."""
        if way in self.receivers:
            channel = self.pair.peers[1 - way[0]].receiving(way[1])
            self.pair.peers[1 - way[0]].end_receiving(channel)
            self.receivers.discard(way)
            self.cut_short[way].add(len(self.got[way]) - 1)

    def step(self, names: str) -> None:
        """Something happens."""
        way = self.random.randrange(2), self.random.choice(names)
        kind = self.random.randrange(14)
        if kind < 3:
            self.send(way)
        elif kind < 6:
            self.receive(way)
        elif kind == 6:
            self.close_sender(way)
        elif kind == 7:
            self.close_receiver(way)
        elif steps := self.pair.enabled():
            self.random.choice(steps)()
            self.retry()
        self.cut()

    def cut(self) -> None:
        """Reads give as little as they like."""
        size = self.random.choice((5, 300, 9_000, 1 << 30))
        for process in self.pair.processes:
            for link in process.transport.links.values():
                link.cut = lambda size=size: size  # type: ignore[misc]


@pytest.mark.parametrize("names", ["a", "ab"])
@settings(max_examples=40)
@given(st.integers(0, 2**32))
def test_values_arrive_in_order_and_links_go_whatever_happens_when(names: str, seed: int) -> None:
    """Senders and receivers of two processes, opened and closed at random, frames cut at random."""
    walk = Walk(Random(seed), credit=1 << 18, room=40_000)
    for _ in range(120):
        walk.step(names)
    _finish(walk, names)


def _finish(walk: Walk, names: str) -> None:
    ways = [(side, name) for side in (0, 1) for name in names]
    for _ in range(2000):
        walk.pair.settle()
        walk.retry()
        for way in ways:
            if way not in walk.waiting or (way not in walk.receivers and len(walk.got[way]) >= len(walk.sent[way])):
                walk.close_sender(way)
        for way in ways:
            if way in walk.receivers or len(walk.got[way]) < len(walk.sent[way]):
                while walk.receive(way) and walk.pair.peers[1 - way[0]].receiving(way[1]).queue:
                    pass
        met = all(len(walk.got[way]) - (way in walk.receivers) >= len(walk.sent[way]) for way in ways)
        if met and not walk.senders and not walk.pair.enabled():
            break
    else:
        raise AssertionError("the two never come to an end")
    for way in ways:
        for number, values in enumerate(walk.sent[way]):
            got = walk.got[way][number]
            assert got == values[: len(got)]
            if number not in walk.cut_short[way]:
                assert len(got) >= len(values)
    for way in ways:
        walk.close_receiver(way)
    walk.pair.settle()
    assert walk.pair.links() == 0
    assert not any(process.lost for process in walk.pair.processes)
