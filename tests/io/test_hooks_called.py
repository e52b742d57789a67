"""When each hook is called, and in which process: what core/hooks.py says, held against a program and a fabric."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import Leftovers, RunProgram
from tests.io.cluster import Cluster

PLUGIN = """
import json, os, sys

from constellation.plugin import NodeView, Option, hookimpl
from constellation.schedulers.bin_packing import BinPacking
from constellation.serializers.pickle import PickleSerializer
from constellation.transports.tcp import TcpTransport


class Ours(BinPacking):
    name = "ours"


class OurPickle(PickleSerializer):
    name = "our-pickle"


class OurTcp(TcpTransport):
    name = "our-tcp"


def note(hook, **words):
    command = " ".join(sys.orig_argv)
    role = next((word for word in ("prog.py", " master ", " node ") if word in command), "fabric").strip()
    line = json.dumps({"hook": hook, "role": role, "pid": os.getpid(), **words})
    fd = os.open(os.environ.get("HOOKS_LOG", "/dev/null"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, (line + "\\n").encode())
    os.close(fd)


@hookimpl
def register_options():
    note("register_options")
    return [Option("gpus", int, 2, "How many.")]


@hookimpl
def register_transports():
    note("register_transports")
    return [OurTcp()]


@hookimpl
def register_serializers():
    note("register_serializers")
    return [OurPickle()]


@hookimpl
def register_schedulers():
    note("register_schedulers")
    return [Ours()]


@hookimpl
def detect_resources(options):
    note("detect_resources")
    return {"gpu": options["gpus"], "tpu": 1}


@hookimpl
def deployment_started(first, program):
    note("deployment_started", first=first.to_bytes().hex(), program=program)


@hookimpl
def process_spawned(pid, parent, function, node, resources):
    note("process_spawned", process=pid.to_bytes().hex(), first=parent is None, function=function, node=node, mem=resources.mem)


@hookimpl
def process_exited(status):
    note("process_exited", process=status.pid.to_bytes().hex(), code=status.code)


@hookimpl
def node_joined(node):
    note("node_joined", node=node.name, custom=dict(node.capacity.custom))


@hookimpl
def node_lost(node, reason):
    note("node_lost", node=node.name, reason=reason)


@hookimpl
def deployment_ended(first, code):
    note("deployment_ended", first=first.to_bytes().hex(), code=code)
"""

PROGRAM = """
    import os
    from constellation import Receiver, Resources, Sender, init, parent, spawn, watch

    def child():
        Sender(parent()).send(os.getpid()).block()

    init(Resources(mem="20 MiB", cpu=0.1)){more}
    here = spawn(child, resources=Resources(mem="10 MiB", cpu=0.1)).block()
    print(os.getpid(), Receiver(here).recv().block(), flush=True)
    watch(here).block()
"""


class Call(NamedTuple):
    """One call of a hook."""

    hook: str
    role: str
    pid: int
    words: dict[str, Any]


def calls_in(log: Path) -> list[Call]:
    """What the plugin has written down."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [Call(line.pop("hook"), line.pop("role"), line.pop("pid"), line) for line in lines]


def of(calls: list[Call], *hooks: str) -> list[Call]:
    """The calls of some hooks."""
    return [call for call in calls if call.hook in hooks]


NEWS = ("deployment_started", "process_spawned", "process_exited", "node_joined", "node_lost", "deployment_ended")


def test_local_mode_calls_hooks_where_their_texts_say(tmp_path: Path, run_program: RunProgram) -> None:
    """Registering ones in the program before it forks, and in the fabric; news in the fabric, in their order."""
    log = tmp_path / "hooks.log"
    (tmp_path / "plug_pkg").mkdir()
    (tmp_path / "plug_pkg" / "hooks.py").write_text(PLUGIN)
    done = run_program(
        tmp_path,
        PROGRAM.format(more=""),
        env={"HOOKS_LOG": str(log), "CONSTELLATION_PLUGINS": "plug_pkg.hooks", "CONSTELLATION_FORMAT": "raw"},
    )
    first, child = map(int, done.stdout.split())
    calls = calls_in(log)
    fabric = {call.pid for call in calls if call.role == "fabric"}
    assert len(fabric) == 1
    roles = {hook: [call.role for call in of(calls, hook)] for hook in {call.hook for call in calls}}
    assert roles.pop("register_options") == ["prog.py", "fabric"]
    assert sorted(roles.pop("register_schedulers")) == ["fabric", "prog.py"]
    assert sorted(roles.pop("register_transports")) == ["fabric", "prog.py"]
    assert roles.pop("register_serializers") == ["prog.py"]
    assert "detect_resources" not in roles
    assert {role for each in roles.values() for role in each} == {"fabric"}
    # Asked before processes are forked: those find the object made.
    assert {call.pid for call in calls if call.role == "prog.py"}.isdisjoint({child})
    news = [call.hook for call in of(calls, *NEWS)]
    assert news == [
        "node_joined",
        "deployment_started",
        "process_spawned",
        "process_spawned",
        "process_exited",
        "process_exited",
        "deployment_ended",
    ]
    spawned = of(calls, "process_spawned")
    assert [
        (call.words["first"], call.words["function"], call.words["node"], call.words["mem"]) for call in spawned
    ] == [
        (True, "prog:__main__", "local", 20 << 20),
        (False, "prog:child", "local", 10 << 20),
    ]
    [started] = of(calls, "deployment_started")
    assert started.words["first"] == spawned[0].words["process"]
    assert started.words["program"][-1].endswith("prog.py")
    assert [call.words["code"] for call in of(calls, "process_exited", "deployment_ended")] == [0, 0, 0]
    assert first


def test_a_fabric_calls_hooks_where_their_texts_say(tmp_path: Path, leftovers: Leftovers) -> None:
    """News in the master, with the plugins that it was started with; resources are detected in each node."""
    log = tmp_path / "hooks.log"
    (tmp_path / "plug_pkg").mkdir()
    (tmp_path / "plug_pkg" / "hooks.py").write_text(PLUGIN)
    made = Cluster(tmp_path, leftovers, 2)
    made.environment.update(HOOKS_LOG=str(log), PYTHONPATH=f"{tmp_path}:{made.environment.get('PYTHONPATH', '')}")
    try:
        made.start("n1", "--plugin", "plug_pkg.hooks", "--resource", "gpu=7")
        made.start("n2", "--plugin", "plug_pkg.hooks", "--plugin-option", "plug_pkg.hooks.gpus=3")
        made.wait_for_nodes()
        done = made.deploy(PROGRAM.format(more=""), options=("--format", "raw"))
        assert done.returncode == 0, done
        made.daemons["n2"].terminate()
        deadline = time.monotonic() + 30
        while not of(calls_in(log), "node_lost"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        made.stop()
    calls = calls_in(log)
    assert {
        (call.role, call.words["node"], call.words["custom"]["gpu"], call.words["custom"]["tpu"])
        for call in of(calls, "node_joined")
    } == {
        ("master", "n1", 7, 1),
        ("master", "n2", 3, 1),
    }
    assert sorted(call.role for call in of(calls, "detect_resources")) == ["master", "node"]
    assert {call.role for call in of(calls, *NEWS)} == {"master"}
    news = [
        call.hook for call in of(calls, "deployment_started", "process_spawned", "process_exited", "deployment_ended")
    ]
    assert news == [
        "deployment_started",
        "process_spawned",
        "process_spawned",
        "process_exited",
        "process_exited",
        "deployment_ended",
    ]
    # Once, and it does not join again while it stops.
    assert [
        (call.hook, call.words.get("reason", ""))
        for call in of(calls, "node_joined", "node_lost")
        if call.words["node"] == "n2"
    ] == [
        ("node_joined", ""),
        ("node_lost", "it was stopped (SIGTERM)"),
    ]
