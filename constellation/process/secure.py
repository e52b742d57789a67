"""The TLS contexts of a process for links to other computers: who the other side must be.

Both processes of a link hold a certificate for their deployment, made by their nodes; a peer with any other is refused
before a byte of what it sends is read. The name that the client asks for in its hello is made of the two Pids and the number
of the link, as they stood in the preamble that the nodes have checked: so nobody on the way can join the ends of two
links of one deployment crosswise.

Making a context takes 1 ms, most of it to read the key: a process has two of them for all its links, and what differs
is noted on the connection. The settings are those of the daemons' contexts (`fabric/credential.py`); a test compares them.
"""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Any

from constellation.core.errors import HandshakeError
from constellation.core.role import Identity, Role, check_role, link_name, read_role

if TYPE_CHECKING:
    from constellation.core.pid import Pid


class _Socket(ssl.SSLSocket):
    """A socket whose handshake fails where the peer is none of ours."""

    def do_handshake(self, block: bool = False) -> None:  # as ssl has it
        super().do_handshake(block)
        _check(self.context, self.getpeercert())


class _Object(ssl.SSLObject):
    """The same for TLS in memory."""

    def do_handshake(self) -> None:
        super().do_handshake()
        _check(self.context, self.getpeercert())


class LinkContext(ssl.SSLContext):
    """A context that accepts processes of one deployment only, and on each connection only for the link that is meant."""

    sslsocket_class = _Socket
    sslobject_class = _Object
    peer: Role
    """Who the other side must be."""
    link: str
    """The name of the link that is opened next."""

    def wrap_socket(self, sock: Any, server_side: bool = False, **how: Any) -> ssl.SSLSocket:  # type: ignore[override]
        """As `ssl.SSLContext.wrap_socket`, for the link."""
        if not server_side:
            how.setdefault("server_hostname", self.link)
        wrapped = super().wrap_socket(sock, server_side, **how)
        wrapped.link = self.link  # type: ignore[attr-defined]  # for `_check_name`
        return wrapped

    def wrap_bio(self, incoming: Any, outgoing: Any, server_side: bool = False, **how: Any) -> ssl.SSLObject:  # type: ignore[override]
        """As `ssl.SSLContext.wrap_bio`, for the link."""
        if not server_side:
            how.setdefault("server_hostname", self.link)
        wrapped = super().wrap_bio(incoming, outgoing, server_side, **how)
        wrapped.link = self.link  # type: ignore[attr-defined]  # for `_check_name`
        return wrapped


class LinkContexts:
    """The two contexts of a process, made when they are first needed.

    Args:
        identity: What the node gave this process.
        deployment: Whose processes are at both ends of each link.
    """

    def __init__(self, identity: Identity, deployment: bytes) -> None:
        self._identity = identity
        self._deployment = deployment
        self._made: dict[bool, LinkContext] = {}

    def of_link(self, *, server: bool, target: Pid, source: Pid, number: int) -> LinkContext:
        """The context to open a link with: at once, before another one is asked for.

        Args:
            server: Whether this process is ``target``, for which the connection was accepted.
            target: The process that was dialled.
            source: The process for which its node has dialled.
            number: The number of the link between the two.
        """
        context = self._made.get(server)
        if context is None:
            context = self._made[server] = _make(self._identity, self._deployment, server=server)
        context.link = link_name(target.to_bytes(), source.to_bytes(), number)
        return context


def _make(identity: Identity, deployment: bytes, *, server: bool) -> LinkContext:
    context = LinkContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # roles are checked instead, see core/role.py
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.peer = Role.of_deployment(deployment)
    context.link = ""
    if server:
        context.num_tickets = 0
        context.sni_callback = _check_name
    context.load_verify_locations(cadata=identity.authority_pem)
    # `ssl` takes keys out of files only: one that has no name, is in memory, and is gone at once.
    fd = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        os.write(fd, (identity.certificate_pem + identity.key_pem).encode())
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    return context


def _check_name(tls: Any, name: str | None, _context: Any) -> int | None:
    """Refuse a client that asks for another link, or for none: it is not whom the nodes have put through."""
    return None if name == tls.link else ssl.AlertDescription.ALERT_DESCRIPTION_UNRECOGNIZED_NAME


def _check(context: ssl.SSLContext, certificate: Any) -> None:
    assert isinstance(context, LinkContext)
    try:
        check_role(read_role(certificate), context.peer)
    except HandshakeError as error:
        raise ssl.SSLCertVerificationError(1, f"the link is refused: {error}") from error
