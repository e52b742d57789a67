"""Supervisors with real processes: restarts, storms, orders, names that survive, ends of all kinds."""

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

RAW = {"CONSTELLATION_FORMAT": "raw"}
JSON = {"CONSTELLATION_FORMAT": "json"}
HEAD = """
import asyncio, os, signal, sys, time
from constellation import *
def sleeps(*_):
    time.sleep(60)
def crashes(how, *args):
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        sys.exit(args[0])
    if how == "_exit":
        os._exit(args[0])
    raise ValueError(how)
def serve(name, *_):
    # Says when it begins and when it ends; in between it can be found.
    try:
        print("+" + name, flush=True)
        register("up " + name).block()
        sleeps()
    finally:
        print("-" + name, flush=True)
"""


def supervised(text: str) -> str:
    return HEAD + textwrap.dedent(text)


def exits(result: Result) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in result.stdout.splitlines()]
    functions = {each["pid"]: each["function"] for each in events if each["event"] == "spawn"}
    return [{**each, "function": functions[each["pid"]]} for each in events if each["event"] == "exit"]


@pytest.mark.parametrize("how", ["'kill'", "'raise'", "'exit', 3", "'_exit', 4"])
def test_a_child_that_dies_is_started_again_and_a_client_finds_it(
    run_program: RunProgram, tmp_path: Path, how: str
) -> None:
    """However it died: the name leads to the new process, and the client goes on."""
    source = supervised(f"""
        def server():
            client = whereis("client").block()
            requests, answers = Receiver[str](client), Sender[int](client)
            for request in requests:
                if request == "die":
                    crashes({how})
                answers.send(os.getpid()).block()
        init()
        register("client").block()
        seen = set()
        with Supervisor([ChildSpec("server", server, name="server")], intensity=9) as supervisor:
            for _ in range(4):
                there = whereis("server").block(timeout=20)
                with Sender[str](there) as requests, Receiver[int](there) as answers:
                    requests.send("who").block()
                    seen.add(answers.recv().block())
                    requests.send("die").block()
                    try:
                        answers.recv().block()
                    except ChannelError:
                        pass
            whereis("server").block(timeout=20)
        assert len(seen) == 4, seen
        print("done")
    """)
    result = run_program(tmp_path, source, env=RAW)
    assert result.stdout == "done\n", result
    assert result.stderr.count("supervisor: child 'server' (") == 4


def test_a_restart_storm_ends_the_supervisor_with_its_own_failure(run_program: RunProgram, tmp_path: Path) -> None:
    """More restarts than are allowed: the others are stopped, the failure names the child and how it ended."""
    source = supervised("""
        init()
        try:
            with Supervisor([ChildSpec("good", serve, args=("good",)), ChildSpec("bad", crashes, args=("no",))],
                            intensity=3, period=60, name="web") as supervisor:
                watch(supervisor.pid).block()
        except SupervisionError as error:
            print(error)
            print(error.status.exception)
    """)
    result = run_program(tmp_path, source, env=RAW)
    lines = result.stdout.splitlines()
    assert lines[:2] == ["+good", "-good"]
    assert "supervisor 'web' has given up: its process " in lines[2]
    assert "child 'bad': exited: 1 (uncaught ValueError: no); 4 restarts within 60 s would be more than 3" in lines[2]
    assert lines[3].startswith("('constellation.core.errors.SupervisionError', ")
    assert result.stderr.count("ValueError: no\n") >= 4
    assert result.returncode == 1


def test_one_for_all_starts_all_again_in_order(run_program: RunProgram, tmp_path: Path) -> None:
    """The others are stopped in reverse order first."""
    source = supervised("""
        def fails(name, file):
            if os.path.exists(file):
                serve(name)
            else:
                open(file, "x").close()
                join(whereis("up a"), whereis("up c")).block()
                print("!" + name, flush=True)
                crashes("no")
        init()
        specs = [ChildSpec("a", serve, args=("a",)), ChildSpec("b", fails, args=("b", "mark")),
                 ChildSpec("c", serve, args=("c",))]
        with Supervisor(specs, strategy="one_for_all"):
            for name in "bac":  # b lives only once, and by then the others live again
                whereis("up " + name).block()
    """)
    result = run_program(tmp_path, source, env=RAW)
    lines = result.stdout.split()
    assert (sorted(lines[:2]), lines[2]) == (["+a", "+c"], "!b"), result
    assert lines[3:5] == ["-c", "-a"]
    assert sorted(lines[5:8]) == ["+a", "+b", "+c"]
    assert lines[8:] == ["-c", "-b", "-a"]


