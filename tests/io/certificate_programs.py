"""What the tests of death certificates have in common: programs that end in every way, and the four places to look at.

A certificate is read by who watches the process, by who has a channel with it, in the events of the deployment, and on
the terminal. The program here prints, for each process that has ended, what the first two have said; `Run` has the events
or the red lines beside that.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import Leftovers

LIMIT_S = 300.0

PROGRAM = """
import ctypes, itertools, json, os, signal, sys, time
from constellation import *

def met(who):
    Sender[int](who, "up").send(os.getpid()).block()
    Receiver[None](who, "go").recv().block()
def exits(who):
    met(who)
    sys.exit(3)
def raises(who):
    met(who)
    raise ValueError("odd")
def says(who):
    met(who)
    sys.exit("no luck today")
def leaves(who):
    met(who)
    os._exit(7)
def faults(who):
    met(who)
    ctypes.string_at(0)
def overflows(who):
    met(who)
    nested = iter(())
    for _ in range(300_000):
        nested = itertools.chain(nested)
    next(nested)
def aborts(who):
    met(who)
    os.abort()
def stops(who):
    met(who)
    ctypes.pythonapi.Py_FatalError(b"no way on")
def waits(who):
    met(who)
    time.sleep(1000)
def takes(who):
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # the kernel chooses whom it kills
    met(who)
    taken = []
    while True:
        taken.append(b"x" * (1 << 20))
def branch(who):
    Sender[Pid](who, "twig").send(spawn(waits, who).block()).block()
    waits(who)

def begin(fn, **options):
    one = spawn(fn, pid(), **options).block()
    return one, Receiver[int](one, "up").recv().block()
def go(one):
    Sender[None](one, "go").send(None).block()
def tell(kind, one):
    try:
        raise AssertionError(Receiver(one, "up").recv().block())
    except ChannelError as error:
        status = watch(one).block()
        died = error.status if isinstance(error, PeerDied) else None
        print(json.dumps({
            "kind": kind, "pid": one.hex(), "name": str(one), "me": str(pid()), "same": died == status,
            "code": status.code, "signal": status.signal, "cause": status.cause, "stack": status.stack,
            "place": status.place, "node": status.node, "words": status.describe(), "text": str(error),
        }), flush=True)

def simple(kind, fn, count, end=lambda one, number: None, **options):
    begun = [begin(fn, **options) for _ in range(count)]
    for one, number in begun:
        go(one)
        end(one, number)
    for one, _ in begun:
        tell(kind, one)
def run(kind, count):
    if kind == "SIGKILL from outside":
        simple(kind, waits, count, lambda one, number: os.kill(number, signal.SIGKILL))
    elif kind == "SIGTERM from outside":
        simple(kind, waits, count, lambda one, number: os.kill(number, signal.SIGTERM))
    elif kind == "SIGTERM from us":
        simple(kind, waits, count, lambda one, number: kill(one).block())
    elif kind == "SIGKILL from us":
        simple(kind, waits, count, lambda one, number: kill(one, grace=0).block())
    elif kind == "memory limit":
        simple(kind, takes, count, resources=Resources(mem="24 MiB"))
    elif kind == "out of memory":
        simple(kind, takes, count)
        # What the dead one had may be given back later than it is waited for: then the next one who asks would be killed.
        while int(open(f"{GROUP}/memory.usage_in_bytes").read()) > 120 << 20:
            time.sleep(0.01)
    elif kind == "killed with the tree":
        begun = [begin(branch)[0] for _ in range(count)]
        twigs = [Receiver[Pid](one, "twig").recv().block() for one in begun]
        for one, twig in zip(begun, twigs):
            Receiver[int](twig, "up").recv().block()
            kill(one, tree=True).block()
            tell("killed with its tree", one)
            tell(kind, twig)
    else:
        simple(kind, globals()[kind], count)
"""
_MAIN = """
if __name__ == "__main__":
    init()
    count, width = map(int, sys.argv[1:3])
    for kind in sys.argv[3:]:
        for done in range(0, count, width):
            run(kind, min(width, count - done))
