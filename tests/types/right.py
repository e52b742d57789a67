"""A program that is right: the checkers accept it and see the types that it states. It is read by them, never run."""

from __future__ import annotations

from typing import assert_type

from constellation import (
    ChildSpec,
    ExitStatus,
    Pid,
    Receiver,
    Resources,
    Sender,
    Supervisor,
    init,
    join,
    kill,
    link,
    parent,
    pid,
    register,
    resources,
    select,
    spawn,
    try_spawn,
    try_whereis,
    unlink,
    watch,
    whereis,
)
from constellation.plugin import Scheduler, hookimpl


def child(n: int, *, name: str = "") -> None:
    Sender[int](parent()).send(n).block()


async def async_child(words: list[str]) -> None:
    home = parent()
    assert home is not None
    async for number in Receiver[int](home):
        assert_type(number, int)
    assert_type(await Receiver[str](home, "words").recv(), str)
    await Sender[list[str]](home, name="words").send(words)


class Worker:
    def work(self, amount: float) -> None:
        raise NotImplementedError


def processes() -> None:
    with init(
        Resources(mem="20 MiB", cpu=0.1, gpu=1), plugins=["fancy"], capacity=Resources(mem=1 << 30)
    ) as deployment:
        assert_type(spawn(child, 3).block(), Pid)
        assert_type(spawn(child, 3, name="x", resources=Resources(mem=1 << 20)).block(timeout=1.5), Pid)
        assert_type(try_spawn(async_child, ["a"]).block(), Pid)
        assert_type(spawn(Worker().work, 0.5).block(), Pid)
        assert_type(spawn(lambda: None).block(), Pid)
        assert_type(pid(), Pid)
        assert_type(parent(), Pid | None)
        assert_type(resources(), Resources)
        assert_type(watch(pid()).block(), ExitStatus)
        assert_type(kill(pid(), grace=0.5, tree=True).block(), ExitStatus)
    deployment.close()


def channels(peer: Pid) -> None:
    sender = Sender[int](peer)
    receiver = Receiver[int](peer, "back")
    sender.send(1).block()
    sender.try_send(1)
    assert_type(receiver.recv().block(), int)
    assert_type(receiver.try_recv(), int)
    for value in receiver:
        assert_type(value, int)
    untyped: Sender[object] = Sender(peer)
    untyped.send({"any": "thing"}).block()


def several(peer: Pid) -> None:
    numbers, words = Receiver[int](peer), Receiver[str](peer, "words")
    index, number = select(numbers.recv(), numbers.recv()).block()
    assert_type(index, int)
    assert_type(number, int)
    assert_type(join(numbers.recv(), numbers.recv()).block(), list[int])
    _, either = select(numbers.recv(), words.recv()).block()
    assert_type(either, int | str)


async def awaited(peer: Pid) -> None:
    assert_type(await spawn(child, 1), Pid)
    index, value = await select(Receiver[bytes](peer).recv(), Receiver[bytes](peer, "b").recv())
    assert_type(index, int)
    assert_type(value, bytes)


def supervised() -> None:
    children = [
        ChildSpec("a", child, args=(1,), kwargs={"name": "x"}, restart="transient", shutdown=None, significant=True),
        ChildSpec("b", async_child, args=[["a"]], shutdown=0.5, resources=Resources(cpu=1), name="b"),
    ]
    inner = Supervisor(children, strategy="rest_for_one", intensity=3, period=60, auto_shutdown="all_significant")
    with Supervisor([ChildSpec("inner", inner.run)], name="outer") as supervisor:
        assert_type(supervisor.pid, Pid)
        assert_type(whereis("b").block(timeout=1), Pid)
        assert_type(try_whereis("b").block(), Pid | None)
        link(supervisor.pid, both=False).block()
        unlink(supervisor.pid).block()
    register("me").block()
    spawn(inner.run).block()
    spawn(inner.serve).block()


@hookimpl
def register_schedulers() -> list[Scheduler]:
    return []
