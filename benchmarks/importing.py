"""What `import constellation` adds to a bare interpreter: `python -m benchmarks.importing [SCALE]`.

Interpreters with and without the import take turns, and the median of the differences counts.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

from benchmarks.measure import now, report, scaled

PAIRS = 40
UNWANTED = ("socket", "ssl", "asyncio", "psutil", "cloudpickle")
"""Modules that the import must not bring."""

BARE = "pass"
STATEMENTS = {
    "constellation": "import constellation",
    "constellation (names used)": "from constellation import Receiver, Resources, Sender, init, parent, pid, spawn",
    "multiprocessing": "import multiprocessing.connection, multiprocessing.context",
    "asyncio": "import asyncio",
}


def time_interpreter(statement: str) -> int:
    """Start an interpreter for one statement and wait for its end.

    Args:
        statement: Python source.

    Returns:
        Nanoseconds.
    """
    began = now()
    child = os.posix_spawn(sys.executable, [sys.executable, "-c", statement], os.environ)
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"{statement!r} failed with status {status}")
    return now() - began


def unwanted_modules(statement: str) -> list[str]:
    """List which of the unwanted modules a statement imports.

    Args:
        statement: Python source.
    """
    source = f"import sys; {statement}; print([name for name in {UNWANTED!r} if name in sys.modules])"
    names = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True).stdout
    return [name for name in UNWANTED if repr(name) in names]


def main() -> None:
    """Report each statement's time above the bare interpreter."""
    scale = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    pairs = scaled(PAIRS, scale)
    time_interpreter(BARE)
    bare: list[int] = []
    above: dict[str, list[int]] = {name: [] for name in STATEMENTS}
    for statement in STATEMENTS.values():
        time_interpreter(statement)  # writes the bytecode
    for _ in range(pairs):
        base = time_interpreter(BARE)
        bare.append(base)
        for name, statement in STATEMENTS.items():
            above[name].append(time_interpreter(statement) - base)
    for name, samples in above.items():
        report("import above a bare interpreter", statistics.median(samples) / 1e6, "ms", name)
    report("a bare interpreter", statistics.median(bare) / 1e6, "ms", "python -c pass")
    for name in ("constellation", "constellation (names used)"):
        report("unwanted modules imported", len(unwanted_modules(STATEMENTS[name])), "", name)


if __name__ == "__main__":
    main()
