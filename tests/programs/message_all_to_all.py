"""Three threads at once: one tells two children something, one has a chain of three, one has two talk to each other."""

#: 'final: hello! 0; hello! 1; hello! 2\n' -> 0
#:     'sub1\nhello! 0 (\'HELLO\', \'THERE\')\n0\n1\n2\n3\n4\ndone: hello! 0\n' -> 0
#:     'sub1\nhello! 1 (\'HELLO\', \'THERE\')\n0\n1\n2\n3\n4\ndone: hello! 1\n' -> 0
#:     'sub2\n' -> 0
#:         'sub2\n' -> 0
#:             'sub2\n' -> 0
#:     2 x 'sub3\ndone\ndone2\n' -> 0

import sys
import threading

from constellation import Pid, Receiver, Resources, Sender, init, parent, pid, spawn

SMALL = Resources(mem="20 MiB")


def sub1(words: tuple[str, str]) -> None:
    print("sub1")
    told = Receiver[str](parent()).recv().block()
    print(told, words)
    for number in range(5):
        print(number)
    print("done:", told)


def sub2(left: int, text: str) -> None:
    print("sub2")
    answer = Sender[str](parent())
    if left == 0:
        answer.send(text).block()
    else:
        there = spawn(sub2, left - 1, f"hello! {left - 1}; {text}", resources=SMALL).block()
        answer.send(Receiver[str](there).recv().block()).block()
    sys.exit(0)


def sub3(place: int) -> None:
    print("sub3")
    pids = Receiver[list[Pid]](parent()).recv().block()
    assert pids[place] == pid()
    senders = {to: Sender[int](there) for to, there in enumerate(pids) if to != place}
    receivers = {of: Receiver[int](there) for of, there in enumerate(pids) if of != place}
    print("done")
    for i in range(len(pids)):
        for j in range(len(pids)):
            if i == place != j:
                senders[j].send(i * 10 + j).block()
            elif j == place != i:
                assert receivers[i].recv().block() == i * 10 + j
    print("done2")


def tells() -> None:
    for number in range(2):
        there = spawn(sub1, ("HELLO", "THERE"), resources=SMALL).block()
        Sender[str](there).send(f"hello! {number}").block()


def chains() -> None:
    there = spawn(sub2, 2, "hello! 2", resources=SMALL).block()
    print("final:", Receiver[str](there).recv().block())


def introduces() -> None:
    pids = [spawn(sub3, place, resources=SMALL).block() for place in range(2)]
    for there in pids:
        Sender[list[Pid]](there).send(pids).block()


if __name__ == "__main__":
    init(SMALL)
    threads = [threading.Thread(target=each) for each in (tells, chains, introduces)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
