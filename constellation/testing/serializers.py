"""The conformance suite for serializers, which the built-in ones pass too.

In a plugin's tests::

    @pytest.mark.parametrize("check", SERIALIZER_CHECKS, ids=str)
    def test_serializer(check):
        check(MySerializer)

or, all at once, ``check_serializer(MySerializer)``. The checks need a second or two.
"""

from __future__ import annotations

import array
import collections
import copy
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import math
import pickle
import random
import struct
import threading
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from constellation.core.contracts import Buffer, Serializer
from constellation.core.errors import SerializationError
from constellation.testing.promises import PATIENCE_S, Check, Trial, expect, has_text_name, run_all, short

Make = Callable[[], Serializer]
"""Makes a new serializer."""

_NAN = struct.unpack(">d", bytes.fromhex("fff8000000abcdef"))[0]

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**63,
    -(2**63) - 1,
    2**70 + 1,
    2**200,
    0.1,
    -0.0,
    5e-324,
    math.inf,
    math.nan,
    _NAN,
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


class Point(NamedTuple):
    """A tuple with names."""

    x: int
    y: int


@dataclasses.dataclass
class Record:
    """An object with members."""

    name: str
    size: int


class Colour(enum.Enum):
    """An enumeration."""

    RED = "red"


class Level(enum.IntEnum):
    """One whose members are equal to numbers."""

    HIGH = 3


class Text(str):
    """A str, and more."""

    __slots__ = ()


class Count(int):
    """An int, and more."""


OTHERS: tuple[Any, ...] = (
    (),
    (1, "two", (3,)),
    [(1, 2), [1, 2]],
    {"a": (1,)},
    {1: "int", 2**70: "large", (1, 2): "tuple", None: "none", 1.5: "float", b"k": "bytes"},
    {True: "bool"},
    {"b": 1, "a": 2},
    {1, 2, 3},
    frozenset({1, 2}),
    bytearray(b"can be changed"),
    3 + 4j,
    range(3),
    slice(1, 2),
    Ellipsis,
    "a lone surrogate: \ud800",
    dt.datetime(2026, 1, 2, 3, 4, 5, 678901, dt.UTC),
    dt.datetime(2026, 1, 2, 3, 4, 5, fold=1),  # noqa: DTZ001  # a value like others
    dt.date(2026, 1, 2),
    dt.time(1, 2, 3),
    dt.timedelta(days=-1, microseconds=1),
    decimal.Decimal("1.10"),
    fractions.Fraction(1, 3),
    uuid.UUID(int=5),
    Point(1, 2),
    [Point(1, 2)],
    Record("name", 7),
    Colour.RED,
    Level.HIGH,
    {"level": Level.HIGH},
    Text("more than text"),
    Count(5),
    collections.OrderedDict(b=1, a=2),
    collections.defaultdict(list, {"a": [1]}),
    collections.Counter("aab"),
    collections.deque([1, 2], maxlen=5),
    array.array("d", [1.0, 2.0]),
    int,
    len,
)
"""What a serializer takes and gives back equal and of the same type, or refuses."""

_HOSTILE_COUNT = 2_000
_LARGEST_HOSTILE_BYTES = 64
_MOST_MEMORY = 64 << 20
_DEEP = 200_000


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal all the way down: types, order, bits of floats."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack(">d", left) == struct.pack(">d", right)
    if isinstance(left, (list, tuple, collections.deque)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, dt.datetime):
        return bool(left == right) and left.fold == right.fold and left.tzinfo == right.tzinfo
    if isinstance(left, decimal.Decimal):
        return bool(left.as_tuple() == right.as_tuple())
    return bool(left == right)


def _copies(serializer: Serializer, value: Any) -> list[Buffer]:
    """The buffers of a value as they are at the other side."""
    return [bytes(buffer) for buffer in serializer.encode(value)]


@Check[Serializer]
def says_what_it_is(make: Make, trial: Trial) -> None:
    """It has a name, and says whether it is safe on foreign bytes."""
    serializer = make()
    has_text_name(serializer)
    expect(type(serializer.foreign_safe) is bool, f"foreign_safe is {serializer.foreign_safe!r}: expected a bool")


