"""Hundreds of processes, a hundred deep, that fill the capacity to its last byte again and again.

All that live follow the same random numbers: so each knows what happens next, who spawns whom and who ends. Who spawns tells the
new Pid to all others, over a channel of its own to each. No spawn is begun that does not fit, so each waits only until those who
should have ended have ended. On a fabric its nodes must have the capacity that stands here together, on one node.

    python tests/programs/resource_limit_stress.py [PROCESSES]
"""

#: shape
#:   ((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((
#:   (((((((((((((((((((((((((((((((((((((((((((((((((((((((((()))))))))))(()))))))))))))))((()))))))(((((((())))))
#:   ))))())((((()))))))()))))))))))())((())))))))))))))((())))))))))))((())))))((((((((((((())))))))))))))(())))))
#:   ))))))))))))))))))))())((())))))(((())))))))))))))(()))))))))()))))(())))))(((()))))))())))((((((((((((())))))
#:   )))())))))(()))))))))))))))))))))()))))))))()))))))))))())))

import random
import sys
from typing import NamedTuple

from constellation import Pid, Receiver, Resources, Sender, init, pid, resources, spawn

MIB = 1 << 20
CAPACITY = 1024 * MIB
SEED = 2020
COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 250


class Live(NamedTuple):
    """A process that has not ended."""

    there: Pid
    mem: int


class Talk:
    """The channels of this process, each made when it is first used."""

    def __init__(self) -> None:
        self.senders: dict[Pid, Sender[Pid]] = {}
        self.receivers: dict[Pid, Receiver[Pid]] = {}

    def tell(self, there: Pid, news: Pid) -> None:
        if there not in self.senders:
            self.senders[there] = Sender[Pid](there)
        self.senders[there].send(news).block()

    def hear(self, there: Pid) -> Pid:
        if there not in self.receivers:
            self.receivers[there] = Receiver[Pid](there)
        return self.receivers[there].recv().block()


def follow(chance: random.Random, made: int, live: list[Live]) -> None:
    """Live through all rounds, from the one in which this process was spawned."""
    talk = Talk()
    while made < COUNT:
        mem = chance.randint(64 * MIB, 192 * MIB)
        # Mostly the newest spawns, and mostly one of the oldest ends: so the tree gets deep.
        one = len(live) - 1 if chance.random() < 0.85 else chance.randrange(len(live))
        old = chance.randrange((len(live) + 1) // 2)
        if len(live) > 1 and (sum(each.mem for each in live) + mem > CAPACITY or chance.random() < 0.2):
            if live[old].there == pid():
                return
            del live[old]
            continue
        made += 1
        spawner = live[one].there
        if spawner == pid():
            new = spawn(born, chance, made, live, mem, resources=Resources(mem=mem, cpu=0)).block()
            for each in live:
                if each.there != pid():
                    talk.tell(each.there, new)
        else:
            new = talk.hear(spawner)
        live.append(Live(new, mem))


def born(chance: random.Random, made: int, live: list[Live], mem: int) -> None:
    assert resources().mem == mem
    follow(chance, made, [*live, Live(pid(), mem)])


if __name__ == "__main__":
    init(Resources(mem=64 * MIB, cpu=0), capacity=Resources(mem=CAPACITY, cpu=4))
    follow(random.Random(SEED), 1, [Live(pid(), 64 * MIB)])
