"""Which files go along with a program, and how they arrive: real folders, real repositories, a real store."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core.bundle import LARGEST_CHUNK, Chunk, Entry, Manifest, digest_of
from constellation.core.errors import DeployError, UsageError
from constellation.fabric.bundle import (
    Source,
    bundle_limit,
    collect,
    outline,
    outline_chunks,
    read_outline,
)
from constellation.fabric.project import Place, find_root
from constellation.fabric.store import Owner, Store, sweep

ROOT = Path(__file__).resolve().parents[2]
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
GIT = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "protocol.file.allow=always"]


@pytest.fixture(autouse=True)
def _no_git_of_the_person(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the person's own ignore lists out, and a hook's variables."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / "config"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))


def git(folder: Path, *arguments: str) -> None:
    """Run git in a folder."""
    environment = {name: value for name, value in os.environ.items() if name != "GIT_DIR"}
    subprocess.run([*GIT, *arguments], cwd=folder, env=environment, check=True, capture_output=True, timeout=60)


def fill(folder: Path, **files: str) -> None:
    """Write files; ``__`` in a name stands for a slash, and a word for a dot and an ending."""
    for name, content in files.items():
        path = folder / re.sub(
            r"_(py|txt|cfg|pyc|toml)$", r".\1", name.replace("__", "/").replace("/pycache/", "/__pycache__/")
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def names(manifest: Manifest) -> list[str]:
    """The paths of a manifest."""
    return [entry.name for entry in manifest.entries]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Give an empty repository of git."""
    folder = tmp_path / "repo"
    folder.mkdir()
    git(folder, "init", "-q")
    return folder


@needs_git
def test_the_root_travels_as_git_sees_it(repo: Path) -> None:
    """Tracked and untracked, not ignored; deleted ones not, changed ones as they are now."""
    fill(repo, prog_py="old", gone_py="x", sub__kept_py="k", data_txt="ignored", cache__x_txt="x")
    (repo / ".gitignore").write_text("data.txt\ncache/\n")
    git(repo, "add", "prog.py", "gone.py", "sub", ".gitignore")
    git(repo, "commit", "-qm", "x")
    fill(
        repo,
        prog_py="new",
        sub__untracked_py="u",
        sub__pycache__kept_pyc="x",
        venv__pyvenv_cfg="",
        venv__big_py="x",
    )
    (repo / "gone.py").unlink()
    manifest = collect(str(repo))
    assert names(manifest) == [".gitignore", "prog.py", "sub/kept.py", "sub/untracked.py"]
    assert Source(str(repo), manifest).read(digest_of(b"new")) == b"new"


@needs_git
def test_a_folder_of_a_repository_travels_alone(repo: Path) -> None:
    """A root that is a part of a repository takes its own files, with the rules of the whole."""
    fill(repo, a__pyproject_toml="", a__prog_py="x", a__no_txt="x", b__other_py="x")
    (repo / ".gitignore").write_text("no.txt\n")
    assert names(collect(str(repo / "a"))) == ["prog.py", "pyproject.toml"]


@needs_git
def test_submodules_and_inner_repositories_travel_as_their_own_git_sees_them(repo: Path, tmp_path: Path) -> None:
    """Those that are checked out; one that is not is empty here as well."""
    library = tmp_path / "library"
    library.mkdir()
    git(library, "init", "-q")
    fill(library, lib_py="x", ignored_txt="x")
    (library / ".gitignore").write_text("ignored.txt\n")
    git(library, "add", "lib.py", ".gitignore")
    git(library, "commit", "-qm", "x")
    git(repo, "submodule", "add", "-q", str(library), "deps/lib")
    git(repo, "submodule", "add", "-q", str(library), "deps/absent")
    git(repo, "submodule", "deinit", "-q", "-f", "deps/absent")
    fill(repo, deps__lib__new_py="n", deps__lib__ignored_txt="x")
    git(repo, "clone", "-q", str(library), "inner")
    assert names(collect(str(repo))) == [
        ".gitmodules", "deps/lib/.gitignore", "deps/lib/lib.py", "deps/lib/new.py", "inner/.gitignore", "inner/lib.py",
    ]  # fmt: skip


