"""init() where the caller stays as it is: ``-c``, REPL, notebook, pytest, threads, a running event loop."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pexpect
import pytest

from tests.conftest import Leftovers, RunProgram

RAW = {"CONSTELLATION_FORMAT": "raw"}
CALL = """
from constellation import Receiver, Sender, init, parent, pid, spawn, watch
import os
def child(n):
    Sender(parent()).send(n + offset).block()
offset = 100
"""
USE = """
print("got", Receiver(spawn(child, 1).block()).recv().block())
"""


def test_dash_c(leftovers: Leftovers, tmp_path: Path) -> None:
    """No file to run again: functions travel by value; the caller keeps its pid and its exit code."""
    code = CALL + "before = os.getpid()\ninit()\nassert os.getpid() == before\n" + USE + "import sys; sys.exit(3)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**leftovers.environment, **RAW},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("got 101\n", "", 3)


def test_output_comes_through_the_callers_stdout(leftovers: Leftovers, tmp_path: Path) -> None:
    """What a process prints can be caught by redirect_stdout in the caller."""
    code = textwrap.dedent("""
        import contextlib, io
        from constellation import init, spawn, watch
        def speak(): print("spoken ü")
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            with init():
                watch(spawn(speak).block()).block()
        print(ascii(text.getvalue()))
    """)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=leftovers.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert r":\n    spoken \xfc\n    exited: 0\n" in done.stdout, done
    assert done.stderr == ""


THREADED = """
    import threading, time
    from constellation import Receiver, Sender, init, parent, spawn
    print("runs")
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    def child(n):
        Sender(parent()).send(n + offset).block()
    offset = 100
    if __name__ == "__main__":
        init()
        print("got", Receiver(spawn(child, 1).block()).recv().block())
        print("got", Receiver(spawn(child, 2).block()).recv().block())
"""


def test_a_thread_before_init(run_program: RunProgram, tmp_path: Path) -> None:
    """The program cannot be forked: every process gets an interpreter of its own, and the user is told why."""
    result = run_program(tmp_path, THREADED, env=RAW)
    assert result.stdout == "runs\ngot 101\ngot 102\n", result
    assert "threads run in the program before init()" in result.stderr
    assert result.returncode == 0


def test_numpy_before_init(run_program: RunProgram, tmp_path: Path) -> None:
    """Its threads end at a fork: the plain chain is taken, and generators differ."""
    pytest.importorskip("numpy")
    source = """
        import os, numpy
        from constellation import init, spawn, watch
        def draw(): print(numpy.random.random(), (numpy.ones((300, 300)) @ numpy.ones((300, 300))).sum())
        before = os.getpid()
        init()
        assert os.getpid() != before
        for _ in range(2):
            watch(spawn(draw).block()).block()
    """
    result = run_program(tmp_path, source, env=RAW)
    first, second = (line.split() for line in result.stdout.splitlines())
    assert first[0] != second[0]
    assert first[1] == second[1] == "27000000.0"
    assert (result.stderr, result.returncode) == ("", 0)


IN_A_LOOP = """
    import os
    from constellation import Receiver, Sender, init, parent, spawn, watch
    offset = 100
    async def child(n):
        await Sender(parent()).send(n + offset)
    async def main():
        before = os.getpid()
        deployment = init()
        assert os.getpid() == before
        print("got", await Receiver(await spawn(child, 1)).recv())
    {run}
