"""The conformance suite for transports, which the built-in one passes too.

In a plugin's tests::

    @pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=str)
    def test_transport(check):
        check(MyTransport)

or, all at once, ``check_transport(MyTransport)``. Every check is run over every way that the transport has of making a link:
its pairs, and, where it leads to other computers, encrypted streams. Ends of a pair are passed
through a socket and adopted by objects of their own, as a node and two processes do it.

The checks read and write as the runtime does (`constellation.testing.streams`); they need no network beyond the loopback
device, and the suite a few seconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any

from constellation.core.contracts import Transport
from constellation.testing.leaks import left, look
from constellation.testing.promises import PATIENCE_S, Check, Trial, expect, has_text_name, run_all, short
from constellation.testing.remote import REMOTE_CHECKS
from constellation.testing.streams import MOST_TAKEN, End, carry
from constellation.testing.ways import (
    Make,
    arrives,
    compare,
    cut,
    exchange,
    fill,
    on_each_way,
    pass_on,
    ready,
    two_ends,
    ways,
)

_LARGE = 16 << 20
_FILL = 256 << 10
_SETTLE_TRIES = 2000
_LINKS = 16


# -- The promises of a transport ---------------------------------------------------------------------------------------


@Check[Transport]
def says_what_it_is(make: Make, trial: Trial) -> None:
    """It has a name, and the members of what it is: `pair` and `adopt`, `open` if it is remote, `listen` with `dial`."""
    transport: Any = make()
    has_text_name(transport)
    remote = getattr(transport, "remote", False)
    expect(type(remote) is bool, f"remote is {remote!r}: expected a bool")
    needs = ["pair", "adopt", *(["open"] if remote else [])]
    dials = [name for name in ("listen", "dial") if hasattr(transport, name)]
    if dials:
        expect(remote, f"it has {dials[0]}, and remote is {remote}: expected True of one that reaches other computers")
        needs += ["listen", "dial"]
    missing = [name for name in needs if not callable(getattr(transport, name, None))]
    expect(not missing, f"it has no {missing[0] if missing else ''}(): expected {', '.join(needs)}")


@Check[Transport]
def pair_gives_descriptors(make: Make, trial: Trial) -> None:
    """`pair` gives two descriptors that no started program inherits, and `adopt` takes one over."""
    pair = make().pair()
    expect(type(pair) is tuple and len(pair) == 2, f"pair() gives {pair!r}: expected two descriptors")
    expect(
        all(type(fd) is int for fd in pair) and pair[0] != pair[1], f"pair() gives {pair!r}: expected two descriptors"
    )
    for fd in pair:
        expect(not os.get_inheritable(fd), f"descriptor {fd} of pair() is inherited by programs that are started")
    for fd in map(pass_on, pair):
        link = make().adopt(fd)
        trial.at_end(link.close)
        expect(link.fileno() >= 0, f"fileno() of an adopted link gives {link.fileno()}: expected a descriptor")
        link.close()
        with contextlib.suppress(OSError):
            os.fstat(fd)
            os.close(fd)
            raise AssertionError(f"descriptor {fd}, which adopt took over, is open after close")


# -- The promises of a link: bytes -------------------------------------------------------------------------------------


@on_each_way
def delivers_each_byte_once_in_order(one: End, other: End, trial: Trial) -> None:
    """What is taken on one side comes out on the other: every byte, once, in order."""
    for largest in (64, 4096, 1 << 18, 1 << 20):
        data = trial.chance.randbytes(trial.chance.randrange(largest, (1 << 20) + 2 * largest))
        one.out = list(cut(trial, data, largest))
        arrives(trial, one, other, data)
        other.got.clear()
    # Nothing comes after what was sent.
    exchange(trial, one, other, b"and no more")


@on_each_way
def carries_both_ways_at_once(one: End, other: End, trial: Trial) -> None:
    """Each direction gets on while the other is full, so that two that send much to each other do not stop."""
    there, back = trial.chance.randbytes(4 << 20), trial.chance.randbytes(4 << 20)
    one.out, other.out = list(cut(trial, there, 1 << 19)), list(cut(trial, back, 1 << 19))
    carry(
        trial,
        one,
        other,
        until=lambda: len(one.got) >= len(back) and len(other.got) >= len(there),
        why="4 MiB were sent in each direction and do not arrive",
    )
    compare(other, there)
    compare(one, back)


@on_each_way
def takes_large_buffers(one: End, other: End, trial: Trial) -> None:
    """A buffer of 16 MiB arrives whole, however little of it a call takes."""
    data = trial.chance.randbytes(_LARGE)
    one.out = [memoryview(data)]
    arrives(trial, one, other, data)


@on_each_way
def takes_many_buffers(one: End, other: End, trial: Trial) -> None:
    """`send_many` takes up to 1,000 buffers of all kinds, empty ones among them, as if they were joined."""
    parts = [trial.chance.randbytes(trial.chance.randrange(200)) for _ in range(999)]
    buffers = [b"first", *[(part, bytearray(part), memoryview(part))[at % 3] for at, part in enumerate(parts)]]
    whole = b"first" + b"".join(parts)
    count = one.link.send_many(buffers)
    trial.progress()
    expect(
        type(count) is int and 1 <= count <= len(whole),
        f"send_many of {len(whole)} bytes gives {count!r}: expected a count from 1 to {len(whole)}",
    )
    one.out = [whole[count:]] if count < len(whole) else []
    arrives(trial, one, other, whole)


@on_each_way
def gives_buffers_back(one: End, other: End, trial: Trial) -> None:
    """When `send` has returned, the buffer is the caller's: it may be changed, and no view of it is kept."""
    sent = bytearray()
    for several in (False, True, False, True):
        buffer = bytearray(trial.chance.randbytes(20_000))
        original = bytes(buffer)
        count = one.link.send_many([buffer, memoryview(b"")]) if several else one.link.send(buffer)
        trial.progress()
        buffer[:] = bytes(len(buffer))
        try:
            buffer += b"more"
        except BufferError:
            raise AssertionError("the link keeps a view of a buffer after the call: expected none") from None
        sent += original[:count]
        one.out = [original[count:]] if count < len(original) else []
        arrives(trial, one, other, original)
        other.got.clear()


