"""The first bytes on every TCP connection to a port of ours: who is meant, and proof that the dialler belongs here.

One packet of fixed size, sent by the dialler and answered by nothing: TLS follows, with the same connection. Whoever
cannot make the proof gets a close, and nothing of ours has decoded a byte of what it sent: the proof covers everything
before it, and is compared before anything but the magic number, the version and the purpose is looked at.

The preamble keeps strangers away from the TLS library and says where a connection belongs. It is not what authenticates
a peer: that is the certificate, in both directions, after it. So a preamble that was overheard and is sent again within
the window of time, to a daemon that has been started anew or to another one, gets as far as a TLS handshake that fails.

Three keys, one for each purpose, so that a deployer, who holds only the second, cannot speak as a daemon or for a link.
"""

from __future__ import annotations

import enum
import heapq
import hmac
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from constellation.core import settings
from constellation.core.errors import HandshakeError

MAGIC: Final = b"CSTL"
NONCE_BYTES: Final = 16
KEY_BYTES: Final = 32
NO_PID: Final = bytes(32)
"""In the place of a Pid where none is meant."""

_SIGNED: Final = struct.Struct(">4sHBx32s32sQ16sQ")
_PROOF_BYTES: Final = 32
PREAMBLE_BYTES: Final = _SIGNED.size + _PROOF_BYTES
_HEAD: Final = struct.Struct(">4sHB")

WINDOW: Final = 300.0
"""How far the clocks of two computers may be apart, in seconds; what is older, or more in the future, is refused."""

MOST_NONCES: Final = 1 << 16
"""What `Replays` remembers: about 10 MiB. A daemon that is dialled more often within the window shortens the window."""


class Purpose(enum.IntEnum):
    """What a connection is for."""

    DAEMON = 1
    """A node, the master or a bridge talks to another of these."""
    DEPLOY = 2
    """A client talks to a bridge."""
    LINK = 3
    """A link from process ``source`` to process ``target``."""


class Preamble(NamedTuple):
    """What the first packet says."""

    purpose: Purpose
    nonce: bytes
    """16 random bytes, used once."""
    seconds: float
    """The dialler's clock, in seconds since 1970; kept to the microsecond."""
    target: bytes = NO_PID
    """The Pid of the process that is meant, 32 bytes."""
    source: bytes = NO_PID
    """The Pid of the process for which is dialled, 32 bytes."""
    number: int = 0
    """The number of the link between the two."""


def pack(preamble: Preamble, key: bytes) -> bytes:
    """Make the packet of `PREAMBLE_BYTES`.

    Args:
        preamble: What to say.
        key: The key of its purpose, `KEY_BYTES` long.
    """
    if len(key) != KEY_BYTES or len(preamble.nonce) != NONCE_BYTES:
        raise ValueError(f"a key of {len(key)} bytes and a nonce of {len(preamble.nonce)}: expected 32 and 16")
    if len(preamble.target) != len(NO_PID) or len(preamble.source) != len(NO_PID):
        raise ValueError("a Pid in a preamble has 32 bytes")
    signed = _SIGNED.pack(
        MAGIC,
        settings.WIRE_VERSION,
        preamble.purpose,
        preamble.target,
        preamble.source,
        preamble.number,
        preamble.nonce,
        round(preamble.seconds * 1e6),
    )
    return signed + hmac.digest(key, signed, "sha256")


def unpack(data: bytes, keys: Mapping[Purpose, bytes]) -> Preamble:
    """Read a packet and check its proof. Its time and its nonce are for `Replays` to check.

    Args:
        data: Exactly `PREAMBLE_BYTES`.
        keys: The key of each purpose that is served here.

    Raises:
        HandshakeError: The packet is refused; the text is for our log, nothing is for the peer.
    """
    if len(data) != PREAMBLE_BYTES:
        raise HandshakeError(f"the preamble has {len(data)} bytes: expected {PREAMBLE_BYTES}")
    magic, version, purpose = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise HandshakeError(f"it does not speak our protocol: it began with {data[:8]!r}")
    if version != settings.WIRE_VERSION:
        raise HandshakeError(
            f"it speaks wire version {version}, this side {settings.WIRE_VERSION}: install the same constellation on both"
        )
    key = keys.get(purpose)
    if key is None:
        served = ", ".join(str(int(each)) for each in sorted(keys))
        raise HandshakeError(f"it dialled for purpose {purpose}: served here are {served}")
    signed = data[: _SIGNED.size]
    if not hmac.compare_digest(hmac.digest(key, signed, "sha256"), data[_SIGNED.size :]):
        raise HandshakeError("its proof is wrong: it has no credential of this fabric, or not one for this purpose")
    _, _, _, target, source, number, nonce, microseconds = _SIGNED.unpack(signed)
    if signed[_HEAD.size]:
        raise HandshakeError("the preamble's reserved byte is not 0")
    return Preamble(Purpose(purpose), nonce, microseconds / 1e6, target, source, number)


class Replays:
    """Refuses preambles that are too old, too far in the future, or were seen before.

    Only packets with a right proof come here, so that a stranger cannot fill the memory. Where it is full all the same,
    the oldest are forgotten, and from then on what claims to be as old as these is refused: nothing is admitted twice.
    """

    def __init__(self, window: float = WINDOW, most: int = MOST_NONCES) -> None:
        self._window = window
        self._most = most
        self._seen: set[bytes] = set()
        self._by_age: list[tuple[float, bytes]] = []
        self._floor = float("-inf")

    def __len__(self) -> int:
        return len(self._seen)

    def admit(self, preamble: Preamble, now: float) -> None:
        """Take note of a preamble.

        Args:
            preamble: With a right proof.
            now: Seconds since 1970 by this computer's clock.

        Raises:
            HandshakeError: It is refused; says why.
        """
        age = now - preamble.seconds
        if abs(age) > self._window:
            where = "behind" if age > 0 else "ahead of"
            raise HandshakeError(
                f"its clock is {abs(age):.0f} s {where} ours: expected at most {self._window:.0f} s, set both by NTP"
            )
        while self._by_age and self._by_age[0][0] < now - self._window:
            self._seen.discard(heapq.heappop(self._by_age)[1])
        if preamble.nonce in self._seen:
            raise HandshakeError("the preamble was used before: somebody has recorded it and sends it again")
        if preamble.seconds <= self._floor:
            raise HandshakeError(f"the preamble is {age:.0f} s old, and so much has come since that it may be a replay")
        self._seen.add(preamble.nonce)
        heapq.heappush(self._by_age, (preamble.seconds, preamble.nonce))
        if len(self._by_age) > self._most:
            oldest, nonce = heapq.heappop(self._by_age)
            self._seen.discard(nonce)
            self._floor = max(self._floor, oldest)