def test_starts_and_stops_of_each_strategy(run_program: RunProgram, tmp_path: Path) -> None:
    """The events tell: who was replaced by whom, in which order, and who stayed."""
    source = supervised("""
        def a(): sleeps()
        def b(): sleeps()
        def c(): sleeps()
        strategy = sys.argv[1]
        init()
        with Supervisor([ChildSpec(fn.__name__, fn, name=fn.__name__) for fn in (a, b, c)], strategy=strategy):
            old = {name: whereis(name).block() for name in "abc"}
            kill(old["b"], grace=0).block()
            new = dict(old)
            for name in {"one_for_one": "b", "rest_for_one": "bc", "one_for_all": "abc"}[strategy]:
                while new[name] == old[name]:
                    new[name] = whereis(name).block(timeout=20)
            print("".join(name for name in "abc" if whereis(name).block() != old[name]), flush=True)
            time.sleep(0.3)  # a child has its name before it counts as started; a start is withdrawn out of turn
    """)
    expected = {
        "one_for_one": ("b", "abcb", "bcba"),
        "rest_for_one": ("bc", "abcbc", "bccba"),
        "one_for_all": ("abc", "abcabc", "bcacba"),
    }
    for strategy, (replaced, starts, ends) in expected.items():
        result = run_program(tmp_path, source, strategy, env=JSON)
        events = [json.loads(line) for line in result.stdout.splitlines()]
        assert (
            "".join(each["data"] for each in events if each["event"] == "output" and each["fd"] == 1) == replaced + "\n"
        )
        functions = [
            each["function"][-1] for each in events if each["event"] == "spawn" and each["function"][-2] == ":"
        ]
        assert "".join(functions) == starts, strategy
        ended = [each for each in exits(result) if each["function"][-2] == ":"]
        assert "".join(each["function"][-1] for each in ended) == ends, strategy
        assert [each["code"] for each in ended[1:]] == [0] * (len(ended) - 1)


def test_restart_types(run_program: RunProgram, tmp_path: Path) -> None:
    """Permanent: again after a good end; transient: only after a bad one; temporary: never."""
    source = supervised("""
        def once(name, code):
            print(name, flush=True)
            sys.exit(code)
        def few(name):
            with open(name, "a") as file:
                file.write("x")
                count = file.tell()
            if count > 3:
                sleeps()
        init()
        specs = [ChildSpec("transient good", once, args=("A", 0), restart="transient"),
                 ChildSpec("temporary bad", once, args=("B", 5), restart="temporary"),
                 ChildSpec("permanent good", few, args=("count",))]
        with Supervisor(specs, intensity=5):
            while not os.path.exists("count") or os.path.getsize("count") < 4:
                time.sleep(0.01)
    """)
    result = run_program(tmp_path, source, env=RAW)
    assert sorted(result.stdout.split()) == ["A", "B"], result
    assert result.stderr.count("child 'temporary bad'") == 1
    assert result.stderr.count("child 'permanent good'") == 3
    assert result.returncode == 5


def test_shutdown_gives_each_child_its_time(run_program: RunProgram, tmp_path: Path) -> None:
    """In reverse order, one after the other: who does not obey in time is killed, who needs long may have it."""
    source = supervised("""
        def slow(name, seconds):
            register(name).block()
            try:
                sleeps()
            finally:
                time.sleep(seconds)
                print("-" + name, flush=True)
        def deaf(name):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            register(name).block()
            sleeps()
        init()
        specs = [ChildSpec("a", slow, args=("a", 0)), ChildSpec("b", deaf, args=("b",), shutdown=0.3),
                 ChildSpec("c", slow, args=("c", 0.7), shutdown=None), ChildSpec("d", deaf, args=("d",), shutdown=0)]
        with Supervisor(specs):
            for name in "abcd":
                whereis(name).block()
            begun = time.monotonic()
        print(time.monotonic() - begun > 1)
    """)
    result = run_program(tmp_path, source, env=JSON)
    ended = [(each["function"], each["code"], each["signal"]) for each in exits(result)]
    assert ended[:4] == [
        ("prog:deaf", None, "SIGKILL"),
        ("prog:slow", 0, None),
        ("prog:deaf", None, "SIGKILL"),
        ("prog:slow", 0, None),
    ]
    events = [json.loads(line) for line in result.stdout.splitlines()]
    output = "".join(each["data"] for each in events if each["event"] == "output" and each["fd"] == 1)
    assert output == "-c\n-a\nTrue\n"
    complaints = "".join(each["data"] for each in events if each["event"] == "output" and each["fd"] == 2)
    assert complaints.count("did not end as it was asked to") == 1
    assert "child 'b'" in complaints