@Check[Serializer]
def gives_buffers(make: Make, trial: Trial) -> None:
    """`encode` gives one or more buffers: bytes, bytearrays, or contiguous views with items of one byte."""
    serializer = make()
    for value in VALUES:
        buffers = serializer.encode(value)
        expect(
            isinstance(buffers, (list, tuple)) and len(buffers) > 0,
            f"encode({short(value)}) gives {short(buffers)}: expected a list of buffers",
        )
        for buffer in buffers:
            expect(
                isinstance(buffer, (bytes, bytearray, memoryview)),
                f"encode({short(value)}) gives a {type(buffer).__name__} as a buffer: expected bytes or a view",
            )
            view = memoryview(buffer)
            expect(
                view.contiguous and view.itemsize == 1 and view.ndim == 1,
                f"encode({short(value)}) gives a view of shape {view.shape} with items of {view.itemsize} bytes: expected bytes",
            )


@Check[Serializer]
def round_trips(make: Make, trial: Trial) -> None:
    """What every serializer takes comes out as it went in, type included."""
    serializer = make()
    for value in VALUES:
        result = serializer.decode(_copies(serializer, value))
        expect(same(value, result), f"{short(value)} came out as {short(result)}")
    for _ in range(200):
        value = _any_value(trial.chance, 4)
        result = serializer.decode(_copies(serializer, value))
        expect(same(value, result), f"{short(value)} came out as {short(result)}")


def _any_value(chance: random.Random, depth: int) -> Any:
    kind = chance.randrange(8 if depth else 6)
    if kind == 0:
        return chance.choice((None, True, False))
    if kind == 1:
        return chance.randrange(-(2 ** chance.randrange(80)), 2 ** chance.randrange(1, 80))
    if kind == 2:
        return struct.unpack(">d", chance.randbytes(8))[0]
    if kind == 3:
        return "".join(map(chr, (chance.choice((65, 0x7F, 0xE9, 0x1F642)) for _ in range(chance.randrange(40)))))
    if kind in {4, 5}:
        return chance.randbytes(chance.choice((0, 1, 31, 32, 255, 256, 70_000 if depth == 4 else 5)))
    if kind == 6:
        return [_any_value(chance, depth - 1) for _ in range(chance.randrange(5))]
    return {f"key {number}": _any_value(chance, depth - 1) for number in range(chance.randrange(5))}


@Check[Serializer]
def nothing_changes_its_type(make: Make, trial: Trial) -> None:
    """A value of another kind (tuple, set, date, named tuple, dataclass, ...) comes out as it went in, or is refused."""
    serializer = make()
    for value in OTHERS:
        try:
            buffers = _copies(serializer, value)
        except SerializationError:
            continue
        result = serializer.decode(buffers)
        expect(
            same(value, result), f"{short(value)} came out as {short(result)}: expected the same, or SerializationError"
        )


@Check[Serializer]
def keeps_the_order(make: Make, trial: Trial) -> None:
    """The keys of a dict keep their order."""
    serializer = make()
    names = [str(number) for number in range(100)]
    trial.chance.shuffle(names)
    result = serializer.decode(_copies(serializer, dict.fromkeys(names)))
    expect(list(result) == names, "the keys of a dict came out in another order")


@Check[Serializer]
def calls_are_independent(make: Make, trial: Trial) -> None:
    """No call depends on those before it, nor on the object: another one, in another process, decodes the same."""
    serializer = make()
    encoded = [_copies(serializer, value) for value in VALUES]
    other = make()
    for value, buffers in reversed(list(zip(VALUES, encoded, strict=True))):
        result = other.decode(buffers)
        expect(
            same(value, result),
            f"{short(value)}, decoded by another object and in another order, came out as {short(result)}",
        )
    expect(same(other.decode(encoded[-2]), VALUES[-2]), "the same buffers cannot be decoded twice")


@Check[Serializer]
def calls_may_overlap(make: Make, trial: Trial) -> None:
    """Several threads encode and decode at once."""
    serializer = make()
    failures: list[str] = []
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        value = {"thread": number, "list": [f"{number} {index}" for index in range(300)]}
        barrier.wait(trial.patience / 2)
        for _ in range(30):
            try:
                result = serializer.decode(_copies(serializer, value))
            except Exception as error:  # told by the thread that asks
                failures.append(f"it raised {error!r} while other threads were at it")
                return
            if not same(value, result):
                failures.append(f"{short(value)} came out as {short(result)} while other threads were at it")
                return
            trial.progress()

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expect(not failures, failures[0] if failures else "")


