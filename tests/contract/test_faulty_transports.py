"""Faults planted in a right transport: each is found by the check of the promise that it breaks."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from constellation.plugin import Buffer, Transport
from constellation.testing import TRANSPORT_CHECKS, BrokenPromise, check_transport
from tests.contract.right import LineListener, LineTransport, PlainLink, PlainTransport, RightRemote, TlsLink

FAULTS: list[tuple[str, type[Transport]]] = []
"""The name of a check, and a transport that breaks its promise."""

LEAKED: list[int] = []
OPEN: list[socket.socket] = []
FILES: list[str] = []
STOP = threading.Event()
"""What faulty transports leave, for the fixture that ends it."""


def found_by(check: str) -> Any:
    """Mark a faulty link or transport with the check that must find it."""

    def mark(faulty: Any) -> Any:
        if issubclass(faulty, PlainTransport):
            made = faulty
        elif issubclass(faulty, TlsLink):
            made = type(faulty.__name__, (RightRemote,), {"tls": faulty, "__doc__": faulty.__doc__})
        elif issubclass(faulty, LineListener):
            made = type(faulty.__name__, (LineTransport,), {"listener": faulty, "__doc__": faulty.__doc__})
        else:
            made = type(faulty.__name__, (PlainTransport,), {"link": faulty, "__doc__": faulty.__doc__})
        FAULTS.append((check, made))
        return faulty

    return mark


# -- The transport -----------------------------------------------------------------------------------------------------


@found_by("says_what_it_is")
class HasNoName(PlainTransport):
    """Cannot be selected."""

    name = ""


@found_by("says_what_it_is")
class SaysRemoteAndHasNoOpen(PlainTransport):
    """Would fail on the first link to another computer."""

    remote = True


@found_by("says_what_it_is")
class ListensAndCannotDial(RightRemote):
    """Half of a way."""

    def listen(self, address: str) -> Any:
        raise OSError(address)


@found_by("pair_gives_descriptors")
class GivesSockets(PlainTransport):
    """Objects instead of numbers."""

    def pair(self) -> Any:
        pair = socket.socketpair()
        OPEN.extend(pair)
        return pair


@found_by("pair_gives_descriptors")
class IsInherited(PlainTransport):
    """Every program that is started holds the link open."""

    def pair(self) -> tuple[int, int]:
        pair = super().pair()
        for fd in pair:
            os.set_inheritable(fd, True)
        return pair


@found_by("pair_gives_descriptors")
class KeepsTheDescriptor(PlainTransport):
    """Works on a copy, and forgets what it was given."""

    def adopt(self, fd: int) -> Any:
        return super().adopt(os.dup(fd))


@found_by("pair_gives_descriptors")
class KnowsOnlyItsOwn(PlainTransport):
    """Keeps the socket in the object that made the pair, where no other process finds it."""

    def pair(self) -> tuple[int, int]:
        self.made = {sock.fileno(): sock for sock in socket.socketpair()}
        OPEN.extend(self.made.values())
        one, other = self.made
        return os.dup(one), os.dup(other)

    def adopt(self, fd: int) -> Any:
        return PlainLink(self.made[fd])


# -- Bytes -------------------------------------------------------------------------------------------------------------


@found_by("delivers_each_byte_once_in_order")
class Reorders(PlainLink):
    """Puts a later small buffer first."""

    def send_many(self, buffers: Sequence[Buffer]) -> int:
        return super().send_many(sorted(buffers, key=len))


@found_by("delivers_each_byte_once_in_order")
class Duplicates(PlainLink):
    """Sends a small buffer once more."""

    def send(self, data: Buffer) -> int:
        count = super().send(data)
        if count == len(data) < 50:
            super().send(data)
        return count


@found_by("delivers_each_byte_once_in_order")
class LosesOneByte(PlainLink):
    """Of each read that fills what was asked for, the last one."""

    def receive(self, size: int) -> bytes:
        data = super().receive(size)
        return data[:-1] if 1 < len(data) == size else data


@found_by("delivers_each_byte_once_in_order")
class ChangesAByte(PlainLink):
    """As text mode does."""

    def receive(self, size: int) -> bytes:
        return super().receive(size).replace(b"\r", b"\n")


@found_by("delivers_each_byte_once_in_order")
class CountsWrong(PlainLink):
    """Says that it has taken all."""

    def send(self, data: Buffer) -> int:
        super().send(data)
        return len(data)


@found_by("delivers_each_byte_once_in_order")
class SaysNothing(PlainLink):
    """Forgets to return the count."""

    def send(self, data: Buffer) -> Any:
        super().send(data)


@found_by("delivers_each_byte_once_in_order")
class GivesMoreThanAsked(PlainLink):
    """Empties the socket into the caller's hands."""

    def receive(self, size: int) -> bytes:
        return super().receive(max(size, 4096))