def test_nothing_but_good_ends_is_exit_code_0(run_program: RunProgram, tmp_path: Path) -> None:
    """Children and supervisors that are shut down end with 0, below one another too."""
    source = supervised("""
        init()
        inner = Supervisor([ChildSpec("x", serve, args=("x",)), ChildSpec("y", serve, args=("y",))])
        with Supervisor([ChildSpec("a", serve, args=("a",)), ChildSpec("inner", inner.run, shutdown=None),
                         ChildSpec("b", serve, args=("b",), name="b")]):
            for name in "abxy":
                whereis("up " + name).block()
    """)
    result = run_program(tmp_path, source, env=RAW)
    assert sorted(result.stdout.split()[:4]) == ["+a", "+b", "+x", "+y"], result
    assert result.stdout.split()[4:] == ["-b", "-y", "-x", "-a"]
    assert (result.stderr, result.returncode) == ("", 0)


def test_a_supervisor_that_gives_up_is_restarted_by_its_own(run_program: RunProgram, tmp_path: Path) -> None:
    """Failures go up the tree: the inner one gives up twice, then the outer one does."""
    source = supervised("""
        init()
        inner = Supervisor([ChildSpec("x", crashes, args=("no",))], intensity=1, name="inner")
        outer = Supervisor([ChildSpec("inner", inner.run, shutdown=None)], intensity=1, name="outer")
        try:
            with outer:
                watch(outer.pid).block()
        except SupervisionError as error:
            print(error)
    """)
    result = run_program(tmp_path, source, env=RAW)
    assert result.stdout.startswith("supervisor 'outer' has given up: ")
    assert "supervisor 'inner' has given up" in result.stdout
    assert "child 'inner'" in result.stdout
    assert result.returncode == 1


def test_a_child_that_cannot_be_started(run_program: RunProgram, tmp_path: Path) -> None:
    """At the beginning that is a failure of the supervisor, in words; what had been started is stopped."""
    source = supervised("""
        init(capacity=Resources(mem="10 GiB", cpu=4))
        for spec in (ChildSpec("big", sleeps, resources=Resources(mem="1 TiB")),
                     ChildSpec("named", sleeps, name="taken"),
                     ChildSpec("lock", sleeps, args=(__import__("threading").Lock(),))):
            register("taken").block() if spec.name else None
            try:
                with Supervisor([ChildSpec("a", serve, args=("a",)), spec]):
                    pass
            except (SupervisionError, SerializationError) as error:
                print(type(error).__name__, error, flush=True)
    """)
    result = run_program(tmp_path, source, env=RAW)
    lines = [line for line in result.stdout.splitlines() if line not in {"+a", "-a"}]
    assert len(lines) == 3, result
    assert lines[0].startswith(
        "SupervisionError the supervisor has given up: it ended before its children were started"
    )
    assert "child 'big': it could not be started: Infeasible: " in lines[0]
    assert "child 'named': it could not be started: " in lines[1] and "cannot register 'taken'" in lines[1]
    assert lines[2].startswith("SerializationError ") and "lock" in lines[2]


def test_children_end_when_their_supervisor_is_killed(run_program: RunProgram, tmp_path: Path) -> None:
    """Nothing is left, and each says why it ended."""
    source = supervised("""
        init()
        supervisor = spawn(Supervisor([ChildSpec(name, sleeps, name=name) for name in "ab"]).run).block()
        pids = [whereis(name).block() for name in "ab"]
        kill(supervisor, grace=0).block()
    """)
    result = run_program(tmp_path, source, env=JSON)
    ended = [each for each in exits(result) if each["function"] == "prog:sleeps"]
    assert [each["code"] for each in ended] == [0, 0], result
    assert all(each["cause"].startswith("linked process ") for each in ended)
    assert all(" died: killed: SIGKILL (killed by process " in each["cause"] for each in ended)
    assert result.returncode == 137


