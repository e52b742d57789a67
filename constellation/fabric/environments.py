"""Virtual environments with what programs ask for, made once on a node and kept.

**What is in one.** The packages that the program asks for; and behind them, by a line in a ``.pth`` file, everything that the
node's own Python has. So constellation and its plugins are always the node's, never a second copy that would speak another
wire version; what the node has and satisfies is not installed again; and pip, which the new environment sees there too, need not
be installed first. Considered and left: ``--system-site-packages`` shows the packages of the Python that a node's own environment
was made from, not the node's; a list of folders in PYTHONPATH comes before what is installed, and would hide it.
``constellation==VERSION`` is given to pip with the rest, so that it takes no version of a package that constellation does not
bear, or says why it cannot.

**Which one.** Its name is a digest of what is asked for, of the files of the program that this names, of the Python, of what
the node has installed and of pip's options: what changes one of them gets an environment of its own.

**Half-made ones are never used.** One that is whole has the file ``ready``, put there last by a rename. Who makes it holds a lock, which
pip inherits: should the maker be killed and pip live on, nobody else begins before that has ended too. What is found without
``ready`` is thrown away and made anew. It is made under its lasting name, because the scripts that pip writes hold it.

An environment belongs to one Unix user, like the chunks of programs: whoever can install into it runs code in whoever uses it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import site
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from constellation.core.errors import DeployError
from constellation.core.pipwords import essence
from constellation.core.requirements import Stated
from constellation.fabric.requirements import (
    NODE_DISTRIBUTION,
    all_distributions,
    node_distributions,
    satisfied_by,
    this_environment,
    without_provided,
)

_FORMAT = 1
"""Of the environments; raised when what is in one changes, so that old ones are not taken for new."""
INSTALL_LIMIT_S = 1800.0
"""For one installation; large packages that are built from source take minutes."""
WAIT_LIMIT_S = INSTALL_LIMIT_S + 60.0
_LOOK_S = 0.05
_JUST_USED_S = 3600.0
_READY = "ready"
_PTH = "_constellation_node.pth"
# Pip would install elsewhere, ask, or refuse.
_NOT_FOR_PIP = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIRE_VIRTUALENV", "PIP_PYTHON", "PIP_DRY_RUN",
                "PIP_REQUIREMENT", "PIP_CONSTRAINT", "PIP_NO_DEPS", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")  # fmt: skip
_PROGRESS = ("Collecting ", "Downloading ", "Building ", "Installing ", "Processing ", "Successfully installed")

# Run in a new environment: it must find constellation where the node has it, and with what that needs.
_CHECK = """
import sys, constellation
from constellation.fabric.requirements import NODE_DISTRIBUTION, _find_here, satisfied_by, this_environment
from constellation.core.requirements import Stated
import os
assert os.path.samefile(constellation.__path__[0], sys.argv[1]), f"constellation comes from {constellation.__path__[0]}"
own = _find_here(NODE_DISTRIBUTION)
for lack in satisfied_by(Stated("constellation", own.requires if own else ()), this_environment()):
    print(f"constellation needs {lack.requirement}, the program brings {lack.has}")
