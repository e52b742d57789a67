"""Both make an end, the child the sender, and nothing is sent."""

#: '' -> 0
#:     2 x '' -> 0

from constellation import Receiver, Resources, Sender, init, parent, spawn

kept: list[object] = []


def child() -> None:
    kept.append(Sender[str](parent()))


if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
    for _ in range(2):
        there = spawn(child, resources=Resources(mem="20 MiB")).block()
        kept.append(Receiver[str](there))
