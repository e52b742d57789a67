"""init(): how a program becomes the first process of a deployment.

Two ways. A plain script becomes the whole tree by itself (`forked`): its OS pid goes to the keeper, and the program goes on
in a grandchild. Where that would pull the ground from under somebody (threads, an event loop, a REPL, a test runner) the
caller stays what it is and the fabric hangs on it (`attached`). In a template (`template`) init() does not return.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import stat
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from constellation.core.errors import (
    ConstellationError,
    Infeasible,
    InternalError,
    PluginError,
    SpawnError,
    UsageError,
)
from constellation.core.finding import Stated, absent
from constellation.core.lifecycle import HEARD_SIGTERM
from constellation.core.messages import Begin, Closed, Leaving, Raised
from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.process import environment, forked, kernel, life, runtime, surroundings, template
from constellation.process.reactor import prepare_signals
from constellation.serializers import pickle

if TYPE_CHECKING:
    from constellation.process.attached import Attachment

_SETTLE_S = 0.3
"""How long the end of an attached caller waits for processes that end by themselves, before it ends them."""

NODE = "local"
NODE_ID = 1

_deployment: Deployment | None = None
_former_control: socket.socket | None = None
"""Of a forked start whose deployment has been closed: the node still holds the other end, for the next init()."""
_count = 0
_is_over = False
"""Whether the deployment has been closed on a fabric, where another one would need another ``constellation deploy``."""
_wraps_excepthook = False
_announced: BaseException | None = None
"""The exception that is about to end this process, as the node knows it."""


class Deployment:
    """What `init` gives: the processes of this program as a whole.

    As a context manager it waits for all processes at a good end of its block, and kills them when the block is left by
    an exception. After its end `init` may be called again.
    """

    def __init__(
        self,
        running: runtime.Runtime,
        control: socket.socket,
        linger: float,
        attachment: Attachment | None,
        *,
        is_deployed: bool = False,
    ) -> None:
        self._runtime = running
        self._control = control
        self._linger = linger
        self._attachment = attachment
        self._is_deployed = is_deployed
        self._os_pid = os.getpid()
        self._is_open = True

    def __repr__(self) -> str:
        return f"<Deployment of {self._runtime.pid}, {'open' if self._is_open else 'closed'}>"

    @property
    def plugins(self) -> tuple[Stated, ...]:
        """The plugins that are enabled by name, each with the package and the version that brought it; in order."""
        return tuple(Stated(*each) for each in self._runtime.config["stated"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(kill=kind is not None)

    def close(self) -> None:
        """Blocks. End the deployment: every other process is asked to end, and killed after the grace time.

        A second call does nothing.

        Raises:
            UsageError: Called in another process than the first.
        """
        self._end(kill=True)

    def _end(self, *, kill: bool) -> None:
        global _deployment, _former_control, _is_over
        if not self._is_open:
            return
        if os.getpid() != self._os_pid:
            raise UsageError(
                "cannot end a deployment in a process that was forked from its first one: do it in the first one"
            )
        try:
            self._runtime.close_deployment(kill).block()
        except ConstellationError:
            if self._runtime.control.is_open:
                raise
            # The fabric has gone, and all that was to be ended with it.
        self._is_open = False
        _deployment = None
        if self._is_deployed:
            _is_over = True
        elif self._attachment is None:
            _former_control = self._control.dup()
        self._stop()

    def _stop(self) -> None:
        self._runtime.stop()
        runtime.uninstall()
        if self._attachment is not None:
            self._attachment.finish()

    def at_exit(self) -> None:
        """Deliver what was sent, at the interpreter's end. An attached fabric ends with it, and so does all that it runs."""
        if not self._is_open or os.getpid() != self._os_pid:
            return
        self._is_open = False
        with contextlib.suppress(OSError):
            self._runtime.leave(self._linger)
        if self._attachment is not None:
            # Who has just sent the last value is about to end by itself.
            with contextlib.suppress(TimeoutError, ConstellationError):
                self._runtime.close_deployment(kill=False).block(timeout=_SETTLE_S)
        self._stop()

    def tell_last(self, message: Leaving | Raised) -> None:
        """Tell the node why the first process is about to end."""
        if self._is_open and os.getpid() == self._os_pid:
            self._runtime.tell_last(message)


