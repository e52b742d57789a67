"""Runs the commands in rounds: one process tree at a time, all peers of a workload close together, the first one changing."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

from benchmarks.measure import MARK
from benchmarks.plan import FOLDER, WORKLOADS, Command, interpreter, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from benchmarks.table import Row

LIMIT_S = 120.0
"""A command that takes longer is ended and counts as failed."""


@dataclass(slots=True)
class Results:
    """All that was measured."""

    figures: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    """For each row's name, for each round, each peer's figure."""
    problems: list[str] = field(default_factory=list)
    """What went wrong, for people."""

    def of(self, row: Row) -> Sequence[Mapping[str, float]]:
        """Give a row's rounds."""
        return self.figures.get(row.what, [])

    def measured(self) -> list[tuple[Row, Sequence[Mapping[str, float]]]]:
        """Give the rows for which there are figures."""
        return [(row, self.of(row)) for row in rows() if any(self.of(row))]


def environment() -> dict[str, str]:
    """Give the environment of all commands: this project first, our output raw, nothing that changes buffering."""
    out = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    path = [str(FOLDER.parent), *filter(None, [out.get("PYTHONPATH")])]
    return out | {"PYTHONPATH": os.pathsep.join(path), "CONSTELLATION_FORMAT": "raw"}


def run(arguments: Sequence[str], limit_s: float = 120.0, **more: str) -> tuple[str, str | None]:
    """Run one process tree to its end.

    Args:
        arguments: The command line.
        limit_s: After so many seconds it is killed.
        more: Variables for its environment besides the usual ones.

    Returns:
        Its standard output; and what went wrong, or None.
    """
    with subprocess.Popen(
        arguments,
        cwd=FOLDER.parent,
        env=environment() | more,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            # The leader first: what hangs on it by a parent-death signal, outside of the group too, ends with it.
            process.kill()
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            try:
                out, err = process.communicate(timeout=5)
            except subprocess.TimeoutExpired:  # somebody in another group holds the pipe
                out, err = "", ""
            last = next((line for line in reversed(out.splitlines()) if line.startswith(MARK)), "no figure")
            return out, f"took longer than {limit_s:.0f} s, the last that it said: {last} {err.strip()[-800:]}".rstrip()
        if process.returncode:
            return out, f"ended with {process.returncode}: {err.strip()[-800:]}"
        return out, None


def figures_in(output: str, peer: str) -> dict[str, dict[str, float]]:
    """Read the figures that a program printed.

    Args:
        output: Its standard output.
        peer: The command's peer, empty if the program names its peers as variants.

    Returns:
        For each row's name, each peer's figure.
    """
    out: dict[str, dict[str, float]] = {}
    for line in output.splitlines():
        if line.startswith(MARK):
            figure = json.loads(line.removeprefix(MARK))
            name = " ".join(filter(None, (peer, figure["variant"])))
            out.setdefault(figure["what"], {})[name] = float(figure["value"])
    return out


def median_of(several: Iterable[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Join the figures of several runs of one command in one round.

    Args:
        several: What `figures_in` gave for each run.
    """
    values: dict[str, dict[str, list[float]]] = {}
    for one in several:
        for what, figures in one.items():
            for peer, value in figures.items():
                values.setdefault(what, {}).setdefault(peer, []).append(value)
    return {what: {peer: statistics.median(all_) for peer, all_ in peers.items()} for what, peers in values.items()}


def available(commands: Sequence[Command], say: Callable[[str], None]) -> list[Command]:
    """Leave out the commands whose module is not installed, and say so.

    Args:
        commands: Of one workload.
        say: Takes a line for people.
    """
    out = []
    for command in commands:
        if command.needs and find_spec(command.needs) is None:
            say(f"left out: {command.arguments[-1]} of {command.peer}, because {command.needs} is not installed")
        else:
            out.append(command)
    return out


def run_rounds(workloads: Sequence[str], rounds: int, scale: float, say: Callable[[str], None]) -> Results:
    """Run all rounds.

    Args:
        workloads: Names in `plan.WORKLOADS`.
        rounds: How many.
        scale: As in `measure.scaled`.
        say: Takes lines about the progress.
    """
    results = Results()
    chosen = {workload: available(WORKLOADS[workload], say) for workload in workloads}
    for index in range(rounds):
        for workload, commands in chosen.items():
            if not commands:
                continue
            turn = index % len(commands)
            for command in [*commands[turn:], *commands[:turn]]:
                if index >= command.rounds:
                    continue
                label = f"round {index + 1}/{rounds} {workload}: {command.peer or 'all'}"
                say(label)
                gathered = []
                for _ in range(command.repeats):
                    output, problem = run(interpreter(command, scale), command.limit_s)
                    gathered.append(figures_in(output, command.peer))
                    if problem is not None:
                        problem = f"{workload} of {command.peer or 'all'} {problem}"
                        say(problem)
                        if problem not in results.problems:
                            results.problems.append(problem)
                        break
                for what, figures in median_of(gathered).items():
                    of_row = results.figures.setdefault(what, [])
                    of_row.extend({} for _ in range(index + 1 - len(of_row)))
                    of_row[index].update(figures)
    return results
