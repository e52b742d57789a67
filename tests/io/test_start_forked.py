"""init() in a plain script: the tree it becomes, what the program keeps, how it ends, what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Leftovers, Result, RunProgram

JSON = {"CONSTELLATION_FORMAT": "json"}
RAW = {"CONSTELLATION_FORMAT": "raw"}


def events(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def exits(result: Result) -> list[dict[str, Any]]:
    return [event for event in events(result) if event["event"] == "exit"]


def test_hello(run_program: RunProgram, tmp_path: Path) -> None:
    """A script's output comes in the format for people, and nothing else does."""
    source = """
        from constellation import init
        init()
        print("Hello, world!")
    """
    result = run_program(tmp_path, source)
    pid, *lines = result.stdout.splitlines()
    assert lines == ["    Hello, world!", "    exited: 0"]
    assert pid.endswith(":")
    assert (len(pid), result.stderr, result.returncode) == (8, "", 0)


def test_the_tree(run_program: RunProgram, tmp_path: Path) -> None:
    """The shell's pid is the keeper; below it the fabric, the template, and the processes, each a session of its own."""
    source = """
        import json, os
        from constellation import init, spawn, watch
        started = os.getpid()
        def show():
            parents, at = [], os.getpid()
            while at != started:
                at = int(open(f"/proc/{at}/stat").read().rpartition(")")[2].split()[1])
                parents.append(at)
            own = [os.readlink(f"/proc/self/fd/{fd}").partition(":")[0] for fd in os.listdir("/proc/self/fd")
                   if os.path.exists(f"/proc/self/fd/{fd}")]
            print(json.dumps([len(parents), os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid(), sorted(own)]), flush=True)
        init()
        show()
        watch(spawn(show).block()).block()
    """
    result = run_program(tmp_path, source, env=RAW)
    first, spawned = (json.loads(line) for line in result.stdout.splitlines())
    assert first[:3] == [3, True, True]
    assert spawned[:3] == [3, True, True]
    for process in (first, spawned):
        assert set(process[3]) <= {"/dev/null", "pipe", "socket", "anon_inode"}
        # stdout, stderr, that of the last stack, and both ends of the reactor's wake-up pipe
        assert process[3].count("pipe") == 5
        assert process[3].count("/dev/null") == 1
        assert process[3].count("socket") == 1


@pytest.mark.parametrize(
    ("end", "code", "signum"),
    [
        ("pass", 0, None),
        ("sys.exit(3)", 3, None),
        ("raise ValueError('no')", 1, None),
        ("sys.exit('text')", 1, None),
        ("os._exit(5)", 5, None),
        ("os.kill(os.getpid(), 11)", None, "SIGSEGV"),
        ("os.kill(os.getpid(), 9)", None, "SIGKILL"),
        ("os.kill(os.getpid(), 15); time.sleep(9)", 143, None),
        ("signal.signal(15, lambda *_: sys.exit(7)); os.kill(os.getpid(), 15); time.sleep(9)", 7, None),
    ],
)
@pytest.mark.parametrize("where", ["first", "spawned"])
def test_ends(
    run_program: RunProgram, tmp_path: Path, where: str, end: str, code: int | None, signum: str | None
) -> None:
    """Each way to end gives its exit code and its words."""
    source = f"""
        import os, signal, sys, time
        from constellation import init, spawn, watch
        def ending():
            {end}
        init()
        if {where!r} == "first":
            ending()
        else:
            status = watch(spawn(ending).block()).block()
            assert (status.code, status.signal) == ({code}, {signum!r}), status
    """
    result = run_program(tmp_path, source, env=JSON)
    ended = exits(result)
    assert (ended[0]["code"], ended[0]["signal"]) == (code, signum), result
    failed = code if code is not None else 128 + signal.Signals[signum or "SIGKILL"]
    assert result.returncode == failed


