"""The conformance suite for serializers, which the built-in ones pass too.

In a plugin's tests::

    @pytest.mark.parametrize("check", SERIALIZER_CHECKS, ids=lambda check: check.__name__)
    def test_serializer(check):
        check(MySerializer)

or, all at once, ``check_serializer(MySerializer)``. The checks are deterministic and need a second at most.
"""

from __future__ import annotations

import copy
import math
import random
import struct
from collections.abc import Callable
from typing import Any

from constellation.core.contracts import Serializer
from constellation.core.errors import SerializationError

Make = Callable[[], Serializer]
"""Makes a new serializer."""

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**63,
    2**200,
    0.1,
    -0.0,
    math.inf,
    math.nan,
    "",
    "text, ünïcode, \0 and 🙂",
    b"",
    bytes(range(256)),
    [],
    {},
    [1, [2, [3, {}]]],
    {"name": "value", "list": [None, False, 1.5], "bytes": b"\xff"},
    list(range(1000)),
    b"large" * 20_000,
)
"""What every serializer takes, and gives back equal and of the same type."""

_HOSTILE_COUNT = 2_000
_LARGEST_HOSTILE_BYTES = 64


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal all the way down: types, order, bits of floats."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack(">d", left) == struct.pack(">d", right)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    return bool(left == right)


def _check(holds: bool, text: str) -> None:
    if not holds:
        raise AssertionError(text)


def says_what_it_is(make: Make) -> None:
    """It has a name, and says whether it is safe on foreign bytes."""
    serializer = make()
    _check(isinstance(serializer.name, str) and serializer.name != "", f"name is {serializer.name!r}: expected text")
    _check(type(serializer.foreign_safe) is bool, f"foreign_safe is {serializer.foreign_safe!r}: expected a bool")


def round_trips(make: Make) -> None:
    """What goes in comes out, type included."""
    serializer = make()
    for value in VALUES:
        result = serializer.decode(serializer.encode(value))
        _check(same(value, result), f"{value!r} came out as {result!r}")


def order(make: Make) -> None:
    """The keys of a dict keep their order."""
    serializer = make()
    names = [str(number) for number in range(100)]
    random.Random(1).shuffle(names)  # noqa: S311  # a test's dice
    result = serializer.decode(serializer.encode(dict.fromkeys(names)))
    _check(list(result) == names, "the keys of a dict came out in another order")


def calls_are_independent(make: Make) -> None:
    """No call depends on those before it."""
    serializer = make()
    encoded = [serializer.encode(value) for value in VALUES]
    for value, buffers in reversed(list(zip(VALUES, encoded, strict=True))):
        result = serializer.decode(buffers)
        _check(same(value, result), f"{value!r}, decoded after others, came out as {result!r}")
    _check(same(serializer.decode(encoded[-2]), VALUES[-2]), "the same buffers cannot be decoded twice")


def leaves_value_alone(make: Make) -> None:
    """Neither call changes the value, nor shares what could be changed with it."""
    serializer = make()
    for value in VALUES:
        before = copy.deepcopy(value)
        buffers = serializer.encode(value)
        _check(same(value, before), f"encode has changed {before!r} to {value!r}")
        result = serializer.decode(buffers)
        if isinstance(result, list):
            result.append("changed")
            _check(same(value, before), f"what decode gave shares memory with {before!r}")


def buffers_can_be_memoryviews(make: Make) -> None:
    """`decode` takes views of any memory, as a link gives them."""
    serializer = make()
    for value in VALUES:
        for kind in (bytes, bytearray):
            buffers = [memoryview(kind(buffer)) for buffer in serializer.encode(value)]
            result = serializer.decode(buffers)
            _check(same(value, result), f"{value!r} came out of memoryviews of {kind.__name__} as {result!r}")


def refuses_with_path(make: Make) -> None:
    """What cannot be encoded is refused with the way to it and its type."""
    serializer = make()
    unsendable = (number for number in range(3))
    for value, step in (([1, [unsendable]], "[1][0]"), ({"key": unsendable}, "['key']"), (unsendable, "value")):
        try:
            serializer.encode(value)
        except SerializationError as error:
            _check(step in error.path, f"refuses {value!r} with the path {error.path!r}: expected {step!r} in it")
            _check(
                "generator" in error.reason, f"refuses a generator for the reason {error.reason!r}: expected its type"
            )
        else:
            raise AssertionError(f"takes {value!r}: expected SerializationError")


def refuses_cut_bytes(make: Make) -> None:
    """Bytes that are cut short are refused."""
    serializer = make()
    for value in ({"name": [1, 2.5, "text"]}, list(range(1000))):
        first, *others = (bytes(buffer) for buffer in serializer.encode(value))
        for end in range(0, len(first), max(1, len(first) // 100)):
            try:
                serializer.decode([first[:end], *others])
            except SerializationError:
                continue
            raise AssertionError(f"decodes {first[:end]!r}, which is cut: expected SerializationError")


def foreign_bytes(make: Make) -> None:
    """Where decoding is said to be safe, no bytes raise anything but SerializationError."""
    serializer = make()
    if not serializer.foreign_safe:
        return
    chance = random.Random(1)  # noqa: S311  # as above
    samples = [bytes(buffer) for value in VALUES for buffer in serializer.encode(value)]
    for _ in range(_HOSTILE_COUNT):
        if chance.random() < 0.5:
            data = chance.randbytes(chance.randrange(_LARGEST_HOSTILE_BYTES))
        else:
            changed = bytearray(chance.choice(samples)[:_LARGEST_HOSTILE_BYTES] or b"\0")
            changed[chance.randrange(len(changed))] = chance.randrange(256)
            data = bytes(changed)
        try:
            serializer.decode([data])
        except SerializationError:
            continue
        except Exception as error:
            raise AssertionError(f"decode raises {error!r} for {data!r}: expected SerializationError") from error


SERIALIZER_CHECKS: tuple[Callable[[Make], None], ...] = (
    says_what_it_is,
    round_trips,
    order,
    calls_are_independent,
    leaves_value_alone,
    buffers_can_be_memoryviews,
    refuses_with_path,
    refuses_cut_bytes,
    foreign_bytes,
)
"""All checks, for those who want a test of each."""


def check_serializer(make: Make) -> None:
    """Check that a serializer keeps the contract of `constellation.plugin.Serializer`.

    Raises:
        AssertionError: A check fails; the text begins with its name.
    """
    for check in SERIALIZER_CHECKS:
        try:
            check(make)
        except AssertionError as error:
            raise AssertionError(f"{check.__name__}: {error}") from error
        except Exception as error:  # a serializer's own failure is named after the check that met it
            raise AssertionError(f"{check.__name__}: raised {type(error).__name__}: {error}") from error
