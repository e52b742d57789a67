"""A program as it is brought to a fabric: the list of its files, their content in chunks that are named by what they hold.

Whoever has a chunk already does not get it again, so a second deployment moves what has changed and little else.

**Chunks end where the content says so**, not every so many bytes: a line put in at the start of a big file moves all that
follows, and with chunks of one size each of them would be new. A chunk ends behind a window of 48 bytes whose checksum
has certain bits, at `SMALLEST_CHUNK` or more, at `LARGEST_CHUNK` in any case; 12 KiB in the middle. After a change the ends
are soon the same again. The price is 15 ms/MiB when a program is read, and a digest for every 12 KiB instead of for 256. (A
file that repeats itself with a period that does not divide the largest size has no such windows, and moves as a whole.)

Looking at every window with a checksum would take 300 ms/MiB in this language. So a mark is looked for first: a byte of a hash
of the eight bytes before it that is 0, one in 256. The hash is made for all places at once out of three steps of bytes.translate and
of XOR over whole integers, which run in C. Only at marks is the checksum of the window made.

**What comes from elsewhere is checked here**: a manifest comes from a deployer and is written to the disk by a node that may
run as root. Its paths are relative, without ``..``, each once, none below a file or a symbolic link; its symbolic links stay
inside, followed through each other; all sizes and counts have limits. How it is written, so that this stays true on
a disk where others write too, is in `constellation.fabric.store`.
"""

from __future__ import annotations

import hashlib
import re
import reprlib
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

DIGEST: Final = 32
"""Bytes of a BLAKE2b-256."""
SMALLEST_CHUNK: Final = 4 << 10
LARGEST_CHUNK: Final = 32 << 10
"""Three of them, which a change in an unlucky place can cost, stay below 100 KB; a usual change costs 20."""
BUNDLE_LIMIT: Final = 256 << 20
"""Bytes of a program by default (CONSTELLATION_BUNDLE_LIMIT): what is larger is mostly data or an environment by mistake."""
MOST_ENTRIES: Final = 100_000
"""Files of a program. The kernel of Linux has 90,000."""
LARGEST_PATH: Final = 4095
"""Bytes of a path, of which a folder's name has 255 at most: as the kernel has it."""
LARGEST_NAME: Final = 255
MOST_HOPS: Final = 40
"""Symbolic links on the way to a file: as the kernel has it."""

_VERSION = 1
_WINDOW = 48
_MARKED = 0x1F
_HASHED = 8
_EMPTY_SLOT = re.compile(b"\0")


def digest_of(data: bytes | memoryview) -> bytes:
    """The name of a chunk: BLAKE2b-256 of its bytes."""
    return hashlib.blake2b(data, digest_size=DIGEST).digest()


class Chunk(NamedTuple):
    """A part of a file."""

    digest: bytes
    size: int


class Entry(NamedTuple):
    """One file or symbolic link."""

    path: bytes
    """Relative to the root, parts separated by ``/``. Bytes, for a name need not be UTF-8."""
    kind: str
    """``file`` or ``symlink``."""
    executable: bool = False
    chunks: tuple[Chunk, ...] = ()
    """Of a file, in order."""
    target: bytes = b""
    """Of a symbolic link: relative to the folder that it lies in, inside the root."""

    @property
    def mode(self) -> int:
        """The permissions that it is written with: of those here only the executable bit travels, as with git."""
        return 0o755 if self.executable else 0o644

    @property
    def size(self) -> int:
        """Bytes of a file."""
        return sum(chunk.size for chunk in self.chunks)

    @property
    def name(self) -> str:
        """The path for people."""
        return shown(self.path)


