"""Who runs as whom: ``users.toml``, read by a node that was started as root.

    [users]
    alice = "alice"                                 # the owner in the credential = the Unix user
    "bob@lab" = "bob"
    carol = {user = "root", run_as_root = true}     # root must be said twice

An owner who does not stand here is refused. So is one who is mapped to root without saying so, since nobody would want
that by a slip, and one whose user this computer does not have. The file must be root's, and nobody else's to write.

A node that was not started as root runs everything as the person who started it, and needs no such file.
"""

from __future__ import annotations

import os
import pwd
import stat
import tomllib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from constellation.core.errors import HandshakeError, UsageError
from constellation.core.role import NAME_RULE, is_name
from constellation.core.tomllines import Place, lines_of

DEFAULT_FILE: Final = "/etc/constellation/users.toml"
LARGEST_FILE: Final = 4 << 20
_FIELDS = ("user", "run_as_root")


class Account(NamedTuple):
    """The Unix user that a deployment runs as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    """All groups of the user, ``gid`` among them."""
    home: str
    shell: str


class Mapped(NamedTuple):
    """What the file says of one owner."""

    user: str
    run_as_root: bool


class Users:
    """The mapping of owners to Unix users. Made by `load_users`.

    Args:
        path: The file, for messages.
        mapped: What it says.
    """

    def __init__(self, path: str, mapped: Mapping[str, Mapped]) -> None:
        self.path = path
        self.mapped = dict(mapped)

    def account_of(self, owner: str) -> Account:
        """The account of an owner, as this computer has it now.

        Raises:
            HandshakeError: The owner is refused; says why, and what to write where.
        """
        entry = self.mapped.get(owner)
        if entry is None:
            raise HandshakeError(
                f"the owner {owner!r} is mapped to no user of this computer: add a line to [users] in {self.path}, "
                f'such as "{owner}" = "USER"'
            )
        try:
            found = pwd.getpwnam(entry.user)
        except KeyError:
            raise HandshakeError(
                f"the owner {owner!r} is mapped to the user {entry.user!r} in {self.path}, whom this computer does not have: "
                f"useradd {entry.user}, or name another"
            ) from None
        if found.pw_uid == 0 and not entry.run_as_root:
            raise HandshakeError(
                f"the owner {owner!r} is mapped to {entry.user!r} in {self.path}, which is root: programs of a deployment do "
                f'not run as root unless it is said: "{owner}" = {{user = "{entry.user}", run_as_root = true}}'
            )
        groups = os.getgrouplist(found.pw_name, found.pw_gid)
        return Account(
            found.pw_name,
            found.pw_uid,
            found.pw_gid,
            tuple(sorted({found.pw_gid, *groups})),
            found.pw_dir,
            found.pw_shell,
        )


def load_users(path: str | None = None) -> Users:
    """Read the file.

    Raises:
        UsageError: It is not there, others may write it, or something in it is wrong: has all of that, with line and field.
    """
    path = path or DEFAULT_FILE
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise UsageError(
            f"this node runs as root and {path} does not exist: it says which Unix user runs whose programs; write one, "
            'such as: [users] and, on the next line, alice = "alice"; or start the node as the user who is to run them'
        ) from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"cannot read {path}: it is no file")
        if status.st_uid not in {0, os.geteuid()}:
            raise UsageError(f"{path} belongs to uid {status.st_uid}, who could become anybody: chown root {path}")
        if status.st_mode & 0o022:
            raise UsageError(
                f"{path} has mode {stat.S_IMODE(status.st_mode):04o}: its group or others could become anybody: "
                f"chmod 644 {path}"
            )
        with open(fd, "rb", closefd=False) as file:
            data = file.read(LARGEST_FILE + 1)
    finally:
        os.close(fd)
    if len(data) > LARGEST_FILE:
        raise UsageError(f"{path} is larger than {LARGEST_FILE} bytes: expected a list of users")
    try:
        return Users(path, read_users(data.decode(), path))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: {error}") from error


def read_users(text: str, where: str) -> dict[str, Mapped]:
    """Read the text of a users.toml.

    Args:
        text: What stands in it.
        where: The name of the file, for complaints.

    Raises:
        UsageError: Something is wrong; has all of it, each with line and field.
    """
    try:
        tables = tomllib.loads(text)
        lines = lines_of(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not TOML: {error}") from None
    complaints: list[tuple[int, str]] = []

    def complain(place: Place, words: str) -> None:
        line = lines.get(place, 1)
        complaints.append((line, f"{where}:{line}: {'.'.join(map(str, place))}: {words}"))

    for name in tables:
        if name != "users":
            complain((name,), "unknown field: expected only users")
    users = tables.get("users", {})
    mapped: dict[str, Mapped] = {}
    if not isinstance(users, dict):
        complain(("users",), f"{users!r}: expected a table, [users]")
        users = {}
    elif not users and not complaints:
        raise UsageError(f'{where}: there is nobody in it: expected [users] with lines such as alice = "alice"')
    for owner, value in users.items():
        if not is_name(owner):
            complain(("users", owner), f"no owner's name: expected {NAME_RULE}")
        entry = _entry(("users", owner), value, complain)
        if entry is not None:
            mapped[owner] = entry
    if complaints:
        raise UsageError("\n".join(words for _, words in sorted(complaints)))
    return mapped


def _entry(place: Place, value: Any, complain: Any) -> Mapped | None:
    """What stands for one owner; None where it is wrong."""
    table = value if isinstance(value, dict) else {"user": value}
    for field in table:
        if field not in _FIELDS:
            complain((*place, field), f"unknown field: expected {' or '.join(_FIELDS)}")
    user, as_root = table.get("user"), table.get("run_as_root", False)
    if not isinstance(user, str) or not user:
        complain(place, f'{user!r}: expected the name of a Unix user, such as "alice"')
        return None
    if not isinstance(as_root, bool):
        complain((*place, "run_as_root"), f"{as_root!r}: expected true or false")
        return None
    return Mapped(user, as_root)
