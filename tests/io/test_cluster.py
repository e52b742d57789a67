"""Programs on a fabric of several nodes: what a person sees locally is seen here."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Leftovers, nothing_left
from tests.io.cluster import COMMAND, Cluster, cluster, free_ports

TREE = """
    from constellation import Receiver, Resources, Sender, init, parent, spawn

    def child(n):
        Sender(parent()).send(fibonacci(n)).block()

    def fibonacci(n):
        if n <= 1:
            return n
        left = spawn(child, n - 1).block()
        right = spawn(child, n - 2).block()
        return Receiver(left).recv().block() + Receiver(right).recv().block()

    init(Resources(mem="20 MiB", cpu=0.1))
    print(fibonacci(4))
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A fabric of two nodes for the whole module."""
    with nothing_left() as left, cluster(tmp_path_factory.mktemp("two"), left) as made:
        made.wait_for_nodes()
        yield made


def test_a_tree_of_processes_gives_its_result_and_its_exit_code(two: Cluster) -> None:
    """Output comes back, under the processes that wrote it, and the code of the whole is ours."""
    done = two.deploy(TREE, options=("--format", "raw"))
    assert (done.stdout, done.returncode) == ("3\n", 0), done


def test_output_and_error_output_are_two_in_raw_form(two: Cluster) -> None:
    """Bytes untouched, each to its own stream; the exit code is the program's."""
    source = """
        import sys
        from constellation import init
        init()
        print("one")
        print("two", file=sys.stderr)
        sys.exit(7)
    """
    done = two.deploy(source, options=("--format", "raw"))
    assert (done.stdout, done.stderr, done.returncode) == ("one\n", "two\n", 7)


def test_json_events_are_those_of_a_local_run(two: Cluster) -> None:
    """Spawn, output, exit; node and function are named."""
    done = two.deploy("from constellation import init\ninit()\nprint('x')", options=("--format", "json"))
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["spawn", "output", "exit"]
    assert events[0]["function"] == "prog:__main__"
    assert events[0]["node"] in {"n1", "n2"}
    assert events[1]["data"] == "x\n"
    assert events[2]["code"] == 0


def test_stdin_is_passed_on_to_its_end(two: Cluster) -> None:
    """What is typed or piped reaches the first process, more than the window at a time."""
    source = """
        import sys
        from constellation import init
        init()
        print(len(sys.stdin.read()))
    """
    done = two.deploy(source, options=("--format", "raw"), input="x" * 3_000_000)
    assert done.stdout == "3000000\n", done


def test_a_program_that_never_calls_init_is_reported_with_its_output(two: Cluster) -> None:
    """It is refused before it runs: code 4, with what it wrote."""
    done = two.deploy("print('only this')")
    assert done.returncode == 4
    assert "only this" in done.stderr
    assert "init()" in done.stderr


def test_a_program_that_fails_before_init_shows_its_traceback(two: Cluster) -> None:
    """The error is seen, not only that there was one."""
    done = two.deploy("import no_such_module_anywhere")
    assert done.returncode == 4
    assert "No module named 'no_such_module_anywhere'" in done.stderr


def test_variables_travel_only_where_they_are_named(two: Cluster) -> None:
    """--env gives them; nothing else of the environment does, and ours do not show."""
    source = """
        import os
        from constellation import init
        init()
        ours = sorted(n for n in os.environ if n.startswith("CONSTELLATION") and "TEST" not in n and "DEPLOYMENT" not in n)
        print(os.environ.get("GIVEN"), os.environ.get("XDG_STATE_HOME"), ours)
    """
    done = two.deploy(source, options=("--format", "raw", "--env", "GIVEN=yes"))
    assert done.stdout == "yes None []\n", done


def test_ctrl_c_ends_all_with_130(two: Cluster) -> None:
    """As locally: SIGINT to the first, SIGTERM to the others."""
    source = """
        import time
        from constellation import init, spawn
        def sleeper():
            time.sleep(60)
        init()
        pids = [spawn(sleeper).block() for _ in range(3)]
        print("all run", flush=True)
        time.sleep(60)
    """
    running = two.begin(source, options=("--format", "raw"))
    assert running.stdout is not None
    assert running.stdout.readline() == "all run\n"
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=20)
    assert running.returncode == 130


