"""Where a process may run: what ``spawn(..., on=...)`` says, as conditions that a node fulfils or not.

    on="n2"                the node of that name
    on="rack=a"            a node with that label
    on=pid                 the node on which that process runs, or ran
    on=AwayFrom(pid)       another one than that
    on=["rack=a", AwayFrom(pid)]    all of these

In local mode there is one node, and what a program says for a fabric is ignored there.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from constellation.core.errors import UsageError
from constellation.core.pid import Pid


class AwayFrom(NamedTuple):
    """For ``spawn(on=...)``: not on the node of this process."""

    pid: Pid


On: TypeAlias = str | Pid | AwayFrom | Sequence["str | Pid | AwayFrom"] | None

MOST: Final = 64
"""Conditions of one spawn."""

_EXPECTED = "the name of a node, NAME=VALUE of a label, a Pid, AwayFrom(pid), or a list of these"


class Where(NamedTuple):
    """Conditions on a node; all must hold."""

    name: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    node_id: int | None = None
    """The one that it must be."""
    away: tuple[int, ...] = ()
    """Those that it must not be."""
    is_torn: bool = False
    """Whether two conditions exclude each other, so that no node fulfils them."""
    deployment: int = 0
    """The number of a deployment to which some nodes do not fit (`Placement.leave_out`); 0: they fit all."""

    def allows(self, node_id: int, name: str, labels: Sequence[tuple[str, str]]) -> bool:
        """Whether a node fulfils the conditions."""
        return (
            not self.is_torn
            and (self.name is None or self.name == name)
            and (self.node_id is None or self.node_id == node_id)
            and node_id not in self.away
            and all(label in labels for label in self.labels)
        )

    @property
    def is_anywhere(self) -> bool:
        """Whether nothing was said by the program."""
        return self[:-1] == ANYWHERE[:-1]

    def __str__(self) -> str:
        parts = [] if self.name is None else [f"on node {self.name}"]
        parts += [f"with label {name}={value}" for name, value in self.labels]
        parts += [] if self.node_id is None else [f"on node number {self.node_id}"]
        parts += [f"not on node number {node_id}" for node_id in self.away]
        return " and ".join(parts)


ANYWHERE: Final = Where()


def fields_of(on: On) -> list[Any]:
    """What a program says, as plain values for a control message.

    Raises:
        UsageError: It cannot be read.
    """
    given = [] if on is None else [on] if isinstance(on, str | Pid | AwayFrom) else on
    if not isinstance(given, list | tuple | set | frozenset) or len(given) > MOST:
        raise UsageError(f"cannot use on={on!r:.100}: expected {_EXPECTED}")
    return [_fields_of_one(each) for each in given]


def _fields_of_one(one: object) -> list[Any]:
    if isinstance(one, Pid):
        return ["with", one.to_bytes()]
    if isinstance(one, AwayFrom) and isinstance(one.pid, Pid):
        return ["away", one.pid.to_bytes()]
    if isinstance(one, str) and one.strip():
        name, equals, value = one.partition("=")
        return ["label", name.strip(), value.strip()] if equals else ["name", one.strip()]
    raise UsageError(f"cannot use on={one!r:.100}: expected {_EXPECTED}")


def from_fields(fields: list[Any]) -> Where:
    """Read what `fields_of` gave.

    Raises:
        ValueError: It is something else.
    """
    name: str | None = None
    node_id: int | None = None
    labels: dict[tuple[str, str], None] = {}
    away: dict[int, None] = {}
    is_torn = False
    if len(fields) > MOST:
        raise ValueError(f"{len(fields)} conditions on a node: expected at most {MOST}")
    for each in fields:
        match each:
            case ["name", str(wanted)]:
                is_torn = is_torn or name not in {None, wanted}
                name = wanted
            case ["label", str(label), str(value)]:
                labels[label, value] = None
            case ["with", bytes(key)]:
                found = Pid.from_bytes(key).node
                is_torn = is_torn or node_id not in {None, found}
                node_id = found
            case ["away", bytes(key)]:
                away[Pid.from_bytes(key).node] = None
            case _:
                raise ValueError(f"not a condition on a node: {reprlib.repr(each)}")
    return Where(name, tuple(sorted(labels)), node_id, tuple(sorted(away)), is_torn)
