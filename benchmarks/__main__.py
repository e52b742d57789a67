"""The command line of the benchmarks: `python -m benchmarks [WORKLOAD ...]`, described in README.md beside this file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.plan import WORKLOADS
from benchmarks.runner import run_rounds

QUICK_SCALE = 0.1
QUICK_ROUNDS = 2
ROUNDS = 5
BUSY = 0.2
TAIL = ", p99"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments: Without the program's name; None for this process's own.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Constellation beside its peers.")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"all by default: {', '.join(WORKLOADS)}")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"{ROUNDS} by default, {QUICK_ROUNDS} with --quick")
    parser.add_argument("--quick", action="store_true", help="a tenth of the repetitions: shows that all works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures of all rounds here")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.workloads if name not in WORKLOADS]
    if unknown:
        parser.error(f"no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds must be 1 or more, not {options.rounds}")
    return options


def machine() -> dict[str, Any]:
    """Describe where the figures come from."""
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "busy_cores": busy_cores(),
    }


def busy_cores(seconds: float = 0.5) -> float:
    """Measure how many cores the rest of the machine keeps busy, in cores.

    Args:
        seconds: How long to look.
    """

    def ticks() -> tuple[int, int]:
        # The first line of proc(5)'s stat: user, nice, system, idle, iowait, irq, softirq, steal.
        fields = [int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    all_before, idle_before = ticks()
    time.sleep(seconds)
    all_after, idle_after = ticks()
    busy = 1 - (idle_after - idle_before) / max(1, all_after - all_before)
    return round(busy * (os.cpu_count() or 1), 2)


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen workloads and print their tables.

    Args:
        arguments: Without the program's name; None for this process's own.

    Returns:
        1 if a command failed, else 0: a target that is not reached is no failure.
    """
    options = parse(arguments)
    before = machine()
    print(
        f"Python {before['python']}, Linux {before['kernel']}, {before['usable_cores']} cores, "
        f"{before['busy_cores']} of them busy before the start{' (quick: too short to judge by)' if options.quick else ''}"
    )
    if before["busy_cores"] > BUSY:
        print("Something else runs on this machine: the figures will be worse than they should, and vary.")
    results = run_rounds(
        options.workloads or list(WORKLOADS),
        options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS),
        QUICK_SCALE if options.quick else 1.0,
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    measured = results.measured()
    for row, rounds in measured:
        if not row.what.endswith(TAIL):
            print(f"\n{table.show(row, rounds, results.figures.get(row.what + TAIL, ()))}")
    print(f"\ntargets\n{table.show_targets(measured)}")
    for problem in results.problems:
        print(f"\nfailed: {problem}")
    if options.json is not None:
        rows = [table.as_json(row, rounds) for row, rounds in measured]
        whole = {"machine": before, "quick": options.quick, "rows": rows, "problems": results.problems}
        options.json.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    return 1 if results.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
