"""What a node knows of a deployment's processes here, so that a master that has forgotten everything can be told.

It reads what passes between the monitor process and the coordinator, and keeps what a new coordinator could not find out:
which processes there are, what they have asked for that has not been answered, and what holds (names, ties, who lends).
`inventory` gives it in one piece; what the former master may or may not have handled comes after it, as the messages that
have not been acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from constellation.core import messages, trunk

_ANSWERS: Final = (
    messages.Spawned,
    messages.SpawnFailed,
    messages.Exited,
    messages.Done,
    messages.Found,
    messages.Closed,
)
_ROWS: Final = 2000


class Entry:
    """A process here, from its order to the end of the deployment.

    Attributes:
        order: Fields of its `trunk.Start`, without a payload.
        began: Number of the `Up` that told of its beginning; 0: it has not begun.
        over: Number of the `Up` that told of its end; 0: it lives.
        status: Its certificate, where it was not a good end.
        open: Requests that have not been answered, with their payload.
        standing: Messages that hold.
        waiting: The last `Waiting`, as fields; empty: it runs.
    """

    __slots__ = ("began", "open", "order", "over", "standing", "status", "waiting")

    def __init__(self, order: list[Any]) -> None:
        self.order = order
        self.began = 0
        self.over = 0
        self.status: list[Any] | None = None
        self.open: dict[int, tuple[list[Any], bytes]] = {}
        self.standing: list[list[Any]] = []
        self.waiting: list[Any] = []


class Ledger:
    """The processes of one deployment on one node."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.links: dict[tuple[bytes, bytes], int] = {}
        self.like: trunk.Like | None = None
        """What the program is; without a name where that was found out here."""

    def down(self, message: trunk.StationMessage) -> None:
        """Take note of what the coordinator wants."""
        match message:
            case trunk.Start():
                self.entries[message.pid] = Entry(list(message._replace(payload=b"")))
            case trunk.Like():
                self.like = message
            case trunk.Tell(key, fields):
                self._answered(key, messages.read(fields))
            case trunk.Pair(one, two, number):
                self._linked(one, two, number)
            case trunk.Dial(one, two, number, _) | trunk.Meet(one, two, number):
                self._linked(one, two, number)
            case _:
                pass

    def _linked(self, one: bytes, two: bytes, number: int) -> None:
        pair = (one, two) if one < two else (two, one)
        self.links[pair] = max(number, self.links.get(pair, 0))

    def _answered(self, key: bytes, message: messages.Message) -> None:
        entry = self.entries.get(key)
        if entry is None or not isinstance(message, _ANSWERS):
            return
        asked = entry.open.pop(message.request, None)
        if asked is None or not isinstance(message, messages.Done) or message.kind:
            return
        request = messages.read(asked[0])
        match request:
            case messages.Register() | messages.Tie():
                entry.standing.append(asked[0])
            case messages.Unregister(_, name):
                entry.standing = [each for each in entry.standing if not _is_name(each, name)]
            case messages.Untie(_, pid):
                entry.standing = [each for each in entry.standing if not _is_tie(each, pid)]
            case _:
                pass

    def up(self, number: int, message: trunk.StationMessage, payload: bytes) -> None:
        """Take note of what has happened here."""
        match message:
            case trunk.Reached(_, _, made):
                self.like = trunk.Like("", made)
            case trunk.Said(key, fields):
                entry = self.entries.get(key)
                if entry is not None:
                    self._asked(entry, fields, payload)
            case trunk.Began(key, _, _) if key in self.entries:
                self.entries[key].began = number
            case trunk.NotBegun(key, _):
                self.entries.pop(key, None)
            case trunk.Over(key, status) if key in self.entries:
                entry = self.entries[key]
                entry.over = number
                entry.open.clear()
                entry.standing.clear()
                is_good = status[1] == 0 and status[3] is None
                entry.status = None if is_good else status
            case _:
                pass

    @staticmethod
    def _asked(entry: Entry, fields: list[Any], payload: bytes) -> None:
        message = messages.read(fields)
        if isinstance(message, messages.REQUESTS):
            entry.open[message.request] = (fields, payload)
        elif isinstance(message, messages.Cancel):
            asked = entry.open.get(message.request)
            # A spawn that is withdrawn is answered; the others just end.
            if asked is not None and not isinstance(messages.read(asked[0]), messages.Spawn):
                del entry.open[message.request]
        elif isinstance(message, messages.LinkCut):
            entry.standing.append(fields)
        elif isinstance(message, messages.Waiting):
            entry.waiting = fields if message.waits else []

    def inventory(self, deployment: bytes) -> Iterator[trunk.Inventory]:
        """All of it, for a master that has just been started, in messages that are not too large."""
        rows = [[key, entry.order, entry.began, entry.over, entry.status] for key, entry in self.entries.items()]
        links = [[one, two, number] for (one, two), number in self.links.items()]
        for at in range(0, max(len(rows), len(links), 1), _ROWS):
            yield trunk.Inventory(deployment, rows[at : at + _ROWS], links[at : at + _ROWS])

    def said(self) -> Iterator[tuple[trunk.Said, bytes]]:
        """What processes said that holds, or has not been answered, with payloads."""
        for key, entry in self.entries.items():
            for fields in entry.standing:
                yield trunk.Said(key, fields), b""
            for fields, payload in entry.open.values():
                yield trunk.Said(key, fields), payload
            if entry.waiting:
                yield trunk.Said(key, entry.waiting), b""


def _is_name(fields: list[Any], name: str) -> bool:
    message = messages.read(fields)
    return isinstance(message, messages.Register) and message.name == name


def _is_tie(fields: list[Any], pid: bytes) -> bool:
    message = messages.read(fields)
    return isinstance(message, messages.Tie) and message.pid == pid
