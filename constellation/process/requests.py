"""Operations that ask the node: spawn, watch, kill, and the end of a deployment."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from constellation.core import errors, where
from constellation.core.errors import SpawnError, UsageError
from constellation.core.messages import (
    PAYLOAD_INLINE,
    Cancel,
    Exited,
    Kill,
    Message,
    Spawn,
    Spawned,
    SpawnFailed,
    Watch,
)
from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.core.settings import GRACE
from constellation.core.status import ExitStatus
from constellation.core.why import ANYONE
from constellation.process import runtime as runtimes
from constellation.process.kernel import describe_lack
from constellation.process.operations import FRESH, Operation, Source, wait

if TYPE_CHECKING:
    from constellation.core.where import On
    from constellation.core.why import Need
    from constellation.process.control import Request
    from constellation.process.runtime import Runtime

P = ParamSpec("P")
T = TypeVar("T")


class _Asking(Operation[T]):
    """Asks the node once, at the first poll, and waits for the answer."""

    __slots__ = ("_request", "_runtime")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._request: Request | None = None
        self._state = FRESH

    def ask(self, number: int) -> None:
        """Send the question."""
        raise NotImplementedError

    def read(self, answer: Message) -> T:
        """The result in an answer; raises what it says."""
        raise NotImplementedError

    def unanswered(self) -> T:
        """The result where the node has gone without an answer; raises where there is none."""
        self._runtime.control.check()
        raise errors.InternalError("the node is there, and was taken to have gone")

    def poll(self) -> bool:
        request = self._request
        if request is None:
            if self._runtime.is_foreign:
                runtimes.current()
            if not self._runtime.control.is_open:
                self._result = self.unanswered()
                return True
            request = self._begin_asking()
        if request.answer is None:
            if not self._runtime.control.is_open:
                self._result = self.unanswered()
                return True
            return False
        self._result = self.read(request.answer)
        return True

    def sources(self) -> Sequence[Source]:
        return (self._request or self._begin_asking(),)

    def _begin_asking(self) -> Request:
        control = self._runtime.control
        # Known before it is sent: a Ctrl-C most likely comes right after that, and must not leave a question behind that
        # nobody can withdraw.
        self._request = request = control.request()
        try:
            self.ask(request.number)
        except Exception:
            self._request = None
            control.forget(request)
            raise
        return request

    def withdraw(self) -> bool:
        request = self._request
        if request is not None and request.answer is None:  # an answer that has come is kept for the next use
            self._runtime.control.forget(request)
            if self._runtime.control.is_open:
                self._runtime.control.send(Cancel(request.number))
            self._request = None  # last, so that `__del__` does it again where a second Ctrl-C has come into it
        return True

    def rewind(self) -> bool:
        return True  # the question stands: asked again, the operation waits for the same answer

    def __del__(self) -> None:
        super().__del__()
        request = getattr(self, "_request", None)
        if request is not None and not self._runtime.is_foreign and self._is_owed(request):
            self.withdraw()

    def _is_owed(self, request: Request) -> bool:
        """Whether something must be taken back when nobody asks for the answer any more."""
        return request.answer is None

    def runtime(self) -> Runtime:
        return self._runtime


class _Withdrawn(Exception):
    """The node has taken a spawn out of its queue, as was asked."""


class _Spawn(_Asking[Pid]):
    __slots__ = ("_call", "_function", "_on", "_payload", "_place", "_resources", "_waits")

    def __init__(
        self, runtime: Runtime, call: tuple[Any, ...], resources: Resources, on: On, place: str, *, waits: bool
    ) -> None:
        self._on = [] if on is None else where.fields_of(on)
        self._call = call
        self._function = function_name(call[0])
        self._resources = resources
        self._place = place
        self._waits = waits
        self._payload: bytes | None = None
        super().__init__(runtime)  # last: what it is comes before that it is

    def ask(self, number: int) -> None:
        payload = self._payload
        if payload is None:
            from constellation.serializers.pickle import encode_call  # loaded in the template already

            payload = self._payload = encode_call(*self._call)
        inline = len(payload) <= PAYLOAD_INLINE
        message = Spawn(
            number,
            self._function,
            self._place,
            self._resources.to_fields(),
            self._waits,
            payload if inline else b"",
            self._on,
        )
        if inline:
            self._runtime.control.send(message)
            return
        try:
            self._send_beside(message, payload)
        except OSError as error:
            self._runtime.control.drop(number)
            raise SpawnError(
                f"cannot spawn {self._function}: the call of {len(payload)} bytes travels in a file in memory: "
                f"{describe_lack(error)}"
            ) from error

    def _send_beside(self, message: Message, payload: bytes) -> None:
        fd = os.memfd_create("constellation-call", os.MFD_CLOEXEC)
        try:
            view = memoryview(payload)
            while view:
                view = view[os.write(fd, view) :]
            self._runtime.control.send(message, (fd,))
        finally:
            os.close(fd)

    def read(self, answer: Message) -> Pid:
        if isinstance(answer, Spawned):
            return Pid.from_bytes(answer.pid)
        if isinstance(answer, SpawnFailed):
            if answer.kind == "Cancelled":
                raise _Withdrawn
            kind = getattr(errors, answer.kind, SpawnError)
            raise kind(answer.text)
        raise errors.InternalError(f"the answer to a spawn was {answer!r}")

    def _block_slowly(self, timeout: float | None) -> Pid:
        try:
            if not wait(self, self._runtime, timeout):
                request = self._request
                if request is not None and request.answer is None:
                    self._runtime.control.send(Cancel(request.number))
                wait(self, self._runtime, None)  # the node answers at once: taken out of the queue, or it was too late
        except _Withdrawn:
            raise TimeoutError(f"{self.describe()}: no room after {timeout:g} s; withdrawn") from None
        except BaseException:
            self.withdraw()
            raise
        return self._result

    def withdraw(self) -> bool:
        request, control = self._request, self._runtime.control
        if request is not None and control.is_open:

            def end_it() -> None:
                # It was placed before the node read that nobody wants it any more; or a Ctrl-C came just when it ran.
                if isinstance(request.answer, Spawned):
                    late = control.request()
                    control.forget(late)
                    control.send(Kill(late.number, request.answer.pid, 0.0, tree=False))

            request.waiters[:] = [end_it]
            if request.answer is None:
                control.send(Cancel(request.number))
            else:
                end_it()
            self._request = None  # last, as above
            if hasattr(self, "_result"):
                del self._result
        return True

    def _is_owed(self, request: Request) -> bool:
        return request.answer is None or (isinstance(request.answer, Spawned) and not hasattr(self, "_result"))

    def describe(self) -> str:
        return f"spawn of {self._function}"

    def need(self) -> Need:
        return ANYONE  # whoever gives room back; the node counts one that is being forked as no rest


class _AwaitEnd(_Asking[ExitStatus]):
    __slots__ = ("_message", "_of")

    def __init__(self, runtime: Runtime, of: Pid, message: Callable[[int], Watch | Kill]) -> None:
        self._of = of
        self._message = message
        super().__init__(runtime)

    def ask(self, number: int) -> None:
        self._runtime.control.send(self._message(number))

    def read(self, answer: Message) -> ExitStatus:
        if isinstance(answer, Exited) and answer.status is not None:
            return ExitStatus.from_fields(answer.status)
        raise UsageError(
            f"process {self._of} is not known on this node: it belongs to another deployment, or never was"
        )

    def unanswered(self) -> ExitStatus:
        if self._request is not None:
            return runtimes.lost_with_node(self._of)  # else it would have been answered that it is not known
        peer = self._runtime.peers.get(self._of)
        if peer is not None and isinstance(peer.gone, errors.PeerDied):
            return peer.gone.status
        return super().unanswered()

    def describe(self) -> str:
        verb = "kill" if isinstance(self._message(0), Kill) else "watch"
        return f"{verb} of {self._of}"

    def need(self) -> Need:
        return None if isinstance(self._message(0), Kill) else self._of.to_bytes()


class CallOperation(_Asking[None]):
    """A question whose answer only says that it is done."""

    __slots__ = ("_answer", "_message", "_need", "_words")

    def __init__(
        self,
        runtime: Runtime,
        message: Callable[[int], tuple[Message, tuple[int, ...]]],
        answer: type[Any],
        words: str,
        need: Need = None,
    ) -> None:
        self._need = need
        self._message = message
        self._answer = answer
        self._words = words
        super().__init__(runtime)

    def ask(self, number: int) -> None:
        self._runtime.control.send(*self._message(number))

    def read(self, answer: Message) -> None:
        if not isinstance(answer, self._answer):
            raise errors.InternalError(f"the answer to {self._words!r} was {answer!r}")

    def describe(self) -> str:
        return self._words

    def need(self) -> Need:
        return self._need


def function_name(fn: Any) -> str:
    """``module:qualname``; the main module goes by the program's own name."""
    module = getattr(fn, "__module__", None) or type(fn).__module__
    name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    if module == "__main__":
        main = sys.modules["__main__"]
        path = getattr(main, "__file__", None)
        spec = getattr(main, "__spec__", None)
        if spec is not None and spec.name:
            module = spec.name.removesuffix(".__main__")
        elif path:
            module = os.path.splitext(os.path.basename(path))[0]
    return f"{module}:{name}"[:500]


