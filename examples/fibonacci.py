"""Fibonacci by recursion over processes: each call spawns two processes and adds what they send.

Shows `init`, `spawn`, `parent` and a channel between a process and its parent. 177 processes take part; a function
of the program's own main module runs in them, with the module's globals as they were at `init`.

    python examples/fibonacci.py
"""

from constellation import Receiver, Resources, Sender, init, parent, spawn


def child(n: int) -> None:
    """Send the n-th Fibonacci number to the process that spawned this one."""
    Sender[int](parent()).send(fibonacci(n)).block()


def fibonacci(n: int) -> int:
    """Give the n-th Fibonacci number, computed by two new processes when n > 1."""
    if n <= 1:
        return n
    left = spawn(child, n - 1).block()
    right = spawn(child, n - 2).block()
    return Receiver[int](left).recv().block() + Receiver[int](right).recv().block()


if __name__ == "__main__":
    init(Resources(mem="20 MiB", cpu=0.1))
    print(f"10th Fibonacci number is {fibonacci(10)}!")