class Manifest(NamedTuple):
    """All files of a program, sorted by path."""

    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.entries)

    def chunks(self) -> dict[bytes, int]:
        """The size of every chunk by its digest, each once, in the order in which they are needed."""
        return {chunk.digest: chunk.size for entry in self.entries for chunk in entry.chunks}

    def to_fields(self) -> list[Any]:
        """Plain values for a message: a version, then for each file path, executable, digests, sizes; for a link path and target."""
        return [
            _VERSION,
            [
                [entry.path, entry.target]
                if entry.kind == "symlink"
                else [
                    entry.path,
                    entry.executable,
                    b"".join(chunk.digest for chunk in entry.chunks),
                    [chunk.size for chunk in entry.chunks],
                ]
                for entry in self.entries
            ],
        ]

    @classmethod
    def from_fields(cls, fields: Any, *, limit: int = BUNDLE_LIMIT) -> Manifest:
        """Read what `to_fields` gave, and hold it against every rule above.

        Args:
            fields: Whatever came.
            limit: Bytes that all files may have together.

        Raises:
            ValueError: It breaks a rule; says which one, with which value.
        """
        if type(fields) is not list or len(fields) != 2 or fields[0] != _VERSION or type(fields[1]) is not list:
            raise ValueError(f"not a manifest of version {_VERSION}: {reprlib.repr(fields)}")
        plain = fields[1]
        if len(plain) > MOST_ENTRIES:
            raise ValueError(f"a manifest of {len(plain)} files: expected at most {MOST_ENTRIES}")
        entries = []
        total = 0
        sizes: dict[bytes, int] = {}
        for fields_of_one in plain:
            entry = _entry(fields_of_one)
            total += entry.size
            if total > limit:
                raise ValueError(f"a manifest of more than {limit} bytes, at {entry.name}")
            for chunk in entry.chunks:
                if sizes.setdefault(chunk.digest, chunk.size) != chunk.size:
                    raise ValueError(f"{entry.name}: a chunk of {chunk.size} bytes that has another size before")
            entries.append(entry)
        manifest = cls(tuple(entries))
        problem = next(iter(layout_problems(manifest.entries)), None)
        if problem is not None:
            raise ValueError(f"{problem.name}: {problem.words}")
        return manifest


class Problem(NamedTuple):
    """Something about a path that cannot be."""

    path: bytes
    words: str

    @property
    def name(self) -> str:
        """The path for people."""
        return shown(self.path)


def _entry(fields: Any) -> Entry:
    """Check and make one entry by itself."""
    if type(fields) is not list or len(fields) not in {2, 4} or type(fields[0]) is not bytes:
        raise ValueError(f"not a file of a manifest: {reprlib.repr(fields)}")
    path = fields[0]
    wrong = path_problem(path)
    if wrong is not None:
        raise ValueError(f"{shown(path)}: {wrong}")
    if len(fields) == 2:
        target = fields[1]
        if type(target) is not bytes or not 0 < len(target) <= LARGEST_PATH or b"\0" in target:
            raise ValueError(f"{shown(path)}: a symbolic link to {reprlib.repr(target)}")
        return Entry(path, "symlink", target=target)
    _, executable, digests, sizes = fields
    if type(executable) is not bool or type(digests) is not bytes or type(sizes) is not list:
        raise ValueError(f"{shown(path)}: not the fields of a file: {reprlib.repr(fields[1:])}")
    if len(digests) != DIGEST * len(sizes):
        raise ValueError(f"{shown(path)}: {len(digests)} bytes of digests for {len(sizes)} chunks")
    for number, size in enumerate(sizes):
        least = 1 if number == len(sizes) - 1 else SMALLEST_CHUNK
        if type(size) is not int or not least <= size <= LARGEST_CHUNK:
            raise ValueError(
                f"{shown(path)}: a chunk of {reprlib.repr(size)} bytes: expected {least} to {LARGEST_CHUNK}"
            )
    chunks = tuple(Chunk(digests[DIGEST * at : DIGEST * (at + 1)], size) for at, size in enumerate(sizes))
    return Entry(path, "file", executable=executable, chunks=chunks)


def path_problem(path: bytes) -> str | None:
    """Say why a path cannot be one of a program's; None if it can."""
    if not 0 < len(path) <= LARGEST_PATH:
        return f"a path of {len(path)} bytes: expected 1 to {LARGEST_PATH}"
    if b"\0" in path:
        return "a path with a zero byte"
    if path.startswith(b"/"):
        return "an absolute path: expected one relative to the root"
    for part in path.split(b"/"):
        if part in {b"", b".", b".."}:
            return f"a path with the part {part.decode()!r}: expected names only"
        if len(part) > LARGEST_NAME:
            return f"a path with a part of {len(part)} bytes: expected at most {LARGEST_NAME}"
    return None


def layout_problems(entries: Iterable[Entry]) -> list[Problem]:
    """Say what cannot be about entries together: a path twice or below one that is no folder, a link that leads outside.

    Args:
        entries: Each with a path that has been checked by itself.
    """
    problems: list[Problem] = []
    kinds: dict[bytes, Entry] = {}
    for entry in entries:
        if entry.path in kinds:
            problems.append(Problem(entry.path, "there twice"))
        kinds.setdefault(entry.path, entry)
    folders: set[bytes] = set()
    for path in kinds:
        above = path.rpartition(b"/")[0]
        while above and above not in folders:
            if above in kinds:
                problems.append(Problem(path, f"below {shown(above)}, which is a {kinds[above].kind}"))
                break
            folders.add(above)
            above = above.rpartition(b"/")[0]
    links = {path: entry.target for path, entry in kinds.items() if entry.kind == "symlink"}
    for path in links:
        wrong = _link_problem(path, links)
        if wrong is not None:
            problems.append(Problem(path, wrong))
    return problems