def test_a_supervisor_ends_with_the_process_that_entered_it(run_program: RunProgram, tmp_path: Path) -> None:
    """Killed in the middle of its block, it leaves nothing behind: the supervisor shuts its children down."""
    source = supervised("""
        def holder():
            with Supervisor([ChildSpec("a", serve, args=("a",), name="a")]):
                sleeps()
        init()
        held = spawn(holder).block()
        a = whereis("up a").block()
        kill(held, grace=0).block()
        print(watch(a).block().describe(), flush=True)
    """)
    result = run_program(tmp_path, source, env=RAW)
    assert result.stdout.splitlines()[-3:] == ["+a", "-a", "exited: 0"], result


def test_run_in_the_first_process_ends_with_its_significant_children(run_program: RunProgram, tmp_path: Path) -> None:
    """A job that is done ends the supervisor; run() returns."""
    source = supervised("""
        def job():
            print("job", flush=True)
        init()
        Supervisor([ChildSpec("service", serve, args=("service",)),
                    ChildSpec("job", job, restart="transient", significant=True)], auto_shutdown="any_significant").run()
        print("returned")
    """)
    result = run_program(tmp_path, source, env=RAW)
    assert set(result.stdout.split()) >= {"job", "returned"}
    assert (result.stderr, result.returncode) == ("", 0)


def test_run_raises_what_it_gives_up_for(run_program: RunProgram, tmp_path: Path) -> None:
    """In the process itself the error has the child and its certificate."""
    source = supervised("""
        init()
        try:
            Supervisor([ChildSpec("bad", crashes, args=("exit", 7))], intensity=0).run()
        except SupervisionError as error:
            print(error.child, error.status.code, error)
    """)
    result = run_program(tmp_path, source, env=RAW)
    assert result.stdout == (
        "bad 7 the supervisor has given up: child 'bad': exited: 7 (SystemExit: 7); 1 restart within 5 s would be more than 0\n"
    )
    assert result.returncode == 7


def test_serve_under_asyncio_shuts_down_when_it_is_cancelled(run_program: RunProgram, tmp_path: Path) -> None:
    """Before the cancellation goes on; other tasks run meanwhile. run() is refused there."""
    source = supervised("""
        async def main():
            supervisor = Supervisor([ChildSpec(name, serve, args=(name,), name=name) for name in "ab"])
            try:
                supervisor.run()
            except UsageError as error:
                print(error, flush=True)
            task = asyncio.create_task(supervisor.serve())
            await join(whereis("up a"), whereis("up b"))
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                print("cancelled", flush=True)
        init()
        asyncio.run(main())
    """)
    result = run_program(tmp_path, source, env=RAW)
    lines = result.stdout.splitlines()
    assert lines[0] == "an event loop runs here: use `await supervisor.serve()`"
    assert (sorted(lines[1:3]), lines[3:]) == (["+a", "+b"], ["-b", "-a", "cancelled"])
    assert (result.stderr, result.returncode) == ("", 0)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_run_ends_as_its_signal_says_after_the_shutdown(run_program: RunProgram, tmp_path: Path, signum: int) -> None:
    """SIGTERM and SIGINT shut down in order; then they have their usual effect."""
    source = supervised(f"""
        def send():
            join(whereis("up a"), whereis("up b")).block()
            os.kill(first, {int(signum)})
        def program():
            try:
                Supervisor([ChildSpec(name, serve, args=(name,), name=name) for name in "ab"]).run()
            except BaseException as error:
                print(repr(error), flush=True)
                raise
        first = 0
        init()
        def start():
            global first
            import threading
            first = os.getpid()
            threading.Thread(target=send).start()
            program()
        print(watch(spawn(start).block()).block().code)
    """)
    result = run_program(tmp_path, source, env=RAW)
    lines = result.stdout.splitlines()
    error = "SystemExit(143)" if signum == signal.SIGTERM else "KeyboardInterrupt()"
    assert (sorted(lines[:2]), lines[2:]) == (["+a", "+b"], ["-b", "-a", error, str(128 + signum)]), result


