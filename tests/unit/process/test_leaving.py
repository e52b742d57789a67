"""What a process waits for, and whom it asks, when it leaves (process/peer.py, process/runtime.py)."""

from __future__ import annotations

from typing import Any

from constellation.core import framing
from constellation.process.peer import Peer
from constellation.process.runtime import _Delivered
from tests.unit.process.pairs import Pair


def linked(*, value: object = b"value") -> Pair:
    """Two processes, the first of which has sent a value that the second has taken in."""
    pair = Pair()
    channel = pair.peers[0].sending("")
    channel.prepare()
    assert channel.offer(value) is None
    pair.settle()
    return pair


def end(pair: Pair, side: int) -> None:
    """One side's process ends: its descriptors are closed."""
    for link in pair.processes[side].transport.links.values():
        link.close()
    pair.processes[side].reactor.handlers.clear()


def leave(pair: Pair, side: int) -> Peer:
    """One side asks the other whether all has been taken in."""
    pair.processes[side].leaving = True
    pair.peers[side].ask_flush()
    return pair.peers[side]


def test_who_has_sent_waits_until_it_is_taken_in() -> None:
    """And not longer."""
    pair = linked()
    peer = leave(pair, 0)
    assert not peer.is_delivered
    pair.settle()
    assert peer.is_delivered


def test_who_has_sent_nothing_asks_nothing() -> None:
    """Who has only received owes the other nothing; what it has queued to say leaves all the same."""
    pair = linked()
    pair.peers[1].wire.out.append(framing.encode_frame(framing.FLUSHED, 7))
    peer = leave(pair, 1)
    assert peer.is_delivered
    assert not peer.wire.out
    pair.settle()
    assert pair.peers[0].flushed == 7
    assert peer.flushed == 0


def test_a_link_that_ends_while_the_process_leaves_is_an_answer() -> None:
    """Its peer has ended; how, nobody is left to ask."""
    pair = linked()
    peer = leave(pair, 0)
    end(pair, 1)
    pair.settle()
    assert peer.is_delivered
    assert not pair.processes[0].lost


def test_how_the_peer_has_ended_is_asked_where_somebody_waits_on_a_channel() -> None:
    """A thread of a leaving process is told the truth."""
    pair = linked()
    peer = leave(pair, 0)
    peer.receiving("back").waiters.append(lambda: None)
    end(pair, 1)
    pair.settle()
    assert pair.processes[0].lost == [peer]


def test_how_the_peer_has_ended_is_asked_by_who_does_not_leave() -> None:
    """Once."""
    pair = linked()
    end(pair, 1)
    pair.settle()
    assert pair.processes[0].lost == [pair.peers[0]]


class Asked:
    """A peer that counts how often it is asked."""

    def __init__(self) -> None:
        self.is_done = False
        self.asked = 0

    @property
    def is_delivered(self) -> bool:
        """As a peer's."""
        self.asked += 1
        return self.is_done


def test_of_many_peers_each_is_asked_a_few_times() -> None:
    """Not all of them each time that one has answered."""
    peers = [Asked() for _ in range(100)]
    several: list[Any] = list(peers)
    waiting = _Delivered(several)
    for peer in peers:
        assert not waiting.poll()
        peer.is_done = True
    assert waiting.poll()
    assert sum(peer.asked for peer in peers) < 3 * len(peers)
