"""How buffers are cut into records of an encrypted link."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from constellation.transports.tls import MOST_AT_ONCE, RECORD, data_in, records_of

SIZES = st.lists(
    st.one_of(
        st.integers(0, 64),
        st.integers(0, 3 * RECORD),
        st.sampled_from([RECORD - 1, RECORD, RECORD + 1, 2 * RECORD, 1 << 18]),
    ),
    min_size=1,
    max_size=12,
).filter(any)
CONTENT = bytes(range(256)) * (1 << 13)


def buffers_of(sizes: list[int]) -> list[bytes]:
    buffers, at = [], 0
    for size in sizes:
        buffers.append(CONTENT[at % 251 : at % 251 + size])
        at += size
    return buffers


@given(SIZES)
def test_records_hold_the_first_bytes_in_order(sizes: list[int]) -> None:
    """Nothing is lost, nothing comes twice, and none is empty or too large."""
    buffers = buffers_of(sizes)
    records = records_of(buffers)
    joined, whole = b"".join(records), b"".join(buffers)
    assert whole.startswith(joined)
    assert all(0 < len(record) <= RECORD for record in records)
    assert len(joined) == len(whole) or len(joined) >= MOST_AT_ONCE
    assert len(joined) < MOST_AT_ONCE + 2 * RECORD


@given(SIZES)
def test_there_are_few_records(sizes: list[int]) -> None:
    """Each costs two system calls, whatever is in it: no more than can be, and one for each large buffer."""
    records = records_of(buffers_of(sizes))
    total = sum(map(len, records))
    assert len(records) <= -(-total // RECORD) + sum(size >= RECORD for size in sizes)


def test_a_large_buffer_is_not_copied() -> None:
    """A header before a chunk has a record of its own: the chunk arrives in records that are decrypted into their place."""
    chunk = bytearray(1 << 18)
    records = records_of([b"header", chunk])
    assert records[0] == b"header"
    assert all(isinstance(record, memoryview) and record.obj is chunk for record in records[1:])


@given(st.lists(st.integers(1, RECORD), min_size=1, max_size=5))
def test_the_data_in_records_is_told_from_their_headers(sizes: list[int]) -> None:
    """For what a Ctrl-C came into: the ciphertext says how much of ours there is in it."""
    records = b"".join(b"\x17\x03\x03" + (size + 17).to_bytes(2, "big") + bytes(size + 17) for size in sizes)
    assert data_in(records) == sum(sizes)