"""


@pytest.mark.parametrize(
    "run", ["import asyncio; asyncio.run(main())", "import trio; trio.run(main)"], ids=["asyncio", "trio"]
)
def test_in_an_event_loop(run_program: RunProgram, tmp_path: Path, run: str) -> None:
    """init() inside a running event loop leaves the caller as it is."""
    result = run_program(tmp_path, IN_A_LOOP.format(run=run), env=RAW)
    assert (result.stdout, result.stderr, result.returncode) == ("got 101\n", "", 0)


def test_repl(leftovers: Leftovers, tmp_path: Path) -> None:
    """Functions typed at the prompt can be spawned."""
    repl = pexpect.spawn(
        sys.executable,
        ["-q"],
        cwd=str(tmp_path),
        env={**leftovers.environment, "TERM": "dumb"},
        timeout=20,
        encoding="utf-8",
    )
    repl.expect(">>> ")
    for line in (
        "from constellation import *",
        "def child(n): Sender(parent()).send(n + offset).block()",
        "",
        "offset = 100",
        "deployment = init()",
        "print('got', Receiver(spawn(child, 1).block()).recv().block())",
    ):
        repl.sendline(line)
        repl.expect([">>> ", r"\.\.\. "])
    repl.sendline("offset = 200")
    repl.sendline("print('got', Receiver(spawn(child, 2).block()).recv().block())")
    repl.expect("got 202")
    repl.sendline("deployment.close()")
    repl.sendline("exit()")
    repl.expect(pexpect.EOF)
    repl.close()
    assert repl.exitstatus == 0


def test_in_pytest(leftovers: Leftovers, tmp_path: Path) -> None:
    """A test of a user's: functions of the test module, output captured, nothing left between two tests."""
    (tmp_path / "test_user.py").write_text(
        CALL
        + textwrap.dedent("""
        def speak():
            print("spoken")
        def test_one():
            with init():
                assert Receiver(spawn(child, 1).block()).recv().block() == 101
        def test_two(capsys):
            with init():
                watch(spawn(speak).block()).block()
            assert "    spoken\\n" in capsys.readouterr().out
        """)
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=leftovers.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_notebook(leftovers: Leftovers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real kernel: cells define functions, output appears in the notebook."""
    pytest.importorskip("ipykernel")
    manager_module = pytest.importorskip("jupyter_client.manager")
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    for name, value in leftovers.environment.items():
        monkeypatch.setenv(name, value)
    manager, client = manager_module.start_new_kernel(kernel_name="python3", cwd=str(tmp_path))
    try:
        said: list[str] = []

        def run(code: str) -> None:
            said.clear()

            def hear(message: dict[str, dict[str, str]]) -> None:
                if message["header"]["msg_type"] == "stream":
                    said.append(message["content"]["text"])
                elif message["header"]["msg_type"] == "error":
                    said.append("\n".join(message["content"]["traceback"]))

            client.execute_interactive(code, timeout=30, output_hook=hear)

        run(CALL + "\ndef speak(): print('spoken')\ndeployment = init()")
        assert said == []
        run(USE)
        assert "got 101" in "".join(said)
        run("watch(spawn(speak).block()).block(); import time; time.sleep(0.5)")
        assert "    spoken" in "".join(said)
        run("deployment.close()")
    finally:
        client.stop_channels()
        manager.shutdown_kernel()


def test_the_callers_end_ends_the_others(run_program: RunProgram, tmp_path: Path) -> None:
    """When the caller's program has ended, nothing of it goes on."""
    source = """
        import threading, time
        from constellation import init, spawn
        def sleeper(): time.sleep(60)
        threading.Thread(target=time.sleep, args=(2,), daemon=True).start()
        if __name__ == "__main__":
            init()
            spawn(sleeper).block()
    """
    assert run_program(tmp_path, source, env=RAW, timeout=20).returncode == 0


def test_the_callers_death_ends_all(leftovers: Leftovers, tmp_path: Path) -> None:
    """A killed caller leaves nothing behind."""
    code = (
        CALL
        + "def sleeper():\n    import time; time.sleep(60)\ninit()\nspawn(sleeper).block()\nos.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=leftovers.environment,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == -9
    assert os.path.isdir(tmp_path)  # the check for leftovers follows


def test_a_later_deployment_takes_the_program_as_it_is(run_program: RunProgram, tmp_path: Path) -> None:
    """With threads by then: not a template of the time of the first init()."""
    source = """
        import threading
        from constellation import init, spawn, watch
        def show(): print(value)
        def use():
            with init():
                watch(spawn(show).block()).block()
        if __name__ == "__main__":
            value = 1
            use()
            done = threading.Event()
            thread = threading.Thread(target=done.wait); thread.start()
            value = 2
            use()
            done.set(); thread.join()
            value = 3
            use()
    """
    result = run_program(tmp_path, source, env=RAW)
    assert (result.stdout, result.stderr, result.returncode) == ("1\n2\n3\n", "", 0)


def test_a_program_may_start_another(run_program: RunProgram, tmp_path: Path) -> None:
    """A spawned process that runs a program of its own with subprocess: a deployment of its own, nothing is inherited."""
    (tmp_path / "other.py").write_text("from constellation import init\ninit()\nprint('other')\n")
    source = """
        import subprocess, sys
        from constellation import init, spawn, watch
        def run(): subprocess.run([sys.executable, "other.py"], check=True)
        init()
        watch(spawn(run).block()).block()
    """
    result = run_program(tmp_path, source, env=RAW)
    assert (result.stdout, result.stderr, result.returncode) == ("other\n", "", 0)


def test_a_channel_that_begins_when_the_fabric_has_gone(leftovers: Leftovers, tmp_path: Path) -> None:
    """Nobody will make its link: both ends are told that the process was lost, and wait for nothing."""
    code = CALL + textwrap.dedent("""
        import signal, time
        from constellation import PeerDied
        def tells():
            template = os.getppid()
            fabric = int(open(f"/proc/{template}/stat").read().rpartition(")")[2].split()[1])
            Sender(parent()).send(fabric).block()
            time.sleep(60)
        init()
        silent = spawn(time.sleep, 60).block()
        os.kill(Receiver(spawn(tells).block()).recv().block(), signal.SIGKILL)
        assert "node lost" in watch(silent).block().cause
        for use in (Receiver(silent).recv(), Sender(silent).send(1), Receiver(silent, "other").recv()):
            try:
                use.block()
            except PeerDied as died:
                print(died.status.cause[:9])
    """)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**leftovers.environment, **RAW},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == "node lost\n" * 3, done
