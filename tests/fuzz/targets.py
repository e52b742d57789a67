"""What is fuzzed: everything that reads bytes or values that somebody else has made, and what it may raise.

A target draws an input and checks it; whatever it lets out but its own refusals is a fault. `tests/fuzz/test_fuzz.py` gives
each some hundred inputs, the same every time; `python -m tests.fuzz` goes on with others for as long as it is told to.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import msgpack
from hypothesis import strategies as st

from constellation.core import draining, framing, handshake, messages, preamble, resources, why
from constellation.core.address import parse_address
from constellation.core.door import DOOR, Description, doors_in, is_meant, program_in
from constellation.core.errors import ChannelError, HandshakeError, SerializationError, UsageError
from constellation.core.framing import Decoder, FrameError
from constellation.core.nodesfile import NodesFileError
from constellation.core.nodesfile import read as read_nodes
from constellation.core.pid import Pid
from constellation.core.preamble import Purpose
from constellation.core.resources import Resources
from constellation.core.status import ExitStatus
from constellation.fabric.books import Member
from constellation.fabric.coordinator import Coordinator
from constellation.fabric.door import Door
from constellation.fabric.loop import Loop
from constellation.fabric.master import Master
from constellation.process.reactor import EPOLLIN
from constellation.schedulers.bin_packing import BinPacking
from constellation.serializers.msgpack import MsgpackSerializer
from tests.unit.process.pairs import Pair


class Target(NamedTuple):
    """One thing that is fuzzed."""

    name: str
    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], None]
    """Raises for what is a fault."""


# Inputs


@st.composite
def spoiled(draw: st.DrawFn, right: st.SearchStrategy[bytes]) -> bytes:
    """Bytes that were right, with a few changes: what random bytes never come to look like."""
    data = bytearray(draw(right))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        how = draw(st.integers(0, 3))
        if how == 0 and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif how == 1:
            data[at:at] = draw(st.binary(min_size=1, max_size=6))
        elif how == 2:
            del data[at : at + draw(st.integers(1, 6))]
        else:
            del data[at:]
    return bytes(data)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=6)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=15,
)
_PIDS = [Pid(1, number, bytes([number]) * 16).to_bytes() for number in range(1, 6)]
pids = st.sampled_from(_PIDS) | st.binary(max_size=40)
demands = st.builds(
    lambda mem, cpu: Resources.exact(mem, cpu).to_fields(), st.integers(0, 2**40), st.integers(0, 10**7)
) | st.lists(plain, max_size=4)
_BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "pid": pids,
    "peer": pids,
    "parent": pids,
    "resources": demands,
    "name": st.sampled_from(["", "db", "x" * 5000, "\0"]) | st.text(max_size=9),
    "waits": st.lists(
        st.tuples(st.text(max_size=3), st.text(max_size=3), st.floats(), plain | pids).map(list) | plain, max_size=3
    ),
    "channels": st.lists(st.tuples(st.text(max_size=3), pids, st.integers()).map(list) | plain, max_size=3),
}
_BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(-(2**63), 2**64 - 1) | st.integers(0, 5),
    "str": st.text(max_size=8),
    "bytes": st.binary(max_size=40),
    "bool": st.booleans(),
    "float": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 5),
    "list[Any]": st.lists(plain, max_size=4),
    "int | None": st.none() | st.integers(),
    "list[Any] | None": st.none() | st.lists(plain, max_size=3),
}


def records(schema: Any, kinds: tuple[type[Any], ...]) -> st.SearchStrategy[Any]:
    """Messages that fit their schema, and say anything."""
    return st.sampled_from(kinds).flatmap(
        lambda kind: st.tuples(
            *(
                _BY_NAME.get(name)
                if name in _BY_NAME and "list" not in str(annotation)
                else _BY_TYPE[_written(annotation)]
                for name, annotation in kind.__annotations__.items()
            )
        ).map(kind._make)
    )


def _written(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else str(annotation.__forward_arg__)


def encoded(schema: Any) -> st.SearchStrategy[bytes]:
    """Packets of a schema."""
    return records(schema, schema.kinds).map(lambda message: _pack(schema.fields_of(message)))


def _pack(value: Any) -> bytes:
    try:
        packed: bytes = msgpack.packb(value)
    except (OverflowError, UnicodeEncodeError):
        packed = b"\xc0"
    return packed


frames = st.lists(
    st.tuples(st.integers(0, framing.LAST_KIND), st.integers(0, 3), st.binary(max_size=60)), max_size=8
).map(lambda several: b"".join(framing.encode_frame(*frame) for frame in several))
openings = st.builds(
    framing.encode_open, st.integers(0, 3), st.integers(0, 3), st.text(max_size=5), st.text(max_size=5)
)
layouts = st.builds(
    framing.encode_parts,
    st.integers(0, 3),
    st.integers(0, 4),
    st.lists(st.integers(0, 300) | st.integers(0, 2**63), max_size=4),
)
wire_bytes = st.lists(spoiled(frames) | spoiled(openings) | spoiled(layouts), max_size=5).map(b"".join)


# Checks


def check_decoder(data: bytes) -> None:
    """However the bytes are cut, the same frames or the same refusal."""
    try:
        whole: Any = Decoder().feed(data)
    except FrameError:
        whole = FrameError
    slow, found = Decoder(), []
    try:
        for at in range(len(data)):
            found += slow.feed(data[at : at + 1])
    except FrameError:
        assert whole is FrameError
    else:
        assert found == whole


def check_payload(data: bytes) -> None:
    """The readers of payloads."""
    for read in (framing.read_open, framing.read_parts, framing.read_counts, framing.read_wanted, handshake.read):
        try:
            read(data)
        except FrameError as error:
            assert str(error)


def check_wire(data: bytes) -> None:
    """A real wire under a peer: the link goes on or ends with a reason."""
    pair = Pair()
    peer = pair.peers[0]
    peer.receiving("").post()
    peer.sending("").prepare()
    pair.settle()
    for wire in list(pair.processes[0].reactor.handlers.values()):
        wire.link.into.data += framing.encode_open(1, 0, "", "") + data
        wire.link.into.is_ended = True
        for _ in range(200):
            if wire.link is None:
                break
            wire.on_ready(EPOLLIN)
        assert wire.link is None
    assert isinstance(peer.gone, (ChannelError, HandshakeError, type(None)))


def check_control(packet: bytes) -> None:
    """A packet on a control connection, and what its readers make of its fields."""
    try:
        message = messages.read(msgpack.unpackb(packet))
    except (ValueError, TypeError, msgpack.UnpackException):
        return
    assert msgpack.unpackb(msgpack.packb(messages.fields_of(message))) is not None
    for field in message:
        if isinstance(field, list):
            for read in (why.from_fields, draining.from_fields, ExitStatus.from_fields, Resources.from_fields):
                _refused_at_most(read, field)
        elif isinstance(field, bytes):
            _refused_at_most(Pid.from_bytes, field)


def _refused_at_most(read: Callable[[Any], object], value: Any) -> None:
    try:
        read(value)
    except ValueError as error:
        assert str(error)


class _Silent:
    """A computer and a bridge that do nothing."""

    id, name = 1, "local"

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_arguments, **_named: None


def check_coordinator(several: list[tuple[int, Any]]) -> None:
    """Messages that fit their schema and say anything, from several processes in turn."""
    loop = Loop()
    silent: Any = _Silent()
    try:
        master = Master(BinPacking(), Resources.exact(1 << 30, 4_000_000), 1, "local", lambda: silent)
        coordinator = Coordinator(loop, master, silent, 5.0, lambda: None, lambda _line: None)
        first = Member(1, Pid.from_bytes(_PIDS[0]), None, "f", Resources.exact(1 << 20, 1), None, None, silent)
        coordinator.begin(first)
        for number in (2, 3):
            member = Member(
                number, Pid.from_bytes(_PIDS[number - 1]), first.pid, "f", Resources.exact(0, 0), None, None, silent
            )
            coordinator._living[member.key] = member
        for who, message in several:
            _refused_at_most(partial(_say, coordinator, who), message)
        master.placement.check()
        for key in [member.key for member in coordinator.living]:
            coordinator.began(key, 1, is_running=True)
            coordinator.ended(key, ExitStatus(Pid.from_bytes(key), 0, None), counts=True)
        assert coordinator.count == 0
        master.placement.check()
    finally:
        loop.close()


def _say(coordinator: Coordinator, who: int, message: Any) -> None:
    coordinator.said(_PIDS[who], message, [])


_FROM_PROCESSES: tuple[type[Any], ...] = (
    messages.Spawn, messages.Connect, messages.Watch, messages.Kill, messages.Cancel, messages.Waiting, messages.Draining,
    messages.LongWaits, messages.Register, messages.Unregister, messages.Whereis, messages.Tie, messages.Untie, messages.Close,
)  # fmt: skip


class _Host:
    """Answers at a door."""

    def describe(self, os_pid: int) -> Description:
        return Description(1, "00", [], "", 0.0, 1, False)

    def explain_waits(self) -> list[str]:
        return ["a line"]


def check_door(packets: list[bytes]) -> None:
    """A real door on a real loop: whoever sends such packets is answered or sent away, and the next one is served."""
    loop = Loop()
    door = Door(loop, _Host(), 1)
    try:
        name = door._socket.getsockname()
        for packet in packets:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as guest:
                guest.connect(name)
                guest.send(packet)
                for _ in range(4):
                    loop.step(0)
            for _ in range(4):
                loop.step(0)
        assert not door._guests
    finally:
        door.close()
        loop.close()


def check_msgpack(data: bytes) -> None:
    """Foreign bytes to the serializer that calls itself safe; what it reads it writes again."""
    serializer = MsgpackSerializer()
    try:
        value = serializer.decode([data])
    except SerializationError:
        return
    assert serializer.decode(serializer.encode(value)) is not NotImplemented


def check_text(text: str) -> None:
    """What people write: amounts, addresses, names of programs, tables of nodes, the kernel's table of sockets."""
    for read in (resources.parse_mem, parse_address, lambda line: Resources(mem=line)):
        try:
            read(text)
        except UsageError as error:
            assert str(error)
    try:
        read_nodes(text, "nodes.toml")
    except NodesFileError as error:
        assert str(error)
    assert isinstance(program_in(text.split(" ")), str)
    assert isinstance(doors_in(text.splitlines(), 1000), list)
    is_meant(Description(1, "00" * 16, text.split(" "), text, 0.0, 1, False), text)


