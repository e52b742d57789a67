"""Fork and join: a merge sort whose halves are sorted by processes, down to a given depth.

Shows arguments that travel with `spawn`, results that come back over channels, and `join`, which waits for several
operations at once and gives their values in order.

    python examples/fork_join.py [NUMBERS] [DEPTH]
"""

import heapq
import random
import sys
import time

from constellation import Receiver, Sender, init, join, parent, spawn


def sort_for_parent(numbers: list[int], depth: int) -> None:
    """Sort in this process (and its children) and send the result to the parent."""
    Sender[list[int]](parent()).send(merge_sort(numbers, depth)).block()


def merge_sort(numbers: list[int], depth: int) -> list[int]:
    """Sort by forking two processes, joining them and merging what they send; at depth 0 sort here."""
    if depth == 0 or len(numbers) < 2:
        return sorted(numbers)
    middle = len(numbers) // 2
    halves = join(
        spawn(sort_for_parent, numbers[:middle], depth - 1),
        spawn(sort_for_parent, numbers[middle:], depth - 1),
    ).block()
    left, right = join(*(Receiver[list[int]](half).recv() for half in halves)).block()
    return list(heapq.merge(left, right))


def main(count: int, depth: int) -> None:
    """Sort random numbers and check the result."""
    init()
    chance = random.Random(7)
    numbers = [chance.randrange(1_000_000_000) for _ in range(count)]
    start = time.perf_counter()
    result = merge_sort(numbers, depth)
    seconds = time.perf_counter() - start
    if result != sorted(numbers):
        raise SystemExit("the result is not sorted")
    print(f"sorted {count} numbers in {2 ** (depth + 1) - 2} processes in {seconds:.2f} s")


if __name__ == "__main__":
    main(
        count=int(sys.argv[1]) if len(sys.argv) > 1 else 200_000,
        depth=int(sys.argv[2]) if len(sys.argv) > 2 else 3,
    )