@needs_git
def test_a_merge_that_is_not_done_lists_each_file_once(repo: Path) -> None:
    """In the middle of a conflict git has three versions of a file; the one on the disk travels."""
    for branch, content in (("one", "1"), ("two", "2")):
        git(repo, "checkout", "-q", "--orphan", branch)
        fill(repo, prog_py=content)
        git(repo, "add", ".")
        git(repo, "commit", "-qm", branch)
    with pytest.raises(subprocess.CalledProcessError):
        git(repo, "merge", "-q", "--allow-unrelated-histories", "one")
    assert names(collect(str(repo))) == ["prog.py"]


@needs_git
def test_what_the_program_needs_must_not_be_ignored(repo: Path) -> None:
    """Else it would be missing on the node only."""
    fill(repo, prog_py="x", build__gen_py="x")
    (repo / ".gitignore").write_text("build/\n")
    collect(str(repo), needed=["prog.py", "."])
    with pytest.raises(DeployError, match=r"build/gen\.py does not travel: it is ignored by git"):
        collect(str(repo), needed=["prog.py", "build/gen.py"])


@needs_git
def test_a_root_that_the_repository_around_ignores_travels_whole(repo: Path) -> None:
    """A project in an ignored folder is a folder without git, and that is said."""
    fill(repo, build__proj__pyproject_toml="", build__proj__prog_py="x")
    (repo / ".gitignore").write_text("build/\n")
    notes: list[str] = []
    assert names(collect(str(repo / "build" / "proj"), note=notes.append)) == ["prog.py", "pyproject.toml"]
    assert "is ignored by the git repository around it" in notes[0]


@needs_git
def test_a_repository_that_git_refuses_is_said_in_its_words(repo: Path) -> None:
    """What git would list cannot be guessed."""
    (repo / ".git" / "HEAD").write_text("rubbish")
    with pytest.raises(DeployError, match=r"git rev-parse failed in .*: fatal: "):
        collect(str(repo))


def test_without_git_installed_the_folder_travels_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout on a computer without git is a folder."""
    fill(tmp_path / "p", prog_py="x")
    (tmp_path / "p" / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    notes: list[str] = []
    assert names(collect(str(tmp_path / "p"), note=notes.append)) == ["prog.py"]
    assert "git is not installed here" in notes[0]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Give a folder without git around it."""
    folder = tmp_path / "plain"
    folder.mkdir()
    return folder


def test_a_folder_without_git_travels_without_environments_and_caches(plain: Path) -> None:
    """Virtual environments under any name, compiled files and caches stay here."""
    fill(plain, prog_py="x", pkg__a_py="x", pkg__pycache__a_pyc="x", myenv__pyvenv_cfg="", myenv__lib_py="x")
    fill(plain, cache__a_txt="x", pkg__sub__b_py="x")
    (plain / "cache" / "CACHEDIR.TAG").write_text("")
    (plain / "empty").mkdir()
    os.mkfifo(plain / "pipe")
    assert names(collect(str(plain))) == ["pkg/a.py", "pkg/sub/b.py", "prog.py"]


def test_names_that_are_not_utf8_travel_as_they_are(plain: Path, tmp_path: Path) -> None:
    """Bytes in, the same bytes out; people see escapes."""
    with open(os.path.join(os.fsencode(plain), b"caf\xe9.py"), "wb") as made:
        made.write(b"x = 1\n")
    manifest = collect(str(plain))
    assert names(manifest) == ["'caf\\xe9.py'"]
    deliver(plain, manifest, Store(tmp_path / "store"), tmp_path / "copy")
    assert os.listdir(os.fsencode(tmp_path / "copy")) == [b"caf\xe9.py"]


