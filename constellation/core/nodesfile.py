"""The file that tells the master which nodes there are: ``nodes.toml``, in the original's form and with more of ours.

    [[nodes]]
    fabric_addr = "10.0.0.1:5000"    # where the node listens; the one key that must be there
    bridge_bind = "10.0.0.1:5001"    # where a bridge listens on it; in one entry or more
    mem = "100 GiB"                  # what it may give away; without it what the computer has
    cpu = 16
    name = "big"                     # ours, like all below: what `constellation nodes` calls it
    advertise = "203.0.113.7:5000"   # where others dial it, if that is not fabric_addr
    labels = {rack = "a"}
    resources = {gpu = 2}
    ssh = "user@host"                # for `constellation up` and `down`: how your ssh reaches it

Each address may also be a URL of a plugin's transport (`address.py`). Everything that is wrong is said at once, each complaint
with its line and its field.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from constellation.core.address import Address, parse_address
from constellation.core.errors import UsageError
from constellation.core.resources import parse_amount, parse_mem
from constellation.core.tomllines import Place, lines_of

LARGEST_FILE = 16 << 20
"""Bytes of a nodes.toml: a hundred thousand nodes with all that can be said of them."""
_MOST_COMPLAINTS = 20
"""More are counted only: nobody mends more in one go."""

_FIELDS = ("fabric_addr", "bridge_bind", "mem", "cpu", "name", "advertise", "labels", "resources", "ssh")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}")
_SSH = re.compile(r"[^\s\x00-\x1f\x7f-][^\s\x00-\x1f\x7f]{0,254}")

_Value = TypeVar("_Value")


class NodeEntry(NamedTuple):
    """One ``[[nodes]]``."""

    fabric_addr: Address
    """Where the node listens."""
    bridge_bind: Address | None = None
    """Where a bridge on it listens; None: no bridge."""
    mem: int | None = None
    """Bytes that it may give away; None: what the computer has."""
    cpu: int | None = None
    """Millionths of a core that it may give away; None: what the computer has."""
    name: str | None = None
    """What it is called; None: its address."""
    advertise: Address | None = None
    """Where others dial it; None: at ``fabric_addr``."""
    labels: tuple[tuple[str, str], ...] = ()
    """Sorted by name."""
    resources: tuple[tuple[str, int], ...] = ()
    """Custom amounts in millionths, sorted by name."""
    ssh: str | None = None
    """Host or ``user@host`` for ssh; None: `constellation up` leaves it alone."""
    line: int = 0
    """Where the entry begins in the file, from 1."""

    @property
    def title(self) -> str:
        """What messages call it."""
        return self.name if self.name is not None else str(self.fabric_addr)

    @property
    def dialled(self) -> Address:
        """Where others dial it."""
        return self.advertise if self.advertise is not None else self.fabric_addr


class NodesFile(NamedTuple):
    """What a nodes.toml says."""

    nodes: tuple[NodeEntry, ...]
    """In the order of the file; at least one."""


class Complaint(NamedTuple):
    """One thing that is wrong with the file."""

    line: int
    """From 1."""
    field: str
    """Such as ``nodes[0].cpu``; empty where it is the text itself."""
    words: str
    """What is wrong, and what is expected."""


class NodesFileError(UsageError):
    """A nodes.toml cannot be used.

    Attributes:
        where: The name of the file.
        complaints: All that is wrong, in the order of the lines.
    """

    def __init__(self, where: str, complaints: tuple[Complaint, ...]) -> None:
        super().__init__(where, complaints)
        self.where = where
        self.complaints = complaints

    def __str__(self) -> str:
        shown = [
            f"{self.where}:{each.line}: {each.field + ': ' if each.field else ''}{each.words}"
            for each in self.complaints[:_MOST_COMPLAINTS]
        ]
        hidden = len(self.complaints) - len(shown)
        if hidden:
            shown.append(f"and {hidden} more")
        return "\n".join(shown)


def read(text: str, where: str) -> NodesFile:
    """Read a nodes.toml.

    Args:
        text: What stands in it.
        where: The name of the file, for complaints.

    Raises:
        NodesFileError: It cannot be used; has all that is wrong, with line and field.
    """
    try:
        tables = tomllib.loads(text)
        lines = lines_of(text)
    except RecursionError:
        raise NodesFileError(where, (Complaint(1, "", "too many brackets inside brackets to be read"),)) from None
    except ValueError as error:  # tomllib's own is one; a number of 5000 digits raises a plain one
        raise NodesFileError(where, (_in_text(str(error), text),)) from None
    reader = _Reader(lines)
    nodes = reader.nodes(tables)
    if reader.complaints:
        raise NodesFileError(where, tuple(sorted(reader.complaints)))
    return NodesFile(nodes)


def _in_text(error: str, text: str) -> Complaint:
    """A complaint out of tomllib's words, which end in "(at line 3, column 7)" or "(at end of document)"."""
    place = re.search(r" \(at line (\d+), column (\d+)\)$", error)
    if place is not None:
        return Complaint(int(place[1]), "", f"not TOML: {error[: place.start()]}, at column {place[2]}")
    is_at_end = error.endswith(" (at end of document)")
    return Complaint(text.rstrip().count("\n") + 1 if is_at_end else 1, "", f"not TOML: {error}")


