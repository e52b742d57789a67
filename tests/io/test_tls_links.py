"""Encrypted links between processes: who is accepted, and that no byte is lost whatever comes in between."""

from __future__ import annotations

import hashlib
import os
import random
import select
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from constellation.core.pid import Pid
from constellation.core.role import Identity, Role
from constellation.fabric.credential import NodeCredential, make_context
from constellation.process.secure import LinkContext, LinkContexts
from constellation.transports import tls as module
from constellation.transports.tcp import TcpTransport
from constellation.transports.tls import TlsLink
from tests.io.security import Dialler, bare_client, closing, connected, make_node, make_old_identity

OURS, THEIRS = b"d" * 16, b"e" * 16
A, B, C = Pid(1, 1, b"a" * 16), Pid(2, 1, b"b" * 16), Pid(3, 1, b"c" * 16)
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> NodeCredential:
    """The fabric's credential."""
    return make_node(tmp_path_factory.mktemp("fabric"))


def context(
    identity: Identity, *, server: bool, deployment: bytes = OURS, source: Pid = A, target: Pid = B, number: int = 1
) -> LinkContext:
    """The context of the link from A to B."""
    return LinkContexts(identity, deployment).of_link(server=server, target=target, source=source, number=number)


def link_pair(node: NodeCredential) -> tuple[TlsLink, TlsLink]:
    """Both ends of a link between A and B; the handshake has yet to be driven."""
    dialled, accepted = connected()
    identity = node.deployment_identity(OURS)
    return (
        TlsLink(dialled, context(identity, server=False), server=False),
        TlsLink(accepted, context(identity, server=True), server=True),
    )


class Pump:
    """Drives both ends as a reactor does: level-triggered, one call a wake."""

    def __init__(self, *links: TlsLink) -> None:
        self.links = links
        self.out = dict.fromkeys(links, b"")
        self.got = dict.fromkeys(links, b"")
        self.ends: dict[TlsLink, OSError | bytes] = {}

    def run(self, done: Any, what: str) -> None:
        """Until something holds."""
        deadline = time.monotonic() + PATIENCE_S
        with select.epoll() as poll:
            by_fd = {link.fileno(): link for link in self.links}
            for fd in by_fd:
                poll.register(fd, 0)
            while not done():
                assert time.monotonic() < deadline, f"it did not come to this: {what}"
                for fd, link in by_fd.items():
                    wanted = 0 if link in self.ends else select.EPOLLIN | (select.EPOLLOUT if self.out[link] else 0)
                    poll.modify(fd, wanted)
                any_pending = any(link.pending() for link in self.links if link not in self.ends)
                events = dict(poll.poll(0 if any_pending else 0.05))
                for fd, link in by_fd.items():
                    if link not in self.ends and (events.get(fd, 0) or link.pending()):
                        self._step(link)

    def _step(self, link: TlsLink) -> None:
        try:
            data = link.receive(1 << 17)
        except BlockingIOError:
            pass
        except OSError as error:
            self.ends[link] = error
            return
        else:
            if not data:
                self.ends[link] = b""
                return
            self.got[link] += data
        try:
            if self.out[link]:
                self.out[link] = self.out[link][link.send(self.out[link]) :]
        except BlockingIOError:
            pass
        except OSError:
            self.out[link] = b""


def exchange(left: TlsLink, right: TlsLink) -> Pump:
    """Send something each way until it has come, or both ends have ended."""
    pump = Pump(left, right)
    pump.out = {left: b"from the left", right: b"from the right"}
    pump.run(
        lambda: (pump.got[left] and pump.got[right]) or len(pump.ends) == 2,
        "both have got something, or both have ended",
    )
    return pump


def test_processes_of_one_deployment_are_linked(node: NodeCredential) -> None:
    """Each with a certificate that its own node has made."""
    dialled, accepted = connected()
    left = TlsLink(dialled, context(node.deployment_identity(OURS), server=False), server=False)
    right = TlsLink(accepted, context(node.deployment_identity(OURS), server=True), server=True)
    with closing(left, right):
        pump = exchange(left, right)
        assert pump.got == {left: b"from the right", right: b"from the left"}