def test_a_folder_of_5_gb_is_refused_by_its_largest_files(plain: Path) -> None:
    """Before a byte is read: they are sparse here, and reading them would take minutes."""
    fill(plain, prog_py="x")
    for name, size in (("weights.bin", 5 << 30), ("video.mp4", 300 << 20), ("small.bin", 1 << 20)):
        with (plain / name).open("wb") as made:
            made.truncate(size)
    with pytest.raises(DeployError) as caught:
        collect(str(plain))
    lines = str(caught.value).splitlines()
    assert lines[0] == "cannot take 5.3 GiB along, the limit is 256 MiB; the largest files:"
    assert [line.split() for line in lines[1:4]] == [
        ["5", "GiB", "weights.bin"],
        ["300", "MiB", "video.mp4"],
        ["1", "MiB", "small.bin"],
    ]
    assert "CONSTELLATION_BUNDLE_LIMIT" in lines[-1]


def test_a_folder_of_too_many_files_is_refused_by_the_fullest_folder(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home directory is not walked to its end."""
    monkeypatch.setattr("constellation.fabric.bundle.MOST_ENTRIES", 50)
    for number in range(60):
        fill(plain, **{f"many__f{number}_txt": "x"})
    fill(plain, prog_py="x")
    with pytest.raises(DeployError, match=r"more than 50 files along; many/ has \d+ of them"):
        collect(str(plain))


def test_the_limit_is_a_setting() -> None:
    """With a unit; nonsense names the variable."""
    assert bundle_limit({}) == 256 << 20
    assert bundle_limit({"CONSTELLATION_BUNDLE_LIMIT": "2 GiB"}) == 2 << 30
    with pytest.raises(UsageError, match="CONSTELLATION_BUNDLE_LIMIT: cannot read mem='lots'"):
        bundle_limit({"CONSTELLATION_BUNDLE_LIMIT": "lots"})


def test_links_that_stay_inside_travel_and_others_are_refused_by_name(plain: Path) -> None:
    """An absolute one that stays inside is made relative, for the copy lies elsewhere."""
    fill(plain, a__b_py="x")
    (plain / "a" / "c.py").symlink_to("b.py")
    (plain / "d.py").symlink_to(plain / "a" / "b.py")
    (plain / "folder").symlink_to("a")
    manifest = collect(str(plain))
    assert {entry.name: entry.target for entry in manifest.entries if entry.kind == "symlink"} == {
        "a/c.py": b"b.py",
        "d.py": b"a/b.py",
        "folder": b"a",
    }
    (plain / "out").symlink_to("/etc")
    (plain / "up").symlink_to("a/../../x")
    with pytest.raises(DeployError) as caught:
        collect(str(plain))
    assert "out: a symbolic link to the absolute path /etc" in str(caught.value)
    assert "up: a symbolic link to a/../../x, which leads outside" in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_cannot_be_read_is_named(plain: Path) -> None:
    """It would be missing on the node only."""
    fill(plain, secret_txt="x")
    (plain / "secret.txt").chmod(0)
    with pytest.raises(DeployError, match=r"cannot read secret\.txt: Permission denied"):
        collect(str(plain))


def changing(path: Path, times: int) -> Callable[..., bytes]:
    """A read that has somebody write to the file meanwhile, some times."""
    real, left = os.read, [times]

    def read(fd: int, size: int) -> bytes:
        data = real(fd, size)
        if left[0] and os.path.samestat(os.fstat(fd), path.stat()):
            left[0] -= 1
            with path.open("ab") as file:
                file.write(b"more\n")
        return data

    return read


def test_a_file_that_changes_while_it_is_read_is_read_again(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is listed is what was there at one moment."""
    fill(plain, log_txt="x\n", prog_py="x")
    monkeypatch.setattr("constellation.fabric.bundle.os.read", changing(plain / "log.txt", 2))
    manifest = collect(str(plain))
    assert manifest.entries[0].size == (plain / "log.txt").stat().st_size


def test_a_file_that_never_stops_changing_is_refused(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that somebody writes to has no state to take along."""
    fill(plain, log_txt="x\n")
    monkeypatch.setattr("constellation.fabric.bundle.os.read", changing(plain / "log.txt", -1))
    with pytest.raises(DeployError, match=r"log\.txt changes while it is read"):
        collect(str(plain))


def test_a_file_that_changed_after_it_was_listed_is_noticed(plain: Path) -> None:
    """What runs on the fabric is what the manifest says, or nothing."""
    fill(plain, prog_py="first", other_py="x")
    manifest = collect(str(plain))
    fill(plain, prog_py="other")
    (plain / "other.py").unlink()
    for name, digest in (("prog.py", digest_of(b"first")), ("other.py", digest_of(b"x"))):
        with pytest.raises(DeployError, match=f"{name} has changed while it was being deployed"):
            Source(str(plain), manifest).read(digest)


def deliver(root: Path, manifest: Manifest, store: Store, target: Path) -> int:
    """Bring a program into a store and lay it out; give how many bytes had to be moved, the manifest's included."""
    moved = 0
    packed = outline(manifest)
    chunks = outline_chunks([[chunk.digest, chunk.size] for chunk in packed.chunks])
    source = Source(str(root), manifest)
    with store.hold([*(chunk.digest for chunk in chunks), *manifest.chunks()]):
        for digest in store.missing(chunk.digest for chunk in chunks):
            store.put(digest, packed.parts[digest])
            moved += len(packed.parts[digest])
        again = read_outline(store.read(chunk.digest) for chunk in chunks)
        for digest in store.missing(again.chunks()):
            data = source.read(digest)
            store.put(digest, data)
            moved += len(data)
        store.assemble(again, target)
    return moved


def tree(folder: Path) -> dict[str, tuple[str, bytes, bool]]:
    """What lies in a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", os.fsencode(os.readlink(path)), False)
        elif path.is_file():
            found[name] = ("file", path.read_bytes(), bool(path.stat().st_mode & 0o100))
    return found


def test_a_program_arrives_as_it_was_and_its_second_deployment_moves_little(plain: Path, tmp_path: Path) -> None:
    """Content, executable bits and links; after a change of one line in a large program under 100 KB move."""
    shutil.copytree(ROOT / "constellation", plain / "constellation", ignore=shutil.ignore_patterns("__pycache__"))
    (plain / "large.csv").write_text("".join(f"{line},{line * 7 % 1000},0.0\n" for line in range(150_000)))
    (plain / "run.sh").write_text("#!/bin/sh\n")
    (plain / "run.sh").chmod(0o751)
    (plain / "link").symlink_to("constellation/core")
    for number in range(1500):
        fill(plain, **{f"gen__module_{number}_py": f"VALUE = {number}\n" * 3})
    store = Store(tmp_path / "store")
    first = deliver(plain, collect(str(plain)), store, tmp_path / "one")
    assert tree(tmp_path / "one") == tree(plain)
    assert first > 2 << 20
    (plain / "large.csv").write_text("one more line\n" + (plain / "large.csv").read_text())
    second = deliver(plain, collect(str(plain)), store, tmp_path / "two")
    assert tree(tmp_path / "two") == tree(plain)
    assert second < 100_000
    assert deliver(plain, collect(str(plain)), store, tmp_path / "three") == 0


def test_what_is_laid_out_has_plain_permissions_whatever_the_umask_is(plain: Path, tmp_path: Path) -> None:
    """No bit but the executable one travels, and only its owner may enter the folder."""
    fill(plain, a__prog_py="x", odd_py="x")
    (plain / "odd.py").chmod(0o7777)
    (plain / "a" / "prog.py").chmod(0o400)
    old = os.umask(0o077)
    try:
        deliver(plain, collect(str(plain)), Store(tmp_path / "s"), tmp_path / "copy")
    finally:
        os.umask(old)
    modes = {path.name: path.stat().st_mode & 0o7777 for path in (tmp_path / "copy").rglob("*")}
    assert modes == {"a": 0o755, "prog.py": 0o644, "odd.py": 0o755}
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o700


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_gives_all_of_it_to_the_owner(plain: Path, tmp_path: Path) -> None:
    """Files, folders and links, the folder itself included."""
    fill(plain, a__b__prog_py="x")
    (plain / "a" / "link").symlink_to("b")
    manifest, store = collect(str(plain)), Store(tmp_path / "s")
    store.put(digest_of(b"x"), b"x")
    store.assemble(manifest, tmp_path / "copy", folders=["work/here"], owner=Owner(65534, 65534))
    every = [tmp_path / "copy", *(tmp_path / "copy").rglob("*")]
    assert len(every) == 7
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in every} == {(65534, 65534)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Give a store with one chunk, ``x``."""
    made = Store(tmp_path / "store")
    made.put(digest_of(b"x"), b"x")
    return made


def one(path: bytes) -> Entry:
    """A file with the chunk that every store here has."""
    return Entry(path, "file", chunks=(Chunk(digest_of(b"x"), 1),))


@pytest.mark.parametrize(
    "entries",
    [
        [one(b"../evil")],
        [one(b"/tmp/evil")],
        [one(b"a"), one(b"a")],
        [Entry(b"a", "symlink", target=b"/"), one(b"a/evil")],
        [Entry(b"a", "symlink", target=b".."), one(b"b")],
        [Entry(b"a", "symlink", target=b"b/.."), Entry(b"b", "symlink", target=b".."), one(b"c")],
    ],
)
def test_a_hostile_manifest_that_was_not_checked_before_is_refused_too(
    store: Store, tmp_path: Path, entries: list[Entry]
) -> None:
    """Nothing is written, inside or outside."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"."):
        store.assemble(Manifest(tuple(entries)), tmp_path / "copy")
    with pytest.raises(ValueError, match=r"the part '\.\.'"):
        store.assemble(Manifest((one(b"a"),)), tmp_path / "copy", folders=["../out"])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_put_in_the_way_while_a_program_is_laid_out_is_not_followed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who can write there swaps a folder for a link: nothing gets to where it leads."""
    outside = tmp_path / "outside"
    outside.mkdir()
    real = os.mkdir

    def mkdir(path: str | bytes, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if path == b"sub":
            os.symlink(outside, path, dir_fd=dir_fd)
            raise FileExistsError(errno.EEXIST, "somebody was quicker")
        real(path, mode, dir_fd=dir_fd)

    monkeypatch.setattr("constellation.fabric.store.os.mkdir", mkdir)
    with pytest.raises(DeployError, match="cannot lay the program out"):
        store.assemble(Manifest((one(b"sub/evil"),)), tmp_path / "copy")
    assert list(outside.iterdir()) == []
    assert not (tmp_path / "copy").exists()


def test_a_chunk_is_what_its_name_says(store: Store) -> None:
    """Or the peer is at fault."""
    for digest, data in ((digest_of(b"y"), b"x"), (digest_of(b""), b""), (b"short", b"x")):
        with pytest.raises(ValueError, match=r"."):
            store.put(digest, data)
    large = bytes(LARGEST_CHUNK + 1)
    with pytest.raises(ValueError, match="expected 1 to"):
        store.put(digest_of(large), large)


def test_a_broken_chunk_is_missing_again(store: Store, tmp_path: Path) -> None:
    """After a loss of power a file may be there without its bytes."""
    (broken,) = (path for path in Path(store.folder, "chunks").rglob("*") if path.is_file())
    broken.write_bytes(b"")
    with pytest.raises(KeyError):
        store.assemble(Manifest((one(b"a"),)), tmp_path / "copy")
    assert store.missing([digest_of(b"x")]) == [digest_of(b"x")]
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == []


def test_a_target_that_is_there_is_left_alone(store: Store, tmp_path: Path) -> None:
    """Also an empty folder, which a rename would silently replace."""
    (tmp_path / "copy").mkdir()
    with pytest.raises(DeployError, match="it is there already"):
        store.assemble(Manifest((one(b"a"),)), tmp_path / "copy")
    assert list((tmp_path / "copy").iterdir()) == []


def test_missing_gives_each_once_in_order(store: Store) -> None:
    """What is here is not asked for."""
    wanted = [digest_of(b"z"), digest_of(b"x"), digest_of(b"y"), digest_of(b"z")]
    assert store.missing(wanted) == [digest_of(b"z"), digest_of(b"y")]


def age(store: Store, data: bytes, seconds: int) -> None:
    """Make a chunk look as if it had been used at some time long ago."""
    name = digest_of(data).hex()
    os.utime(os.path.join(store.folder, "chunks", name[:2], name), (seconds, seconds))


def test_trim_takes_the_oldest_first_and_none_in_use(store: Store) -> None:
    """Whoever holds a chunk keeps it; who has died does not."""
    data = [bytes([65 + number]) * 100 for number in range(4)]
    for number, each in enumerate(data):
        store.put(digest_of(each), each)
        age(store, each, 1000 + number)
    store.missing([digest_of(data[1])])  # used now
    Path(store.folder, "holds", "dead").write_bytes(digest_of(data[2]))
    with store.hold([digest_of(data[0])]):
        assert store.trim(250) == 200
    assert store.missing(map(digest_of, data)) == [digest_of(data[2]), digest_of(data[3])]
    assert os.listdir(Path(store.folder, "holds")) == []
    assert store.trim(0) == 201


def test_trim_sweeps_what_a_dead_writer_left(store: Store) -> None:
    """What is being written now stays."""
    old, new = (Path(store.folder, "incoming", name) for name in ("old", "new"))
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    store.trim(1 << 30)
    assert (old.exists(), new.exists()) == (False, True)


def test_sweep_removes_what_a_killed_node_has_left(store: Store, tmp_path: Path, leftovers: object) -> None:
    """A folder that is still being made has somebody who holds it, and stays."""
    where = tmp_path / "deployments"
    where.mkdir()
    source = """
        import os, signal, sys
        from constellation.core.bundle import *
        from constellation.fabric.store import Store
        store, where = Store(sys.argv[1]), sys.argv[2]
        chunk = Chunk(digest_of(b"x"), 1)
        store.read = lambda digest: os.kill(os.getpid(), signal.SIGKILL)
        store.assemble(Manifest((Entry(b"a", "file", chunks=(chunk,)),)), where + "/copy")
        """
    done = run_python(source, store.folder, where)
    assert done.returncode == -9, done.stderr
    (left,) = os.listdir(where)
    fd = os.open(where / left, os.O_RDONLY)
    import fcntl

    fcntl.flock(fd, fcntl.LOCK_EX)
    assert sweep(where) == []
    os.close(fd)
    assert sweep(where) == [left]
    assert os.listdir(where) == []


def run_python(source: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program of its own with the package at hand."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_writers_in_several_processes_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Four put the same chunks and lay out while one trims; each ends with the whole program."""
    source = """
        import sys
        from constellation.core.bundle import *
        from constellation.fabric.store import Store
        store = Store(sys.argv[1])
        parts = [bytes([number]) * SMALLEST_CHUNK for number in range(60)]
        chunks = tuple(Chunk(digest_of(part), len(part)) for part in parts)
        manifest = Manifest((Entry(b"a/file", "file", chunks=chunks),))
        for turn in range(15):
            if sys.argv[2] == "trim":
                store.trim(0)
                continue
            with store.hold(chunk.digest for chunk in chunks):
                missing = set(store.missing(chunk.digest for chunk in chunks))
                for chunk, part in zip(chunks, parts):
                    if chunk.digest in missing:
                        store.put(chunk.digest, part)
                target = f"{sys.argv[1]}-{sys.argv[2]}-{turn}"
                store.assemble(manifest, target)
                assert open(target + "/a/file", "rb").read() == b"".join(parts)
        """
    running = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(source), str(tmp_path / "store"), name],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b", "c", "d", "trim")
    ]
    assert [each.communicate(timeout=60)[1] for each in running] == [""] * 5
    assert [each.returncode for each in running] == [0] * 5


FILLING = """
    import resource, sys
    from constellation.core.bundle import *
    from constellation.core.errors import DeployError
    from constellation.fabric.store import Store
    store = Store(sys.argv[1])
    parts = [bytes([number]) * LARGEST_CHUNK for number in range(40)]
    chunks = tuple(Chunk(digest_of(part), len(part)) for part in parts)
    if sys.argv[3] == "limit":
        for part, chunk in zip(parts, chunks):
            store.put(chunk.digest, part)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        for part, chunk in zip(parts, chunks):
            store.put(chunk.digest, part)
        store.assemble(Manifest((Entry(b"a", "file", chunks=chunks),)), sys.argv[2] + "/copy")
    except DeployError as error:
        print(error)
    """


def test_a_file_that_may_not_grow_further_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    """A quota, a limit of the user or a full disk in the middle of laying out."""
    done = run_python(FILLING, tmp_path / "store", tmp_path, "limit")
    assert re.fullmatch(r"cannot lay the program out in .*: File too large; make room on that disk.*\n", done.stdout), (
        done
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a disk of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    where = tmp_path / "disk"
    where.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", where], check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"cannot mount a small disk here: {done.stderr.decode().strip()}")
    yield where
    subprocess.run(["umount", where], check=True)


@pytest.mark.root
def test_a_disk_that_fills_is_said_and_nothing_half_made_is_left(small_disk: Path, tmp_path: Path) -> None:
    """While chunks come in, and while a program is laid out."""
    done = run_python(FILLING, small_disk / "store", tmp_path, "")
    assert re.fullmatch(
        r"cannot keep a part of the program in .*: No space left on device; make room.*\n", done.stdout
    ), done
    assert os.listdir(small_disk / "store" / "incoming") == []
    shutil.rmtree(small_disk / "store")
    done = run_python(FILLING, tmp_path / "store", small_disk, "")
    assert re.fullmatch(r"cannot lay the program out in .*: No space left on device; make room.*\n", done.stdout), done
    assert os.listdir(small_disk) == []


@pytest.mark.parametrize(
    ("program", "cwd", "expected"),
    [
        ("prog.py", "proj/scripts", ("proj", "scripts", "scripts/prog.py", ("", "src"))),
        ("scripts/prog.py", "proj", ("proj", "", "scripts/prog.py", ("", "src"))),
        ("../proj/scripts/prog.py", "alone", ("proj", "", "scripts/prog.py", ("", "src"))),
        ("scripts", "proj", ("proj", "", "scripts", ("", "src"))),
        (".", "proj/scripts", ("proj", "scripts", "scripts", ("", "src"))),
        ("solo.py", "alone", ("alone", "", "solo.py", ())),
        ("alone/solo.py", ".", ("alone", "", "solo.py", ())),
        ("linked.py", "alone", ("proj", "", "scripts/prog.py", ("", "src"))),
        ("again.py", "proj", ("proj", "", "again.py", ("", "src"))),
        ("prog.py", "proj/nested/deep", ("proj/nested", "deep", "deep/prog.py", ())),
    ],
)
def test_root_of_a_script_or_folder(tmp_path: Path, program: str, cwd: str, expected: tuple[str, ...]) -> None:
    """The nearest folder with pyproject.toml or .git, else the script's; the working directory at the same place in it."""
    fill(
        tmp_path,
        proj__pyproject_toml="",
        proj__scripts__prog_py="",
        proj__scripts____main___py="",
        proj__src__pkg__a_py="",
    )
    (tmp_path / "proj/scripts/__main__.py").write_text("")
    fill(tmp_path, alone__solo_py="", proj__nested__deep__prog_py="")
    (tmp_path / "proj/nested/.git").write_text("gitdir: elsewhere")
    (tmp_path / "alone/linked.py").symlink_to("../proj/scripts/prog.py")
    (tmp_path / "proj/again.py").symlink_to("scripts/prog.py")
    root, below, path, search = expected
    place = find_root(program, cwd=str(tmp_path / cwd))
    assert tuple(place) == (str(tmp_path / str(root)), below, path, "", search)


def test_root_of_a_module(tmp_path: Path) -> None:
    """The working directory's root; found beside it, or where a project keeps its packages."""
    fill(tmp_path, proj__pyproject_toml="", proj__src__pkg__a_py="", proj__tools__tool_py="")
    (tmp_path / "proj/src/pkg/__main__.py").write_text("")
    place = find_root("pkg", module=True, cwd=str(tmp_path / "proj/tools"))
    assert place == Place(str(tmp_path / "proj"), "tools", "", "pkg", ("", "src"))
    assert find_root("tool", module=True, cwd=str(tmp_path / "proj/tools")).module == "tool"
    for name, words in (
        ("json", "there is no json in"),
        ("no/good", "expected a name such as"),
        ("src", "expected a __main__"),
    ):
        with pytest.raises(UsageError, match=words):
            find_root(name, module=True, cwd=str(tmp_path / "proj"))


def test_a_program_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """And a folder that cannot be run."""
    with pytest.raises(UsageError, match="expected a file that exists"):
        find_root("gone.py", cwd=str(tmp_path))
    with pytest.raises(UsageError, match=r"expected a __main__\.py in it"):
        find_root(".", cwd=str(tmp_path))


def test_an_outline_that_is_none_is_refused() -> None:
    """Its list of chunks and its bytes come from a peer."""
    for fields in (
        None,
        [1],
        [[b"x" * 32]],
        [[b"x", 1]],
        [[b"x" * 32, 0]],
        [[b"x" * 32, LARGEST_CHUNK + 1]],
        [[b"x" * 32, 9]] * 99999,
    ):
        with pytest.raises(ValueError, match="manifest"):
            outline_chunks(fields)
    for data in (b"", b"\xc1", b"\x93" * 5000, b"\x01\x02"):
        with pytest.raises(ValueError, match="manifest"):
            read_outline([data])
    with pytest.raises(ValueError, match="more than"):
        read_outline(iter([bytes(1 << 20)] * 100))


@pytest.mark.parametrize(
    "start", [b"\x92\x01\xdd", b"\x92\x01\x91\x94\xc4\x01a\xc2\xc4\x00\xdd"], ids=["files", "chunks"]
)
def test_a_list_of_millions_is_refused_before_it_takes_memory(start: bytes) -> None:
    """Each element is one byte where it comes from, and 72 here."""
    count = 20 << 20
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not a manifest"):
            read_outline([start, count.to_bytes(4, "big"), b"\x90" * count])
        assert tracemalloc.get_traced_memory()[1] < 4 * count
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200) | st.recursive(st.none() | st.booleans() | st.integers(0, 70000) | st.binary(max_size=64),
       lambda inner: st.lists(inner, max_size=4), max_leaves=20).map(msgpack.packb))  # fmt: skip
def test_any_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    """Never anything else, and what is one says the same when it is packed again."""
    try:
        manifest = read_outline([data])
    except ValueError:
        return
    assert read_outline([msgpack.packb(manifest.to_fields())]) == manifest
