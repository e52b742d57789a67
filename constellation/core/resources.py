"""Demands and capacities: memory in whole bytes, cores and custom amounts in integer millionths.

Integers, because placement adds and subtracts the same demands thousands of times: with floats 0.3 - 0.1 - 0.1 - 0.1 is
not 0, and a node would never be empty again.
"""

from __future__ import annotations

import math
import re
import reprlib
from typing import Any

from constellation.core.errors import UsageError

MILLIONTHS = 1_000_000


class _DefaultMem(int):
    """A number that nobody wrote."""

    __slots__ = ()


class _DefaultCpu(float):
    """A number that nobody wrote."""

    __slots__ = ()


DEFAULT_MEM = _DefaultMem(100 << 20)  # as in the original
DEFAULT_CPU = _DefaultCpu(1 / 16)  # as in the original
LARGEST_MEM = 1 << 62
LARGEST_AMOUNT = 10**9

_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "pb": 10**15,
    "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "pib": 1 << 50,
}  # fmt: skip
# At most 20 digits, for int() and float() have limits of their own, with errors of their own.
_MEM_TEXT = re.compile(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([A-Za-z]*)\s*\Z")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")

_MEM_WRITTEN = 1
_CPU_WRITTEN = 2
_ALL_WRITTEN = _MEM_WRITTEN | _CPU_WRITTEN


def parse_mem(value: object) -> int:
    """Bytes out of a number of bytes or a text with a unit, such as ``"20 MiB"``.

    Raises:
        UsageError: Not a number, not finite, below zero, or an unknown unit.
    """
    expected = "expected bytes as a number, or text such as '100 MiB' (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB)"
    if isinstance(value, str):
        match = _MEM_TEXT.match(value)
        if match is None or match[2].lower() not in _UNITS:
            raise UsageError(f"cannot read mem={value!r}: {expected}")
        amount = float(match[1]) if "." in match[1] else int(match[1])
        size = math.floor(amount * _UNITS[match[2].lower()] + 0.5)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if value < 0 or not value <= LARGEST_MEM:  # the second is true for NaN too
            raise UsageError(f"cannot use mem={value!r}: {expected}, from 0 to {LARGEST_MEM}")
        size = math.floor(value + 0.5) if isinstance(value, float) else int(value)
    else:
        raise UsageError(f"cannot read mem={value!r}: {expected}")
    if size > LARGEST_MEM:
        raise UsageError(f"cannot use mem={value!r}: expected at most {LARGEST_MEM} bytes")
    return size


def parse_amount(name: str, value: object) -> int:
    """Millionths, rounded half up, out of a number of cores or of a custom resource.

    Raises:
        UsageError: Not a number, not finite, below zero or absurdly large.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LARGEST_AMOUNT:
        raise UsageError(
            f"cannot use {name}={value!r}: expected a number from 0 to {LARGEST_AMOUNT}, fractions allowed"
        )
    return math.floor(value * MILLIONTHS + 0.5)


def format_mem(size: int) -> str:
    """Bytes for people: ``20 MiB``; exact where the unit divides, else one decimal."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size // factor} {unit}" if size % factor == 0 else f"{size / factor:.1f} {unit}"
    return f"{size} B"


def format_amount(millionths: int) -> str:
    """Millionths as an exact decimal number: ``0.0625``, ``2``."""
    return f"{millionths / MILLIONTHS:.6f}".rstrip("0").removesuffix(".")


