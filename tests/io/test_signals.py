"""Signals: interrupts at blocked and busy processes and at spawns, stopped roles, a terminal that goes, output nobody reads."""

from __future__ import annotations

import json
import os
import pty
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from constellation.fabric.proc import state_of
from tests.conftest import Leftovers, RunProgram
from tests.io.channel_programs import run

FEW, MANY = 20, 1700
"""Interrupts for each of the six kinds of operations: some hundred, and ten thousand in all."""
often = pytest.mark.parametrize("hits", [FEW, pytest.param(MANY, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])

# A process of its own sends them, so that none is held back by the GIL of the one that it hits.
SNIPER = """
        import random, subprocess
        SNIPER = (
            "import os, random, signal, sys, time; rng = random.Random(int(sys.argv[2]))\\n"
            "while not time.sleep(rng.random() * float(sys.argv[3])): os.kill(int(sys.argv[1]), 2)"
        )
        class Armed:
            is_armed, hits, idle = False, 0, 0
            def __call__(self, number, frame):
                # Once for each time: none may come into what counts them. Again where Python has dropped it in a __del__.
                self.idle += 1
                if self.is_armed or self.idle > 200:
                    self.is_armed, self.idle = False, 0
                    self.hits += 1
                    raise KeyboardInterrupt
        def endure(wanted, seed, action, pause=0.002):
            # Do it again and again, until so many interrupts have come into it.
            handler = Armed()
            signal.signal(signal.SIGINT, handler)
            sniper = subprocess.Popen([sys.executable, "-c", SNIPER, str(os.getpid()), str(seed), str(pause)])
            while handler.hits < wanted:
                try:
                    handler.is_armed, handler.idle = True, 0
                    while True:
                        action()
                except KeyboardInterrupt:
                    pass
            sniper.kill()
            sniper.wait()
"""


@often
def test_interrupts_at_blocked_operations(run_program: RunProgram, tmp_path: Path, hits: int) -> None:
    """Each way of waiting for ever is left by Ctrl-C, as often as it comes, and afterwards all is as if nobody had waited."""
    source = f"""{SNIPER}
        from constellation.process import runtime
        def peer():
            s, r = Sender(parent(), "last"), Receiver(parent(), "go")
            r.recv().block()
            s.send("last").block()
            Receiver(parent(), "end").recv().block()
        def sleeper():
            time.sleep(1000)
        init(capacity=Resources(mem="500 MiB", cpu=4))
        child = spawn(peer).block()
        holder = spawn(sleeper, resources=Resources(mem="250 MiB")).block()
        r, flood = Receiver(child, "last"), Sender(child, "flood")
        while True:
            try:
                flood.try_send(bytes(50_000))
            except WouldBlock:
                break
        kinds = {{
            "recv": lambda: r.recv().block(),
            "send": lambda: flood.send(bytes(100_000)).block(),
            "watch": lambda: watch(child).block(),
            "select": lambda: select(r.recv(), Receiver(pid(), "nothing").recv()).block(),
            "join": lambda: join(watch(child), r.recv()).block(),
            "spawn": lambda: spawn(sleeper, resources=Resources(mem="240 MiB")).block(),
        }}
        before = len(os.listdir("/proc/self/fd"))
        for seed, (kind, action) in enumerate(kinds.items()):
            endure({hits}, seed, action)
            print(kind)
        Sender(child, "go").send(None).block()
        assert r.recv().block(20) == "last"
        # The spawns were withdrawn: what they had asked for is free, and nobody took it.
        kill(holder, grace=0).block()
        pids = [spawn(sleeper, resources=Resources(mem="100 MiB")).block(20) for _ in range(2)]
        join(*(kill(each, grace=0) for each in pids)).block()
        # Two more at most: the link to itself of the select, whose channel is parked.
        assert len(os.listdir("/proc/self/fd")) <= before + 2, os.listdir("/proc/self/fd")
        assert len(runtime.current().control._requests) < 10
        flood.close()
        Sender(child, "end").send(None).block()
    """
    result = run(run_program, tmp_path, source, env={"PYTHONWARNINGS": "ignore"}, timeout=60 + hits)
    assert result.stdout.split() == ["recv", "send", "watch", "select", "join", "spawn"], result


@often
def test_interrupts_at_a_busy_process(run_program: RunProgram, tmp_path: Path, hits: int) -> None:
    """Its main thread computes and is interrupted; what comes meanwhile is taken in by the background, and all of it."""
    source = f"""{SNIPER}
        def source_():
            s, r = Sender(parent()), Receiver(parent())
            n = 0
            while True:
                try:
                    r.try_recv()
                    break
                except WouldBlock:
                    pass
                for _ in range(20):
                    s.send(n if n % 7 else (n, bytes(n % 3 * 30_000))).block()
                    n += 1
                time.sleep(0.001)
            s.send(n).block()
        init()
        child = spawn(source_).block()
        r, got = Receiver(child), []
        def computes():
            sum(n * n for n in range(2000))
            got.extend(values[:0])
            while True:
                try:
                    values.append(r.try_recv())
                except WouldBlock:
                    break
        values = got
        endure({hits} * 6, 7, computes)
        Sender(child).send("stop").block()
        got += r
        numbers = [value if isinstance(value, int) else value[0] for value in got]
        # An interrupt between the return of try_recv and append takes the value with it; that is the program's.
        missing = sorted(set(range(numbers[-1] + 1)) - set(numbers))
        assert numbers == sorted(set(numbers))
        assert len(missing) < 20, missing[:30]
        print("all", len(numbers))
    """
    result = run(run_program, tmp_path, source, env={"PYTHONWARNINGS": "ignore"}, timeout=40 + hits)
    assert "all " in result.stdout, result


@often
def test_interrupts_at_spawns(run_program: RunProgram, tmp_path: Path, hits: int) -> None:
    """A spawn that Ctrl-C came into is whole or not at all: of what nobody has the Pid, nothing lives on."""
    source = f"""{SNIPER}
        def child():
            Receiver(parent()).recv().block()
        init()
        known = []
        def spawns():
            known.append(spawn(child).block())
            if len(known) > 20:
                one = known[0]
                kill(one, grace=0).block()
                known.remove(one)
        endure({hits}, 3, spawns, 0.05)
        for each in known:
            kill(each, grace=0).block()
        print("ended")
        # This ends with the last process: one that nobody knows would wait for this one's end for ever.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        import constellation.process.start as start
        start._deployment.__exit__(None, None, None)
        print("closed")
    """
    result = run(run_program, tmp_path, source, env={"PYTHONWARNINGS": "ignore"}, timeout=60 + hits)
    assert "closed" in result.stdout, result


SPAWNS = """
import random, signal, sys, time
from constellation import init, join, parent, pid, spawn, Receiver

def child(depth):
    if depth:
        spawn(child, depth - 1).block()
    if sys.argv[1] == "handles":
        try:
            time.sleep(1000)
        except SystemExit:
            time.sleep(0.2)
            raise
    Receiver(parent()).recv().block()

init()
print("begins", flush=True)
while True:
    join(*(spawn(child, 1) for _ in range(4))).block()
"""


def _run_until_interrupted(tmp_path: Path, leftovers: Leftovers, how: str, delay: float, times: int) -> None:
    (tmp_path / "prog.py").write_text(SPAWNS)
    program = subprocess.Popen(
        [sys.executable, "prog.py", how],
        cwd=tmp_path,
        env={**leftovers.environment, "CONSTELLATION_GRACE": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() != ""
    time.sleep(delay)
    for _ in range(times):
        program.send_signal(signal.SIGINT)
        time.sleep(0.05)
    output, errors = program.communicate(timeout=30)
    assert program.returncode == 130, (output[-2000:], errors[-2000:])
    deadline = time.monotonic() + 3
    while left := leftovers.found():
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def test_ctrl_c_again_and_again_until_the_end(tmp_path: Path, leftovers: Leftovers) -> None:
    """Also in the last moment of the fabric's interpreter, whose own handler would end it by the signal."""
    (tmp_path / "prog.py").write_text(
        "import time\nfrom constellation import init\ninit()\nprint('up')\ntime.sleep(60)\n"
    )
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "prog.py"],
            cwd=tmp_path,
            env={**leftovers.environment, "CONSTELLATION_FORMAT": "raw"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as program:
            assert program.stdout is not None
            assert program.stderr is not None
            assert program.stdout.readline() == "up\n"
            while program.poll() is None:
                program.send_signal(signal.SIGINT)
                time.sleep(0.0005)
            assert program.returncode == 130, program.stderr.read()


@pytest.mark.parametrize("how", ["plain", "handles"])
@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 40))])
def test_ctrl_c_during_a_storm_of_spawns(tmp_path: Path, leftovers: Leftovers, how: str, seed: int) -> None:
    """Once, and twice: all ends, with 130, and nothing is left of what was just being forked."""
    rng = random.Random(f"{how} {seed}")
    _run_until_interrupted(tmp_path, leftovers, how, rng.random() * 0.4, 1 + seed % 2)


