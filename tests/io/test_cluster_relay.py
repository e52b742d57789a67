"""Nodes that can only dial out: they join by themselves, and links between them are relayed by the master's node."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from constellation.core.address import parse_address
from constellation.core.preamble import NO_PID, Preamble, Purpose, pack
from constellation.fabric.credential import load_deployer, load_node
from tests.conftest import MARK, Leftovers, nothing_left
from tests.io.cluster import COMMAND, LIMIT_S, Cluster, children_of, daemon_below, kill
from tests.io.test_cluster_failures import COUNTER, WATCHER, Events

NO_ROOM = ('mem = "1 MiB"\ncpu = 0.01',)
"""For a master whose own node runs nothing."""
ONE_EACH = ("--mem", "150 MiB", "--cpu", "1")

TALKERS = """
    import sys, time
    from constellation import ChannelError, Receiver, Sender, init, parent, spawn, watch
    def child():
        to = Sender(parent())
        for n in range(100_000):
            to.send(n).block()
            time.sleep(0.02)
    init()
    pid = spawn(child).block()
    try:
        for value in Receiver(pid):
            print(value, flush=True)
    except ChannelError as error:
        print(type(error).__name__, error, flush=True)
        time.sleep(float(sys.argv[1]) if len(sys.argv) > 1 else 0)
    status = watch(pid).block()
    print("status", status.code, status.signal, status.cause, flush=True)
"""

PONG = """
    from constellation import Receiver, Sender, init, parent, spawn
    def child():
        back = Sender(parent())
        for n in Receiver(parent()):
            back.send((n, bytes(n))).block()
    init()
    pid = spawn(child).block()
    to, back = Sender(pid), Receiver(pid)
    for n in (1, 1000, 5_000_000):
        to.send(n).block()
        got, data = back.recv().block()
        print(got, len(data))
    to.close()
"""


class Outside(Cluster):
    """A cluster with further nodes that join: d1 to dN."""

    def start(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        """Start a daemon: those that begin with d dial out only."""
        if not name.startswith("d"):
            return super().start(name, *options)
        with open(self.folder / f"{name}.log", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                [*COMMAND, "node", "--join", self.addresses[0], "--name", name, *(options or ONE_EACH)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stderr=log,
                stdout=log,
            )
        return self.daemons[name]

    def wait_for_joined(self, *names: str) -> None:
        """Wait until these nodes are in."""
        for name in names:
            self.wait_for(name, f"{name!r}\n")
            self.wait_for(name, "in the fabric, as node")


@contextlib.contextmanager
def outside(
    folder: Path,
    leftovers: Leftovers,
    joining: int = 2,
    lines: tuple[str, ...] = NO_ROOM,
    lease: float = 5.0,
    options: tuple[str, ...] = ONE_EACH,
) -> Iterator[Outside]:
    """A running fabric, with nodes that dial out."""
    made = Outside(folder, leftovers, len(lines), lines, lease)
    names = [f"d{at + 1}" for at in range(joining)]
    try:
        made.start_all()
        for name in names:
            made.start(name, *options)
        made.wait_for_nodes()
        made.wait_for_joined(*names)
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """Two nodes that dial out, each with room for one process, for the whole module."""
    with nothing_left() as left, outside(tmp_path_factory.mktemp("outside"), left) as made:
        yield made


def relay_of(made: Cluster) -> int:
    """OS pid of the relay."""
    for child in children_of(daemon_below(made.daemons["n1"])):
        with open(f"/proc/{child}/cmdline", "rb") as file:
            if b"relay" in file.read().split(b"\0"):
                return child
    raise AssertionError("there is no relay")


def test_two_that_dial_out_talk_to_each_other(two: Outside) -> None:
    """Small values and large ones, there and back."""
    events = Events(two.begin(PONG, options=("--format", "json")))
    assert events.rest() == 0, (events.seen, two.log("n1"))
    assert {events.node_of("prog:__main__"), events.node_of("prog:child")} == {"d1", "d2"}
    assert events.output() == "1 1\n1000 1000\n5000000 5000000\n"
    assert "has broken" not in two.log("n1")


def test_nodes_ps_and_why_say_who_dials_out_and_that_it_is_relayed(two: Outside) -> None:
    """With the links that there are now."""
    events = Events(two.begin(TALKERS, options=("--format", "json")))
    events.until("2\n")
    rows = {line.split()[0]: line for line in two.run("nodes", two.bridge).stdout.splitlines()}
    assert two.addresses[0] in rows["n1"]
    for name in ("d1", "d2"):
        assert "dials out only, relayed by n1 (1 link now)" in rows[name]
    shown = two.run("ps", two.bridge).stdout
    assert "d1 (dials out only)" in shown
    assert "d2 (dials out only)" in shown
    events.running.send_signal(signal.SIGQUIT)
    assert events.running.stderr is not None
    said = [events.running.stderr.readline(), events.running.stderr.readline()]
    assert "what the processes wait for" in said[0]
    assert "links between d1, d2, which dial out only, are relayed by node n1" in said[1]
    events.running.send_signal(signal.SIGINT)
    events.rest()


def test_a_process_that_is_killed_is_named_to_the_other_one(two: Outside) -> None:
    """What it had sent is delivered; its certificate comes, not the relay's words."""
    source = """
        import os, signal
        from constellation import PeerDied, Receiver, Sender, init, parent, spawn
        def child():
            to = Sender(parent())
            for n in range(50):
                to.send(n).block()
            Receiver(parent()).recv().block()
            os.kill(os.getpid(), signal.SIGKILL)
        init()
        pid = spawn(child).block()
        got, values = [], Receiver(pid)
        for _ in range(50):
            got.append(values.recv().block())
        Sender(pid).send("now").block()
        try:
            values.recv().block()
        except PeerDied as error:
            print(got == list(range(50)), error.status.signal)
    """
    done = two.deploy(source, options=("--format", "raw"))
    assert done.stdout == "True SIGKILL\n", done


