"""What the two ends of a link agree on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core import settings
from constellation.core.contracts import CONTRACT_VERSION
from constellation.core.framing import HELLO, Decoder, FrameError
from constellation.core.handshake import Disagreement, Offer, compare, encode, offer_of, read

names = st.from_regex(r"[A-Za-z0-9_.+-]{1,64}", fullmatch=True)
versions = st.one_of(st.just(""), names)
numbers = st.integers(0, 2**40)
OURS = Offer(1, "tcp", "", "pickle", "", 4096, 1)


def payload_of(offer: Offer) -> bytes:
    """What travels of an offer."""
    (frame,) = Decoder().feed(encode(offer))
    assert (frame.kind, frame.channel) == (HELLO, 0)
    return frame.payload


@given(st.builds(Offer, numbers, names, versions, names, versions, numbers, numbers))
def test_an_offer_is_read_as_it_was_written(offer: Offer) -> None:
    """Any names and versions that plugins may have."""
    assert read(payload_of(offer)) == offer


@given(st.binary(max_size=80))
def test_any_payload_is_read_or_refused(payload: bytes) -> None:
    """With FrameError and nothing else."""
    try:
        read(payload)
    except FrameError as error:
        assert "a HELLO frame that says" in str(error)


def test_fields_of_a_newer_side_are_passed_over() -> None:
    """The format grows at its end."""
    assert read(payload_of(OURS) + b" more 12 fields") == OURS


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"constellation/1 tcp pickle 4096",
        b"constellation/x tcp pickle 1 1",
        b"other/1 a b 1 1",
        b"constellation/1 /2 b 1 1",
    ],
)
def test_what_is_no_offer_is_refused(payload: bytes) -> None:
    """Fields that are missing, or of another kind."""
    with pytest.raises(FrameError):
        read(payload)


def test_a_plugin_states_the_version_of_what_travels_if_that_matters() -> None:
    """Without it, every version of the plugin goes with every other."""
    transport: Any = SimpleNamespace(name="ws", link_version="2")
    serializer: Any = SimpleNamespace(name="pickle")
    assert offer_of(transport, serializer, 7) == Offer(
        settings.WIRE_VERSION, "ws", "2", "pickle", "", 7, CONTRACT_VERSION
    )


def test_equal_offers_agree() -> None:
    """The credit is each side's own."""
    compare(OURS, OURS._replace(credit=1))


@pytest.mark.parametrize(
    ("theirs", "mend"),
    [
        (OURS._replace(wire=2), "`pip install --upgrade constellation` on both sides"),
        (OURS._replace(contract=2), "`pip install --upgrade constellation` on both sides"),
        (OURS._replace(transport="ws"), "start both with --transport tcp, or both with --transport ws"),
        (OURS._replace(serializer="ms"), "start both with --serializer pickle, or both with --serializer ms"),
        (OURS._replace(transport_version="2"), "`pip install --upgrade constellation-tcp` on both sides"),
        (OURS._replace(serializer_version="2"), "`pip install --upgrade PACKAGE_OF_pickle` on both sides"),
    ],
)
def test_a_disagreement_has_both_offers_and_the_command_that_mends_it(theirs: Offer, mend: str) -> None:
    """Whoever reads it knows what to do on which side."""
    with pytest.raises(Disagreement) as caught:
        compare(OURS, theirs, ("constellation-tcp", ""))
    assert str(caught.value) == f"it offers {theirs}; this process offers {OURS}; {mend}"


def test_an_offer_in_words() -> None:
    """All that must be the same."""
    words = str(OURS._replace(transport="ws", transport_version="2"))
    assert words == "wire version 1, contract version 1, transport 'ws' version 2, serializer 'pickle'"
