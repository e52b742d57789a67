"""Noticing that a computer has gone without a word, as a laptop that is closed does."""

from __future__ import annotations

import socket
from typing import Final

# It is noticed after 25 s.
_OPTIONS: Final = (
    ((socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 10),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPINTVL), 5),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPCNT), 3),
)


def prepare(sock: socket.socket) -> None:
    """Set a connected socket up for a long connection between computers: nothing waits, and a peer that has gone shows.

    A socket of another family, as plugins give, stays as it is.
    """
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option, value in _OPTIONS:
            sock.setsockopt(*option, value)
