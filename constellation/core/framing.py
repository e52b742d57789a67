"""The frames of a link (docs/wire.md): a header of nine bytes, little endian: length u32, channel u32, kind u8.

`Decoder` is the reference: bytes in, frames out, byte at a time equal to one piece. The reactor's own loop in
`process/peer.py` is the same rule written out straight, because a call per message would cost more than the message.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from constellation.core import settings

HEADER: Final = struct.Struct("<IIB")
HEADER_BYTES: Final = HEADER.size

VALUE: Final = 0
"""A value, encoded, whole."""
LIST: Final = 1
"""Several values of one channel, encoded as one list."""
RAW: Final = 2
"""A value that is bytes, as it is."""
PARTS: Final = 3
"""The layout of a large value: what it is, then the size of each part. Chunks follow, at least one."""
CHUNK: Final = 4
"""The next bytes of the channel's large value."""
OPEN: Final = 5
"""A sender gives a channel its number: incarnation u32, name, NUL, type."""
CLOSE: Final = 6
"""The sender has closed this incarnation: no value follows."""
GRANT: Final = 7
"""To the sender: bytes it may have sent in all u64, bytes that have been taken in all u64."""
REFUSE: Final = 8
"""To the sender: the receiver's end of this incarnation is closed; a payload tells of a type that does not match."""
WANT: Final = 9
"""To the receiver: this many bytes wait u64; and whether the process is leaving u8."""
FLUSH: Final = 10
"""Answer with FLUSHED and the same payload when all before this has been taken in."""
FLUSHED: Final = 11
HELLO: Final = 12
"""First frame of each side: what it offers (core/handshake.py)."""
BYE: Final = 13
"""This side has no channel left; it will not use the link unless it says OPEN again (core/linklife.py). In the place of
the channel stands how many times this side has said so here."""
BYE_TOO: Final = 14
"""The answer to the BYE of that number: nor has this side, and it sends nothing more. Who reads this closes the link."""

LAST_KIND: Final = BYE_TOO

COUNTS: Final = struct.Struct("<QQ")
WANTED: Final = struct.Struct("<QB")
NUMBER: Final = struct.Struct("<I")

# What a large value is, in PARTS.
ENCODED: Final = 0
BYTES: Final = 1
BYTEARRAY: Final = 2
MEMORYVIEW: Final = 3


class Frame(NamedTuple):
    """One frame: kind, channel number, payload."""

    kind: int
    channel: int
    payload: bytes


class FrameError(Exception):
    """Bytes that are no frames of ours: the link cannot go on."""


def encode_frame(kind: int, channel: int, payload: bytes = b"") -> bytes:
    """Put the header before a payload."""
    return HEADER.pack(len(payload), channel, kind) + payload


def check_header(length: int, kind: int) -> None:
    """Refuse a header that no honest peer sends.

    Raises:
        FrameError: The kind is unknown or the length is above the limit; says which.
    """
    if kind > LAST_KIND:
        raise FrameError(f"unknown frame kind {kind}: expected 0 to {LAST_KIND}")
    if length > settings.LARGEST_FRAME:
        raise FrameError(f"a frame of {length} bytes: expected at most {settings.LARGEST_FRAME}")


class Decoder:
    """Turns a stream of bytes into frames, however it is cut."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes in; give the frames that are now whole.

        Raises:
            FrameError: The bytes are no frames; the decoder is of no further use.
        """
        self._rest += data
        frames, start = [], 0
        while len(self._rest) - start >= HEADER_BYTES:
            length, channel, kind = HEADER.unpack_from(self._rest, start)
            check_header(length, kind)
            end = start + HEADER_BYTES + length
            if end > len(self._rest):
                break
            frames.append(Frame(kind, channel, bytes(self._rest[start + HEADER_BYTES : end])))
            start = end
        del self._rest[:start]
        return frames


def encode_open(number: int, incarnation: int, name: str, type_text: str) -> bytes:
    """The OPEN frame of a channel."""
    payload = NUMBER.pack(incarnation) + name.encode() + b"\0" + type_text.encode()
    return encode_frame(OPEN, number, payload)


def read_open(payload: bytes) -> tuple[int, str, str]:
    """Incarnation, name and type text of an OPEN frame.

    Raises:
        FrameError: The payload is not that of an OPEN frame.
    """
    name, separator, type_text = payload[NUMBER.size :].partition(b"\0")
    if not separator or max(len(name), len(type_text)) > settings.LARGEST_NAME:
        raise FrameError("an OPEN frame without its separator, or with a name above the limit")
    try:
        return NUMBER.unpack_from(payload)[0], name.decode(), type_text.decode()
    except UnicodeDecodeError as error:
        raise FrameError(f"an OPEN frame whose text is not UTF-8: {error}") from error


def encode_parts(number: int, what: int, sizes: list[int]) -> bytes:
    """The PARTS frame of a large value."""
    return encode_frame(PARTS, number, struct.pack(f"<B{len(sizes)}Q", what, *sizes))


def read_parts(payload: bytes) -> tuple[int, tuple[int, ...]]:
    """What a large value is, and the sizes of its parts.

    Raises:
        FrameError: The payload is not that of a PARTS frame, or a size is beyond reason.
    """
    count, odd = divmod(len(payload) - 1, 8)
    if odd or not 1 <= count <= settings.MOST_PARTS or payload[0] > MEMORYVIEW or (payload[0] and count != 1):
        raise FrameError(f"a PARTS frame of {len(payload)} bytes that is no layout")
    sizes = struct.unpack_from(f"<{count}Q", payload, 1)
    if sum(sizes) > settings.LARGEST_VALUE:
        raise FrameError(f"a value of {sum(sizes)} bytes: expected at most {settings.LARGEST_VALUE}")
    return payload[0], sizes


def read_counts(payload: bytes) -> tuple[int, int]:
    """What may have been sent and what has been taken, of a GRANT frame.

    Raises:
        FrameError: The payload is not that of a GRANT frame.
    """
    if len(payload) != COUNTS.size:
        raise FrameError(f"a GRANT frame of {len(payload)} bytes: expected {COUNTS.size}")
    total, taken = COUNTS.unpack(payload)
    return total, taken


def read_wanted(payload: bytes) -> tuple[int, bool]:
    """What waits and whether the process is leaving, of a WANT frame.

    Raises:
        FrameError: The payload is not that of a WANT frame.
    """
    if len(payload) != WANTED.size:
        raise FrameError(f"a WANT frame of {len(payload)} bytes: expected {WANTED.size}")
    size, leaving = WANTED.unpack(payload)
    if size > settings.LARGEST_VALUE:
        raise FrameError(f"a WANT frame for {size} bytes: expected at most {settings.LARGEST_VALUE}")
    return size, bool(leaving)