@Check[Serializer]
def leaves_the_value_alone(make: Make, trial: Trial) -> None:
    """Neither call changes the value, nor shares what could be changed with it."""
    serializer = make()
    for value in VALUES:
        before = copy.deepcopy(value)
        buffers = serializer.encode(value)
        expect(same(value, before), f"encode has changed {short(before)} to {short(value)}")
        result = serializer.decode(buffers)
        if isinstance(result, list):
            result.append("changed")
            expect(same(value, before), f"what decode gave shares memory with {short(before)}")


@Check[Serializer]
def takes_any_memory(make: Make, trial: Trial) -> None:
    """`decode` takes views of any memory, and needs the first buffer no longer when it has returned."""
    serializer = make()
    for value in VALUES:
        for kind in (bytes, bytearray):
            memory = [kind(buffer) for buffer in serializer.encode(value)]
            result = serializer.decode([memoryview(buffer) for buffer in memory])
            if isinstance(memory[0], bytearray):
                memory[0][:] = b"\xff" * len(memory[0])
            expect(
                same(value, result),
                f"{short(value)} came out of memoryviews of {kind.__name__}, overwritten afterwards, as {short(result)}",
            )


@Check[Serializer]
def encodes_all_plain(make: Make, trial: Trial) -> None:
    """One that states ``takes_all_plain`` encodes every list of exact scalars, and of flat dicts and tuples of them."""
    serializer = make()
    stated = getattr(serializer, "takes_all_plain", False)
    expect(type(stated) is bool, f"takes_all_plain is {stated!r}: expected a bool")
    if not stated:
        return
    scalars = [None, True, 2**70, -(2**64), 0.5, math.nan, "text", "\ud800", "", b"bytes", 0]
    plain: list[Any] = [*scalars, tuple(scalars), (), {}, {"name": 1, 5: None, 1.5: "x", b"key": (), (1, 2): 3}]
    for value in (plain, *([each] for each in plain)):
        if isinstance(value[0], dict):
            value = [{key: each for key, each in value[0].items() if type(key) is not tuple and each != ()}]  # noqa: PLW2901
        elif value is plain:
            value = [each for each in plain if type(each) is not dict]  # noqa: PLW2901  # without the nested one
        try:
            result = serializer.decode(_copies(serializer, value))
        except SerializationError as error:
            raise AssertionError(f"takes_all_plain is True, and it refuses {short(value)}: {error}") from error
        expect(same(value, result), f"{short(value)} came out as {short(result)}")


@Check[Serializer]
def refuses_with_path(make: Make, trial: Trial) -> None:
    """What cannot be encoded is refused with the way to it and its type."""
    serializer = make()
    unsendable = (number for number in range(3))
    for value, step in (([1, [unsendable]], "[1][0]"), ({"key": unsendable}, "['key']"), (unsendable, "value")):
        try:
            serializer.encode(value)
        except SerializationError as error:
            expect(step in error.path, f"refuses {value!r} with the path {error.path!r}: expected {step!r} in it")
            expect(
                "generator" in error.reason, f"refuses a generator for the reason {error.reason!r}: expected its type"
            )
        else:
            raise AssertionError(f"takes {value!r}: expected SerializationError")


@Check[Serializer]
def refuses_what_is_too_deep(make: Make, trial: Trial) -> None:
    """A value that is nested too deeply, or contains itself, is encoded or refused: no RecursionError, no crash."""
    serializer = make()
    deep: list[Any] = []
    for _ in range(_DEEP):
        deep = [deep]
    circle: list[Any] = []
    circle.append(circle)
    for name, value in (("a list in a list, 200,000 times", deep), ("a list that contains itself", circle)):
        try:
            serializer.encode(value)
        except SerializationError:
            continue
        except RecursionError as error:
            raise AssertionError(f"encode of {name} raises RecursionError: expected SerializationError") from error
    while deep:
        deep = deep[0]