import msgpack, pluggy
"""

Log = Callable[[str], None]


class Environments:
    """The environments of one Unix user on a node.

    Args:
        folder: Where they are kept; made where it is missing.
        options: Of pip, for all installations, such as ``--index-url``.

    Raises:
        DeployError: The folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str], *, options: Sequence[str] = ()) -> None:
        self.folder = os.path.abspath(folder)
        self._options = tuple(options)
        try:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
        except OSError as error:
            raise DeployError(f"cannot keep environments in {self.folder}: {error.strerror}") from error

    def ensure(
        self,
        program: Stated,
        python: str = sys.executable,
        log: Log = lambda _words: None,
        *,
        root: str = ".",
        force: bool = False,
        limit_s: float = INSTALL_LIMIT_S,
    ) -> str:
        """Give the Python with which a program is to run, and make an environment for it where that is needed.

        Args:
            program: What it asks for.
            python: The node's; the one that runs this, whose packages are looked at.
            log: Is told a line for each step of an installation.
            root: The copy of the program, for the files that its requirements name.
            force: Use the node's Python as it is, whatever is asked for (``--env-of-node``); what it lacks is logged.
            limit_s: How long an installation may take.

        Raises:
            DeployError: The node's Python or its constellation do not do, or something cannot be installed; says why.

        Blocks: While it is installed, or while another deployment installs the same.
        """
        lacks = satisfied_by(program, this_environment())
        if force:
            for lack in lacks:
                log(f"the node's Python is used as it is, without {lack}")
            return python
        if not lacks:
            return python
        wanted, provided = without_provided(program, {NODE_DISTRIBUTION, *node_distributions()})
        unfit = satisfied_by(provided._replace(python=program.python), this_environment())
        if unfit:
            raise DeployError(
                "the node cannot be made to fit: "
                + "; ".join(f"it must have {lack.requirement}, and has {lack.has}" for lack in unfit)
            )
        place = _Place(self.folder, self._key(wanted, python, root))
        with place.locked(log, time.monotonic() + WAIT_LIMIT_S) as lock:
            if not place.is_ready():
                log(f"installing what {program.source} asks for, once on this node: {', '.join(wanted.requirements)}")
                begun = time.monotonic()
                _Making(place, wanted, python, root, self._options, log, lock, begun + limit_s).make()
                log(f"installed in {time.monotonic() - begun:.1f} s")
            place.touch()
        return place.python

    @contextlib.contextmanager
    def hold(self, python: str) -> Iterator[None]:
        """Keep the environment of a Python that `ensure` gave from being trimmed.

        Raises:
            OSError: It cannot be read, or is being removed. It is another user's, and nothing there is waited for.
        """
        mark = os.path.join(os.path.dirname(os.path.dirname(python)), _READY)
        try:
            fd = os.open(mark, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:  # the node's own
            yield
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            yield
        finally:
            os.close(fd)

    def trim(self, keep: int) -> list[str]:
        """Throw away all environments but the ``keep`` ones that were used last, and what killed installations have left.

        Those that are held, and those used within the hour, stay in any case.

        Returns:
            The names of what is gone.
        """
        names = [name[: -len(".lock")] for name in os.listdir(self.folder) if name.endswith(".lock")]
        places = sorted((_Place(self.folder, name) for name in names), key=lambda place: -place.used())
        gone = []
        for number, place in enumerate(places):
            is_old = number >= keep and place.used() < time.time() - _JUST_USED_S
            if (is_old or not place.is_ready()) and place.remove_unless_used():
                gone.append(place.name)
        return gone

    def _key(self, wanted: Stated, python: str, root: str) -> str:
        content = [
            _FORMAT,
            sorted(wanted.requirements),
            list(wanted.options),
            sorted(wanted.constraints),
            [[name, _digest_of_path(root, name)] for name in sorted(wanted.local)],
            [os.path.realpath(python), sys.version, sys.prefix, site_folders()],
            all_distributions(),
            list(self._options),
        ]
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


class _Place:
    """Where one environment is, or is to be."""

    def __init__(self, folder: str, name: str) -> None:
        self.name = name
        self.path = os.path.join(folder, name)
        self.python = os.path.join(self.path, "bin", "python")
        self._mark = os.path.join(self.path, _READY)
        self._lock = self.path + ".lock"

    def is_ready(self) -> bool:
        return os.path.exists(self._mark)

    def used(self) -> float:
        """When it was used last; 0 if never."""
        try:
            return os.stat(self._mark).st_mtime
        except FileNotFoundError:
            return 0.0

    def touch(self) -> None:
        with contextlib.suppress(OSError):  # the disk may be full; then it looks as old as it was
            os.utime(self._mark)

    def publish(self, content: str) -> None:
        beside = self._mark + ".new"
        with open(beside, "w", encoding="utf-8") as file:
            file.write(content)
        os.rename(beside, self._mark)

    @contextlib.contextmanager
    def locked(self, log: Log, deadline: float) -> Iterator[int]:
        """Be the only one who makes it; gives the descriptor that holds the lock."""
        has_told = False
        while True:
            fd = self._open()
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_still(fd, self._lock):
                    break
                os.close(fd)  # `trim` has taken it away meanwhile
                continue
            except BlockingIOError:
                os.close(fd)
            if not has_told:
                log("another deployment is installing the same; waiting for it")
                has_told = True
            if time.monotonic() > deadline:
                raise DeployError(
                    f"waited {WAIT_LIMIT_S:.0f} s for another deployment to install the same packages ({self.path}): "
                    "see on the node what its pip does"
                )
            time.sleep(_LOOK_S)
        try:
            yield fd
        finally:
            os.close(fd)

    def _open(self) -> int:
        try:
            return os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DeployError(f"cannot keep environments in {os.path.dirname(self.path)}: {error.strerror}") from error

    def remove_unless_used(self) -> bool:
        lock = os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError), open(self._mark, "rb") as mark:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._mark)  # first, so that nothing half-gone looks whole
            shutil.rmtree(self.path, ignore_errors=True)
            os.unlink(self._lock)
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
        return True