@pytest.mark.parametrize("form", ["with", "run"])
def test_ctrl_c_ends_all_quietly(leftovers: Leftovers, tmp_path: Path, form: str) -> None:
    """Nobody is restarted, nobody complains, and the exit code is that of Ctrl-C."""
    source = supervised(f"""
        init()
        supervisor = Supervisor([ChildSpec(name, sleeps, name=name) for name in "abc"], intensity=0)
        print("begun", flush=True)
        try:
            if {form == "run"}:
                supervisor.run()
            else:
                with supervisor:
                    sleeps()
        except KeyboardInterrupt:
            sys.exit(130)
    """)
    script = tmp_path / "prog.py"
    script.write_text(source)
    program = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env={**leftovers.environment, **JSON},
        start_new_session=True,
        text=True,
    )
    assert program.stdout is not None
    started = 0
    lines = []
    while started < 3:
        lines.append(program.stdout.readline())
        started += '"function": "prog:sleeps"' in lines[-1] and '"spawn"' in lines[-1]
    time.sleep(0.3)
    os.killpg(program.pid, signal.SIGINT)
    rest, errors = program.communicate(timeout=30)
    events = [json.loads(line) for line in [*lines, *rest.splitlines()] if line.strip()]
    said = "".join(each["data"] for each in events if each["event"] == "output" and each["fd"] == 2)
    assert (said, errors, program.returncode) == ("", "", 130)
    assert sum(each["event"] == "spawn" for each in events) == (5 if form == "with" else 4)


def test_restarts_of_many_children_at_once(run_program: RunProgram, tmp_path: Path) -> None:
    """All killed from outside in the same moment, again and again: all come back, none twice."""
    source = supervised("""
        init()
        names = [f"child {n}" for n in range(12)]
        with Supervisor([ChildSpec(name, sleeps, name=name) for name in names], intensity=1000):
            for _ in range(3):
                pids = [whereis(name).block(timeout=30) for name in names]
                assert len(set(pids)) == len(names)
                join(*(kill(pid, grace=0) for pid in pids)).block()
            for name in names:
                whereis(name).block(timeout=30)
        print("done")
    """)
    result = run_program(tmp_path, source, env=RAW, timeout=90)
    assert result.stdout == "done\n", result
    assert result.stderr.count("killed: SIGKILL") == 36


def test_a_shutdown_overtakes_a_restart_that_waits_for_room(run_program: RunProgram, tmp_path: Path) -> None:
    """The spawn that is queued is withdrawn, and nothing is left of it."""
    source = supervised("""
        init(capacity=Resources(mem="10 GiB", cpu=1))
        half = Resources(cpu=0.5)
        with Supervisor([ChildSpec("a", sleeps, name="a", resources=half)], intensity=100):
            a = whereis("a").block()
            def takes_the_room():
                time.sleep(1.5)
            waiting = [spawn(takes_the_room, resources=half) for _ in range(1)]
            killed = kill(a, grace=0)
            join(*waiting, killed).block()
            begun = time.monotonic()
        print(time.monotonic() - begun < 1.4)
    """)
    result = run_program(tmp_path, source, env=RAW)
    assert result.stdout == "True\n", result


def test_a_very_long_grace_time_does_no_harm(run_program: RunProgram, tmp_path: Path) -> None:
    """The kernel counts no further than 24 days: the fabric waits again then."""
    source = supervised("""
        init()
        child = spawn(sleeps).block()
        print(kill(child, grace=1e8).block().code)
    """)
    assert run_program(tmp_path, source, env=RAW) == ("143\n", "", 143)


def test_misuse_is_told(run_program: RunProgram, tmp_path: Path) -> None:
    """Before init, twice at a time, outside of its block; and a description can be used again."""
    source = supervised("""
        supervisor = Supervisor([ChildSpec("a", serve, args=("a",))])
        for use in (supervisor.run, supervisor.__enter__, lambda: supervisor.pid):
            try:
                use()
            except UsageError as error:
                print(str(error)[:30], flush=True)
        init()
        for _ in range(2):
            with supervisor:
                try:
                    with supervisor:
                        pass
                except UsageError as error:
                    print(str(error)[:30], flush=True)
        print(repr(supervisor))
    """)
    result = run_program(tmp_path, source, env=RAW)
    lines = [line for line in result.stdout.splitlines() if line not in {"+a", "-a"}]
    assert lines[:3] == ["no deployment: call constellat"] * 2 + ["this supervisor has no process"], result
    assert lines[3:] == ["this supervisor runs already: m"[:30]] * 2 + ["<Supervisor of a, one_for_one>"]
    assert (result.stderr, result.returncode) == ("", 0)
