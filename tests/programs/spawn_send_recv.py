"""The parent sends, then receives; the child answers."""

#: '1234567890\n1234567890\n' -> 0
#:     2 x 'hi\n' -> 0

from constellation import Receiver, Resources, Sender, init, parent, spawn


def child() -> None:
    sender = Sender[int](parent())
    receiver = Receiver[str](parent())
    print(receiver.recv().block())
    sender.send(1_234_567_890).block()


if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
    for _ in range(2):
        there = spawn(child, resources=Resources(mem="20 MiB")).block()
        sender = Sender[str](there)
        receiver = Receiver[int](there)
        sender.send("hi").block()
        print(receiver.recv().block())
