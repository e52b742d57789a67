"""Which folder goes along with a program, and which of its files.

**The root** is the nearest folder upward with ``pyproject.toml`` or ``.git``, else the program's own. On the node the working
directory is the same place below the copy of the root as it is here.

**Its files** are what git would add: tracked and untracked, not ignored, with the submodules and the repositories inside that are checked
out, each as its own git sees it. Without git it is the whole folder. Left out in both cases, unless git tracks them:
``__pycache__``, ``.venv`` and every other virtual environment, for the node has its own, and they would change at each run; in a
whole folder also folders that say with CACHEDIR.TAG that they are caches. Empty folders, sockets, pipes and devices do not
travel either, as with git.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import PathFinder
from typing import NamedTuple

from constellation.core.bundle import shown
from constellation.core.errors import DeployError, UsageError

_LEFT_OUT = frozenset({b".git", b".hg", b".svn", b".venv", b"__pycache__"})
_CACHE_TAG = b"CACHEDIR.TAG"
_ENVIRONMENT_TAG = b"pyvenv.cfg"
_SUBMODULE = b"160000"
_GIT_PATIENCE_S = 120.0
"""For one listing; a cold disk with a hundred thousand files takes a few seconds."""
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


class Place(NamedTuple):
    """Where a program stands. Relative paths may hold what is not UTF-8 (surrogateescape): `os.fsencode` before they travel."""

    root: str
    """The folder that goes along, absolute."""
    cwd: str
    """The working directory below the root; empty: the root itself, also where the caller's lies outside."""
    program: str
    """The script or folder below the root; empty where a module is run."""
    module: str
    """The module of ``-m``; empty where a script or folder is run."""
    search: tuple[str, ...]
    """Folders below the root to be put at the end of sys.path: where a project's packages lie, which are installed here."""


def find_root(program: str, *, module: bool = False, cwd: str | None = None) -> Place:
    """Find the folder that goes along with a program.

    Args:
        program: A script, a folder with ``__main__.py``, or with ``module`` what stands behind ``-m``.
        module: Whether it is a module.
        cwd: The working directory; None: the current one.

    Raises:
        UsageError: There is no such program, or it cannot be run.
    """
    here = os.path.realpath(cwd if cwd is not None else os.getcwd())
    if module:
        root = _root_above(here)
        _check_module(program, here, root)
        return Place(root, _below(root, here) or "", "", program, _search(root))
    given = os.path.join(here, program)
    if os.path.isdir(given):
        if not os.path.isfile(os.path.join(given, "__main__.py")):
            raise UsageError(f"cannot run the folder {program!r}: expected a __main__.py in it, as for python FOLDER")
        real = os.path.realpath(given)
        root = _root_above(real)
        return Place(root, _below(root, here) or "", _below(root, real) or ".", "", _search(root))
    if not os.path.exists(given):
        raise UsageError(f"cannot run {program!r}: expected a file that exists; a module is run with -m")
    # Python takes the script's real folder for its modules: so does the search for the root.
    real = os.path.realpath(given)
    root = _root_above(os.path.dirname(real))
    named = os.path.join(os.path.realpath(os.path.dirname(given)), os.path.basename(given))
    inside = _below(root, named)
    return Place(root, _below(root, here) or "", inside or _below(root, real) or "", "", _search(root))


def _root_above(folder: str) -> str:
    at = folder
    while True:
        if os.path.isfile(os.path.join(at, "pyproject.toml")) or os.path.exists(os.path.join(at, ".git")):
            return at
        above = os.path.dirname(at)
        if above == at:
            return folder
        at = above


def _below(root: str, path: str) -> str | None:
    """A path below the root, empty for the root itself; None if it is outside."""
    if path == root:
        return ""
    start = root.rstrip("/") + "/"
    return path[len(start) :] if path.startswith(start) else None


def _search(root: str) -> tuple[str, ...]:
    if not os.path.isfile(os.path.join(root, "pyproject.toml")):
        return ()
    return ("", "src") if os.path.isdir(os.path.join(root, "src")) else ("",)


def _check_module(module: str, here: str, root: str) -> None:
    if not _MODULE.fullmatch(module):
        raise UsageError(f"cannot run the module {module!r}: expected a name such as pkg or pkg.tool")
    first = module.partition(".")[0]
    folders = [here, *(os.path.join(root, folder) for folder in _search(root))]
    spec = PathFinder.find_spec(first, folders)
    if spec is None:
        looked = ", ".join(dict.fromkeys(folder.rstrip("/") for folder in folders))
        raise UsageError(
            f"cannot run the module {module!r}: there is no {first} in {looked}; only what lies there travels"
        )
    places = list(spec.submodule_search_locations or ())
    if module == first and places and not any(os.path.isfile(os.path.join(each, "__main__.py")) for each in places):
        raise UsageError(f"cannot run the package {module!r}: expected a __main__.py in it, as for python -m")