@found_by("delivers_each_byte_once_in_order")
class GivesBytearrays(PlainLink):
    """What is read could be changed."""

    def receive(self, size: int) -> Any:
        return bytearray(super().receive(size))


@found_by("delivers_each_byte_once_in_order")
class WritesBehindTheCount(PlainLink):
    """Uses the caller's memory as its own."""

    def receive_into(self, view: memoryview) -> int:
        count = super().receive_into(view)
        view[count:] = b"\xff" * (len(view) - count)
        return count


@found_by("carries_both_ways_at_once")
class IsHalfDuplex(PlainLink):
    """Reads nothing while it has something to write."""

    is_full = False

    def send(self, data: Buffer) -> int:
        self.is_full = True
        count = super().send(data)
        self.is_full = False
        return count

    send_many = lambda self, buffers: self.send(next(each for each in buffers if len(each)))  # noqa: E731

    def receive(self, size: int) -> bytes:
        if self.is_full:
            raise BlockingIOError
        return super().receive(size)

    def receive_into(self, view: memoryview) -> int:
        if self.is_full:
            raise BlockingIOError
        return super().receive_into(view)


@found_by("takes_large_buffers")
class CutsLargeBuffers(PlainLink):
    """Keeps the length in 23 bits."""

    def send(self, data: Buffer) -> int:
        if len(data) > 1 << 23:
            super().send(data)
            return len(data) - (1 << 23)
        return super().send(data)


@found_by("takes_many_buffers")
class TakesThreeHundredBuffers(PlainLink):
    """Says that it has taken the rest, too."""

    def send_many(self, buffers: Sequence[Buffer]) -> int:
        count = super().send_many(buffers[:300])
        return count + sum(map(len, buffers[300:]))


@found_by("takes_many_buffers")
class PassesTheKernelTooMany(PlainLink):
    """The kernel takes 1,024 at a time; this one adds a length before each."""

    def send_many(self, buffers: Sequence[Buffer]) -> int:
        return self.sock.sendmsg([part for each in buffers for part in (b"", each)])


@found_by("gives_buffers_back")
class SendsLater(PlainLink):
    """Keeps what it was given until the next call."""

    kept: Buffer = b""

    def send(self, data: Buffer) -> int:
        if len(data) == 20_000 and type(data) is bytearray:
            self.kept = data
            return 20_000
        return super().send(data)

    def fileno(self) -> int:
        kept, self.kept = self.kept, b""
        if kept:
            super().send(kept)
        return super().fileno()


@found_by("gives_buffers_back")
class KeepsAView(PlainLink):
    """The owner cannot make it longer."""

    view = memoryview(b"")

    def send(self, data: Buffer) -> int:
        self.view = memoryview(data)
        return super().send(data)


@found_by("what_was_read_stays")
class UsesItsRoomAgain(PlainLink):
    """Reads into the memory of what it gave before."""

    address = 0
    length = 0

    def receive(self, size: int) -> bytes:
        data = bytes(bytearray(super().receive(size)))  # a copy, since CPython shares bytes of length one
        if self.address:
            ctypes.memmove(self.address, data, min(len(data), self.length))
        self.kept, self.length = data, len(data)
        self.address = id(data) + bytes.__basicsize__ - 1 if len(data) > 1 else 0
        return data


