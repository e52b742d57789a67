"""Which links the master's node relays: its orders, as a machine without I/O.

Two nodes that can only dial out cannot reach each other. So both dial the master's node, each with a preamble that says for
whom and to whom, and that node joins the two connections, its *halves*. It does so for a link that its own master has
ordered and for nothing else: the two Pids and the number must be those of an open order, each half comes once, and an order
that is not met in time fails with a reason. So nobody can use a fabric as a way to somewhere.

What passes is TLS between the two processes; the relay has none of their keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from constellation.core.schema import Schema

ORDER_S: Final = 10.0
"""For both halves to come: a dialled connection takes milliseconds, and fails after five seconds by itself. The processes
give up their handshake after as long."""


# What the node says to the process that carries the bytes: two sockets go beside `Splice`, who called first.


class Splice(NamedTuple):
    """node -> relay: join these two connections."""

    link: int


class Cut(NamedTuple):
    """node -> relay: end this link now, on both sides as if the other had died."""

    link: int


class Parted(NamedTuple):
    """relay -> node: this link has ended; ``reason`` says what broke, empty: both sides have closed."""

    link: int
    reason: str


RELAY: Final = Schema("message of a relay", (Splice, Cut, Parted))


class Order(NamedTuple):
    """A link that is to be relayed."""

    deployment: bytes
    caller: bytes
    """The Pid of the process whose end calls."""
    called: bytes
    number: int
    nodes: tuple[int, int]
    """Those of the two."""

    @property
    def pair(self) -> tuple[bytes, bytes]:
        """The two processes, whoever calls."""
        return (self.caller, self.called) if self.caller < self.called else (self.called, self.caller)


class Join(NamedTuple):
    """Effect: both halves are here; join them under this number."""

    link: int
    caller: int
    called: int


class Drop(NamedTuple):
    """Effect: close this half."""

    half: int


class End(NamedTuple):
    """Effect: end a link that has been joined."""

    link: int


class Failed(NamedTuple):
    """Effect: this link does not come about; say so to both."""

    order: Order
    reason: str


Effect: TypeAlias = Join | Drop | End | Failed


class _Open:
    """An order that has not been met."""

    __slots__ = ("deadline", "halves", "order")

    def __init__(self, order: Order, deadline: float) -> None:
        self.order = order
        self.deadline = deadline
        self.halves: dict[bytes, int] = {}  # by the process for which was dialled


class Relays:
    """All orders and all links of one relay. Halves are numbers of the caller's.

    Args:
        most: How many links there may be, ordered ones included.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[tuple[bytes, bytes], _Open] = {}  # the oldest first
        self._joined: dict[int, Order] = {}
        self._count = 0

    def order(self, order: Order, now: float) -> list[Effect]:
        """The master wants a link to be relayed. One that it wanted before between the two is forgotten."""
        former = self._open.pop(order.pair, None)
        effects: list[Effect] = [] if former is None else [Drop(half) for half in former.halves.values()]
        if len(self._open) + len(self._joined) >= self._most:
            reason = (
                f"the relay carries {len(self._joined)} links, and {len(self._open)} more are to come: it can carry "
                f"{self._most}, by the descriptors that it may have (ulimit -n, or LimitNOFILE of the service)"
            )
            return [*effects, Failed(order, reason)]
        self._open[order.pair] = _Open(order, now + ORDER_S)
        return effects

    def expects(self, target: bytes, source: bytes, number: int) -> bool:
        """Whether this half belongs to an order that is open, and has not come."""
        found = self._open.get(_pair(target, source))
        return found is not None and found.order.number == number and source not in found.halves

    def arrived(self, half: int, target: bytes, source: bytes, number: int) -> list[Effect]:
        """A connection has come, with a preamble that says this."""
        if not self.expects(target, source, number):
            return [Drop(half)]
        pair = _pair(target, source)
        found = self._open[pair]
        found.halves[source] = half
        if len(found.halves) < 2:
            return []
        del self._open[pair]
        self._count += 1
        self._joined[self._count] = order = found.order
        return [Join(self._count, found.halves[order.caller], found.halves[order.called])]

    def withdraw(self, order: Order) -> list[Effect]:
        """A link is not wanted any more, if it has not been joined: one side cannot take it, as the master knows."""
        found = self._open.get(order.pair)
        if found is None or found.order.number != order.number:
            return []
        del self._open[order.pair]
        return [Drop(half) for half in found.halves.values()]

    def forget(self, is_meant: Callable[[Order], bool]) -> list[Effect]:
        """What these orders were for has gone, a node or a deployment: nobody is to be told."""
        effects: list[Effect] = []
        for pair, found in list(self._open.items()):
            if is_meant(found.order):
                del self._open[pair]
                effects += [Drop(half) for half in found.halves.values()]
        effects += [End(link) for link, order in self._joined.items() if is_meant(order)]
        return effects

    def parted(self, link: int) -> Order | None:
        """A link has ended; None: it was none."""
        return self._joined.pop(link, None)

    def relay_lost(self) -> list[Order]:
        """What carried the bytes has gone: the links that went with it. Those that were to come still can."""
        lost = list(self._joined.values())
        self._joined.clear()
        return lost

    def next_deadline(self) -> float | None:
        """When to call `expire`."""
        return next(iter(self._open.values())).deadline if self._open else None

    def expire(self, now: float) -> list[Effect]:
        """Give up what should have come."""
        effects: list[Effect] = []
        for pair, found in list(self._open.items()):
            if found.deadline > now:
                break
            del self._open[pair]
            effects += [Drop(half) for half in found.halves.values()]
            here = "one of the two sides has" if found.halves else "neither side has"
            effects.append(Failed(found.order, f"{here} reached the relay within {ORDER_S:g} s"))
        return effects

    @property
    def count(self) -> int:
        """How many links are joined now."""
        return len(self._joined)

    def count_of(self, node_id: int) -> int:
        """How many links of a node are relayed now."""
        return sum(node_id in order.nodes for order in self._joined.values())

    def check(self) -> None:
        """Hold what always holds."""
        assert len(self._open) + len(self._joined) <= self._most
        deadlines = [found.deadline for found in self._open.values()]
        assert deadlines == sorted(deadlines)
        assert all(len(found.halves) < 2 for found in self._open.values())
        assert all(pair == found.order.pair for pair, found in self._open.items())


def _pair(one: bytes, two: bytes) -> tuple[bytes, bytes]:
    return (one, two) if one < two else (two, one)
