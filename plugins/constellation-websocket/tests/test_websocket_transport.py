"""The transport keeps the contract, directly and through nginx, and what is no peer of ours gets nowhere."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from constellation_websocket import Settings, WebSocketTransport, register_options, register_transports
from constellation_websocket.address import read
from constellation_websocket.relay import MOST_GREETING
from constellation_websocket.stream import SUBPROTOCOL
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from constellation.plugin import Listener
from constellation.testing import TRANSPORT_CHECKS, Check, check_transport, nothing_left

PATIENCE_S = 20.0
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian's package nginx-light)")


class Certificate(NamedTuple):
    """A certificate for this computer that certifies itself."""

    file: str
    key: str


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """For 127.0.0.1, good for a day."""
    folder = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "constellation-websocket tests")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    return Certificate(str(folder / "cert.pem"), str(folder / "key.pem"))


class Nginx(NamedTuple):
    """A reverse proxy: what comes to `plain` or `secure` goes to the listener at `upstream`."""

    plain: int
    secure: int
    upstream: int
    ca: str


CONFIGURATION = """
daemon off;
worker_processes 1;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{plain};
        listen 127.0.0.1:{secure} ssl;
        ssl_certificate {certificate.file};
        ssl_certificate_key {certificate.key};
        location = /constellation {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_read_timeout {idle};
            proxy_send_timeout {idle};
        }}
        location / {{ return 200 "a web site\\n"; }}
    }}
}}
"""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at now."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in socks]


@contextlib.contextmanager
def run_nginx(folder: Path, certificate: Certificate, idle: str) -> Iterator[Nginx]:
    """Run one, and end it."""
    plain, secure, upstream = free_ports(3)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        CONFIGURATION.format(
            folder=folder,
            user=user,
            plain=plain,
            secure=secure,
            upstream=upstream,
            certificate=certificate,
            idle=idle,
        )
    )
    assert NGINX is not None
    process = subprocess.Popen([NGINX, "-p", str(folder), "-e", str(folder / "error.log"), "-c", "nginx.conf"])
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", secure)).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "error.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.01)
        yield Nginx(plain, secure, upstream, certificate.file)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Nginx]:
    """One that lets connections be idle."""
    with run_nginx(tmp_path_factory.mktemp("nginx"), certificate, "60s") as running:
        yield running


class Proxied(WebSocketTransport):
    """Listens behind a proxy, and says that it is to be dialled at it."""

    def __init__(self, proxy: Nginx, url: str, ping_s: float = 20.0) -> None:
        super().__init__(Settings(ca=proxy.ca, ping_s=ping_s))
        self._proxy, self._url = proxy, url

    def listen(self, address: str) -> Listener:
        """At the proxy's upstream, whatever was asked for."""
        listener = super().listen(f"127.0.0.1:{self._proxy.upstream}")
        listener.address = self._url
        return listener


# -- The contract ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=str)
def test_transport_keeps_the_contract(check: Check[WebSocketTransport]) -> None:
    """Each check of the public suite, from process to process."""
    check(WebSocketTransport)


@pytest.mark.slow
def test_transport_that_speaks_tls_itself_keeps_the_contract(certificate: Certificate) -> None:
    """With a certificate of its own the listener is a wss:// server."""
    settings = Settings(ca=certificate.file, certificate=certificate.file, key=certificate.key)
    listener = WebSocketTransport(settings).listen("127.0.0.1:0")
    assert listener.address.startswith("wss://127.0.0.1:")
    listener.close()
    check_transport(lambda: WebSocketTransport(settings))


@pytest.mark.slow
@needs_nginx
def test_contract_holds_through_a_reverse_proxy(nginx: Nginx) -> None:
    """All of the suite through nginx."""
    check_transport(lambda: Proxied(nginx, f"ws://127.0.0.1:{nginx.plain}/constellation"))


