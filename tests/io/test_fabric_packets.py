"""Control connections at the fabric's end."""

from __future__ import annotations

import socket

import msgpack

from constellation.core import messages
from constellation.core.messages import Message, Raised, Ready
from constellation.fabric.loop import Loop
from constellation.fabric.packets import Packets


def test_what_a_process_said_is_read_also_when_it_left_something_unread() -> None:
    """The kernel then reports a reset before the packets that are still there; the certificate needs them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    heard: list[Message] = []
    ends: list[str | None] = []
    loop = Loop()
    connection = Packets(loop, ours, lambda message, _fds: heard.append(message), ends.append)
    connection.send(Ready(1))
    raised = Raised("ValueError", "no luck today")
    theirs.send(msgpack.packb(messages.fields_of(raised)))
    theirs.close()

    connection.drain()
    loop.close()

    assert heard == [raised]
    assert ends == [None]