def _spawning(fn: Any, args: Any, kwargs: Any, resources: Resources | None, on: On, *, waits: bool) -> _Spawn:
    runtime = runtimes.current()
    if not callable(fn):
        raise UsageError(f"cannot spawn {fn!r}: expected a function and its arguments, as in spawn(child, 3)")
    if resources is not None and not isinstance(resources, Resources):
        raise UsageError(f"cannot use resources={resources!r}: expected Resources(mem=..., cpu=...)")
    caller = sys._getframe(2)
    place = f"{caller.f_code.co_filename}:{caller.f_lineno}"[-1000:]
    demand = Resources() if resources is None else resources
    return _Spawn(runtime, (fn, args, kwargs), demand, on, place, waits=waits)


# The arguments are checked against the function's; with resources=, which Python's types cannot take out of them, the
# function alone is.
@overload
def spawn(fn: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> Operation[Pid]: ...
@overload
def spawn(  # type: ignore[overload-cannot-match]  # it matches where a keyword is not the function's
    fn: Callable[..., object], *args: Any, resources: Resources | None, **kwargs: Any
) -> Operation[Pid]: ...
@overload
def spawn(  # type: ignore[overload-cannot-match]  # as above
    fn: Callable[..., object], *args: Any, on: On, resources: Resources | None = None, **kwargs: Any
) -> Operation[Pid]: ...
def spawn(  # type: ignore[misc]  # a function's own argument named resources cannot be given
    fn: Callable[..., object], *args: Any, resources: Resources | None = None, on: On = None, **kwargs: Any
) -> Operation[Pid]:
    """An operation: start a process that calls ``fn(*args, **kwargs)``; gives its Pid once it runs.

    Waits in the queue while there is no room. An ``async def`` function runs under asyncio.run. When the function
    returns the process ends with 0; when it raises, with 1.

    Args:
        fn: A function of any kind: of the main module or another, nested, a lambda, a method.
        *args: Its arguments; they are copied to the new process.
        resources: What the process demands; `Resources()` where it is None, not what the spawner has.
        on: Where it may run: the name of a node, ``"NAME=VALUE"`` of a label, a Pid for the same node as that process, an
            `AwayFrom` for another one, or a list of these, all of which must hold. In local mode it is ignored.
        **kwargs: Its keyword arguments.

    Raises:
        UsageError: Before `init`; ``fn`` is not callable; ``resources`` is no Resources; ``on`` cannot be read.

    The operation raises:
        Infeasible: No node could hold the demand, even empty.
        SpawnStalled: All that hold capacity wait, and none will give any back.
        SpawnError: The process could not be started; says why.
        SerializationError: The function or an argument cannot be encoded; names the member.
    """
    return _spawning(fn, args, kwargs, resources, on, waits=True)


@overload
def try_spawn(fn: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> Operation[Pid]: ...
@overload
def try_spawn(  # type: ignore[overload-cannot-match]  # as above
    fn: Callable[..., object], *args: Any, resources: Resources | None, **kwargs: Any
) -> Operation[Pid]: ...
@overload
def try_spawn(  # type: ignore[overload-cannot-match]  # as above
    fn: Callable[..., object], *args: Any, on: On, resources: Resources | None = None, **kwargs: Any
) -> Operation[Pid]: ...
def try_spawn(  # type: ignore[misc]  # as above
    fn: Callable[..., object], *args: Any, resources: Resources | None = None, on: On = None, **kwargs: Any
) -> Operation[Pid]:
    """An operation: as `spawn`, but fails at once where there is no room now. It does not overtake the queue.

    The operation raises:
        NoCapacity: There is no room now.
        Infeasible, SpawnError, SerializationError: As for `spawn`.
    """
    return _spawning(fn, args, kwargs, resources, on, waits=False)


def watch(pid: Pid) -> Operation[ExitStatus]:
    """An operation: how a process ended, when it has; at once if it has ended.

    Raises:
        TypeError: ``pid`` is no Pid.
        UsageError: Before `init`.

    The operation raises:
        UsageError: The process is of another deployment.
    """
    _must_be_pid(pid)
    wire = pid.to_bytes()
    return _AwaitEnd(runtimes.current(), pid, lambda number: Watch(number, wire))


def kill(pid: Pid, grace: float = GRACE, tree: bool = False) -> Operation[ExitStatus]:  # public API
    """An operation: ask a process to end (SIGTERM), wait, kill it; gives how it ended.

    SIGTERM raises SystemExit(143) in the process unless its program handles it.

    Args:
        pid: The process.
        grace: Seconds between asking and killing; 0 kills at once.
        tree: Also all that it has spawned, and so on.

    Raises:
        TypeError: ``pid`` is no Pid.
        UsageError: Before `init`, or ``grace`` is below zero.
    """
    _must_be_pid(pid)
    if not isinstance(grace, (int, float)) or not 0 <= grace < 1e9:
        raise UsageError(f"cannot use grace={grace!r}: expected seconds, not below zero")
    wire = pid.to_bytes()
    return _AwaitEnd(runtimes.current(), pid, lambda number: Kill(number, wire, float(grace), bool(tree)))


def _must_be_pid(pid: object) -> None:
    if not isinstance(pid, Pid):
        raise TypeError(f"expected the Pid of a process, not {pid!r}")
