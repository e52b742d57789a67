"""The straight loop of a wire against the reference decoder, and against bytes that nobody honest sends."""

from __future__ import annotations

from random import Random
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constellation.core import framing
from constellation.core.errors import ChannelError, HandshakeError, PeerDied, PluginError
from constellation.core.framing import Decoder, Frame
from constellation.process import kernel
from constellation.process.incoming import NOTHING
from constellation.process.reactor import EPOLLIN, EPOLLOUT
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
    assert isinstance(peer.gone, (ChannelError, HandshakeError, type(None)))


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (framing.encode_frame(framing.VALUE, 9, b"x"), "never opened"),
        (framing.encode_frame(framing.CHUNK, 9, b"x"), "never opened"),
        (framing.encode_frame(framing.WANT, 9, framing.WANTED.pack(1, 0)), "not open"),
        (framing.encode_open(1, 0, "", "") + framing.encode_frame(framing.CHUNK, 1, b"x"), "without a layout"),
        (framing.encode_open(1, 0, "", "") + framing.encode_parts(1, framing.BYTES, [1 << 40]), "granted"),
        (framing.encode_open(1, 0, "", "") + framing.encode_frame(framing.RAW, 1, bytes(70_000)), "granted"),
        (framing.encode_frame(framing.HELLO, 0, b"constellation/1 udp pickle 1 1"), "transport 'udp'"),
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


# -- Transports that fail ----------------------------------------------------------------------------------------------


def linked() -> tuple[Pair, Any]:
    """Two processes with a link, and the first one's end of it."""
    pair = Pair()
    pair.peers[0].sending("").prepare()
    pair.peers[1].receiving("").post()
    pair.settle()
    return pair, pair.peers[0].wire.link


def raising(error: BaseException) -> Any:
    """A method that raises."""

    def fail(*_: object) -> int:
        raise error

    return fail


@pytest.mark.parametrize("method", ["send", "send_many"])
@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (ValueError("out of order"), "raised ValueError: out of order, at "),
        (None, "send returned None: expected the number of bytes"),
        (0, "send returned 0"),
        (1 << 40, "send returned 1099511627776"),
        ("x", "send returned 'x'"),
    ],
)
def test_a_send_that_breaks_its_promise_ends_the_link_with_words(method: str, answer: Any, word: str) -> None:
    """The sender gets PeerDied, and the other end is told."""
    pair, link = linked()
    setattr(link, method, raising(answer) if isinstance(answer, Exception) else lambda *_: answer)
    channel = pair.peers[0].sending("")
    with pytest.raises(PeerDied, match=r"the link is lost: transport 'memory': ") as caught:
        for _ in range(2):
            channel.offer("x" if method == "send" else bytes(10_000))
    assert word in str(caught.value)
    assert pair.processes[0].failed[0][0] == pair.processes[1].pid
    assert link.out.is_ended
    with pytest.raises(PeerDied):
        channel.prepare()


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (ValueError("no bytes"), "raised ValueError: no bytes, at "),
        (7, "receive returned 7: expected bytes"),
        ("text", "receive returned 'text': expected bytes"),
        (bytearray(b"abc"), "receive returned bytearray"),
    ],
)
def test_a_receive_that_breaks_its_promise_ends_the_link_with_words(answer: Any, word: str) -> None:
    """Nothing reaches the driver."""
    pair, link = linked()
    link.receive = raising(answer) if isinstance(answer, Exception) else lambda _: answer
    pair.peers[0].wire.on_ready(EPOLLIN)
    assert word in str(pair.peers[0].error())
    assert pair.processes[0].failed


@pytest.mark.parametrize("answer", [None, -1, 1 << 40, "x"])
def test_a_receive_into_that_breaks_its_promise_ends_the_link_with_words(answer: Any) -> None:
    """In the middle of a large value."""
    pair, _ = linked()
    link: Any = pair.peers[1].wire.link
    link.receive_into = lambda _: answer
    pair.peers[0].sending("").offer(bytes(300_000))
    with pytest.raises(PeerDied, match=f"receive_into returned {answer!r}"):
        for _ in range(100):
            for step in pair.enabled():
                step()
            if pair.peers[1].gone is not None:
                raise pair.peers[1].error()


