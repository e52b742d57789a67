"""News of a deployment come out as one trace and as figures, with an exporter in memory."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import pytest
from constellation_otel import Telemetry
from constellation_otel.exporting import Providers, make_providers
from constellation_otel.news import MOST_ENDED
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from constellation.plugin import ExitStatus, NodeView, Pid, Resources, UsageError


def pid(number: int) -> Pid:
    """A process."""
    return Pid(1, number, number.to_bytes(16, "big"))


class World:
    """A plugin, and what it has exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.plugin = Telemetry(Providers(SimpleSpanProcessor(self.exporter), self.reader))

    def start(self, number: int) -> None:
        """A deployment begins."""
        self.plugin.deployment_started(first=pid(number), program=["python", "prog.py"], options={})
        self.spawn(number, None)

    def spawn(self, number: int, parent: int | None, node: str = "local") -> None:
        """A process runs."""
        above = None if parent is None else pid(parent)
        self.plugin.process_spawned(
            pid=pid(number),
            parent=above,
            function=f"prog:f{number}",
            node=node,
            resources=Resources(100, 0.5, gpu=1),
            options={},
        )

    def exit(self, number: int, code: int | None = 0, **more: Any) -> None:
        """A process ends."""
        self.plugin.process_exited(status=ExitStatus(pid(number), code, more.pop("signal", None), **more))

    def end(self, number: int, code: int = 0) -> None:
        """The deployment ends."""
        self.plugin.deployment_ended(first=pid(number), code=code, options={"flush_s": 0.5})

    def spans(self) -> dict[str, ReadableSpan]:
        """The spans that have ended, by name."""
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def figures(self) -> dict[tuple[str, ...], int]:
        """Each figure by its name and the values of its attributes."""
        data: Any = self.reader.get_metrics_data()
        return {
            (metric.name.removeprefix("constellation."), *point.attributes.values()): point.value
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        }


@pytest.fixture
def world() -> World:
    """A plugin that knows nothing yet."""
    return World()


def test_a_deployment_is_one_trace_with_a_span_per_process_below_its_spawners(world: World) -> None:
    """Also where the spawner has ended before its child was told of."""
    world.start(1)
    world.spawn(2, 1)
    world.exit(2)
    world.spawn(3, 2)
    world.spawn(4, 3)
    for number in (3, 4, 1):
        world.exit(number)
    world.end(1)
    spans = world.spans()
    ids = {name: span.context.span_id for name, span in spans.items() if span.context}
    above = {name: span.parent.span_id if span.parent else None for name, span in spans.items()}
    assert above == {
        "deployment": None,
        "prog:f1": ids["deployment"],
        "prog:f2": ids["prog:f1"],
        "prog:f3": ids["prog:f2"],
        "prog:f4": ids["prog:f3"],
    }
    assert len({span.context.trace_id for span in spans.values() if span.context}) == 1
    assert all(span.end_time and span.start_time and span.end_time >= span.start_time for span in spans.values())


def test_deployments_at_the_same_time_are_traces_of_their_own(world: World) -> None:
    """As on a master that has several."""
    world.start(1)
    world.start(10)
    world.spawn(2, 1)
    world.spawn(11, 10)
    for number in (11, 2, 10):
        world.exit(number)
    world.end(10)
    world.exit(1)
    world.end(1)
    trace_of = {span.name: span.context.trace_id for span in world.exporter.get_finished_spans() if span.context}
    assert trace_of["prog:f1"] == trace_of["prog:f2"]
    assert trace_of["prog:f10"] == trace_of["prog:f11"]
    assert trace_of["prog:f1"] != trace_of["prog:f10"]


def test_a_span_says_what_ran_where_and_how_it_ended(world: World) -> None:
    """Function, node, demand; exit code, signal and cause; the exception as an event."""
    world.start(1)
    world.spawn(2, 1, node="node-7")
    world.spawn(3, 1)
    world.exit(
        2,
        1,
        cause="uncaught ValueError: no",
        exception=("ValueError", "no"),
        stderr=("Traceback", "ValueError: no"),
        place="prog.py:5",
    )
    world.exit(3, None, signal="SIGKILL", cause="memory limit: 20 MiB")
    world.exit(1)
    world.end(1, code=1)
    spans = world.spans()
    failed, killed, good = spans["prog:f2"], spans["prog:f3"], spans["prog:f1"]
    assert failed.attributes == {
        "constellation.pid": pid(2).hex(),
        "constellation.parent": pid(1).hex(),
        "constellation.function": "prog:f2",
        "constellation.node": "node-7",
        "constellation.resources.mem": 100,
        "constellation.resources.cpu": 0.5,
        "constellation.resources.gpu": 1.0,
        "constellation.spawned_at": "prog.py:5",
        "constellation.exit.cause": "uncaught ValueError: no",
        "process.exit.code": 1,
    }
    (event,) = failed.events
    assert event.name == "exception"
    assert dict(event.attributes or {}) == {
        "exception.type": "ValueError",
        "exception.message": "no",
        "exception.stacktrace": "Traceback\nValueError: no",
    }
    assert (failed.status.status_code, failed.status.description) == (
        StatusCode.ERROR,
        "exited: 1 (uncaught ValueError: no)",
    )
    assert killed.attributes is not None
    assert killed.attributes["constellation.exit.signal"] == "SIGKILL"
    assert killed.attributes["constellation.exit.cause"] == "memory limit: 20 MiB"
    assert killed.status.status_code is StatusCode.ERROR
    assert good.status.status_code is StatusCode.UNSET
    assert (spans["deployment"].attributes or {})["process.exit.code"] == 1
    assert spans["deployment"].status.status_code is StatusCode.ERROR


