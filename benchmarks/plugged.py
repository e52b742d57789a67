"""What plugins cost: `python benchmarks/plugged.py enabled|none|installed [SCALE]`.

"enabled" and "none" run the same workload in two programs, one with `COUNT` plugins that hear all news, one without; the
runner puts them side by side. "installed" compares starts with as many distributions installed and none of them enabled,
and starts without, in turns.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# As in ours.py: the project's root is first on the path, and not this folder.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from benchmarks.importing import BARE, time_interpreter  # noqa: E402  # the path had to be set before this and the next
from benchmarks.measure import (  # noqa: E402
    PLUGGED_STREAM,
    PLUGGED_TRIPS,
    PLUGINS,
    now,
    payload,
    report,
    report_latency,
    scaled,
    time_calls,
)
from constellation import Pid, Receiver, Sender, init, parent, spawn, watch  # noqa: E402

STARTS = 20
NEWS = """\
from constellation.plugin import hookimpl
heard = 0
@hookimpl
def deployment_started(first, program):
    global heard
    heard += 1
@hookimpl
def process_spawned(pid, parent, function, node, resources):
    global heard
    heard += 1
@hookimpl
def process_exited(status):
    global heard
    heard += 1
@hookimpl
def node_joined(node):
    global heard
    heard += 1
@hookimpl
def deployment_ended(first, code):
    global heard
    heard += 1
"""
PROGRAM = "from constellation import init\ninit()\n"
NONE = "none installed"


def first() -> Pid:
    """Give the first process, from a spawned one."""
    pid = parent()
    assert pid is not None
    return pid


def measure(scale: float) -> None:
    """Measure round trips, a stream and spawns."""
    name, count = PLUGGED_TRIPS
    peer = spawn(echo, scaled(count, scale)).block()
    there, back, value = Sender[object](peer), Receiver[object](peer), payload(name)

    def call() -> None:
        there.send(value).block()
        back.recv().block()

    report_latency(f"{PLUGINS} plugins: round trip {name}", time_calls(call, scaled(count, scale)))
    name, count = PLUGGED_STREAM
    peer, number, value = spawn(take).block(), scaled(count, scale), payload(name)
    push(peer, value, number // 10)
    report(f"{PLUGINS} plugins: stream {name}", number / push(peer, value, number), "/s")
    Sender[object](peer).close()
    samples = []
    for _ in range(1 + scaled(30, scale)):
        began = now()
        pid = spawn(nothing).block()
        samples.append(now() - began)
        watch(pid).block()
    report_latency(f"{PLUGINS} plugins: spawn to Pid", samples[1:], "ms")


def nothing() -> None:
    """Be a process that ends at once."""


def echo(count: int) -> None:
    """Send back what comes."""
    there, back = Receiver[object](first()), Sender[object](first())
    for _ in range(count + count // 10):
        back.send(there.recv().block()).block()


def push(peer: Pid, value: object, count: int) -> float:
    """Send a value many times; seconds until the far end has them all."""
    send = Sender[object](peer, "values").send
    counts = Receiver[int](peer, "counts")
    began = now()
    for _ in range(count):
        send(value).block()
    send(None).block()
    counts.recv().block()
    counts.close()
    return (now() - began) / 1e9


def take() -> None:
    """Count values up to a None, twice."""
    values = Receiver[object](first(), "values")
    for _ in range(2):
        number = 0
        while values.recv().block() is not None:
            number += 1
        counts = Sender[int](first(), "counts")
        counts.send(number).block()
        counts.close()


@contextmanager
def written() -> Iterator[str]:
    """Write the plugins, as installed distributions would lie there, and a program of `init()`; give the folder."""
    with tempfile.TemporaryDirectory() as folder:
        texts = {"program.py": PROGRAM}
        for number in range(PLUGINS):
            texts[f"plugged/news{number}.py"] = NEWS
            info = f"plugged_{number}-1.0.dist-info"
            texts[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: plugged-{number}\nVersion: 1.0\n"
            texts[f"{info}/entry_points.txt"] = f"[constellation]\nnews{number} = plugged.news{number}\n"
        for name, text in texts.items():
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        yield folder


def installed(scale: float) -> None:
    """Compare starts where plugins are installed with starts where none is, in turns."""
    path = os.environ.get("PYTHONPATH", "")
    times: dict[tuple[str, str], list[float]] = {}
    with written() as folder:
        run = f"import os; os.execv({sys.executable!r}, [{sys.executable!r}, {os.path.join(folder, 'program.py')!r}])"
        for _ in range(1 + scaled(STARTS, scale)):
            for peer, value in (("constellation", os.pathsep.join([path, folder])), (NONE, path)):
                os.environ["PYTHONPATH"] = value
                bare = time_interpreter(BARE)
                imported, whole = time_interpreter("import constellation"), time_interpreter(run)
                times.setdefault(("import above a bare interpreter", peer), []).append(imported - bare)
                times.setdefault(("a program of init() alone", peer), []).append(whole - bare)
    for (what, peer), samples in times.items():
        report(f"{PLUGINS} plugins installed: {what}", statistics.median(samples[1:]) / 1e6, "ms", peer)


def main() -> None:
    """Run what the command line names."""
    how, scale = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
    if how == "installed":
        installed(scale)
    elif how == "none":
        init()
        measure(scale)
    else:
        with written() as folder:
            sys.path.append(folder)
            init(plugins=[f"plugged.news{number}" for number in range(PLUGINS)])
            measure(scale)


if __name__ == "__main__":
    main()
