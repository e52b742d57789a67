"""Schedulers for constellation that know fault domains: `Spread` over them, or `Pack` into them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from constellation.plugin import Option, Scheduler, UsageError, hookimpl
from constellation_spread.domains import Pack as Pack
from constellation_spread.domains import Spread as Spread

__all__ = ["Pack", "Spread", "register_options", "register_schedulers"]


@hookimpl
def register_options() -> list[Option]:
    """Take ``spread.by=zone,rack``."""
    return [Option("by", str, "", "Labels that make fault domains, the largest domain first: zone,rack.")]


@hookimpl
def register_schedulers(options: Mapping[str, Any]) -> list[Scheduler]:
    """Offer ``spread`` and ``pack``."""
    text: str = options["by"]
    labels = [label.strip() for label in text.split(",")] if text.strip() else []
    if not all(labels) or len(set(labels)) < len(labels):
        raise UsageError(
            f"cannot use the plugin option spread.by={text!r}: expected names of labels, such as zone,rack"
        )
    return [Spread(labels), Pack(labels)]
