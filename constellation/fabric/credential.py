"""Who may do what on a fabric: the files, and the certificates and keys made of them.

One authority for each fabric. Its certificate, its key and the routing key are in the *node* credential: whoever has that
file can run a node, and so do anything. A *deployer* credential has a key and a certificate of its own, for one owner,
and the one preamble key that opens the bridge's port; it can deploy, and cannot speak as a node or for a process.

A daemon's own certificate is made in memory when it is needed, lives a day and is renewed by itself; the certificate of a
deployment is made once on each node that runs it, and its key is thrown away with the deployment.

The files are PEM, one each: ``node.pem``, ``deployer.pem``, with a few lines before it that say what they are. They lie in
``$XDG_CONFIG_HOME/constellation``, belong to the user and are readable by nobody else, or are refused. Where a daemon
listens on loopback only and finds none, both are made, under a lock.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import fcntl
import os
import pwd
import re
import secrets
import ssl
import stat
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from constellation.core.errors import HandshakeError, UsageError
from constellation.core.preamble import KEY_BYTES, Purpose
from constellation.core.role import DEPLOYER, NAME_RULE, Identity, Role, is_name

if TYPE_CHECKING:
    from constellation.fabric.authority import Authority, Leaf

NODE_FILE: Final = "node.pem"
DEPLOYER_FILE: Final = "deployer.pem"

DEPLOYER_DAYS: Final = 365
"""How long a deployer credential is valid where nothing else is said."""

_LEAF_LIFE = dt.timedelta(days=1)
"""Of a daemon's certificate: made anew when half of it is over. A stolen one is of use for a day at most."""

_LARGEST_FILE = 64 << 10
_ROUTING_KEY = "CONSTELLATION ROUTING KEY"
_DEPLOY_KEY = "CONSTELLATION DEPLOY KEY"
_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----\n(.+?)\n-----END \1-----", re.DOTALL)
_SAID = re.compile(r"^([a-z]+): (.+)$", re.MULTILINE)

_NODE_TEXT = """\
Credential of a constellation node. Whoever can read this file can do anything on the fabric: copy it to the nodes and
to nowhere else, mode 0600.
"""
_DEPLOYER_TEXT = """\
Credential of a constellation deployer: it deploys programs in the owner's name. Mode 0600.
"""


# Where the files are


