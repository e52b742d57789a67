"""A real bridge against deployers who have a right credential and mean ill: what each may cost, and what is said to it."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from constellation.core import trunk
from constellation.core.bundle import MOST_ENTRIES, Chunk, Entry, Manifest, digest_of
from constellation.core.fitting import Installation
from constellation.core.preamble import Preamble, Purpose, pack
from constellation.core.settings import WIRE_VERSION
from constellation.core.specification import fields_of_installation
from constellation.core.trunk import Specification
from constellation.fabric import bridging
from constellation.fabric.bundle import outline
from constellation.fabric.credential import load_deployer
from tests.conftest import MARK, Leftovers, nothing_left
from tests.io.cluster import LIMIT_S, Cluster, children_of, cluster, daemon_below

HELLO = "from constellation import init\ninit()\nprint('hello')\n"
X = Chunk(digest_of(b"x"), 1)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master with its bridge."""
    with nothing_left() as left, cluster(tmp_path_factory.mktemp("one"), left, nodes=1) as made:
        made.wait_for_nodes()
        assert deploy(made) == ("hello\n", 0)
        yield made


def deploy(made: Cluster) -> tuple[str, int]:
    """An honest deployment, with its files."""
    path = made.program(HELLO)
    mark = ("--env", f"{MARK}={made.mark}", "--format", "raw")
    done = made.run("deploy", *mark, made.bridge, path.name, cwd=path.parent)
    return done.stdout, done.returncode


class Deployer:
    """Somebody with a deployer's credential who writes his own client."""

    def __init__(self, made: Cluster) -> None:
        folder = Path(made.environment["XDG_CONFIG_HOME"], "constellation")
        credential = load_deployer(str(folder / "deployer.pem"), is_loopback=False)
        host, _, port = made.bridge.rpartition(":")
        sock = socket.create_connection((host, int(port)), timeout=LIMIT_S)
        key = credential.preamble_keys[Purpose.DEPLOY]
        sock.sendall(pack(Preamble(Purpose.DEPLOY, os.urandom(16), time.time()), key))
        self.tls = credential.context().wrap_socket(sock)

    def raw(self, data: bytes) -> None:
        """Send a frame of any bytes."""
        self.tls.sendall(struct.pack(">I", len(data)) + data)

    def say(self, message: Any) -> None:
        """Send a message."""
        self.raw(msgpack.packb(trunk.CLIENT.fields_of(message)))

    def hear(self) -> Any:
        """The next message; None where the bridge has closed."""
        try:
            head = self._exactly(4)
            return trunk.CLIENT.read(msgpack.unpackb(self._exactly(*struct.unpack(">I", head))))
        except (EOFError, ConnectionError, ssl.SSLError):
            return None

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.tls.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def deploy(self, manifest: list[Any], **changed: Any) -> None:
        """Ask to run a program."""
        client = fields_of_installation(Installation("here", (3, 11, 0), WIRE_VERSION, "0.1", {}))
        plain = Specification(
            "", ["prog.py"], "prog.py", "", [], [], manifest, "", [], [], [], is_forced=False, client=client, python=""
        )
        self.say(trunk.Deploy(0, list(plain._replace(**changed)), False))

    def upload(self, fields: Any) -> Any:
        """Send a list of files, whatever it says; the answer after that."""
        packed = msgpack.packb(fields)
        parts = [packed[at : at + (32 << 10)] for at in range(0, len(packed), 32 << 10)]
        rows = [[digest_of(part), len(part)] for part in parts]
        by_digest = {digest_of(part): part for part in parts}
        self.deploy(rows)
        while isinstance(answer := self.hear(), trunk.Missing) and all(each in by_digest for each in answer.digests):
            for digest in answer.digests:
                self.say(trunk.Chunk(b"", digest, by_digest[digest]))
            self.deploy(rows)
        return answer

    def close(self) -> None:
        """Go without a word."""
        self.tls.close()


