"""The TLS contexts of a process for links to other computers: who the other side must be.

Both processes of a link hold a certificate for their deployment, made by their nodes; a peer with any other is refused
before a byte of what it sends is read. The name that the client asks for in its hello is made of the two Pids and the number
of the link, as they stood in the preamble that the nodes have checked: so nobody on the way can join the ends of two
links of one deployment crosswise.

Making a context takes 1 ms, most of it to read the key: a process has two of them for all its links, and what differs
is noted on the connection. The settings are those of the daemons' contexts (`fabric/credential.py`); a test compares them.
"""

from __future__ import annotations

import operator
import os
import ssl
from typing import TYPE_CHECKING, Any, cast

from constellation.core.errors import HandshakeError
from constellation.core.role import Identity, Role, check_role, link_name, read_role

if TYPE_CHECKING:
    from constellation.core.pid import Pid


class _Asked(dict[Any, Any]):
    """What the client of one connection has asked for, as keys. A class, because OpenSSL's side refers to it weakly."""


class _Socket(ssl.SSLSocket):
    """A socket whose handshake fails where the peer is none of ours."""

    def do_handshake(self, block: bool = False) -> None:  # as ssl has it
        super().do_handshake(block)
        _check(self)


class _Object(ssl.SSLObject):
    """The same for TLS in memory."""

    def do_handshake(self) -> None:
        super().do_handshake()
        _check(self)


class LinkContext(ssl.SSLContext):
    """A context that accepts processes of one deployment only, and on each connection only for the link that is meant.

    The handshake has to be driven by ``do_handshake``.
    """

    sslsocket_class = _Socket
    sslobject_class = _Object
    peer: Role
    """Who the other side must be."""
    link: str
    """The name of the link that is opened next."""

    def wrap_socket(  # type: ignore[override]
        self, sock: Any, server_side: bool = False, do_handshake_on_connect: bool = True, **how: Any
    ) -> ssl.SSLSocket:
        """As `ssl.SSLContext.wrap_socket`, for the link."""
        if not server_side:
            how.setdefault("server_hostname", self.link)
        wrapped = super().wrap_socket(sock, server_side, do_handshake_on_connect=False, **how)
        self._note(wrapped)
        if do_handshake_on_connect:
            wrapped.do_handshake()
        return wrapped

    def wrap_bio(self, incoming: Any, outgoing: Any, server_side: bool = False, **how: Any) -> ssl.SSLObject:  # type: ignore[override]
        """As `ssl.SSLContext.wrap_bio`, for the link."""
        if not server_side:
            how.setdefault("server_hostname", self.link)
        wrapped = super().wrap_bio(incoming, outgoing, server_side, **how)
        self._note(wrapped)
        return wrapped

    def _note(self, wrapped: Any) -> None:
        wrapped.link = self.link
        wrapped.asked = wrapped._sslobj.owner = _Asked()


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
    # Some versions of Python take a connection that was cut for one that has been closed; it must be told from that.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    context.peer = Role.of_deployment(deployment)
    context.link = ""
    if server:
        context.num_tickets = 0
        # Called with what `_note` has made the owner, the name and the context: it stores the name. A function of ours would be
        # where Python runs the handler of a Ctrl-C that came during the handshake; what that raises would be lost there.
        context.sni_callback = cast("Any", operator.setitem)
    context.load_verify_locations(cadata=identity.authority_pem)
    # `ssl` takes keys out of files only: one that has no name, is in memory, and is gone at once.
    fd = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        os.write(fd, (identity.certificate_pem + identity.key_pem).encode())
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    return context


def _check(wrapped: Any) -> None:
    """Refuse a peer of another role, and a client that has asked for another link, or for none.

    Raises:
        ssl.SSLCertVerificationError: It is refused.
    """
    try:
        check_role(read_role(wrapped.getpeercert()), wrapped.context.peer)
        if wrapped.server_side and set(wrapped.asked) != {wrapped.link}:
            raise HandshakeError("it is not whom the nodes have put through: it asks for another link")
    except HandshakeError as error:
        raise ssl.SSLCertVerificationError(1, f"the link is refused: {error}") from error
