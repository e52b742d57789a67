"""All the ways in which a transport makes a link, as node and processes do it, and what the checks do with the two ends."""

from __future__ import annotations

import contextlib
import functools
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

from constellation.core.contracts import DiallingTransport, Link, Listener, RemoteTransport, Transport
from constellation.testing.certificates import Contexts, make_contexts
from constellation.testing.promises import PATIENCE_S, Check, Trial, expect, short
from constellation.testing.streams import MOST_TAKEN, End, carry

Make = Callable[[], Transport]
"""Makes a new transport; called for each side."""

_FILL = 256 << 10


class Way(NamedTuple):
    """One way to make a link."""

    name: str
    connect: Callable[[], tuple[Link, Link]]


def pass_on(fd: int) -> int:
    """What SCM_RIGHTS makes of a descriptor: another number for the same thing. The given one is closed."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(ours, [b"x"], [fd])
        os.close(fd)
        _, fds, _, _ = socket.recv_fds(theirs, 1, 1)
    return fds[0]


def ways(make: Make) -> Iterator[Way]:
    """Give every way that a transport has of making a link."""

    def pair() -> tuple[Link, Link]:
        one, other = make().pair()
        return make().adopt(pass_on(one)), make().adopt(pass_on(other))

    yield Way("pair", pair)
    if not getattr(make(), "remote", False):
        return
    contexts = make_contexts()

    yield Way("open", lambda: open_both(make, *streams(make), contexts, contexts))


def open_both(make: Make, client_fd: int, server_fd: int, client: Contexts, server: Contexts) -> tuple[Link, Link]:
    """Let two processes open the two ends of a stream; takes the descriptors over."""
    one, other = cast("RemoteTransport", make()), cast("RemoteTransport", make())
    return (
        one.open(pass_on(client_fd), server=False, context=client.client),
        other.open(pass_on(server_fd), server=True, context=server.server),
    )


def streams(make: Make) -> tuple[int, int]:
    """A connected stream between two computers: who dialled, who was dialled."""
    node, dialler = make(), make()
    if not hasattr(node, "listen"):
        with socket.create_server(("127.0.0.1", 0)) as door:
            client = socket.create_connection(door.getsockname())
            server, _ = door.accept()
            return client.detach(), server.detach()
    listener = cast("DiallingTransport", node).listen("127.0.0.1:0")
    try:
        return dial_to(listener, cast("DiallingTransport", dialler), PATIENCE_S)
    finally:
        listener.close()


def dial_to(listener: Listener, dialler: DiallingTransport, patience: float) -> tuple[int, int]:
    """Dial a listener and accept: the descriptor of who dialled, and of who was dialled."""
    dialled: list[int | BaseException] = []

    def dial() -> None:
        try:
            dialled.append(dialler.dial(listener.address, patience))
        except BaseException as error:  # raised below
            dialled.append(error)

    thread = threading.Thread(target=dial, daemon=True)
    thread.start()
    accepted = accept_from(listener, patience)
    thread.join(patience)
    expect(
        dialled, f"dial({listener.address!r}) has not returned for {patience:g} s, though accept has given its stream"
    )
    if isinstance(dialled[0], BaseException):
        raise dialled[0]
    return dialled[0], accepted


def accept_from(listener: Listener, patience: float) -> int:
    """Accept the next stream when the listener's descriptor says that there is one."""
    deadline = time.monotonic() + patience
    while True:
        select.select([listener.fileno()], [], [], max(0.0, deadline - time.monotonic()))
        with contextlib.suppress(BlockingIOError):
            fd, address = listener.accept()
            expect(type(fd) is int and isinstance(address, str), f"accept gives {(fd, address)!r}: expected (fd, text)")
            return fd
        expect(time.monotonic() < deadline, f"accept gives nothing for {patience:g} s, though somebody dials")


def on_each_way(body: Callable[[End, End, Trial], None]) -> Check[Transport]:
    """Make a check of what is to hold for the two ends of a link, whichever way it was made. The handshake is done."""

    @functools.wraps(body)
    def function(make: Make, trial: Trial) -> None:
        for way in ways(make):
            trial.progress()
            ends = two_ends(way, trial)
            try:
                exchange(trial, *ends, b"hello")
                body(*ends, trial)
            except AssertionError as error:
                raise AssertionError(f"{way.name}: {error}") from error
            for end in ends:
                end.link.close()

    return Check(function)


def two_ends(way: Way, trial: Trial) -> tuple[End, End]:
    """Make a link; both ends are closed at the end of the trial."""
    one, other = way.connect()
    return End(one, trial, "left"), End(other, trial, "right")


def exchange(trial: Trial, one: End, other: End, data: bytes) -> None:
    """Send bytes both ways, and take them in."""
    for sender, receiver in ((one, other), (other, one)):
        sender.out.append(data)
        arrives(trial, sender, receiver, data)
        receiver.got.clear()


def arrives(trial: Trial, sender: End, receiver: End, data: bytes) -> None:
    """Wait until as many bytes are there, and compare."""
    carry(
        trial,
        sender,
        receiver,
        until=lambda: len(receiver.got) >= len(data) or receiver.end is not None or sender.broken is not None,
        why=f"{len(data)} bytes were sent and do not arrive",
    )
    if sender.broken is not None:
        raise AssertionError(f"{sender.name}: sending raised {type(sender.broken).__name__}: {sender.broken}")
    compare(receiver, data)


def compare(receiver: End, data: bytes) -> None:
    """Fail unless an end has got exactly these bytes; says which is the first other one."""
    got = bytes(receiver.got)
    if got == data:
        return
    at = next((index for index, pair in enumerate(zip(got, data, strict=False)) if pair[0] != pair[1]), None)
    if at is None:
        ended = f", then {receiver.end}" if receiver.end else ""
        raise AssertionError(f"{receiver.name} got {len(got)} bytes{ended}: expected {len(data)}")
    raise AssertionError(
        f"{receiver.name} got {short(got[at : at + 8])} at byte {at} of {len(data)}: expected {short(data[at : at + 8])}"
    )


def cut(trial: Trial, data: bytes, largest: int) -> list[bytes | bytearray | memoryview]:
    """Cut bytes into buffers of all kinds, some empty."""
    buffers: list[bytes | bytearray | memoryview] = []
    at = 0
    while at < len(data):
        size = trial.chance.randrange(1, largest)
        part = data[at : at + size]
        kind = trial.chance.randrange(4)
        buffers.append((part, bytearray(part), memoryview(part), memoryview(bytearray(part)))[kind])
        if buffers[-1:] and trial.chance.random() < 0.05 and at:
            buffers.append(b"")
        at += size
    return buffers


def fill(trial: Trial, end: End) -> None:
    """Send until there is no room."""
    while end.sent <= MOST_TAKEN:
        if not end.out:
            end.out.append(trial.chance.randbytes(_FILL))
        if not end.write():
            return
        expect(end.broken is None, f"sending raised {end.broken!r} while nobody read: expected BlockingIOError")
    raise AssertionError(
        f"it has taken {end.sent} bytes that nobody read: expected BlockingIOError before {MOST_TAKEN}"
    )


def ready(fd: int, wanted: int, wait: float) -> int:
    """Say what epoll tells of a descriptor within ``wait`` seconds, as a mask; 0: nothing."""
    with select.epoll() as poll:
        poll.register(fd, wanted)
        events = poll.poll(wait)
    return events[0][1] if events else 0
