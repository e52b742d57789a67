"""One deployment's way to its first step on a node: its files, whether it fits, a Python that has what it asks for.

Nothing of it runs before all three are there. The daemon's loop never waits: what reads or writes much runs in a thread,
an installation in a process of its own, which is ended when the deployment is.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import constellation
from constellation.core import trunk
from constellation.core.errors import ConstellationError, DeployError
from constellation.core.fitting import fit
from constellation.core.specification import installation_of, shown
from constellation.fabric import installing, requirements
from constellation.fabric.accounts import acting_as, check_reach, launch_options
from constellation.fabric.sending import installation
from constellation.fabric.store import Owner

if TYPE_CHECKING:
    from constellation.core.requirements import Stated
    from constellation.fabric.aside import Aside
    from constellation.fabric.depot import Depot
    from constellation.fabric.environments import Environments
    from constellation.fabric.loop import Loop
    from constellation.fabric.parts import Part

WINDOW: Final = 64
"""Chunks that are asked for at a time: 2 MiB at most, so that no beat of the master waits for long behind them."""

_KILL_S: Final = 5.0
"""For an installation that is ended to take back what it has begun."""

_MOST_WORDS: Final = 4 << 10
_LONGEST_LINE: Final = 1 << 20


class Kit(NamedTuple):
    """What all preparations of a node share."""

    loop: Loop
    aside: Aside
    depot: Depot
    name: Callable[[], str]
    """Of the node."""
    need: Callable[[bytes, list[bytes]], None]
    """Asks the master for chunks."""
    environments: Callable[[Part], Environments]
    """Those of a deployment's owner."""
    log: Callable[[str], None]


class Ready(NamedTuple):
    """What a program runs with."""

    python: str
    root: str
    """Where its files are."""


class _Look(NamedTuple):
    """What was found about a program whose files are here."""

    root: str
    stated: Stated
    must_install: bool
    notes: tuple[str, ...]


class _UnfitError(DeployError):
    """The program does not fit this node."""


