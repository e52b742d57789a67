"""What the two ends of a link agree on, in the first frame of each side: `HELLO` (docs/wire.md).

Both state the version of the wire, the version of the plugin contracts, transport and serializer by name, and of these the
version of what travels where the plugin says that it matters (an attribute ``link_version``). All must be the same; each
side compares by itself, so both refuse. Nothing of this costs anything per message.
"""

from __future__ import annotations

from typing import NamedTuple

from constellation.core import settings
from constellation.core.contracts import CONTRACT_VERSION, Serializer, Transport
from constellation.core.framing import HELLO, FrameError, encode_frame

MAGIC = "constellation"


class Disagreement(FrameError):
    """The peer speaks our language, and has started with something else."""


class Offer(NamedTuple):
    """What one side states."""

    wire: int
    """Version of the frames."""
    transport: str
    transport_version: str
    """Of what travels, where the transport says that it matters; else empty."""
    serializer: str
    serializer_version: str
    """The same of the serializer."""
    credit: int
    """Bytes that it takes in without being received; for information."""
    contract: int
    """Version of the contracts of its constellation."""

    def __str__(self) -> str:
        parts = [
            f"wire version {self.wire}",
            f"contract version {self.contract}",
            f"transport {_named(self.transport, self.transport_version)}",
            f"serializer {_named(self.serializer, self.serializer_version)}",
        ]
        return ", ".join(parts)


def offer_of(transport: Transport, serializer: Serializer, credit: int) -> Offer:
    """Say what this process offers."""
    return Offer(
        settings.WIRE_VERSION,
        transport.name,
        getattr(transport, "link_version", ""),
        serializer.name,
        getattr(serializer, "link_version", ""),
        credit,
        CONTRACT_VERSION,
    )


def encode(offer: Offer) -> bytes:
    """The HELLO frame of an offer."""
    transport = _joined(offer.transport, offer.transport_version)
    serializer = _joined(offer.serializer, offer.serializer_version)
    text = f"{MAGIC}/{offer.wire} {transport} {serializer} {offer.credit} {offer.contract}"
    return encode_frame(HELLO, 0, text.encode())


def read(payload: bytes) -> Offer:
    """The offer in a HELLO frame. What stands behind the fields that are known is a newer side's, and passed over.

    Raises:
        FrameError: The payload is not that of a HELLO frame.
    """
    try:
        head, transport, serializer, credit, contract, *_ = payload.decode("ascii").split(" ")
        magic, wire = head.split("/")
        if magic != MAGIC:
            raise ValueError(magic)
        return Offer(int(wire), *_split(transport), *_split(serializer), int(credit), int(contract))
    except ValueError as error:
        raise FrameError(f"a HELLO frame that says {payload[:80]!r}") from error


def compare(ours: Offer, theirs: Offer, packages: tuple[str, str] = ("", "")) -> None:
    """Hold the other side's offer against ours.

    Args:
        ours: Of this process.
        theirs: Of its peer.
        packages: The packages that brought our transport and our serializer; empty where they are not known.

    Raises:
        Disagreement: They differ; has both offers, and the command that mends it.
    """
    mends = []
    if (ours.wire, ours.contract) != (theirs.wire, theirs.contract):
        mends.append("`pip install --upgrade constellation` on both sides")
    for kind, package, mine, other in (
        ("transport", packages[0], ours[1:3], theirs[1:3]),
        ("serializer", packages[1], ours[3:5], theirs[3:5]),
    ):
        if mine[0] != other[0]:
            mends.append(f"start both with --{kind} {mine[0]}, or both with --{kind} {other[0]}")
        elif mine[1] != other[1]:
            mends.append(f"`pip install --upgrade {package or f'PACKAGE_OF_{mine[0]}'}` on both sides")
    if mends:
        raise Disagreement(f"it offers {theirs}; this process offers {ours}; {'; '.join(mends)}")


def _named(name: str, version: str) -> str:
    return f"{name!r} version {version}" if version else repr(name)


def _joined(name: str, version: str) -> str:
    return f"{name}/{version}" if version else name


def _split(text: str) -> tuple[str, str]:
    name, _, version = text.partition("/")
    if not name:
        raise ValueError(text)
    return name, version
