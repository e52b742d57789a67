"""Programs as manifests and chunks: what is refused of a stranger's, and that a small change moves little."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constellation.core import bundle
from constellation.core.bundle import (
    DIGEST,
    LARGEST_CHUNK,
    MOST_ENTRIES,
    SMALLEST_CHUNK,
    Chunk,
    Chunker,
    Entry,
    Manifest,
    digest_of,
    layout_problems,
    path_problem,
    split,
)


def file(path: bytes, *parts: bytes, executable: bool = False) -> Entry:
    """An entry with some content."""
    return Entry(path, "file", executable, tuple(Chunk(digest_of(part), len(part)) for part in parts))


def link(path: bytes, target: bytes) -> Entry:
    """A symbolic link."""
    return Entry(path, "symlink", target=target)


def text(size: int, seed: int) -> bytes:
    """Something like a program's text."""
    chosen = random.Random(seed)
    words = [bytes(chosen.choices(b"abcdefghij_", k=chosen.randint(1, 9))) for _ in range(2000)]
    lines = bytearray()
    while len(lines) < size:
        lines += b"    " * chosen.randint(0, 3) + b" ".join(chosen.choices(words, k=chosen.randint(1, 9))) + b"\n"
    return bytes(lines)


def test_manifest_survives_the_wire() -> None:
    """Files, executables, empty files, links, names that are not UTF-8."""
    manifest = Manifest(
        (
            file(b"a/b.py", b"x" * SMALLEST_CHUNK, b"y", executable=True),
            file(b"empty"),
            link(b"l", b"a/b.py"),
            file(b"caf\xe9\n"),
        )
    )
    again = Manifest.from_fields(manifest.to_fields())
    assert again == manifest
    assert [entry.mode for entry in again.entries] == [0o755, 0o644, 0o644, 0o644]
    assert (again.size, list(again.chunks().values())) == (SMALLEST_CHUNK + 1, [SMALLEST_CHUNK, 1])
    assert again.entries[3].name == "'caf\\xe9\\n'"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (b"", "a path of 0 bytes"),
        (b"a" * 300, "a part of 300 bytes"),
        (b"/".join([b"a"] * 2500), "a path of 4999 bytes"),
        (b"/etc/passwd", "an absolute path"),
        (b"../x", "the part '..'"),
        (b"a/../../x", "the part '..'"),
        (b"a/./x", "the part '.'"),
        (b"a//x", "the part ''"),
        (b"a/", "the part ''"),
        (b"..", "the part '..'"),
        (b"a\0b", "a zero byte"),
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(path: bytes, words: str) -> None:
    """Of whatever entry, with words that name it."""
    assert words in str(path_problem(path))
    for entry in (file(path, b"x"), link(path, b"x")):
        with pytest.raises(ValueError, match=r"."):
            Manifest.from_fields(Manifest((entry,)).to_fields())


@pytest.mark.parametrize(
    ("entries", "name", "words"),
    [
        ([file(b"a"), file(b"a")], "a", "there twice"),
        ([file(b"a"), link(b"a", b"b")], "a", "there twice"),
        ([file(b"a"), file(b"a/b")], "a/b", "below a, which is a file"),
        ([file(b"a/b/c"), link(b"a", b"x")], "a/b/c", "below a, which is a symlink"),
        ([link(b"a", b"/etc")], "a", "absolute"),
        ([link(b"a", b"..")], "a", "leads outside"),
        ([link(b"a/b", b"../../x")], "a/b", "leads outside"),
        ([link(b"a", b"b/../..")], "a", "leads outside"),
        ([link(b"x/up", b".."), link(b"y", b"x/up/..")], "y", "leads outside"),
        ([link(b"one", b"two/x"), link(b"two", b"three/.."), link(b"three", b"..") ], "one", "leads outside"),
        ([link(b"a", b"b/x"), link(b"b", b"/etc")], "a", "leads outside"),
        ([link(b"a", b"b"), link(b"b", b"a")], "a", "through more than 40 others"),
    ],
)  # fmt: skip
def test_a_tree_that_cannot_be_or_leads_out_is_refused(entries: list[Entry], name: str, words: str) -> None:
    """Twice the same, something below a file or a link, links that climb out by themselves or through each other."""
    problems = layout_problems(entries)
    assert name in [problem.name for problem in problems]
    assert words in next(problem.words for problem in problems if problem.name == name)
    with pytest.raises(ValueError, match=r"."):
        Manifest.from_fields(Manifest(tuple(entries)).to_fields())


def test_links_that_stay_inside_are_taken() -> None:
    """Also upward, to a folder, to nothing, and through others."""
    entries = [
        file(b"a/b/c"),
        link(b"a/up", b".."),
        link(b"to", b"a/up/a/b"),
        link(b"gone", b"nowhere/at/all"),
        link(b"a/b/self", b"."),
        link(b"deep", b"a//b/./../b/c"),
    ]
    assert layout_problems(entries) == []


FINE = Manifest((file(b"a", b"x" * SMALLEST_CHUNK, b"y"),)).to_fields()
BLOB = digest_of(b"x")


