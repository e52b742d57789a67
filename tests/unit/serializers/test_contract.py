"""The built-in serializers pass the suite that every serializer must pass, and the suite finds those that would not."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from constellation.core.contracts import Buffer, Serializer
from constellation.core.errors import SerializationError
from constellation.serializers import msgpack as our_msgpack
from constellation.serializers import pickle as our_pickle
from constellation.serializers.msgpack import MsgpackSerializer
from constellation.serializers.pickle import PickleSerializer
from constellation.testing import SERIALIZER_CHECKS, check_serializer


@pytest.mark.parametrize("make", [PickleSerializer, MsgpackSerializer])
@pytest.mark.parametrize("check", SERIALIZER_CHECKS, ids=lambda check: str(check.__name__))
def test_built_in_serializer_keeps_the_contract(
    make: Callable[[], Serializer], check: Callable[[Callable[[], Serializer]], None]
) -> None:
    """Each check passes for each serializer."""
    check(make)


def test_hooks_offer_both() -> None:
    """The hook of each module gives one serializer of the module's name."""
    offered = [*our_pickle.register_serializers(), *our_msgpack.register_serializers()]
    assert [(one.name, one.foreign_safe) for one in offered] == [("pickle", False), ("msgpack", True)]


class Wrong(PickleSerializer):
    """Has a fault of each kind, by name."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.foreign_safe = fault == "foreign_bytes"

    def encode(self, value: Any) -> list[Buffer]:
        if self.fault == "round_trips" and type(value) is bytes:
            return [pickle.dumps(bytearray(value))]
        if self.fault == "order" and type(value) is dict:
            return [pickle.dumps(dict(sorted(value.items())))]
        if self.fault == "leaves_value_alone" and type(value) is list:
            value.append(1)
        if self.fault == "refuses_with_path":
            try:
                return super().encode(value)
            except SerializationError as error:
                raise SerializationError("value", error.reason) from error
        return super().encode(value)

    def decode(self, buffers: Sequence[Buffer]) -> Any:
        if self.fault in {"foreign_bytes", "refuses_cut_bytes"}:
            return pickle.loads(buffers[0])
        if self.fault == "buffers_can_be_memoryviews":
            assert type(buffers[0]) is bytes
        return super().decode(buffers)


@pytest.mark.parametrize(
    "fault",
    [
        "round_trips",
        "leaves_value_alone",
        "buffers_can_be_memoryviews",
        "refuses_with_path",
        "refuses_cut_bytes",
        "order",
    ],
)
def test_suite_finds_a_fault(fault: str) -> None:
    """A serializer with a fault fails the check that is named after it, or one before it."""
    with pytest.raises(AssertionError, match=rf"^({fault}|round_trips)"):
        check_serializer(lambda: Wrong(fault))


def test_suite_finds_an_error_of_another_type_on_foreign_bytes() -> None:
    """What pickle raises for any bytes is seen."""
    check = next(check for check in SERIALIZER_CHECKS if check.__name__ == "foreign_bytes")
    with pytest.raises(AssertionError, match="expected SerializationError"):
        check(lambda: Wrong("foreign_bytes"))