def test_an_exception(run_program: RunProgram, tmp_path: Path) -> None:
    """The traceback has the user's frames only; the certificate has type, text and the last lines."""
    source = """
        from constellation import init, spawn, watch
        class Odd(Exception): pass
        def deep(): raise Odd("too deep")
        def failing(): deep()
        init()
        status = watch(spawn(failing).block()).block()
        print(status.code, status.exception, status.stderr[-1])
    """
    result = run_program(tmp_path, source, env=RAW)
    assert result.stdout == "1 ('Odd', 'too deep') Odd: too deep\n"
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "Odd: too deep"
    assert "in failing" in lines[1]
    assert "/process/" not in result.stderr


def test_first_ends_by_an_exception(run_program: RunProgram, tmp_path: Path) -> None:
    """What an uncaught exception says, and the user's own hook."""
    source = """
        import sys
        sys.excepthook = lambda kind, error, trace: print("hook:", error, file=sys.stderr)
        from constellation import init, parent, pid, spawn, watch
        def observe(first):
            print(watch(first).block().exception)
        init()
        spawn(observe, pid()).block()
        raise KeyError("gone")
    """
    result = run_program(tmp_path, source, env=RAW)
    assert result.stderr == "hook: 'gone'\n"
    assert result.stdout == """('KeyError', "'gone'")\n"""
    assert result.returncode == 1


def test_the_program_goes_on_as_it_was(run_program: RunProgram, tmp_path: Path) -> None:
    """Standard input half read, a seeded generator, an alarm, open files, a temporary directory."""
    source = """
        import os, random, signal, sys, tempfile, time
        from constellation import init, spawn, watch
        print("before")
        first = sys.stdin.readline()
        random.seed(7); expected = [random.Random(7).random()]
        signal.signal(signal.SIGALRM, lambda *_: print("alarm"))
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        log = open("log", "w"); log.write("once\\n")
        folder = tempfile.TemporaryDirectory()
        def look(path):
            assert os.path.isdir(path)
            log.write("spawned\\n")
            print(random.random())
        init()
        print(first.strip(), sys.stdin.readline().strip(), random.random() == expected[0])
        for _ in range(2):
            watch(spawn(look, folder.name).block()).block()
        assert os.path.isdir(folder.name)
        time.sleep(0.5)
        log.write("first\\n")
        print(folder.name)
    """
    result = run_program(tmp_path, source, input="one\ntwo\n", env=RAW)
    lines = result.stdout.splitlines()
    assert lines[:2] == ["before", "one two True"], result
    numbers = [line for line in lines[2:5] if line != "alarm"]  # on a busy machine it may come between them
    assert len(numbers) == 2, result
    assert numbers[0] != numbers[1], "both processes have the same random numbers"
    assert not Path(lines[5]).exists()
    assert (tmp_path / "log").read_text() == "once\nspawned\nspawned\nfirst\n"
    assert (result.stderr, result.returncode) == ("", 0)


def test_the_end_of_a_spawned_process(run_program: RunProgram, tmp_path: Path) -> None:
    """Threads are joined, its own atexit functions run, files that it opened are flushed; not the template's functions."""
    source = """
        import atexit, sys, threading, time
        from concurrent.futures import ThreadPoolExecutor
        from constellation import init, spawn, watch
        atexit.register(print, "of the program")
        def ending():
            atexit.register(print, "of the process")
            threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
            pool = ThreadPoolExecutor(1); pool.submit(print, "pool")
            file = open("made", "w"); file.write("x" * 10)
            globals()["kept"] = file
            sys.stdout.write("no newline")
        init()
        watch(spawn(ending).block()).block()
    """
    result = run_program(tmp_path, source, env=RAW)
    assert (tmp_path / "made").read_text() == "x" * 10
    assert "of the process" in result.stdout
    assert "no newline" in result.stdout
    assert result.stdout.count("thread") == 1
    assert result.stdout.count("of the program") == 1
    assert (result.stderr, result.returncode) == ("", 0)


def test_a_returned_value_warns(run_program: RunProgram, tmp_path: Path) -> None:
    """A value that nobody can get is named once."""
    source = """
        from constellation import init, spawn, watch
        def answer(): return 42
        init()
        watch(spawn(answer).block()).block()
    """
    result = run_program(tmp_path, source, env=RAW)
    assert "RuntimeWarning: " in result.stderr
    assert "answer returned a int" in result.stderr
    assert result.returncode == 0


