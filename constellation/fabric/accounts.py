"""As whom deployments run on a node: as the Unix user that `users.py` finds for their owner, where the node is root.

A process of such a deployment is that user's before anything of it runs: user, groups, umask and environment are set
between the fork and the exec, so the kernel keeps one deployment from the files, the memory and the signals of another.

What the daemon itself reads for a deployment at a path that its owner chose, it reads as that user too (`acting_as`), in
the one thread that does it: otherwise an error message could tell what is in a file that the owner may not read. And it
writes only into folders that no user can change meanwhile.

* Not root: everything runs as who started the node, and needs no file.
* Root, with users.toml: it is read again for each deployment, so a line that is added counts at once.
* Root, without, on loopback only: a first try. Root's own deployments run, as root, and nobody else's.
* Root, without, elsewhere: the node does not start.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
from collections.abc import Callable, Iterator
from typing import Any, Final

from constellation.core.errors import DeployError, HandshakeError
from constellation.fabric.credential import current_user
from constellation.fabric.users import DEFAULT_FILE, Account, load_users

UMASK: Final = 0o077
"""Of what runs as a mapped user: what it writes to a place that all share is not for all."""

_KEPT: Final = ("PATH", "LANG", "LC_ALL", "TZ")
_KEPT_FOR_PIP: Final = ("PYTHONPATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
_MEMLOCK: Final = 8 << 20
"""What the kernel gives to who says nothing."""

_libc = ctypes.CDLL(None, use_errno=True)
_SETGROUPS: Final = {"x86_64": 116, "aarch64": 159, "riscv64": 159, "loongarch64": 159, "ppc64le": 81, "s390x": 206}
"""The call itself: that of the C library changes all threads."""
_SETRESUID: Final = {"x86_64": 117, "aarch64": 147, "riscv64": 147, "loongarch64": 147, "ppc64le": 164, "s390x": 208}


class Accounts:
    """Finds the account of each owner.

    Args:
        path: The users.toml that was named; None: that in /etc, if the node needs one.
        is_loopback: The node can be reached from this computer only.
        log: Writes one line.

    Raises:
        UsageError: The file cannot be used, or there must be one; says what to write.
    """

    def __init__(self, path: str | None, log: Callable[[str], None], *, is_loopback: bool) -> None:
        self._path = path or DEFAULT_FILE
        self._user = current_user()
        self.is_mapping = os.geteuid() == 0 and (path is not None or not is_loopback or os.path.lexists(DEFAULT_FILE))
        """Whether each deployment runs as the user of its owner."""
        if self.is_mapping:
            load_users(self._path)
            # A thread that acts as a user has that user's groups, or none where it cannot be given them.
            os.setgroups([])
            log(f"runs each deployment as the user whom {self._path} names for its owner")
        elif os.geteuid() == 0:
            log(
                f"runs everything as root, and only what {self._user!r} deploys: for a first try on one computer; "
                f"{self._path} would say which user runs whose programs"
            )
        else:
            if path is not None:
                log(f"{path} is not used: only a node that was started as root can run programs as other users")
            log(f"runs everything as {self._user!r}: deployments of different people on it could read each other")

    def of(self, owner: str) -> Account | None:
        """The account that an owner's deployments run as; None: that of the daemon.

        Raises:
            HandshakeError: The owner is refused; says what to write where.
            UsageError: The file cannot be used any more.
        """
        if self.is_mapping:
            return load_users(self._path).account_of(owner)
        if os.geteuid() == 0 and owner != self._user:
            raise HandshakeError(
                f"this node runs as root, and has no list of who runs as whom: write {self._path}, with a line [users] and "
                f'below it "{owner}" = "USER"; or start the node as the user who is to run them'
            )
        return None


def launch_options(account: Account | None, *, is_pip: bool = False) -> dict[str, Any]:
    """What Popen needs to run something as an account: nothing of root's environment comes along.

    Args:
        account: None: as this process, with its environment.
        is_pip: It installs packages: what the environment says of that is kept.
    """
    if account is None:
        return {}
    environment = environment_of(account)
    if is_pip:
        environment |= {
            name: value for name, value in os.environ.items() if name.upper() in _KEPT_FOR_PIP or name[:4] == "PIP_"
        }
    return {
        "user": account.uid,
        "group": account.gid,
        "extra_groups": list(account.groups),
        "umask": UMASK,
        "cwd": "/",
        "env": environment,
    }


def environment_of(account: Account) -> dict[str, str]:
    """What a login of the account would have, as far as it does not depend on how."""
    return {
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
        "HOME": account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        "SHELL": account.shell or "/bin/sh",
    }


def bound_limits() -> None:
    """Lower this process's limits to what a login has by default, where those of root's daemon are higher."""
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_RTPRIO, 0),
        (resource.RLIMIT_NICE, 0),
        (resource.RLIMIT_MEMLOCK, _MEMLOCK),
    ):
        soft, hard = resource.getrlimit(kind)
        # A program may ask for its core file, and has to.
        hard = hard if kind == resource.RLIMIT_CORE else _lower(hard, most)
        resource.setrlimit(kind, (_lower(soft, most), hard))


def _lower(limit: int, most: int) -> int:
    return most if limit == resource.RLIM_INFINITY else min(limit, most)


@contextlib.contextmanager
def acting_as(account: Account | None) -> Iterator[None]:
    """Open files with the rights of an account, in this thread only. What is open stays.

    Raises:
        DeployError: The kernel does not do it.
    """
    if account is None or account.uid == 0:
        yield
        return
    try:
        _set_groups(account.groups)
        _libc.setfsgid(account.gid)
        _libc.setfsuid(account.uid)
        if (
            _libc.setfsuid(-1) != account.uid or _libc.setfsgid(-1) != account.gid
        ):  # they tell what was, not whether it went
            raise DeployError(f"cannot read files as {account.name!r}")
        yield
    finally:
        _libc.setfsuid(0)
        _libc.setfsgid(0)
        _set_groups(())


def _set_groups(groups: tuple[int, ...]) -> None:
    number = _SETGROUPS.get(os.uname().machine)
    if number is not None:
        _libc.syscall(number, len(groups), (ctypes.c_uint32 * len(groups))(*groups))


def open_entrance(account: Account, path: str) -> int:
    """Open a file of a control group by which processes enter it, so that with it an account moves its own ones alone.

    The kernel asks whether who opened it may move a process, whoever writes to it: with a descriptor that root has opened,
    anybody's could be moved. It is the account's for as long as it is opened, and not to be opened by others.

    Raises:
        OSError: It cannot be.
    """
    number = _SETRESUID.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), path)
    kept, unchanged = os.stat(path), ctypes.c_uint32(0xFFFFFFFF)
    os.chown(path, account.uid, kept.st_gid)
    try:
        if _libc.syscall(number, unchanged, ctypes.c_uint32(account.uid), unchanged) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
        try:
            return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        finally:
            _libc.syscall(number, unchanged, ctypes.c_uint32(0), unchanged)
    finally:
        os.chown(path, kept.st_uid, kept.st_gid)


def check_reach(account: Account | None, *paths: str) -> None:
    """See that an account gets at files of ours.

    Raises:
        DeployError: It does not; says which, and what mends it.
    """
    with acting_as(account):
        for path in paths:
            try:
                os.stat(path)
            except PermissionError:
                assert account is not None
                raise DeployError(
                    f"the user {account.name!r} cannot get at {path} on this node: Python, constellation and the folder of "
                    "--state must be where all users can read, such as below /usr, /opt and /var/lib"
                ) from None


def own_folder(path: str, account: Account | None) -> None:
    """Make a folder that belongs to an account alone, in one that only this process's user can change.

    Raises:
        OSError: It cannot be made.
    """
    if account is None:
        os.makedirs(path, mode=0o700, exist_ok=True)
        return
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    os.chown(path, account.uid, account.gid, follow_symlinks=False)
