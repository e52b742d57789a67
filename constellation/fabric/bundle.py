"""Reads a program's files where it is deployed from: first what there is, as a manifest, then the chunks that are missing elsewhere.

A file that changes meanwhile is noticed: while it is read for the manifest by its size, times and inode before and
after, and later by the digest of each chunk. So what runs on the fabric is what the manifest says, or nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgpack

from constellation.core.bundle import (
    BUNDLE_LIMIT,
    DIGEST,
    LARGEST_CHUNK,
    MOST_ENTRIES,
    Chunk,
    Chunker,
    Entry,
    Manifest,
    digest_of,
    layout_problems,
    path_problem,
    shown,
    split,
)
from constellation.core.errors import DeployError, UsageError
from constellation.core.resources import format_mem, parse_mem
from constellation.fabric.project import Listed, list_files, unreadable

LIMIT_VARIABLE = "CONSTELLATION_BUNDLE_LIMIT"
_BLOCK = 1 << 20
_TRIES = 3
"""How often a file that changes while it is read is begun anew."""
_NAMED = 5
"""How many files a refusal names."""


def bundle_limit(environ: Mapping[str, str]) -> int:
    """Bytes that a program may have.

    Raises:
        UsageError: CONSTELLATION_BUNDLE_LIMIT cannot be read.
    """
    text = environ.get(LIMIT_VARIABLE)
    if text is None:
        return BUNDLE_LIMIT
    try:
        return parse_mem(text)
    except UsageError as error:
        raise UsageError(f"{LIMIT_VARIABLE}: {error}") from error


def collect(
    root: str,
    *,
    limit: int = BUNDLE_LIMIT,
    needed: Iterable[str] = (),
    note: Callable[[str], None] = lambda _words: None,
) -> Manifest:
    """Read what a root has, whole, and list it.

    Args:
        root: The folder, absolute, as `find_root` found it.
        limit: Bytes that its files may have together.
        needed: Paths below the root that must be among them, such as the program itself.
        note: Is told what somebody who misses a file should know.

    Raises:
        DeployError: It is too large (with the largest files), a file cannot be read or keeps changing, a symbolic link leads
            outside, or what is needed does not travel; says which.

    Blocks: Reads every file; 60 MiB a second.
    """
    listed = sorted(_within(list_files(root, note), limit))
    top = os.fsencode(root)
    links = [_link(top, each.path) for each in listed if _is_link(each)]
    # Of files only the path matters for what can be wrong with the tree: so that is said before they are read.
    _refuse_problems([*links, *(Entry(each.path, "file") for each in listed if not _is_link(each))])
    _refuse_absent(needed, {each.path for each in listed}, root)
    entries: list[Entry] = list(links)
    for each in listed:
        if not _is_link(each):
            entry = _read(top, each.path)
            if entry is not None:
                entries.append(entry)
    return Manifest(tuple(sorted(entries)))


def _is_link(listed: Listed) -> bool:
    return (listed.status.st_mode & 0o170000) == 0o120000


def _within(found: Iterable[Listed], limit: int) -> list[Listed]:
    """All that is found, if it is not too much."""
    listed = []
    total = 0
    for each in found:
        listed.append(each)
        total += 0 if _is_link(each) else each.status.st_size
        # Where it is far too much, it is not counted to its end.
        if len(listed) > MOST_ENTRIES:
            raise DeployError(
                f"cannot take {'more than ' if total <= limit else ''}{MOST_ENTRIES} files along"
                f"{_most_in(listed)}; have git ignore what the program does not need, or deploy a smaller folder"
            )
    if total > limit:
        largest = sorted(listed, key=lambda each: (-each.status.st_size, each.path))[:_NAMED]
        names = "".join(f"\n  {format_mem(each.status.st_size):>10}  {shown(each.path)}" for each in largest)
        raise DeployError(
            f"cannot take {format_mem(total)} along, the limit is {format_mem(limit)}; the largest files:{names}\n"
            f"have git ignore what the program does not need, or raise {LIMIT_VARIABLE}"
        )
    return listed


def _most_in(listed: list[Listed]) -> str:
    counts: dict[bytes, int] = {}
    for each in listed:
        first, slash, _ = each.path.partition(b"/")
        if slash:
            counts[first] = counts.get(first, 0) + 1
    if not counts:
        return ""
    fullest = max(counts, key=lambda name: (counts[name], name))
    return f"; {shown(fullest)}/ has {counts[fullest]} of them"


def _refuse_problems(entries: list[Entry]) -> None:
    words = [f"{entry.name}: {wrong}" for entry in entries if (wrong := path_problem(entry.path)) is not None]
    words += [f"{problem.name}: {problem.words}" for problem in layout_problems(entries)]
    if words:
        more = f"\n  and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
        listed = "".join(f"\n  {line}" for line in words[:_NAMED])
        raise DeployError(
            f"cannot take these along:{listed}{more}\nhave git ignore them, or replace a link by what it leads to"
        )


def _refuse_absent(needed: Iterable[str], paths: set[bytes], root: str) -> None:
    for name in needed:
        path = os.fsencode(os.path.normpath(name))
        if path not in paths and not any(other.startswith(path + b"/") for other in paths) and path != b".":
            raise DeployError(
                f"{shown(path)} does not travel: it is ignored by git, or left out, in {root}; "
                "take it out of .gitignore, or deploy it from a folder of its own"
            )


def _link(top: bytes, path: bytes) -> Entry:
    try:
        target = os.readlink(os.path.join(top, path))
    except OSError as error:
        raise unreadable(path, error) from error
    if target.startswith(b"/"):  # one that stays inside is made relative: the copy lies elsewhere
        real = os.path.join(os.path.realpath(os.path.dirname(target)), os.path.basename(target))
        if real == top or real.startswith(top.rstrip(b"/") + b"/"):
            target = os.path.relpath(real, os.path.dirname(os.path.join(top, path)))
    return Entry(path, "symlink", target=target)


def _read(top: bytes, path: bytes) -> Entry | None:
    """Read a file in chunks; None if it is gone."""
    whole = os.path.join(top, path)
    for _ in range(_TRIES):
        try:
            fd = os.open(whole, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(path, error) from error
        try:
            before = os.fstat(fd)
            chunks = _chunks(fd, before.st_size)
            after = os.fstat(fd)
            now = os.lstat(whole)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(path, error) from error
        finally:
            os.close(fd)
        entry = Entry(path, "file", executable=bool(before.st_mode & 0o100), chunks=chunks)
        if _marks(before) == _marks(after) == _marks(now) and entry.size == before.st_size:
            return entry
    raise DeployError(
        f"{shown(path)} changes while it is read: stop what writes to it, or have git ignore it, and deploy again"
    )


def _chunks(fd: int, size: int) -> tuple[Chunk, ...]:
    chunker = Chunker()
    chunks: list[Chunk] = []
    # One byte more than there should be shows that it has grown; to its end it might grow for ever.
    left = size + 1
    while left and (block := os.read(fd, min(left, _BLOCK))):
        left -= len(block)
        chunks.extend(Chunk(digest_of(data), len(data)) for data in chunker.feed(block))
    chunks.extend(Chunk(digest_of(data), len(data)) for data in chunker.end())
    return tuple(chunks)


def _marks(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode)


class Source:
    """Gives the chunks of a manifest out of the folder that it was made of.

    Args:
        root: That folder.
        manifest: What `collect` gave for it.
    """

    def __init__(self, root: str, manifest: Manifest) -> None:
        self._top = os.fsencode(root)
        self._places: dict[bytes, tuple[bytes, int, int]] = {}
        """Of each chunk a file that has it, where it begins there, and its size."""
        for entry in manifest.entries:
            begin = 0
            for chunk in entry.chunks:
                self._places.setdefault(chunk.digest, (entry.path, begin, chunk.size))
                begin += chunk.size

    def read(self, digest: bytes) -> bytes:
        """Read one chunk.

        Raises:
            KeyError: No file has it.
            DeployError: The file has changed since it was listed, or cannot be read; names it.
        """
        path, begin, size = self._places[digest]
        try:
            fd = os.open(os.path.join(self._top, path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                data = os.pread(fd, size, begin)
            finally:
                os.close(fd)
        except FileNotFoundError:
            data = b""
        except OSError as error:
            raise unreadable(path, error) from error
        if digest_of(data) != digest:
            raise DeployError(f"{shown(path)} has changed while it was being deployed: deploy again")
        return data


class Outline(NamedTuple):
    """A manifest as bytes, cut into chunks like a file: after a small change most of it is known already, too."""

    chunks: tuple[Chunk, ...]
    parts: dict[bytes, bytes]
    """The chunks' content by digest."""


