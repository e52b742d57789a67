"""Programs on a fabric of several nodes: what a person sees locally is seen here."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Leftovers, nothing_left
from tests.io.cluster import Cluster, cluster

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
