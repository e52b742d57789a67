"""Faults planted in a right serializer: each is found by the check of the promise that it breaks."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import pytest

from constellation.plugin import Buffer, SerializationError, Serializer
from constellation.serializers.msgpack import MsgpackSerializer
from constellation.serializers.pickle import PickleSerializer
from constellation.testing import SERIALIZER_CHECKS, BrokenPromise, check_serializer

FAULTS: list[tuple[str, Callable[[], Serializer]]] = []
"""The name of a check, and a serializer that breaks its promise."""


def found_by(check: str) -> Callable[[type], type]:
    """Mark a faulty serializer with the check that must find it."""

    def mark(faulty: type) -> type:
        FAULTS.append((check, faulty))
        return faulty

    return mark


class Refusing(PickleSerializer):
    """Pickle, with its decoding errors as ours."""

    name = "refusing"


@found_by("says_what_it_is")
class HasNoName(Refusing):
    """Cannot be selected."""

    name = ""


@found_by("says_what_it_is")
class DoesNotSayWhetherItIsSafe(Refusing):
    """None is no answer."""

    foreign_safe = None  # type: ignore[assignment]  # the fault


@found_by("gives_buffers")
class GivesOneBuffer(Refusing):
    """Bytes are a sequence, too: of numbers."""

    def encode(self, value: Any) -> Any:
        return super().encode(value)[0]


@found_by("gives_buffers")
class GivesText(Refusing):
    """As json.dumps does."""

    def encode(self, value: Any) -> Any:
        return [super().encode(value)[0].hex()]

    def decode(self, buffers: Sequence[Any]) -> Any:
        return super().decode([bytes.fromhex(buffers[0])])


@found_by("gives_buffers")
class GivesWideViews(Refusing):
    """The length of a view of doubles is not that of its bytes."""

    def encode(self, value: Any) -> list[Any]:
        buffers = super().encode(value)
        data = bytes(buffers[0])
        return [memoryview(data + bytes(-len(data) % 8)).cast("d"), *buffers[1:]]


@found_by("round_trips")
class LosesANan(Refusing):
    """As JSON in a browser does."""

    def encode(self, value: Any) -> list[Buffer]:
        return super().encode(0.0 if value != value else value)  # noqa: PLR0124  # what a NaN is


@found_by("round_trips")
class LosesTheBitsOfANan(Refusing):
    """One NaN is like the other."""

    def encode(self, value: Any) -> list[Buffer]:
        return super().encode(float("nan") if type(value) is float and value != value else value)  # noqa: PLR0124


@found_by("round_trips")
class LosesTheSignOfZero(Refusing):
    """Adds nothing."""

    def encode(self, value: Any) -> list[Buffer]:
        return super().encode(value + 0.0 if type(value) is float else value)


@found_by("round_trips")
class CutsLargeIntegers(Refusing):
    """To 64 bits."""

    def encode(self, value: Any) -> list[Buffer]:
        return super().encode(value & (1 << 64) - 1 if type(value) is int and value > 1 << 64 else value)


@found_by("round_trips")
class RefusesLargeIntegers(Refusing):
    """Of 70 bits: msgpack's own limit."""

    def encode(self, value: Any) -> list[Buffer]:
        if type(value) is int and value.bit_length() > 64:
            raise SerializationError("value", "an int is too large")
        return super().encode(value)


@found_by("round_trips")
class GivesBytearrays(Refusing):
    """Where bytes went in."""

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        value = super().decode(buffers)
        return bytearray(value) if type(value) is bytes else value


@found_by("round_trips")
class MakesTextOfBytes(Refusing):
    """As old msgpack did."""

    def encode(self, value: Any) -> list[Buffer]:
        try:
            return super().encode(value.decode() if type(value) is bytes else value)
        except UnicodeDecodeError:
            return super().encode(value)


@found_by("nothing_changes_its_type")
class GivesTuplesAsLists(MsgpackSerializer):
    """As msgpack does by itself."""

    def encode(self, value: Any) -> list[Buffer]:
        return super().encode(list(value) if type(value) is tuple else value)


@found_by("nothing_changes_its_type")
class GivesNumbersForAnEnum(Refusing):
    """Members that are equal to numbers."""

    def encode(self, value: Any) -> list[Buffer]:
        return super().encode(int(value) if isinstance(value, int) and type(value) is not bool else value)


@found_by("nothing_changes_its_type")
class MakesTextOfKeys(Refusing):
    """As JSON does."""

    def encode(self, value: Any) -> list[Buffer]:
        return super().encode({str(key): each for key, each in value.items()} if type(value) is dict else value)


@found_by("keeps_the_order")
class SortsKeys(Refusing):
    """For the sake of a canonical form."""

    def encode(self, value: Any) -> list[Buffer]:
        if type(value) is dict and len(value) == 100:
            return super().encode(dict(sorted(value.items())))
        return super().encode(value)


