"""The parent receives, the child sends."""

#: '1234567890\n1234567890\n' -> 0
#:     2 x '' -> 0

from constellation import Receiver, Resources, Sender, init, parent, spawn


def child() -> None:
    sender = Sender[int](parent())
    sender.send(1_234_567_890).block()


if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
    for _ in range(2):
        there = spawn(child, resources=Resources(mem="20 MiB")).block()
        receiver = Receiver[int](there)
        print(receiver.recv().block())