@pytest.mark.parametrize(
    "fields",
    [
        None, {}, [], [1], [2, []], [1, {}], [1, [None]], [1, [[b"a"]]], [1, [[b"a", True, b"", [], 1]]],
        [1, [["a", False, b"", []]]], [1, [[b"a", 1, b"", []]]], [1, [[b"a", False, "", []]]], [1, [[b"a", False, b"", ()]]],
        [1, [[b"a", False, BLOB, []]]], [1, [[b"a", False, BLOB[:-1], [1]]]], [1, [[b"a", False, BLOB, [0]]]],
        [1, [[b"a", False, BLOB, [-1]]]], [1, [[b"a", False, BLOB, [True]]]], [1, [[b"a", False, BLOB, [1.0]]]],
        [1, [[b"a", False, BLOB, [LARGEST_CHUNK + 1]]]], [1, [[b"a", False, BLOB, [1 << 70]]]],
        [1, [[b"a", False, BLOB * 2, [SMALLEST_CHUNK - 1, 1]]]],
        [1, [[b"a", False, BLOB, [1]], [b"b", False, BLOB, [2]]]],
        [1, [[b"l", b""]]], [1, [[b"l", "x"]]], [1, [[b"l", b"a\0"]]], [1, [[b"l", b"x" * 5000]]],
    ],
)  # fmt: skip
def test_fields_that_are_none_of_a_manifest_are_refused(fields: Any) -> None:
    """Wrong types, counts that do not fit, chunks of sizes that cannot be, one digest with two sizes."""
    with pytest.raises(ValueError, match=r"."):
        Manifest.from_fields(fields)


def test_limits_hold_on_bytes_and_entries() -> None:
    """A manifest cannot promise to fill the disk, or the memory of whoever reads it."""
    assert Manifest.from_fields(FINE, limit=SMALLEST_CHUNK + 1).size == SMALLEST_CHUNK + 1
    with pytest.raises(ValueError, match=f"more than {SMALLEST_CHUNK} bytes, at a"):
        Manifest.from_fields(FINE, limit=SMALLEST_CHUNK)
    with pytest.raises(ValueError, match="100001 files"):
        Manifest.from_fields([1, [[b"a", False, b"", []]] * (MOST_ENTRIES + 1)])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.binary(max_size=70) | st.text(max_size=5) | st.just(BLOB),
        lambda inner: st.lists(inner, max_size=5),
    )
)
def test_whatever_comes_is_read_or_refused(anything: Any) -> None:
    """No other error leaves, so that a stranger cannot end a node."""
    for fields in (anything, [1, anything], [1, [anything]], [1, [[b"a", False, BLOB, anything]]]):
        try:
            manifest = Manifest.from_fields(fields)
        except ValueError:
            continue
        assert Manifest.from_fields(manifest.to_fields()) == manifest


@settings(max_examples=30)
@given(st.integers(0, 5), st.lists(st.integers(1, 70_000), max_size=12))
def test_chunks_do_not_depend_on_how_the_content_came(seed: int, sizes: list[int]) -> None:
    """Whether a file is read in large or in small blocks, its chunks are the same."""
    content = text(200_000, seed)
    chunker = Chunker()
    chunks = []
    at = 0
    for size in sizes:
        chunks += chunker.feed(content[at : at + size])
        at += size
    chunks += [*chunker.feed(content[at:]), *chunker.end()]
    assert chunks == split(content)
    assert b"".join(chunks) == content
    assert all(SMALLEST_CHUNK <= len(chunk) <= LARGEST_CHUNK for chunk in chunks[:-1])
    assert 0 < len(chunks[-1]) <= LARGEST_CHUNK


@pytest.mark.parametrize("size", [0, 1, 47, 48, 49, SMALLEST_CHUNK, LARGEST_CHUNK, LARGEST_CHUNK + 1])
def test_small_and_uniform_contents_are_cut_too(size: int) -> None:
    """Nothing gives nothing, and a file of zeros, which has no marks of its own, is one chunk again and again."""
    chunks = split(bytes(size))
    assert b"".join(chunks) == bytes(size)
    assert len(set(split(bytes(1 << 20)))) <= 2


@pytest.mark.parametrize("kind", ["text", "random", "table"])
def test_a_line_put_into_a_large_file_moves_under_100_kb(kind: str) -> None:
    """At its start, at its end and anywhere else: what follows is found again."""
    chosen = random.Random(11)
    if kind == "text":
        before = text(2 << 20, 7)
    elif kind == "random":
        before = chosen.randbytes(2 << 20)
    else:
        before = b"".join(b"%d,%d,0.0,none\n" % (line, line * 7 % 1000) for line in range(120_000))
    known = {digest_of(chunk) for chunk in split(before)}
    for number in range(12):
        at = (0, len(before), *(chosen.randrange(len(before)) for _ in range(10)))[number]
        after = before[:at] + b"print('one more line')\n" + before[at:]
        moved = sum(len(chunk) for chunk in split(after) if digest_of(chunk) not in known)
        assert moved < 100_000, (at, moved)


def test_cuts_stay_the_same_from_version_to_version() -> None:
    """Two versions that cut differently would move everything once; so a change of the rule is made on purpose."""
    content = text(300_000, 1)
    assert [len(chunk) for chunk in split(content)][:4] == [4424, 8501, 11147, 4325]
    assert len(bundle.digest_of(b"")) == DIGEST