def refused_links(node: NodeCredential, foreign: NodeCredential) -> dict[str, tuple[ssl.SSLContext, ssl.SSLContext]]:
    """Pairs of contexts, client and server, that must not come together."""
    ours, theirs = node.deployment_identity(OURS), node.deployment_identity(THEIRS)
    right_client, right_server = context(ours, server=False), context(ours, server=True)
    role = Role.of_deployment(OURS)
    return {
        "a client of another deployment": (context(theirs, server=False, deployment=THEIRS), right_server),
        "a server of another deployment": (right_client, context(theirs, server=True, deployment=THEIRS)),
        "a client that claims another deployment": (context(theirs, server=False), right_server),
        "a client of another fabric": (context(foreign.deployment_identity(OURS), server=False), right_server),
        "a server of another fabric": (right_client, context(foreign.deployment_identity(OURS), server=True)),
        "a client with a node's certificate": (
            make_context(node.identity(Role("node", "n")), server=False),
            right_server,
        ),
        "a server with a node's certificate": (
            right_client,
            make_context(node.identity(Role("node", "n")), server=True),
        ),
        "a client whose certificate has expired": (context(make_old_identity(node, role), server=False), right_server),
        "a server whose certificate has expired": (right_client, context(make_old_identity(node, role), server=True)),
        "a client without a certificate": (bare_client(node.authority_pem), right_server),
        "a client of TLS 1.2": (bare_client(node.authority_pem, ssl.TLSVersion.TLSv1_2), right_server),
        "another link of the same two": (context(ours, server=False, number=2), right_server),
        "a link from another process": (context(ours, server=False, source=C), right_server),
        "a link to another process": (context(ours, server=False, target=C), right_server),
        "a link the other way round": (context(ours, server=False, source=B, target=A), right_server),
        "no link by name": (make_context(ours, server=False), right_server),
    }


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> NodeCredential:
    """The credential of another fabric."""
    return make_node(tmp_path_factory.mktemp("foreign"))


@pytest.mark.parametrize(
    "who",
    [
        "a client of another deployment",
        "a server of another deployment",
        "a client that claims another deployment",
        "a client of another fabric",
        "a server of another fabric",
        "a client with a node's certificate",
        "a server with a node's certificate",
        "a client whose certificate has expired",
        "a server whose certificate has expired",
        "a client without a certificate",
        "a client of TLS 1.2",
        "another link of the same two",
        "a link from another process",
        "a link to another process",
        "a link the other way round",
        "no link by name",
    ],
)
def test_nobody_else_is_linked(node: NodeCredential, foreign: NodeCredential, who: str) -> None:
    """Not a byte of what it sends is read, however little it looks at us; both ends see an end."""
    client, server = refused_links(node, foreign)[who]
    stranger = client if "client" in who or "link" in who else server
    if not isinstance(stranger, LinkContext):
        stranger.verify_mode = ssl.CERT_NONE
    dialled, accepted = connected()
    left, right = TlsLink(dialled, client, server=False), TlsLink(accepted, server, server=True)
    with closing(left, right):
        pump = Pump(left, right)
        pump.out = {left: b"from the left", right: b"from the right"}
        honest = right if stranger is client else left
        pump.run(lambda: honest in pump.ends, "the honest end has ended")
        assert pump.got[honest] == b""
        assert isinstance(pump.ends[honest], ssl.SSLError)
        honest.close()
        other = left if honest is right else right
        pump.links = (other,)
        pump.run(lambda: other in pump.ends, "the other has ended too")


def test_what_a_refusal_says(node: NodeCredential) -> None:
    """Whose certificate it is and whose it should be."""
    ours, theirs = node.deployment_identity(OURS), node.deployment_identity(THEIRS)
    dialled, accepted = connected()
    left = TlsLink(dialled, context(theirs, server=False, deployment=THEIRS), server=False)
    right = TlsLink(accepted, context(ours, server=True), server=True)
    with closing(left, right):
        pump = Pump(left, right)
        pump.out[left] = b"hello"
        pump.run(lambda: len(pump.ends) == 2, "both have ended")
    words = " ".join(str(each) for each in pump.ends.values())
    assert f"it is process {THEIRS.hex()}: expected process {OURS.hex()}" in words


