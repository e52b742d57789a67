"""Each process knows what it has; demands that differ by a byte differ."""

#: 'Resources(mem=20971520, cpu=0.0625)\n' -> 0
#:     'hi Resources(mem=20971520, cpu=0.001)\n' -> 0
#:     'hi Resources(mem=20971521, cpu=0.001)\n' -> 0
#:     'hi Resources(mem=20971522, cpu=0.001)\n' -> 0
#:     'hi Resources(mem=20971523, cpu=0.001)\n' -> 0

from constellation import Resources, init, resources, spawn

MIB = 1 << 20


def child(mem: int) -> None:
    assert resources().mem == mem
    print("hi", repr(resources()))


if __name__ == "__main__":
    init(Resources(mem=20 * MIB))
    print(repr(resources()))
    for more in range(4):
        mem = 20 * MIB + more
        spawn(child, mem, resources=Resources(mem=mem, cpu=0.001)).block()