@on_each_way
def what_was_read_stays(one: End, other: End, trial: Trial) -> None:
    """What `receive` has given does not change with what is read later, and `receive_into` keeps no view."""
    kept: list[tuple[bytes, bytearray]] = []
    for _ in range(20):
        one.out.append(trial.chance.randbytes(3000))
        while one.out:
            one.write()
        _wait_readable(trial, other)
        data = other.link.receive(trial.chance.randrange(1, 2500))
        kept.append((data, bytearray(data)))
        room = bytearray(500)
        _wait_readable(trial, other)
        with memoryview(room) as view:
            count = other.link.receive_into(view)
        copy = bytes(room)
        try:
            room += b"more"
        except BufferError:
            raise AssertionError("receive_into keeps a view of what it was given: expected none") from None
        kept.append((copy[:count], bytearray(copy[:count])))
        expect(not any(copy[count:]), f"receive_into gives {count} and has written behind them")
    for data, copy_then in kept:
        expect(
            bytes(data) == copy_then,
            f"bytes that were read have changed: {short(data)} was {short(bytes(copy_then))}",
        )


def _wait_readable(trial: Trial, end: End) -> None:
    if not end.is_pending():
        expect(
            ready(end.fileno(), select.EPOLLIN, trial.patience / 2),
            f"{end.name} has bytes to be read, and its descriptor is not readable",
        )
    trial.progress()


@Check[Transport]
def links_are_apart(make: Make, trial: Trial) -> None:
    """What happens to one link, full or closed, does not touch another of the same transport."""
    for way in ways(make):
        full, aside, closed, apart, good, peer = *two_ends(way, trial), *two_ends(way, trial), *two_ends(way, trial)
        for pair in ((full, aside), (closed, apart), (good, peer)):
            exchange(trial, *pair, b"hello")
        fill(trial, full)
        closed.link.close()
        data = trial.chance.randbytes(1 << 20)
        good.out = [data]
        try:
            arrives(trial, good, peer, data)
        except AssertionError as error:
            raise AssertionError(f"{way.name}: beside a full and a closed link: {error}") from error
        for end in (full, aside, apart, good, peer):
            end.link.close()


# -- The promises of a link: waiting -----------------------------------------------------------------------------------


@on_each_way
def never_blocks(one: End, other: End, trial: Trial) -> None:
    """A call that can do nothing now raises BlockingIOError at once; what is taken without a reader is bounded."""
    for name, call in (
        ("receive", lambda: other.link.receive(1000)),
        ("receive_into", lambda: other.link.receive_into(memoryview(bytearray(1000)))),
    ):
        try:
            got = call()
        except BlockingIOError:
            trial.progress()
            continue
        raise AssertionError(f"{name} gives {got!r} where nothing was sent: expected BlockingIOError")
    fill(trial, one)
    for _ in range(3):
        try:
            count = one.link.send_many([*one.out, b"more"])
        except BlockingIOError:
            trial.progress()
            continue
        one.sent += count
        fill(trial, one)


