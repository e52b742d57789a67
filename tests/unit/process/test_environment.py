"""The variables that begin with CONSTELLATION_: good ones are read, bad ones are refused with their value."""

from __future__ import annotations

from pathlib import Path

import pytest

from constellation import Resources
from constellation.core.errors import UsageError
from constellation.process import environment


def test_nothing_said(tmp_path: Path) -> None:
    """An empty environment gives the defaults."""
    assert environment.read({}, str(tmp_path), (), None) == {
        "format": None,
        "capacity": None,
        "plugins": [],
        "plugin_options": {},
        "transport": None,
        "serializer": None,
        "scheduler": None,
        "grace": 5.0,
        "linger": 60.0,
        "credit": 4 << 20,
    }


def test_all_said(tmp_path: Path) -> None:
    """Each variable is read into its key."""
    found = environment.read(
        {
            "CONSTELLATION_FORMAT": "json",
            "CONSTELLATION_CAPACITY": '[1024, 2000000, [["gpu", 1000000]]]',
            "CONSTELLATION_PLUGINS": "a, b,a",
            "CONSTELLATION_PLUGIN_OPTIONS": '{"a.key": "value"}',
            "CONSTELLATION_TRANSPORT": "t",
            "CONSTELLATION_SCHEDULER": "s",
            "CONSTELLATION_GRACE": "0.5",
            "CONSTELLATION_LINGER": "0",
            "CONSTELLATION_CREDIT": "1 MiB",
        },
        str(tmp_path),
        ["c", "a"],
        None,
    )
    assert found == {
        "format": "json",
        "capacity": [1024, 2_000_000, [["gpu", 1_000_000]]],
        "plugins": ["c", "a", "b"],
        "plugin_options": {"a.key": "value"},
        "transport": "t",
        "serializer": None,
        "scheduler": "s",
        "grace": 0.5,
        "linger": 0.0,
        "credit": 1 << 20,
    }


def test_the_program_overrides_the_capacity(tmp_path: Path) -> None:
    """A capacity in the program counts more than one in the environment."""
    environ = {"CONSTELLATION_CAPACITY": "[1, 1, []]"}
    given = Resources(mem="2 GiB", cpu=2)
    assert environment.read(environ, str(tmp_path), (), given)["capacity"] == given.to_fields()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CONSTELLATION_FORMAT", "jsno"),
        ("CONSTELLATION_CAPACITY", "10 GB of ram"),
        ("CONSTELLATION_CAPACITY", "7"),
        ("CONSTELLATION_CAPACITY", "[1, -1, []]"),
        ("CONSTELLATION_PLUGIN_OPTIONS", "a=b"),
        ("CONSTELLATION_PLUGIN_OPTIONS", '{"a.b": 1}'),
        ("CONSTELLATION_GRACE", "soon"),
        ("CONSTELLATION_GRACE", "nan"),
        ("CONSTELLATION_LINGER", "-1"),
        ("CONSTELLATION_LINGER", "inf"),
        ("CONSTELLATION_CREDIT", "0"),
        ("CONSTELLATION_CREDIT", "much"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, name: str, value: str) -> None:
    """A variable that cannot be used is named with its value."""
    with pytest.raises(UsageError, match="expected") as caught:
        environment.read({name: value}, str(tmp_path), (), None)
    assert f"{name}={value!r}" in str(caught.value)
