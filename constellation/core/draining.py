"""Draining: what a process that has returned still holds for others, in words.

The process says for each channel its name, the process at its other end, and how many bytes have not left. What the other
side has only not acknowledged yet counts as a channel of unknown size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from constellation.core.pid import Pid
from constellation.core.resources import format_mem

MOST_HELD = 100
"""Channels that a process tells of by name; of more it tells the first ones."""

_NAMED = 2
_PEERS = 3
_MOST_NAME = 100


class Held(NamedTuple):
    """One channel that is not drained."""

    name: str
    peer: Pid
    size: int
    """Bytes; 0 where that is not known."""


def describe(held: Sequence[Held]) -> tuple[str, ...]:
    """The channels by name, for each process: ``3 channels to 1a2b3c4 ('results' 5.2 MiB)``; the largest first."""
    peers: dict[Pid, list[Held]] = {}
    for each in sorted(held, key=lambda each: -each.size):
        peers.setdefault(each.peer, []).append(each)
    parts = []
    for peer, channels in list(peers.items())[:_PEERS]:
        known = [text for each in channels[:_NAMED] if (text := _describe_one(each))]
        more = f" ({', '.join(known)})" if known else ""
        parts.append(f"{len(channels)} channel{'' if len(channels) == 1 else 's'} to {peer}{more}")
    if len(peers) > _PEERS:
        parts.append(f"{len(peers) - _PEERS} more processes")
    return tuple(parts)


def _describe_one(held: Held) -> str:
    name = repr(held.name) if held.name else ""
    size = format_mem(held.size) if held.size else ""
    return f"{name} {size}".strip()


def describe_until(held: Sequence[Held], linger: float) -> str:
    """The line that is shown while it lasts."""
    return f"draining: {', '.join(describe(held))} until linger ({linger:g} s)"


def to_fields(held: Sequence[Held]) -> list[Any]:
    """Plain values for a control message."""
    return [[each.name[:_MOST_NAME], each.peer.to_bytes(), each.size] for each in held[:MOST_HELD]]


def from_fields(fields: list[Any]) -> tuple[Held, ...]:
    """Read what `to_fields` gave.

    Raises:
        ValueError: The fields are not those of channels.
    """
    held = []
    for field in fields[:MOST_HELD]:
        if not isinstance(field, list) or [type(value) for value in field] != [str, bytes, int]:
            raise ValueError("cannot read what is held: expected lists of name, peer and size")
        name, peer, size = field
        held.append(Held(name, Pid.from_bytes(peer), max(0, size)))
    return tuple(held)
