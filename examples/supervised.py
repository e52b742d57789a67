"""A service that goes on when its parts die: a worker and its store under a supervisor, and a client that finds them.

Shows child specifications, restarts, rest_for_one, names that lead to the new process after a restart, a client that
tries again, state that is kept where nothing is risked, and the shutdown in reverse order.

    python examples/supervised.py [NUMBERS]

The worker is killed at every third number, when it sees it for the first time. So processes have failed in this run, and
its exit code says so: 137, as for any program that SIGKILL has ended.
"""

import os
import signal
import sys
from collections import Counter, deque

from constellation import ChannelError, ChildSpec, Receiver, Sender, Supervisor, init, register, whereis


def store() -> None:
    """Count how often each number has been begun. Serves the worker that there is, then the next one."""
    begun = Counter[int]()
    while True:
        worker = whereis("worker").block()
        with Receiver[int](worker, "begin") as numbers, Sender[int](worker, "attempt") as attempts:
            try:
                for number in numbers:
                    begun[number] += 1
                    attempts.send(begun[number]).block()
            except ChannelError as error:
                print(f"store: {error}")


def work() -> None:
    """Square numbers for the client, with a fault that shows now and then."""
    home, client = whereis("store").block(), whereis("client").block()
    begin, attempt = Sender[int](home, "begin"), Receiver[int](home, "attempt")
    squares = Sender[int](client)
    for number in Receiver[int](client):
        begin.send(number).block()
        if attempt.recv().block() == 1 and number % 3 == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        squares.send(number * number).block()


def main(count: int) -> None:
    """Have the numbers squared, each until there is an answer."""
    init()
    register("client").block()
    children = [ChildSpec("store", store, name="store"), ChildSpec("worker", work, name="worker", shutdown=1.0)]
    with Supervisor(children, strategy="rest_for_one", intensity=count, period=60):
        left, squares = deque(range(count)), list[int]()
        while left:
            worker = whereis("worker").block()
            with Sender[int](worker) as numbers, Receiver[int](worker) as answers:
                try:
                    while left:
                        numbers.send(left[0]).block()
                        squares.append(answers.recv().block())
                        left.popleft()
                except ChannelError as error:
                    print(f"square of {left[0]}: {error}; trying again")
    print(f"squares: {squares}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
