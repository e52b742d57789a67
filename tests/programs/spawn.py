"""A process, and one that it spawns, and one that this one spawns."""

#: 'first\n' -> 0
#:     'second\n' -> 0
#:         'third\n' -> 0

from constellation import Resources, init, parent, pid, spawn


def second(first: object) -> None:
    assert parent() == first
    print("second")
    spawn(third, pid(), resources=Resources(mem="20 MiB")).block()


def third(above: object) -> None:
    assert parent() == above
    print("third")


if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
    assert parent() is None
    print("first")
    spawn(second, pid(), resources=Resources(mem="20 MiB")).block()