def default_folder() -> str:
    """Where credentials are looked for: ``$XDG_CONFIG_HOME/constellation``, else ``~/.config/constellation``."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):  # as the XDG base directory specification has it
        base = os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(base, "constellation")


def keygen(folder: str | None = None, owner: str | None = None, days: int = DEPLOYER_DAYS) -> list[str]:
    """Make the credentials of a fabric, or one more deployer credential for it. Never overwrites a file.

    Where the folder has no node credential, a new fabric begins: one is made. The deployer credential is signed by it; its
    file is ``deployer.pem``, or ``deployer-OWNER.pem`` where an owner is given: that one is to be handed over.

    Args:
        folder: Where they go, and where the node credential is; None for `default_folder`.
        owner: Whose deployer credential; None for the user who runs this.
        days: How long the deployer credential is valid.

    Returns:
        The paths of the files that were written.

    Raises:
        UsageError: They cannot be written, or there is nothing to write; says what to do.
    """
    folder = folder or default_folder()
    name = f"deployer-{owner}.pem" if owner else DEPLOYER_FILE
    owner = _checked_owner(owner or current_user())
    if not 0 < days <= 3650:
        raise UsageError(f"cannot make a credential for {days} days: expected 1 to 3650")
    with _locked(folder):
        node_path, path = os.path.join(folder, NODE_FILE), os.path.join(folder, name)
        is_new = not os.path.lexists(node_path)
        if is_new and os.path.lexists(os.path.join(folder, DEPLOYER_FILE)):
            raise UsageError(
                f"{folder} has a deployer credential of a fabric whose node credential is not here: "
                "copy its node.pem here, or make a new fabric elsewhere: constellation keygen OTHER-FOLDER"
            )
        if os.path.lexists(path):
            raise UsageError(
                f"{path} is there already and is not overwritten: remove it first, if that is what you want"
            )
        if is_new:
            _write(node_path, _new_node_text())
        node = NodeCredential.read(node_path)
        _write(path, node.deployer_text(owner, days))
        return [node_path, path] if is_new else [path]


def load_node(path: str | None, *, is_loopback: bool) -> NodeCredential:
    """Read the node credential.

    Args:
        path: The file; None for ``node.pem`` in `default_folder`, ``-`` for standard input, up to its end.
        is_loopback: The daemon listens on loopback only: where there is no credential one is made.

    Raises:
        UsageError: There is none, or the file cannot be used; says what mends it.
        HandshakeError: It has expired.
    """
    chosen = path or os.path.join(default_folder(), NODE_FILE)
    if path is None and not os.path.lexists(chosen):
        if not is_loopback:
            raise UsageError(
                f"no credential: {chosen} does not exist, and this daemon is to be reached from other computers; "
                f"on one of them: constellation keygen; then copy the file to each other one: "
                f"scp {_short(os.path.join(default_folder(), NODE_FILE))} HOST:.config/constellation/"
            )
        _make_for_loopback()
    return NodeCredential.read(chosen)


def load_deployer(path: str | None, *, is_loopback: bool) -> DeployerCredential:
    """Read the deployer credential.

    Args:
        path: The file; None for ``deployer.pem`` in `default_folder`.
        is_loopback: The bridge is dialled on loopback: where there is no credential one is made.

    Raises:
        UsageError: There is none, or the file cannot be used; says what mends it.
        HandshakeError: It has expired.
    """
    chosen = path or os.path.join(default_folder(), DEPLOYER_FILE)
    if path is None and not os.path.lexists(chosen):
        if not is_loopback:
            raise UsageError(
                f"no credential: {chosen} does not exist; on a computer that has the fabric's node.pem: "
                f"constellation keygen --owner {current_user()}; then here: "
                f"scp HOST:.config/constellation/deployer-{current_user()}.pem {_short(chosen)}"
            )
        _make_for_loopback()
    return DeployerCredential.read(chosen)


def remaining(kind: str, path: str) -> float:
    """Read a credential as a daemon or a client would; give the seconds until it expires.

    Args:
        kind: ``node`` or ``deployer``.
        path: The file.

    Raises:
        UsageError: It cannot be used; says what mends it.
        HandshakeError: It has expired.
    """
    expires = NodeCredential.read(path).expires if kind == "node" else DeployerCredential.read(path).expires
    return (expires - _now()).total_seconds()


def _make_for_loopback() -> None:
    """Make what is missing of both files. Others who do the same at this moment wait, and find them made."""
    folder = default_folder()
    try:
        keygen(folder)
    except UsageError:
        if not all(os.path.lexists(os.path.join(folder, name)) for name in (NODE_FILE, DEPLOYER_FILE)):
            raise


# What is in them


class NodeCredential:
    """What a node, the master and a bridge hold. Made by `load_node`.

    Attributes:
        path: The file that it was read from.
        authority_pem: The certificate of the fabric's authority.
        preamble_keys: The keys of the preambles, all of them.
    """

    def __init__(self, path: str, authority: Authority, routing_key: bytes) -> None:
        from constellation.fabric.authority import preamble_keys

        self.path = path
        self.authority_pem = authority.certificate_pem
        self.preamble_keys: Mapping[Purpose, bytes] = preamble_keys(routing_key)
        self._authority = authority
        self._contexts: dict[tuple[Role, bool], tuple[dt.datetime, ssl.SSLContext]] = {}

    @classmethod
    def read(cls, path: str) -> NodeCredential:
        """Read a file.

        Raises:
            UsageError: It cannot be used; says what mends it.
            HandshakeError: It has expired.
        """
        from constellation.fabric.authority import Authority

        text = _read_private(path)
        blocks = _blocks(path, text, "node", ("CERTIFICATE", "PRIVATE KEY", _ROUTING_KEY))
        try:
            authority = Authority.from_pem(blocks["CERTIFICATE"], blocks["PRIVATE KEY"])
        except (ValueError, TypeError) as error:
            raise _malformed(path, "node", str(error)) from error
        _check_time(path, authority.expires, "constellation keygen NEW-FOLDER, and copy its node.pem to every node")
        return cls(path, authority, _key_of(path, "node", blocks[_ROUTING_KEY]))

    @property
    def expires(self) -> dt.datetime:
        """When the fabric's authority does, and with it everything."""
        return self._authority.expires

    def identity(self, role: Role) -> Identity:
        """Make a certificate and a key for a role, valid for a day."""
        return self._leaf(role).identity

    def deployment_identity(self, deployment: bytes) -> Identity:
        """Make what the processes of a deployment hold, on this node.

        It is valid as long as the authority is, because a deployment may run for months, and is of no use without it.
        """
        return self._authority.sign(Role.of_deployment(deployment), _now(), self._authority.expires).identity

    def context(self, role: Role, *, server: bool) -> ssl.SSLContext:
        """The TLS context of a daemon. Ask anew for each connection: it is renewed before its certificate expires.

        Args:
            role: Who this daemon is.
            server: For connections that it accepts.
        """
        now = _now()
        until, context = self._contexts.get((role, server), (now, None))
        if context is None or until <= now:
            context = make_context(self._leaf(role).identity, server=server)
            self._contexts[role, server] = (now + _LEAF_LIFE / 2, context)
        return context

    def _leaf(self, role: Role) -> Leaf:
        now = _now()
        return self._authority.sign(role, now, now + _LEAF_LIFE)

    def deployer_text(self, owner: str, days: int) -> str:
        """The text of a deployer credential's file."""
        now = _now()
        leaf = self._authority.sign(Role(DEPLOYER, owner), now, now + dt.timedelta(days=days))
        said = f"owner: {owner}\nexpires: {leaf.expires.isoformat(timespec='seconds')}\n"
        key = _key_block(_DEPLOY_KEY, self.preamble_keys[Purpose.DEPLOY])
        return _DEPLOYER_TEXT + said + "".join(leaf.identity) + key


