"""Conduits between daemons: what they carry, whom they refuse, and how they end."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from constellation.core.errors import HandshakeError
from constellation.core.role import Role, check_role
from constellation.fabric import conduit as conduits
from constellation.fabric.conduit import FULL, LARGEST_FRAME, LIMIT, Conduit
from constellation.fabric.credential import DeployerCredential, NodeCredential, load_deployer, make_context
from constellation.fabric.loop import Loop
from tests.io.security import Dialler, bare_client, connected, make_node, make_old_identity, run_until

BRIDGE, NODE = Role("bridge", "b"), Role("node", "n")


class End:
    """A conduit that notes what it tells."""

    def __init__(
        self, loop: Loop, sock: socket.socket, context: ssl.SSLContext, *, server: bool, expected: str = ""
    ) -> None:
        self.roles: list[Role] = []
        self.got: list[Any] = []
        self.reasons: list[str] = []
        self.rooms = 0
        self.expected = expected
        self.conduit = Conduit(
            loop,
            sock,
            context,
            server=server,
            read=_read,
            fields_of=lambda message: message,
            on_ready=self._ready,
            on_message=self.got.append,
            on_end=self.reasons.append,
            on_room=self._room,
            label="the peer (10.0.0.7:5)",
        )

    def _ready(self, role: Role) -> None:
        if self.expected:
            check_role(role, self.expected)
        self.roles.append(role)

    def _room(self) -> None:
        self.rooms += 1


def _read(plain: Any) -> Any:
    if not isinstance(plain, list):
        raise ValueError("not a message")  # noqa: TRY004  # as Schema.read does
    return plain


class Setup:
    """A loop, a fabric's credentials, and what is made on them."""

    def __init__(self, folder: Path) -> None:
        self.loop = Loop()
        self.node: NodeCredential = make_node(folder / "fabric")
        self.deployer: DeployerCredential = load_deployer(str(folder / "fabric" / "deployer.pem"), is_loopback=False)
        self.foreign = folder / "foreign"
        self.ends: list[End] = []

    def end(self, sock: socket.socket, context: ssl.SSLContext, *, server: bool, expected: str = "") -> End:
        """Make a conduit of a connection."""
        made = End(self.loop, sock, context, server=server, expected=expected)
        self.ends.append(made)
        return made

    def server(self, sock: socket.socket, expected: str = "") -> End:
        """A bridge's end of an accepted connection."""
        return self.end(sock, self.node.context(BRIDGE, server=True), server=True, expected=expected)

    def pair(self) -> tuple[End, End]:
        """A node's and a bridge's end, ready."""
        dialled, accepted = connected()
        left = self.end(dialled, self.node.context(NODE, server=False), server=False)
        right = self.server(accepted)
        self.until(lambda: left.roles and right.roles, "the handshake is over")
        return left, right

    def until(self, done: Any, what: str) -> None:
        run_until(self.loop, done, what)


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    """A fabric for one test."""
    made = Setup(tmp_path)
    yield made
    for end in made.ends:
        end.conduit.close()
    made.loop.close()


def test_messages_go_both_ways_in_order(setup: Setup) -> None:
    """Those sent before the handshake was over too."""
    dialled, accepted = connected()
    left = setup.end(dialled, setup.node.context(NODE, server=False), server=False)
    right = setup.server(accepted)
    assert all(left.conduit.send([number]) for number in range(100))
    assert right.conduit.send(["back"])
    setup.until(lambda: len(right.got) == 100 and left.got, "all have come")
    assert right.got == [[number] for number in range(100)]
    assert left.got == [["back"]]
    assert (left.roles, right.roles) == ([BRIDGE], [NODE])


def test_large_messages_pass_and_too_large_ones_are_our_mistake(setup: Setup) -> None:
    """Up to a frame's limit."""
    left, right = setup.pair()
    large = b"x" * (LARGEST_FRAME - 100)
    assert left.conduit.send([large])
    setup.until(lambda: right.got, "it has come")
    assert right.got == [[large]]
    with pytest.raises(ValueError, match="expected at most"):
        left.conduit.send([b"x" * LARGEST_FRAME])
    assert left.conduit.send([1])
    setup.until(lambda: len(right.got) == 2, "the conduit goes on")