def test_figures_count_what_was_spawned_ended_and_runs(world: World) -> None:
    """By node, and by outcome."""
    view = NodeView(1, "node-1", Resources(1, 1), Resources(1, 1))
    world.plugin.node_joined(node=view, options={})
    world.plugin.node_joined(node=view._replace(id=2), options={})
    world.plugin.node_lost(node=view, reason="lease", options={})
    world.start(1)
    for number in (2, 3, 4):
        world.spawn(number, 1)
    world.spawn(5, 1, node="node-1")
    world.exit(2, 0)
    world.exit(3, 1)
    world.exit(4, None, signal="SIGTERM")
    figures = world.figures()
    assert figures == {
        ("nodes",): 1,
        ("nodes.lost", "node-1", "lease"): 1,
        ("processes.spawned", "local"): 4,
        ("processes.spawned", "node-1"): 1,
        ("processes.running", "local"): 1,
        ("processes.running", "node-1"): 1,
        ("processes.ended", "local", "ok"): 1,
        ("processes.ended", "local", "failed"): 1,
        ("processes.ended", "local", "signal"): 1,
    }
    world.exit(5, None)
    assert world.figures()["processes.ended", "node-1", "unknown"] == 1


def test_what_nobody_saw_end_ends_with_the_deployment(world: World) -> None:
    """No span stays open, and the figures come back to nothing."""
    world.start(1)
    world.spawn(2, 1)
    world.end(1)
    assert set(world.spans()) == {"deployment", "prog:f1", "prog:f2"}
    assert world.figures()["processes.running", "local"] == 0
    assert world.plugin._deployment_of == {}


def test_news_of_strangers_are_no_fault(world: World) -> None:
    """A process whose deployment was not told of, an end without a beginning."""
    world.spawn(5, 4)
    world.exit(9)
    world.end(7)
    assert world.spans() == {}


def test_a_deployment_that_spawns_for_ever_is_remembered_in_bounds(world: World) -> None:
    """Of those that have ended only so many are kept for their children."""
    world.start(1)
    for number in range(2, MOST_ENDED + 500):
        world.spawn(number, 1)
        world.exit(number)
        world.exporter.clear()
    assert len(world.plugin._deployment_of) <= MOST_ENDED + 1
    world.exit(1)
    world.end(1)
    assert world.plugin._deployment_of == {}


@pytest.fixture
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_plain_environment")
def test_an_exporter_that_is_not_there_is_said_once() -> None:
    """The first hook says what to do; the others have nothing to add."""
    plugin = Telemetry()
    with pytest.raises(UsageError, match=r"no exporter 'nonesuch' of traces is installed.*otel.file=PATH"):
        plugin.deployment_started(first=pid(1), program=[], options={"traces": "nonesuch"})
    plugin.process_spawned(
        pid=pid(1), parent=None, function="f", node="local", resources=Resources(), options={"traces": "nonesuch"}
    )
    plugin.process_exited(status=ExitStatus(pid(1), 0, None))
    plugin.deployment_ended(first=pid(1), code=0, options={})


@pytest.mark.usefixtures("_plain_environment")
def test_exporters_are_chosen_by_option_and_by_opentelemetrys_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The option goes before the variable; none is none."""
    make_providers({"traces": "none", "metrics": "none"}).flush(0.1)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    make_providers({}).flush(0.1)
    with pytest.raises(UsageError, match="of metrics"):
        make_providers({"metrics": "nonesuch"})


def test_a_file_that_cannot_be_written_is_said() -> None:
    """With its name and the system's words."""
    with pytest.raises(UsageError, match=r"cannot write otel.file='/nonesuch/file': No such file"):
        make_providers({"file": "/nonesuch/file"})


def test_the_entry_point_is_one_plugin_object() -> None:
    """Its hooks share what they know."""
    (point,) = importlib.metadata.entry_points(group="constellation", name="otel")
    assert isinstance(point.load(), Telemetry)