def test_a_process_that_ends_has_closed(two: Outside) -> None:
    """Iteration ends, as on one computer."""
    source = """
        from constellation import ChannelClosed, Receiver, Sender, init, parent, spawn, watch
        def child():
            Sender(parent()).send("last").block()
        init()
        pid = spawn(child).block()
        print(list(Receiver(pid)), watch(pid).block().code)
        try:
            Sender(pid).send(1).block()
        except ChannelClosed as error:
            print("closed")
    """
    done = two.deploy(source, options=("--format", "raw"))
    assert (done.stdout, done.returncode) == ("['last'] 0\nclosed\n", 0), done


def test_a_relay_that_is_killed_ends_its_links_with_the_reason_and_the_next_one_is_made(two: Outside) -> None:
    """Both processes live on, and learn which way has broken; the fabric goes on."""
    events = Events(two.begin(TALKERS, "0", options=("--format", "json")))
    events.until("5\n")
    kill(relay_of(two))
    events.until("PeerDied")
    while "\n" not in events.output().partition("PeerDied")[2]:
        events.next()
    line = next(line for line in events.output().splitlines() if "PeerDied" in line)
    assert "the link is lost: the way between node d" in line
    assert "relayed by node n1 has broken" in line
    events.rest()
    assert "the relay has ended, and with it 1 links" in two.log("n1")
    done = two.deploy(PONG, options=("--format", "raw"))
    assert (done.stdout, done.returncode) == ("1 1\n1000 1000\n5000000 5000000\n", 0), done


def test_files_output_kill_and_drain_are_as_on_other_nodes(two: Outside) -> None:
    """Chunks travel over the connection that the node has made; so do signals, and the end."""
    source = """
        import helper, time
        from constellation import init, kill, spawn
        def sleeper():
            print(helper.WORD, flush=True)
            time.sleep(600)
        init()
        pid = spawn(sleeper).block()
        time.sleep(0.2)
        status = kill(pid).block()
        print(status.code, status.cause, flush=True)
    """
    path = two.program(source)
    (path.parent / "helper.py").write_text(f"WORD = 'travelled'\nFILL = {'x' * 300_000!r}\n")
    events = Events(
        subprocess.Popen(
            [*COMMAND, "deploy", "--format", "json", "--env", f"{MARK}={two.mark}", two.bridge, path.name],
            env=two.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=path.parent,
        )
    )  # fmt: skip
    events.rest()
    assert "travelled" in events.output(), events.seen
    assert "143 killed by process" in events.output(), events.seen