@found_by("links_are_apart")
class SharesItsRoom(PlainTransport):
    """All links wait while one is full."""

    full: PlainLink | None = None

    def adopt(self, fd: int) -> Any:
        class Link(PlainLink):
            def send(self, data: Buffer) -> int:
                if SharesItsRoom.full not in (None, self):
                    raise BlockingIOError
                try:
                    return super().send(data)
                except BlockingIOError:
                    SharesItsRoom.full = self
                    raise

            def close(self) -> None:
                if SharesItsRoom.full is self:
                    SharesItsRoom.full = None
                super().close()

        return Link(socket.socket(fileno=fd))


# -- Waiting -----------------------------------------------------------------------------------------------------------


@found_by("never_blocks")
class BlocksInSend(PlainLink):
    """Waits for room."""

    def send(self, data: Buffer) -> int:
        self.sock.setblocking(True)
        try:
            return super().send(data)
        finally:
            with contextlib.suppress(OSError):
                self.sock.setblocking(False)

    send_many = lambda self, buffers: self.send(next(each for each in buffers if len(each)))  # noqa: E731


@found_by("never_blocks")
class BlocksInReceive(PlainLink):
    """Waits for bytes."""

    def receive(self, size: int) -> bytes:
        self.sock.setblocking(True)
        try:
            return super().receive(size)
        finally:
            with contextlib.suppress(OSError):
                self.sock.setblocking(False)


@found_by("never_blocks")
class GivesNothingInsteadOfRaising(PlainLink):
    """Nothing now looks like the end."""

    def receive(self, size: int) -> bytes:
        try:
            return super().receive(size)
        except BlockingIOError:
            return b""


@found_by("never_blocks")
class TakesWithoutEnd(PlainLink):
    """Keeps in memory what nobody reads."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.kept = bytearray()

    def _rest(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.kept:
                del self.kept[: super().send(bytes(self.kept[:65536]))]

    def send(self, data: Buffer) -> int:
        self.kept += data
        self._rest()
        return len(data)

    def send_many(self, buffers: Sequence[Buffer]) -> int:
        return self.send(b"".join(buffers))


class ReadsAhead(PlainLink):
    """Reads more than it was asked for and keeps the rest, of which its descriptor does not tell."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.ahead = b""

    def receive(self, size: int) -> bytes:
        if not self.ahead:
            self.ahead = super().receive(1 << 17)
        data, self.ahead = self.ahead[:size], self.ahead[size:]
        return data

    def receive_into(self, view: memoryview) -> int:
        data = self.receive(len(view))
        view[: len(data)] = data
        return len(data)


found_by("readable_while_there_is_something")(ReadsAhead)


@found_by("not_readable_for_ever")
class SaysPendingAlways(PlainLink):
    """The driver spins."""

    def pending(self) -> bool:
        return True


@found_by("not_readable_for_ever")
class IsReadableAlways(PlainLink):
    """Watched is something that is always ready for reading: as after an eventfd that nobody reads."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.poll = select.epoll()
        self.event = os.eventfd(1)
        self.poll.register(self.event, select.EPOLLIN)
        self.poll.register(sock, select.EPOLLIN | select.EPOLLOUT)

    def fileno(self) -> int:
        return self.poll.fileno()

    def close(self) -> None:
        super().close()
        self.poll.close()
        with contextlib.suppress(OSError):
            os.close(self.event)
            self.event = -1


@found_by("writable_when_there_is_room")
class IsFullForAPretext(PlainLink):
    """Raises BlockingIOError though the socket has room: the driver spins, or sleeps for ever."""

    is_full = False

    def send(self, data: Buffer) -> int:
        if self.is_full:
            raise BlockingIOError
        try:
            return super().send(data)
        except BlockingIOError:
            self.is_full = True
            raise

    def send_many(self, buffers: Sequence[Buffer]) -> int:
        return self.send(next(each for each in buffers if len(each)))


@found_by("writable_when_there_is_room")
class IsWritableAlways(PlainLink):
    """Has a limit of its own, of which the descriptor does not know."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.left = 100_000

    def send(self, data: Buffer) -> int:
        if not self.left:
            raise BlockingIOError
        count = super().send(memoryview(data)[: self.left])
        self.left -= count
        return count

    def send_many(self, buffers: Sequence[Buffer]) -> int:
        return self.send(next(each for each in buffers if len(each)))

    def receive(self, size: int) -> bytes:
        data = super().receive(size)
        self.left += len(data)
        return data

    def receive_into(self, view: memoryview) -> int:
        count = super().receive_into(view)
        self.left += count
        return count