def test_spawns_go_where_they_are_told(two: Cluster) -> None:
    """By name, by the node of a process, away from one; what is nowhere is refused with the names that there are."""
    source = """
        from constellation import AwayFrom, Infeasible, init, pid, spawn, watch
        def child():
            pass
        init()
        for name in ("n1", "n2"):
            there = spawn(child, on=name).block()
            for on in (there, AwayFrom(there)):
                watch(spawn(child, on=on).block()).block()
        try:
            spawn(child, on="rack=x").block()
        except Infeasible as error:
            print(error)
    """
    done = two.deploy(source, options=("--format", "json"))
    events = [json.loads(line) for line in done.stdout.splitlines()]
    nodes = [e["node"] for e in events if e["event"] == "spawn" and e["function"] == "prog:child"]
    assert nodes == ["n1", "n1", "n2", "n2", "n2", "n1"], done
    output = "".join(event["data"] for event in events if event["event"] == "output")
    before, _, names = output.strip().partition(" among ")
    assert before.endswith("with label rack=x: there is no such node")
    assert sorted(names.split(", ")) == ["n1", "n2"]  # in the order in which they joined


def test_processes_on_two_nodes_talk_to_each_other(tmp_path: Path, leftovers: Leftovers) -> None:
    """Each node has room for one process only, so the two are on different ones."""
    lines = ('mem = "150 MiB"\ncpu = 1', 'mem = "150 MiB"\ncpu = 1')
    source = """
        from constellation import Receiver, Sender, init, parent, spawn
        def child():
            with_parent = Sender(parent())
            for n in Receiver(parent()):
                with_parent.send((n, bytes(n))).block()
        init()
        pid = spawn(child).block()
        to, back = Sender(pid), Receiver(pid)
        for n in (1, 1000, 5_000_000):
            to.send(n).block()
            got, data = back.recv().block()
            print(got, len(data))
        to.close()
    """
    with cluster(tmp_path, leftovers, lines=lines) as made:
        made.wait_for_nodes()
        done = made.deploy(source, options=("--format", "json"))
        events = [json.loads(line) for line in done.stdout.splitlines()]
        assert {event["node"] for event in events if event["event"] == "spawn"} == {"n1", "n2"}, done
        output = "".join(event["data"] for event in events if event["event"] == "output")
        assert (output, done.returncode) == ("1 1\n1000 1000\n5000000 5000000\n", 0), done


def test_an_address_alone_is_a_node_and_with_a_file_the_master(tmp_path: Path, leftovers: Leftovers) -> None:
    """The original's two command lines."""
    made = Cluster(tmp_path, leftovers, 2)
    try:
        for name, words in (("n1", (made.addresses[0], str(made.file))), ("n2", (made.addresses[1],))):
            with open(tmp_path / f"{name}.log", "ab") as log:
                made.daemons[name] = subprocess.Popen([*COMMAND, *words], env=made.environment, stderr=log)
        made.wait_for_nodes()
        done = made.run("nodes", made.bridge)
        assert [line.split()[0] for line in done.stdout.splitlines()] == ["NODE", "n1", "n2"], done
    finally:
        made.stop()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("node", "nonsense"), "the port is missing"),
        (("node", "127.0.0.1:99999"), "expected a number from 0 to 65535"),
        (("node", "192.0.2.1:5000"), "is no address of this computer"),
        (("master", "127.0.0.1:5000", "/no/such.toml"), "cannot read /no/such.toml"),
        (("deploy", "127.0.0.1:5000", "/no/prog.py"), "/no/prog.py"),
        (("node", "127.0.0.1:0", "--plugin", "nothing"), "nothing"),
    ],
)
def test_wrong_use_is_refused_at_once_with_code_2(two: Cluster, words: tuple[str, ...], text: str) -> None:
    """What was tried, with which value, what was expected."""
    done = two.run(*words, timeout=10)
    assert done.returncode == 2, done
    assert text in done.stderr


def test_an_address_in_use_is_named(two: Cluster) -> None:
    """The second daemon on a port says so and ends."""
    done = two.run("node", two.addresses[0], timeout=10)
    assert done.returncode == 2
    assert two.addresses[0] in done.stderr


def test_a_bridge_that_is_not_there_is_named_with_the_step_that_failed(two: Cluster) -> None:
    """Code 3, after the ten seconds in which a fabric may still be forming; a node's port is no bridge's."""
    done = two.deploy("from constellation import init\ninit()")
    assert done.returncode == 0
    (port,) = free_ports(1)
    done = two.run("nodes", f"127.0.0.1:{port}", timeout=30)
    assert (done.returncode, f"cannot connect to 127.0.0.1:{port}: connection refused" in done.stderr) == (3, True), (
        done
    )
