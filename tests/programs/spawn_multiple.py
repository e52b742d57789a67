"""Ten processes at once."""

#: '' -> 0
#:     10 x 'hi\n' -> 0

from constellation import Resources, init, join, spawn


def child() -> None:
    print("hi")


if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
    pids = join(*[spawn(child, resources=Resources(mem="20 MiB")) for _ in range(10)]).block()
    assert len(set(pids)) == 10