def test_small_messages_share_a_record(setup: Setup) -> None:
    """What a turn of the loop has sent leaves at once."""
    dialled, accepted = connected()
    right = setup.server(accepted)

    def client() -> bytes:
        with setup.node.context(NODE, server=False).wrap_socket(dialled) as tls:
            return tls.recv(1 << 16)

    for number in range(100):
        right.conduit.send([number])
    reading = Dialler(client)
    setup.until(lambda: reading.is_done, "the client has read once")
    assert reading.result == b"".join(frame([number]) for number in range(100))


def frame(plain: Any) -> bytes:
    packed: bytes = msgpack.packb(plain)
    return struct.pack(">I", len(packed)) + packed


def test_a_slow_reader_is_felt_and_nothing_is_shed(setup: Setup) -> None:
    """First `is_full`, then a refusal; when it reads again, all that was taken comes, and those who wait are told."""
    left, right = setup.pair()
    right.conduit.pause()
    taken = 0
    while left.conduit.send([taken, b"x" * (1 << 20)]):
        assert left.conduit.is_full or left.conduit.unsent < FULL
        taken += 1
        setup.loop.step(0)
    assert left.conduit.is_full
    assert left.conduit.unsent >= LIMIT
    assert left.rooms == 0
    assert right.got == []
    right.conduit.resume()
    setup.until(lambda: len(right.got) == taken, "all have come")
    assert [each[0] for each in right.got] == list(range(taken))
    assert left.rooms == 1
    assert left.conduit.unsent == 0


def test_who_pauses_gets_no_message(setup: Setup) -> None:
    """Not even one that had come in the same piece."""
    left, right = setup.pair()

    def take_one(message: Any) -> None:
        right.got.append(message)
        right.conduit.pause()

    right.conduit._on_message = take_one
    for number in range(3):
        left.conduit.send([number])
    setup.until(lambda: right.got, "the first has come")
    left.conduit.close(after_flush=True)
    for _ in range(20):
        setup.loop.step(0.005)
    assert right.got == [[0]]
    for expected in (2, 3):
        right.conduit.resume()
        setup.until(lambda expected=expected: len(right.got) == expected, "the next has come")
    assert right.reasons == []
    right.conduit.resume()
    setup.until(lambda: right.reasons, "the end has come, after all messages")
    assert right.reasons == ["the peer (10.0.0.7:5) has closed the connection"]


def test_closing_sends_what_was_sent_before(setup: Setup) -> None:
    """And then the other side sees an end that was meant."""
    left, right = setup.pair()
    for number in range(50):
        left.conduit.send([number, b"x" * 100_000])
    left.conduit.close(after_flush=True)
    assert not left.conduit.send(["late"])
    setup.until(lambda: right.reasons, "the end has come")
    assert len(right.got) == 50
    assert right.reasons == ["the peer (10.0.0.7:5) has closed the connection"]
    assert left.reasons == []
    assert not left.conduit.is_open


