"""Roles: what a certificate says about its holder, in one URI among its alternative names.

``constellation:node/NAME``, ``constellation:bridge/NAME``, ``constellation:deployer/OWNER``,
``constellation:process/DEPLOYMENT``. The master is a node; whether it is the one that was meant says its address.
A certificate of the fabric's authority without exactly one such URI has no role, and is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from constellation.core.errors import HandshakeError

NODE: Final = "node"
BRIDGE: Final = "bridge"
DEPLOYER: Final = "deployer"
PROCESS: Final = "process"
KINDS: Final = (NODE, BRIDGE, DEPLOYER, PROCESS)

_SCHEME = "constellation:"
_NAME = re.compile(r"[A-Za-z0-9_.@+:\[\]-]{1,128}")
NAME_RULE: Final = "1 to 128 letters, digits and . _ @ + : [ ] -"


class Role(NamedTuple):
    """Who a peer is."""

    kind: str
    """One of `KINDS`."""
    name: str
    """Of the node or the bridge, of the owner, or of the deployment in hex digits."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @classmethod
    def of_deployment(cls, deployment: bytes) -> Role:
        """The role of all processes of a deployment."""
        return cls(PROCESS, deployment.hex())

    @property
    def uri(self) -> str:
        """The form in a certificate."""
        return f"{_SCHEME}{self.kind}/{self.name}"


class Identity(NamedTuple):
    """What a process needs to prove its role: a certificate, its key, and the authority that the peer's must come from."""

    certificate_pem: str
    key_pem: str
    authority_pem: str


def is_name(text: str) -> bool:
    """Whether a text may be the name in a role."""
    return _NAME.fullmatch(text) is not None


def read_role(certificate: Mapping[str, Any] | None) -> Role:
    """The role in a certificate that has been verified, as ``SSLSocket.getpeercert()`` gives it.

    Raises:
        HandshakeError: There is no certificate, or it has no role.
    """
    if not certificate:
        raise HandshakeError("it has no certificate")
    uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    if len(uris) != 1:
        raise HandshakeError(f"its certificate names {len(uris)} roles: expected one")
    kind, slash, name = uris[0].removeprefix(_SCHEME).partition("/")
    if not uris[0].startswith(_SCHEME) or not slash or kind not in KINDS or not is_name(name):
        raise HandshakeError(f"its certificate is for {uris[0][:200]!r}: expected a role such as {_SCHEME}node/NAME")
    return Role(kind, name)


def check_role(role: Role, *expected: str | Role) -> Role:
    """Refuse a role that is not expected.

    Args:
        role: Who the peer is.
        expected: Kinds, or whole roles where the name must be the same too.

    Raises:
        HandshakeError: It is none of these.
    """
    if role.kind in expected or role in expected:
        return role
    raise HandshakeError(f"it is {role}: expected {' or '.join(str(each) for each in expected)}")


def link_name(target: bytes, source: bytes, number: int) -> str:
    """The name by which the two ends of a link know it: 32 hex digits, different for each link that ever is.

    Args:
        target: The Pid, 32 bytes, of the process that was dialled.
        source: The Pid of the one for which was dialled.
        number: Of the link between the two.
    """
    return hashlib.sha256(target + source + number.to_bytes(8, "big")).hexdigest()[:32]