@needs_nginx
def test_contract_holds_through_a_reverse_proxy_with_tls(nginx: Nginx) -> None:
    """All of the suite through nginx that speaks TLS to the outside."""
    check_transport(lambda: Proxied(nginx, f"wss://127.0.0.1:{nginx.secure}"))


def connect(transport: WebSocketTransport) -> tuple[socket.socket, socket.socket]:
    """The two plain ends of a connection."""
    listener = transport.listen("127.0.0.1:0")
    try:
        one = socket.socket(fileno=transport.dial(listener.address, PATIENCE_S))
        other = accepted(listener)
    finally:
        listener.close()
    for end in (one, other):
        end.settimeout(PATIENCE_S)
    return one, other


def accepted(listener: Listener) -> socket.socket:
    """The next stream."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return socket.socket(fileno=listener.accept()[0])
        except BlockingIOError:
            assert time.monotonic() < deadline
            time.sleep(0.001)


def talk(one: socket.socket, other: socket.socket) -> None:
    """A word each way."""
    for sender, receiver in ((one, other), (other, one)):
        sender.sendall(b"hello")
        assert receiver.recv(100) == b"hello"


# -- Proxies that close what is idle -----------------------------------------------------------------------------------


@needs_nginx
def test_an_idle_link_outlives_a_proxy_that_closes_idle_connections(tmp_path: Path, certificate: Certificate) -> None:
    """By its pings. Without them the proxy closes it, and both ends are told."""
    with run_nginx(tmp_path, certificate, "1s") as proxy:
        url = f"ws://127.0.0.1:{proxy.plain}/constellation"
        one, other = connect(Proxied(proxy, url, ping_s=0.2))
        with one, other:
            talk(one, other)
            for _ in range(2):  # twice as long as the proxy waits
                silent, aside = connect(Proxied(proxy, url, ping_s=0.0))
                with silent, aside:
                    talk(silent, aside)
                    assert silent.recv(1) == aside.recv(1) == b""
            talk(one, other)


def test_a_connection_on_which_nothing_is_heard_ends() -> None:
    """The other side has gone without a word: no packet will ever say so."""
    done = threading.Event()

    def vanish(door: socket.socket) -> None:
        sock, _ = door.accept()
        with sock:
            protocol = ServerProtocol(subprotocols=[SUBPROTOCOL])
            while not (events := protocol.events_received()):
                protocol.receive_data(sock.recv(1 << 16))
            protocol.send_response(protocol.accept(events[0]))  # type: ignore[arg-type]  # the first is a request
            sock.sendall(b"".join(protocol.data_to_send()))
            done.wait(PATIENCE_S)

    with socket.create_server(("127.0.0.1", 0)) as door:
        thread = threading.Thread(target=vanish, args=(door,))
        thread.start()
        transport = WebSocketTransport(Settings(ping_s=0.1))
        with socket.socket(fileno=transport.dial(f"127.0.0.1:{door.getsockname()[1]}", PATIENCE_S)) as end:
            end.settimeout(PATIENCE_S)
            assert end.recv(1) == b""
        done.set()
        thread.join()


def test_a_slow_reader_is_not_taken_for_a_dead_one() -> None:
    """Its relay does not read while its process does not; but it goes on to send pings."""
    transport = WebSocketTransport(Settings(ping_s=0.05))
    one, other = connect(transport)
    with one, other:
        one.settimeout(0.5)  # ten pings, more than three times the silence that ends a connection
        sent = 0
        with contextlib.suppress(TimeoutError):
            while True:
                sent += one.send(bytes(1 << 16))
        one.settimeout(PATIENCE_S)
        other.sendall(b"I am here")
        assert one.recv(100) == b"I am here"
        left = sent
        while left:
            data = other.recv(min(left, 1 << 20))
            assert data
            left -= len(data)
        talk(one, other)


# -- Strangers ---------------------------------------------------------------------------------------------------------


def test_what_answers_with_another_page_is_named() -> None:
    """The URL and the status: a path that is wrong, a proxy without its upstream."""
    transport = WebSocketTransport()
    listener = transport.listen("127.0.0.1:0")
    wrong = listener.address.replace("/constellation", "/elsewhere")
    with pytest.raises(ConnectionError, match=rf"cannot reach {wrong}: it answers with HTTP 404 Not Found"):
        transport.dial(wrong, PATIENCE_S)
    listener.close()


@needs_nginx
def test_a_proxy_without_its_upstream_is_named(nginx: Nginx) -> None:
    """Its own words, not a time-out."""
    transport = Proxied(nginx, "")
    with pytest.raises(ConnectionError, match="it answers with HTTP 502 Bad Gateway"):
        transport.dial(f"ws://127.0.0.1:{nginx.plain}", PATIENCE_S)
    with pytest.raises(ConnectionError, match="it answers with HTTP 200 OK: expected a WebSocket"):
        transport.dial(f"ws://127.0.0.1:{nginx.plain}/other", PATIENCE_S)


def test_a_certificate_that_is_not_trusted_is_refused(certificate: Certificate) -> None:
    """By who dials: the proxy must prove its name."""
    server = WebSocketTransport(Settings(certificate=certificate.file, key=certificate.key))
    listener = server.listen("127.0.0.1:0")
    with pytest.raises(ssl.SSLError, match="certificate verify failed"):
        WebSocketTransport().dial(listener.address, PATIENCE_S)
    with pytest.raises(OSError, match="cannot reach"):
        WebSocketTransport().dial(listener.address.replace("wss:", "ws:"), PATIENCE_S)
    listener.close()


def greet(listener: Listener, *, subprotocol: bool = True) -> tuple[socket.socket, ClientProtocol]:
    """A stranger that speaks WebSocket."""
    place = read(listener.address, "/")
    sock = socket.create_connection((place.host, place.port))
    sock.settimeout(PATIENCE_S)
    protocol = ClientProtocol(parse_uri(place.url), subprotocols=[SUBPROTOCOL] if subprotocol else None)
    protocol.send_request(protocol.connect())
    sock.sendall(b"".join(protocol.data_to_send()))
    return sock, protocol


def answer_of(sock: socket.socket) -> bytes:
    """All that comes until the end."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while data := sock.recv(1 << 16):
            said += data
    return said


