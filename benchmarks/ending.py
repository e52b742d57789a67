"""How long it takes after Ctrl-C until many processes are all gone: with nothing to do, and with handlers that take time.

Measured from outside: from the SIGINT to the program's end, and to the end of everything that carries its mark in the
environment. What the handlers take is a part of it, and is told apart.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from benchmarks.measure import ENDED, report, scaled  # noqa: E402  # the path had to be set before

MARK = "BENCHMARKS_ENDING_MARK"
HANDLER_S = 0.5
PROGRAM = """
import sys, time
from constellation import Receiver, Sender, init, join, parent, spawn

def child(seconds):
    try:
        Sender(parent(), "up").send(None).block()
        Receiver(parent()).recv().block()
    finally:
        if seconds:
            time.sleep(seconds)

init()
pids = []
for _ in range(0, int(sys.argv[1]), 50):
    pids += join(*(spawn(child, float(sys.argv[2])) for _ in range(min(50, int(sys.argv[1]) - len(pids))))).block()
for pid in pids:
    Receiver(pid, "up").recv().block()
print("up", flush=True)
try:
    time.sleep(1000)
except KeyboardInterrupt:
    pass
"""


def ended_after(folder: Path, count: int, seconds: float) -> float:
    """Give the seconds from Ctrl-C until nothing is left.

    Args:
        folder: For the program.
        count: Processes.
        seconds: How long each takes to end.
    """
    path = folder / "ending.py"
    path.write_text(PROGRAM)
    mark = secrets.token_hex(8)
    with subprocess.Popen(
        [sys.executable, str(path), str(count), str(seconds)],
        env=os.environ | {MARK: mark, "CONSTELLATION_FORMAT": "raw", "CONSTELLATION_GRACE": "20"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as program:
        assert program.stdout is not None
        if program.stdout.readline() != b"up\n":
            raise RuntimeError("the processes did not come up")
        began = time.perf_counter()
        program.send_signal(signal.SIGINT)
        code = program.wait(timeout=60)
        while marked(mark):
            time.sleep(0.005)
        took = time.perf_counter() - began
    if code != 130:
        raise RuntimeError(f"the program ended with {code}: expected 130")
    return took


def marked(mark: str) -> bool:
    """Tell whether a process with the mark is left."""
    wanted = f"{MARK}={mark}".encode()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if wanted in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                    return True
            except OSError:
                continue  # it has ended meanwhile
    return False


def main(scale: float) -> None:
    """Measure both ways."""
    count = scaled(ENDED, scale)
    with tempfile.TemporaryDirectory() as folder:
        report(f"Ctrl-C: {ENDED} processes gone after", ended_after(Path(folder), count, 0.0), "s")
        took = ended_after(Path(folder), count, HANDLER_S)
        report(f"Ctrl-C: {ENDED} with handlers of {HANDLER_S} s, gone after these and", took - HANDLER_S, "s")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
