"""Where a chunk of UTF-8 may be cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core.utf8 import incomplete_tail


@pytest.mark.parametrize(
    ("data", "held"),
    [
        (b"", 0),
        (b"abc", 0),
        ("\u20ac".encode(), 0),
        (b"a\xe2", 1),
        (b"a\xe2\x82", 2),
        (b"\xf0\x9f\x98", 3),
        (b"\xe0\x80", 0),  # overlong: no rest could mend it
        (b"\xed\xa0", 2),  # a surrogate: the decoder decides at its third byte
        (b"\xff", 0),
        (b"\xc0", 0),
        (b"\x80\x80\x80\x80", 0),
        (b"\xe2\x82\xac\x82", 0),
    ],
)
def test_incomplete_tail(data: bytes, held: int) -> None:
    """Only what may still become a character is held."""
    assert incomplete_tail(data) == incomplete_tail(bytearray(data)) == held


@given(st.text(), st.integers(0, 200))
def test_text_cut_anywhere_is_text(text: str, at: int) -> None:
    """What is left of a cut without its tail decodes."""
    head = text.encode()[:at]
    head[: len(head) - incomplete_tail(head)].decode()