@Check[Serializer]
def refuses_cut_bytes(make: Make, trial: Trial) -> None:
    """Bytes that are cut short are refused."""
    serializer = make()
    for value in ({"name": [1, 2.5, "text"]}, list(range(1000))):
        first, *others = (bytes(buffer) for buffer in serializer.encode(value))
        for end in range(0, len(first), max(1, len(first) // 100)):
            try:
                serializer.decode([first[:end], *others])
            except SerializationError:
                continue
            raise AssertionError(f"decodes {short(first[:end])}, which is cut: expected SerializationError")


@Check[Serializer]
def refuses_foreign_bytes(make: Make, trial: Trial) -> None:
    """Where decoding is said to be safe, no bytes raise anything but SerializationError."""
    serializer = make()
    if not serializer.foreign_safe:
        return
    chance = trial.chance
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


EXECUTED: list[str] = []
"""What `touch` was called with."""


def touch(text: str) -> str:
    """Say that foreign bytes were turned into a call."""
    EXECUTED.append(text)
    return text


class Bomb:
    """Where it is made anew, it calls `touch`."""

    def __reduce__(self) -> tuple[Callable[[str], str], tuple[str]]:
        return touch, ("a value's own __reduce__",)


def _bombs() -> Iterator[tuple[str, bytes]]:
    """Bytes that call `touch` where they are decoded by something that runs what it is told."""
    name = f"{__name__}"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(Bomb(), protocol)
        yield f"a pickle of protocol {protocol}", data
        for code in (0, 1, 2, 42, 80, 127, 255):
            yield f"a msgpack extension {code} with a pickle", struct.pack(">BIB", 0xC9, len(data), code) + data
        for head in (0xC4, 0xC1, 0x80, 0x90, 0x00):
            yield f"a pickle behind a byte {head:#x}", bytes((head,)) + data
    yield "YAML with a tag", f"!!python/object/apply:{name}.touch ['yaml']\n".encode()
    yield (
        "JSON of jsonpickle",
        (f'{{"py/reduce": [{{"py/function": "{name}.touch"}}, {{"py/tuple": ["jsonpickle"]}}]}}'.encode()),
    )
    yield "Python", f"__import__('{name}', fromlist=['x']).touch('python')".encode()


@Check[Serializer]
def runs_no_foreign_code(make: Make, trial: Trial) -> None:
    """Where decoding is said to be safe, no bytes make it call what their sender chose."""
    serializer = make()
    if not serializer.foreign_safe:
        return
    for name, data in _bombs():
        EXECUTED.clear()
        try:
            serializer.decode([data])
        except SerializationError:
            pass
        expect(not EXECUTED, f"decode of {name} called a function that the bytes name; they were {short(data)}")
    for value in (Bomb(), [Bomb()], {"key": Bomb()}):
        EXECUTED.clear()
        try:
            buffers = _copies(serializer, value)
            serializer.decode(buffers)
        except SerializationError:
            pass
        expect(
            not EXECUTED,
            f"it encodes an object with a __reduce__, and decode calls what that names; foreign_safe is {serializer.foreign_safe}",
        )


@Check[Serializer]
def takes_memory_for_what_is_there(make: Make, trial: Trial) -> None:
    """Where decoding is said to be safe, a few bytes that announce a huge value cost no huge memory."""
    serializer = make()
    if not serializer.foreign_safe:
        return
    huge = (
        b"\xff\xff\xff\xff",
        b"\x7f\xff\xff\xff",
        b"\xff" * 8,
        b"\x00\x00\x00\x00\x10\x00\x00\x00",
        b"\x10\x00\x00\x00",
    )
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    try:
        for first in range(256):
            trial.progress()
            for length in huge:
                data = bytes((first,)) + length + b"\x01" * 8
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                try:
                    serializer.decode([data])
                except SerializationError:
                    pass
                except MemoryError as error:
                    raise AssertionError(
                        f"decode of {data!r} raises MemoryError: expected SerializationError"
                    ) from error
                took = tracemalloc.get_traced_memory()[1] - before
                expect(took < _MOST_MEMORY, f"decode of {len(data)} bytes, {data!r}, took {took} bytes of memory")
    finally:
        if not was_tracing:
            tracemalloc.stop()


SERIALIZER_CHECKS: tuple[Check[Serializer], ...] = (
    says_what_it_is,
    gives_buffers,
    round_trips,
    nothing_changes_its_type,
    keeps_the_order,
    calls_are_independent,
    calls_may_overlap,
    leaves_the_value_alone,
    takes_any_memory,
    encodes_all_plain,
    refuses_with_path,
    refuses_what_is_too_deep,
    refuses_cut_bytes,
    refuses_foreign_bytes,
    runs_no_foreign_code,
    takes_memory_for_what_is_there,
)
"""All checks, for those who want a test of each."""


def check_serializer(make: Make, *, seed: int = 0, patience: float = PATIENCE_S) -> None:
    """Check that a serializer keeps the contract of `constellation.plugin.Serializer`.

    Args:
        make: Makes a new serializer.
        seed: Another one takes other chances.
        patience: Seconds after which a call that has not returned is said to hang.

    Raises:
        BrokenPromise: A check fails: which, what was seen, and the seed that repeats it.
    """
    run_all(SERIALIZER_CHECKS, make, seed, patience)
