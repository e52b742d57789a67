"""Echo under trio: one process answers several clients, each in a task of one nursery.

Shows that the operations of constellation are awaited under trio as under asyncio: they are cancelled by its timeouts,
and a cancelled recv takes nothing from the channel.

    python examples/trio_echo.py [CLIENTS]
"""

import sys

import trio

from constellation import Pid, Receiver, Sender, init, parent, spawn


def echo() -> None:
    """Answer all clients at once until each of them has closed its channel."""
    trio.run(serve)


async def serve() -> None:
    """Learn who the clients are and answer each in a task of its own."""
    clients = await Receiver[list[Pid]](parent()).recv()
    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(answer, client)


async def answer(client: Pid) -> None:
    """Send back whatever one client sends."""
    replies = Sender[str](client)
    async for text in Receiver[str](client):
        await replies.send(f"{text}, {text}")


def ask(name: str) -> None:
    """Be a client: ask three times, print what comes back."""
    trio.run(converse, name)


async def converse(name: str) -> None:
    """Ask three times; then wait in vain, under a timeout."""
    server = await Receiver[Pid](parent()).recv()
    sender, receiver = Sender[str](server), Receiver[str](server)
    for number in range(3):
        await sender.send(f"{name} {number}")
        print(await receiver.recv())
    with trio.move_on_after(0.1) as scope:
        await receiver.recv()
    print(f"{name} has waited in vain: {scope.cancelled_caught}")
    sender.close()


async def main(count: int) -> None:
    """Spawn the server and its clients and introduce them."""
    server = await spawn(echo)
    clients = [await spawn(ask, f"client {number}") for number in range(count)]
    await Sender[list[Pid]](server).send(clients)
    for client in clients:
        await Sender[Pid](client).send(server)


if __name__ == "__main__":
    init()
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 3)