class _Reader:
    """Reads the tables and gathers complaints."""

    def __init__(self, lines: Mapping[Place, int]) -> None:
        self._lines = lines
        self.complaints: list[Complaint] = []
        self._addresses: dict[str, str] = {}
        """Canonical address -> the field that has it."""
        self._names: dict[str, str] = {}

    def nodes(self, tables: Mapping[str, Any]) -> tuple[NodeEntry, ...]:
        for key in tables:
            if key != "nodes":
                self._complain((key,), f"unknown{_near(key, ('nodes',))}; expected [[nodes]] only")
        entries = tables.get("nodes")
        if isinstance(entries, dict):
            self._complain(("nodes",), "one table: expected [[nodes]] in two brackets, once for each node")
        elif not isinstance(entries, list) or not entries:
            self._complain(
                ("nodes",),
                'no nodes: expected [[nodes]] with fabric_addr = "10.0.0.1:5000", once for each node',
            )
        else:
            found = [self._node(("nodes", number), entry) for number, entry in enumerate(entries)]
            return tuple(entry for entry in found if entry is not None)
        return ()

    def _node(self, place: Place, entry: object) -> NodeEntry | None:
        if not isinstance(entry, dict):
            self._complain(place, f"is {_shown(entry)}: expected a table with fabric_addr")
            return None
        for key in entry:
            if key not in _FIELDS:
                self._complain((*place, key), f"unknown{_near(key, _FIELDS)}; expected one of {', '.join(_FIELDS)}")

        def take(field: str, what: Callable[[Place, Any], _Value]) -> _Value | None:
            return what((*place, field), entry[field]) if field in entry else None

        if "fabric_addr" not in entry:
            self._complain((*place, "fabric_addr"), 'missing: expected fabric_addr = "10.0.0.1:5000"')
        fabric_addr = take("fabric_addr", self._address)
        bridge_bind = take("bridge_bind", self._address)
        advertise = take("advertise", self._dialled)
        has_other = advertise is not None
        self._alone((*place, "fabric_addr"), fabric_addr, is_dialled_elsewhere=has_other)
        self._alone((*place, "bridge_bind"), bridge_bind, is_dialled_elsewhere=has_other)
        if advertise != fabric_addr:
            self._alone((*place, "advertise"), advertise)
        made = NodeEntry(
            fabric_addr=fabric_addr if fabric_addr is not None else Address("", 0),
            bridge_bind=bridge_bind,
            mem=take("mem", self._mem),
            cpu=take("cpu", self._amount),
            name=take("name", self._name),
            advertise=advertise,
            labels=take("labels", self._labels) or (),
            resources=take("resources", self._resources) or (),
            ssh=take("ssh", self._ssh),
            line=self._line(place),
        )
        if fabric_addr is not None and fabric_addr.is_any and "advertise" not in entry:
            self._complain(
                (*place, "fabric_addr"),
                f"{str(fabric_addr)!r} stands for all addresses of the computer: say with advertise which one others dial",
            )
        return made

    def _address(self, place: Place, value: object) -> Address | None:
        if not isinstance(value, str):
            self._complain(place, f'is {_shown(value)}: expected text such as "10.0.0.1:5000"')
            return None
        try:
            address = parse_address(value)
        except UsageError as error:
            self._complain(place, str(error))
            return None
        if address.port == 0 and not address.url:
            self._complain(
                place, f"{value!r} has port 0, which would be another one at each start: expected 1 to 65535"
            )
            return None
        return address

    def _dialled(self, place: Place, value: object) -> Address | None:
        address = self._address(place, value)
        if address is not None and address.is_any:
            self._complain(place, f"{str(address)!r} cannot be dialled: expected one address of the computer")
        return address

    def _alone(self, place: Place, address: Address | None, *, is_dialled_elsewhere: bool = False) -> None:
        """Hold that nobody else in the file listens there, or is dialled there.

        Behind a proxy or a forwarded port many computers may listen at the same address of their own.
        """
        if address is None:
            return
        key = address.url or str(Address(str(address.number or address.host.lower().rstrip(".")), address.port))
        if is_dialled_elsewhere and (address.is_loopback or address.is_any):
            key += f" of {_path(place[:-1])}"
        other = self._addresses.setdefault(key, _path(place))
        if other != _path(place):
            self._complain(
                place, f"{str(address)!r} is the address of {other} already: expected another address or port"
            )

    def _mem(self, place: Place, value: object) -> int | None:
        try:
            return parse_mem(value)
        except UsageError as error:
            self._complain(place, str(error).replace("mem=", "", 1))
            return None

    def _amount(self, place: Place, value: object) -> int | None:
        name = str(place[-1])
        try:
            return parse_amount(name, value)
        except UsageError as error:
            self._complain(place, str(error).replace(f"{name}=", "", 1))
            return None

    def _name(self, place: Place, value: object) -> str | None:
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            self._complain(place, f"is {_shown(value)}: expected up to 63 letters, digits, '.', '_', '-'")
            return None
        other = self._names.setdefault(value, _path(place[:-1]))
        if other != _path(place[:-1]):
            self._complain(place, f"{value!r} is the name of {other} already: expected another name")
        return value

    def _ssh(self, place: Place, value: object) -> str | None:
        # It is put on a command line: what begins with '-' would be an option there.
        if not isinstance(value, str) or not _SSH.fullmatch(value):
            self._complain(place, f"is {_shown(value)}: expected a host or user@host as ssh takes it")
            return None
        return value

    def _labels(self, place: Place, value: object) -> tuple[tuple[str, str], ...]:
        if not isinstance(value, dict):
            self._complain(place, f'is {_shown(value)}: expected a table such as {{rack = "a"}}')
            return ()
        labels = []
        for name, text in value.items():
            if not _LABEL.fullmatch(name):
                self._complain((*place, name), f"cannot be the name of a label: {_LABEL_EXPECTED}")
            elif not isinstance(text, str) or not text or len(text) > 255 or not text.isprintable():
                self._complain((*place, name), f"is {_shown(text)}: expected text of up to 255 characters")
            else:
                labels.append((name, text))
        return tuple(sorted(labels))

    def _resources(self, place: Place, value: object) -> tuple[tuple[str, int], ...]:
        if not isinstance(value, dict):
            self._complain(place, f"is {_shown(value)}: expected a table such as {{gpu = 2}}")
            return ()
        amounts = []
        for name, written in value.items():
            if name in {"mem", "cpu"}:
                self._complain((*place, name), f"stands in the wrong table: expected {name} beside fabric_addr")
            elif not _LABEL.fullmatch(name):
                self._complain((*place, name), f"cannot be the name of a resource: {_LABEL_EXPECTED}")
            else:
                amount = self._amount((*place, name), written)
                if amount is not None:
                    amounts.append((name, amount))
        return tuple(sorted(amounts))

    def _complain(self, place: Place, words: str) -> None:
        self.complaints.append(Complaint(self._line(place), _path(place), words))

    def _line(self, place: Place) -> int:
        while place and place not in self._lines:  # of what is missing the table around it has a line
            place = place[:-1]
        return self._lines[place] if place else 1


_LABEL_EXPECTED = "expected up to 63 letters, digits, '_', '.', '-', the first one a letter"


def _path(place: Place) -> str:
    """A place as people write it: ``nodes[0].labels.rack``."""
    path = ""
    for step in place:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path


def _near(name: str, known: tuple[str, ...]) -> str:
    import difflib  # late: for an error only

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f", did you mean {near[0]!r}?" if near else ""


def _shown(value: object) -> str:
    """A value of the file in its own words, not too long."""
    kinds = {bool: "", dict: "a table", list: "an array"}
    if isinstance(value, bool):
        return str(value).lower()
    return kinds.get(type(value)) or f"{value!r:.60}"