def _link_problem(path: bytes, links: dict[bytes, bytes]) -> str | None:
    """Follow a symbolic link as the kernel would, through the other links; None if the way stays inside.

    Words alone do not do: where ``up`` is a link to ``..``, ``up/..`` is not where it stands.
    """
    place = path.split(b"/")[:-1]
    todo = links[path].split(b"/")
    if links[path].startswith(b"/"):
        return f"a symbolic link to the absolute path {shown(links[path])}"
    hops = 0
    while todo:
        step = todo.pop(0)
        if step in {b"", b"."}:
            continue
        if step == b"..":
            if not place:
                return f"a symbolic link to {shown(links[path])}, which leads outside"
            place.pop()
            continue
        place.append(step)
        target = links.get(b"/".join(place))
        if target is not None:
            hops += 1
            if hops > MOST_HOPS:
                return f"a symbolic link to {shown(links[path])}, which leads through more than {MOST_HOPS} others"
            if target.startswith(b"/"):
                return f"a symbolic link to {shown(links[path])}, which leads outside"
            place.pop()
            todo[:0] = target.split(b"/")
    return None


def shown(path: bytes) -> str:
    """A path for people, on one line: what is not UTF-8 or not printable as escapes."""
    text = path.decode("utf-8", "surrogateescape")
    return text if text.isprintable() and text else repr(path)[1:]


class Chunker:
    """Cuts the content of one file into chunks; the cuts depend on nothing but the content."""

    def __init__(self) -> None:
        self._held = b""
        self._marks: list[int] = []
        """Places in what is held at which a chunk may end."""

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes; give the chunks that are whole."""
        old = len(self._held)
        self._held += data
        # No chunk ends before SMALLEST_CHUNK, so a window never reaches back over its beginning.
        start = max(0, old - _WINDOW)
        view = self._held[start:]
        self._marks += [start + mark for mark in _marks(view) if start + mark > old]
        return self._cut(last=False)

    def end(self) -> list[bytes]:
        """Give what is left, when the file has ended."""
        return self._cut(last=True)

    def _cut(self, *, last: bool) -> list[bytes]:
        chunks = []
        begin = 0
        at = 0
        while True:
            while at < len(self._marks) and self._marks[at] < begin + SMALLEST_CHUNK:
                at += 1
            left = len(self._held) - begin
            if at < len(self._marks) and self._marks[at] <= begin + LARGEST_CHUNK:
                end = self._marks[at]
            elif left > LARGEST_CHUNK:
                end = begin + LARGEST_CHUNK
            elif last and left:
                end = len(self._held)
            else:
                break
            chunks.append(self._held[begin:end])
            begin = end
        self._held = self._held[begin:]
        self._marks = [mark - begin for mark in self._marks[at:]]
        return chunks


def split(data: bytes) -> list[bytes]:
    """Cut bytes that are all there into chunks."""
    chunker = Chunker()
    return [*chunker.feed(data), *chunker.end()]


def _permutation(seed: int) -> bytes:
    """A fixed, arbitrary order of all bytes, the same on every computer for ever."""
    keyed = [(digest_of(bytes([seed, value])), value) for value in range(256)]
    return bytes(value for _, value in sorted(keyed))


_SCRAMBLED: Final[Sequence[bytes]] = tuple(_permutation(seed) for seed in range(4))


def _marks(data: bytes) -> list[int]:
    """All places, from the first whole window on, at which a chunk may end."""
    count = len(data)
    if count < _WINDOW:
        return []
    # Byte i of the hash is made of the bytes i - 7 to i: a step joins to each place what stands 1, 2, then 4 before it.
    plane = data.translate(_SCRAMBLED[0])
    reach = 1
    for scrambled in _SCRAMBLED[1:]:
        shifted = bytes(reach) + plane[:-reach].translate(scrambled)
        plane = (int.from_bytes(plane, "little") ^ int.from_bytes(shifted, "little")).to_bytes(count, "little")
        reach *= 2
    return [
        place
        for place in (found.end() for found in _EMPTY_SLOT.finditer(plane, _WINDOW - 1))
        if zlib.crc32(data[place - _WINDOW : place]) & _MARKED == 0
    ]