def test_async_functions(run_program: RunProgram, tmp_path: Path) -> None:
    """An async def function runs under asyncio.run."""
    source = """
        import asyncio
        from constellation import init, spawn, watch
        async def ticking():
            await asyncio.sleep(0.01)
            print("ticked")
        init()
        watch(spawn(ticking).block()).block()
    """
    result = run_program(tmp_path, source, env=RAW)
    assert (result.stdout, result.stderr, result.returncode) == ("ticked\n", "", 0)


GUARDED = """
    from constellation import Receiver, Sender, init, parent, spawn
    def child(n):
        Sender(parent()).send(n + offset).block()
    offset = 100
    if __name__ == "__main__":
        init()
        print(Receiver(spawn(child, 1).block()).recv().block())
"""
UNGUARDED = """
    from constellation import Receiver, Sender, init, parent, spawn
    init()
    offset = 100
    def child(n):
        Sender(parent()).send(n + offset).block()
    print(Receiver(spawn(child, 1).block()).recv().block())
"""


@pytest.mark.parametrize("source", [GUARDED, UNGUARDED], ids=["guarded", "defined after init"])
@pytest.mark.parametrize(
    "command",
    [(), ("-O",), ("-X", "dev"), ("-W", "ignore"), ("-m", "coverage", "run"), ("-m", "pdb", "-c", "continue")],
    ids=" ".join,
)
def test_ways_to_run(run_program: RunProgram, tmp_path: Path, command: tuple[str, ...], source: str) -> None:
    """Interpreter options and tools around a script change nothing."""
    result = run_program(tmp_path, source, command=command, env=RAW, input="q\n" if "pdb" in command else None)
    assert "101" in result.stdout.split(), result
    if "coverage" in command:
        assert (tmp_path / ".coverage").exists()
    if "pdb" not in command:
        assert (result.stderr, result.returncode) == ("", 0)