def test_bulk_through_the_relay_disturbs_no_lease_and_takes_no_memory(tmp_path: Path, leftovers: Leftovers) -> None:
    """Hundreds of megabytes, both ways at once; the lease is of a second, and the relay stays as large as it was."""
    source = """
        import hashlib
        from constellation import Receiver, Sender, init, join, parent, spawn
        BLOCK = bytes(range(256)) * (16 << 10)
        def exchange(peer):
            to, back, digest = Sender(peer), Receiver(peer), hashlib.sha256()
            for _ in range(64):
                _, got = join(to.send(BLOCK), back.recv()).block()
                digest.update(got)
            return digest.hexdigest()
        def child():
            print(exchange(parent()), flush=True)
        init()
        pid = spawn(child).block()
        print(exchange(pid), flush=True)
    """
    with outside(tmp_path, leftovers, lease=1.0) as made:
        done = made.deploy(PONG)
        assert done.returncode == 0, done
        before = resident(relay_of(made))
        done = made.deploy(source, options=("--format", "raw"), timeout=120)
        assert done.returncode == 0, done
        assert len(set(done.stdout.split())) == 1
        assert len(done.stdout.split()) == 2
        assert resident(relay_of(made)) - before < 8 << 20
        for name in ("n1", "d1", "d2"):
            assert "lost: not heard" not in made.log(name)
            assert "lease is over" not in made.log(name)


def resident(os_pid: int) -> int:
    """Bytes of memory that a process has."""
    with open(f"/proc/{os_pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_one_that_dials_out_and_one_that_listens_are_linked_without_a_relay(
    tmp_path: Path, leftovers: Leftovers
) -> None:
    """Whichever of the two asks for the link; processes of the master's own node are among them."""
    source = """
        import sys
        from constellation import Receiver, Sender, init, parent, spawn
        def talk(name):
            peer = Receiver(parent()).recv().block()
            if asks == name:
                Sender(peer).send(f"{name} asked").block()
                print(Receiver(peer).recv().block(), flush=True)
            else:
                Sender(peer).send(Receiver(peer).recv().block()).block()
        asks, where = sys.argv[1:]
        init()
        pids = spawn(talk, "one", on="d1").block(), spawn(talk, "other", on=where).block()
        for pid, peer in (pids, pids[::-1]):
            Sender(pid).send(peer).block()
    """
    lines, options = ('mem = "350 MiB"\ncpu = 1',) * 2, ("--mem", "350 MiB", "--cpu", "1")
    with outside(tmp_path, leftovers, joining=1, lines=lines, options=options) as made:
        for asks in ("one", "other"):
            for other in ("n1", "n2"):
                done = made.deploy(source, asks, other, options=("--format", "raw"))
                assert (done.stdout, done.returncode) == (f"{asks} asked\n", 0), (done, asks, other)
        with pytest.raises(AssertionError, match="there is no relay"):
            relay_of(made)


def test_running_goes_on_while_the_master_is_started_again_and_relayed_links_say_why_they_end(
    tmp_path: Path, leftovers: Leftovers
) -> None:
    """Nodes come back by themselves, no process ends, no line is lost; what was relayed died with the relay, by name."""
    source = """
        import time
        from constellation import ChannelError, Receiver, Sender, init, parent, spawn, watch
        def child():
            to = Sender(parent())
            try:
                for n in range(100_000):
                    to.send(n).block()
                    time.sleep(0.02)
            except ChannelError as error:
                print("child:", type(error).__name__, error, flush=True)
            for n in range(20):
                print("child goes on", n, flush=True)
                time.sleep(0.02)
        init()
        pid = spawn(child).block()
        last = -1
        try:
            for value in Receiver(pid):
                assert value == last + 1
                last = value
                print(value, flush=True)
        except ChannelError as error:
            print("parent:", type(error).__name__, error, flush=True)
        print("watched", watch(pid).block().code, flush=True)
    """
    with outside(tmp_path, leftovers, lease=6.0) as made:
        events = Events(made.begin(source, options=("--format", "json")))
        events.until("10\n")
        kill(daemon_below(made.daemons["n1"]))
        made.daemons["n1"].wait(20)
        made.start("n1")
        assert events.rest() == 0, (events.output(), *map(made.log, ("n1", "d1", "d2")))
        lines = events.output().splitlines()
        for who in ("parent:", "child:"):
            line = next(line for line in lines if line.startswith(who))
            assert "PeerDied" in line
            assert "relayed by node n1 has broken" in line
            assert "the master has been started again since" in line
        assert [line for line in lines if "goes on" in line] == [f"child goes on {n}" for n in range(20)]
        assert lines[-1] == "watched 0"
        numbers = [int(line) for line in lines if line.isdigit()]
        assert numbers == list(range(len(numbers)))
        # The next link between the two is relayed by the new one.
        done = made.deploy(PONG, options=("--format", "raw"))
        assert (done.stdout, done.returncode) == ("1 1\n1000 1000\n5000000 5000000\n", 0), done