def init(
    resources: Resources | None = None,
    *,
    plugins: Sequence[str] = (),
    transport: str | None = None,
    serializer: str | None = None,
    scheduler: str | None = None,
    capacity: Resources | None = None,
) -> Deployment:
    """Make this program the first process of a deployment. Called once, at the program's start.

    What stands before it is run once in each template of the program; globals and ``os.environ`` changed after it are
    not seen by spawned processes.

    Args:
        resources: What this first process asks for; None: ``Resources()``.
        plugins: Plugins to enable, by name.
        transport: Name of the transport; None: the default one.
        serializer: Name of the serializer; None: the default one.
        scheduler: Name of the scheduler; None: the default one.
        capacity: What this computer offers to the deployment, in local mode; None: demands are counted, not limited.

    Returns:
        The deployment, a context manager with ``close()``.

    Raises:
        UsageError: Called twice, in a spawned process, not on Linux, or with an argument or a setting in the environment
            that cannot be used.
        Infeasible: The capacity is less than what this first process asks for.
        PluginError: A plugin, transport, serializer or scheduler is unknown or broken.
        SpawnError: The system does not give what a deployment needs; says what, and the limit. May be tried again.
    """
    resources = Resources() if resources is None else resources
    _check_arguments(resources, plugins, transport, serializer, scheduler, capacity)
    is_template = _is_template()
    if not is_template:
        _check_place()
    settings = environment.read(os.environ, os.getcwd(), plugins, capacity)
    if settings["capacity"] is not None and not is_template:
        _check_room(resources, Resources.from_fields(settings["capacity"]))
    named = {"transport": transport, "serializer": serializer, "scheduler": scheduler}
    config = {
        **settings,
        **{kind: name for kind, name in named.items() if name is not None},
        "sys_path": sys.path,
        "cwd": os.getcwd(),
        "node": NODE,
        "node_id": NODE_ID,
        "stated": [],
    }
    if config["scheduler"] is not None or config["plugins"]:
        try:
            made = runtime.plugins_of(config)
        except PluginError as error:
            if is_template and (lacking := absent(config["plugins"])):
                template.tell_lacking(lacking, str(error))
            raise
        made.scheduler(config["scheduler"])
        config["stated"] = [list(each) for each in made.stated()]
    found = surroundings.look()
    # A program that is run again stops at its first init(): for a later one it would be a template of the past.
    runs_again = found.main is not None and not found.may_fork and _count == 0
    prepare_template(config, has_main=is_template or found.may_fork or runs_again)
    if is_template:
        return _go_on(template.run_for_program(resources, config), config)
    return _start(config, resources, found, runs_again=runs_again)


def _check_room(resources: Resources, capacity: Resources) -> None:
    """Refuse a first process that has no room before it runs: the fabric would find out when it is done."""
    if not resources <= capacity:
        raise Infeasible(f"cannot place {resources}: the capacity is {capacity}; ask for less in init(), or give more")


def prepare_template(config: dict[str, Any], *, has_main: bool) -> None:
    """Do what every process needs and a fork takes along.

    Args:
        config: Settings of the deployment.
        has_main: Whether templates have the ``__main__`` of this program, as it is now.
    """
    runtime.prepare(config)
    pickle.remember_main(frozenset(vars(sys.modules["__main__"])) if has_main else frozenset())
    life.watch_forks()


def _start(
    config: dict[str, Any], resources: Resources, found: surroundings.Surroundings, *, runs_again: bool
) -> Deployment:
    global _deployment, _former_control, _count
    # Numbers from the node's own count stay far below the later ones.
    number = _count + 1
    pid = Pid(NODE_ID, 1 if number == 1 else (1 << 32) + number, os.urandom(16))
    config = {
        **config,
        "first": {
            "pid": pid.to_bytes().hex(),
            "process": pid.process,
            "function": found.function,
            "resources": resources.to_fields(),
        },
    }
    attachment = None
    try:
        if not found.may_fork:
            from constellation.process import attached, boot  # late: a plain script needs no subprocess module

            program = boot.program_command() if runs_again else boot.bare_template_command(config)
            attachment = attached.Attachment({**config, "mode": "attached", "program": program})
            control = attachment.control
        elif _former_control is not None:
            _begin(_former_control, pid, found.function, resources, config)
            control, _former_control = _former_control, None
        else:
            control = forked.start(
                {**config, "mode": "forked", "program": sys.orig_argv}, human=config["format"] in {None, "human"}
            )
            life.handle_sigterm()
            prepare_signals()
    except OSError as error:
        raise SpawnError(f"cannot start the deployment: {kernel.describe_lack(error)}") from error
    _count = number
    running = runtime.Runtime(pid, None, resources, control, config, outlives_node=attachment is not None)
    runtime.install(running)
    running.start()
    deployment = _deployment = Deployment(running, control, config["linger"], attachment)
    if _count == 1:
        atexit.register(_at_exit)
    if attachment is None and not _wraps_excepthook:
        _wrap_excepthook()
    return deployment


def _go_on(first: template.First, config: dict[str, Any]) -> Deployment:
    """Be the first process of a program that was deployed: its init() returns at last."""
    global _deployment, _count
    _count += 1
    life.handle_sigterm()
    prepare_signals()
    running = runtime.Runtime(first.pid, None, first.resources, first.control, config)
    runtime.install(running)
    running.start(ready=False)
    deployment = _deployment = Deployment(running, first.control, config["linger"], None, is_deployed=True)
    atexit.register(_at_exit)
    _wrap_excepthook()
    return deployment


