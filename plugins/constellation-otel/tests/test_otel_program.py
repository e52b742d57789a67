"""A program's deployment as a trace, written to a file by the fabric of a real run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., "subprocess.CompletedProcess[str]"]
COMMAND = (sys.executable, "-m", "constellation", "run", "--plugin", "otel")

PROGRAM = """
    from constellation import Receiver, Resources, init, kill, spawn, watch

    def good():
        watch(spawn(leaf).block()).block()

    def leaf():
        pass

    def bad():
        raise ValueError("no luck")

    def slow(of):
        Receiver(of).recv().block()

    if __name__ == "__main__":
        from constellation import pid
        init()
        watch(spawn(good).block()).block()
        watch(spawn(bad, resources=Resources(mem="50 MiB")).block()).block()
        kill(spawn(slow, pid()).block(), grace=0).block()
"""


def test_a_run_is_one_trace_of_all_its_processes(run_program: Run, tmp_path: Path) -> None:
    """The program knows nothing of it; output and exit code are what they are without."""
    file = tmp_path / "trace.jsonl"
    ran = run_program(PROGRAM, command=(*COMMAND, "--plugin-option", f"otel.file={file}"))
    assert ran.returncode == 1
    assert "Traceback" in ran.stderr
    lines: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
    spans = {line["name"]: line for line in lines if "context" in line}
    ids = {name: span["context"]["span_id"] for name, span in spans.items()}
    assert {name: span["parent_id"] for name, span in spans.items()} == {
        "deployment": None,
        "prog:__main__": ids["deployment"],
        "prog:good": ids["prog:__main__"],
        "prog:bad": ids["prog:__main__"],
        "prog:slow": ids["prog:__main__"],
        "prog:leaf": ids["prog:good"],
    }
    assert len({span["context"]["trace_id"] for span in spans.values()}) == 1
    assert spans["prog:bad"]["attributes"]["process.exit.code"] == 1
    assert spans["prog:bad"]["attributes"]["constellation.exit.cause"] == "uncaught ValueError: no luck"
    assert spans["prog:slow"]["attributes"]["constellation.exit.signal"] == "SIGKILL"
    assert spans["deployment"]["attributes"]["process.exit.code"] == 1
    figures = {
        metric["name"]: sum(point["value"] for point in metric["data"]["data_points"])
        for line in lines
        for resource in line.get("resource_metrics", ())
        for scope in resource["scope_metrics"]
        for metric in scope["metrics"]
    }
    assert figures["constellation.processes.spawned"] == 5
    assert figures["constellation.processes.ended"] == 5
    assert figures["constellation.processes.running"] == 0


def test_without_an_exporter_the_run_goes_on_and_one_line_says_what_to_do(run_program: Run) -> None:
    """A plugin's fault is nobody else's."""
    ran = run_program(
        """
        from constellation import init
        if __name__ == "__main__":
            init()
            print("fine")
        """,
        command=(*COMMAND, "--plugin-option", "otel.traces=nonesuch"),
    )
    assert ran.returncode == 0
    assert "fine" in ran.stdout
    assert ran.stderr.count("\n") == 1
    assert "no exporter 'nonesuch' of traces is installed" in ran.stderr


def test_a_slip_in_an_option_is_refused_with_the_near_name(run_program: Run) -> None:
    """Before anything runs."""
    ran = run_program(PROGRAM, command=(*COMMAND, "--plugin-option", "otel.fle=x"))
    assert ran.returncode != 0
    assert "did you mean 'file'?" in ran.stderr