def test_output_of_a_node_that_dials_out_is_whole_over_a_master_that_is_started_again(
    tmp_path: Path, leftovers: Leftovers
) -> None:
    """Though it stands in no file that the new master reads."""
    with outside(tmp_path, leftovers, joining=1, lease=6.0) as made:
        events = Events(made.begin(COUNTER, "80", options=("--format", "json")))
        events.until("5\n")
        for _ in range(2):
            kill(daemon_below(made.daemons["n1"]))
            made.daemons["n1"].wait(20)
            made.start("n1")
            events.until(f"{int(events.output().split()[-1]) + 10}\n")
        assert events.rest() == 0
        assert events.output() == "".join(f"{n}\n" for n in range(80))


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_node_that_dials_out_and_is_lost_is_named(
    tmp_path: Path, leftovers: Leftovers, signum: signal.Signals
) -> None:
    """As any other; and it is a node again when it comes back."""
    with outside(tmp_path, leftovers, lease=2.0) as made:
        events = Events(made.begin(WATCHER, options=("--format", "json")))
        events.until("runs")
        lost = events.node_of("prog:sleeper")
        daemon = daemon_below(made.daemons[lost])
        kill(daemon, signum)
        assert events.rest() == 1, events.seen
        assert f"node {lost} lost" in events.output()
        if signum == signal.SIGSTOP:
            kill(daemon, signal.SIGCONT)
        else:
            made.daemons[lost].wait(20)
            made.start(lost)
        deadline = time.monotonic() + LIMIT_S
        while made.log("n1").count(f"'{lost}' at no address joined") < 2:
            assert time.monotonic() < deadline, made.log("n1")
            time.sleep(0.05)


def test_a_node_waits_for_its_master_and_says_so(tmp_path: Path, leftovers: Leftovers) -> None:
    """Started first it dials until somebody answers; each reason is logged once."""
    made = Outside(tmp_path, leftovers, 1, NO_ROOM)
    try:
        made.start("d1")
        made.wait_for("d1", "not in the fabric: cannot connect to")
        made.start("n1")
        made.wait_for_joined("d1")
        assert made.log("d1").count("connection refused: nothing listens there; it is tried again") == 1
    finally:
        made.stop()