@found_by("calls_are_independent")
class RemembersWhatItSaw(Refusing):
    """Sends a number for what was there before, as one Pickler for a whole stream does."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def encode(self, value: Any) -> list[Buffer]:
        self.seen.append(value)
        return [b"%d" % (len(self.seen) - 1)]

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        return self.seen[int(bytes(buffers[0]))]


@found_by("calls_are_independent")
class DecodesOnce(Refusing):
    """Takes what it has decoded out of a table that all objects share."""

    table: dict[bytes, Any] = {}  # noqa: RUF012  # the fault

    def encode(self, value: Any) -> list[Buffer]:
        key = b"%d" % len(self.table)
        self.table[key] = value
        return [key]

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        return self.table.pop(bytes(buffers[0]))


@found_by("calls_may_overlap")
class IsForOneThread(Refusing):
    """Keeps a part of its work in the object."""

    current: Any = None

    def encode(self, value: Any) -> list[Buffer]:
        self.current = value
        time.sleep(0)  # lets another one come in
        return super().encode(self.current)


@found_by("leaves_the_value_alone")
class ChangesTheValue(Refusing):
    """Adds a mark of its own."""

    def encode(self, value: Any) -> list[Buffer]:
        if type(value) is list:
            value.append("mark")
        return super().encode(value)


@found_by("leaves_the_value_alone")
class GivesTheSameObject(Refusing):
    """Where both ends are in one process."""

    last: Any = None

    def encode(self, value: Any) -> list[Buffer]:
        self.last = value
        return super().encode(value)

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        return self.last


@found_by("takes_any_memory")
class WantsBytes(Refusing):
    """As struct and json do now and then."""

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        if not isinstance(buffers[0], bytes):
            raise TypeError(f"expected bytes, not {type(buffers[0]).__name__}")
        return super().decode(buffers)


@found_by("encodes_all_plain")
class PromisesTooMuch(Refusing):
    """Combined values would be refused after their sends have returned."""

    takes_all_plain = True

    def encode(self, value: Any) -> list[Buffer]:
        if type(value) is list and any(type(each) is tuple for each in value):
            raise SerializationError("value[0]", "a tuple has no place in this format")
        return super().encode(value)


@found_by("refuses_with_path")
class DoesNotSayWhere(Refusing):
    """Something, somewhere."""

    def encode(self, value: Any) -> list[Buffer]:
        try:
            return super().encode(value)
        except SerializationError as error:
            raise SerializationError("value", error.reason) from error


@found_by("refuses_with_path")
class RaisesItsOwn(Refusing):
    """Pickle's own words."""

    def encode(self, value: Any) -> list[Buffer]:
        return [pickle.dumps(value)]


@found_by("refuses_what_is_too_deep")
class Recurses(Refusing):
    """Walks through the value in Python."""

    def encode(self, value: Any) -> list[Buffer]:
        return super().encode(self.walk(value))

    def walk(self, value: Any) -> Any:
        return [self.walk(each) for each in value] if type(value) is list else value


@found_by("refuses_cut_bytes")
class FillsUp(Refusing):
    """Gives what there is."""

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        try:
            return super().decode(buffers)
        except SerializationError:
            return None


@found_by("refuses_cut_bytes")
class RaisesEofError(Refusing):
    """What a caller does not expect ends more than the one value."""

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        return pickle.loads(buffers[0], buffers=buffers[1:])


class Json:
    """Safe on foreign bytes; only for what the checks of safety ask."""

    name = "json"
    foreign_safe = True

    def encode(self, value: Any) -> list[Buffer]:
        try:
            return [json.dumps(value).encode()]
        except (TypeError, ValueError, RecursionError) as error:
            raise SerializationError("value", str(error)) from error

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        try:
            return json.loads(bytes(buffers[0]))
        except (ValueError, RecursionError) as error:
            raise SerializationError("value", str(error)) from error


@found_by("refuses_foreign_bytes")
class RaisesUnicodeErrors(MsgpackSerializer):
    """Checks the form, and not the text in it."""

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        try:
            return super().decode(buffers)
        except SerializationError:
            return bytes(buffers[0]).decode()


@found_by("runs_no_foreign_code")
class CallsItselfSafe(Refusing):
    """Pickle."""

    foreign_safe = True


@found_by("runs_no_foreign_code")
class FallsBackToPickle(MsgpackSerializer):
    """For what its format has no word for."""

    def encode(self, value: Any) -> list[Buffer]:
        try:
            return super().encode(value)
        except SerializationError:
            return [b"\xc1" + pickle.dumps(value)]

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        data = bytes(buffers[0])
        try:
            return pickle.loads(data[1:]) if data[:1] == b"\xc1" else super().decode(buffers)
        except Exception as error:
            raise SerializationError("value", str(error)) from error


@found_by("runs_no_foreign_code")
class UnpicklesExtensions(MsgpackSerializer):
    """A known type of msgpack's extensions that holds a pickle."""

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        try:
            return msgpack.unpackb(buffers[0], ext_hook=lambda code, data: pickle.loads(data) if code == 42 else None)
        except Exception as error:
            raise SerializationError("value", str(error)) from error


@found_by("runs_no_foreign_code")
class Evaluates(Json):
    """The shortest parser for Python's literals."""

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        try:
            return eval(bytes(buffers[0]))
        except Exception as error:
            raise SerializationError("value", str(error)) from error


@found_by("takes_memory_for_what_is_there")
class BelievesLengths(MsgpackSerializer):
    """Makes room for what is announced."""

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        data = bytes(buffers[0])
        if data[:1] == b"\xc6":
            room = bytearray(int.from_bytes(data[1:5], "big") % (1 << 28))
            room[: len(data)] = data
        return super().decode(buffers)


def test_enough_faults_are_planted() -> None:
    """Every check is there for a fault that it finds."""
    assert {check for check, _ in FAULTS} == {str(check) for check in SERIALIZER_CHECKS}


@pytest.mark.parametrize(("check", "faulty"), FAULTS, ids=[faulty.__name__ for _, faulty in FAULTS])
def test_fault_is_found(check: str, faulty: Callable[[], Serializer]) -> None:
    """By the check of that name, in words that say what was promised and how to repeat it."""
    by_name = {str(each): each for each in SERIALIZER_CHECKS}
    with pytest.raises(BrokenPromise) as caught:
        by_name[check](faulty)
    assert caught.value.seen
    assert f"to repeat: {check}(make, seed=0)" in str(caught.value)
    with pytest.raises(BrokenPromise):
        check_serializer(faulty)
