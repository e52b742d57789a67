"""Only the parent makes an end, and sends nothing."""

#: '' -> 0
#:     2 x 'child\n' -> 0

from constellation import Resources, Sender, init, spawn

kept: list[object] = []


def child() -> None:
    print("child")


if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
    for _ in range(2):
        there = spawn(child, resources=Resources(mem="20 MiB")).block()
        kept.append(Sender[str](there))