ROLES = ("keeper", "fabric", "template", "first", "child")
WORKS = """
import os, sys, time
from constellation import Receiver, Sender, init, join, parent, spawn, watch

def echo():
    print("child", os.getpid(), flush=True)
    sender = Sender(parent())
    for value in Receiver(parent()):
        sender.send(value).block()

def prints(number):
    for line in range(300):
        print("line", number, line)

init()
print("first", os.getpid(), flush=True)
peer = spawn(echo).block()
sender, receiver = Sender(peer), Receiver(peer)
until = time.monotonic() + float(sys.argv[1])
count = 0
pids = []
while time.monotonic() < until or len(pids) < 10:
    for _ in range(100):
        sender.send((count, bytes(count % 5 * 20_000))).block()
        assert receiver.recv().block()[0] == count
        count += 1
    if len(pids) < 10:
        pids.append(spawn(prints, len(pids)).block())
assert all(status.ok for status in join(*map(watch, pids)).block())
sender.close()
assert watch(peer).block().ok
print("done", count)
"""


def _read_pids(program: subprocess.Popen[str]) -> tuple[dict[str, int], list[str]]:
    """The OS pids of all roles, and the lines that were read on the way."""
    assert program.stdout is not None
    lines: list[str] = []
    pids = {"keeper": program.pid}
    while "child" not in pids:
        line = program.stdout.readline()
        assert line, lines
        lines.append(line)
        words = line.split()
        if words and words[0] in ("first", "child"):
            pids[words[0]] = int(words[1])
    for role, below in (("template", "first"), ("fabric", "template")):
        state = state_of(pids[below])
        assert state is not None
        pids[role] = state.parent
    return pids, lines


