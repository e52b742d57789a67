"""Death certificates of processes that end together: Ctrl-C, the driver's death, a lost template, a lost fabric.

Who is told depends on who is left. In a plain script only what the terminal or the events show outlives the deployment,
but for Ctrl-C, which the first process may handle. A caller to which a fabric is attached survives all of it, and is told
by its watch and by its channels.
"""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Leftovers
from tests.io.certificate_programs import PROGRAM, Run, finish, read, start

_ROLES = """
def above(number):
    with open(f"/proc/{number}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])
def roles(number):
    found = {"process": number}
    for role in ("template", "fabric", "keeper"):
        number = found[role] = above(number)
    return found
"""
_FORKED = """
if __name__ == "__main__":
    init()
    begun = [begin(waits) for _ in range(3)]
    try:
        print("ROLES", json.dumps(roles(begun[0][1])), flush=True)
        time.sleep(1000)
    except KeyboardInterrupt:
        for one, _ in begun:
            tell("Ctrl-C", one)
        raise
"""
# Of the standard input, so that there is no program that could become the first process, or be run again.
_ATTACHED = """
import subprocess
def one_run(kind, role, number):
    deployment = init()
    begun = [begin(waits) for _ in range(3)]
    found = roles(begun[0][1])
    # The kill comes when the watch waits already, or just before: that must make no difference.
    killer = subprocess.Popen(["sh", "-c", f"sleep 0.0{number}; kill -KILL {found[role]}"])
    assert not watch(begun[0][0]).block().ok
    killer.wait()
    for one, _ in begun:
        tell(kind, one)
    deployment.close()
"""

LOST_TEMPLATE = (None, "SIGKILL", "template lost: killed by SIGKILL")
LOST_KEEPER = (None, "SIGKILL", "killed by the loss of the keeper")
LOST_FABRIC = (None, None, "node lost: the fabric was killed by SIGKILL, and with it all its processes")
BY_CTRL_C = (143, None, "killed by Ctrl-C")

FORKED = {
    "template": (signal.SIGKILL, LOST_TEMPLATE, LOST_TEMPLATE),
    "keeper": (signal.SIGKILL, LOST_KEEPER, LOST_KEEPER),
    "fabric": (signal.SIGKILL, LOST_FABRIC, LOST_FABRIC),
    "Ctrl-C": (signal.SIGINT, BY_CTRL_C, (None, "SIGINT", "killed by Ctrl-C")),
}
"""Who is sent what, and the certificates of the others and of the first process."""


def _run_forked(leftovers: Leftovers, folder: Path, role: str, *, human: bool) -> Run:
    (folder / "prog.py").write_text(PROGRAM + _ROLES + _FORKED)
    program, output = start(leftovers, folder, ["prog.py"], human=human)
    text = ""
    while not (found := re.search(r"ROLES (\{.*?\})", text.replace('\\"', '"'))):
        piece = read(output)
        assert piece, text
        text += piece
    roles = json.loads(found[1])
    os.kill(roles["keeper" if role == "Ctrl-C" else role], FORKED[role][0])
    return finish(program, output, text)


def _words(code: int | None, signum: str | None, cause: str) -> str:
    start = f"exited: {code}" if code is not None else f"killed: {signum}" if signum else "ended: unknown how"
    return f"{start} ({cause})"


def _check_forked(found: Run, role: str, *, human: bool) -> None:
    _, others, first = FORKED[role]
    if human:
        assert sorted(words for lines in found.red.values() for words in lines) == sorted(
            [_words(*others)] * 3 + [_words(*first)]
        ), found.text[-3000:]
    else:
        ends = [(event["code"], event["signal"], event["cause"]) for event in found.exits.values()]
        assert sorted(ends, key=str) == sorted([others] * 3 + [first], key=str), found.text[-3000:]
    if role == "Ctrl-C":
        assert [(told["code"], told["signal"], told["cause"], told["same"]) for told in found.told] == [
            (*others, True)
        ] * 3


@pytest.mark.parametrize("human", [False, True])
@pytest.mark.parametrize("role", FORKED)
def test_all_that_end_together_say_why(leftovers: Leftovers, tmp_path: Path, role: str, human: bool) -> None:
    """In the events, or as red lines; after Ctrl-C the first process is told too, if it stays to ask."""
    _check_forked(_run_forked(leftovers, tmp_path, role, human=human), role, human=human)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("human", [False, True])
@pytest.mark.parametrize("role", FORKED)
def test_all_that_end_together_say_why_each_time(leftovers: Leftovers, tmp_path: Path, role: str, human: bool) -> None:
    """A hundred programs."""
    for _ in range(100):
        _check_forked(_run_forked(leftovers, tmp_path, role, human=human), role, human=human)


# Attached

ATTACHED = {"template": LOST_TEMPLATE, "keeper": LOST_KEEPER, "fabric": (None, None, "node lost")}
"""The certificates that a caller gets; of what the fabric died from only its keeper knows."""


def _run_attached(leftovers: Leftovers, folder: Path, role: str, count: int) -> Run:
    call = f"for number in range({count}):\n    one_run({role!r}, {role!r}, number % 5)\n"
    program, output = start(leftovers, folder, ["-c", PROGRAM + _ROLES + _ATTACHED + call], human=False)
    text = ""
    while piece := read(output):
        text += piece
    # The caller's own lines stand between the events.
    lines = text.splitlines()
    told = [line for line in lines if line.startswith('{"kind"')]
    rest = "".join(f"{line}\n" for line in lines if line.startswith('{"event"'))
    return finish(program, output, rest)._replace(told=[json.loads(line) for line in told], text=text)


def _check_attached(found: Run, role: str, count: int) -> None:
    assert len(found.told) == 3 * count, found.text[-3000:]
    for told in found.told:
        assert (told["code"], told["signal"], told["cause"], told["same"]) == (*ATTACHED[role], True), told
        event: dict[str, Any] = found.exits[told["pid"]]
        expected = LOST_FABRIC if role == "fabric" else ATTACHED[role]
        assert (event["code"], event["signal"], event["cause"]) == expected


@pytest.mark.parametrize("role", ATTACHED)
def test_a_caller_that_survives_is_told(leftovers: Leftovers, tmp_path: Path, role: str) -> None:
    """By its watch and by its channels, as the events say it."""
    _check_attached(_run_attached(leftovers, tmp_path, role, 1), role, 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("role", ATTACHED)
def test_a_caller_that_survives_is_told_each_time(leftovers: Leftovers, tmp_path: Path, role: str) -> None:
    """A hundred deployments of one caller."""
    _check_attached(_run_attached(leftovers, tmp_path, role, 100), role, 100)