def outline(manifest: Manifest) -> Outline:
    """Pack a manifest for a peer that may have most of it."""
    parts = split(msgpack.packb(manifest.to_fields()))
    named = [(digest_of(part), part) for part in parts]
    return Outline(tuple(Chunk(digest, len(part)) for digest, part in named), dict(named))


def read_outline(parts: Iterable[bytes], *, limit: int = BUNDLE_LIMIT) -> Manifest:
    """Put a manifest together again.

    Args:
        parts: The content of the outline's chunks, in order.
        limit: Bytes that all files may have together.

    Raises:
        ValueError: It is none, or breaks a rule; says which.
    """
    most = outline_limit(limit)
    packed = bytearray()
    for part in parts:
        packed += part
        if len(packed) > most:
            raise ValueError(f"a manifest of more than {most} bytes")
    try:
        fields = _unpacked(packed)
    except (ValueError, msgpack.UnpackException) as error:
        raise ValueError(f"not a manifest: {error or type(error).__name__}") from error
    return Manifest.from_fields(fields, limit=limit)


def _unpacked(packed: bytearray) -> list[object]:
    """The plain form of a packed manifest, one list after the other, so that its length is known before it takes memory.

    Unpacked in one go 32 MiB of empty lists would be 2.5 GB.
    """
    unpacker = msgpack.Unpacker(max_buffer_size=len(packed), max_array_len=0, max_map_len=0, max_ext_len=0)
    unpacker.feed(packed)
    if unpacker.read_array_header() != 2:
        raise ValueError("expected a version and files")
    version = unpacker.unpack()
    count = unpacker.read_array_header()
    if count > MOST_ENTRIES:
        raise ValueError(f"a list of {count} files: expected at most {MOST_ENTRIES}")
    fields: list[object] = [version, [_unpacked_file(unpacker) for _ in range(count)]]
    if unpacker.tell() != len(packed):
        raise ValueError(f"{len(packed) - unpacker.tell()} bytes behind its end")
    return fields