def test_a_websocket_of_something_else_is_refused() -> None:
    """A browser, say: it does not speak our subprotocol."""
    listener = WebSocketTransport().listen("127.0.0.1:0")
    sock, _ = greet(listener, subprotocol=False)
    with sock:
        assert answer_of(sock).startswith(b"HTTP/1.1 400 ")
    listener.close()


@pytest.mark.parametrize(
    "hostile",
    [
        Frame(Opcode.TEXT, b"text").serialize(mask=True),
        Frame(Opcode.BINARY, bytes(1 << 21)).serialize(mask=True),
        Frame(Opcode.BINARY, b"not masked").serialize(mask=False),
        Frame(Opcode.CONT, b"of nothing").serialize(mask=True),
        b"\xff" * 100,
    ],
    ids=["text", "too large", "not masked", "continues nothing", "noise"],
)
def test_frames_that_no_peer_of_ours_sends_end_the_connection(hostile: bytes) -> None:
    """The process sees the end, after what came before; the sender is told by a close frame or the end."""
    listener = WebSocketTransport().listen("127.0.0.1:0")
    sock, _ = greet(listener)
    with sock, accepted(listener) as end:
        end.settimeout(PATIENCE_S)
        with contextlib.suppress(ConnectionError):
            sock.sendall(Frame(Opcode.BINARY, b"good").serialize(mask=True) + hostile)
        assert end.recv(4) == b"good"
        assert end.recv(1) == b""
        answer_of(sock)
    listener.close()