class Preparation:
    """Prepares one deployment.

    Args:
        kit: What all preparations of the node share.
        part: The deployment; its ``folder`` is there, and empty.
        on_ready: Called once when it may run.
        on_failed: Called once with why it may not.
    """

    def __init__(
        self, kit: Kit, part: Part, on_ready: Callable[[Ready], None], on_failed: Callable[[str], None]
    ) -> None:
        self.os_pid = 0
        """Of the installation, while it runs."""
        self._kit = kit
        self._part = part
        self._on_ready = on_ready
        self._on_failed = on_failed
        self._is_over = False
        self._is_running = False
        """Whether a thread is at work."""
        self._on_closed: Callable[[], None] | None = None
        self._holds = contextlib.ExitStack()
        self._wanted: deque[tuple[bytes, int]] = deque()
        self._pending: dict[bytes, int] = {}
        self._moved = 0
        self._output = -1
        self._line = b""
        self._words = b""
        self._look: _Look | None = None

    @property
    def _owner(self) -> str:
        return self._part.specification.owner

    def start(self) -> None:
        """Begin."""
        if self._part.specification.manifest:
            self._ask()
        else:
            self._run(lambda: self._look_at(self._part.specification.root), self._looked)

    def _run(self, work: Callable[[], Any], on_done: Callable[[Any], None]) -> None:
        def done(result: Any) -> None:
            self._is_running = False
            if not self._is_over:
                on_done(result)
            self._close_if_asked()

        def failed(error: Exception) -> None:
            self._is_running = False
            self._failed(error)
            self._close_if_asked()

        self._is_running = True
        self._kit.aside.run(work, done, failed)

    def _failed(self, error: Exception) -> None:
        self._part.is_unfit = isinstance(error, _UnfitError)
        if isinstance(error, (ConstellationError, ValueError)):
            self._fail(str(error))
        elif isinstance(error, KeyError):
            self._fail("a part of its files was broken on the disk, and has been thrown away: deploy it again")
        else:
            self._fail(f"its files cannot be made ready: {type(error).__name__}: {error}")

    def _fail(self, text: str) -> None:
        if not self._is_over:
            self.cancel()
            self._on_failed(text)

    def cancel(self) -> None:
        """Stop; neither function is called any more."""
        self._is_over = True
        self._wanted.clear()
        self._pending.clear()
        if self.os_pid:
            self._signal(signal.SIGTERM)
            self._kit.loop.call_later(_KILL_S, lambda: self._signal(signal.SIGKILL))
        self._close_output()

    def _signal(self, signum: int) -> None:
        if self.os_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.os_pid, signum)

    def close(self, on_closed: Callable[[], None]) -> None:
        """Let go what was held for the deployment, which is over.

        Args:
            on_closed: Called once when nothing of it writes into its folder any more.
        """
        self.cancel()
        self._on_closed = on_closed
        if not self._is_running:
            self._close_if_asked()

    def _close_if_asked(self) -> None:
        on_closed, self._on_closed = self._on_closed, None
        if on_closed is not None:
            self._holds.close()
            on_closed()

    # Files

    def _ask(self) -> None:
        """Find what is missing: of the list of files first, then of those."""
        manifest = self._part.specification.manifest

        def look() -> dict[bytes, int]:
            self._holds.callback(self._kit.depot.hold(self._owner, manifest))
            return self._kit.depot.missing(self._owner, manifest)

        def found(missing: dict[bytes, int]) -> None:
            if missing:
                self._wanted.extend(missing.items())
                self._need_more()
            else:
                self._lay_out()

        self._run(look, found)

    def _need_more(self) -> None:
        asked = []
        while self._wanted and len(self._pending) < WINDOW:
            digest, size = self._wanted.popleft()
            self._pending[digest] = size
            asked.append(digest)
        if asked:
            self._kit.need(self._part.deployment, asked)

    def again(self) -> None:
        """Ask once more for what was asked for: the connection to the master is another one."""
        if self._pending:
            self._kit.need(self._part.deployment, list(self._pending))

    def chunk(self, digest: bytes, data: bytes) -> None:
        """A chunk has come from the master."""
        size = self._pending.pop(digest, None)
        if size is None:
            return  # it was asked for twice
        if not data:
            self._fail("the master no longer has a part of its files: deploy it again")
            return
        try:
            if len(data) != size:
                raise ValueError(f"a chunk of {len(data)} bytes: its list says {size}")
            self._kit.depot.put(self._owner, digest, data)
        except (ValueError, DeployError) as error:
            self._fail(str(error))
            return
        self._moved += len(data)
        if self._wanted and len(self._pending) <= WINDOW // 2:
            self._need_more()
        elif not self._wanted and not self._pending:
            self._ask()

    def _lay_out(self) -> None:
        specification = self._part.specification
        target = os.path.join(self._part.folder, "files")
        if self._moved:
            self._kit.log(f"{self._moved} bytes of files came for deployment {self._part.deployment.hex()[:7]}")

        def work() -> _Look:
            manifest = self._kit.depot.read_manifest(self._owner, specification.manifest)
            folders = [each for each in (specification.folder, *specification.search) if each not in {"", "."}]
            account = self._part.account
            owner = None if account is None else Owner(account.uid, account.gid)
            self._kit.depot.store(self._owner).assemble(manifest, target, folders=folders, owner=owner)
            look = self._look_at(target)
            self._kit.depot.trim(self._owner)
            return look

        self._run(work, self._looked)

    # Whether it fits, and what it runs with

    def _look_at(self, root: str) -> _Look:
        """Hold the program against this node. Runs in a thread.

        Raises:
            DeployError: It does not fit; has the table and what mends it.
        """
        specification = self._part.specification
        account = self._part.account
        check_reach(account, sys.executable, constellation.__file__, os.path.dirname(self._part.folder))
        with acting_as(account):
            if not os.path.isdir(os.path.join(root, specification.folder)):
                raise DeployError(
                    f"the folder {os.path.join(root, specification.folder)!r} is not on this node"
                    + (f", or the user {account.name!r} cannot get at it" if account is not None else "")
                )
            stated = requirements.stated(root, specification.script)
        here = requirements.this_environment()
        lacks = requirements.satisfied_by(stated, here)
        unfit = []
        notes = []
        if specification.is_forced:
            notes = [f"this node's Python is used as it is, without {lack}" for lack in lacks]
        elif lacks:
            own = {requirements.NODE_DISTRIBUTION, *requirements.node_distributions()}
            _, provided = requirements.without_provided(stated, own)
            unfit = requirements.satisfied_by(provided._replace(python=stated.python), here)
        names = [str(name) for name in specification.plugins]
        fitting = fit(
            installation_of("here", specification.client),
            installation(self._kit.name(), names),
            plugins=names,
            # Used as it is, any Python does: what it lacks has been said.
            python=stated.python or (">=3" if specification.is_forced else ""),
            lacks=unfit,
        )
        if not fitting.fits:
            raise _UnfitError(fitting.refusal(shown(specification.program)))
        return _Look(root, stated, bool(lacks) and not specification.is_forced, (*notes, *fitting.notes))

    def _looked(self, look: _Look) -> None:
        for note in look.notes:
            self._tell(note)
        self._look = look
        if not look.must_install:
            self._finish(sys.executable)
            return
        try:
            self._install(look)
        except DeployError as error:
            self._fail(str(error))
        except OSError as error:
            self._fail(f"cannot start an installation: {error.strerror}")

    def _finish(self, python: str) -> None:
        assert self._look is not None
        if not self._is_over:
            self._is_over = True
            self._on_ready(Ready(python, self._look.root))

    def _tell(self, text: str) -> None:
        """A line for the user."""
        self._part.tell(trunk.Words(f"constellation: {self._kit.name()}: {text}\n"))

    # Installing

    def _install(self, look: _Look) -> None:
        given = os.memfd_create("constellation-install")
        self._output, write_end = os.pipe()
        try:
            os.write(given, installing.request(self._kit.environments(self._part).folder, look.root, look.stated))
            os.lseek(given, 0, os.SEEK_SET)
            started = subprocess.Popen(
                installing.command(),
                stdin=given,
                stdout=write_end,
                stderr=write_end,
                start_new_session=True,
                **launch_options(self._part.account, is_pip=True),
            )
        except BaseException:
            os.close(self._output)
            self._output = -1
            raise
        finally:
            os.close(given)
            os.close(write_end)
        started.returncode = 0  # the daemon reaps; Popen must not
        self.os_pid = started.pid
        os.set_blocking(self._output, False)
        self._kit.loop.watch(self._output, self._read_output)

    def _read_output(self) -> None:
        if self._output < 0:
            return
        try:
            data = os.read(self._output, 64 << 10)
        except BlockingIOError:
            return
        *lines, self._line = (self._line + data).split(b"\n")
        self._line = self._line[-_LONGEST_LINE:]
        for line in lines:
            self._hear(line)
        if not data:
            words = (self._words + self._line).decode(errors="replace").strip()
            self._close_output()
            self._fail(f"the installation has ended without a result{f': {words}' if words else ''}")

    def _hear(self, line: bytes) -> None:
        try:
            ((kind, text),) = json.loads(line).items()
            text = str(text)
        except (ValueError, AttributeError, RecursionError):  # what Python itself says when it fails
            self._words = (self._words + line + b"\n")[-_MOST_WORDS:]
            return
        if kind == "log":
            self._tell(text)
        elif kind == "error":
            self._close_output()
            self._fail(text)
        elif kind == "python":
            self._close_output()
            try:
                with acting_as(self._part.account):
                    self._holds.enter_context(self._kit.environments(self._part).hold(text))
            except (OSError, ValueError, DeployError) as error:
                self._fail(f"cannot use the environment {text!r}: {error}")
            else:
                self._finish(text)

    def _close_output(self) -> None:
        if self._output >= 0:
            self._kit.loop.unwatch(self._output)
            os.close(self._output)
            self._output = -1

    def reaped(self) -> None:
        """The installation has been waited for."""
        self.os_pid = 0
