"""A serializer for constellation that checks on arrival that a value is of the type that its channel states."""

from __future__ import annotations

from constellation.plugin import Serializer, hookimpl
from constellation_msgspec.serializer import MsgspecSerializer as MsgspecSerializer

__all__ = ["MsgspecSerializer", "register_serializers"]


@hookimpl
def register_serializers() -> list[Serializer]:
    """Offer `MsgspecSerializer`; it has no options."""
    return [MsgspecSerializer()]
