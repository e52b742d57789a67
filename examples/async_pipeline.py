"""A pipeline of asyncio processes: each stage spawns the next one, and lines flow through all of them at once.

Shows an `async def` function as a process, await on operations, a receiver as an async iterator, and the end of a
stream: a stage that closes its channel ends the loop of the next one. A slow stage slows down the ones before it, since
no channel holds more than its credit.

    python examples/async_pipeline.py [LINES]
"""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Callable

from constellation import Pid, Receiver, Sender, init, parent, spawn

Step = Callable[[str], str]


def number_words(line: str) -> str:
    """Put the number of its words in front of a line."""
    return f"{len(line.split())} words: {line}"


def hide_digits(line: str) -> str:
    """Replace each digit."""
    return re.sub(r"\d", "#", line)


def shout(line: str) -> str:
    """Make it loud."""
    return line.upper()


async def stage(steps: list[Step]) -> None:
    """Apply the first step to each line from the parent; the next process applies the others, the last one prints."""
    lines = Receiver[str](parent())
    if not steps:
        count = 0
        async for line in lines:
            count += 1
            if count <= 3:
                print(line)
        print(f"{count} lines came through")
        return
    step, *others = steps
    following = Sender[str](await spawn(stage, others))
    async for line in lines:
        await following.send(step(line))
    following.close()


async def read_lines(count: int) -> AsyncIterator[str]:
    """Stand for a source that has to be waited for, such as a socket."""
    for number in range(count):
        if number % 1000 == 0:
            await asyncio.sleep(0.001)
        yield f"line {number} of the source"


async def main(count: int) -> None:
    """Feed the pipeline."""
    first: Pid = await spawn(stage, [hide_digits, shout, number_words])
    sender = Sender[str](first)
    async for line in read_lines(count):
        await sender.send(line)
    sender.close()


if __name__ == "__main__":
    init()
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