class Resources:
    """What a process asks for, what a node has, or what is left of it.

    Immutable and hashable; adds, subtracts (never below zero) and compares by fit: ``a <= b`` says that a demand ``a``
    fits into ``b``; two can be incomparable.

    Args:
        mem: Bytes, or text with a unit such as ``"20 MiB"``.
        cpu: Cores; fractions are allowed.
        **custom: Further amounts by name, such as ``gpu=1``.

    Raises:
        UsageError: A value below zero, not finite, or not to be read.
    """

    __slots__ = ("_cpu", "_custom", "_mem", "_written")

    _mem: int
    _cpu: int
    _custom: tuple[tuple[str, int], ...]
    _written: int

    def __init__(self, mem: int | float | str = DEFAULT_MEM, cpu: float = DEFAULT_CPU, **custom: float) -> None:
        for name in custom:
            if not _NAME.match(name):
                raise UsageError(f"cannot use a resource named {name!r}: expected letters, digits, '_', '.', '-'")
        amounts = tuple(sorted((name, parse_amount(name, value)) for name, value in custom.items()))
        written = (0 if type(mem) is _DefaultMem else _MEM_WRITTEN) | (0 if type(cpu) is _DefaultCpu else _CPU_WRITTEN)
        self._fill(parse_mem(mem), parse_amount("cpu", cpu), amounts, written)

    def _fill(self, mem: int, cpu: int, custom: tuple[tuple[str, int], ...], written: int) -> None:
        _set_mem(self, mem)
        _set_cpu(self, cpu)
        _set_custom(self, custom and tuple([item for item in custom if item[1]]))
        _set_written(self, written)

    @classmethod
    def exact(
        cls, mem: int, cpu: int, custom: tuple[tuple[str, int], ...] = (), written: int = _ALL_WRITTEN
    ) -> Resources:
        """From bytes and millionths that have been checked before."""
        made = cls.__new__(cls)
        made._fill(mem, cpu, custom and tuple(sorted(custom)), written)
        return made

    @property
    def mem(self) -> int:
        """Bytes."""
        return self._mem

    @property
    def cpu(self) -> float:
        """Cores."""
        return self._cpu / MILLIONTHS

    @property
    def cpu_millionths(self) -> int:
        """Millionths of a core, the form that is counted with."""
        return self._cpu

    @property
    def custom(self) -> dict[str, float]:
        """Custom amounts by name; amounts of zero are left out."""
        return {name: amount / MILLIONTHS for name, amount in self._custom}

    @property
    def custom_millionths(self) -> tuple[tuple[str, int], ...]:
        """Custom amounts in millionths, sorted by name."""
        return self._custom

    @property
    def written(self) -> tuple[str, ...]:
        """Which of ``mem`` and ``cpu`` somebody wrote, and are no defaults. Two that differ in this only are equal."""
        return tuple(name for name, bit in (("mem", _MEM_WRITTEN), ("cpu", _CPU_WRITTEN)) if self._written & bit)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"cannot set {name!r}: Resources are immutable")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"cannot delete {name!r}: Resources are immutable")

    def __add__(self, other: Resources) -> Resources:
        if not isinstance(other, Resources):
            return NotImplemented
        if not other._custom:
            return Resources.exact(self._mem + other._mem, self._cpu + other._cpu, self._custom)
        custom = dict(self._custom)
        for name, amount in other._custom:
            custom[name] = custom.get(name, 0) + amount
        return Resources.exact(self._mem + other._mem, self._cpu + other._cpu, tuple(custom.items()))

    def __sub__(self, other: Resources) -> Resources:
        if not isinstance(other, Resources):
            return NotImplemented
        if not other <= self:
            raise UsageError(f"cannot take {other} from {self}: there is not so much")
        if not other._custom:
            return Resources.exact(self._mem - other._mem, self._cpu - other._cpu, self._custom)
        custom = dict(self._custom)
        for name, amount in other._custom:
            custom[name] -= amount
        return Resources.exact(self._mem - other._mem, self._cpu - other._cpu, tuple(custom.items()))

    def __le__(self, other: Resources) -> bool:
        if not isinstance(other, Resources):
            return NotImplemented
        if self._mem > other._mem or self._cpu > other._cpu:
            return False
        if not self._custom:
            return True
        have = dict(other._custom)
        return all(amount <= have.get(name, 0) for name, amount in self._custom)

    def __ge__(self, other: Resources) -> bool:
        if not isinstance(other, Resources):
            return NotImplemented
        return other <= self

    def __lt__(self, other: Resources) -> bool:
        return self <= other and self != other

    def __gt__(self, other: Resources) -> bool:
        return other <= self and self != other

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Resources):
            return NotImplemented
        return (self._mem, self._cpu, self._custom) == (other._mem, other._cpu, other._custom)

    def __hash__(self) -> int:
        return hash((self._mem, self._cpu, self._custom))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Resources.exact, (self._mem, self._cpu, self._custom, self._written))

    def __str__(self) -> str:
        cpu = f"{format_amount(self._cpu)} core{'' if self._cpu == MILLIONTHS else 's'}"
        return ", ".join(
            [format_mem(self._mem), cpu, *(f"{format_amount(amount)} {name}" for name, amount in self._custom)]
        )

    def __repr__(self) -> str:
        custom = "".join(f", {name}={format_amount(amount)}" for name, amount in self._custom)
        return f"Resources(mem={self._mem}, cpu={format_amount(self._cpu)}{custom})"

    def to_fields(self) -> list[Any]:
        """Plain values for a control message; a last one says what is written, where that is not all."""
        fields: list[Any] = [self._mem, self._cpu, [list(item) for item in self._custom]]
        if self._written != _ALL_WRITTEN:
            fields.append(self._written)
        return fields

    @classmethod
    def from_fields(cls, fields: list[Any]) -> Resources:
        """Read what `to_fields` gave.

        Raises:
            ValueError: The fields are not those of Resources.
        """
        try:
            mem, cpu, custom, written = fields if len(fields) == 4 else (*fields, _ALL_WRITTEN)
            pairs = tuple((name, amount) for name, amount in custom)
        except (TypeError, ValueError) as error:
            raise ValueError(f"cannot read resources from {reprlib.repr(fields)}: {error}") from error
        amounts = [mem, cpu, *(amount for _, amount in pairs)]
        if not all(type(amount) is int and 0 <= amount <= LARGEST_MEM for amount in amounts):
            raise ValueError(
                f"cannot read resources from {reprlib.repr(fields)}: expected whole amounts from 0 to {LARGEST_MEM}"
            )
        if type(written) is not int or not 0 <= written <= _ALL_WRITTEN:
            raise ValueError(
                f"cannot read resources from {reprlib.repr(fields)}: expected 0 to {_ALL_WRITTEN} at the end"
            )
        names = {name for name, _ in pairs if type(name) is str and _NAME.match(name)}
        if len(names) != len(pairs):
            raise ValueError(
                f"cannot read resources from {reprlib.repr(fields)}: expected different names of letters and digits"
            )
        return cls.exact(mem, cpu, pairs, written)

    def describe(self) -> dict[str, float]:
        """For the JSON events: mem in bytes, cpu in cores, custom amounts by name."""
        return {"mem": self._mem, "cpu": self.cpu, **self.custom}


# The slots' own setters, for `__setattr__` refuses: placement makes two of these for each demand.
_set_mem, _set_cpu, _set_custom, _set_written = (
    vars(Resources)[name].__set__ for name in ("_mem", "_cpu", "_custom", "_written")
)