@on_each_way
def readable_while_there_is_something(one: End, other: End, trial: Trial) -> None:
    """The descriptor is readable as long as reading would give something: one read a wake takes all."""
    data = trial.chance.randbytes(50_000)
    one.out = [data]
    while one.out:
        one.write()
    while len(other.got) < len(data):
        _wait_readable(trial, other)
        before = len(other.got)
        other.got += _once_ready(trial, other, trial.chance.choice((1, 7, 1000, 9000)) if before else 1)


def _once_ready(trial: Trial, end: End, size: int) -> bytes:
    for _ in range(_SETTLE_TRIES):
        try:
            return end.link.receive(size)
        except BlockingIOError:
            _wait_readable(trial, end)
    raise AssertionError("its descriptor is readable, and receive raises BlockingIOError, again and again")


@on_each_way
def not_readable_for_ever(one: End, other: End, trial: Trial) -> None:
    """Where reading raises BlockingIOError the descriptor is not readable for long: else the driver spins."""
    exchange(trial, one, other, b"some bytes")
    for end in (one, other):
        for _ in range(_SETTLE_TRIES):
            if not end.is_pending() and not ready(end.fileno(), select.EPOLLIN, 0):
                break
            with contextlib.suppress(BlockingIOError):
                data = end.link.receive(1000)
                raise AssertionError(f"{end.name} reads {short(data)}, which nobody has sent")
            trial.progress()
        else:
            raise AssertionError(
                f"{end.name} has nothing to be read, and its descriptor (or pending) says that it has, again and again"
            )


@on_each_way
def writable_when_there_is_room(one: End, other: End, trial: Trial) -> None:
    """After BlockingIOError from sending, the descriptor is writable when there is room again, and not before."""
    for _ in range(_SETTLE_TRIES):
        fill(trial, one)
        if not ready(one.fileno(), select.EPOLLOUT, 0.01) & select.EPOLLOUT:
            break
    else:
        raise AssertionError("no send has room, and the descriptor is writable, again and again")
    expected = one.sent + sum(map(len, one.out))
    carry(
        trial,
        one,
        other,
        until=lambda: len(other.got) >= expected - len(b"hello") or one.broken is not None,
        why="it was full, all that it had taken was read, and the rest does not follow",
    )


@on_each_way
def two_threads_at_once(one: End, other: End, trial: Trial) -> None:
    """One thread may send while another receives on the same link."""
    data = trial.chance.randbytes(2 << 20)
    failures: list[BaseException] = []
    stop = threading.Event()

    def work(action: Callable[[], bool], is_done: Callable[[], bool], fd: int, wanted: int) -> None:
        try:
            while not is_done() and not stop.is_set():
                if not action():
                    ready(fd, wanted, 0.05)
        except BaseException as error:
            failures.append(error)
            stop.set()

    threads = []
    for end in (one, other):
        end.got.clear()
        end.out = [data]
        for action, is_done, wanted in (
            (end.write, lambda end=end: not end.out, select.EPOLLOUT),
            (end.read, lambda end=end: len(end.got) >= len(data) or end.end is not None, select.EPOLLIN),
        ):
            threads.append(threading.Thread(target=work, args=(action, is_done, end.fileno(), wanted), daemon=True))
    trial.at_end(stop.set)
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.001)
        state = [len(one.got), len(other.got), one.sent, other.sent]
        expect(
            time.monotonic() - trial.last_progress < trial.patience / 2,
            f"four threads on two ends get no further: {state} of {len(data)} bytes read and taken",
        )
    if failures:
        raise failures[0]
    for end in (one, other):
        compare(end, data)


# -- The promises of a link: its end -----------------------------------------------------------------------------------