def _begin(control: socket.socket, pid: Pid, function: str, resources: Resources, config: dict[str, Any]) -> None:
    """Begin anew under the fabric of a forked start: give it a template that is this program as it is now."""
    mine, theirs = forked.control_pair()
    try:
        forked.fork_template(mine, (theirs, control.fileno()), config)
        template.send(control, Begin(0, pid.to_bytes(), function, resources.to_fields(), config["capacity"]), [theirs])
    finally:
        os.close(mine)
        os.close(theirs)
    control.setblocking(True)
    while True:
        answer, fds = template.receive(control)
        for fd in fds:
            os.close(fd)
        if answer is None:
            raise InternalError("the fabric has ended before the program")
        if isinstance(answer, Closed) and answer.request == 0:
            return


def _at_exit() -> None:
    _announce_last()
    # Why is not to be had here but for a SIGTERM; that it is no os._exit is known now.
    _tell(Leaving(HEARD_SIGTERM if life.heard_sigterm else ""))
    if _deployment is not None:
        _deployment.at_exit()


def _tell(message: Leaving | Raised) -> None:
    """Tell the node why this first process is about to end, be its deployment open or closed."""
    if _deployment is not None:
        _deployment.tell_last(message)
    elif _former_control is not None and not life.is_foreign():
        with contextlib.suppress(OSError):
            template.send(_former_control, message)


def _announce_last() -> None:
    """Tell of an uncaught exception that our hook has not seen, because the program has put its own in its place."""
    last = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    if last is not None and last is not _announced and not isinstance(last, SystemExit):
        _tell(life.raised(last))


def _wrap_excepthook() -> None:
    global _wraps_excepthook
    _wraps_excepthook = True
    former = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        global _announced
        _announced = error
        _tell(life.raised(error))
        former(kind, error, trace)

    sys.excepthook = hook


def _is_template() -> bool:
    """Whether the fabric runs this program again for its template: the variable names a socket that is really here."""
    text = os.environ.get(template.FD_VARIABLE)
    if text is None:
        return False
    with contextlib.suppress(OSError, ValueError):
        if stat.S_ISSOCK(os.fstat(int(text)).st_mode):
            return True
    # Inherited from a template by a program that it started.
    for name in (template.FD_VARIABLE, template.ONCE_VARIABLE, template.FAR_VARIABLE, template.BORROWED_VARIABLE):
        os.environ.pop(name, None)
    return False


def _check_place() -> None:
    if sys.platform != "linux":
        raise UsageError(f"constellation runs on Linux only, for now: this is {sys.platform}")
    if not sys.executable:
        raise UsageError(
            "constellation needs a Python interpreter of its own: sys.executable is empty, as in an embedded Python"
        )
    installed = runtime.installed()
    if _is_over:
        raise UsageError(
            "init() was called again after close(), in a program that was deployed: a deployment on a fabric begins with "
            "`constellation deploy`; run the program once for each"
        )
    if life.is_foreign():
        raise UsageError(
            "init() was called in a process that was forked from a process of a deployment (os.fork or multiprocessing): "
            "start it with spawn() instead, or as a program of its own with subprocess"
        )
    if installed is not None and _deployment is None:
        raise UsageError(
            "init() was called in a spawned process, which is part of a deployment already: call it once, at the start of the "
            'program, under `if __name__ == "__main__":` where the module is imported too'
        )
    if installed is not None:
        raise UsageError("init() was called twice: use the first deployment, or close() it before")
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        raise UsageError(
            "init() was called in a multiprocessing child: call it in the program itself, and put the call under "
            '`if __name__ == "__main__":`, because multiprocessing imports the program again'
        )


def _check_arguments(
    resources: object, plugins: object, transport: object, serializer: object, scheduler: object, capacity: object
) -> None:
    if not isinstance(resources, Resources):
        raise UsageError(f"cannot use resources={resources!r:.100}: expected Resources(mem=..., cpu=...)")
    if capacity is not None and not isinstance(capacity, Resources):
        raise UsageError(f"cannot use capacity={capacity!r:.100}: expected Resources(mem=..., cpu=...), or None")
    if (
        isinstance(plugins, str)
        or not isinstance(plugins, Sequence)
        or not all(isinstance(name, str) for name in plugins)
    ):
        raise UsageError(f"cannot use plugins={plugins!r:.100}: expected a list of names")
    for what, name in (("transport", transport), ("serializer", serializer), ("scheduler", scheduler)):
        if name is not None and not isinstance(name, str):
            raise UsageError(f"cannot use {what}={name!r:.100}: expected a name, or None for the default")
