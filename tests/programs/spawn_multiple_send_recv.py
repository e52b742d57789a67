"""Ten processes: all are sent to, then all are received from."""

#: '1234567890\n1234567890\n1234567890\n1234567890\n1234567890\n1234567890\n1234567890\n1234567890\n1234567890\n1234567890\n' -> 0
#:     10 x 'hi\n' -> 0

from constellation import Receiver, Resources, Sender, init, parent, spawn


def child() -> None:
    receiver, sender = Receiver[str](parent()), Sender[int](parent())
    print(receiver.recv().block())
    sender.send(1_234_567_890).block()


if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
    pids = [spawn(child, resources=Resources(mem="20 MiB")).block() for _ in range(10)]
    channels = [(Sender[str](there), Receiver[int](there)) for there in pids]
    for sender, _receiver in channels:
        sender.send("hi").block()
    for _sender, receiver in channels:
        print(receiver.recv().block())
