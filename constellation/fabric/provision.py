"""What a deployment needs on a node before it can run: its files, and a Python that has what it asks for.

Each deployment has a folder here, removed at its end: ``files`` is the copy of the program, ``path`` what has the search
path end with the program's own folders. A daemon that starts removes what a former one has left.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from constellation.core import trunk
from constellation.core.errors import ConstellationError
from constellation.core.settings import CREDIT
from constellation.fabric.accounts import Accounts, environment_of, own_folder
from constellation.fabric.aside import Aside
from constellation.fabric.daemon import remove_folder
from constellation.fabric.depot import Depot, folder_of
from constellation.fabric.environments import Environments
from constellation.fabric.journal import WARNING
from constellation.fabric.preparing import Kit, Preparation, Ready

if TYPE_CHECKING:
    from constellation.fabric.journal import Log
    from constellation.fabric.loop import Loop
    from constellation.fabric.parts import Part
    from constellation.fabric.users import Account

# Python runs sitecustomize before the program, and finds the first one. This one takes itself away, and lets the next have
# its turn. PYTHONPATH alone would not do: it comes before the standard library, and a project may have a queue.py.
_SITE: Final = """\
import os, sys
_here = {here!r}
sys.path[:] = [each for each in sys.path if each != _here]
_rest = [each for each in os.environ.pop("PYTHONPATH", "").split(os.pathsep)[1:] if each]
if _rest:
    os.environ["PYTHONPATH"] = os.pathsep.join(_rest)
sys.path += [each for each in {folders!r} if each not in sys.path]
_self = sys.modules.pop(__name__)
try:
    import sitecustomize
except ImportError as error:
    if error.name != "sitecustomize":
        raise
finally:
    sys.modules.setdefault("sitecustomize", _self)
