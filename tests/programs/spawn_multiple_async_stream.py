"""Five processes that pass on a stream, all of it under asyncio."""

#: 'abcdefghijklmno abcdefghijklmno abcdefghijklmno abcdefghijklmno abcdefghijklmno\n' -> 0
#:     'hi 0\ndone 0\n' -> 0
#:     'hi 1\ndone 1\n' -> 0
#:     'hi 2\ndone 2\n' -> 0
#:     'hi 3\ndone 3\n' -> 0
#:     'hi 4\ndone 4\n' -> 0

import asyncio

from constellation import Pid, Receiver, Resources, Sender, init, parent, spawn


async def child(number: int) -> None:
    print("hi", number)
    sender = Sender[str](parent())
    async for part in Receiver[str](parent()):
        await sender.send(part)
    sender.close()
    print("done", number)


async def talk(there: Pid) -> str:
    sender, receiver = Sender[str](there), Receiver[str](there)

    async def say() -> None:
        for part in ("abc", "def", "ghi", "jkl", "mno"):
            await sender.send(part)
        sender.close()

    saying = asyncio.create_task(say())
    heard = "".join([part async for part in receiver])
    await saying
    return heard


async def main() -> None:
    pids = [await spawn(child, number, resources=Resources(mem="20 MiB")) for number in range(5)]
    print(*await asyncio.gather(*map(talk, pids)))


if __name__ == "__main__":
    init(Resources(mem="20 MiB"))
    asyncio.run(main())
