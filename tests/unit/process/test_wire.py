"""The straight loop of a wire against the reference decoder, and against bytes that nobody honest sends."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constellation.core import framing
from constellation.core.errors import ChannelError
from constellation.core.framing import Decoder, Frame
from constellation.process.incoming import NOTHING
from constellation.process.reactor import EPOLLIN
from constellation.process.wire import Wire
from tests.unit.process.pairs import MemoryLink, Pair, Pipe

CHANNELS = (1, 2, 7)


class Recorder:
    """A channel that notes what reaches it, in the order of the wire."""

    def __init__(self, number: int, seen: list[Frame]) -> None:
        self.number = number
        self.seen = seen
        self.received = 0
        self.granted = 1 << 60
        self.discarding = False
        self.waiters: list[Any] = []
        self.filled = 0
        self._place = bytearray()

    @property
    def queue(self) -> Recorder:
        """Where a value is put."""
        return self

    @queue.setter
    def queue(self, _same: Recorder) -> None: ...

    def __iadd__(self, entries: Any) -> Recorder:  # noqa: PYI034  # the checker of the tests knows no subclass
        for kind, payload, length in entries:
            assert length == len(payload)
            self.seen.append(Frame(kind, self.number, payload))
        return self

    def next_room(self, length: int) -> memoryview:
        """Where the next chunk belongs."""
        self._place = bytearray(length)
        return memoryview(self._place)

    def filled_to(self, count: int) -> None:
        """The chunk is whole."""
        self.seen.append(Frame(framing.CHUNK, self.number, bytes(self._place)))
        self.filled = count


def wire_of(seen: list[Frame]) -> tuple[Wire, Pipe, MemoryLink]:
    """A wire whose peer notes what reaches it."""
    peer = Pair().peers[0]
    into = Pipe(1 << 30)
    link = MemoryLink(5, Pipe(1 << 30), into)
    wire = Wire(peer, peer.reactor)
    wire.open(link, 1)
    peer.incoming_by_number = {number: Recorder(number, seen) for number in CHANNELS}  # type: ignore[misc]

    def note(_wire: Wire, kind: int, number: int, payload: bytes) -> None:
        seen.append(Frame(kind, number, payload))

    peer.on_frame = note  # type: ignore[assignment, method-assign]
    return wire, into, link


sizes = st.one_of(st.integers(0, 20), st.integers(0, 3000), st.sampled_from((65_535, 131_072, 131_073, 300_000)))
kinds = st.one_of(
    st.sampled_from((framing.VALUE, framing.LIST, framing.RAW, framing.CHUNK)), st.integers(0, framing.LAST_KIND)
)


@settings(max_examples=60)
@given(st.lists(st.tuples(kinds, st.sampled_from(CHANNELS), sizes), max_size=12), st.integers(0, 2**32))
def test_the_straight_loop_equals_the_reference(layout: list[tuple[int, int, int]], seed: int) -> None:
    """Any frames, chunks among them, with reads cut anywhere: the same frames in the same order."""
    random = Random(seed)
    data = b"".join(framing.encode_frame(kind, number, random.randbytes(size)) for kind, number, size in layout)
    reference = Decoder().feed(data)
    seen: list[Frame] = []
    wire, into, link = wire_of(seen)
    link.cut = lambda: random.choice((3, 60, 9_000, 70_000, 1 << 30))
    while data or into.data:
        size = random.choice((1, 8, 9, 100, 40_000, 1 << 30))
        into.data += data[:size]
        data = data[size:]
        wire.on_ready(EPOLLIN)
    assert seen == reference


@given(
    st.lists(st.tuples(st.integers(0, framing.LAST_KIND + 2), st.integers(0, 3), st.binary(max_size=40)), max_size=12),
    st.binary(max_size=30),
)
def test_a_hostile_peer_ends_its_link_and_nothing_else(frames: list[tuple[int, int, bytes]], rest: bytes) -> None:
    """Whatever comes in, channels go on or end with a reason; no exception reaches the driver."""
    pair = Pair()
    peer = pair.peers[0]
    peer.receiving("").post()
    peer.sending("").prepare()
    pair.settle()
    (wire,) = pair.processes[0].reactor.handlers.values()
    opening = framing.encode_open(1, 0, "", "") + framing.encode_open(2, 0, "b", "int")
    wire.link.into.data += opening + b"".join(framing.encode_frame(*frame) for frame in frames) + rest
    wire.link.into.is_ended = True
    for _ in range(100):
        if wire.link is None:
            break
        wire.on_ready(EPOLLIN)
    assert wire.link is None
    assert isinstance(peer.gone, (ChannelError, type(None)))


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (framing.encode_frame(framing.VALUE, 9, b"x"), "never opened"),
        (framing.encode_frame(framing.CHUNK, 9, b"x"), "never opened"),
        (framing.encode_frame(framing.WANT, 9, framing.WANTED.pack(1, 0)), "not open"),
        (framing.encode_open(1, 0, "", "") + framing.encode_frame(framing.CHUNK, 1, b"x"), "without a layout"),
        (framing.encode_open(1, 0, "", "") + framing.encode_parts(1, framing.BYTES, [1 << 40]), "granted"),
        (framing.encode_open(1, 0, "", "") + framing.encode_frame(framing.RAW, 1, bytes(70_000)), "granted"),
        (framing.encode_hello("udp", "pickle", 1), "transport udp"),
        (framing.HEADER.pack(1 << 30, 1, framing.VALUE), "at most"),
    ],
)
def test_what_no_peer_of_ours_sends_is_named(data: bytes, word: str) -> None:
    """What the channels raise from then on says what was wrong."""
    pair = Pair()
    peer = pair.peers[0]
    peer.receiving("").post()
    pair.settle()
    (wire,) = pair.processes[0].reactor.handlers.values()
    wire.link.into.data += data
    wire.on_ready(EPOLLIN)
    assert word in str(peer.error())


def test_an_empty_bytearray_is_one_value_also_when_its_layout_is_handled_twice() -> None:
    """After a Ctrl-C the layout comes once more; the value is whole with its chunk."""
    pair = Pair()
    receiver = pair.peers[1].receiving("")
    receiver.post()
    channel = pair.peers[0].sending("")
    channel.prepare()
    assert channel.offer(bytearray()) is None
    on_frame = pair.peers[1].on_frame

    def twice(*frame: Any) -> None:
        on_frame(*frame)
        on_frame(*frame)

    pair.peers[1].on_frame = twice  # type: ignore[assignment, method-assign]
    pair.settle()
    assert receiver.take() == bytearray()
    assert receiver.take() is NOTHING