def _is_still(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


class _Making(NamedTuple):
    """One installation."""

    place: _Place
    wanted: Stated
    python: str
    root: str
    options: tuple[str, ...]
    log: Log
    lock: int
    deadline: float

    def make(self) -> None:
        """Make the environment; what goes wrong leaves nothing.

        Raises:
            DeployError: It cannot be made; says why.
        """
        try:
            shutil.rmtree(self.place.path, ignore_errors=True)  # what somebody has left who was killed
            self._run([self.python, "-m", "venv", "--without-pip", self.place.path], "make a virtual environment")
            self._see_the_node()
            self._have_pip()
            self._install()
            self._check()
            self.place.publish(json.dumps({"requirements": self.wanted.requirements, "from": self.wanted.source}))
        except OSError as error:
            shutil.rmtree(self.place.path, ignore_errors=True)
            room = "; make room on that disk" if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} else ""
            raise DeployError(f"cannot make an environment in {self.place.path}: {error.strerror}{room}") from error
        except BaseException:
            shutil.rmtree(self.place.path, ignore_errors=True)
            raise

    def _see_the_node(self) -> None:
        # A line that begins with import is run: addsitedir reads the .pth files there as well, such as those of editable
        # packages. One line each, for what it runs has no scope in which a comprehension would find `site`.
        lines = [f"import site; site.addsitedir({each!r})" for each in site_folders()]
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        packages = os.path.join(self.place.path, "lib", version, "site-packages")
        _write_lines(os.path.join(packages, _PTH), lines)

    def _have_pip(self) -> None:
        if subprocess.run([self.place.python, "-c", "import pip"], check=False, capture_output=True).returncode:
            self._run(
                [self.place.python, "-m", "ensurepip", "--default-pip"], "get pip (install it for the node's Python)"
            )

    def _install(self) -> None:
        listed = os.path.join(self.place.path, "requirements.txt")
        own = [f"{name}=={version}" for name, version in sorted(node_distributions().items())]
        lines = [*self.wanted.options, *self.wanted.requirements, *own]
        _write_lines(listed, lines)
        command = [self.place.python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-color",
                   "--progress-bar", "off", "--no-warn-script-location", *self.options, "-r", listed]  # fmt: skip
        if self.wanted.constraints:
            limits = os.path.join(self.place.path, "constraints.txt")
            _write_lines(limits, self.wanted.constraints)
            command += ["-c", limits]
        code, output = self._pip(command)
        if code:
            # Pip names lines of the file that was made for it, which nobody else knows.
            output = re.sub(rf"-r {re.escape(listed)} \(line (\d+)\)", lambda found: lines[int(found[1]) - 1], output)
            raise DeployError(f"cannot install what {self.wanted.source} asks for: {essence(output)}")

    def _check(self) -> None:
        import constellation

        done = subprocess.run(
            [self.place.python, "-c", _CHECK, constellation.__path__[0]],
            cwd="/",
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=max(1.0, self.deadline - time.monotonic()),
            check=False,
        )
        if done.returncode or done.stdout:
            last = (done.stdout or done.stderr).strip().splitlines() or ["no reason given"]
            raise DeployError(
                f"what {self.wanted.source} asks for does not go together with constellation: "
                f"{'; '.join(last) if done.stdout else last[-1]}"
            )

    def _run(self, command: list[str], what: str) -> None:
        code, output = self._pip(command)
        if code:
            raise DeployError(f"cannot {what}: {essence(output)}")

    def _pip(self, command: list[str]) -> tuple[int, str]:
        """Run a command to its end; its exit code, and the last of what it printed."""
        last: deque[str] = deque(maxlen=400)
        running = subprocess.Popen(
            command,
            cwd=self.root,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # what it starts in turn ends with it
            pass_fds=(self.lock,),
        )
        watch = threading.Timer(max(0.0, self.deadline - time.monotonic()), _kill, (running,))
        watch.start()
        try:
            assert running.stdout is not None
            for line in running.stdout:
                last.append(line)
                if line.lstrip().startswith(_PROGRESS):
                    self.log(line.strip())
            os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)
        finally:
            watch.cancel()
            watch.join()
            _kill(running)  # before it is waited for, while the number of its group cannot be anybody else's
            running.wait()
            if running.stdout is not None:
                running.stdout.close()
        if time.monotonic() >= self.deadline:
            raise DeployError(
                f"gave up installing what {self.wanted.source} asks for: it took too long; "
                f"the last line was {last[-1].strip() if last else 'none'!r}"
            )
        return running.returncode, "".join(last)


def _kill(running: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(running.pid, signal.SIGKILL)


def _write_lines(path: str, lines: Sequence[str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def _environment() -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_PIP}
    # Unasked, pip tries for half a minute when there is no network.
    return {
        "PIP_RETRIES": "2",
        "PIP_DEFAULT_TIMEOUT": "15",
        **environment,
        "PYTHONNOUSERSITE": "1",
        "LC_ALL": "C.UTF-8",
    }


def site_folders() -> list[str]:
    """The folders in which the Python that runs this has its packages, the one with constellation first.

    It is first because another one may be installed as well, as when this one was found by PYTHONPATH. What else was found so
    comes next, as here.
    """
    import constellation

    by_path = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    folders = [os.path.dirname(constellation.__path__[0]), *by_path, *site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return list(dict.fromkeys(os.path.realpath(each) for each in folders if os.path.isdir(each)))


def _digest_of_path(root: str, name: str) -> str:
    """A digest of a file, or of all files of a folder, that requirements name."""
    path = os.path.join(root, name)
    digest = hashlib.blake2b(digest_size=16)
    names = [path]
    if os.path.isdir(path):
        names = sorted(os.path.join(folder, each) for folder, _, files in os.walk(path) for each in files)
    for each in names:
        digest.update(os.fsencode(os.path.relpath(each, root)) + b"\0")
        try:
            with open(each, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise DeployError(f"cannot read {name}, which the program's requirements name: {error.strerror}") from error
    return digest.hexdigest()
