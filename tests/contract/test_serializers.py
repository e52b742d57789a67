"""The built-in serializers pass the suite that every serializer must pass."""

from __future__ import annotations

import pytest

from constellation.plugin import Serializer
from constellation.serializers import msgpack as our_msgpack
from constellation.serializers import pickle as our_pickle
from constellation.serializers.msgpack import MsgpackSerializer
from constellation.serializers.pickle import PickleSerializer
from constellation.testing import SERIALIZER_CHECKS, Check, check_serializer

RIGHT = (PickleSerializer, MsgpackSerializer)


@pytest.mark.parametrize("check", SERIALIZER_CHECKS, ids=str)
@pytest.mark.parametrize("make", RIGHT, ids=lambda make: str(make.name))
def test_serializer_conforms(make: type[Serializer], check: Check[Serializer]) -> None:
    """Each check by its name."""
    check(make)


def test_serializer_conforms_at_once() -> None:
    """As a plugin author writes it."""
    check_serializer(MsgpackSerializer)


def test_hooks_offer_both() -> None:
    """The hook of each module gives one serializer of the module's name."""
    offered = [*our_pickle.register_serializers(), *our_msgpack.register_serializers()]
    assert [(one.name, one.foreign_safe) for one in offered] == [("pickle", False), ("msgpack", True)]


@pytest.mark.slow
@pytest.mark.parametrize("make", RIGHT, ids=lambda make: str(make.name))
def test_right_serializer_passes_a_hundred_runs(make: type[Serializer]) -> None:
    """Whatever the chances."""
    for seed in range(100):
        check_serializer(make, seed=seed)
