"""Where the time goes in one of our workloads: `python -m benchmarks.profile WORKLOAD`, for who works on the hot path.

`--how sample` (the default) looks at which line runs at each tick of CPU time, some hundred times a second: little is
distorted, and a call into C counts for the line that made it. `--how calls` is cProfile: exact counts, but each call
costs more than it does.
Both look at the main thread of the near and of the far process.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.plan import FOLDER
from benchmarks.runner import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

WORKLOADS = ("rtt", "stream", "bulk", "await", "await-uvloop")
EVERY_S = 0.001
"""What is asked for; the kernel gives one signal a tick of its clock, which often is 4 ms long."""


@contextmanager
def recording(how_and_where: str, end: str) -> Iterator[None]:
    """Profile what runs in this context; the profile goes to a file of its own.

    Args:
        how_and_where: "sample:FOLDER" or "calls:FOLDER".
        end: The name of the file: "near" or "far".
    """
    how, _, folder = how_and_where.partition(":")
    path = Path(folder) / end
    if how == "calls":
        import cProfile  # not for the other way: it costs an import in each process

        profile = cProfile.Profile()
        profile.enable()
        try:
            yield
        finally:
            profile.disable()
            profile.dump_stats(path)
        return

    of_lines: Counter[str] = Counter()
    of_functions: Counter[str] = Counter()

    def look(_number: int, frame: FrameType | None) -> None:
        if frame is None:
            return
        of_lines[f"{place(frame)}:{frame.f_lineno} {frame.f_code.co_qualname}"] += 1
        functions = set()
        while frame is not None:
            functions.add(f"{place(frame)} {frame.f_code.co_qualname}")
            frame = frame.f_back
        of_functions.update(functions)

    signal.signal(signal.SIGPROF, look)
    began, cpu_began = time.perf_counter(), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        path.write_text(json.dumps({"seconds": seconds, "cpu": cpu, "lines": of_lines, "functions": of_functions}))


def place(frame: FrameType) -> str:
    """Give the last two parts of the path of a frame's file."""
    return "/".join(Path(frame.f_code.co_filename).parts[-2:])


def show_samples(path: Path, top: int) -> str:
    """Write a sampled profile for people.

    Args:
        path: What `recording` wrote.
        top: How many lines of each kind.
    """
    found = json.loads(path.read_text())
    total = sum(found["lines"].values()) or 1
    out = [f"{found['cpu']:.2f} s of CPU time in {found['seconds']:.2f} s, {total} samples"]
    for title, kind in (("lines, by their own time", "lines"), ("functions, with what they call", "functions")):
        out.append(f"  {title}")
        for name, count in Counter(found[kind]).most_common(top):
            out.append(f"  {100 * count / total:5.1f} %  {name}")
    return "\n".join(out)


def main(arguments: list[str] | None = None) -> int:
    """Run one workload under the profiler and print what it found.

    Args:
        arguments: Without the program's name; None for this process's own.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__.split("\n", 1)[0])
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--how", choices=("sample", "calls"), default="sample")
    parser.add_argument("--scale", type=float, default=3.0, help="of the number of repetitions, 3.0 by default")
    parser.add_argument("--top", type=int, default=20, help="how many lines to print, 20 by default")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        output, problem = run(
            [sys.executable, str(FOLDER / "ours.py"), options.workload, str(options.scale)],
            BENCHMARKS_PROFILE=f"{options.how}:{folder}",
        )
        print(output, end="")
        for path in sorted(Path(folder).iterdir(), reverse=True):
            print(f"\n{path.name} process")
            if options.how == "sample":
                print(show_samples(path, options.top))
            else:
                import pstats

                pstats.Stats(str(path)).sort_stats("tottime").print_stats(options.top)
    if problem is not None:
        print(f"the workload {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