def _unpacked_file(unpacker: msgpack.Unpacker) -> list[object]:
    length = unpacker.read_array_header()
    if length == 2:
        return [unpacker.unpack(), unpacker.unpack()]
    if length != 4:
        raise ValueError(f"a file with {length} fields")
    start: list[object] = [unpacker.unpack(), unpacker.unpack(), unpacker.unpack()]
    digests, count = start[2], unpacker.read_array_header()
    if type(digests) is not bytes or len(digests) != DIGEST * count:
        raise ValueError(f"{count} chunks for other digests")
    return [*start, [unpacker.unpack() for _ in range(count)]]


def outline_limit(limit: int = BUNDLE_LIMIT) -> int:
    """Bytes that the packed manifest of a program of ``limit`` bytes may have: a hundredth, and 32 MiB for names."""
    return limit // 100 + (32 << 20)


def most_outline_chunks(limit: int = BUNDLE_LIMIT) -> int:
    """Into how many chunks the packed manifest of a program of ``limit`` bytes may be cut."""
    return outline_limit(limit) // 1024


def outline_chunks(fields: object, *, limit: int = BUNDLE_LIMIT) -> tuple[Chunk, ...]:
    """Check the list of an outline's chunks, ``[[digest, size], ...]``, as it came from a peer.

    Raises:
        ValueError: It is none, or of a manifest that is too large.
    """
    if not isinstance(fields, list) or len(fields) > most_outline_chunks(limit):
        raise ValueError("not the chunks of a manifest")
    chunks = []
    for each in fields:
        if not isinstance(each, list) or len(each) != 2 or type(each[0]) is not bytes or type(each[1]) is not int:
            raise ValueError("not a chunk of a manifest")
        if len(each[0]) != 32 or not 0 < each[1] <= LARGEST_CHUNK:
            raise ValueError(f"not a chunk of a manifest: {each[1]} bytes")
        chunks.append(Chunk(each[0], each[1]))
    if sum(chunk.size for chunk in chunks) > outline_limit(limit):
        raise ValueError(f"a manifest of more than {outline_limit(limit)} bytes")
    return tuple(chunks)