"""


class Provision:
    """Prepares deployments on this computer.

    Args:
        loop: The daemon's loop.
        folder: Where copies of files and environments are kept.
        need: Asks the master for chunks that are not here.
        name: Gives the name of the node.
        log: Writes one line.
        accounts: Whom deployments run as.

    Raises:
        OSError: Its folders cannot be made.
    """

    def __init__(
        self,
        loop: Loop,
        folder: str,
        need: Callable[[bytes, list[bytes]], None],
        name: Callable[[], str],
        log: Log,
        accounts: Accounts,
    ) -> None:
        self._accounts = accounts
        self._log = log
        self._mode = 0o711 if accounts.is_mapping else 0o700
        self.depot = Depot(folder)
        self._folder = os.path.join(folder, "deployments")
        remove_folder(self._folder)
        self._environments = os.path.join(folder, "environments")
        for each in (folder, self._folder, self._environments):
            os.makedirs(each, mode=0o700, exist_ok=True)
            os.chmod(each, self._mode)
        store = os.path.join(folder, "store")
        os.makedirs(store, mode=0o700, exist_ok=True)
        os.chmod(store, 0o700)
        self._aside = Aside(loop)
        self._kit = Kit(
            loop,
            self._aside,
            self.depot,
            name,
            need,
            lambda part: Environments(self._environments_of(part)),
            log,
        )
        self._preparations: dict[bytes, Preparation] = {}
        self._installing: list[Preparation] = []

    def prepare(self, part: Part, on_ready: Callable[[dict[str, Any]], None], on_failed: Callable[[str], None]) -> None:
        """Get a deployment's files and Python ready.

        Args:
            part: The deployment.
            on_ready: Called with the keys program, cwd, environment, borrowed and sys_path of its configuration.
            on_failed: Called with why it cannot be.
        """
        part.folder = os.path.join(self._folder, part.deployment.hex())

        def ready(found: Ready) -> None:
            try:
                config = configuration(part.specification, found, os.path.join(part.folder, "path"), part.account)
            except OSError as error:
                on_failed(f"cannot write into {part.folder}: {error.strerror}")
            else:
                on_ready(config)

        preparation = self._preparations[part.deployment] = Preparation(self._kit, part, ready, on_failed)
        try:
            part.account = self._accounts.of(part.specification.owner)
            # Of a mapped user, only what is in it is the user's own: whoever could rename that could have root write elsewhere.
            os.makedirs(part.folder, mode=self._mode)
            os.chmod(part.folder, self._mode)
        except ConstellationError as error:
            text = f"deployment {part.deployment.hex()[:7]} of {part.specification.owner!r} is refused: {error}"
            self._log(text, level=WARNING, deployment=part.deployment)
            on_failed(str(error))
            return
        except OSError as error:
            on_failed(f"cannot make the folder {part.folder}: {error.strerror}")
            return
        preparation.start()

    def _environments_of(self, part: Part) -> str:
        name, account = folder_of(part.specification.owner), part.account
        path = os.path.join(self._environments, name if account is None else f"{name}-{account.uid}")
        own_folder(path, account)
        return path

    @property
    def os_pids(self) -> set[int]:
        """Of the installations that run."""
        return {each.os_pid for each in [*self._preparations.values(), *self._installing]} - {0}

    def reaped(self, os_pid: int) -> None:
        """A child of the daemon has been waited for."""
        for preparation in [*self._preparations.values(), *self._installing]:
            if preparation.os_pid == os_pid:
                preparation.reaped()
        self._installing = [each for each in self._installing if each.os_pid]

    def forget(self, part: Part) -> None:
        """A deployment is over here, and all that it ran."""
        preparation = self._preparations.pop(part.deployment, None)
        if preparation is None:
            return
        folder = part.folder
        preparation.close(lambda: self._aside.run(lambda: remove_folder(folder), _nothing, _nothing))
        if preparation.os_pid:
            self._installing.append(preparation)

    def chunk(self, chunk: trunk.Chunk) -> None:
        """A chunk has come."""
        preparation = self._preparations.get(chunk.deployment)
        if preparation is not None:
            preparation.chunk(chunk.digest, chunk.data)

    def again(self) -> None:
        """The connection to the master is a new one: what was asked for by the former one is asked for again."""
        for preparation in self._preparations.values():
            preparation.again()

    def close(self) -> None:
        """The daemon ends: remove what is here of deployments."""
        for preparation in self._preparations.values():
            preparation.close(lambda: None)
        remove_folder(self._folder)


def _nothing(_: object) -> None:
    """Nobody waits for it; what is left goes when the daemon starts again."""


def configuration(
    specification: trunk.Specification, found: Ready, path_folder: str, account: Account | None = None
) -> dict[str, Any]:
    """What the monitor process is told of the program.

    Args:
        specification: The deployment.
        found: The interpreter to run it with, and where its files are.
        path_folder: A folder to be made for what adds to the search path.
        account: Whom it runs as; None: as the daemon.

    Raises:
        OSError: It cannot be made.
    """
    settings = {str(name): str(value) for name, value in specification.settings}
    kept = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    if account is not None:
        environment = environment_of(account)
    environment |= {str(name): str(value) for name, value in specification.environment}
    if found.python != sys.executable:  # as if the environment had been activated
        binaries = os.path.dirname(found.python)
        environment["VIRTUAL_ENV"] = os.path.dirname(binaries)
        environment["PATH"] = os.pathsep.join([binaries, environment.get("PATH", os.defpath)])
    folders = [os.path.normpath(os.path.join(found.root, each)) for each in specification.search]
    if folders:
        os.mkdir(path_folder, mode=0o755)
        # Opened before it is given away: what stands by its name afterwards is the user's to say.
        with open(os.path.join(path_folder, "sitecustomize.py"), "w", encoding="utf-8") as file:
            file.write(_SITE.format(here=path_folder, folders=folders))
            if account is not None:
                os.fchown(file.fileno(), account.uid, account.gid)
                os.chown(path_folder, account.uid, account.gid)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [path_folder, environment.get("PYTHONPATH")]))
    borrowed = {
        "CONSTELLATION_CAPACITY": "[4611686018427387904, 1000000000, []]",
        "CONSTELLATION_GRACE": settings.get("grace", "5"),
        "CONSTELLATION_LINGER": settings.get("linger", "60"),
        "CONSTELLATION_CREDIT": settings.get("credit", str(CREDIT)),
        "CONSTELLATION_PLUGINS": ",".join(map(str, specification.plugins)),
    }
    return {
        "program": [found.python, *map(str, specification.program)],
        "cwd": os.path.join(found.root, specification.folder),
        "environment": environment,
        "borrowed": borrowed,
        "sys_path": sys.path,
    }
