"""What does not fit is refused at once by try_spawn, and waited for by spawn.

On a fabric its nodes must have the capacity that stands here together, on one node.
"""

#: '' -> 0
#:     9 x '' -> 0

from collections.abc import Callable

from constellation import NoCapacity, Receiver, Resources, Sender, init, parent, spawn, try_spawn

GIB = 1 << 30


def waiting() -> None:
    Receiver[None](parent()).recv().block()


def nothing() -> None:
    raise AssertionError("there was no room for this process")


def refused(fn: Callable[[], None], mem: int) -> None:
    try:
        try_spawn(fn, resources=Resources(mem=mem, cpu=0)).block()
    except NoCapacity:
        return
    raise AssertionError(f"there was room for {mem} bytes")


if __name__ == "__main__":
    init(Resources(mem=GIB, cpu=0), capacity=Resources(mem=3 * GIB, cpu=4))
    refused(nothing, 2 * GIB + 1)
    for _ in range(3):
        outer = Sender[None](spawn(waiting, resources=Resources(mem=GIB, cpu=0)).block())
        refused(nothing, GIB + 1)
        for _ in range(2):
            inner = Sender[None](spawn(waiting, resources=Resources(mem=GIB, cpu=0)).block())
            refused(nothing, GIB)
            refused(nothing, 1)
            inner.send(None).block()
        outer.send(None).block()
