"""What cannot work: Pids of nobody, functions that end badly, no descriptors, no room on the disk.

Each gives a clear error or a true certificate, within seconds; and what comes after it works.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Leftovers, RunProgram
from tests.io.channel_programs import PREAMBLE, passes, run

UNKNOWN = "is not known on this node: it belongs to another deployment, or never was"

# Pids


def test_operations_on_a_pid_of_nobody_say_so(run_program: RunProgram, tmp_path: Path) -> None:
    """One made by hand, and one with a number that somebody has, and another key: the key counts."""
    source = f"""
        def waits():
            time.sleep(1000)
        init()
        living = spawn(waits).block()
        for foreign in (Pid(1, 99, os.urandom(16)), Pid(7, 1, os.urandom(16)), Pid(living.node, living.process, bytes(16))):
            for operation in (
                watch(foreign), kill(foreign), kill(foreign, grace=0, tree=True), link(foreign), Receiver(foreign).recv()
            ):
                error = raises((UsageError, ChannelError), operation.block, 10)
                assert "{UNKNOWN}" in str(error) and str(foreign) in str(error), error
            raises(ChannelError, lambda: list(Receiver(foreign, "listed")))
            for sender in (Sender(foreign), Sender(foreign, "again")):
                error = raises(ChannelError, sender.send(1).block, 10)
                assert "{UNKNOWN}" in str(error), error
                assert raises(ChannelError, sender.try_send, 1)
                sender.close()
            unlink(foreign).block()
        kill(living).block()
    """
    result = run(run_program, tmp_path, source)
    assert (result.returncode, result.stderr) == (143, ""), result


def test_operations_on_the_ended_give_how_that_was(run_program: RunProgram, tmp_path: Path) -> None:
    """One that ended well, one that did not, and processes of the deployment before."""
    source = """
        def returns():
            pass
        def leaves():
            os._exit(3)
        def late(one):
            link(one).block()
            time.sleep(1000)
        def check(one, code, kind, description):
            assert watch(one).block(timeout=10).code == code
            assert kill(one).block(timeout=10) == kill(one, tree=True).block(timeout=10) == watch(one).block()
            for call in (Receiver(one).recv().block, Sender(one).send(1).block, lambda: Sender(one, "try").try_send(1)):
                error = raises(kind, call)
                assert description in str(error), error
        with init() as deployment:
            former = spawn(returns).block()
            check(former, 0, ChannelClosed, "has ended")
        with init():
            check(former, 0, ChannelClosed, "has ended")
            well, badly = spawn(returns).block(), spawn(leaves).block()
            check(well, 0, ChannelClosed, "has ended")
            check(badly, 3, PeerDied, "exited: 3 (without a word, as by os._exit)")
            link(well).block()
            status = watch(spawn(late, badly).block()).block(timeout=10)
            assert status.cause == f"linked process {badly} died: exited: 3 (without a word, as by os._exit)", status
        os._exit(0)
    """
    result = run(run_program, tmp_path, source)
    assert result.stderr == ""
    assert result.returncode == 1  # 3 and 143


@pytest.mark.parametrize("close", [False, True])
def test_a_value_for_one_that_had_ended_is_named_as_undelivered(
    run_program: RunProgram, tmp_path: Path, close: bool
) -> None:
    """It is accepted before anybody can know; who sends nothing more hears no error, so the certificate has to say it."""
    source = f"""
        def returns():
            pass
        def sends(one, again):
            sender = Sender[str](one, "results")
            sender.send("the only one").block()
            if {close}:
                sender.close()
            if again:
                until(lambda: not quiet(sender))
        def quiet(sender):
            try:
                sender.send("another").block()
            except ChannelClosed:
                return False
            return True
        init()
        one = spawn(returns).block()
        watch(one).block()
        status = watch(spawn(sends, one, False).block()).block(timeout=10)
        assert status.code == 0 and status.cause.startswith(f"undelivered: 1 channel to {{one}} ('results' "), status
        if not {close}:
            assert watch(spawn(sends, one, True).block()).block(timeout=10).cause is None
        assert watch(spawn(sends, Pid(1, 99, os.urandom(16)), False).block()).block(timeout=10).cause is not None
    """
    passes(run_program, tmp_path, source)


# Functions

ENDS = {
    "raise ValueError('odd')": (1, None, "uncaught ValueError: odd"),
    "sys.exit(3)": (3, None, "SystemExit: 3"),
    "os._exit(7)": (7, None, "without a word, as by os._exit"),
    "ctypes.string_at(0)": (None, "SIGSEGV", "Segmentation fault in string_at at "),
    "deep()": (None, "SIGSEGV", "C stack overflow in deep at "),
    "limited()": (1, None, "uncaught MemoryError"),
    "greedy()": (None, "SIGKILL", "memory limit: it asked for 24 MiB and "),
    "os.kill(os.getpid(), signal.SIGKILL)": (None, "SIGKILL", "not by constellation"),
    "f = open('/dev/full', 'w', buffering=1); f.write('x\\n')": (
        1,
        None,
        "uncaught OSError: [Errno 28] No space left on device",
    ),
    "class Odd(Exception):\n        __str__ = None\n    raise Odd": (
        1,
        None,
        "uncaught ends.<locals>.Odd: <str() of it",
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_function_that_ends_badly_has_a_true_certificate(run_program: RunProgram, tmp_path: Path, end: str) -> None:
    """From its first line on, when nothing has been sent yet; what is spawned after it works."""
    source = f"""
