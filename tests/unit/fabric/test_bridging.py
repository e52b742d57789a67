"""The bridge and its master: nothing is acknowledged over a gap, and what has not been answered is asked again."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from constellation.core import trunk
from constellation.fabric import bridging
from constellation.fabric.bridging import Bridge
from constellation.fabric.loop import Loop
from constellation.fabric.spool import Spool

NAME = b"d" * 16


class Master:
    """Keeps what it is told."""

    def __init__(self, bridge: Bridge) -> None:
        self.told: list[Any] = []
        self.renewed = 0
        bridge.master_came(self._send, "127.0.0.1:5001", self._renew)

    def _send(self, message: Any) -> bool:
        self.told.append(message)
        return True

    def _renew(self) -> None:
        self.renewed += 1

    @property
    def stored(self) -> list[int]:
        """The numbers that have been acknowledged."""
        return [each.number for each in self.told if isinstance(each, trunk.Stored)]


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Closed at the end."""
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def bridge(tmp_path: Path, loop: Loop) -> Iterator[Bridge]:
    """Without a master and without clients."""
    made = Bridge(loop, str(tmp_path), lambda: None, None, lambda _line, **_about: None)  # type: ignore[arg-type]
    yield made
    for kept in made._kept.values():
        kept.spool.remove()


def _client(bridge: Bridge, number: int) -> bridging._Client:
    client = bridge._clients[number] = bridging._Client(number)
    client.owner = "somebody"
    bridge._make_folder(client)
    return client


def _event(number: int) -> trunk.Event:
    return trunk.Event(NAME, number, ["words", str(number)], 1, number)


def test_nothing_after_an_event_that_could_not_be_kept_is_acknowledged(
    bridge: Bridge, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: the master is asked for all of them again, and gives its nodes leave to forget none."""
    monkeypatch.setattr(bridging, "DISK_RETRY_S", 0.0)
    master = Master(bridge)
    _client(bridge, 1)
    bridge.on_master_message(trunk.Accepted(1, NAME))
    bridge.on_master_message(_event(1))
    with monkeypatch.context() as full:
        full.setattr(Spool, "append", _no_space)
        bridge.on_master_message(_event(2))
    bridge.on_master_message(_event(3))
    assert master.stored == [1]
    loop.step(1.0)
    assert master.renewed == 1
    again = Master(bridge)
    assert again.told[0].stored[0][:2] == [NAME, 1]
    bridge.on_master_message(_event(2))
    bridge.on_master_message(_event(3))
    assert again.stored == [2, 3]


def _no_space(*_arguments: Any) -> None:
    raise OSError(28, "No space left on device")


def test_events_of_a_deployment_that_nobody_can_ask_for_are_not_kept_by_the_master(bridge: Bridge) -> None:
    """They are acknowledged: else it would keep them for ever."""
    master = Master(bridge)
    bridge.on_master_message(_event(7))
    assert master.stored == [7]


def test_what_a_former_master_has_not_answered_the_next_one_is_asked(bridge: Bridge) -> None:
    """No client waits for ever for an answer that died with somebody."""
    first = Master(bridge)
    client = _client(bridge, 1)
    bridge._ask_master(client, trunk.Question(1, "ps", "", "somebody"))
    bridge.master_left()
    second = Master(bridge)
    asked = [[each for each in master.told if isinstance(each, trunk.Question)] for master in (first, second)]
    assert asked[0] == asked[1] != []
    bridge.on_master_message(trunk.Answer(1, []))
    assert not [each for each in Master(bridge).told if isinstance(each, trunk.Question)]


class _Conduit:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.is_closed = False

    def send(self, message: Any) -> bool:
        self.sent.append(message)
        return True

    def close(self, *, after_flush: bool = False) -> None:
        self.is_closed = True


def test_a_client_that_withholds_what_it_was_asked_for_is_not_waited_for_without_an_end(
    bridge: Bridge, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told what is missing, with code 3, and closed; one that sends something is waited for anew."""
    client = _client(bridge, 1)
    client.conduit = conduit = _Conduit()  # type: ignore[assignment]
    client.wanted = {b"1": 1, b"2": 1}
    bridge._wait_for(client)
    assert client.patience is not None
    first = client.patience
    bridge._wait_for(client)
    assert client.patience is not first
    monkeypatch.setattr(bridging, "UPLOAD_S", 0.0)
    bridge._wait_for(client)
    loop.step(1.0)
    (refusal,) = conduit.sent
    assert refusal.code == 3
    assert "no part of the program's files for 0 s, and 2 are missing" in refusal.text
    assert conduit.is_closed
    assert not bridge._clients


def test_what_clients_send_while_there_is_no_master_is_bounded(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the next master; too much of it cuts off who sends it."""
    monkeypatch.setattr(bridging, "MOST_WAITING", 3)
    Master(bridge)
    client = _client(bridge, 1)
    client.conduit = conduit = _Conduit()  # type: ignore[assignment]
    bridge.on_master_message(trunk.Accepted(1, NAME))
    bridge.master_left()
    for _ in range(3):
        bridge._on_message(client, trunk.Interrupt(NAME, 2))
    assert not conduit.is_closed
    bridge._on_message(client, trunk.Interrupt(NAME, 2))
    assert conduit.is_closed
    assert [each for each in Master(bridge).told if isinstance(each, trunk.Interrupt)] == [trunk.Interrupt(NAME, 2)] * 3


def test_a_client_whose_connection_broke_may_come_back(
    bridge: Bridge, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy on the way that is started again ends no deployment; who does not come back does."""
    monkeypatch.setattr(bridging, "BACK_S", 0.0)
    master = Master(bridge)
    first = _client(bridge, 1)
    first.is_lasting = True
    bridge.on_master_message(trunk.Accepted(1, NAME))
    bridge._ended(first, "")
    second = _client(bridge, 2)
    bridge._attach(second, NAME, 0, is_lasting=True)
    loop.step(0.5)
    assert not [each for each in master.told if isinstance(each, trunk.Lost)]
    bridge._ended(second, "")
    loop.step(0.5)
    assert [each for each in master.told if isinstance(each, trunk.Lost)] == [trunk.Lost(NAME)]


def test_what_a_full_disk_took_in_part_leaves_no_hole(tmp_path: Path) -> None:
    """In the first segment, which was begun just before: all that is kept later is read, also after a start."""
    spool = Spool(str(tmp_path / "spool"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        spool.append(1, ["words", "x" * 50])
        with pytest.raises(OSError, match="No space left"):
            spool.append(2, ["words", "y" * 50])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    spool.append(2, ["words", "z"])
    spool.append(3, ["words", "end"])
    for each in (spool, Spool(spool.folder)):
        assert [fields[1] for _, fields in each.after(1)[0]] == ["z", "end"]
    spool.remove()
