"""The parent receives, then sends; the child waits for its answer."""

#: '1234567890\n1234567890\n' -> 0
#:     2 x 'hi\n' -> 0

from constellation import Receiver, Resources, Sender, init, parent, spawn


def child() -> None:
    sender = Sender[int](parent())
    receiver = Receiver[str](parent())
    sender.send(1_234_567_890).block()
    print(receiver.recv().block())


if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
    for _ in range(2):
        there = spawn(child, resources=Resources(mem="20 MiB")).block()
        sender = Sender[str](there)
        receiver = Receiver[int](there)
        print(receiver.recv().block())
        sender.send("hi").block()