import ctypes, itertools
def deep():
    nested = iter(())
    for _ in range(300_000):
        nested = itertools.chain(nested)
    next(nested)
def limited():
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    bytes(1 << 31)
def greedy():
    taken = []
    while True:
        taken.append(b"x" * (1 << 20))
def ends():
    {end}
def works():
    Sender(parent()).send(1).block()
init()
one = spawn(ends, resources=Resources(mem="24 MiB") if {end!r} == "greedy()" else None).block()
status = watch(one).block(timeout=20)
code, signum, cause = {ENDS[end]!r}
assert (status.code, status.signal) == (code, signum), status
assert status.cause.startswith(cause), status
assert raises(PeerDied, Receiver(one).recv().block, 10).status == status
assert Receiver(spawn(works).block()).recv().block(timeout=20) == 1
"""
    result = run_program(tmp_path, PREAMBLE + source, env={"CONSTELLATION_FORMAT": "raw"})
    code, signum, _ = ENDS[end]
    assert "AssertionError" not in result.stderr
    assert result.returncode == (128 + signal.Signals[signum] if signum else code), result


# Descriptors


def test_a_start_without_descriptors_says_how_many_there_are_and_may_be_tried_again(
    run_program: RunProgram, tmp_path: Path
) -> None:
    """Nothing of the attempt stays open."""
    source = """
        def works():
            Sender(parent()).send(1).block()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        before = os.listdir("/proc/self/fd")
        for limit in (8, 9, 10, 11, 12):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))
            error = raises(SpawnError, init)
            assert f"this process may open {limit}; raise that (ulimit -n)" in str(error), error
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert os.listdir("/proc/self/fd") == before
        init()
        assert Receiver(spawn(works).block()).recv().block() == 1
    """
    passes(run_program, tmp_path, source)


def test_a_fabric_without_descriptors_refuses_spawns_until_some_are_free(
    run_program: RunProgram, tmp_path: Path
) -> None:
    """The error names the limit of the fabric, and what to do."""
    source = """
        def waits():
            Receiver(parent()).recv().block()
        resource.setrlimit(resource.RLIMIT_NOFILE, (120, 120))
        init()
        begun = []
        try:
            while len(begun) < 50:
                begun.append(spawn(waits).block(timeout=10))
        except SpawnError as error:
            assert "may open 120 descriptors; raise the hard limit (ulimit -Hn), or run fewer at a time" in str(error), error
        assert 1 < len(begun) < 50
        raises(SpawnError, spawn(waits).block, 10)
        for _ in range(3):
            Sender(begun[0]).send(1).block()
            assert watch(begun.pop(0)).block(timeout=10).ok
            begun.append(spawn(waits).block(timeout=10))
            raises(SpawnError, spawn(waits).block, 10)
        for one in begun:
            Sender(one).send(1).block()
    """
    passes(run_program, tmp_path, source)


def test_a_template_without_descriptors_fails_the_spawn_and_lives(run_program: RunProgram, tmp_path: Path) -> None:
    """The limit may be lowered from outside; it is named, and when it is raised again spawns work."""
    source = """
        def works():
            Sender(parent()).send(1).block()
        init()
        template = os.getppid()
        limits = resource.prlimit(template, resource.RLIMIT_NOFILE)
        for limit in range(5, 16):
            resource.prlimit(template, resource.RLIMIT_NOFILE, (limit, limits[1]))
            try:
                assert watch(spawn(works).block(timeout=10)).block(timeout=10)
            except SpawnError as error:
                assert f"its template: Too many open files: this process may open {limit};" in str(error), error
        resource.prlimit(template, resource.RLIMIT_NOFILE, limits)
        assert Receiver(spawn(works).block(timeout=10)).recv().block() == 1
    """
    result = run(run_program, tmp_path, source)
    # One that was forked with hardly any descriptors may have ended for want of them, and has said so.
    assert "AssertionError" not in result.stderr and "TimeoutError" not in result.stderr, result
    assert result.returncode in {0, 1}


def test_a_process_without_descriptors_hears_so_and_so_does_its_peer(run_program: RunProgram, tmp_path: Path) -> None:
    """A link that it has no room for, and a large call: each an error that names the limit, and nobody waits for ever."""
    source = """
        def full():
            resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
            taken = []
            try:
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
            error = raises(SpawnError, spawn(full, bytes(100_000)).block, 10)
            assert "this process may open 40; raise that (ulimit -n)" in str(error), error
            raises(PeerDied, Receiver(parent(), "link").recv().block, 20)
            for fd in taken:
                os.close(fd)
            assert watch(spawn(returns, bytes(100_000)).block(timeout=10)).block(timeout=10).ok
        def returns(data):
            assert len(data) == 100_000
        init()
        one = spawn(full).block()
        error = raises(PeerDied, Receiver(one, "link").recv().block, 20)
        assert "this process may open 40; raise that (ulimit -n)" in str(error), error
        assert str(error).startswith(f"process {one} is lost: the link is lost: "), error
        assert watch(one).block(timeout=20).ok
    """
    passes(run_program, tmp_path, source)


# Room


@pytest.mark.parametrize("form", ["human", "json", "raw"])
def test_a_full_disk_is_said_for_what_comes_after_the_beginning_too(
    leftovers: Leftovers, tmp_path: Path, form: str
) -> None:
    """The output is cut where there is no more room, the rest is lost, and the exit code says so."""
    script = tmp_path / "prog.py"
    script.write_text(
        "import resource\nfrom constellation import *\n"
        "def writes():\n    for number in range(3000):\n        print('line', number)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "init()\nwatch(spawn(writes).block()).block()\n"
    )
    with open(tmp_path / "out", "wb") as out:
        done = subprocess.run(
            [sys.executable, str(script)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            env={**leftovers.environment, "CONSTELLATION_FORMAT": form},
            timeout=60,
            check=False,
        )
    assert done.stderr.splitlines()[0] == "constellation: cannot write to stdout: File too large"
    assert done.returncode == 1
    text = (tmp_path / "out").read_bytes()
    assert 19_000 < len(text) <= 20_000


def test_what_a_file_in_memory_may_hold_is_named(run_program: RunProgram, tmp_path: Path) -> None:
    """RLIMIT_FSIZE counts for large calls too; what is small goes on."""
    source = """
        def returns(data):
            pass
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        init()
        error = raises(SpawnError, spawn(returns, bytes(100_000)).block, 10)
        assert "File too large: this process may write 60000 bytes to a file; raise that (ulimit -f)" in str(error), error
        assert watch(spawn(returns, bytes(1000)).block(timeout=10)).block(timeout=10).ok
    """
    passes(run_program, tmp_path, source)


def test_a_start_that_may_write_no_file_says_so(run_program: RunProgram, tmp_path: Path) -> None:
    """Not even one in memory, which the fabric reads its configuration from."""
    source = """
        before = os.listdir("/proc/self/fd")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        assert "this process may write 100 bytes to a file; raise that (ulimit -f)" in str(raises(SpawnError, init))
        assert os.listdir("/proc/self/fd") == before
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        init()
    """
    passes(run_program, tmp_path, source)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip(f"needs to mount a small disk: {done.stderr.decode()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.root
def test_a_disk_that_is_full_for_all_of_them(leftovers: Leftovers, tmp_path: Path, small_disk: Path) -> None:
    """A process that writes a file is told by Python, and its certificate says it; then our own output finds no room."""
    script = tmp_path / "prog.py"
    script.write_text(
        "from constellation import *\n"
        "def fills():\n    open('file', 'wb', buffering=0).write(bytes(50_000))\n    open('other', 'w').write('x' * 50_000)\n"
        "def writes():\n    print('y' * 100_000)\n"
        "init()\nwatch(spawn(fills).block()).block()\nwatch(spawn(writes).block()).block()\n"
    )
    with open(small_disk / "out", "wb") as out:
        done = subprocess.run(
            [sys.executable, str(script)],
            cwd=small_disk,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            env={**leftovers.environment, "CONSTELLATION_FORMAT": "json"},
            timeout=60,
            check=False,
        )
    assert "constellation: cannot write to stdout: No space left on device" in done.stderr
    assert done.returncode == 1
    events = [json.loads(line) for line in (small_disk / "out").read_text().splitlines()[:-1]]
    assert "uncaught OSError: [Errno 28] No space left on device" in [event.get("cause") for event in events]
