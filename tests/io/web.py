"""A fabric whose nodes are reached over WebSocket, directly or through a real nginx as reverse proxy, with TLS."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.conftest import Leftovers
from tests.io.cluster import COMMAND, LIMIT_S, Cluster, free_ports

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian's package nginx-light)")

_CONFIGURATION = """
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
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/cert.pem;
        ssl_certificate_key {folder}/key.pem;
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection "upgrade";
        proxy_read_timeout {idle};
        proxy_send_timeout {idle};
        {locations}
        location / {{ return 200 "a web site\\n"; }}
    }}
}}
"""


def make_certificate(folder: Path) -> None:
    """A certificate for 127.0.0.1 that certifies itself, good for a day: cert.pem and key.pem."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "constellation tests")])
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
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


class Proxy:
    """An nginx.

    Args:
        folder: For its files.
        port: Where it speaks TLS to the outside.
        ways: Path and port of each listener behind it, which has the same path.
        idle: How long it lets a connection be silent.
    """

    def __init__(self, folder: Path, port: int, ways: dict[str, int], idle: str) -> None:
        self._folder = folder
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        locations = "\n".join(
            f"location = {path} {{ proxy_pass http://127.0.0.1:{behind}; }}" for path, behind in ways.items()
        )
        (folder / "nginx.conf").write_text(
            _CONFIGURATION.format(
                folder=folder,
                user="user root;" if os.geteuid() == 0 else "",
                port=port,
                locations=locations,
                idle=idle,
            )
        )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert NGINX is not None
        error_log = self._folder / "error.log"
        self._process = process = subprocess.Popen(
            [NGINX, "-p", str(self._folder), "-e", str(error_log), "-c", "nginx.conf"]
        )
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port)).close()
                return
            except OSError:
                assert process.poll() is None, error_log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def stop(self) -> None:
        """End it, with all its connections."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(LIMIT_S)
            self._process = None


class WebCluster(Cluster):
    """A fabric whose daemons and clients have the plugin enabled.

    Args:
        folder: For all files.
        leftovers: Of the test.
        nodes: How many in all.
        idle: How long nginx lets a connection be silent; None: there is none, and the daemons are dialled directly.
        lines: Lines for each node's entry in nodes.toml.
        lease: Seconds.
        ping_s: Seconds of silence after which a ping is sent.
    """

    def __init__(
        self,
        folder: Path,
        leftovers: Leftovers,
        nodes: int = 3,
        *,
        idle: str | None = None,
        lines: tuple[str, ...] = (),
        lease: float = 5.0,
        ping_s: float = 20.0,
    ) -> None:
        super().__init__(folder, leftovers, nodes, lease=lease)
        outside, behind = free_ports(2)
        self.addresses = [f"ws://127.0.0.1:{port}/n{at + 1}" for at, port in enumerate(self.ports)]
        self.bridge = bind = f"ws://127.0.0.1:{behind}/bridge"
        self.options = ["--plugin", "websocket", "--plugin-option", f"websocket.ping_s={ping_s}"]
        self.proxy: Proxy | None = None
        if idle is not None:
            make_certificate(folder)
            ways = {f"/n{at + 1}": port for at, port in enumerate(self.ports)}
            self.proxy = Proxy(folder, outside, {**ways, "/bridge": behind}, idle)
            self.bridge = f"wss://127.0.0.1:{outside}/bridge"
            self.options += ["--plugin-option", f"websocket.ca={folder / 'cert.pem'}"]
        self.command = [*COMMAND, *self.options]
        entries = []
        for at, address in enumerate(self.addresses):
            entry = [f'[[nodes]]\nfabric_addr = "{address}"\nname = "n{at + 1}"', *lines[at : at + 1]]
            if at == 0:
                entry.append(f'bridge_bind = "{bind}"')
            if self.proxy is not None:
                entry.append(f'advertise = "wss://127.0.0.1:{outside}/n{at + 1}"')
            entries.append("\n".join(entry))
        self.file.write_text("\n".join(entries) + "\n")

    def command_on(self, name: str) -> list[str]:
        """The plugin is enabled on each."""
        return self.command

    def start_all(self) -> None:
        """Start nginx, then the daemons."""
        if self.proxy is not None:
            self.proxy.start()
        super().start_all()

    def stop(self) -> None:
        """Stop all, nginx last."""
        try:
            super().stop()
        finally:
            if self.proxy is not None:
                self.proxy.stop()


@contextlib.contextmanager
def web_cluster(folder: Path, leftovers: Leftovers, nodes: int = 3, **given: object) -> Iterator[WebCluster]:
    """A running fabric, stopped at the end."""
    made = WebCluster(folder, leftovers, nodes, **given)  # type: ignore[arg-type]  # its own
    try:
        made.start_all()
        yield made
    finally:
        made.stop()
