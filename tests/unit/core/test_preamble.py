"""The first bytes of every connection: what is refused, and why."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core import settings
from constellation.core.errors import HandshakeError
from constellation.core.preamble import (
    NO_PID,
    PREAMBLE_BYTES,
    WINDOW,
    Preamble,
    Purpose,
    Replays,
    pack,
    unpack,
)

KEYS = {purpose: bytes([purpose]) * 32 for purpose in Purpose}
NOW = 1_800_000_000.25
LINK = Preamble(Purpose.LINK, b"n" * 16, NOW, b"t" * 32, b"s" * 32, 7)


def refusal(data: bytes, keys: dict[Purpose, bytes] = KEYS) -> str:
    with pytest.raises(HandshakeError) as caught:
        unpack(data, keys)
    return str(caught.value)


@given(
    st.sampled_from(Purpose),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 1 << 40),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.integers(0, (1 << 64) - 1),
)
def test_what_was_packed_is_unpacked(
    purpose: Purpose, nonce: bytes, seconds: int, target: bytes, source: bytes, number: int
) -> None:
    """Every field, for every purpose."""
    preamble = Preamble(purpose, nonce, float(seconds), target, source, number)
    data = pack(preamble, KEYS[purpose])
    assert len(data) == PREAMBLE_BYTES
    assert unpack(data, KEYS) == preamble


def test_a_packet_has_one_form() -> None:
    """As docs/wire.md has it: a change of these bytes is a change of the wire's version."""
    data = pack(LINK, KEYS[Purpose.LINK])
    assert PREAMBLE_BYTES == 136
    assert data[:8] == b"CSTL" + struct.pack(">HBx", settings.WIRE_VERSION, 3)
    assert data[8:72] == b"t" * 32 + b"s" * 32
    assert data[72:104] == struct.pack(">Q16sQ", 7, b"n" * 16, 1_800_000_000_250_000)


@given(st.integers(0, PREAMBLE_BYTES - 1), st.integers(0, 7))
def test_no_bit_can_be_changed(at: int, bit: int) -> None:
    """The proof covers everything before it."""
    data = bytearray(pack(LINK, KEYS[Purpose.LINK]))
    data[at] ^= 1 << bit
    refusal(bytes(data))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    """Whoever has no key makes no preamble."""
    refusal(data)


@pytest.mark.parametrize("held", Purpose)
@pytest.mark.parametrize("wanted", Purpose)
def test_a_key_is_good_for_its_purpose_only(held: Purpose, wanted: Purpose) -> None:
    """So a deployer's key makes no preamble of a daemon or of a link."""
    data = pack(Preamble(wanted, b"n" * 16, NOW), KEYS[held])
    if held is wanted:
        assert unpack(data, KEYS).purpose is wanted
    else:
        assert "its proof is wrong" in refusal(data)


def test_a_purpose_that_is_not_served_is_refused() -> None:
    """A node's port is not a bridge's."""
    data = pack(LINK._replace(purpose=Purpose.DEPLOY), KEYS[Purpose.DEPLOY])
    assert "served here are 1, 3" in refusal(data, {p: KEYS[p] for p in (Purpose.DAEMON, Purpose.LINK)})


def test_another_version_is_told_from_a_wrong_key() -> None:
    """The log says what to do."""
    data = bytearray(pack(LINK, KEYS[Purpose.LINK]))
    data[4:6] = struct.pack(">H", settings.WIRE_VERSION + 1)
    assert f"wire version {settings.WIRE_VERSION + 1}, this side {settings.WIRE_VERSION}" in refusal(bytes(data))


def test_another_protocol_is_named() -> None:
    """A browser or a scanner that comes by."""
    assert "b'GET / HT'" in refusal(b"GET / HTTP/1.1\r\n".ljust(PREAMBLE_BYTES))


@pytest.mark.parametrize("wrong", [LINK._replace(nonce=b"n"), LINK._replace(target=b"t"), LINK._replace(source=b"")])
def test_our_own_mistakes_are_refused(wrong: Preamble) -> None:
    """A field of another size would shift the others."""
    with pytest.raises(ValueError, match=r"16|32"):
        pack(wrong, KEYS[Purpose.LINK])


def of(number: int, seconds: float) -> Preamble:
    return Preamble(Purpose.LINK, struct.pack(">QQ", 0, number), seconds)


def refused(replays: Replays, preamble: Preamble, now: float = NOW) -> str:
    with pytest.raises(HandshakeError) as caught:
        replays.admit(preamble, now)
    return str(caught.value)


def test_a_preamble_is_admitted_once() -> None:
    """Whoever has recorded it cannot use it."""
    replays = Replays()
    replays.admit(of(1, NOW), NOW)
    assert "used before" in refused(replays, of(1, NOW))
    replays.admit(of(2, NOW), NOW)


@pytest.mark.parametrize(("skew", "words"), [(-WINDOW - 1, "behind"), (WINDOW + 1, "ahead of")])
def test_clocks_may_be_apart_so_far_and_no_further(skew: float, words: str) -> None:
    """The refusal says how far, and that it is the clock."""
    replays = Replays()
    assert words in refused(replays, of(1, NOW + skew))
    replays.admit(of(1, NOW + skew * 0.99), NOW)


def test_what_is_too_old_to_be_admitted_is_forgotten() -> None:
    """The memory holds no more than a window."""
    replays = Replays()
    for number in range(100):
        replays.admit(of(number, NOW), NOW)
    later = NOW + WINDOW + 1
    replays.admit(of(1000, later), later)
    assert len(replays) == 1
    assert "behind" in refused(replays, of(1, NOW), later)


def test_a_flood_never_lets_a_replay_through() -> None:
    """Where the memory is full the window gets shorter instead."""
    replays = Replays(most=10)
    for number in range(100):
        replays.admit(of(number, NOW + number), NOW + number)
    assert len(replays) == 10
    for number in range(100):
        assert refused(replays, of(number, NOW + number), NOW + 99)
    replays.admit(of(100, NOW + 95.5), NOW + 99)


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(-400, 400), st.floats(0, 50)), max_size=200), st.integers(1, 8))
def test_nothing_is_admitted_twice(arrivals: list[tuple[int, float, float]], most: int) -> None:
    """Whatever comes, in whatever order, however small the memory."""
    replays, now = Replays(most=most), NOW
    seen: set[tuple[int, float]] = set()
    for number, skew, passed in arrivals:
        now += passed
        preamble = of(number, now + skew)
        # The nonce and the time stand in the same packet: a replay has both.
        again = preamble if number not in {n for n, _ in seen} else of(number, next(s for n, s in seen if n == number))
        try:
            replays.admit(again, now)
        except HandshakeError:
            continue
        assert (number, again.seconds) not in seen
        seen.add((number, again.seconds))
        assert len(replays) <= most


def test_nobody_is_in_the_place_of_a_pid() -> None:
    """Where a daemon is meant and no process."""
    preamble = Preamble(Purpose.DAEMON, b"n" * 16, NOW)
    assert unpack(pack(preamble, KEYS[Purpose.DAEMON]), KEYS).target == NO_PID
