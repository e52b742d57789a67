"""Frames: what is written is read, however the bytes are cut, and other bytes are refused (core/framing.py)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core import framing, handshake, settings
from constellation.core.framing import Decoder, Frame, FrameError

names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
frames = st.lists(
    st.builds(Frame, st.integers(0, framing.LAST_KIND), st.integers(0, 2**32 - 1), st.binary(max_size=200)), max_size=12
)


def encode(several: list[Frame]) -> bytes:
    """Their bytes."""
    return b"".join(framing.encode_frame(frame.kind, frame.channel, frame.payload) for frame in several)


@given(frames)
def test_a_byte_at_a_time_equals_one_piece(several: list[Frame]) -> None:
    """The decoder gives the frames that were encoded, however the stream is cut."""
    data = encode(several)
    assert Decoder().feed(data) == several
    slow = Decoder()
    assert [frame for at in range(len(data)) for frame in slow.feed(data[at : at + 1])] == several


@given(frames, st.lists(st.integers(0, 400), max_size=10))
def test_cuts_anywhere_change_nothing(several: list[Frame], cuts: list[int]) -> None:
    """Nor pieces of any size."""
    data, decoder, found = encode(several), Decoder(), []
    for cut in cuts:
        found += decoder.feed(data[:cut])
        data = data[cut:]
    assert found + decoder.feed(data) == several


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_are_frames_or_refused(pieces: list[bytes]) -> None:
    """A hostile peer is answered with FrameError and nothing else, and buffered only within the limit."""
    decoder = Decoder()
    try:
        for piece in pieces:
            for frame in decoder.feed(piece):
                assert frame.kind <= framing.LAST_KIND
    except FrameError as error:
        assert str(error)


@given(st.binary(max_size=80))
def test_any_payload_is_read_or_refused(payload: bytes) -> None:
    """Each reader of a payload raises FrameError and nothing else, and says what it had expected."""
    for read in (framing.read_open, framing.read_parts, handshake.read, framing.read_counts, framing.read_wanted):
        try:
            read(payload)
        except FrameError as error:
            assert str(error)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), names, names)
def test_open_is_read_as_it_was_written(number: int, incarnation: int, name: str, type_text: str) -> None:
    """Names and types of any text without NUL."""
    (frame,) = Decoder().feed(framing.encode_open(number, incarnation, name, type_text))
    assert frame.kind == framing.OPEN
    assert frame.channel == number
    assert framing.read_open(frame.payload) == (incarnation, name, type_text)


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_parts_are_read_as_they_were_written(sizes: list[int]) -> None:
    """The layout of a value of several parts."""
    (frame,) = Decoder().feed(framing.encode_parts(3, framing.ENCODED, sizes))
    assert framing.read_parts(frame.payload) == (framing.ENCODED, tuple(sizes))


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (framing.HEADER.pack(0, 0, framing.LAST_KIND + 1), "kind 15"),
        (framing.HEADER.pack(settings.LARGEST_FRAME + 1, 0, framing.VALUE), "at most"),
    ],
)
def test_a_header_that_nobody_honest_sends_is_refused_before_its_payload_comes(data: bytes, word: str) -> None:
    """An announced length takes no memory, and an unknown kind ends the link."""
    with pytest.raises(FrameError, match=word):
        Decoder().feed(data)


@pytest.mark.parametrize(
    ("payload", "word"),
    [
        (b"", "layout"),
        (bytes(9 + 4), "layout"),
        (bytes([framing.MEMORYVIEW + 1]) + bytes(8), "layout"),
        (bytes([framing.BYTES]) + bytes(16), "layout"),
        (bytes([framing.ENCODED]) + bytes(8 * (settings.MOST_PARTS + 1)), "layout"),
        (b"\0" + b"\xff" * 8, "at most"),
    ],
)
def test_a_layout_beyond_reason_is_refused(payload: bytes, word: str) -> None:
    """Sizes, their number and what the value is have limits; only an encoded value has several parts."""
    with pytest.raises(FrameError, match=word):
        framing.read_parts(payload)


@pytest.mark.parametrize(
    ("read", "payload"),
    [
        (framing.read_open, bytes(4) + b"a" * (settings.LARGEST_NAME + 1) + b"\0"),
        (framing.read_open, bytes(4) + b"\xff\0"),
        (handshake.read, b"something/1 tcp pickle 0"),
        (framing.read_wanted, framing.WANTED.pack(settings.LARGEST_VALUE + 1, 0)),
        (framing.read_counts, bytes(15)),
    ],
)
def test_a_payload_beyond_its_limits_is_refused(read: object, payload: bytes) -> None:
    """Names too long, text that is none, another program, sizes that are none."""
    assert callable(read)
    with pytest.raises(FrameError):
        read(payload)