@pytest.fixture
def deployer(one: Cluster) -> Iterator[Deployer]:
    """Closed at the end; the fabric goes on."""
    made = Deployer(one)
    yield made
    made.close()
    assert deploy(one) == ("hello\n", 0)


def fields(*entries: Entry) -> Any:
    """A list of files, packed by somebody who checks nothing."""
    return Manifest(entries).to_fields()


def file(path: bytes, chunk: Chunk = X) -> Entry:
    """A file of one chunk."""
    return Entry(path, "file", chunks=(chunk,))


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (fields(file(b"../evil")), "a path with the part '..'"),
        (fields(file(b"a/../../evil")), "a path with the part '..'"),
        (fields(file(b"/etc/cron.d/evil")), "an absolute path"),
        (fields(file(b"a\0b")), "a path with a zero byte"),
        (fields(file(b"a//b")), "a path with the part ''"),
        (fields(file(b"x" * 256)), "a part of 256 bytes"),
        (fields(file(b"a"), file(b"a")), "there twice"),
        (fields(file(b"a"), file(b"a/b")), "below a, which is a file"),
        (fields(Entry(b"a", "symlink", target=b"/etc"), file(b"a/passwd")), "below a, which is a symlink"),
        (fields(Entry(b"a", "symlink", target=b"/etc/passwd")), "absolute path /etc/passwd"),
        (fields(Entry(b"a", "symlink", target=b"../../etc")), "leads outside"),
        (fields(Entry(b"a", "symlink", target=b"b/.."), Entry(b"b", "symlink", target=b"..")), "leads outside"),
        (fields(file(b"a", Chunk(X.digest, 1)), file(b"b", Chunk(X.digest, 2))), "another size before"),
        (fields(file(b"a", Chunk(X.digest, 0))), "a chunk of 0 bytes"),
        (fields(file(b"a", Chunk(X.digest, 1 << 40))), "a chunk of 1099511627776 bytes"),
        ([1, [[b"a", b"chr", 1, 3]]], "not a manifest"),
        ([1, [[b"a", False, b"x", []]]], "0 chunks for other digests"),
        ([2, []], "not a manifest of version 1"),
        ([1, [[b"%d" % at, False, b"", []] for at in range(MOST_ENTRIES + 1)]], f"{MOST_ENTRIES + 1} files"),
        ("nothing", "not a manifest"),
    ],
)
def test_a_list_of_files_that_breaks_a_rule_is_refused_with_the_rule(
    deployer: Deployer, manifest: Any, words: str
) -> None:
    """Traversal, absolute paths, links out of the root, devices, too many, contradictions: code 4, and nothing is written."""
    answer = deployer.upload(manifest)
    assert isinstance(answer, trunk.Refusal), answer
    assert (answer.code, words in answer.text) == (4, True), answer


def test_a_list_of_ten_million_files_takes_no_memory_of_the_bridge(deployer: Deployer, one: Cluster) -> None:
    """Its elements are a byte each where they come from."""
    bridge = bridge_of(one)
    count = 10_000_000
    packed = b"\x92\x01\xdd" + count.to_bytes(4, "big") + b"\x90" * count
    parts = [packed[at : at + (32 << 10)] for at in range(0, len(packed), 32 << 10)]
    rows = [[digest_of(part), len(part)] for part in parts]
    by_digest = {digest_of(part): part for part in parts}
    before = peak(bridge)
    deployer.deploy(rows)
    missing = deployer.hear()
    for digest in missing.digests:
        deployer.say(trunk.Chunk(b"", digest, by_digest[digest]))
    deployer.deploy(rows)
    answer = deployer.hear()
    assert "a list of 10000000 files: expected at most" in answer.text
    assert peak(bridge) - before < 100 << 20


def bridge_of(made: Cluster) -> int:
    """OS pid of the bridge."""
    found = [each for each in children_of(daemon_below(made.daemons["n1"])) if b"bridge" in command(each)]
    return found[0]


def command(os_pid: int) -> bytes:
    """The command line of a process."""
    return Path(f"/proc/{os_pid}/cmdline").read_bytes()


