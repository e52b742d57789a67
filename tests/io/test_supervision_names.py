"""Names of processes, and links between their ends, with real processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Result, RunProgram

RAW = {"CONSTELLATION_FORMAT": "raw"}
JSON = {"CONSTELLATION_FORMAT": "json"}
HEAD = """
import os, signal, sys, time
from constellation import *
def exits_with(code):
    sys.exit(code)
def sleeps(seconds=60):
    time.sleep(seconds)
"""


def causes(result: Result) -> list[Any]:
    """How the processes ended, in the order of their ends: code, signal, cause."""
    events = [json.loads(line) for line in result.stdout.splitlines()]
    return [(each["code"], each["signal"], each["cause"]) for each in events if each["event"] == "exit"]


def test_a_name_leads_to_its_process(run_program: RunProgram, tmp_path: Path) -> None:
    """whereis waits until somebody has the name; try_whereis does not; a second search finds the same."""
    source = (
        HEAD
        + """
def server():
    time.sleep(0.1)
    register("server").block()
    Sender[str](parent()).send("registered").block()
    assert try_whereis("server").block() == pid()
    Receiver[str](parent()).recv().block()
init()
assert try_whereis("server").block() is None
started = spawn(server).block()
assert whereis("server").block(timeout=20) == started
assert Receiver[str](started).recv().block() == "registered"
assert try_whereis("server").block() == started
Sender[str](started).send("end").block()
assert watch(started).block().ok
assert try_whereis("server").block() is None
print("done")
"""
    )
    assert run_program(tmp_path, source, env=RAW) == ("done\n", "", 0)


def test_a_name_that_is_taken_is_refused_until_its_process_has_ended(run_program: RunProgram, tmp_path: Path) -> None:
    """Who hears of the end may take the name at once; so it is with a process that was killed."""
    source = (
        HEAD
        + """
def server():
    register("server").block()
    register("server").block()
    register("second name").block()
    sleeps()
init()
for _ in range(20):
    started = spawn(server).block()
    assert whereis("second name").block() == started
    try:
        register("server").block()
    except NameInUse as error:
        assert str(started) in str(error) and "'server'" in str(error), error
    else:
        raise SystemExit("taken twice")
    status = kill(started, grace=0).block()
    register("server").block()
    register("second name").block()
    unregister("server").block()
    unregister("second name").block()
try:
    unregister("server").block()
except UsageError as error:
    print(error)
os._exit(0)
"""
    )
    result = run_program(tmp_path, source, env=RAW)
    assert result.stdout.startswith("cannot unregister 'server': process "), result
    assert (result.stderr, result.returncode) == ("", 137)


def test_a_search_can_be_given_up(run_program: RunProgram, tmp_path: Path) -> None:
    """By a timeout, in a select that something else wins, and under asyncio; afterwards it can be made again."""
    source = (
        HEAD
        + """
import asyncio
init()
me = pid()
try:
    whereis("nobody").block(timeout=0.05)
except TimeoutError as error:
    print(error)
Sender[int](me).send(5).block()
assert select(whereis("nobody"), Receiver[int](me).recv()).block() == (1, 5)
async def search():
    try:
        async with asyncio.timeout(0.05):
            await whereis("nobody")
    except TimeoutError:
        pass
    asyncio.get_running_loop().call_later(0.05, lambda: register("somebody").block())
    return await whereis("somebody")
assert asyncio.run(search()) == me
"""
    )
    assert run_program(tmp_path, source, env=RAW) == ("whereis of 'nobody': not done after 0.05 s\n", "", 0)


@pytest.mark.parametrize("call", ["register", "unregister", "whereis", "try_whereis"])
def test_what_is_no_name_is_refused(run_program: RunProgram, tmp_path: Path, call: str) -> None:
    """At once, with the value."""
    source = (
        HEAD
        + f"""
init()
for name in ("", "x" * 5000, "\\ud800", 5, None):
    try:
        {call}(name)
    except (UsageError, TypeError) as error:
        print(type(error).__name__)
"""
    )
    result = run_program(tmp_path, source, env=RAW)
    assert result == ("UsageError\nUsageError\nUsageError\nTypeError\nTypeError\n", "", 0)


def test_a_process_has_so_many_names_and_no_more(run_program: RunProgram, tmp_path: Path) -> None:
    """A loop that registers must not fill the fabric; it is told."""
    source = (
        HEAD
        + """
init()
try:
    for number in range(5000):
        register(str(number)).block()
except UsageError as error:
    print(number, error)
"""
    )
    result = run_program(tmp_path, source, env=RAW)
    assert result.stdout.startswith("1024 cannot register '1024': process ")
    assert result.returncode == 0


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("exits_with, 3", "exited: 3"),
        ("os.kill, 0, 9", ""),
        ("int, 'x'", "exited: 1 (uncaught ValueError: invalid literal"),
    ],
)
def test_a_bad_end_ends_the_linked_process(run_program: RunProgram, tmp_path: Path, end: str, words: str) -> None:
    """Its certificate says whose end it was, and how that was."""
    source = (
        HEAD
        + f"""