@found_by("two_threads_at_once")
class IsForOneThread(PlainLink):
    """Breaks when one sends while another receives."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.owner: int | None = None

    def _alone(self, call: Any, *args: Any) -> Any:
        me = threading.get_ident()
        if self.owner not in (None, me):
            raise RuntimeError("another thread is at it")
        self.owner = me
        try:
            time.sleep(0)  # lets the other one come in
            return call(*args)
        finally:
            self.owner = None

    def send(self, data: Buffer) -> int:
        return int(self._alone(super().send, memoryview(data)[:512]))

    def receive(self, size: int) -> Any:
        return self._alone(super().receive, size)


# -- The end -----------------------------------------------------------------------------------------------------------


@found_by("delivers_before_the_end")
class LosesWhatItKept(PlainLink):
    """Has a buffer of its own, and close does not write it out."""

    kept = b""

    def send(self, data: Buffer) -> int:
        if len(data) < 100_000:
            return super().send(data)
        if self.kept:
            self.kept = self.kept[super().send(self.kept) :]
            if self.kept:
                raise BlockingIOError
        count = super().send(data)
        self.kept = bytes(memoryview(data)[count : count + 100])
        return count + len(self.kept)

    def send_many(self, buffers: Sequence[Buffer]) -> int:
        return self.send(next(each for each in buffers if len(each)))


@found_by("delivers_before_the_end")
class HidesTheEnd(PlainLink):
    """Waits for more from a side that has closed."""

    def receive(self, size: int) -> bytes:
        data = super().receive(size)
        if not data:
            raise BlockingIOError
        return data

    def receive_into(self, view: memoryview) -> int:
        count = super().receive_into(view)
        if not count:
            raise BlockingIOError
        return count


@found_by("the_end_stays")
class TellsTheEndOnce(PlainLink):
    """Then there is nothing now, for ever."""

    has_told = False

    def receive(self, size: int) -> bytes:
        if self.has_told:
            raise BlockingIOError
        data = super().receive(size)
        self.has_told = not data
        return data

    def receive_into(self, view: memoryview) -> int:
        data = self.receive(len(view))
        view[: len(data)] = data
        return len(data)


@found_by("the_end_stays")
class SwallowsABrokenPipe(PlainLink):
    """Says that it has sent what nobody can get."""

    def send(self, data: Buffer) -> int:
        try:
            return super().send(data)
        except BrokenPipeError:
            return len(data)

    def send_many(self, buffers: Sequence[Buffer]) -> int:
        return self.send(next(each for each in buffers if len(each)))


@found_by("nothing_after_close")
class DeliversAfterClose(PlainLink):
    """Keeps a second descriptor."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.spare = sock.dup()
        OPEN.append(self.spare)

    def send(self, data: Buffer) -> int:
        return self.spare.send(data)


@found_by("nothing_after_close")
class SaysNothingNowAfterClose(PlainLink):
    """A caller would wait for ever."""

    def receive(self, size: int) -> bytes:
        if self.sock.fileno() < 0:
            raise BlockingIOError
        return super().receive(size)


@found_by("nothing_after_close")
class ClosesOnce(PlainLink):
    """The second call raises."""

    def close(self) -> None:
        if self.sock.fileno() < 0:
            raise RuntimeError("closed already")
        super().close()


