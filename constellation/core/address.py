"""Addresses of daemons as people write them: ``host:port``, ``[v6]:port``."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from constellation.core.errors import UsageError

_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?"
)
_EXPECTED = "expected HOST:PORT, such as 127.0.0.1:7000, host.example:7000 or [::1]:7000"


class Address(NamedTuple):
    """A host, by number or by name, and a TCP port."""

    host: str
    """Without brackets. A numeric one in its shortest form."""
    port: int
    """0 to 65535; 0 lets the kernel choose, for a daemon that listens."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

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
        text: ``host:port`` or ``[v6]:port``; the host a number or a name.
        default_port: What a text without a port means; None refuses it.

    Raises:
        UsageError: It cannot be read; says what is wrong and what is expected.
    """
    wrong = f"cannot read the address {text!r}"
    written = text.strip()
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
    return Address(_host(host, wrong, is_bracketed=written.startswith("[")), _port(port_text, default_port, wrong))


def _host(host: str, wrong: str, *, is_bracketed: bool) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    if is_bracketed:
        raise UsageError(f"{wrong}: {host!r} is no IPv6 address: {_EXPECTED}")
    # 10.0.0.300 would pass as a name, and be asked of a name server.
    if not _NAME.fullmatch(host) or host.rstrip(".").rpartition(".")[2].isdigit():
        raise UsageError(f"{wrong}: {host!r} is neither an IPv4 address nor a name of a computer: {_EXPECTED}")
    return host


def _port(text: str | None, default: int | None, wrong: str) -> int:
    if text is None:
        if default is None:
            raise UsageError(f"{wrong}: the port is missing: {_EXPECTED}")
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 5 or int(text) > 65535:
        raise UsageError(f"{wrong}: {text!r} is no port: expected a number from 0 to 65535")
    return int(text)
