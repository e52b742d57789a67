"""Schedulers for constellation that know fault domains: `Spread` over them, or `Pack` into them."""

from __future__ import annotations

from collections.abc import Mapping

from constellation.plugin import Scheduler, UsageError, hookimpl
from constellation_spread.domains import Pack as Pack
from constellation_spread.domains import Spread as Spread

__all__ = ["Pack", "Spread", "register_schedulers"]


@hookimpl
def register_schedulers(options: Mapping[str, str]) -> list[Scheduler]:
    """Offer ``spread`` and ``pack``.

    The option ``by`` names the labels that make fault domains, the largest first: ``spread.by=zone,rack``.
    """
    text = options.get("by", "")
    labels = [label.strip() for label in text.split(",")] if text.strip() else []
    if not all(labels) or len(set(labels)) < len(labels):
        raise UsageError(
            f"cannot use the plugin option spread.by={text!r}: expected names of labels, such as zone,rack"
        )
    return [Spread(labels), Pack(labels)]