@on_each_way
def delivers_before_the_end(one: End, other: End, trial: Trial) -> None:
    """Bytes that were taken before `close` arrive, however full the way was, and then the end is seen."""
    whole, data = bytearray(), b""
    for _ in range(1 + MOST_TAKEN // _FILL):
        data = data or trial.chance.randbytes(_FILL)
        try:
            count = one.link.send(data)
        except BlockingIOError:
            break
        trial.progress()
        whole += data[:count]
        data = data[count:]  # the next call begins with what was not taken: a link may count on it
    one.link.close()
    _read_to_the_end(trial, other)
    # What a call had begun when it found no room may have left, too, without having been told.
    begun = bytes(other.got[len(whole) :])
    if data.startswith(begun):
        del other.got[len(whole) :]
    compare(other, bytes(whole))


def _read_to_the_end(trial: Trial, end: End) -> None:
    carry(trial, end, until=lambda: end.end is not None, why="the other side has closed, and the end is not seen")


@on_each_way
def the_end_stays(one: End, other: End, trial: Trial) -> None:
    """After the end of the path every read tells it again, and sending raises OSError; the program gets no signal."""
    one.link.close()
    _read_to_the_end(trial, other)
    for _ in range(3):
        try:
            data = other.link.receive(100)
            count = other.link.receive_into(memoryview(bytearray(100)))
        except BlockingIOError:
            raise AssertionError("reading raises BlockingIOError after the end: expected the end again") from None
        except OSError:
            continue
        expect(data == b"", f"receive gives {data!r} after the end: expected b''")
        expect(count == 0, f"receive_into gives {count} after the end: expected 0")
    other.out = [bytes(1 << 20)] * 65
    carry(
        trial,
        other,
        until=lambda: other.broken is not None or not other.out,
        why="the other side has closed, and sending neither raises nor gets on",
    )
    expect(
        other.broken is not None,
        f"{other.sent} bytes were taken by a link whose other side is closed: expected OSError",
    )


@on_each_way
def nothing_after_close(one: End, other: End, trial: Trial) -> None:
    """After `close` every call raises OSError or ValueError, nothing reaches the other side, and `close` does nothing more."""
    send, send_many = one.link.send, one.link.send_many
    receive, receive_into = one.link.receive, one.link.receive_into
    one.link.close()
    for name, call in (
        ("send", lambda: send(b"after close")),
        ("send_many", lambda: send_many([b"after", b"close"])),
        ("receive", lambda: receive(100)),
        ("receive_into", lambda: receive_into(memoryview(bytearray(100)))),
    ):
        try:
            got: object = call()
        except BlockingIOError:
            raise AssertionError(f"{name} raises BlockingIOError after close: expected another OSError") from None
        except (OSError, ValueError):
            trial.progress()
            continue
        raise AssertionError(f"{name} gives {got!r} after close: expected OSError")
    one.link.close()
    _read_to_the_end(trial, other)
    expect(not other.got, f"{short(bytes(other.got))} was sent after close and has arrived")


@Check[Transport]
def closing_gives_all_back(make: Make, trial: Trial) -> None:
    """Links that are closed leave no descriptor, no thread and no file in shared memory."""
    for way in ways(make):
        for end in two_ends(way, trial):  # what is made once for all links does not count
            end.link.close()
        before = look()
        for number in range(_LINKS):
            one, other = two_ends(way, trial)
            if number % 2:
                exchange(trial, one, other, b"hello")
            if number % 3 == 0:
                fill(trial, one)
            for end in (one, other):
                end.link.close()
            trial.progress()
        lines = left(before, trial.patience / 2)
        # Other programs of the same user make files there, too: a leak makes one for each link, or every other.
        shared = [line for line in lines if line.startswith("/dev/shm/")]
        if len(shared) < _LINKS // 2:
            lines = [line for line in lines if line not in shared]
        expect(not lines, f"{way.name}: after {_LINKS} links were closed there is left: {'; '.join(lines[:4])}")


TRANSPORT_CHECKS: tuple[Check[Transport], ...] = (
    says_what_it_is,
    pair_gives_descriptors,
    delivers_each_byte_once_in_order,
    carries_both_ways_at_once,
    takes_large_buffers,
    takes_many_buffers,
    gives_buffers_back,
    what_was_read_stays,
    links_are_apart,
    never_blocks,
    readable_while_there_is_something,
    not_readable_for_ever,
    writable_when_there_is_room,
    two_threads_at_once,
    delivers_before_the_end,
    the_end_stays,
    nothing_after_close,
    closing_gives_all_back,
    *REMOTE_CHECKS,
)
"""All checks, for those who want a test of each."""


def check_transport(make: Make, *, seed: int = 0, patience: float = PATIENCE_S) -> None:
    """Check that a transport keeps the contract of `constellation.plugin.Transport`, and of its optional parts if it has them.

    Args:
        make: Makes a new transport.
        seed: Another one takes other chances.
        patience: Seconds after which a call that has not returned is said to hang.

    Raises:
        BrokenPromise: A check fails: which, what was seen, and the seed that repeats it.
    """
    run_all(TRANSPORT_CHECKS, make, seed, patience)