class DeployerCredential(NamedTuple):
    """What a client of the bridge holds. Made by `load_deployer`."""

    path: str
    owner: str
    identity: Identity
    preamble_keys: Mapping[Purpose, bytes]
    """Only that of `Purpose.DEPLOY`."""
    expires: dt.datetime

    @classmethod
    def read(cls, path: str) -> DeployerCredential:
        """Read a file; needs no ``cryptography``, which would cost a client 60 ms.

        Raises:
            UsageError: It cannot be used; says what mends it.
            HandshakeError: It has expired.
        """
        text = _read_private(path)
        blocks = _blocks(path, text, "deployer", ("CERTIFICATE", "PRIVATE KEY", "CERTIFICATE 2", _DEPLOY_KEY))
        # What these lines say is for people: a bridge believes the certificate only.
        said = dict(_SAID.findall(text))
        try:
            owner, expires = said["owner"], dt.datetime.fromisoformat(said["expires"])
            remaining = expires - _now()
        except (KeyError, ValueError, TypeError) as error:
            raise _malformed(
                path, "deployer", "the lines `owner: NAME` and `expires: TIME` are not as they were"
            ) from error
        if remaining <= dt.timedelta(0):
            _check_time(path, expires, f"constellation keygen --owner {owner}, where the fabric's node.pem is")
        identity = Identity(blocks["CERTIFICATE"], blocks["PRIVATE KEY"], blocks["CERTIFICATE 2"])
        keys = {Purpose.DEPLOY: _key_of(path, "deployer", blocks[_DEPLOY_KEY])}
        credential = cls(path, owner, identity, keys, expires)
        credential.context()  # finds what is wrong with the certificates
        return credential

    @property
    def authority_pem(self) -> str:
        """The certificate of the fabric's authority."""
        return self.identity.authority_pem

    def context(self) -> ssl.SSLContext:
        """The TLS context for connections to a bridge."""
        try:
            return make_context(self.identity, server=False)
        except ssl.SSLError as error:
            raise _malformed(self.path, "deployer", error.reason or str(error)) from error


def make_context(identity: Identity, *, server: bool) -> ssl.SSLContext:
    """Make a TLS context: version 1.3 only, both sides with certificates of the same authority, nothing resumed.

    `process/secure.py` makes the same for links, in processes, which use nothing of the fabric.

    Raises:
        ssl.SSLError: The identity is no certificate with its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # roles are checked instead, see core/role.py
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # Some versions of Python take a connection that was cut for one that has been closed; it must be told from that.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    if server:
        context.num_tickets = 0
    context.load_verify_locations(cadata=identity.authority_pem)
    # `ssl` takes keys out of files only: one that has no name, is in memory, and is gone at once.
    fd = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        with open(fd, "w", closefd=False) as file:
            file.write(identity.certificate_pem + identity.key_pem)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    return context


def current_user() -> str:
    """The name of the user who runs this process, as an owner's name."""
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        name = str(os.geteuid())
    return name if is_name(name) else f"uid-{os.geteuid()}"


# Files


def _checked_owner(owner: str) -> str:
    if not is_name(owner):
        raise UsageError(f"cannot make a credential for the owner {owner!r}: expected {NAME_RULE}")
    return owner


