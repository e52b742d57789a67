"""Real daemons against those who do not belong there: each is closed, and logged with its address and why."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from constellation.core.address import parse_address
from constellation.core.preamble import WINDOW, Preamble, Purpose, pack
from constellation.core.role import Role
from constellation.fabric.credential import NodeCredential, keygen, load_deployer, load_node, make_context
from tests.conftest import Leftovers
from tests.io.cluster import Cluster, cluster
from tests.io.security import bare_client, make_keys, make_old_identity, make_preamble

PATIENCE_S = 20.0


class Stranger(NamedTuple):
    """Somebody who dials a daemon."""

    words: str
    """What the daemon's log says of it."""
    preamble: bytes
    tls: ssl.SSLContext | None = None
    """With what it goes on; None: with nothing."""
    at_bridge: bool = False


@pytest.fixture
def one(tmp_path: Path, leftovers: Leftovers) -> Iterator[Cluster]:
    """A master with its bridge, which can run a program."""
    with cluster(tmp_path, leftovers, nodes=1) as made:
        made.wait_for_nodes()
        assert made.deploy("from constellation import init\ninit()\nprint('here')").returncode == 0
        yield made


def strangers(node: NodeCredential, folder: Path) -> list[Stranger]:
    """All kinds of them."""
    keygen(str(folder))
    foreign = load_node(str(folder / "node.pem"), is_loopback=False)
    deployer = load_deployer(os.path.join(os.path.dirname(node.path), "deployer.pem"), is_loopback=False)
    keys = dict(node.preamble_keys)

    def daemon(age: float = 0.0) -> bytes:
        return make_preamble(keys, Purpose.DAEMON, age=age)

    recorded, deploying = daemon(), make_preamble(keys, Purpose.DEPLOY)
    as_daemon = pack(Preamble(Purpose.DAEMON, os.urandom(16), time.time()), deployer.preamble_keys[Purpose.DEPLOY])
    a = Role("node", "a")
    every = [
        Stranger("does not speak our protocol: it began with b'GET / HT'", b"GET / HTTP/1.1\r\n\r\n"),
        Stranger("does not speak our protocol", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)),
        Stranger("its proof is wrong", make_preamble(make_keys(), Purpose.DAEMON)),
        Stranger("its proof is wrong", as_daemon),
        Stranger("its clock is", daemon(age=WINDOW + 60)),
        Stranger("closed the connection during the handshake", recorded),
        Stranger("used before", recorded),
        Stranger("closed after 100 bytes of a preamble", daemon()[:100]),
        Stranger("unsupported protocol", daemon(), bare_client(node.authority_pem, ssl.TLSVersion.TLSv1_2)),
        Stranger("did not return a certificate", daemon(), bare_client(node.authority_pem)),
        Stranger("self-signed certificate", daemon(), foreign.context(a, server=False)),
        Stranger("has expired", daemon(), make_context(make_old_identity(node, a), server=False)),
        Stranger("it is deployer", daemon(), deployer.context()),
        Stranger("it is process", daemon(), make_context(node.deployment_identity(b"d" * 16), server=False)),
        Stranger("no process of that name", make_preamble(keys, Purpose.LINK)),
        Stranger("served here are 2", daemon(), at_bridge=True),
        Stranger("does not speak our protocol", b"SSH-2.0-OpenSSH_9.2\r\n", at_bridge=True),
        Stranger("it is node a", deploying, node.context(a, server=False), at_bridge=True),
        Stranger(
            "it is process",
            make_preamble(keys, Purpose.DEPLOY),
            make_context(node.deployment_identity(b"d" * 16), server=False),
            at_bridge=True,
        ),
        Stranger(
            "self-signed certificate",
            make_preamble(keys, Purpose.DEPLOY),
            make_context(load_deployer(str(folder / "deployer.pem"), is_loopback=False).identity, server=False),
            at_bridge=True,
        ),
    ]
    for each in every:
        if each.tls is not None:
            each.tls.verify_mode = ssl.CERT_NONE  # the stranger takes anybody
    return every


def test_each_is_closed_and_logged_and_the_fabric_goes_on(one: Cluster, tmp_path: Path) -> None:
    """No proof, a proof of somebody else, old, used, cut short; without TLS, with an old one, with the wrong certificate."""
    config = Path(one.environment["XDG_CONFIG_HOME"], "constellation")
    node = load_node(str(config / "node.pem"), is_loopback=False)
    for number, stranger in enumerate(strangers(node, tmp_path / "foreign")):
        # Each from an address of its own, for of one the log has a line only now and then.
        source = f"127.0.7.{number + 1}"
        target = parse_address(one.bridge if stranger.at_bridge else one.addresses[0])
        with socket.socket() as sock:
            sock.settimeout(PATIENCE_S)
            sock.bind((source, 0))
            sock.connect(target[:2])
            said = _visit(sock, stranger)
        # Who has made the proof and then speaks no TLS may get an alert of TLS; all others a close.
        assert said == b"" or (said[:1] == b"\x15" and "handshake" in stranger.words), stranger.words
        _wait(lambda: [line for line in one.log("n1").splitlines() if f"{source}:" in line], stranger.words)  # noqa: B023
        line = next(line for line in one.log("n1").splitlines() if f"{source}:" in line)
        assert stranger.words in line
    done = one.deploy("from constellation import init\ninit()\nprint('still here')")
    assert "still here" in done.stdout
    assert done.returncode == 0


def _visit(sock: socket.socket, stranger: Stranger) -> bytes:
    """Do what the stranger does; give what it is told, beside the alerts of TLS."""
    try:
        sock.sendall(stranger.preamble)
        if stranger.tls is None:
            sock.shutdown(socket.SHUT_WR)
            return sock.recv(100)
        with stranger.tls.wrap_socket(sock) as tls:
            tls.sendall(b"\0\0\0\x02\x91\x01")
            return tls.recv(100)
    except OSError:
        return b""


def _wait(done: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, f"the log does not say: {what}"
        time.sleep(0.02)