def test_who_may_not_join_is_told_why(tmp_path: Path, leftovers: Leftovers) -> None:
    """A name that is taken; a daemon that is no master; a name that is taken on this computer."""
    with outside(tmp_path, leftovers, joining=1, lines=(*NO_ROOM, "")) as made:
        master = made.addresses[0]
        for at, (target, name, words) in enumerate(
            ((master, "n2", "another node is called 'n2'"), (made.addresses[1], "d9", "it is no master"))
        ):
            log = tmp_path / f"refused{at}.log"
            with open(log, "wb") as file:
                daemon = subprocess.Popen(
                    [*COMMAND, "node", "--join", target, "--name", name], env=made.environment, stderr=file
                )
            made.daemons[f"refused{at}"] = daemon
            deadline = time.monotonic() + LIMIT_S
            while words not in log.read_text():
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
        twice = made.run("node", "--join", master, "--name", "d1")
        assert twice.returncode == 2
        assert "a node of this name, that joins there, runs on this computer already" in twice.stderr
        assert "--name" in twice.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "expected ADDR, where it listens"),
        (("127.0.0.1:1", "--join", "127.0.0.1:2"), "leave ADDR or --join away"),
        (("--join", "127.0.0.1:2", "--advertise", "h:3"), "cannot advertise h:3 with --join"),
        (("--join", "0.0.0.0:5000"), "cannot be dialled"),
        (("--join", "127.0.0.1:0"), "cannot be dialled"),
        (("--join", "nonsense"), "the port is missing"),
        (("--join", "127.0.0.1:2", "--name", "a b"), "cannot join as 'a b': expected a --name of"),
        (("--join", "10.9.9.9:5000", "--name", "x"), "no credential"),
    ],
    ids=["nothing", "both", "advertise", "any", "port 0", "no address", "name", "no credential"],
)
def test_wrong_uses_are_refused_with_words(
    tmp_path: Path, leftovers: Leftovers, words: tuple[str, ...], expected: str
) -> None:
    """What was tried, and what is expected."""
    made = Outside(tmp_path, leftovers, 1)
    done = subprocess.run(
        [*COMMAND, "node", *words], env=made.environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 2
    assert expected in done.stderr


def test_nobody_is_relayed_who_was_not_ordered(two: Outside) -> None:
    """With a deployer's credential, with a node's for processes that run, for another number, a third time: a close."""
    config = Path(two.environment["XDG_CONFIG_HOME"], "constellation")
    node = load_node(str(config / "node.pem"), is_loopback=False)
    deployer = load_deployer(str(config / "deployer.pem"), is_loopback=False)
    source = TALKERS.replace("    pid = spawn", "    print(own().to_bytes().hex())\n    pid = spawn")
    source = source.replace("    try:", "    print(pid.to_bytes().hex())\n    try:", 1).replace(
        "parent,", "parent, pid as own,"
    )
    events = Events(two.begin(source, options=("--format", "json")))
    events.until("\n2\n")
    first, second = map(bytes.fromhex, events.output().split()[:2])
    link, deploy = node.preamble_keys[Purpose.LINK], deployer.preamble_keys[Purpose.DEPLOY]
    assert set(deployer.preamble_keys) == {Purpose.DEPLOY}
    attempts = [
        (deploy, first, second, 1, "its proof is wrong"),
        (deploy, NO_PID, NO_PID, 0, "its proof is wrong"),
        (link, first, second, 1, "no process of that name"),  # it is joined already
        (link, second, first, 1, "no process of that name"),
        (link, first, second, 2, "no process of that name"),
        (link, NO_PID, first, 1, "no process of that name"),
    ]
    for at, (key, target, dialler, number, words) in enumerate(attempts):
        address = f"127.0.8.{at + 1}"
        with socket.socket() as sock:
            sock.settimeout(LIMIT_S)
            sock.bind((address, 0))
            sock.connect(parse_address(two.addresses[0])[:2])
            sock.sendall(pack(Preamble(Purpose.LINK, os.urandom(16), time.time(), target, dialler, number), key))
            assert sock.recv(1) == b""
        deadline = time.monotonic() + LIMIT_S
        while not (lines := [line for line in two.log("n1").splitlines() if f"{address}:" in line]):
            assert time.monotonic() < deadline, two.log("n1")
            time.sleep(0.02)
        assert words in lines[0]
    before = len(events.output())
    events.until(f"{int(events.output().split()[-1]) + 10}\n")  # and the link goes on
    assert len(events.output()) > before
    events.running.send_signal(signal.SIGINT)
    events.rest()


def test_another_deployment_gets_no_link_by_a_pid(two: Outside) -> None:
    """Who knows a Pid of another deployment is told that it is not known there, as without a relay."""
    source = COUNTER.replace("    init()", "    init()\n    print(pid().to_bytes().hex())").replace(
        "import init", "import init, pid"
    )
    events = Events(two.begin(source, "100000", options=("--format", "json")))
    events.until("\n2\n")
    source = """
        import sys
        from constellation import ChannelError, Pid, Receiver, init
        init()
        try:
            Receiver(Pid.from_bytes(bytes.fromhex(sys.argv[1]))).recv().block()
        except ChannelError as error:
            print(error)
    """
    done = two.deploy(source, events.output().split()[0], options=("--format", "raw"))
    assert "is not known on this node: it belongs to another deployment" in done.stdout, done
    events.running.send_signal(signal.SIGINT)
    events.rest()