def peak(os_pid: int) -> int:
    """The most memory that a process has had, in bytes."""
    lines = Path(f"/proc/{os_pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize(
    ("digest", "data", "words"),
    [
        (X.digest, b"y", "its bytes have another digest"),
        (X.digest, b"xx", "a chunk of 2 bytes: its list says 1"),
        (X.digest, b"", "a chunk of 0 bytes: its list says 1"),
    ],
)
def test_a_chunk_that_is_not_what_it_was_called_is_refused(
    deployer: Deployer, digest: bytes, data: bytes, words: str
) -> None:
    """It is not kept, and what comes behind it is dropped."""
    deployer.deploy([[X.digest, 1]])
    assert deployer.hear() == trunk.Missing([X.digest])
    deployer.say(trunk.Chunk(b"", digest, data))
    answer = deployer.hear()
    assert (answer.code, words in answer.text) == (4, True), answer


def test_who_sends_what_was_not_asked_for_is_cut_off(deployer: Deployer, one: Cluster) -> None:
    """A chunk, or a message of somebody else's."""
    deployer.say(trunk.Chunk(b"", digest_of(b"z"), b"z"))
    assert deployer.hear() is None
    for message in (trunk.Accepted(0, b"d" * 16), trunk.Ended(b"d" * 16), trunk.Missing([])):
        other = Deployer(one)
        other.say(message)
        assert other.hear() is None
        other.close()


def test_a_frame_larger_than_any_honest_one_is_cut_off(deployer: Deployer, one: Cluster) -> None:
    """Before it is read to its end; what a daemon may send another a client may not."""
    deployer.tls.sendall(struct.pack(">I", 8 << 20) + bytes(1000))
    assert deployer.hear() is None
    one.wait_for("n1", "sent a frame of 8388608 bytes: expected at most")


def test_stdin_without_an_end_is_cut_off(deployer: Deployer, one: Cluster) -> None:
    """Where nothing reads it, no more of it is kept than an honest client sends ahead."""
    data = bytes(64 << 10)
    try:
        for _ in range(2 * bridging.MOST_TYPED // len(data)):
            deployer.say(trunk.Typed(b"d" * 16, data))
    except OSError:
        pass
    assert deployer.hear() is None
    one.wait_for("n1", "bytes for a stdin that takes none")


def test_one_owner_does_not_use_up_all_connections(one: Cluster) -> None:
    """The last one too many is told so; those before it go on."""
    every: list[Deployer] = []
    try:
        every.extend(Deployer(one) for _ in range(bridging.MOST_CLIENTS))
        last = Deployer(one)
        every.append(last)
        answer = last.hear()
        assert isinstance(answer, trunk.Refusal), answer
        assert f"{bridging.MOST_CLIENTS} connections to this bridge already" in answer.text
        every[0].deploy([[X.digest, 1]])
        assert isinstance(every[0].hear(), trunk.Missing | trunk.Refusal)
    finally:
        for each in every:
            each.close()
    assert deploy(one) == ("hello\n", 0)


def test_a_client_with_many_uploads_at_once_gets_an_answer_for_each(one: Cluster) -> None:
    """Of the same chunks and of different ones."""
    answers: list[Any] = []

    def work(number: int) -> None:
        made = Deployer(one)
        noise = bytes([number % 4]) * 5000
        chunk = Chunk(digest_of(noise), len(noise))
        made.deploy([[each.digest, each.size] for each in outline(Manifest((file(b"a", chunk),))).chunks])
        parts = {**outline(Manifest((file(b"a", chunk),))).parts, chunk.digest: noise}
        while isinstance(answer := made.hear(), trunk.Missing):
            for digest in answer.digests:
                made.say(trunk.Chunk(b"", digest, parts[digest]))
            made.deploy([[each.digest, each.size] for each in outline(Manifest((file(b"a", chunk),))).chunks])
        answers.append(answer)
        made.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * LIMIT_S)
    assert [type(each) for each in answers] == [trunk.Accepted] * 24
    assert deploy(one) == ("hello\n", 0)


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=12,
)


