"""Programs that are wrong: each line that carries ignores must be an error for both checkers.

An ignore that is not needed is an error itself, so this file is right only while all of its lines are wrong. It is read
by the checkers, never run.
"""

# pyright: reportUnknownMemberType=false
# (After an error its type is unknown; that is no second error.)
from __future__ import annotations

from constellation import (
    ChildSpec,
    Pid,
    Receiver,
    Resources,
    Sender,
    Supervisor,
    init,
    kill,
    link,
    parent,
    select,
    spawn,
    watch,
)


def child(n: int, *, name: str = "") -> None:
    raise NotImplementedError


async def async_child(words: list[str]) -> None:
    raise NotImplementedError


def processes(peer: Pid) -> None:
    spawn(child, "three")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    spawn(child)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    spawn(child, 3, 4)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    spawn(child, 3, name=4)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    spawn(child(3))  # type: ignore[func-returns-value, call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    spawn(async_child, "words")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    watch(12345)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    kill(peer, "now")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    home: Pid = parent()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    watch(home).block() + 1  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]


def supervised() -> None:
    ChildSpec("a", child, restart="always")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ChildSpec("a", child, (1,))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Supervisor([child])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    Supervisor([], strategy="all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    link("name")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def starts() -> None:
    init(4)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    init(plugin="fancy")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Resources(mem=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Resources(gpu="two")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def channels(peer: Pid) -> None:
    Sender[int](peer).send("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Sender[int](peer).try_send("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Sender[int]("peer")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Receiver[int](peer).recv().block().upper()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    Receiver[int](peer).send(1)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    Sender[int](peer).recv()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    wrong: Receiver[str] = Receiver[int](peer)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    wrong.recv().block(timeout="1 s")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def several(peer: Pid) -> None:
    select(Receiver[int](peer))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    _, number = select(Receiver[int](peer).recv()).block()
    number.upper()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