def test_a_handshake_that_does_not_come_to_an_end_ends(node: NodeCredential, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks again after the time is told so."""
    dialled, accepted = connected()
    with closing(dialled):
        right = TlsLink(accepted, context(node.deployment_identity(OURS), server=True), server=True)
        with pytest.raises(BlockingIOError):
            right.send(b"hello")
        with pytest.raises(BlockingIOError):
            right.receive(10)
        later = time.monotonic() + module.HANDSHAKE_TIME + 1
        monkeypatch.setattr(time, "monotonic", lambda: later)
        with pytest.raises(TimeoutError, match="handshake took more than"):
            right.send(b"hello")
        right.close()


def test_what_epoll_does_not_tell_is_told_by_pending(node: NodeCredential) -> None:
    """The rest of a record that was read in part."""
    left, right = link_pair(node)
    with closing(left, right):
        exchange(left, right)
        assert not right.pending()
        left.send(b"abcdef")
        with select.epoll() as poll:
            poll.register(right.fileno(), select.EPOLLIN)
            assert poll.poll(PATIENCE_S)
            assert right.receive(2) == b"ab"
            assert not poll.poll(0)
            assert right.pending()
            room = bytearray(3)
            assert right.receive_into(memoryview(room)) == 3
            assert room == b"cde"
            assert right.pending()
        assert right.receive(100) == b"f"
        assert not right.pending()


def test_the_end_is_told_each_time(node: NodeCredential) -> None:
    """After the last byte; and a closed link is closed."""
    left, right = link_pair(node)
    with closing(left, right):
        pump = exchange(left, right)
        left.send(b"last")
        left.close()
        left.close()
        pump.links = (right,)
        pump.run(lambda: right in pump.ends, "the end has come")
        assert pump.got[right].endswith(b"last")
        assert pump.ends[right] == b""
        assert right.receive(10) == b""
        assert right.receive_into(memoryview(bytearray(10))) == 0
        for call in (lambda: left.send(b"x"), lambda: left.receive(1), lambda: left.send_many([b"x"])):
            with pytest.raises(OSError, match="closed"):
                call()


def test_a_cut_connection_is_no_end_that_was_meant(node: NodeCredential) -> None:
    """Somebody on the way may cut it where he likes; that is told from an end."""
    dialled, accepted = connected()
    identity = node.deployment_identity(OURS)
    link = TlsLink(accepted, context(identity, server=True), server=True)

    def client() -> None:
        tls = context(identity, server=False).wrap_socket(dialled)
        tls.sendall(b"x")
        tls.close()

    with closing(link):
        cutting = Dialler(client)
        pump = Pump(link)
        pump.run(lambda: link in pump.ends and cutting.is_done, "it has ended")
        assert pump.got[link] == b"x"
        assert isinstance(pump.ends[link], OSError)


@pytest.mark.parametrize("at", [0, 4, 6, 500, 1019])
def test_what_was_changed_on_the_way_ends_the_link(node: NodeCredential, at: int) -> None:
    """A byte of a record's header, of its content or of its tag: nothing of it is read, nor anything after it."""
    identity = node.deployment_identity(OURS)
    dialled, between_left = connected()
    between_right, accepted = connected()
    left = TlsLink(dialled, context(identity, server=False), server=False)
    right = TlsLink(accepted, context(identity, server=True), server=True)
    pump = Pump(left, right)
    for sock in (between_left, between_right):
        sock.setblocking(False)

    def carry(change: int | None = None) -> bool:
        """Pass on what there is, with one byte changed; whether it was."""
        is_changed = False
        for source, target in ((between_left, between_right), (between_right, between_left)):
            try:
                data = bytearray(source.recv(1 << 20))
            except BlockingIOError:
                continue
            if change is not None and source is between_left and data:
                data[change] ^= 0x40
                is_changed = True
            target.sendall(data)
        return is_changed

    with closing(left, right, between_left, between_right):
        pump.out = {left: b"before", right: b"back"}
        pump.run(lambda: carry() or (pump.got[left] and pump.got[right]), "both have got something")
        left.send(bytes(1000))
        left.send(b"after")
        deadline = time.monotonic() + PATIENCE_S
        while not carry(at):
            assert time.monotonic() < deadline
        pump.links = (right,)
        pump.run(lambda: carry() or right in pump.ends or not select.select([right], [], [], 0.2)[0], "it has ended")
        assert pump.got[right] == b"before"
        with pytest.raises(OSError, match=r".") as caught:
            right.receive(100)
        assert at == 4 or not isinstance(caught.value, BlockingIOError)  # a length that was changed: it waits for more


def test_two_threads_may_use_a_link_at_once(node: NodeCredential) -> None:
    """One sends, one receives, at both ends."""
    left, right = link_pair(node)
    size = 8 << 20
    data = {left: random.Random(1).randbytes(size), right: random.Random(2).randbytes(size)}
    got: dict[TlsLink, Any] = {}
    errors: list[BaseException] = []

    def guarded(work: Any) -> Any:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # looked at below
                errors.append(error)

        return run

    def send(link: TlsLink) -> None:
        rest = memoryview(data[link])
        while rest:
            try:
                rest = rest[link.send(rest) :]
            except BlockingIOError:
                select.select([], [link.fileno()], [], 0.05)

    def receive(link: TlsLink) -> None:
        digest, count = hashlib.sha256(), 0
        while count < size:
            try:
                part = link.receive(1 << 17)
            except BlockingIOError:
                select.select([link.fileno()], [], [], 0.05)
                continue
            digest.update(part)
            count += len(part)
        got[link] = digest.digest()

    with closing(left, right):
        threads = [
            threading.Thread(target=guarded(lambda work=work, link=link: work(link)), daemon=True)
            for link in (left, right)
            for work in (send, receive)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert not errors
        assert got[left] == hashlib.sha256(data[right]).digest()
        assert got[right] == hashlib.sha256(data[left]).digest()


class Struck(Exception):
    """What the signal handler raises."""


@pytest.fixture
def strikes() -> Iterator[Any]:
    """Arms a timer whose handler raises at any instruction, a random moment after each arming."""
    chance = random.Random(20)

    def strike(_number: int, _frame: object) -> None:
        raise Struck

    def arm(most: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, most))

    before = signal.signal(signal.SIGALRM, strike)
    yield arm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("rounds", [400, pytest.param(3_000, marks=[pytest.mark.slow, pytest.mark.timeout(1600)])])
def test_no_byte_is_lost_or_doubled_by_an_interrupt(node: NodeCredential, strikes: Any, rounds: int) -> None:
    """A handler raises in the middle of calls; the caller, who stores results as the reactor does, goes on."""
    dialled, accepted = connected()
    identity = node.deployment_identity(OURS)
    link = TlsLink(accepted, context(identity, server=True), server=True)
    chance = random.Random(rounds)
    seen, said = hashlib.sha256(), hashlib.sha256()

    def echo() -> None:
        with context(identity, server=False).wrap_socket(dialled) as tls:
            while data := tls.recv(1 << 16):
                seen.update(data)
                tls.sendall(data)

    echoing = Dialler(echo)
    sent: list[int] = []
    got: list[bytes] = []
    counts: list[int] = []
    room = memoryview(bytearray(1 << 15))
    struck = 0
    deadline = time.monotonic() + rounds * 0.5
    with closing(link):
        for number in range(rounds):
            data = chance.randbytes(chance.choice((5, 500, 40_000)))
            rest = memoryview(data)
            echoed = bytearray()
            parts = chance.random() < 0.5
            while rest or len(echoed) < len(data):
                assert time.monotonic() < deadline
                try:
                    strikes(2e-4)
                    if rest:
                        if not sent:
                            if parts and len(rest) > 3:
                                sent += map(link.send_many, ([rest[:3], rest[3:]],))
                            else:
                                sent += map(link.send, (rest,))
                    elif number % 2:
                        if not got:
                            got += map(link.receive, (1 << 15,))
                    elif not counts:
                        counts += map(link.receive_into, (room,))
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except Struck:
                    struck += 1
                except BlockingIOError:
                    pass
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except Struck:
                    struck += 1
                if sent:
                    rest = rest[sent.pop() :]
                if got:
                    echoed += got.pop()
                if counts:
                    echoed += room[: counts.pop()]
            said.update(data)
            assert echoed == data, f"in round {number}, after {struck} interrupts"
        link.close()
    deadline = time.monotonic() + PATIENCE_S
    while not echoing.is_done and time.monotonic() < deadline:
        time.sleep(0.01)
    assert seen.digest() == said.digest()
    assert struck > rounds // 10


def test_plain_links_have_no_delay(node: NodeCredential) -> None:
    """A small frame leaves at once, encrypted or not."""
    transport = TcpTransport()
    for which in (None, context(node.deployment_identity(OURS), server=True)):
        dialled, accepted = connected()
        with closing(dialled):
            link = transport.open(accepted.detach(), server=True, context=which)
            with socket.socket(fileno=os.dup(link.fileno())) as copy:
                assert copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert not os.get_blocking(copy.fileno())
            link.close()
