"""This process's end of its control connection to the node, and the requests under way on it.

One packet is one message (core/messages.py). None is on the hot path, so signals are blocked while one is sent or
handled: a Ctrl-C must not repeat a spawn or lose a link.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` wraps: numbers stay numbers
import _thread
import os
import select
import socket
from array import array
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgpack

from constellation.core import messages
from constellation.core.errors import ConstellationError
from constellation.core.messages import Message
from constellation.process.reactor import EPOLLIN, EPOLLOUT

if TYPE_CHECKING:
    from constellation.process.reactor import Reactor

_PACKET = (messages.LARGEST_PACKET,)
_ANCILLARY = (socket.CMSG_SPACE(8 * array("i").itemsize),)
_FLAGS = (socket.MSG_CMSG_CLOEXEC,)
_ALL_SIGNALS = _signal.valid_signals()


class Blocked:
    """Signals blocked in this thread, for a block that must run as a whole."""

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        # The call that blocks may itself raise what a handler raises: by then the mask must be known.
        self._before = _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
        try:
            _signal.pthread_sigmask(_signal.SIG_BLOCK, _ALL_SIGNALS)
        except BaseException:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, self._before)
            raise

    def __exit__(self, *exc_info: object) -> None:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self._before)


class Request:
    """Something asked of the node, and its answer when it has come."""

    __slots__ = ("answer", "number", "waiters")

    def __init__(self, number: int) -> None:
        self.number = number
        self.answer: Message | None = None
        self.waiters: list[Callable[[], None]] = []


class Control:
    """The connection to the node.

    Args:
        reactor: Where it is watched.
        sock: The socket; taken over.
        on_message: Called with each message that is no answer, and its descriptors; with the news of an end too.
        on_end: Called when the node has gone.
    """

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        on_message: Callable[[Message, list[int]], None],
        on_end: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        self._reactor = reactor
        self._socket = sock
        self._fd = sock.fileno()
        self._on_message = on_message
        self._on_end = on_end
        self._got: list[tuple[bytes, list[Any], int, Any]] = []
        self._queue: list[tuple[bytes, list[int]]] = []
        self._spent: list[int] = []  # descriptors to close: who keeps one has made a copy
        self._sent: list[int] = []  # the result of the call that sent the first of the queue
        self._requests: dict[int, Request] = {}
        self._last = 0
        self._lock = _thread.RLock()  # of all that sends; reading is the driver's alone
        self.is_open = True
        self._has_ended = False  # and all who must know have been told
        reactor.watch(self._fd, self)

    def request(self) -> Request:
        """A number for a question, under which its answer is awaited."""
        with self._lock:
            self._last = number = self._last + 1
            request = self._requests[number] = Request(number)
        return request

    def forget(self, request: Request) -> None:
        """Nobody waits for the answer any more."""
        self.drop(request.number)

    def drop(self, number: int) -> None:
        """A question has not been asked, or nobody waits for its answer."""
        self._requests.pop(number, None)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send a message, now or when there is room. Copies of ``fds`` are kept as long as needed."""
        packet = msgpack.packb(messages.fields_of(message))
        with Blocked(), self._lock:
            self._queue.append((packet, [os.dup(fd) for fd in fds]))
            self._flush()

    def _flush(self) -> None:
        queue, done = self._queue, self._sent
        while queue and self.is_open:
            packet, fds = queue[0]
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
            try:
                if not done:
                    done += map(self._socket.sendmsg, ([packet],), (ancillary,))
            except BlockingIOError:
                self._reactor.epoll.modify(self._fd, EPOLLIN | EPOLLOUT)
                return
            except OSError:
                # The node has gone; the reader sees it, after what the node still said.
                while queue:
                    for fd in queue.pop()[1]:
                        os.close(fd)
                return
            del queue[0], done[0]  # commit
            for fd in fds:
                os.close(fd)

    def finish(self, timeout: float) -> None:
        """Blocks. Send what is queued, as far as the node reads within ``timeout`` seconds: the process is about to end."""
        deadline = perf_counter() + timeout
        while self._queue and self.is_open and (left := deadline - perf_counter()) > 0:
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            poll.poll(left * 1000)
            with Blocked(), self._lock:
                self._flush()

    def on_ready(self, events: int) -> None:
        """Handle what the node says."""
        if events & EPOLLOUT:
            with Blocked(), self._lock:
                self._reactor.epoll.modify(self._fd, EPOLLIN)
                self._flush()
        got = self._got
        try:
            while True:
                while self._spent:
                    fd = self._spent[0]
                    del self._spent[0]
                    os.close(fd)
                if not got:
                    got += map(self._socket.recvmsg, _PACKET, _ANCILLARY, _FLAGS)
                # Signals are blocked in this thread only. Another that takes one has its handler run here all the same: so
                # a message is passed over when it has been handled, and each handler may be run twice.
                with Blocked():
                    data, ancillary = got[0][:2]
                    if not data:
                        self._end()
                        del got[0]
                        return
                    fds = _descriptors(ancillary)
                    self._handle(messages.read(msgpack.unpackb(data)), fds)
                    self._spent += fds
                    del got[0]  # commit, from `_spent` on
        except BlockingIOError:
            return
        except OSError:
            with Blocked():
                self._end()

    def resume(self) -> None:
        """After an exception of a signal handler: go on."""
        with Blocked(), self._lock:
            self._flush()
        self.on_ready(EPOLLIN)

    def _handle(self, message: Message, fds: list[int]) -> None:
        number = getattr(message, "request", None)
        if number is None:
            self._on_message(message, fds)
            return
        if isinstance(message, messages.Exited):
            self._on_message(message, fds)  # not only who asked wants to know
        request = self._requests.get(number)
        if request is not None:
            request.answer = message
            self._reactor.touched += (request,)
            del self._requests[number]

    def _end(self) -> None:
        # First: whoever asks from now on sees it, and whoever has asked before is told here.
        self.is_open = False
        if not self._has_ended:
            for request in list(self._requests.values()):
                self._reactor.touched += (request,)
            self._on_end()
            self._has_ended = True
        self._reactor.forget(self._fd)

    def check(self) -> None:
        """Raise where the node has gone: no answer will come.

        Raises:
            ConstellationError: The connection has ended.
        """
        if not self.is_open:
            raise ConstellationError("the node of this process has gone: no request can be answered")

    def close(self) -> None:
        """Close the socket."""
        self.is_open = False
        self._reactor.forget(self._fd)
        self._socket.close()


def _descriptors(ancillary: list[Any]) -> list[int]:
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array("i")
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
            fds += numbers
    return fds
