"""News of a deployment as spans and metrics.

A deployment is a trace. Its root is the span of the deployment, below it stands the span of the first process, below each
process stand those that it spawned: a process's span lasts from its start to its end and carries what its certificate says.
A child may outlive its parent, as processes do.

Hooks must not block: spans and figures are handed to the SDK's own threads, and only at the end of a deployment is waited,
a bounded time, for what has not left yet.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from opentelemetry import trace
from opentelemetry.trace import Span, SpanContext, StatusCode

from constellation.plugin import ExitStatus, NodeView, Option, Pid, Resources, hookimpl
from constellation_otel.exporting import Providers, make_providers

MOST_ENDED = 10_000
"""Processes that have ended and whose children still find them: a spawn may be told of after its spawner's end."""


class _Deployment(NamedTuple):
    """A trace. ``running`` has the spans that are open."""

    span: Span
    running: dict[Pid, tuple[Span, str]]
    ended: OrderedDict[Pid, SpanContext]


class Telemetry:
    """The plugin: hears the news, and makes spans and metrics of them.

    Args:
        providers: Where they go; None: what the options and the environment say, made when the first news comes.
    """

    def __init__(self, providers: Providers | None = None) -> None:
        self._given = providers
        self._failed = False
        self._deployments: dict[Pid, _Deployment] = {}
        self._deployment_of: dict[Pid, _Deployment] = {}

    @hookimpl
    def register_options(self) -> list[Option]:
        """What can be said beside OpenTelemetry's own variables (OTEL_...)."""
        return [
            Option("file", str, "", "Write spans and metrics to this file, a JSON object a line, and export nothing."),
            Option("traces", str, "", "Name of the exporter of spans; else OTEL_TRACES_EXPORTER, else otlp."),
            Option("metrics", str, "", "Name of the exporter of metrics; else OTEL_METRICS_EXPORTER, else otlp."),
            Option("flush_s", float, 0.5, "Seconds that the end of a deployment may wait for what has not left yet."),
        ]

    def _providers(self, options: Mapping[str, Any]) -> Providers | None:
        """Where spans and metrics go. One that cannot be made is reported once, by the hook that needed it first."""
        if self._given is None and not self._failed:
            self._failed = True
            self._given = make_providers(options)
            self._failed = False
        return self._given

    # Deployments

    @hookimpl
    def deployment_started(self, first: Pid, program: Sequence[str], options: Mapping[str, Any]) -> None:
        """Begin a trace."""
        providers = self._providers(options)
        if providers is None:
            return
        attributes = {"constellation.deployment": first.hex(), "process.command_args": list(program)}
        span = providers.tracer.start_span(
            "deployment", trace.set_span_in_context(trace.INVALID_SPAN), attributes=attributes
        )
        self._deployments[first] = _Deployment(span, {}, OrderedDict())

    @hookimpl
    def deployment_ended(self, first: Pid, code: int, options: Mapping[str, Any]) -> None:
        """End the trace, and let it leave."""
        deployment = self._deployments.pop(first, None)
        providers = self._given
        if deployment is None or providers is None:
            return
        for pid, (span, node) in list(deployment.running.items()):  # of these nobody has said how they ended
            self._close(providers, deployment, pid, span, {"constellation.node": node, "outcome": "unknown"})
        for pid in deployment.ended:
            self._deployment_of.pop(pid, None)
        deployment.span.set_attribute("process.exit.code", code)
        if code:
            deployment.span.set_status(StatusCode.ERROR, f"exit code {code}")
        deployment.span.end()
        providers.flush(options.get("flush_s", 0.5))

    # Processes

    @hookimpl
    def process_spawned(
        self,
        pid: Pid,
        parent: Pid | None,
        function: str,
        node: str,
        resources: Resources,
        options: Mapping[str, Any],
    ) -> None:
        """Begin a span below the spawner's."""
        providers = self._providers(options)
        if providers is None:
            return
        key = pid if parent is None else parent
        deployment = self._deployments.get(key) if parent is None else self._deployment_of.get(key)
        if deployment is None:
            return
        attributes: dict[str, Any] = {
            "constellation.pid": pid.hex(),
            "constellation.function": function,
            "constellation.node": node,
            **{f"constellation.resources.{name}": amount for name, amount in resources.describe().items()},
        }
        if parent is not None:
            attributes["constellation.parent"] = parent.hex()
        above = self._context(deployment, parent)
        context = trace.set_span_in_context(trace.NonRecordingSpan(above))
        span = providers.tracer.start_span(function, context, attributes=attributes)
        deployment.running[pid] = (span, node)
        self._deployment_of[pid] = deployment
        providers.spawned.add(1, {"constellation.node": node})
        providers.running.add(1, {"constellation.node": node})

    def _context(self, deployment: _Deployment, parent: Pid | None) -> SpanContext:
        if parent is not None:
            if parent in deployment.running:
                return deployment.running[parent][0].get_span_context()
            if parent in deployment.ended:
                return deployment.ended[parent]
        return deployment.span.get_span_context()

    @hookimpl
    def process_exited(self, status: ExitStatus) -> None:
        """End the span with what the certificate says."""
        deployment = self._deployment_of.get(status.pid)
        providers = self._given
        if deployment is None or providers is None or status.pid not in deployment.running:
            return
        span, node = deployment.running[status.pid]
        if status.code is not None:
            span.set_attribute("process.exit.code", status.code)
        if status.signal is not None:
            span.set_attribute("constellation.exit.signal", status.signal)
        if status.cause is not None:
            span.set_attribute("constellation.exit.cause", status.cause)
        if status.place is not None:
            span.set_attribute("constellation.spawned_at", status.place)
        if status.exception is not None:
            kind, text = status.exception
            stack = "\n".join(status.stderr)
            span.add_event(
                "exception", {"exception.type": kind, "exception.message": text, "exception.stacktrace": stack}
            )
        if not status.ok:
            span.set_status(StatusCode.ERROR, status.describe())
        outcome = (
            "ok"
            if status.ok
            else "signal"
            if status.signal is not None
            else "unknown"
            if status.code is None
            else "failed"
        )
        self._close(providers, deployment, status.pid, span, {"constellation.node": node, "outcome": outcome})

    def _close(
        self, providers: Providers, deployment: _Deployment, pid: Pid, span: Span, attributes: dict[str, str]
    ) -> None:
        span.end()
        del deployment.running[pid]
        deployment.ended[pid] = span.get_span_context()
        if len(deployment.ended) > MOST_ENDED:
            self._deployment_of.pop(deployment.ended.popitem(last=False)[0], None)
        providers.ended.add(1, attributes)
        providers.running.add(-1, {"constellation.node": attributes["constellation.node"]})

    # Nodes

    @hookimpl
    def node_joined(self, node: NodeView, options: Mapping[str, Any]) -> None:
        """Count it."""
        providers = self._providers(options)
        if providers is not None:
            providers.nodes.add(1)

    @hookimpl
    def node_lost(self, node: NodeView, reason: str, options: Mapping[str, Any]) -> None:
        """Count it."""
        providers = self._providers(options)
        if providers is not None:
            providers.nodes.add(-1)
            providers.lost.add(1, {"constellation.node": node.name, "reason": reason})
