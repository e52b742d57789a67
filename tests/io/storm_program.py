"""The program of the kill storm: a tree of processes that send each other numbered values, and end in every way.

Run as ``storm_program.py FOLDER SEED``. Of each channel the sender's file says how many values it had begun to send, the
receiver's file which ones came, and how the channel ended. It is not imported, but run: by the name ``__main__``.
"""

import os
import random
import sys
import threading
import time
import zlib
from typing import Any

from constellation import (
    ChannelClosed,
    ChannelError,
    ConstellationError,
    Pid,
    Receiver,
    Resources,
    Sender,
    init,
    parent,
    pid,
    spawn,
    watch,
)

CLOSED, DIED = -1, -2
FAILED = -3
DEEPEST = 2


def body(channel: str, n: int) -> bytes:
    """What belongs to the n-th value of a channel, for the receiver to check."""
    size = (1, 30, 200, 5000, 20_000)[zlib.crc32(f"{channel}{n}".encode()) % 5]
    return channel.encode().ljust(size, b"x")[:size] if n % 31 else bytes(300_000)


class Log:
    """A file of numbers that a kill -9 cannot harm."""

    def __init__(self, folder: str, name: str) -> None:
        self._fd = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, number: int) -> None:
        os.write(self._fd, number.to_bytes(4, "little", signed=True))


def send(folder: str, to: Pid, channel: str, rng: random.Random) -> None:
    """Send some values, and some more, until tired of it or until nobody is there."""
    log = Log(folder, f"sent-{channel}")
    sender: Sender[Any] = Sender(to, channel)
    n = 0
    try:
        for _ in range(rng.randrange(6)):
            for _ in range(rng.choice((1, 3, 10, 60))):
                log.add(n)
                sender.send((n, body(channel, n))).block()
                n += 1
            time.sleep(rng.choice((0, 0, 0.001, 0.02)))
        log.add(CLOSED)
        sender.close()
    except ConstellationError:
        log.add(FAILED)


def receive(folder: str, source: Pid, channel: str, delay: float) -> None:
    """Receive all that comes, until the end."""
    log = Log(folder, f"got-{channel}")
    receiver: Receiver[Any] = Receiver(source, channel)
    try:
        while True:
            n, data = receiver.recv().block()
            assert data == body(channel, n), f"value {n} of {channel} is not what was sent"
            log.add(n)
            time.sleep(delay if n % 16 == 0 else 0)
    except ChannelClosed:
        log.add(CLOSED)
    except ChannelError:
        log.add(DIED)
    except ConstellationError:
        pass  # the node has gone, and this process only lives because it was there before


def work(folder: str, key: str, seed: str) -> None:
    """One process: spawns others, talks with them and with its parent, and ends in some way."""
    rng = random.Random(seed + key)
    above, threads = parent(), []
    with open(os.path.join(folder, f"pid-{key}"), "w", encoding="ascii") as file:
        file.write(pid().hex())
    if above is not None:
        threads.append(threading.Thread(target=receive, args=(folder, above, f"down-{key}", rng.choice((0, 0, 0.002)))))
    for number in range(rng.randrange(5) if key.count(".") < DEEPEST else 0):
        below = f"{key}.{number}"
        demand = rng.choice((None, Resources(cpu=0.01), Resources(mem="40 MiB", cpu=0.5)))
        try:
            child = spawn(work, folder, below, seed, resources=demand).block()
        except ConstellationError:
            continue
        threads.append(threading.Thread(target=receive, args=(folder, child, f"up-{below}", rng.choice((0, 0, 0.002)))))
        threads.append(
            threading.Thread(target=send, args=(folder, child, f"down-{below}", random.Random(seed + below)))
        )
        if rng.random() < 0.3:
            threads.append(threading.Thread(target=watch_quietly, args=(child,)))
    for thread in threads:
        thread.start()
    if above is not None:
        send(folder, above, f"up-{key}", rng)
    if rng.random() < 0.1:
        print(key, "has written this", flush=True)
    end(rng)


def watch_quietly(child: Pid) -> None:
    """Wait for a process's end in a thread."""
    try:
        watch(child).block()
    except ConstellationError:
        pass


def end(rng: random.Random) -> None:
    """End in one of the ways that there are; most are good ones."""
    way = rng.random()
    if way < 0.1:
        raise ValueError("planned")
    if way < 0.2:
        sys.exit(3)
    if way < 0.25:
        os._exit(5)
    # A grandchild that runs away. What a caller that the fabric is attached to starts by itself is its own.
    if way < 0.3 and not (sys.flags.interactive and parent() is None) and os.fork() == 0:
        os.setsid()
        time.sleep(1000)


def main(folder: str, seed: str) -> None:
    """Be the first process."""
    rng = random.Random(seed)
    init(Resources(cpu=0.01), capacity=rng.choice((None, Resources(mem="2 GiB", cpu=1.5))))
    try:
        work(folder, "r", seed)
    except ConstellationError:
        pass  # attached, and the fabric has gone


if __name__ == "__main__":
    main(*sys.argv[1:3])