def test_as_a_module(leftovers: Leftovers, tmp_path: Path) -> None:
    """python -m is a script like another."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "other.py").write_text("def twice(n): return 2 * n\n")
    (package / "__main__.py").write_text(
        "from .other import twice\n" + textwrap.dedent(GUARDED).replace("n + offset", "twice(n)")
    )
    done = subprocess.run(
        [sys.executable, "-m", "package"],
        cwd=tmp_path,
        env={**leftovers.environment, **JSON},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found[0]["function"] == "package:__main__"
    assert [event["data"] for event in found if event["event"] == "output"] == ["2\n"]
    assert (done.stderr, done.returncode) == ("", 0)


REFUSED = [
    ("init(); init()", "init() was called twice"),
    ("init(5)", "cannot use resources=5"),
    ("init(plugins='tcp')", "cannot use plugins='tcp'"),
    ("init(transport=5)", "cannot use transport=5"),
    ("init(capacity=5)", "cannot use capacity=5"),
    ("init(transport='tpc')", "unknown transport 'tpc'; did you mean 'tcp'?"),
    ("init(serializer='pikcle')", "unknown serializer 'pikcle'; did you mean 'pickle'?"),
    ("init(scheduler='none')", "unknown scheduler 'none'"),
    ("init(plugins=['nope'])", "unknown plugin 'nope'"),
    ("sys.platform = 'darwin'; init()", "runs on Linux only"),
]


@pytest.mark.parametrize(("call", "words"), REFUSED, ids=[call for call, _ in REFUSED])
def test_refused(run_program: RunProgram, tmp_path: Path, call: str, words: str) -> None:
    """Wrong use at the start says what to do."""
    source = f"""
        import sys
        from constellation import ConstellationError, init
        try:
            {call}
        except ConstellationError as error:
            print(type(error).__name__, error)
    """
    result = run_program(tmp_path, source, env=RAW)
    assert words in result.stdout, result
    assert result.returncode == 0
    assert result.stdout.startswith("PluginError" if "unknown" in words else "UsageError")


def test_refused_in_the_wrong_process(run_program: RunProgram, tmp_path: Path) -> None:
    """In a spawned process, in a forked child of one, in a multiprocessing child: init and spawn say what to do."""
    source = """
        import multiprocessing, os
        from constellation import UsageError, init, spawn, watch
        def attempt(where, call):
            try:
                call()
            except UsageError as error:
                print(where, str(error)[:60], flush=True)
        def inside(method):
            attempt("spawned", init)
            if os.fork() == 0:
                attempt("forked", init)
                attempt("forked", lambda: spawn(print, 1).block())
                os._exit(0)
            os.wait()
            context = multiprocessing.get_context(method)
            child = context.Process(target=attempt, args=(method, init))
            child.start(); child.join()
            print(child.exitcode)
        if __name__ == "__main__":
            init()
            for method in ("fork", "spawn", "forkserver"):
                watch(spawn(inside, method).block()).block()
    """
    # Python 3.12 and later warn of any fork beside a thread, and ours is one.
    result = run_program(tmp_path, source, env=RAW, command=("-W", "ignore::DeprecationWarning"))
    assert result.stdout.count("spawned init() was called in a spawned process") == 3, result
    assert result.stdout.count("forked init() was called in a process that was forked") == 3
    assert result.stdout.count("\nforked ") == 6
    for method in ("fork", "spawn", "forkserver"):
        assert f"\n{method} init() was called" in result.stdout
    assert result.stdout.count("\n0\n") == 3
    assert (result.stderr, result.returncode) == ("", 0)


def test_a_second_deployment(run_program: RunProgram, tmp_path: Path) -> None:
    """After close() init() is allowed again; its template is the program as it is then."""
    source = """
        import time
        from constellation import ConstellationError, Receiver, Sender, init, parent, pid, spawn
        def child():
            Sender(parent()).send(value).block()
        def sleeper():
            time.sleep(60)
        value = 1
        with init():
            first = pid()
            print(Receiver(spawn(child).block()).recv().block())
        value = 2
        try:
            spawn(child)
            print("spawned")
        except ConstellationError as error:
            print(type(error).__name__)
        deployment = init()
        assert pid() != first
        print(Receiver(spawn(child).block()).recv().block())
        spawn(sleeper).block()
        began = time.monotonic()
        deployment.close(); deployment.close()
        print(time.monotonic() - began < 3)
        try:
            with init():
                spawn(sleeper).block()
                raise KeyError("out")
        except KeyError:
            print("killed")
    """
    result = run_program(tmp_path, source, env=RAW)
    assert result.stdout.split() == ["1", "UsageError", "2", "True", "killed"], result
    assert result.stderr == ""


def test_the_template_dies(run_program: RunProgram, tmp_path: Path) -> None:
    """Processes whose template is gone end, with that as the cause."""
    source = """
        import os, signal, time
        from constellation import init
        init()
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    """
    result = run_program(tmp_path, source, env=JSON)
    ended = exits(result)
    assert len(ended) == 1
    assert "template" in (ended[0]["cause"] or "")
    assert result.returncode != 0


@pytest.mark.parametrize("victim", [0, 1, 2], ids=["template", "fabric", "keeper"])
def test_a_grandchild_that_ran_away_dies_too(leftovers: Leftovers, tmp_path: Path, victim: int) -> None:
    """Whoever of the tree is killed, nothing of it stays, a daemon with a session of its own included."""
    (tmp_path / "prog.py").write_text(
        textwrap.dedent("""
        import os, subprocess, time
        from constellation import init, spawn
        def runaway():
            subprocess.Popen(["sleep", "60"], start_new_session=True)
            time.sleep(60)
        init()
        spawn(runaway).block()
        time.sleep(0.3)
        above = [os.getppid()]
        for _ in range(2):
            above.append(int(open(f"/proc/{above[-1]}/stat").read().rpartition(")")[2].split()[1]))
        print(*above, flush=True)
        time.sleep(60)
    """)
    )
    with subprocess.Popen(
        [sys.executable, "prog.py"],
        cwd=tmp_path,
        env={**leftovers.environment, **RAW},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as program:
        assert program.stdout is not None
        above = [int(word) for word in program.stdout.readline().split()]
        os.kill(above[victim], signal.SIGKILL)
        program.wait(10)
    deadline = time.monotonic() + 2
    while leftovers.found() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert leftovers.found() == []
