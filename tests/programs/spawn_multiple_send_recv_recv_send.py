"""Five processes: there and back, then the other way round on new channels of other types."""

#: '1234567890\n1234567890\n1234567890\n1234567890\n1234567890\nho\nho\nho\nho\nho\n' -> 0
#:     5 x 'hi\n987654321\n' -> 0

from constellation import Receiver, Resources, Sender, init, parent, spawn


def child() -> None:
    words, numbers = Receiver[str](parent()), Sender[int](parent())
    print(words.recv().block())
    numbers.send(1_234_567_890).block()
    words.close()
    numbers.close()
    more_numbers, more_words = Receiver[int](parent()), Sender[str](parent())
    more_words.send("ho").block()
    print(more_numbers.recv().block())


if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
    pids = [spawn(child, resources=Resources(mem="20 MiB")).block() for _ in range(5)]
    first = [(Sender[str](there), Receiver[int](there)) for there in pids]
    for sender, _receiver in first:
        sender.send("hi").block()
    for sender, receiver in first:
        print(receiver.recv().block())
        sender.close()
        receiver.close()
    second = [(Sender[int](there), Receiver[str](there)) for there in pids]
    for _told, heard in second:
        print(heard.recv().block())
    for told, _heard in second:
        told.send(987_654_321).block()
