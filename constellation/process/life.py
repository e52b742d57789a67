"""What a spawned process does from its first line to its last, and what is shared with the first process.

A spawned process never returns into the template's frames and never takes the interpreter's normal end: that would remove
temporary directories and close connections that belong to the template. It does what that end does for a plain program
(threads joined, its own atexit functions, files flushed), lets the runtime deliver what was sent, and leaves by os._exit.
"""

from __future__ import annotations

import _io
import _thread
import atexit
import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NoReturn

from constellation.core.errors import SerializationError
from constellation.core.lifecycle import HEARD_SIGTERM, SYSTEM_EXIT
from constellation.core.messages import Fork, Leaving, Raised
from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.process import laststack, runtime
from constellation.process.reactor import prepare_signals
from constellation.serializers import pickle

SIGTERM_CODE = 143
INTERRUPT_CODE = 130
_ASK_AGAIN_S = 0.002
_LONGEST_TEXT = 4000
"""Characters of an exception that are told: what a certificate keeps of it."""

heard_sigterm = False
"""Whether a SIGTERM has come, and was to end this process."""

_is_forking = False
_watches_forks = False
_is_foreign = False
_inherited_files: list[weakref.ref[Any]] = []


def run(message: Fork, payload: bytes, control: socket.socket, config: dict[str, Any], mask: Iterable[int]) -> NoReturn:
    """Be a spawned process: run its function, then leave.

    Args:
        message: What the node asked the template for.
        payload: The call, as the spawner's serializer made it.
        control: Socket to the node.
        config: Settings of the deployment.
        mask: Signals that it blocks; the others were blocked until now.
    """
    code = 1
    threads = set(threading.enumerate())
    pid, parent = Pid.from_bytes(message.pid), Pid.from_bytes(message.parent)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _forget_ends()
        _reseed()
        mine = runtime.Runtime(pid, parent, Resources.from_fields(message.resources), control, config)
        runtime.install(mine)
        mine.start(ready=False)
        code = _outcome(lambda: _call(payload, message.function))
        code = _outcome(lambda: _join_threads(threads)) or code
        atexit._run_exitfuncs()
        if not _is_foreign:  # a child that the function forked, and that has returned from it like its parent
            mine.leave(config["linger"])
    except BaseException as error:
        code = _report(error)
    finally:
        # Whatever interrupts the end (a second SIGTERM) must not lead back into the template's frames.
        try:
            code = _flush_at_end() or code
        finally:
            os._exit(code & 0xFF)


def _outcome(action: Callable[[], None]) -> int:
    """Run something of the user's; the exit code that Python would give for how it ended."""
    try:
        action()
    except BaseException as error:
        return _report(error)
    return 0


def _call(payload: bytes, name: str) -> None:
    try:
        function, args, kwargs = pickle.decode_call(payload)
    except SerializationError as error:
        raise SerializationError(f"the call of {name}", error.reason) from error.__cause__
    result = function(*args, **kwargs)
    if type(result).__name__ == "coroutine":
        import asyncio  # late: 60 ms, and most functions are plain

        result = asyncio.run(result)
    if result is not None:
        code = getattr(function, "__code__", None)
        warnings.warn_explicit(
            f"{name} returned a {type(result).__name__}, which nobody gets: send it over a channel, or return nothing",
            RuntimeWarning,
            code.co_filename if code else name,
            code.co_firstlineno if code else 1,
        )


def _report(error: BaseException) -> int:
    """Show an uncaught exception as Python does, tell the node, and give the exit code."""
    if isinstance(error, SystemExit):
        code = exit_code(error)
        if code:
            _tell(Leaving(_reason(error)))
        return code
    announce(error)
    # The frames of ours above the user's first one say nothing to the user.
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)
    return INTERRUPT_CODE if isinstance(error, KeyboardInterrupt) else 1


def exit_code(error: SystemExit) -> int:
    """The exit code of a SystemExit; a text goes to stderr, as in Python."""
    code = error.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    with contextlib.suppress(Exception):
        print(code, file=sys.stderr)  # noqa: T201  # as the interpreter does
    return 1


def _reason(error: SystemExit) -> str:
    if isinstance(error, SigtermExit):
        return HEARD_SIGTERM
    text = _text_of(error.code)
    return f"{SYSTEM_EXIT}: {text}" if text else SYSTEM_EXIT


def announce(error: BaseException) -> None:
    """Tell the node which exception is about to end this process."""
    _tell(raised(error))


def raised(error: BaseException) -> Raised:
    """The news of an exception that is about to end this process."""
    kind = type(error)
    name = (
        kind.__qualname__ if kind.__module__ in {"builtins", "__main__"} else f"{kind.__module__}.{kind.__qualname__}"
    )
    return Raised(name[:200], _text_of(error))


def _text_of(value: object) -> str:
    try:
        text = str(value)
    except Exception as broken:
        text = f"<str() of it raised {type(broken).__name__}>"
    return text[:_LONGEST_TEXT].encode(errors="replace").decode()  # surrogates do not travel


def _tell(message: Leaving | Raised) -> None:
    running = runtime.installed()
    if running is not None and not _is_foreign:
        running.tell_last(message)


def _flush_at_end() -> int:
    """Flush every file; a failure that changes the exit code is told."""
    code = flush_files()
    if code:
        _tell(Leaving("stdout or stderr could not be flushed"))
    return code


def _join_threads(before: set[threading.Thread]) -> None:
    """Wait for the threads that were started here, as the interpreter does; not for what the template had before."""
    # concurrent.futures ends its workers by these; the list is empty where nothing of the kind is imported.
    for call in reversed(threading._threading_atexits):  # type: ignore[attr-defined]  # no public way
        call()
    me = threading.current_thread()
    while True:
        mine = [
            thread
            for thread in threading.enumerate()
            if not thread.daemon and thread is not me and thread not in before
        ]
        if not mine:
            return
        for thread in mine:
            thread.join()