def test_closing_ends_also_where_the_peer_does_not_read(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a time."""
    monkeypatch.setattr(conduits, "_CLOSE_TIME", 0.1)
    left, right = setup.pair()
    right.conduit.pause()
    for _ in range(20):
        left.conduit.send([b"x" * (1 << 20)])
    left.conduit.close(after_flush=True)
    assert left.conduit.is_open
    setup.until(lambda: not left.conduit.is_open, "it is closed")


def test_a_peer_that_is_killed_is_told_from_one_that_closes(setup: Setup) -> None:
    """A cut connection is no end that was meant; what had come before counts."""
    dialled, accepted = connected()
    right = setup.server(accepted)

    def client() -> None:
        tls = setup.node.context(NODE, server=False).wrap_socket(dialled)
        tls.sendall(frame([1]))
        tls.close()  # without the end that TLS has

    sending = Dialler(client)
    setup.until(lambda: sending.is_done and right.reasons, "it has ended")
    assert right.got == [[1]]
    assert right.reasons == ["the peer (10.0.0.7:5) has closed the connection without saying so: cut off, or killed"]


def test_an_answer_to_a_peer_that_was_cut_off_meanwhile_ends_that_connection_alone(setup: Setup) -> None:
    """It was to be encrypted when the end had been read: the reason is told, and the daemon lives."""
    dialled, accepted = connected()
    right = setup.server(accepted)

    def answer(message: Any) -> None:
        right.conduit.send([*message, b"x" * 100])

    right.conduit._on_message = answer
    hold = threading.Event()

    def client() -> None:
        tls = setup.node.context(NODE, server=False).wrap_socket(dialled)
        hold.wait(20)
        for _ in range(20):
            tls.sendall(frame([1]))
        tls.close()

    sending = Dialler(client)
    setup.until(lambda: right.roles, "the handshake is over")
    hold.set()
    while not sending.is_done:  # all of it is there before any of it is read
        time.sleep(0.001)
    setup.until(lambda: right.reasons, "it has ended")
    assert right.reasons == ["the peer (10.0.0.7:5) has closed the connection without saying so: cut off, or killed"]


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (struct.pack(">I", LARGEST_FRAME + 1), f"a frame of {LARGEST_FRAME + 1} bytes"),
        (b"\xff" * 8, "a frame of 4294967295 bytes"),
        (struct.pack(">I", 1) + b"\xc1", "what is no message"),
        (struct.pack(">I", 3) + b"\x01\x02\x03", "what is no message"),
        (struct.pack(">I", 0), "what is no message"),
        (frame("text"), "not a message"),
        (frame([1])[:-1] + b"\xc7", "what is no message"),
        (struct.pack(">I", 5) + b"\xdd\xff\xff\xff\xff", "what is no message"),
        (struct.pack(">I", 100_000) + b"\x91" * 100_000, "what is no message"),
    ],
)
def test_a_peer_that_sends_what_is_no_message_is_cut_off(setup: Setup, sent: bytes, words: str) -> None:
    """With who and what in the reason; messages before it count."""
    dialled, accepted = connected()
    right = setup.server(accepted)

    def client() -> bytes:
        with setup.node.context(NODE, server=False).wrap_socket(dialled) as tls:
            tls.sendall(frame([1]) + sent)
            return tls.recv(100)

    sending = Dialler(client)
    setup.until(lambda: right.reasons and sending.is_done, "it is cut off")
    assert right.got == [[1]]
    assert right.reasons[0].startswith("the peer (10.0.0.7:5) sent ")
    assert words in right.reasons[0]
    assert sending.error is not None or sending.result == b""


def test_any_frames_are_read_or_refused(setup: Setup) -> None:
    """Whatever an authenticated peer sends, however it is cut: messages, then a reason, and no exception."""
    context = setup.node.context(NODE, server=False)

    @given(
        st.lists(
            st.one_of(
                st.lists(st.one_of(st.integers(0, 99), st.binary(max_size=40), st.text(max_size=9))).map(frame),
                st.binary(max_size=30).map(lambda data: struct.pack(">I", len(data)) + data),
                st.binary(max_size=30),
            ),
            max_size=4,
        ),
        st.integers(1, 50),
    )
    @examples(max_examples=40)
    def check(frames: list[bytes], piece: int) -> None:
        dialled, accepted = connected()
        right = setup.server(accepted)
        data = b"".join(frames)

        def client() -> None:
            try:
                with context.wrap_socket(dialled) as tls:
                    for at in range(0, len(data), piece):
                        tls.sendall(data[at : at + piece])
                    tls.unwrap()
            except OSError:
                pass  # cut off

        sending = Dialler(client)
        setup.until(lambda: right.reasons and sending.is_done, "it has ended")
        assert sending.error is None
        assert len(right.reasons) == 1

    check()


def wrong_peers(setup: Setup) -> dict[str, ssl.SSLContext]:
    """Clients that a bridge must refuse, by what its log says of them."""
    foreign = make_node(setup.foreign)
    return {
        "self-signed certificate in certificate chain": foreign.context(NODE, server=False),
        "certificate has expired": make_context(make_old_identity(setup.node, NODE), server=False),
        "peer did not return a certificate": bare_client(setup.node.authority_pem),
        "unsupported protocol": bare_client(setup.node.authority_pem, ssl.TLSVersion.TLSv1_2),
        "it is process 6464": make_context(setup.node.deployment_identity(b"dd"), server=False),
        "it is deployer ": setup.deployer.context(),
    }


@pytest.mark.parametrize(
    "words",
    [
        "self-signed certificate in certificate chain",
        "certificate has expired",
        "peer did not return a certificate",
        "unsupported protocol",
        "it is process 6464",
        "it is deployer ",
    ],
)
def test_a_peer_of_another_kind_is_refused(setup: Setup, words: str) -> None:
    """Foreign, expired, without a certificate, an older protocol, another role: none of its messages is read."""
    dialled, accepted = connected()
    right = setup.server(accepted, expected="node")
    context = wrong_peers(setup)[words]
    context.verify_mode = ssl.CERT_NONE  # the stranger takes anybody; it is we who must not

    def client() -> bytes:
        with context.wrap_socket(dialled) as tls:
            tls.sendall(frame([1]))
            return tls.recv(100)

    sending = Dialler(client)
    setup.until(lambda: right.reasons and sending.is_done, "it is refused")
    assert words in right.reasons[0]
    assert right.reasons[0].startswith("the peer (10.0.0.7:5) is refused: ")
    assert right.got == []
    assert right.roles == []
    assert sending.error is not None or sending.result == b""


def test_who_dials_looks_as_closely(setup: Setup) -> None:
    """A bridge of a foreign fabric, and a deployer that poses as a bridge."""
    foreign = make_node(setup.foreign)
    for context, words in (
        (foreign.context(BRIDGE, server=True), "self-signed certificate in certificate chain"),
        (make_context(setup.deployer.identity, server=True), "unsuitable certificate purpose"),
    ):
        dialled, accepted = connected()
        context.verify_mode = ssl.CERT_NONE
        left = setup.end(dialled, setup.node.context(NODE, server=False), server=False)
        right = setup.end(accepted, context, server=True)
        left.conduit.send(["secret"])
        setup.until(lambda left=left, right=right: left.reasons and right.reasons, "both have ended")
        assert words in left.reasons[0]
        assert (
            "has refused this side" in right.reasons[0] or "closed" in right.reasons[0] or "ended" in right.reasons[0]
        )
        assert right.got == []


def test_a_refusal_is_told_from_an_end(setup: Setup) -> None:
    """As a TLS 1.3 client one is ready before the other side has looked: its refusal comes as the reason."""
    dialled, accepted = connected()
    left = setup.end(dialled, make_context(make_old_identity(setup.node, NODE), server=False), server=False)
    setup.server(accepted)
    setup.until(lambda: left.reasons, "it is refused")
    assert left.reasons[0].startswith("the peer (10.0.0.7:5) has refused this side: ")
    assert "expired" in left.reasons[0]


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n"])
def test_what_is_no_handshake_is_refused(setup: Setup, said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence or half a hello within the time, anything else at once."""
    monkeypatch.setattr(conduits, "HANDSHAKE_TIME", 0.2)
    dialled, accepted = connected()
    dialled.sendall(said)
    right = setup.server(accepted)
    setup.until(lambda: right.reasons, "it is refused")
    words = "http request" if said.startswith(b"GET") else "handshake took more than"
    assert words in right.reasons[0]
    dialled.close()


def test_a_handshake_that_is_cut_short_ends(setup: Setup) -> None:
    """The peer closes in its middle."""
    dialled, accepted = connected()
    right = setup.server(accepted)
    dialled.sendall(b"\x16\x03\x01\x02\x00\x01")
    dialled.close()
    setup.until(lambda: right.reasons, "it has ended")
    assert right.reasons == ["the peer (10.0.0.7:5) has closed the connection during the handshake"]


def test_the_callee_may_refuse_a_role(setup: Setup) -> None:
    """What it raises is the reason."""
    dialled, accepted = connected()
    right = setup.server(accepted)

    def refuse(role: Role) -> None:
        raise HandshakeError(f"{role} has no business here")

    right.conduit._on_ready = refuse
    setup.end(dialled, setup.node.context(NODE, server=False), server=False)
    setup.until(lambda: right.reasons, "it is refused")
    assert right.reasons == ["the peer (10.0.0.7:5) is refused: node n has no business here"]
