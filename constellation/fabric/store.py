"""Where a node keeps the chunks of programs, and how it makes folders out of them.

**One store belongs to one owner.** Who has a chunk's name gets its content, so two people who must not read each other's files
must not share one; a node that serves several gives each a folder.

**Writing as root what a stranger lists.** The manifest has been checked (`constellation.core.bundle`), and is checked again
here. Each folder is opened below the one before by its name alone, without following symbolic links, and each file is made
new; so whatever somebody does to the tree while it grows, nothing is written outside. It grows under a name of its own, in
a folder that only its maker may enter, and gets its right name when it is whole.

**Nothing half-made is ever used.** A chunk is written beside its place and renamed into it, so two writers cannot disturb each
other. It is not synced: after a loss of power it may be broken, which its digest shows when it is read; then it is thrown
away, and is missing again. What a killed node leaves is swept by the next `trim`, and by `sweep`.

**Trimming takes nothing that is in use.** A user writes down first what it will need (`hold`), in a file that it keeps locked;
when it dies the kernel opens the lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from constellation.core.bundle import DIGEST, LARGEST_CHUNK, Entry, Manifest, digest_of, layout_problems, path_problem
from constellation.core.errors import DeployError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a disk on which room can be made."""
_STALE_S = 3600.0
"""A chunk takes milliseconds to be written: what lies beside its place for an hour was left by somebody who died."""
_PART = ".part"


class Owner(NamedTuple):
    """The Unix user that a folder is made for."""

    uid: int
    gid: int


