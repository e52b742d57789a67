"""Five processes that pass on a stream until it ends."""

#: 'abcdefghijklmno\nabcdefghijklmno\nabcdefghijklmno\nabcdefghijklmno\nabcdefghijklmno\n' -> 0
#:     5 x 'hi\ndone\n' -> 0

from constellation import Receiver, Resources, Sender, init, parent, spawn


def child() -> None:
    print("hi")
    sender = Sender[str](parent())
    for part in Receiver[str](parent()):
        sender.send(part).block()
    sender.close()
    print("done")


if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
    pids = [spawn(child, resources=Resources(mem="20 MiB")).block() for _ in range(5)]
    channels = [(Sender[str](there), Receiver[str](there)) for there in pids]
    for part in ("abc", "def", "ghi", "jkl", "mno"):
        for sender, _receiver in channels:
            sender.send(part).block()
    for sender, receiver in channels:
        sender.close()
        print("".join(receiver))