def test_a_link_that_ends_for_writing_only_is_lost() -> None:
    """Its reader would wait for ever."""
    pair, link = linked()
    link.send = link.send_many = raising(OSError("the cable is gone"))
    pair.peers[0].sending("").offer("x")
    assert pair.peers[0].gone is None
    pair.settle()
    assert "raised OSError: the cable is gone" in str(pair.peers[0].error())


def test_a_link_that_ends_for_both_asks_for_the_certificate() -> None:
    """As a socket does whose peer has died."""
    pair, link = linked()
    link.send = link.send_many = raising(BrokenPipeError())
    link.into.is_ended = True
    pair.peers[0].sending("").offer("x")
    pair.settle()
    assert pair.peers[0].gone is None
    assert pair.processes[0].lost == [pair.peers[0]]


def test_a_close_that_raises_harms_nobody() -> None:
    """The link is given up all the same."""
    pair, link = linked()
    link.close = raising(ValueError())
    pair.peers[0].on_failed("as a test")
    assert pair.peers[0].wire.link is None


def test_an_adopt_that_raises_is_named() -> None:
    """Before there is a link at all."""
    pair = Pair()
    pair.processes[0].transport.adopt = raising(ValueError("not this one"))  # type: ignore[method-assign]
    pair.peers[0].sending("").prepare()
    pair.settle()
    assert "transport 'memory': raised ValueError: not this one" in str(pair.peers[0].error())


def test_the_other_end_takes_what_was_sent_before_and_then_hears_of_it() -> None:
    """The news may come before the last bytes."""
    pair, link = linked()
    pair.peers[0].sending("").offer("first")
    pair.peers[0].on_failed("as a test")
    receiver = pair.peers[1].receiving("")
    assert link.out.data
    with mock.patch("select.poll", Always):
        pair.peers[1].on_lost("as a test")
    assert receiver.take() == "first"
    with pytest.raises(PeerDied, match=r"the link is lost: as a test \(seen by process"):
        receiver.take()


class Always:
    """A poll that finds everything ready."""

    def register(self, fd: int, events: int) -> None: ...

    def poll(self, _: int) -> list[int]:
        return [1]


# -- Serializers that fail ---------------------------------------------------------------------------------------------


def serializing(**methods: Any) -> Pair:
    """Two processes with a link whose serializer has some methods of a test."""
    pair = Pair()
    for process in pair.processes:
        for name, method in methods.items():
            setattr(process.serializer, name, method)
    return pair


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (KeyError("shape"), "serializer 'pickle' raised KeyError: 'shape', at "),
        (b"bytes", "serializer 'pickle' returned b'bytes' from encode: expected a list of bytes"),
        ([], "returned [] from encode"),
        ([5], "returned [5] from encode"),
        (["text"], "returned ['text'] from encode"),
        ([b"first", "second"], "returned [b'first', 'second'] from encode"),
    ],
)
def test_an_encode_that_breaks_its_promise_is_named_in_its_send(answer: Any, word: str) -> None:
    """That send fails, and the channel goes on."""
    pair = serializing(encode=raising(answer) if isinstance(answer, Exception) else lambda _: answer)
    channel = pair.peers[0].sending("")
    channel.prepare()
    pair.settle()
    with pytest.raises(PluginError) as caught:
        channel.offer({"a": [1]})
    assert word in str(caught.value)
    assert channel.offer(bytes(10_000)) is None
    pair.peers[1].receiving("").post()
    pair.settle()
    assert pair.peers[1].receiving("").take() == bytes(10_000)


def test_a_decode_that_breaks_its_promise_is_named_in_its_recv() -> None:
    """That value is passed over, and the channel goes on."""
    pair = serializing(decode=raising(KeyError("shape")))
    channel = pair.peers[0].sending("")
    channel.prepare()
    channel.offer("one")
    channel.offer(bytes(10_000))
    receiver = pair.peers[1].receiving("")
    receiver.post()
    pair.settle()
    with pytest.raises(PluginError, match=r"serializer 'pickle' raised KeyError: 'shape', at .* in decode"):
        receiver.take()
    assert receiver.take() == bytes(10_000)


