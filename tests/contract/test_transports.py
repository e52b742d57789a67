"""The transports that there are, and ones as strangers would write them, pass the suite that every transport must pass."""

from __future__ import annotations

import pytest

from constellation.plugin import Transport
from constellation.testing import TRANSPORT_CHECKS, Check, check_transport
from constellation.transports.tcp import TcpTransport
from tests.contract.right import LineTransport, PlainTransport, RightRemote

RIGHT = (TcpTransport, PlainTransport, RightRemote, LineTransport)


@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=str)
@pytest.mark.parametrize("make", RIGHT, ids=lambda make: str(make.name))
def test_transport_conforms(make: type[Transport], check: Check[Transport]) -> None:
    """Each check by its name."""
    check(make)


def test_transport_conforms_at_once() -> None:
    """As a plugin author writes it."""
    check_transport(TcpTransport)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("make", [TcpTransport, LineTransport], ids=lambda make: str(make.name))
def test_right_transport_passes_a_hundred_runs(make: type[Transport]) -> None:
    """Whatever the chances: a suite that fails a right plugin now and then is not believed when it is right."""
    for seed in range(100):
        check_transport(make, seed=seed)
