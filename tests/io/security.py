"""What the tests of credentials, front doors, conduits and encrypted links share."""

from __future__ import annotations

import datetime as dt
import os
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from constellation.core.address import Address
from constellation.core.preamble import KEY_BYTES, Preamble, Purpose, pack
from constellation.core.role import Identity, Role
from constellation.fabric import credential as credentials
from constellation.fabric.authority import Authority
from constellation.fabric.credential import NodeCredential
from constellation.fabric.loop import Loop

PATIENCE_S = 20.0
"""How long something may take that takes milliseconds."""


def make_node(folder: Path) -> NodeCredential:
    """Make a fabric's credentials in a folder and give the node's."""
    credentials.keygen(str(folder))
    return credentials.load_node(str(folder / "node.pem"), is_loopback=False)


def make_old_identity(node: NodeCredential, role: Role) -> Identity:
    """A certificate of the fabric's authority that has expired a minute ago."""
    now = dt.datetime.now(dt.UTC)
    return node._authority.sign(role, now - dt.timedelta(days=2), now - dt.timedelta(minutes=1)).identity


def make_old_authority(days: int) -> tuple[str, str]:
    """Certificate and key of an authority that was made so long ago."""
    authority = Authority.new(dt.datetime.now(dt.UTC) - dt.timedelta(days=days))
    return authority.certificate_pem, authority.key_pem


def make_keys() -> dict[Purpose, bytes]:
    """Keys of preambles, random."""
    return {purpose: secrets.token_bytes(KEY_BYTES) for purpose in Purpose}


def make_preamble(keys: dict[Purpose, bytes], purpose: Purpose = Purpose.LINK, *, age: float = 0.0) -> bytes:
    """A right preamble, made so many seconds ago."""
    return pack(Preamble(purpose, os.urandom(16), time.time() - age), keys[purpose])


def connected(listener: socket.socket | None = None) -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection over loopback: who dialled, who accepted."""
    own = listener or socket.create_server(("127.0.0.1", 0))
    dialled = socket.create_connection(own.getsockname()[:2], timeout=PATIENCE_S)
    accepted = own.accept()[0]
    if listener is None:
        own.close()
    return dialled, accepted


def run_until(loop: Loop, done: Callable[[], Any], what: str) -> None:
    """Run the loop until something holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, f"it did not come to this: {what}"
        loop.step(0.02)


class Dialler:
    """A blocking client in a thread of its own, for a loop that runs in the test's."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:  # looked at by the test
            self.error = error

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()


def bare_client(authority_pem: str, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A client of somebody who has no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = version
    context.check_hostname = False
    context.load_verify_locations(cadata=authority_pem)
    return context


@contextmanager
def closing(*things: Any) -> Iterator[None]:
    """Close what was made, the last first."""
    try:
        yield
    finally:
        for thing in reversed(things):
            thing.close()


def address_of(sock: socket.socket) -> str:
    """A socket's own address, as the other side's log names it."""
    return str(Address.of(sock.getsockname()))