class Store:
    """Chunks in a folder, shared by all processes that use the same one.

    Args:
        folder: It and the folders above it are made where they are missing; only the caller's user may enter it.

    Raises:
        DeployError: It cannot be made or used.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = os.path.abspath(folder)
        self._chunks = os.path.join(self.folder, "chunks")
        self._incoming = os.path.join(self.folder, "incoming")
        self._holds = os.path.join(self.folder, "holds")
        with _as_deploy_error(f"cannot use the store {self.folder}"):
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            for each in (self._chunks, self._incoming, self._holds):
                os.makedirs(each, mode=0o700, exist_ok=True)

    @contextlib.contextmanager
    def hold(self, digests: Iterable[bytes]) -> Iterator[None]:
        """Keep chunks from being trimmed, those that are here and those that are still to come.

        Call `missing` inside: what is found there stays then.
        """
        path = os.path.join(self._holds, secrets.token_hex(16))
        with _as_deploy_error(f"cannot use the store {self.folder}"):
            with self._locked(fcntl.LOCK_SH):
                fd = os.open(path, _NEW_FILE, 0o600)
                fcntl.flock(fd, fcntl.LOCK_EX)
            try:
                _write(fd, b"".join(digests))
            except OSError:
                os.unlink(path)
                os.close(fd)
                raise
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)
            os.close(fd)

    def missing(self, digests: Iterable[bytes]) -> list[bytes]:
        """Say which of some chunks are not here, each once, in order. Those that are here count as just used."""
        missing = []
        for digest in dict.fromkeys(digests):
            try:
                os.utime(self._path(digest))
            except FileNotFoundError:
                missing.append(digest)
            except OSError as error:
                raise _deploy_error(f"cannot use the store {self.folder}", error) from error
        return missing

    def put(self, digest: bytes, data: bytes | memoryview) -> None:
        """Take a chunk in; one that is here already is left as it is.

        Raises:
            ValueError: The data is not what the digest says, or too large: the peer's fault.
            DeployError: It cannot be written, such as when the disk is full; nothing of it is left.
        """
        if not 0 < len(data) <= LARGEST_CHUNK:
            raise ValueError(f"a chunk of {len(data)} bytes: expected 1 to {LARGEST_CHUNK}")
        if digest_of(data) != digest:
            raise ValueError(f"a chunk that is not {digest.hex()[:16]}...: its bytes have another digest")
        place = self._path(digest)
        if os.path.exists(place):
            return
        beside = os.path.join(self._incoming, secrets.token_hex(16))
        with _as_deploy_error(f"cannot keep a part of the program in {self.folder}"):
            try:
                fd = os.open(beside, _NEW_FILE, 0o600)
                try:
                    _write(fd, data)
                finally:
                    os.close(fd)
                with contextlib.suppress(FileExistsError):
                    os.mkdir(os.path.dirname(place), 0o700)
                os.rename(beside, place)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(beside)
                raise

    def read(self, digest: bytes) -> bytes:
        """Give the content of a chunk.

        Raises:
            KeyError: It is not here; one that was broken is not, either, from now on.
            DeployError: It cannot be read.
        """
        place = self._path(digest)
        try:
            with open(place, "rb") as file:
                data = file.read(LARGEST_CHUNK + 1)
        except FileNotFoundError:
            raise KeyError(digest) from None
        except OSError as error:
            raise _deploy_error(f"cannot read a part of the program in {self.folder}", error) from error
        if digest_of(data) != digest:
            with contextlib.suppress(OSError):
                os.unlink(place)
            raise KeyError(digest)
        return data

    def assemble(
        self,
        manifest: Manifest,
        target: str | os.PathLike[str],
        *,
        folders: Iterable[str] = (),
        owner: Owner | None = None,
    ) -> None:
        """Make a folder out of chunks.

        Args:
            manifest: What is to be in it; its chunks should be held.
            target: The folder, which must not be there, in one that is. It is made for its owner alone (mode 0700).
            folders: Folders below it that must be there even if no file is in them, such as the working directory.
            owner: Whom all of it is to belong to; only root can say so. None: the caller.

        Raises:
            ValueError: The manifest breaks a rule; nothing has been made.
            KeyError: A chunk is not here; nothing is left.
            DeployError: It cannot be written, such as when the disk is full; nothing is left.
        """
        _refuse_problems(manifest)
        extra = [os.fsencode(os.path.normpath(each)) for each in folders if each]
        for path in extra:
            if path != b"." and (wrong := path_problem(path)) is not None:
                raise ValueError(f"a folder {path!r}: {wrong}")
        whole = os.fspath(target)
        what = f"cannot lay the program out in {whole}"
        if os.path.lexists(whole):
            raise DeployError(f"{what}: it is there already; expected a new folder")
        part = os.path.join(os.path.dirname(whole), f".{os.path.basename(whole)}.{secrets.token_hex(8)}{_PART}")
        with _as_deploy_error(what):
            os.mkdir(part, 0o700)
            try:
                top = os.open(part, _FOLDER)
                try:
                    fcntl.flock(top, fcntl.LOCK_EX)  # tells `sweep` that somebody is at work
                    with contextlib.closing(_Tree(top, owner)) as tree:
                        for entry in sorted(manifest.entries):
                            tree.add(entry, self.read)
                        for path in extra:
                            tree.enter([each for each in path.split(b"/") if each != b"."])
                    if owner is not None:
                        os.fchown(top, *owner)
                    os.rename(part, whole)
                finally:
                    os.close(top)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise

    def trim(self, limit: int) -> int:
        """Throw away the chunks that were used longest ago, until the rest is no more than ``limit`` bytes.

        Those that somebody holds stay, so it may remain more. What dead users have left goes in any case.

        Returns:
            Bytes that have been freed.

        Blocks: Shortly, while somebody begins to hold.
        """
        with _as_deploy_error(f"cannot trim the store {self.folder}"), self._locked(fcntl.LOCK_EX):
            held = self._held()
            self._sweep_incoming()
            found = []
            for folder, _, names in os.walk(self._chunks):
                for name in names:
                    path = os.path.join(folder, name)
                    with contextlib.suppress(FileNotFoundError):
                        status = os.lstat(path)
                        found.append((status.st_mtime_ns, path, status.st_size))
            total = sum(size for _, _, size in found)
            freed = 0
            for _, path, size in sorted(found):
                if total - freed <= limit:
                    break
                if bytes.fromhex(os.path.basename(path)) not in held:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                    freed += size
            return freed

    def _path(self, digest: bytes) -> str:
        if len(digest) != DIGEST:
            raise ValueError(f"a digest of {len(digest)} bytes: expected {DIGEST}")
        name = digest.hex()
        return os.path.join(self._chunks, name[:2], name)

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        fd = os.open(os.path.join(self.folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, kind)
            yield
        finally:
            os.close(fd)

    def _held(self) -> set[bytes]:
        held: set[bytes] = set()
        for name in os.listdir(self._holds):
            path = os.path.join(self._holds, name)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            with os.fdopen(fd, "rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    data = file.read()
                    held.update(data[at : at + DIGEST] for at in range(0, len(data), DIGEST))
                else:  # nobody has it: its owner has died
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
        return held

    def _sweep_incoming(self) -> None:
        oldest = time.time() - _STALE_S
        for name in os.listdir(self._incoming):
            path = os.path.join(self._incoming, name)
            with contextlib.suppress(FileNotFoundError):
                if os.lstat(path).st_mtime < oldest:
                    os.unlink(path)


def sweep(folder: str | os.PathLike[str]) -> list[str]:
    """Remove what `Store.assemble` has left in a folder because its process was killed; give the names.

    What somebody is still making is left alone. For the start of a node: an `assemble` that another process begins in
    this very instant may fail.
    """
    swept = []
    for name in sorted(os.listdir(folder)):
        if not name.startswith(".") or not name.endswith(_PART):
            continue
        path = os.path.join(folder, name)
        try:
            fd = os.open(path, _FOLDER)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
            swept.append(name)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)
    return swept


class _Tree:
    """A tree of folders that grows, held by descriptors from the top down to the folder that is being filled."""

    def __init__(self, top: int, owner: Owner | None) -> None:
        self._owner = owner
        self._names: list[bytes] = []
        self._fds = [top]

    def add(self, entry: Entry, read: Callable[[bytes], bytes]) -> None:
        *folders, name = entry.path.split(b"/")
        self.enter(folders)
        if entry.kind == "symlink":
            os.symlink(entry.target, name, dir_fd=self._fds[-1])
            if self._owner is not None:
                os.chown(name, *self._owner, dir_fd=self._fds[-1], follow_symlinks=False)
            return
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=self._fds[-1])
        try:
            for chunk in entry.chunks:
                _write(fd, read(chunk.digest))
            if self._owner is not None:
                os.fchown(fd, *self._owner)
            os.fchmod(fd, entry.mode)  # after the change of owner, which takes bits away
        finally:
            os.close(fd)

    def enter(self, folders: list[bytes]) -> None:
        """Go to a folder, and make it and those on the way where they are missing."""
        common = 0
        while common < min(len(folders), len(self._names)) and folders[common] == self._names[common]:
            common += 1
        self._leave(common)
        for name in folders[common:]:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=self._fds[-1])
            fd = os.open(name, _FOLDER, dir_fd=self._fds[-1])
            self._fds.append(fd)
            self._names.append(name)
            if self._owner is not None:
                os.fchown(fd, *self._owner)
            os.fchmod(fd, 0o755)  # whatever the umask is

    def close(self) -> None:
        self._leave(0)

    def _leave(self, depth: int) -> None:
        while len(self._names) > depth:
            self._names.pop()
            os.close(self._fds.pop())


def _refuse_problems(manifest: Manifest) -> None:
    for entry in manifest.entries:
        wrong = path_problem(entry.path)
        if wrong is not None:
            raise ValueError(f"{entry.name}: {wrong}")
    for problem in layout_problems(manifest.entries):
        raise ValueError(f"{problem.name}: {problem.words}")


def _write(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@contextlib.contextmanager
def _as_deploy_error(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _deploy_error(what, error) from error


def _deploy_error(what: str, error: OSError) -> DeployError:
    if error.errno in FULL:
        return DeployError(f"{what}: {error.strerror}; make room on that disk, and deploy again")
    return DeployError(f"{what}: {error.strerror}{'' if error.filename is None else f' ({error.filename!r:.200})'}")