def test_a_crowd_of_silent_strangers_keeps_nobody_out() -> None:
    """Who says nothing gives way to who comes later, and costs one descriptor until then."""
    transport = WebSocketTransport()
    listener = transport.listen("127.0.0.1:0")
    place = read(listener.address, "/")
    with contextlib.ExitStack() as crowd:
        for _ in range(MOST_GREETING + 50):
            crowd.enter_context(socket.create_connection((place.host, place.port)))
        with socket.socket(fileno=transport.dial(listener.address, PATIENCE_S)) as one, accepted(listener) as other:
            talk(one, other)
    listener.close()


def test_who_does_not_answer_is_given_up() -> None:
    """Within the time that was given, and nothing is left of it."""
    with nothing_left(), socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        with pytest.raises(
            TimeoutError, match=rf"cannot reach ws://127.0.0.1:{port}/constellation: no answer for 0.1 s"
        ):
            WebSocketTransport().dial(f"127.0.0.1:{port}", 0.1)


# -- Addresses and options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("node-1:7000", "ws://node-1:7000/constellation"),
        ("[::1]:7000", "ws://[::1]:7000/constellation"),
        ("ws://node-1:7000", "ws://node-1:7000/constellation"),
        ("wss://example.org", "wss://example.org:443/constellation"),
        ("ws://example.org/a/b", "ws://example.org:80/a/b"),
    ],
)
def test_addresses_are_urls_or_host_and_port(address: str, url: str) -> None:
    """What is not said is the usual."""
    assert read(address, "/constellation").url == url


@pytest.mark.parametrize("address", ["", "host", "http://host", "ws://", "ws://a:b", "ws://host/p?q", "ws://me@host/"])
def test_other_addresses_are_refused(address: str) -> None:
    """With the value, and what was expected."""
    with pytest.raises(OSError, match="expected host:port, ws://host:port/path or wss://host/path"):
        WebSocketTransport().dial(address, PATIENCE_S)


def test_where_nobody_can_listen_is_named(certificate: Certificate) -> None:
    """An address in use; wss without a certificate."""
    transport = WebSocketTransport()
    listener = transport.listen("127.0.0.1:0")
    with pytest.raises(OSError, match=f"cannot listen at {listener.address}: Address already in use"):
        transport.listen(listener.address)
    listener.close()
    with pytest.raises(OSError, match=r"wss needs the option websocket\.certificate"):
        transport.listen("wss://127.0.0.1:0")


def test_options_are_those_of_the_settings() -> None:
    """Each has its default there."""
    assert {option.name: option.default for option in register_options()} == Settings()._asdict()
    (transport,) = register_transports({**Settings()._asdict(), "path": "/x"})
    assert transport.name == "websocket"


# -- Programs ----------------------------------------------------------------------------------------------------------

ECHO = """
import socket, sys, time
from constellation_websocket import WebSocketTransport

listener = WebSocketTransport().listen(sys.argv[1])
print("ready", flush=True)
while True:
    try:
        fd, _ = listener.accept()
        break
    except BlockingIOError:
        time.sleep(0.001)
with socket.socket(fileno=fd) as sock:
    sock.setblocking(True)
    while data := sock.recv(1 << 18):
        sock.sendall(data)
"""


@needs_nginx
def test_two_programs_talk_through_a_reverse_proxy_with_tls(nginx: Nginx) -> None:
    """Thirty megabytes there and back; the end goes through after the last byte."""
    data = os.urandom(1 << 20) * 30
    with subprocess.Popen(
        [sys.executable, "-c", ECHO, f"127.0.0.1:{nginx.upstream}"], stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        transport = WebSocketTransport(Settings(ca=nginx.ca))
        with socket.socket(fileno=transport.dial(f"wss://127.0.0.1:{nginx.secure}", PATIENCE_S)) as sock:
            sock.settimeout(PATIENCE_S)
            sender = threading.Thread(target=sock.sendall, args=(data,))
            sender.start()
            got = bytearray()
            while len(got) < len(data):
                part = sock.recv(1 << 18)
                assert part
                got += part
            sender.join()
        assert program.wait(PATIENCE_S) == 0
    assert got == data
