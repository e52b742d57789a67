"""Where to dial: a URL, or a host and port as everywhere else in constellation."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

PORTS = {"ws": 80, "wss": 443}


class Place(NamedTuple):
    """What an address says."""

    secure: bool
    """Whether TLS is spoken to whoever stands there, a proxy maybe."""
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        """The address as `read` takes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self.secure else 'ws'}://{host}:{self.port}{self.path}"


def read(address: str, path: str, *, secure: bool = False) -> Place:
    """Read an address.

    Args:
        address: ``host:port``, ``host:port/path``, ``ws://host:port/path`` or ``wss://host/path``.
        path: Of an address that has none.
        secure: Whether one without a scheme means TLS.

    Raises:
        OSError: It is none of these; says what was expected.
    """
    text = address if "://" in address else f"{'wss' if secure else 'ws'}://{address}"
    wrong = f"cannot use the address {address!r}: expected host:port, ws://host:port/path or wss://host/path"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise OSError(f"{wrong} ({error})") from error
    if parts.scheme not in PORTS or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise OSError(wrong)
    if port is None:
        if "://" not in address:
            raise OSError(wrong)
        port = PORTS[parts.scheme]
    return Place(parts.scheme == "wss", parts.hostname, port, parts.path or path)
