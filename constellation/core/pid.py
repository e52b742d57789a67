"""Process identifiers: unique for ever, checked by key, never an address.

A Pid is (node, process, key). ``node`` and ``process`` say where to look; the 128-bit ``key`` is what makes it
unforgeable and never reused: the node compares it before it hands out a link, so a number that is used again cannot
answer for a process that is dead.
"""

from __future__ import annotations

import struct

_LAYOUT = struct.Struct(">QQ16s")
PID_BYTES = _LAYOUT.size


class Pid:
    """The name of one process, valid on the whole fabric and for ever.

    Immutable, hashable, ordered (the order decides ties between two processes), may be sent over channels.

    Attributes:
        node: Number of the node that runs the process, 64 bits.
        process: Number of the process on that node, 64 bits, never used twice.
        key: 16 random bytes, checked when a link to the process is opened.
    """

    __slots__ = ("_hash", "key", "node", "process")

    node: int
    process: int
    key: bytes

    def __init__(self, node: int, process: int, key: bytes) -> None:
        if len(key) != 16:
            raise ValueError(f"cannot make a Pid with a key of {len(key)} bytes: expected 16")
        set_field = object.__setattr__
        set_field(self, "node", node)
        set_field(self, "process", process)
        set_field(self, "key", key)
        set_field(self, "_hash", hash((node, process, key)))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"cannot set {name!r}: a Pid is immutable")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"cannot delete {name!r}: a Pid is immutable")

    def __eq__(self, other: object) -> bool:
        if type(other) is not Pid:
            return NotImplemented
        return self.key == other.key and self.process == other.process and self.node == other.node

    def __lt__(self, other: Pid) -> bool:
        if type(other) is not Pid:
            return NotImplemented
        return (self.node, self.process, self.key) < (other.node, other.process, other.key)

    def __hash__(self) -> int:
        result: int = self._hash  # type: ignore[attr-defined]  # set through object.__setattr__ above
        return result

    def __reduce__(self) -> tuple[type[Pid], tuple[int, int, bytes]]:
        return (Pid, (self.node, self.process, self.key))

    def __str__(self) -> str:
        return self.key.hex()[:7]

    def __repr__(self) -> str:
        return f"<Pid {self.key.hex()[:7]}>"

    def hex(self) -> str:
        """The whole key as 32 hex digits, as in the JSON events."""
        return self.key.hex()

    def to_bytes(self) -> bytes:
        """The form on the wire: 32 bytes, big endian node, process, then the key."""
        return _LAYOUT.pack(self.node, self.process, self.key)

    @classmethod
    def from_bytes(cls, data: bytes) -> Pid:
        """Read the form on the wire.

        Raises:
            ValueError: ``data`` has not exactly 32 bytes.
        """
        if len(data) != PID_BYTES:
            raise ValueError(f"cannot read a Pid from {len(data)} bytes: expected {PID_BYTES}")
        return cls(*_LAYOUT.unpack(data))
