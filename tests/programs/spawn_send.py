"""The parent sends, the child receives."""

#: '' -> 0
#:     2 x 'hi\n' -> 0

from constellation import Receiver, Resources, Sender, init, parent, spawn


def child() -> None:
    receiver = Receiver[str](parent())
    print(receiver.recv().block())


if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
    for _ in range(2):
        there = spawn(child, resources=Resources(mem="20 MiB")).block()
        sender = Sender[str](there)
        sender.send("hi").block()