def _new_node_text() -> str:
    from constellation.fabric.authority import Authority

    authority = Authority.new(_now())
    key = _key_block(_ROUTING_KEY, secrets.token_bytes(KEY_BYTES))
    return _NODE_TEXT + authority.certificate_pem + authority.key_pem + key


def _key_block(label: str, key: bytes) -> str:
    return f"-----BEGIN {label}-----\n{base64.b64encode(key).decode()}\n-----END {label}-----\n"


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Hold the folder, made if need be, against others who make credentials in it."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(
            f"cannot make credentials in {folder}: {error.strerror}; XDG_CONFIG_HOME names another place, "
            "and --credential a file"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(path: str, text: str) -> None:
    """Write a file that nobody else can read, whole or not at all, and never over another."""
    temporary = f"{path}.{secrets.token_hex(8)}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "w", closefd=False) as file:
                file.write(text)
            os.fsync(fd)
            os.link(temporary, path)
        finally:
            os.close(fd)
            os.unlink(temporary)
    except FileExistsError as error:
        raise UsageError(
            f"{path} is there already and is not overwritten: remove it first, if that is what you want"
        ) from error
    except OSError as error:
        raise UsageError(f"cannot write the credential {path}: {error.strerror}") from error


def _read_private(path: str) -> str:
    """Read a file that is ours and that nobody else can read; ``-`` is standard input."""
    if path == "-":
        return _text_of("on standard input", sys.stdin.buffer.read(_LARGEST_FILE + 1))
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(
            f"cannot read the credential {path}: {error.strerror}; constellation keygen makes one"
        ) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"cannot read the credential {path}: it is no file")
        if status.st_uid not in {os.geteuid(), 0}:
            raise UsageError(
                f"the credential {path} belongs to uid {status.st_uid}, who can change it: expected {os.geteuid()}; "
                f"chown {os.geteuid()} {path}"
            )
        if status.st_mode & 0o077:
            raise UsageError(
                f"the credential {path} has mode {stat.S_IMODE(status.st_mode):04o}: others may have read it; expected 0600; "
                f"chmod 600 {path}, and if others use this computer make a new one"
            )
        with open(fd, "rb", closefd=False) as file:
            return _text_of(path, file.read(_LARGEST_FILE + 1))
    finally:
        os.close(fd)


def _text_of(path: str, data: bytes) -> str:
    try:
        if len(data) <= _LARGEST_FILE:
            return data.decode("ascii")
    except UnicodeDecodeError:
        pass
    raise UsageError(f"the credential {path} is none: expected the text that constellation keygen writes")


def _blocks(path: str, text: str, kind: str, expected: tuple[str, ...]) -> dict[str, str]:
    """The PEM blocks of a file by name; a second one of the same name is called ``NAME 2``."""
    blocks: dict[str, str] = {}
    for match in _PEM.finditer(text):
        label = match[1]
        blocks[f"{label} 2" if label in blocks else label] = match[0] + "\n"
    if tuple(blocks) == expected:
        return blocks
    if set(blocks) & {_ROUTING_KEY, _DEPLOY_KEY} and {_ROUTING_KEY, _DEPLOY_KEY} & set(expected) - set(blocks):
        other = "deployer" if kind == "node" else "node"
        raise UsageError(f"{path} is a {other} credential: expected a {kind} credential, such as {kind}.pem of keygen")
    missing = [name for name in expected if name not in blocks]
    raise _malformed(path, kind, f"missing: {', '.join(missing)}" if missing else "its parts are not in their order")


def _key_of(path: str, kind: str, block: str) -> bytes:
    match = _PEM.search(block)
    try:
        key = base64.b64decode(match[2] if match else "", validate=True)
    except ValueError as error:
        raise _malformed(path, kind, f"a key is not base64: {error}") from error
    if len(key) != KEY_BYTES:
        raise _malformed(path, kind, f"a key has {len(key)} bytes, expected {KEY_BYTES}")
    return key


def _malformed(path: str, kind: str, why: str) -> UsageError:
    return UsageError(
        f"the {kind} credential {path} cannot be read ({why}): copy it again from where it was made, or move it away and make "
        "another: constellation keygen"
    )


def _check_time(path: str, expires: dt.datetime, mend: str) -> None:
    if expires <= _now():
        raise HandshakeError(f"the credential {path} has expired on {expires:%Y-%m-%d}: make another: {mend}")


def _short(path: str) -> str:
    home = os.path.expanduser("~")
    return "~" + path[len(home) :] if path.startswith(home + "/") else path


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