@pytest.mark.parametrize("answer", [5, [], None])
def test_a_decode_of_several_values_that_gives_none_is_named(answer: Any) -> None:
    """And it does not come again."""
    pair = serializing(decode=lambda _: answer)
    receiver = pair.peers[1].receiving("")
    receiver.post()
    pair.peers[0].sending("").prepare()
    pair.settle()
    wire = pair.peers[0].wire
    wire.put(framing.encode_frame(framing.LIST, 1, b"x"), framing.encode_frame(framing.RAW, 1, b"raw"))
    pair.settle()
    with pytest.raises(PluginError, match="in decode"):
        receiver.take()
    assert receiver.take() == b"raw"


def test_values_that_were_accepted_and_cannot_be_encoded_end_the_link() -> None:
    """A serializer that states that it takes all plain values has told a lie: the stream has a hole."""
    pair, _ = linked()
    channel = pair.peers[0].sending("")
    channel.granted(1 << 20, 0)
    for _ in range(10):
        channel.offer(1)
    assert channel.combined
    channel._encode = raising(ValueError("not these"))
    pair.processes[0].reactor.flush()
    assert "serializer 'pickle' takes all plain values, as it states, and raised ValueError" in str(
        pair.peers[0].error()
    )
    assert pair.processes[0].failed


class ShakingLink(MemoryLink):
    """One that takes nothing before something has come in, as in a handshake."""

    tries = 0
    has_heard = False
    limit: OSError | None = None

    def waits_to_read(self) -> bool:
        """Until the first bytes have come."""
        return not self.has_heard

    def send_many(self, buffers: Any, /) -> int:
        """Count, and as above."""
        self.tries += 1
        if self.limit is not None:
            raise self.limit
        if self.waits_to_read():
            raise BlockingIOError
        return super().send_many(buffers)

    def receive(self, size: int, /) -> bytes:
        """What comes first is the handshake's."""
        if self.limit is not None:
            raise self.limit
        data = super().receive(size)
        self.has_heard = True
        return data


def _shaking() -> tuple[Wire, ShakingLink]:
    peer = Pair().peers[0]
    link = ShakingLink(5, Pipe(1 << 30), Pipe(1 << 30))
    peer.wire.open(link, 1)
    return peer.wire, link


def test_a_link_that_waits_for_its_handshake_is_not_tried_because_there_is_room() -> None:
    """It would keep a core busy until the other side answers."""
    wire, link = _shaking()
    reactor: Any = wire.reactor
    assert not reactor.epoll.asked.get(5, EPOLLIN) & EPOLLOUT
    assert link.tries == 1
    link.into.data += framing.encode_frame(framing.BYE, 0, b"")[:3]
    wire.on_ready(EPOLLIN)
    assert link.out.data
    assert not wire.out
    assert [*reactor.handlers] == [5], "the clock is gone"
    wire.close()


def test_a_handshake_has_a_clock_and_its_limit_ends_the_link() -> None:
    """A peer that says nothing makes no descriptor ready."""
    wire, link = _shaking()
    reactor: Any = wire.reactor
    (clock,) = [handler for fd, handler in reactor.handlers.items() if fd != 5]
    clock.on_ready(EPOLLIN)
    assert link.tries == 2
    link.limit = TimeoutError("the handshake took too long")
    clock.on_ready(EPOLLIN)
    wire.on_ready(EPOLLIN | EPOLLOUT)
    assert wire.link is None
    assert not reactor.handlers
    clock.on_ready(EPOLLIN)


def test_without_a_descriptor_for_a_clock_the_link_is_looked_at_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """That costs time, and nothing is missed."""

    def none(_seconds: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(kernel, "make_clock", none)
    wire, _ = _shaking()
    reactor: Any = wire.reactor
    assert reactor.epoll.asked[5] == EPOLLIN | EPOLLOUT
    wire.close()