def bad(fn, *args):
    whereis("linked").block()
    if fn is os.kill:
        os.kill(os.getpid(), 9)
    fn(*args)
def linked(other):
    link(other).block()
    register("linked").block()
    sleeps()
init()
other = spawn(bad, {end}).block()
status = watch(spawn(linked, other).block()).block()
print(status.describe())
"""
    )
    result = run_program(tmp_path, source, env=RAW)
    assert result.stdout.startswith("exited: 143 (linked process ")
    assert f" died: {words or 'killed: SIGKILL'}" in result.stdout
    assert result.returncode != 0


def test_a_good_end_ends_nobody(run_program: RunProgram, tmp_path: Path) -> None:
    """Neither does the end of what is linked in the other direction only, nor what is linked no more."""
    source = (
        HEAD
        + """
def waits():
    Receiver[None](parent()).recv().block()
def follows(other):
    link(other, both=False).block()
    Sender[None](parent()).send(None).block()
    os._exit(7)
init()
good, untied, leader = [spawn(waits).block() for _ in range(3)]
link(good).block()
link(untied).block()
link(pid()).block()
unlink(untied).block()
unlink(untied).block()
Sender[None](good).send(None).block()
assert watch(good).block().ok
assert not kill(untied).block().ok
follower = spawn(follows, leader).block()
assert watch(follower).block().code == 7
time.sleep(0.1)
Sender[None](leader).send(None).block()
assert watch(leader).block().ok
link(good).block()
print("alive")
"""
    )
    result = run_program(tmp_path, source, env=RAW)
    assert (result.stdout, result.stderr) == ("alive\n", "")


def test_who_links_with_a_process_that_has_died_ends_too(run_program: RunProgram, tmp_path: Path) -> None:
    """As if the link had been there before: nobody can come too late."""
    source = (
        HEAD
        + """
def late(other):
    link(other).block()
    sleeps()
init()
dead = spawn(os._exit, 5).block()
watch(dead).block()
watch(spawn(late, dead).block()).block()
"""
    )
    result = run_program(tmp_path, source, env=JSON)
    ends = causes(result)
    assert [each[0] for each in ends] == [5, 143, 0]
    assert ends[1][2].startswith("linked process ") and ends[1][2].endswith(
        " died: exited: 5 (without a word, as by os._exit)"
    )


def test_an_end_goes_along_a_chain_of_links(run_program: RunProgram, tmp_path: Path) -> None:
    """Each link passes it on, and causes do not grow without limit."""
    source = (
        HEAD
        + """
def member(before):
    link(before).block()
    Sender[None](parent()).send(None).block()
    sleeps()
init()
chain = [spawn(sleeps).block()]
for _ in range(12):
    chain.append(spawn(member, chain[-1]).block())
    Receiver[None](chain[-1]).recv().block()
kill(chain[6], grace=0).block()
statuses = join(*map(watch, chain)).block()
assert all(status.cause and len(status.cause) <= 500 for status in statuses)
assert "linked process" not in statuses[6].cause
assert sum(status.cause.startswith("linked process") for status in statuses) == 12
"""
    )
    result = run_program(tmp_path, source, env=RAW)
    assert (result.stdout, result.stderr) == ("", "")


def test_a_process_that_does_not_obey_is_killed(run_program: RunProgram, tmp_path: Path) -> None:
    """After the grace time, as in every other way of ending."""
    source = (
        HEAD
        + """
def stubborn(other):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    link(other).block()
    sleeps()
init()
other = spawn(sleeps).block()
linked = spawn(stubborn, other).block()
time.sleep(0.3)
kill(other).block()
status = watch(linked).block()
assert status.signal == "SIGKILL" and status.cause.startswith("linked process "), status
"""
    )
    result = run_program(tmp_path, source, env={**RAW, "CONSTELLATION_GRACE": "0.3"})
    assert (result.stdout, result.stderr) == ("", "")


def test_names_and_links_end_with_the_deployment(run_program: RunProgram, tmp_path: Path) -> None:
    """The next one begins with an empty book."""
    source = (
        HEAD
        + """
with init():
    register("me").block()
with init():
    assert try_whereis("me").block() is None
    register("me").block()
    assert whereis("me").block() == pid()
"""
    )
    assert run_program(tmp_path, source, env=RAW) == ("", "", 0)


def test_a_foreign_pid_cannot_be_linked(run_program: RunProgram, tmp_path: Path) -> None:
    """A Pid that this deployment does not know, and what is no Pid."""
    source = (
        HEAD
        + """
init()
try:
    link(Pid(1, 99, b"x" * 16)).block()
except UsageError as error:
    print(error)
for call in (link, unlink):
    try:
        call("somebody")
    except TypeError as error:
        print(error)
"""
    )
    result = run_program(tmp_path, source, env=RAW)
    lines = result.stdout.splitlines()
    assert lines[0].startswith("cannot link with process ") and "is not known on this node" in lines[0]
    assert lines[1:] == ["expected the Pid of a process, not 'somebody'"] * 2
