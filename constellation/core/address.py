"""Addresses of daemons as people write them: ``host:port``, ``[v6]:port``, or a URL of a plugin's transport.

What has no ``://`` is dialled by TCP. A URL is for a transport that listens and dials itself (`DiallingTransport`): its scheme
is the transport's name, or one of those that the transport states. ``NAME+URL`` says which transport is meant also to who has
not enabled its plugin; so addresses travel between daemons, and so they are shown.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from constellation.core.errors import UsageError

_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?"
)
_URL = re.compile(
    r"(?:(?P<transport>[A-Za-z0-9_.+-]{1,64})\+)?"
    r"(?P<scheme>[A-Za-z][A-Za-z0-9_.-]{0,63})://(?P<authority>[^/?#]*)(?P<path>.*)"
)
_LONGEST_URL = 1000
_EXPECTED = "expected HOST:PORT, such as 127.0.0.1:7000, host.example:7000 or [::1]:7000"
_EXPECTED_URL = "expected SCHEME://HOST:PORT/PATH or SCHEME://HOST/PATH, such as wss://host.example/path"


class Address(NamedTuple):
    """A host, by number or by name, and a TCP port; or a URL."""

    host: str
    """Without brackets. A numeric one in its shortest form. Of a URL without a host it is empty."""
    port: int
    """0 to 65535; 0 lets the kernel choose, for a daemon that listens. Of a URL that names none it is 0."""
    url: str = ""
    """For a plugin's transport, as it was written but for the scheme, which is in lower case; empty: TCP."""
    transport: str = ""
    """The name of that transport; empty: not known yet."""

    def __str__(self) -> str:
        if self.url:
            return self.url if self.transport.lower() in {"", self.scheme} else f"{self.transport}+{self.url}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def scheme(self) -> str:
        """Of the URL, in lower case; empty: TCP."""
        return self.url.partition("://")[0]

    @property
    def as_name(self) -> str:
        """What whoever listens there is called where nobody has named it: without slashes, which no name has."""
        if not self.url:
            return str(self)
        return re.sub(r"[^A-Za-z0-9_.@:\[\]-]+", ":", self.url.partition("://")[2]).strip(":")[:128] or self.scheme

    @property
    def number(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host as a number, an IPv4 one inside IPv6 as IPv4; None where it is a name."""
        try:
            number = ipaddress.ip_address(self.host)
        except ValueError:
            return None
        return (number.version == 6 and number.ipv4_mapped) or number

    @property
    def is_loopback(self) -> bool:
        """Whether only this computer can reach it. A name counts only if it is ``localhost`` (RFC 6761)."""
        number = self.number
        if number is None:
            return self.host.lower().rstrip(".") == "localhost"
        return number.is_loopback

    @property
    def is_any(self) -> bool:
        """Whether it stands for all addresses of a computer: good to listen on, not to dial."""
        number = self.number
        return number is not None and number.is_unspecified

    @classmethod
    def of(cls, name: tuple[object, ...]) -> Address:
        """The address that a socket tells of itself or of its peer; an IPv4 one inside IPv6 as IPv4."""
        address = cls(str(name[0]), int(str(name[1])))
        number = address.number
        return address if number is None else cls(str(number), address.port)


def parse_address(text: str, *, default_port: int | None = None) -> Address:
    """Read an address as a person writes it.

    Args:
        text: ``host:port`` or ``[v6]:port``, the host a number or a name; or a URL, maybe with ``NAME+`` before it.
        default_port: What a text without a port means, that is no URL; None refuses it.

    Raises:
        UsageError: It cannot be read; says what is wrong and what is expected.
    """
    wrong = f"cannot read the address {text!r}"
    written = text.strip()
    if "://" in written:
        return _parse_url(written, wrong)
    if written.startswith("["):
        host, closed, rest = written[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise UsageError(f"{wrong}: the bracket must be closed before the port: {_EXPECTED}")
        port_text = rest[1:] if rest else None
    elif written.count(":") > 1:
        raise UsageError(f"{wrong}: an IPv6 address stands in brackets before the port: {_EXPECTED}")
    else:
        host, colon, rest = written.partition(":")
        port_text = rest if colon else None
    if not host:
        raise UsageError(f"{wrong}: the host is missing: 0.0.0.0 means all addresses of this computer: {_EXPECTED}")
    is_bracketed = written.startswith("[")
    return Address(_host(host, wrong, _EXPECTED, is_bracketed=is_bracketed), _port(port_text, default_port, wrong))


def _parse_url(written: str, wrong: str) -> Address:
    match = _URL.fullmatch(written)
    if match is None or not written.isprintable() or " " in written or len(written) > _LONGEST_URL:
        raise UsageError(f"{wrong}: {_EXPECTED_URL}")
    scheme, authority, path = match["scheme"].lower(), match["authority"], match["path"]
    if scheme == "tcp" and not match["transport"] and path in {"", "/"}:
        return parse_address(authority)
    if not authority and len(path) < 2:
        raise UsageError(f"{wrong}: the host is missing: {_EXPECTED_URL}")
    if "@" in authority:
        raise UsageError(f"{wrong}: nobody is named there: {_EXPECTED_URL}")
    host, port = authority, None
    if authority.startswith("["):
        host, closed, rest = authority[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise UsageError(f"{wrong}: the bracket must be closed before the port: {_EXPECTED_URL}")
        port = rest[1:] if rest else None
    elif ":" in authority:
        host, _, port = authority.rpartition(":")
    if host:
        host = _host(host, wrong, _EXPECTED_URL, is_bracketed=authority.startswith("["))
    return Address(host, _port(port, 0, wrong), f"{scheme}://{authority}{path}", match["transport"] or "")


def _host(host: str, wrong: str, expected: str, *, is_bracketed: bool) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    if is_bracketed:
        raise UsageError(f"{wrong}: {host!r} is no IPv6 address: {expected}")
    # 10.0.0.300 would pass as a name, and be asked of a name server.
    if not _NAME.fullmatch(host) or host.rstrip(".").rpartition(".")[2].isdigit():
        raise UsageError(f"{wrong}: {host!r} is neither an IPv4 address nor a name of a computer: {expected}")
    return host


def _port(text: str | None, default: int | None, wrong: str) -> int:
    if text is None:
        if default is None:
            raise UsageError(f"{wrong}: the port is missing: {_EXPECTED}")
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 5 or int(text) > 65535:
        raise UsageError(f"{wrong}: {text!r} is no port: expected a number from 0 to 65535")
    return int(text)
