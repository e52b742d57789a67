"""Where a chunk of UTF-8 may be cut."""

from __future__ import annotations

import codecs


def incomplete_tail(data: bytes | bytearray) -> int:
    """How many bytes at the end of ``data``, 0 to 3, begin a character whose rest may still come."""
    for size in range(1, min(3, len(data)) + 1):
        if data[-size] < 0x80:
            return 0
        if data[-size] >= 0xC0:  # the first byte of a character
            try:
                _, used = codecs.utf_8_decode(data[-size:], "strict", False)
            except UnicodeDecodeError:
                return 0  # no rest could make a character of it
            return size - used
    return 0
