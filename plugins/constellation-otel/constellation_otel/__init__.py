"""OpenTelemetry for constellation: one trace per deployment, a span per process, metrics of processes and nodes."""

from __future__ import annotations

from constellation_otel.news import Telemetry as Telemetry

__all__ = ["Telemetry", "telemetry"]

telemetry = Telemetry()
"""The plugin: an object, because its hooks share what they know of processes that run."""
