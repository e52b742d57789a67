"""A process sends to itself (in the original that was an error)."""

#: '42\n' -> 0

from constellation import Receiver, Resources, Sender, init, pid

if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
    sender, receiver = Sender[int](pid()), Receiver[int](pid())
    sender.send(42).block()
    print(receiver.recv().block())
