"""Where spans and metrics go: exporters by their names, as OpenTelemetry's variables and entry points have them; or a file."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping
from typing import Any, TextIO

from opentelemetry.metrics import Counter, UpDownCounter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from opentelemetry.trace import Tracer

from constellation.plugin import UsageError

_SCOPE = "constellation"


class Providers:
    """A tracer and the instruments.

    Args:
        spans: What takes the spans that have ended; None: nothing does.
        reader: What reads the metrics; None: nothing does.
    """

    def __init__(self, spans: SpanProcessor | None, reader: MetricReader | None) -> None:
        # The variables of OpenTelemetry (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) say more, or something else.
        resource = Resource({SERVICE_NAME: "constellation"}).merge(OTELResourceDetector().detect())
        # Not at exit: an exporter that finds nobody would hold up the end of the program; see `flush`.
        self._traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        if spans is not None:
            self._traces.add_span_processor(spans)
        readers = [] if reader is None else [reader]
        self._metrics = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
        self.tracer: Tracer = self._traces.get_tracer(_SCOPE)
        meter = self._metrics.get_meter(_SCOPE)
        self.spawned: Counter = meter.create_counter(
            "constellation.processes.spawned", "{process}", "Processes spawned."
        )
        self.ended: Counter = meter.create_counter(
            "constellation.processes.ended",
            "{process}",
            "Processes that have ended, by outcome: ok, failed, signal, unknown.",
        )
        self.running: UpDownCounter = meter.create_up_down_counter(
            "constellation.processes.running", "{process}", "Processes that run."
        )
        self.nodes: UpDownCounter = meter.create_up_down_counter(
            "constellation.nodes", "{node}", "Nodes that may be used."
        )
        self.lost: Counter = meter.create_counter("constellation.nodes.lost", "{node}", "Nodes that were lost.")

    def flush(self, seconds: float) -> None:
        """Let leave what has not left yet. Blocks, at most twice ``seconds``."""
        self._traces.force_flush(int(seconds * 1000))
        self._metrics.force_flush(int(seconds * 1000))


def make_providers(options: Mapping[str, Any]) -> Providers:
    """Make what the options and the environment say.

    Raises:
        UsageError: An exporter is not installed, or the file cannot be written.
    """
    path = options.get("file") or ""
    if path:
        file = _open(path)
        spans = ConsoleSpanExporter(out=file, formatter=lambda span: span.to_json(indent=None) + "\n")
        figures = ConsoleMetricExporter(out=file, formatter=lambda data: data.to_json(indent=None) + "\n")
        return Providers(BatchSpanProcessor(spans), PeriodicExportingMetricReader(figures))
    span_exporter = _exporter("traces", options)
    metric_exporter = _exporter("metrics", options)
    return Providers(
        None if span_exporter is None else BatchSpanProcessor(span_exporter),
        None if metric_exporter is None else PeriodicExportingMetricReader(metric_exporter),
    )


def _open(path: str) -> TextIO:
    try:
        return open(path, "a", encoding="utf-8", buffering=1)  # as long as the process
    except OSError as error:
        raise UsageError(f"cannot write otel.file={path!r}: {error.strerror}") from error


def _exporter(kind: str, options: Mapping[str, Any]) -> Any:
    name = options.get(kind) or os.environ.get(f"OTEL_{kind.upper()}_EXPORTER") or "otlp"
    if name == "none":
        return None
    # OTLP's own name for the variable's value; the entry points tell its two protocols apart.
    protocol = "http" if os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc").startswith("http") else "grpc"
    point = f"otlp_proto_{protocol}" if name == "otlp" else name
    for found in importlib.metadata.entry_points(group=f"opentelemetry_{kind}_exporter", name=point):
        return found.load()()
    raise UsageError(
        f"no exporter {name!r} of {kind} is installed: install opentelemetry-exporter-{name}, or say otel.{kind}=none, "
        "or otel.file=PATH for a file"
    )
