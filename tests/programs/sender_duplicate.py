"""A second sender to a process, while the first is open, is an error of the program."""

#: '' err r'Traceback .*\nconstellation\..*ChannelInUse: .*\n' -> 1
#:     '' -> 0

from constellation import Resources, Sender, init, spawn


def child() -> None:
    pass


if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
    there = spawn(child, resources=Resources(mem="20 MiB")).block()
    first = Sender[int](there)
    second = Sender[int](there)