def handle_sigterm() -> None:
    """Have SIGTERM end the process by SystemExit(143), so that it cleans up, unless the program says otherwise."""
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_sigterm)
        sys.unraisablehook = partial(_on_unraisable, sys.unraisablehook)


def _on_sigterm(_number: int, _frame: Any) -> NoReturn:
    global heard_sigterm
    heard_sigterm = True
    raise SigtermExit(SIGTERM_CODE)


class SigtermExit(SystemExit):
    """The SystemExit of a SIGTERM."""


SigtermExit.__name__ = SigtermExit.__qualname__ = "SystemExit"


def _on_unraisable(former: Callable[[Any], Any], unraisable: Any) -> None:
    """Ask again where Python has dropped the SystemExit of a SIGTERM, because it came into a ``__del__`` or a callback.

    Asked once, a process must not live on until it is killed.
    """
    if not isinstance(unraisable.exc_value, SigtermExit):
        former(unraisable)
    elif not _is_foreign:
        _thread.start_new_thread(_ask_again, ())


def _ask_again() -> None:
    time.sleep(_ASK_AGAIN_S)  # out of the callback by then, most likely; else it is asked once more
    os.kill(os.getpid(), signal.SIGTERM)


def _forget_ends() -> None:
    """Drop what the program wanted done at its end: that is the first process's to do. What is registered here runs."""
    atexit._clear()
    # What these register once in a life was in the table; and an inherited TemporaryDirectory must not be removed here.
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]  # no public way
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]  # as above
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        # As in a child of multiprocessing's own: the program's pools are not ours to end, those made here are.
        util._finalizer_registry.clear()
        util._run_after_forkers()
        sys.modules["multiprocessing.process"]._children.clear()
        atexit.register(util._exit_function)


def _reseed() -> None:
    """Give numpy's global generator a new seed; `random` does so by itself at each fork."""
    generator = sys.modules.get("numpy.random")
    if generator is not None:
        with contextlib.suppress(Exception):  # a program may have put a generator there that takes no seed
            generator.seed()


def prepare_processes() -> None:
    """Do once, in the template, what every process forked from it needs."""
    prepare_signals()
    handle_sigterm()
    laststack.prepare()
    _leave_debugger()
    _leave_loops()
    if sys.stdin is not None and sys.stdin is sys.__stdin__:
        # What the program has read ahead of its standard input is the first process's; the others have /dev/null.
        sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc]  # noqa: SIM115  # it stays open


def _leave_debugger() -> None:
    """Stop tracing for pdb: it would ask its questions on a terminal that only the first process has."""
    owner = getattr(sys.gettrace(), "__self__", None)
    bdb = sys.modules.get("bdb")
    if bdb is not None and isinstance(owner, bdb.Bdb):
        sys.settrace(None)


def _leave_loops() -> None:
    """Forget the event loop that this program was in at init(): processes forked here are not in it."""
    asyncio_events = sys.modules.get("asyncio.events")
    if asyncio_events is not None and asyncio_events._get_running_loop() is not None:
        asyncio_events._set_running_loop(None)
        asyncio_events.set_event_loop(None)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the loop has its own one
    trio_run = sys.modules.get("trio._core._run")
    if trio_run is not None and hasattr(trio_run.GLOBAL_RUN_CONTEXT, "runner"):
        vars(trio_run.GLOBAL_RUN_CONTEXT).clear()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the loop has its own one
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        sniffio.thread_local.name = None


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """Mark a fork as one of ours: its child belongs to constellation."""
    global _is_forking
    _is_forking = True
    try:
        yield
    finally:
        _is_forking = False


def watch_forks() -> None:
    """Make children that the program forks by itself inert towards constellation, from now on."""
    global _watches_forks
    if not _watches_forks:
        _watches_forks = True
        os.register_at_fork(after_in_child=_after_fork_in_child)


def is_foreign() -> bool:
    """Whether this process was forked by the program itself, from a process of a deployment."""
    return _is_foreign


def _after_fork_in_child() -> None:
    global _is_foreign
    if _is_forking:
        return
    _is_foreign = True
    laststack.leave()
    # multiprocessing's terminate() counts on the default.
    if signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def line_buffer() -> None:
    """Have sys.stdout and sys.stderr pass each line on at once, pipe or not."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            with contextlib.suppress(OSError, ValueError):
                reconfigure(line_buffering=True)


def flush_standard_streams() -> None:
    """Flush sys.stdout and sys.stderr, before a fork would copy what waits in them."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def note_open_files() -> None:
    """Flush all files that are open, and remember them: the processes forked from here must flush them too.

    They cannot find these by themselves, because gc.freeze hides what was made before it.
    """
    _inherited_files[:] = [weakref.ref(file) for file in _open_files()]
    _flush(file for reference in _inherited_files if (file := reference()) is not None)


def _open_files() -> list[Any]:
    return [each for each in gc.get_objects() if isinstance(each, _io._IOBase)]


def flush_files() -> int:
    """Flush every open file, as the interpreter's end would; 120 where stdout or stderr fails, as in Python."""
    _flush(file for reference in _inherited_files if (file := reference()) is not None)
    _flush(_open_files())
    code = 0
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except (OSError, ValueError):
            code = 120
    return code


def _flush(files: Any) -> None:
    for file in files:
        if file is sys.stdout or file is sys.stderr:
            continue
        # Not ours to judge: a file may be closed by its owner, or be half a pipe.
        with contextlib.suppress(Exception):
            if not file.closed and file.writable():
                file.flush()
