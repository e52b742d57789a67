"""All to all: every process sends a number to every other and receives one from every other.

Shows Pids as values that travel over channels, and two channels (one each way) between each pair of processes. n
processes make n * (n - 1) / 2 links; each link is made on first use and carries both channels.

    python examples/all_to_all.py [PROCESSES]
"""

import sys

from constellation import Pid, Receiver, Sender, init, join, parent, pid, spawn


def member() -> None:
    """Learn who takes part, exchange one number with each of them, and report the sum to the parent."""
    members = Receiver[list[Pid]](parent()).recv().block()
    me = members.index(pid())
    others = [other for other in members if other != pid()]
    senders = [Sender[int](other) for other in others]
    receivers = [Receiver[int](other) for other in others]
    # Small values are within the credit of a channel, so all may send before anyone receives.
    join(*(sender.send(me) for sender in senders)).block()
    received = join(*(receiver.recv() for receiver in receivers)).block()
    Sender[int](parent()).send(me + sum(received)).block()


def main(count: int) -> None:
    """Spawn the members, introduce them to one another and compare what they found."""
    init()
    members = [spawn(member).block() for _ in range(count)]
    for one in members:
        Sender[list[Pid]](one).send(members).block()
    sums = [Receiver[int](one).recv().block() for one in members]
    expected = count * (count - 1) // 2
    if sums != [expected] * count:
        raise SystemExit(f"the members found the sums {sums}: expected {expected} from each")
    print(f"{count} processes exchanged {count * (count - 1)} numbers; each found the sum {expected}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