def check_preamble(data: bytes) -> None:
    """The first bytes of whoever dials a daemon."""
    try:
        preamble.unpack(data, dict.fromkeys(Purpose, bytes(32)))
    except HandshakeError as error:
        assert str(error)


def _a_preamble(purpose: Purpose, nonce: bytes, number: int) -> bytes:
    return preamble.pack(preamble.Preamble(purpose, nonce, 1.5, number=number), bytes(32))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=10,
)
nodes_files = st.lists(
    st.sampled_from(
        [
            "[[node]]",
            'address = "a:1"',
            "mem = 5",
            "[nodes]",
            'name = "x"',
            "labels = {a = 1}",
            "cpu = -1",
            "x = [1,",
            '"',
        ]
    ),
    max_size=8,
).map("\n".join)
texts = (
    st.text(max_size=40)
    | st.from_regex(r"\A[0-9.]{0,9} ?[KMGTkmgt]?i?[Bb]?\Z")
    | st.from_regex(r"\A\[?[0-9a-f:.]{0,20}\]?:?[0-9]{0,6}\Z")
    | nodes_files
)

TARGETS = [
    Target("framing: decoder", st.binary(max_size=60) | spoiled(frames), check_decoder),
    Target(
        "framing: payloads",
        st.binary(max_size=80) | spoiled(openings | layouts).map(lambda data: data[9:]),
        check_payload,
    ),
    Target("wire: a peer", wire_bytes | st.binary(max_size=100), check_wire),
    Target(
        "control: packets",
        spoiled(encoded(messages.CONTROL)) | plain.map(_pack) | st.binary(max_size=60),
        check_control,
    ),
    Target(
        "control: a process to the coordinator",
        st.lists(st.tuples(st.integers(0, 3), records(messages.CONTROL, _FROM_PROCESSES)), max_size=12),
        check_coordinator,
    ),
    Target(
        "door: packets",
        st.lists((spoiled(encoded(DOOR)) | plain.map(_pack)).filter(bool), min_size=1, max_size=4),
        check_door,
    ),
    Target(
        "serializer: msgpack",
        st.binary(max_size=60)
        | spoiled(values.map(lambda value: b"".join(map(bytes, MsgpackSerializer().encode(value))))),
        check_msgpack,
    ),
    Target("text", texts, check_text),
    Target(
        "preamble",
        st.binary(max_size=200)
        | spoiled(
            st.builds(_a_preamble, st.sampled_from(Purpose), st.binary(min_size=16, max_size=16), st.integers(0, 9))
        ),
        check_preamble,
    ),
]