@found_by("closing_gives_all_back")
class LeaksADescriptor(PlainLink):
    """One for each link."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        LEAKED.append(os.eventfd(0))


@found_by("closing_gives_all_back")
class LeaksAThread(PlainLink):
    """One for each link, which nobody ends."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        threading.Thread(target=STOP.wait, daemon=True).start()


@found_by("closing_gives_all_back")
class LeaksSharedMemory(PlainLink):
    """A file for each link."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        path = f"/dev/shm/constellation-fault-{os.getpid()}-{len(FILES)}"
        os.close(os.open(path, os.O_CREAT, 0o600))
        FILES.append(path)


# -- Other computers ---------------------------------------------------------------------------------------------------


@found_by("encrypts")
class IgnoresTheContext(RightRemote):
    """Plain text between computers."""

    def open(self, fd: int, *, server: bool, context: ssl.SSLContext) -> Any:
        return self.adopt(fd)


@found_by("refuses_strangers")
class TrustsAnybody(RightRemote):
    """Encrypted, and with whom does not matter."""

    def open(self, fd: int, *, server: bool, context: ssl.SSLContext) -> Any:
        context.verify_mode = ssl.CERT_NONE
        return super().open(fd, server=server, context=context)


@found_by("readable_while_there_is_something")
class HidesTheRestOfARecord(TlsLink):
    """OpenSSL holds the rest of 16 KiB, and nobody reads it."""

    pending = None  # type: ignore[assignment]  # as if it were not there


@found_by("listens_and_dials")
class BlocksInAccept(LineListener):
    """Waits for somebody."""

    def accept(self) -> tuple[int, str]:
        self.sock.setblocking(True)
        self.sock.settimeout(30)
        sock, _ = self.sock.accept()
        return sock.detach(), ""


@found_by("listens_and_dials")
class LeaksItsListener(LineListener):
    """Keeps the descriptor by which it waits."""

    def close(self) -> None:
        self.sock.close()


@found_by("strangers_hold_nobody_up")
class WaitsForTheFirst(LineListener):
    """Talks with one visitor at a time."""

    def accept(self) -> tuple[int, str]:
        if self.visitors:
            visitor = next(iter(self.visitors.values()))
            visitor.settimeout(60)
            visitor.recv(1, socket.MSG_PEEK)
            visitor.setblocking(False)
        return super().accept()


@found_by("dialling_ends")
class DialsForEver(LineTransport):
    """Tries again and again."""

    def dial(self, address: str, timeout: float) -> int:
        while not STOP.is_set():
            with contextlib.suppress(OSError):
                return super().dial(address, timeout)
            STOP.wait(0.01)
        raise OSError("stopped")


# ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Any:
    """End what faulty transports have left."""
    STOP.clear()
    yield
    STOP.set()
    while LEAKED:
        os.close(LEAKED.pop())
    while FILES:
        os.unlink(FILES.pop())
    while OPEN:
        OPEN.pop().close()


def test_enough_faults_are_planted() -> None:
    """Every check is there for a fault that it finds."""
    assert {check for check, _ in FAULTS} == {str(check) for check in TRANSPORT_CHECKS}


@pytest.mark.parametrize(("check", "faulty"), FAULTS, ids=[faulty.__name__ for _, faulty in FAULTS])
def test_fault_is_found(check: str, faulty: type[Transport]) -> None:
    """By the check of that name, in words that say what was promised and how to repeat it."""
    by_name = {str(each): each for each in TRANSPORT_CHECKS}
    with pytest.raises(BrokenPromise) as caught:
        by_name[check](faulty, patience=1.0)
    assert caught.value.check == check
    assert caught.value.seen
    assert f"to repeat: {check}(make, seed=0)" in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(("check", "faulty"), FAULTS, ids=[faulty.__name__ for _, faulty in FAULTS])
def test_suite_refuses_the_fault(check: str, faulty: type[Transport]) -> None:
    """As an author runs it; a check before the one of that name may find it, too."""
    with pytest.raises(BrokenPromise):
        check_transport(faulty, patience=1.0)
