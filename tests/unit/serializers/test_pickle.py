"""Pickle: values, large buffers beside the pickle, functions bound to their module's globals, refusals with a path."""

from __future__ import annotations

import asyncio
import enum
import functools
import gc
import io
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core.errors import PeerDied, SerializationError, TypeMismatch
from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.core.status import ExitStatus
from constellation.serializers import functions
from constellation.serializers.pickle import PickleSerializer, decode_call, encode_call
from constellation.testing.serializers import same

SERIALIZER = PickleSerializer()
FACTOR = 10


def through(value: Any) -> Any:
    """What comes out for what goes in."""
    return SERIALIZER.decode(SERIALIZER.encode(value))


def called(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Send a call as spawn does, and make it."""
    sent, sent_args, sent_kwargs = decode_call(encode_call(fn, args, kwargs))
    return sent(*sent_args, **sent_kwargs)


def reason_of(value: Any) -> tuple[str, str]:
    """The path and the reason with which a value is refused."""
    with pytest.raises(SerializationError) as caught:
        SERIALIZER.encode(value)
    return caught.value.path, caught.value.reason


# -- Values ------------------------------------------------------------------------------------------------------------

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
values = st.recursive(
    leaves,
    lambda some: st.lists(some) | st.lists(some).map(tuple) | st.dictionaries(st.text() | st.integers(), some),
    max_leaves=20,
)


@given(values)
def test_comes_out_as_it_went_in(value: Any) -> None:
    """Types, order and bits are kept, and the bytes are those of plain pickle."""
    assert same(through(value), value)
    assert SERIALIZER.encode(value) == [pickle.dumps(value, 5)]


@given(values, st.booleans())
def test_arguments_come_out_as_they_went_in(value: Any, flag: bool) -> None:
    """A call's arguments are kept."""
    fn, args, kwargs = decode_call(memoryview(encode_call(same, (value, flag), {"value": value})))
    assert fn is same
    assert same(args, (value, flag))
    assert same(kwargs, {"value": value})


def test_our_own_objects_and_errors_pass() -> None:
    """Pids, resources, certificates and errors are values like others."""
    pid = Pid(1, 2, b"k" * 16)
    status = ExitStatus(pid, None, "SIGKILL")
    assert through((pid, Resources(gpu=1), status)) == (pid, Resources(gpu=1), status)
    errors: list[Exception] = [PeerDied(pid, status), TypeMismatch("int", "str"), SerializationError("args[0]", "no")]
    assert [(type(error), error.args) for error in through(errors)] == [(type(error), error.args) for error in errors]


def test_objects_that_are_shared_stay_shared() -> None:
    """Identity within a value is kept, cycles too."""
    ring: list[Any] = []
    ring.append(ring)
    first, second = through((ring, ring))
    assert first is second
    assert first[0] is first


# -- Buffers -----------------------------------------------------------------------------------------------------------


def test_large_arrays_travel_beside_the_pickle() -> None:
    """From 16 KiB on a contiguous array is a buffer of its own, borrowed; smaller and strided ones are in the pickle."""
    large, small, strided = np.arange(2048.0), np.arange(2047.0), np.arange(8192.0)[::2]
    buffers = SERIALIZER.encode({"large": large, "small": small, "strided": strided})
    assert [memoryview(buffer).nbytes for buffer in buffers[1:]] == [2048 * 8]
    large[0] = 5.0
    result = SERIALIZER.decode(buffers)
    assert result["large"][0] == 5.0
    assert (result["small"] == small).all()
    assert (result["strided"] == strided).all()


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_keep_order_and_shape(order: Any) -> None:
    """Arrays in both orders come out the same."""
    array = np.asarray(np.arange(40_000, dtype=np.int32).reshape(200, 200), order=order)
    buffers = SERIALIZER.encode([array])
    (result,) = SERIALIZER.decode([bytes(buffer) for buffer in buffers])
    assert len(buffers) == 2
    assert (result == array).all()
    assert result.flags.f_contiguous == array.flags.f_contiguous


@pytest.mark.parametrize("size", [16, 100_000])
@pytest.mark.parametrize("kind", [bytes, bytearray, lambda data: memoryview(bytes(data))])
def test_arrays_stay_writable(size: int, kind: Callable[[Any], Any]) -> None:
    """An array that could be written to can be written to, whatever memory arrives."""
    result = SERIALIZER.decode([kind(buffer) for buffer in SERIALIZER.encode([np.zeros(size)])])
    result[0][3] = 1.0
    assert result[0].sum() == 1.0


def test_decoded_array_uses_the_memory_that_arrived() -> None:
    """No copy is made of a buffer that can be written to."""
    first, second = SERIALIZER.encode(np.zeros(4096))
    memory = bytearray(second)
    result = SERIALIZER.decode([first, memory])
    memory[:8] = np.float64(7).tobytes()
    assert result[0] == 7.0


def test_large_arrays_travel_beside_functions_too() -> None:
    """The way for functions keeps large buffers apart as well."""
    array = np.arange(10_000)
    buffers = SERIALIZER.encode([lambda: array, array])
    assert len(buffers) == 2
    function, copy = SERIALIZER.decode(buffers)
    assert function() is copy


def test_calls_carry_arrays_within() -> None:
    """A call is one piece of bytes."""
    assert called(lambda array: int(array.sum()), np.ones(100_000)) == 100_000


def test_encoding_keeps_nothing_alive() -> None:
    """When the buffers are gone, the array's memory is free."""
    store = bytearray(100_000)
    buffers = SERIALIZER.encode([pickle.PickleBuffer(store)])
    assert len(buffers) == 2
    with pytest.raises(BufferError):
        store.append(1)
    del buffers
    gc.collect()
    store.append(1)


# -- Functions ---------------------------------------------------------------------------------------------------------


def test_module_functions_and_classes_go_by_name() -> None:
    """What has a name in a module is the same object on the other side."""
    sent = [through, Point, Point.norm, len, asyncio.run, functools.partial]
    assert all(one is other for one, other in zip(through(sent), sent, strict=True))


def test_nested_function_sees_the_modules_own_globals() -> None:
    """A nested function is bound to the real globals, not to a copy."""
    result = through(lambda number: number * FACTOR)
    assert result(2) == 20
    assert result.__globals__ is globals()


def test_function_keeps_all_its_parts() -> None:
    """Defaults, keyword defaults, annotations, names, attributes and documentation arrive."""

    def made(a: int, b: str = "b", *rest: int, c: float = 1.5, **named: object) -> list[int]:
        """Say something."""
        return [a, *rest]

    made.tag = {"x": 1}  # type: ignore[attr-defined]
    made.__qualname__ = made.__name__ = "renamed"
    result = through(made)
    for name in (
        "__name__",
        "__qualname__",
        "__module__",
        "__doc__",
        "__defaults__",
        "__kwdefaults__",
        "__annotations__",
        "__dict__",
    ):
        assert getattr(result, name) == getattr(made, name), name
    assert result(1, "x", 2) == [1, 2]


def test_bare_function_keeps_having_nothing() -> None:
    """No attribute comes up that was not there."""
    result = through(lambda: "not a docstring")
    assert (result.__doc__, result.__defaults__, result.__kwdefaults__, result.__dict__) == (None, None, None, {})


def test_function_that_calls_itself() -> None:
    """A closure over itself is one function, not a chain of copies."""

    def factorial(number: int) -> int:
        return 1 if number < 2 else number * factorial(number - 1)

    result = through(factorial)
    assert result(5) == 120
    assert result.__closure__[0].cell_contents is result


def test_functions_that_call_each_other() -> None:
    """A ring of two closures, and a function that is its own attribute."""

    def even(number: int) -> bool:
        return number == 0 or odd(number - 1)

    def odd(number: int) -> bool:
        return number != 0 and even(number - 1)

    even.me = even  # type: ignore[attr-defined]
    result = through(even)
    assert (result(10), result(7), result.me is result) == (True, False, True)


def test_closures_share_their_variables() -> None:
    """Two functions over one variable see each other's changes."""
    count = 0

    def increase() -> None:
        nonlocal count
        count += 1

    def read() -> int:
        return count

    sent_increase, sent_read = through((increase, read))
    sent_increase()
    assert (sent_read(), count) == (1, 0)


def test_cell_that_is_empty_stays_empty() -> None:
    """A variable that is not set yet is not set on the other side."""

    def use() -> Any:
        return later

    result = through(use)
    with pytest.raises(NameError, match="later"):
        result()
    later = 1


def test_functions_of_all_kinds() -> None:
    """Generators, coroutines, decorated functions, partials."""

    def numbers(end: int) -> Iterator[int]:
        yield from range(end)

    async def answer(number: int) -> int:
        await asyncio.sleep(0)
        return number

    @functools.wraps(answer)
    def wrapped(*args: Any) -> int:
        return asyncio.run(answer(*args))

    assert list(called(numbers, 3)) == [0, 1, 2]
    assert asyncio.run(called(answer, 5)) == 5
    assert called(wrapped, 6) == 6
    assert called(functools.partial(wrapped, 7)) == 7
    assert called(functools.partial(lambda a, b: a - b, b=1), 3) == 2


def test_function_from_a_decorator_of_another_module() -> None:
    """A wrapper is bound to the module that it was written in, the wrapped function to its own."""

    @functools.lru_cache
    def cached() -> int:
        return FACTOR

    @functools.singledispatch
    def general(value: object) -> int:
        return FACTOR

    assert through(general.__wrapped__)(1) == 10 if hasattr(general, "__wrapped__") else True
    assert through(cached.__wrapped__)() == 10


def test_closure_over_a_module() -> None:
    """A module in a closure is the receiver's own."""
    import math as module

    assert through(lambda: module)() is module


@dataclass
class Point:
    """A class of a module."""

    x: int = 3
    y: int = 4

    def norm(self) -> int:
        """Length, squared."""
        return self.x**2 + self.y**2

    def __hidden(self) -> int:
        return self.x

    def hidden(self) -> Callable[[], int]:
        """Give a private method."""
        return self.__hidden

    @classmethod
    def origin(cls) -> Point:
        """Make one at 0."""
        return cls(0, 0)

    @staticmethod
    def number() -> int:
        """Give a number."""
        return 5


class Far(Point):
    """A subclass that hides a method."""

    def norm(self) -> int:
        """Length, from afar."""
        return -1

    def near(self) -> Callable[[], int]:
        """Give the hidden method."""
        return super().norm


def test_methods() -> None:
    """Methods bound in any way, private and hidden ones too, are called on a copy of their object."""
    assert called(Point(1, 2).norm) == 5
    assert called(Point.origin) == Point(0, 0)
    assert called(Far.origin) == Far(0, 0)
    assert called(Point(1, 2).number) == 5
    assert called(Point(9, 2).hidden()) == 9
    assert called(Far(1, 1).near()) == 2
    assert called(Far(1, 1).norm) == -1
    assert called([3, 1, 2].__len__) == 3


def test_local_classes() -> None:
    """A class within a function arrives with its bases, methods, class methods and properties, and is one class."""

    class Base:
        scale = 2

        @classmethod
        def make(cls) -> Any:
            return cls()

    class Local(Base):
        def value(self) -> int:
            return self.scale * FACTOR

        @property
        def twice(self) -> int:
            return 2 * self.value()

    first, second, kind = through([Local(), Local.make(), Local])
    assert (first.value(), second.twice) == (20, 40)
    assert type(first) is type(second) is kind
    assert kind.value.__globals__ is globals()
    assert called(Local.make).value() == 20


def test_local_records_and_enums() -> None:
    """Named tuples, data classes and enums within a function."""

    class Pair(NamedTuple):
        left: int
        right: int

    class Colour(enum.Enum):
        RED = 1

    @dataclass(frozen=True)
    class Record:
        pair: Any

    pair, colour, record = through((Pair(1, 2), Colour.RED, Record(Pair(3, 4))))
    assert (pair.left, pair._fields, colour.name, record.pair.right) == (1, ("left", "right"), "RED", 4)
    assert colour.value == 1


def test_function_of_a_namespace_that_is_no_module_goes_by_value() -> None:
    """Code that was run in a plain dict takes the globals that it uses along."""
    space: dict[str, Any] = {"__name__": "nowhere", "used": 5, "unused": threading.Lock()}
    exec("def outer():\n    class Inner:\n        field = used\n    return Inner.field, helper()\n", space)
    exec("def helper():\n    return used + 1\n", space)
    assert called(space["outer"]) == (5, 6)


def test_code_of_another_python_is_refused() -> None:
    """Code objects are not read by another version."""
    with pytest.raises(SerializationError, match=r"Python 3\.4 with Python 3\.\d+"):
        functions.make_code(0x0304, b"")


# -- Refusals ----------------------------------------------------------------------------------------------------------


class Holder:
    """Holds what it is given."""

    def __init__(self, **members: Any) -> None:
        self.__dict__.update(members)


class Slotted:
    """Holds in a slot."""

    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Refusing:
    """Refuses as the ends of channels do."""

    def __reduce__(self) -> Any:
        raise TypeError("a Sender cannot be sent: send the Pid and make one there")


LOCK = "cannot pickle '_thread.lock' object"


@pytest.mark.parametrize(
    ("make", "path", "reason"),
    [
        (threading.Lock, "value", LOCK),
        (lambda: [1, threading.Lock()], "value[1]", LOCK),
        (lambda: {"db": Holder(connection=threading.Lock())}, "value['db'].connection", LOCK),
        (lambda: (Holder(a=Holder(b=[Slotted()])),), "value[0].a.b[0].lock", LOCK),
        (lambda: {threading.Lock(): 1}, "value.<key <unlocked", LOCK),
        (lambda: {threading.Lock()}, "value.<member <unlocked", LOCK),
        (lambda: functools.partial(print, threading.Lock()), "value.args[0]", LOCK),
        (lambda: functools.partial(print, end=threading.Lock()), "value.keywords['end']", LOCK),
        (lambda: Holder(lock=threading.Lock()).__init__, "value.__self__.lock", LOCK),  # type: ignore[misc]
        (lambda: ValueError("text", threading.Lock()), "value.args[1]", LOCK),
        (lambda: Holder(out=Refusing()), "value.out", "a Sender cannot be sent"),
        (
            lambda: [io.StringIO(), io.TextIOWrapper(io.BytesIO())],
            "value[1]",
            "cannot pickle '_io.TextIOWrapper' object",
        ),
        (lambda: [memoryview(b"x")], "value[0]", "cannot pickle 'memoryview' object"),
        (lambda: [0, 1, (number for number in range(3))], "value[2]", "'generator'"),
        (lambda: [sys._getframe()], "value[0]", "'frame'"),
    ],
    ids=range(15),
)
def test_refusal_names_the_member(make: Callable[[], Any], path: str, reason: str) -> None:
    """The path leads to what cannot be pickled, and the reason has its type."""
    found_path, found_reason = reason_of(make())
    assert found_path.startswith(path)
    assert reason in found_reason


def test_refusal_finds_members_of_functions() -> None:
    """Closures, defaults and attributes are looked into."""
    lock = threading.Lock()

    def with_default(one: Any = lock) -> Any:
        return one

    def with_attribute() -> None:
        return None

    with_attribute.held = [lock]  # type: ignore[attr-defined]
    assert reason_of(lambda: lock) == ("value.<closure>.lock", LOCK)
    assert reason_of([with_attribute]) == ("value[0].held[0]", LOCK)
    # the closure of a function within a closure
    inner = lambda: lock  # noqa: E731
    assert reason_of(lambda: inner) == ("value.<closure>.inner.<closure>.lock", LOCK)
    assert reason_of(with_default)[0] == "value.<default 0>"


def test_refusal_of_a_call_names_the_argument() -> None:
    """Function, arguments and keyword arguments have roots of their own."""
    lock = threading.Lock()
    cases: list[tuple[Any, tuple[Any, ...], dict[str, Any], str]] = [
        (lambda: lock, (), {}, "fn.<closure>.lock"),
        (print, (1, Holder(lock=lock)), {}, "args[1].lock"),
        (print, (1,), {"end": [lock]}, "kwargs['end'][0]"),
        (Holder(lock=lock).__init__, (), {}, "fn.__self__.lock"),  # type: ignore[misc]
    ]
    for fn, args, kwargs, path in cases:
        with pytest.raises(SerializationError) as caught:
            encode_call(fn, args, kwargs)
        assert (caught.value.path, caught.value.reason) == (path, LOCK)


def test_refusal_in_a_ring_of_objects() -> None:
    """Where all lead back to each other, the path is to the culprit and not to the one that was looked at first."""
    parent = Holder()
    parent.children = [Holder(parent=parent), Holder(parent=parent)]  # type: ignore[attr-defined]
    parent.lock = threading.Lock()  # type: ignore[attr-defined]
    assert reason_of(parent) == ("value.lock", LOCK)


def test_refusal_is_bounded() -> None:
    """Very deep, very long and endless values are refused soon."""
    deep: Any = threading.Lock()
    for _ in range(100):
        deep = [deep]
    path, _ = reason_of(deep)
    assert path.startswith("value[0][0]")
    assert "[...]" in path
    endless: list[Any] = []
    for _ in range(100_000):
        endless = [endless]
    assert reason_of(endless) == ("value", "cannot pickle a value that is nested so deeply: make it flatter")
    long = [Holder() for _ in range(10_000)]
    long[-1].lock = threading.Lock()  # type: ignore[attr-defined]
    assert reason_of(long)[0] == "value"


def test_member_that_raises_when_asked() -> None:
    """An error of the member's own code is the reason; so is one without words."""

    class Raises:
        def __getstate__(self) -> Any:
            raise KeyError

        def __repr__(self) -> str:
            raise ValueError

    assert reason_of([Raises()]) == ("value[0]", "KeyError")
    assert reason_of({Raises(): 1})[0] == "value.<key <Raises whose repr raises ValueError>>"


# -- Decoding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x80\x05\x8c\x08__main__\x8c\x07missing\x93.", "Can't get attribute 'missing'.*defined after init"),
        (b"\x80\x05\x8c\x04json\x8c\x07missing\x93.", "'missing'.*added at run time"),
        (b"\x80\x05\x8c\x07nowhere\x8c\x07missing\x93.", "needs the module 'nowhere'.*installed here"),
        (b"", "cannot unpickle: EOFError"),
        (b"\x80\x05\x97.", "cannot unpickle"),
        (b"no pickle", "cannot unpickle: UnpicklingError"),
    ],
)
def test_decoding_says_what_is_missing(data: bytes, reason: str) -> None:
    """What this process lacks is named, for values and for calls."""
    for decode in (lambda: SERIALIZER.decode([data]), lambda: decode_call(data)):
        with pytest.raises(SerializationError, match=reason):
            decode()


def test_a_call_that_is_none_is_refused() -> None:
    """Bytes of another value are not a call."""
    with pytest.raises(SerializationError):
        decode_call(pickle.dumps(5))


def test_nested_functions_do_not_load_cloudpickle() -> None:
    """It takes 15 ms to import and is needed for little."""
    program = """
import sys
from constellation.serializers.pickle import decode_call, encode_call, remember_main
remember_main(frozenset(globals()))
def make():
    def inner(): return inner
    return inner
fn, *_ = decode_call(encode_call(make(), (len, make), {}))
assert fn() is fn
assert "cloudpickle" not in sys.modules, "loaded"
class Later: pass
encode_call(Later, (), {})
assert "cloudpickle" in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=environment)
