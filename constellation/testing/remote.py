"""The promises of links to other computers, and of transports that listen and dial themselves."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
import time
from typing import cast

from constellation.core.contracts import DiallingTransport, Listener, Transport
from constellation.testing.certificates import Contexts, make_contexts
from constellation.testing.leaks import left, look
from constellation.testing.promises import Check, Trial, expect
from constellation.testing.streams import End, carry
from constellation.testing.ways import Make, dial_to, exchange, open_both, streams


@Check[Transport]
def encrypts(make: Make, trial: Trial) -> None:
    """Not a byte of what is sent can be read on the way."""
    if not getattr(make(), "remote", False):
        return
    seen = bytearray()
    client_fd, server_fd = streams(make)
    middle = [socket.socketpair(), socket.socketpair()]
    spy = threading.Thread(
        target=_relay, args=(middle[0][1], middle[1][1], seen), daemon=True, name="constellation.testing spy"
    )
    os.close(client_fd)
    os.close(server_fd)
    spy.start()
    contexts = make_contexts()
    one, other = open_both(make, middle[0][0].detach(), middle[1][0].detach(), contexts, contexts)
    ends = End(one, trial, "left"), End(other, trial, "right")
    secret = b"what nobody on the way may read " * 200
    exchange(trial, *ends, secret)
    for end in ends:
        end.link.close()
    spy.join(trial.patience / 2)
    expect(
        len(seen) >= 2 * len(secret),
        f"{len(seen)} bytes went over the stream that open was given: expected the traffic",
    )
    expect(secret[:32] not in seen, "what was sent stands readable on the stream")


def _relay(one: socket.socket, other: socket.socket, seen: bytearray) -> None:
    """Carry bytes both ways until both sides have ended, and keep them."""
    ways = {one: other, other: one}
    with one, other:
        while ways:
            for sock in select.select(list(ways), [], [])[0]:
                try:
                    data = sock.recv(1 << 16)
                    seen += data
                    if data:
                        ways[sock].sendall(data)
                        continue
                except OSError:
                    data = b""
                with contextlib.suppress(OSError):
                    ways.pop(sock).shutdown(socket.SHUT_WR)


@Check[Transport]
def refuses_strangers(make: Make, trial: Trial) -> None:
    """Nothing of a side that the context does not accept is given out of reading; both sides see the end."""
    if not getattr(make(), "remote", False):
        return
    ours, theirs = make_contexts(), make_contexts()
    for stranger in ("client", "server"):
        client, server = (theirs, ours) if stranger == "client" else (ours, theirs)
        # The stranger accepts anybody; it is we who must not.
        loose = Contexts(*map(_accepting_all, client if stranger == "client" else server))
        client, server = (loose, server) if stranger == "client" else (client, loose)
        one, other = open_both(make, *streams(make), client, server)
        ends = End(one, trial, "client"), End(other, trial, "server")
        ends[0].out, ends[1].out = [b"from the client"], [b"from the server"]
        honest = ends[1] if stranger == "client" else ends[0]
        carry(
            trial,
            *ends,
            until=lambda: honest.end is not None or bool(honest.got),  # noqa: B023  # used in the round
            why=f"the {stranger} has a certificate of a foreign authority, and the link does not end",
        )
        expect(not honest.got, f"{bytes(honest.got)!r} was read from a {stranger} that the context does not accept")
        for end in ends:
            end.link.close()


def _accepting_all(context: ssl.SSLContext) -> ssl.SSLContext:
    context.verify_mode = ssl.CERT_NONE
    return context


@Check[Transport]
def listens_and_dials(make: Make, trial: Trial) -> None:
    """Who dials the address of a listener is given by its `accept`, and bytes go both ways between the two descriptors."""
    if not hasattr(make(), "listen"):
        return
    transport = cast("DiallingTransport", make())
    before = look()
    listener = transport.listen("127.0.0.1:0")
    trial.at_end(listener.close)
    expect(isinstance(listener.address, str), f"address of the listener is {listener.address!r}: expected text")
    try:
        listener.accept()
    except BlockingIOError:
        trial.progress()
    else:
        raise AssertionError("accept gives something though nobody dials: expected BlockingIOError")
    for _ in range(3):
        dialled, accepted = dial_to(listener, cast("DiallingTransport", make()), trial.patience / 2)
        trial.progress()
        with socket.socket(fileno=dialled) as one, socket.socket(fileno=accepted) as other:
            for sender, receiver in ((one, other), (other, one)):
                data = trial.chance.randbytes(300_000)
                sender.setblocking(True)
                receiver.settimeout(trial.patience / 2)
                thread = threading.Thread(target=sender.sendall, args=(data,), daemon=True)
                thread.start()
                got = bytearray()
                while len(got) < len(data):
                    part = receiver.recv(1 << 16)
                    expect(part, f"the stream ended after {len(got)} of {len(data)} bytes")
                    got += part
                    trial.progress()
                thread.join()
                expect(bytes(got) == data, "bytes changed between dial and accept")
            one.close()
            expect(other.recv(1) == b"", "one side of a dialled stream has closed, and the other does not see the end")
    listener.close()
    listener.close()
    lines = left(before, trial.patience / 2)
    expect(not lines, f"after the listener and its streams were closed there is left: {'; '.join(lines[:4])}")


@Check[Transport]
def dialling_ends(make: Make, trial: Trial) -> None:
    """`dial` raises OSError where nobody listens, and where nobody answers within the time."""
    if not hasattr(make(), "dial"):
        return
    transport = cast("DiallingTransport", make())
    listener = transport.listen("127.0.0.1:0")
    address = listener.address
    listener.close()
    for why in ("nobody listens", "who listens has closed"):
        try:
            fd = transport.dial(address, trial.patience / 4)
        except OSError:
            trial.progress()
            continue
        os.close(fd)
        raise AssertionError(f"dial gives a descriptor where {why}: expected OSError")


@Check[Transport]
def strangers_hold_nobody_up(make: Make, trial: Trial) -> None:
    """Who connects to a listener and is silent, leaves or talks nonsense, keeps nobody else out."""
    if not hasattr(make(), "listen"):
        return
    transport = cast("DiallingTransport", make())
    listener = transport.listen("127.0.0.1:0")
    trial.at_end(listener.close)
    place = _place_of(listener)
    if place is not None:
        strangers = [socket.create_connection(place) for _ in range(3)]
        strangers[1].sendall(trial.chance.randbytes(2000))
        strangers[2].close()
        for stranger in strangers:
            trial.at_end(stranger.close)
    if not hasattr(transport, "listen"):
        return
    dialled = _dial_past(listener, cast("DiallingTransport", make()), trial)
    for fd in dialled:
        os.close(fd)


def _place_of(listener: Listener) -> tuple[str, int] | None:
    """Host and port of a listener, out of its address in whatever form; None where it has none."""
    rest = listener.address.rpartition("//")[2].partition("/")[0]
    host, _, port = rest.rpartition(":")
    return (host.strip("[]") or "127.0.0.1", int(port)) if port.isdigit() else None


def _dial_past(listener: Listener, dialler: DiallingTransport, trial: Trial) -> list[int]:
    """Accept until the dialled stream is there: by what is said on it, for a plain door lets strangers in, too."""
    dialled: list[int | BaseException] = []

    def dial() -> None:
        try:
            fd = dialler.dial(listener.address, trial.patience / 2)
            os.write(fd, b"it is me")
            dialled.append(fd)
        except BaseException as error:  # raised below
            dialled.append(error)

    thread = threading.Thread(target=dial, daemon=True)
    thread.start()
    fds: list[int] = []
    deadline = time.monotonic() + trial.patience / 2
    try:
        while time.monotonic() < deadline:
            if select.select([listener.fileno()], [], [], 0.02)[0]:
                with contextlib.suppress(BlockingIOError):
                    fds.append(listener.accept()[0])
            trial.progress()
            if dialled and isinstance(dialled[0], BaseException):
                raise dialled[0]
            for fd in fds:
                with socket.socket(fileno=os.dup(fd)) as sock, contextlib.suppress(BlockingIOError, ConnectionError):
                    if sock.recv(8, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"it is me" and dialled:
                        return [*fds, *[fd for fd in dialled if isinstance(fd, int)]]
        raise AssertionError("somebody dials beside strangers, and accept does not give the stream")
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


REMOTE_CHECKS: tuple[Check[Transport], ...] = (
    encrypts,
    refuses_strangers,
    listens_and_dials,
    dialling_ends,
    strangers_hold_nobody_up,
)
"""Part of `constellation.testing.TRANSPORT_CHECKS`; nothing is asked of a transport for one computer only."""
