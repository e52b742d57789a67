"""A serializer for constellation that carries Arrow and NumPy data without a copy, and without pickle."""

from __future__ import annotations

from constellation.plugin import Serializer, hookimpl
from constellation_arrow.serializer import ArrowSerializer as ArrowSerializer

__all__ = ["ArrowSerializer", "register_serializers"]


@hookimpl
def register_serializers() -> list[Serializer]:
    """Offer `ArrowSerializer`."""
    return [ArrowSerializer()]