@pytest.mark.parametrize("role", ROLES)
def test_a_role_that_is_stopped_and_goes_on_loses_nothing(tmp_path: Path, leftovers: Leftovers, role: str) -> None:
    """Values, spawns, output and ends wait for it, whoever it is."""
    (tmp_path / "prog.py").write_text(WORKS)
    program = subprocess.Popen(
        [sys.executable, "prog.py", "1.5"],
        cwd=tmp_path,
        env=leftovers.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        pids, lines = _read_pids(program)
        for pause in (0.01, 0.2, 0.4):
            os.kill(pids[role], signal.SIGSTOP)
            deadline = time.monotonic() + 20
            while (state := state_of(pids[role])) is not None and not state.is_stopped:
                assert time.monotonic() < deadline
            time.sleep(pause)
            os.kill(pids[role], signal.SIGCONT)
            time.sleep(0.05)
        output, errors = program.communicate(timeout=60)
    finally:
        if program.poll() is None:
            os.kill(pids[role], signal.SIGCONT)
            program.kill()
            program.communicate()
    output = "".join(lines) + output

    assert (program.returncode, errors) == (0, ""), (output[-1000:], errors)
    assert "done" in output
    found = [tuple(map(int, line.split()[1:])) for line in output.splitlines() if line.strip().startswith("line")]
    for number in range(10):
        assert [line for which, line in found if which == number] == list(range(300))


HANGS_UP = """
import signal, sys, time
from constellation import init, parent, spawn

def child():
    if sys.argv[1] == "stubborn":
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    print("up")
    time.sleep(1000)

init()
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
for _ in range(2):
    spawn(child).block()
if sys.argv[1] == "reads":
    input("more? ")
time.sleep(1000)
"""


@pytest.mark.parametrize("through", ["the program", "a shell"])
@pytest.mark.parametrize("how", ["plain", "stubborn", "reads"])
def test_a_terminal_that_goes_takes_everything_with_it(
    tmp_path: Path, leftovers: Leftovers, how: str, through: str
) -> None:
    """Its window is closed: who listens ends at once, who does not within the grace time, and nothing is left."""
    (tmp_path / "prog.py").write_text(HANGS_UP)
    environment = {**leftovers.environment, "TERM": "xterm", "CONSTELLATION_GRACE": "1"}
    command = [sys.executable, str(tmp_path / "prog.py"), how]
    leader, terminal = pty.fork()
    if leader == 0:
        if through == "a shell":
            os.execve("/bin/bash", ["bash", "--norc", "-i"], environment)
        os.execve(command[0], command, environment)
    if through == "a shell":
        os.write(terminal, f"{' '.join(command)}\n".encode())
    shown = b""
    while shown.count(b"    up\r\n") < 2:
        assert select.select([terminal], [], [], 20)[0], shown
        shown += os.read(terminal, 1 << 16)
    os.close(terminal)
    os.waitpid(leader, 0)

    deadline = time.monotonic() + 4
    while left := leftovers.found():
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


PRINTS = """
import sys, hashlib
from constellation import init, join, parent, spawn, watch

def prints(number):
    for line in range(int(sys.argv[1])):
        print(f"line {number} {line} " + "x" * (line % 200))

init()
assert all(status.ok for status in join(*(watch(spawn(prints, number).block()) for number in range(6))).block())
"""


@pytest.mark.parametrize("form", ["human", "raw", "json"])
def test_a_reader_that_pauses_gets_all(tmp_path: Path, leftovers: Leftovers, form: str) -> None:
    """While it does not read, the processes wait; then it gets every line of each, once and in order."""
    (tmp_path / "prog.py").write_text(PRINTS)
    lines = 6000
    program = subprocess.Popen(
        [sys.executable, "prog.py", str(lines)],
        cwd=tmp_path,
        env={**leftovers.environment, "CONSTELLATION_FORMAT": form},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout is not None
    pieces, pauses = [], [0.0, 0.5, 0.3]
    while piece := os.read(program.stdout.fileno(), 1 << 20):
        pieces.append(piece)
        if pauses:
            time.sleep(pauses.pop())
    assert program.wait(timeout=30) == 0
    assert program.stderr is not None
    with program.stderr:
        assert program.stderr.read() == b""
    program.stdout.close()
    text = b"".join(pieces).decode()
    if form == "json":
        events = [json.loads(line) for line in text.splitlines()]
        text = "".join(
            event["data"] for event in sorted(events, key=lambda event: event.get("pid", "")) if "data" in event
        )
    found: dict[int, list[int]] = {}
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == "line":
            found.setdefault(int(words[1]), []).append(int(words[2]))
            assert len(words[3] if len(words) > 3 else "") == int(words[2]) % 200
    assert found == {number: list(range(lines)) for number in range(6)}


@pytest.mark.parametrize("form", ["human", "raw", "json"])
@pytest.mark.parametrize("who", ["first", "children"])
def test_head_ends_it_without_a_traceback(tmp_path: Path, leftovers: Leftovers, form: str, who: str) -> None:
    """`prog.py | head`: the reader has what it wants and goes; the program ends, quietly."""
    (tmp_path / "prog.py").write_text(
        f"""
import time
from constellation import init, spawn
def prints():
    while True:
        print("a line")
init()
if {who == "first"!r}:
    prints()
for _ in range(3):
    spawn(prints).block()
time.sleep(1000)
"""
    )
    done = subprocess.run(
        ["/bin/bash", "-c", f"{sys.executable} prog.py | head -3; echo ${{PIPESTATUS[0]}} >&2"],
        cwd=tmp_path,
        env={**leftovers.environment, "CONSTELLATION_FORMAT": form},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert len(done.stdout.splitlines()) == 3
    assert done.stderr == "141\n"