"""


class Cause(NamedTuple):
    """What a certificate has to say."""

    code: int | None
    signal: str | None
    cause: str
    """A regular expression; ``{me}`` is the name of who killed it, ``{top}`` that of the root of the tree."""
    has_stack: bool = False


CAUSES = {
    "exits": Cause(3, None, "SystemExit: 3"),
    "raises": Cause(1, None, "uncaught ValueError: odd"),
    "says": Cause(1, None, "SystemExit: no luck today"),
    "leaves": Cause(7, None, "without a word, as by os._exit"),
    "faults": Cause(None, "SIGSEGV", r"Segmentation fault in string_at at \S+ctypes/__init__\.py:\d+", has_stack=True),
    "overflows": Cause(
        None,
        "SIGSEGV",
        r"C stack overflow in overflows at \S+prog\.py:\d+: all .* of the stack are used",
        has_stack=True,
    ),
    "aborts": Cause(None, "SIGABRT", r"Aborted in aborts at \S+prog\.py:\d+", has_stack=True),
    "stops": Cause(None, "SIGABRT", r"fatal Python error: .*no way on in stops at \S+prog\.py:\d+", has_stack=True),
    "SIGKILL from outside": Cause(None, "SIGKILL", "not by constellation"),
    "SIGTERM from outside": Cause(143, None, "SIGTERM, not by constellation"),
    "SIGTERM from us": Cause(143, None, "killed by process {me}"),
    "SIGKILL from us": Cause(None, "SIGKILL", "killed by process {me}"),
    "memory limit": Cause(None, "SIGKILL", "memory limit: it asked for 24 MiB and (needed more|had .*)"),
    "killed with the tree": Cause(143, None, "killed by process {me}, with all below {top}"),
    "killed with its tree": Cause(143, None, "killed by process {me}"),
}
"""By the name that `run` knows, the last one but for the root of a tree."""
KINDS = [kind for kind in CAUSES if kind != "killed with its tree"]


class Run(NamedTuple):
    """What one program has left."""

    told: list[dict[str, Any]]
    """What the program itself has printed, one record for each process that has ended."""
    exits: dict[str, dict[str, Any]]
    """The exit events by Pid in full."""
    red: dict[str, list[str]]
    """The red lines by short name."""
    text: str
    returncode: int


def start(
    leftovers: Leftovers, folder: Path, arguments: list[str], *, human: bool, stdin: int = subprocess.DEVNULL
) -> tuple[subprocess.Popen[bytes], int]:
    """Start an interpreter; its stdout and stderr are a terminal where a person looks, else one pipe. Gives that, too."""
    ours, theirs = os.openpty() if human else os.pipe()
    program = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env={**leftovers.environment, "CONSTELLATION_FORMAT": "human" if human else "json", "TERM": "xterm"},
        stdin=stdin,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    return program, ours


def read(output: int) -> str:
    """Read one piece; empty at the end. A terminal whose other side has gone gives an error instead."""
    try:
        return os.read(output, 64 << 10).decode(errors="replace")
    except OSError:
        return ""


def finish(program: subprocess.Popen[bytes], output: int, text: str = "") -> Run:
    """Read to the end, and sort what was read."""
    while piece := read(output):
        text += piece
    os.close(output)
    returncode = program.wait(LIMIT_S)
    text = text.replace("\r\n", "\n")
    exits: dict[str, dict[str, Any]] = {}
    red: dict[str, list[str]] = {}
    written: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
        if line.startswith("{"):
            event = json.loads(line)
            if event["event"] == "exit":
                assert event["pid"] not in exits, f"two ends of one process: {event}"
                exits[event["pid"]] = event
            elif event["event"] == "output":
                written[event["pid"]] = written.get(event["pid"], "") + event["data"]
        elif re.fullmatch("[0-9a-f]{7,}:", plain):
            name = plain[:-1]
        elif line.startswith("    \x1b[0;31m"):
            red.setdefault(name, []).append(plain.strip())
        elif plain.startswith("    {"):
            written[""] = written.get("", "") + plain.strip() + "\n"
    lines = [line for part in written.values() for line in part.splitlines()]
    return Run([json.loads(line) for line in lines if line.startswith("{")], exits, red, text, returncode)


def run(
    leftovers: Leftovers, folder: Path, count: int, width: int, *kinds: str, human: bool, group: str | None = None
) -> Run:
    """Run the program, in a control group if one is given: each kind of end ``count`` times, ``width`` at once."""
    enter = "" if group is None else f"open('{group}/cgroup.procs', 'w').write('0')\nGROUP = '{group}'\n"
    (folder / "prog.py").write_text(enter + PROGRAM + _MAIN)
    program, output = start(leftovers, folder, ["prog.py", str(count), str(width), *kinds], human=human)
    return finish(program, output)


def check(told: dict[str, Any], found: Run, top: str = "") -> None:
    """Hold what was told of one process to the truth, and the events or the red lines to what was told."""
    expected = CAUSES[told["kind"]]
    pattern = expected.cause.replace("{me}", told["me"]).replace("{top}", top)
    assert re.fullmatch(pattern, told["cause"] or ""), told
    assert (told["code"], told["signal"]) == (expected.code, expected.signal), told
    assert told["same"], f"the channel's error has another certificate: {told}"
    assert told["words"] in told["text"] and told["node"] == "local" and "prog.py:" in told["place"]
    assert bool(told["stack"]) is expected.has_stack, told
    if expected.has_stack:
        assert any(f"{told['kind']} at " in call for call in told["stack"]), told
        assert not any("constellation/process" in call for call in told["stack"]), told
    if found.exits:
        event = found.exits[told["pid"]]
        assert {key: event[key] for key in ("code", "signal", "cause")} == {
            key: told[key] for key in ("code", "signal", "cause")
        }
    else:
        assert found.red[told["name"]] == [told["words"]], found.text[-3000:]
