"""What the kernel says about a waiting process: its share of memory, its wake-ups, its parent."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.measure import IDLE_S, report

PROC = Path("/proc")


def pss_mib(os_pid: int) -> float:
    """Give the proportional set size in MiB: private pages whole, shared ones divided by their sharers.

    Args:
        os_pid: The kernel's number of a live process of this user.
    """
    for line in (PROC / str(os_pid) / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"no Pss in smaps_rollup of process {os_pid}")


def wake_ups(os_pid: int) -> int:
    """Count how often the threads of a process have gone to sleep so far: each one must have been awake before.

    Args:
        os_pid: The kernel's number of a live process.
    """
    total = 0
    for task in (PROC / str(os_pid) / "task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.split()[1])
    return total


def parent_of(os_pid: int) -> int:
    """Give the kernel's number of a process's parent.

    Args:
        os_pid: The kernel's number of a live process.
    """
    # The name in parentheses may hold spaces and parentheses itself: the fields begin after the last one (proc(5)).
    return int((PROC / str(os_pid) / "stat").read_text().rpartition(")")[2].split()[1])


def report_waiting(what: str, os_pids: list[int], variant: str = "") -> None:
    """Print the mean memory of waiting processes, and their mean wake-ups over two seconds.

    Args:
        what: Begins the names of the two rows.
        os_pids: Processes that wait, all started alike.
        variant: As in `measure.report`.
    """
    time.sleep(1.0)  # what a process still does just after it has begun to wait is not idling
    report(f"{what}, PSS", sum(map(pss_mib, os_pids)) / len(os_pids), "MiB", variant)
    before = sum(map(wake_ups, os_pids))
    time.sleep(IDLE_S)
    after = sum(map(wake_ups, os_pids))
    report(f"{what}, wake-ups in {IDLE_S:.0f} s", (after - before) / len(os_pids), "", variant)