class Listed(NamedTuple):
    """One path of the root."""

    path: bytes
    """Relative to the root."""
    status: os.stat_result
    """Of itself, not of what a symbolic link leads to."""


def list_files(root: str, note: Callable[[str], None]) -> Iterator[Listed]:
    """Give the files and symbolic links of a root that travel, each once, in no promised order.

    Args:
        root: Absolute.
        note: Is told what somebody who misses a file should know.

    Raises:
        DeployError: git or the disk refuses.
    """
    top = os.fsencode(root)
    names = _known_to_git(top, note)
    seen: set[bytes] = set()
    for path in names if names is not None else _walk(top, b""):
        if path in seen:
            continue
        seen.add(path)
        try:
            status = os.lstat(os.path.join(top, path))
        except (FileNotFoundError, NotADirectoryError):  # tracked and deleted
            continue
        except OSError as error:
            raise unreadable(path, error) from error
        if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
            yield Listed(path, status)


def unreadable(path: bytes, error: OSError) -> DeployError:
    """Say that a file cannot be read."""
    return DeployError(f"cannot read {shown(path)}: {error.strerror}; make it readable, or have git ignore it")


def _walk(top: bytes, folder: bytes) -> Iterator[bytes]:
    """Everything in a folder but what is left out."""
    waiting = [folder]
    while waiting:
        at = waiting.pop()
        try:
            with os.scandir(os.path.join(top, at)) as found:
                inside = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise unreadable(at, error) from error
        names = {entry.name for entry in inside}
        if at and (_ENVIRONMENT_TAG in names or _CACHE_TAG in names):
            continue
        for entry in inside:
            path = os.path.join(at, entry.name)
            if not entry.is_dir(follow_symlinks=False):
                yield path
            elif entry.name not in _LEFT_OUT:
                waiting.append(path)


def _known_to_git(top: bytes, note: Callable[[str], None]) -> Iterable[bytes] | None:
    """The paths that git would add; None where there is no git."""
    above = top
    while not os.path.lexists(os.path.join(above, b".git")):
        if above == os.path.dirname(above):
            return None
        above = os.path.dirname(above)
    if shutil.which("git") is None:
        note("git is not installed here: the whole folder is taken, also what git would ignore")
        return None
    if _git(top, "rev-parse", "--is-inside-work-tree").strip() != b"true":
        return None
    if above != top and _git(top, "check-ignore", "-q", ".", allowed=(0, 1), code=True) == b"0":
        note(f"{os.fsdecode(top)} is ignored by the git repository around it: the whole folder is taken")
        return None
    return _of_repository(top, b"")


def _of_repository(top: bytes, inside: bytes) -> Iterator[bytes]:
    """The paths of a repository, or of the part of one, that lies at ``inside`` below the root; with those inside it."""
    folder = os.path.join(top, inside)
    for record in _git(folder, "ls-files", "-z", "--cached", "--stage").split(b"\0"):
        described, _, path = record.partition(b"\t")
        if described.startswith(_SUBMODULE):
            if os.path.lexists(os.path.join(folder, path, b".git")):  # else it is not checked out, and empty here too
                yield from _of_repository(top, os.path.join(inside, path))
        elif path:
            yield os.path.join(inside, path)
    left_out = [f"--exclude={name.decode()}/" for name in sorted(_LEFT_OUT)]
    others = _git(folder, "ls-files", "-z", "--others", "--exclude-standard", *left_out).split(b"\0")
    environments = tuple(path[: -len(_ENVIRONMENT_TAG)] for path in others if path.endswith(b"/" + _ENVIRONMENT_TAG))
    for path in others:
        if not path or path.startswith(environments):
            continue
        if path.endswith(b"/"):  # another repository, which git does not look into
            yield from _of_repository(top, os.path.join(inside, path[:-1]))
        else:
            yield os.path.join(inside, path)


def _git(folder: bytes, *arguments: str, allowed: tuple[int, ...] = (0,), code: bool = False) -> bytes:
    """What git prints, or its exit code.

    Raises:
        DeployError: It failed; has its words.
    """
    # Variables that a hook of git sets would lead it to another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            ["git", "-C", os.fsdecode(folder), *arguments],  # noqa: S607  # the person's own git
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            timeout=_GIT_PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeployError(
            f"git {arguments[0]} in {os.fsdecode(folder)} took more than {_GIT_PATIENCE_S:.0f} s: see what it waits for"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOENT and not os.path.isdir(folder):
            raise unreadable(folder, error) from error
        raise DeployError(f"cannot run git: {error.strerror}; mend it, or deploy a folder without .git") from error
    if done.returncode not in allowed:
        words = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise DeployError(f"git {arguments[0]} failed in {os.fsdecode(folder)}: {' '.join(words)}")
    return str(done.returncode).encode() if code else done.stdout