_OF_TYPE = {
    "int": st.integers(-(2**63), 2**64 - 1) | st.integers(0, 3),
    "bytes": st.binary(max_size=40) | st.binary(min_size=16, max_size=16),
    "str": st.text(max_size=20) | st.sampled_from(["ps", "nodes", "kill", "drain", "why"]),
    "bool": st.booleans(),
    "list[Any]": st.lists(_PLAIN, max_size=6),
}


def _of_kind(kind: type[Any]) -> st.SearchStrategy[bytes]:
    """A message with fields of the right types and any content."""
    types = [str(getattr(each, "__forward_arg__", each)) for each in kind.__annotations__.values()]
    number = trunk.CLIENT.numbers[kind]
    return st.tuples(*(_OF_TYPE[each] for each in types)).map(lambda values: msgpack.packb([number, *values]))


def _specifications() -> st.SearchStrategy[bytes]:
    """What is to be run, one field of which is anything."""
    client = fields_of_installation(Installation("here", (3, 11, 0), WIRE_VERSION, "0.1", {}))
    right = ["", ["p.py"], "p.py", "", [], [], [[X.digest, 1]], "", [], [], [], False, client, ""]

    def changed(at: int, value: Any) -> bytes:
        fields = [*right[:at], value, *right[at + 1 :]]
        packed: bytes = msgpack.packb(trunk.CLIENT.fields_of(trunk.Deploy(0, fields, True)))
        return packed

    return st.builds(changed, st.integers(0, len(right) - 1), _PLAIN)


def test_any_message_of_a_deployer_is_answered_or_closed(one: Cluster) -> None:
    """Any bytes, any fields, several of them, and then gone at once: the same bridge and the same master go on."""
    daemons = [daemon_below(one.daemons["n1"]), bridge_of(one)]
    kinds = [_of_kind(kind) for kind in trunk.CLIENT.kinds]
    frames = st.binary(max_size=60) | _PLAIN.map(msgpack.packb) | st.one_of(kinds) | _specifications()

    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(st.lists(frames, min_size=1, max_size=4), st.booleans())
    def hold(data: list[bytes], is_gone: bool) -> None:
        made = Deployer(one)
        try:
            for each in data:
                made.raw(each)
            made.tls.settimeout(0.02)
            if not is_gone:
                made.hear()
        except OSError:
            pass
        made.close()

    hold()
    assert [daemon_below(one.daemons["n1"]), bridge_of(one)] == daemons
    assert "Traceback" not in one.log("n1")
    assert deploy(one) == ("hello\n", 0)


def test_a_bridge_that_is_killed_in_the_middle_of_an_upload_gets_the_rest_when_it_is_back(
    tmp_path: Path, leftovers: Leftovers
) -> None:
    """The client comes again and sends what is missing still; the program runs once."""
    with cluster(tmp_path, leftovers, nodes=1) as made:
        made.wait_for_nodes()
        path = made.program(HELLO)
        (path.parent / "noise.bin").write_bytes(os.urandom(48 << 20))
        mark = ("--env", f"{MARK}={made.mark}", "--format", "raw")
        client = subprocess.Popen(
            [*made.command, "deploy", *mark, made.bridge, path.name],
            env=made.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=path.parent,
        )
        made.clients.append(client)
        state = tmp_path / "state" / "constellation"
        deadline = time.monotonic() + LIMIT_S
        while len(list(state.glob("*/store/*/chunks/*/*"))) < 100:
            assert time.monotonic() < deadline
            assert client.poll() is None
        os.kill(bridge_of(made), 9)
        before = len(list(state.glob("*/store/*/chunks/*/*")))
        out, err = client.communicate(timeout=4 * LIMIT_S)
        assert (out, client.returncode) == ("hello\n", 0), err
        assert before < 2500, "it was killed after all had come"
        assert "the bridge has ended: it is started again" in made.log("n1")
