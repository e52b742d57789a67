"""What importing costs: modules that nobody has asked for are not loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import constellation
import constellation.plugin

ROOT = Path(__file__).resolve().parents[2]


def loaded_by(statement: str) -> set[str]:
    """Run a statement in a fresh interpreter without site, so that only it decides what is loaded; say what is new."""
    code = f"import sys; sys.path[:0] = {[str(ROOT), *sys.path]!r}; old = set(sys.modules); {statement}; print(*set(sys.modules) - old)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["socket", "ssl", "asyncio", "psutil", "cloudpickle", "msgpack", "importlib_metadata", "inspect"]
)
def test_import_constellation_is_light(module: str) -> None:
    """`import constellation` loads no heavy module."""
    assert module not in loaded_by("import constellation")


@pytest.mark.parametrize(
    "module", ["socket", "ssl", "asyncio", "psutil", "cloudpickle", "threading", "importlib_metadata"]
)
def test_a_plugin_author_pulls_in_no_socket(module: str) -> None:
    """`import constellation.plugin` loads the contracts and nothing that does I/O."""
    assert module not in loaded_by("import constellation.plugin")


def test_a_default_serializer_loads_no_other_plugin() -> None:
    """Asking for the default of one kind imports neither its siblings nor other kinds."""
    loaded = loaded_by("from constellation.core.plugins import make_plugin_manager as m; m().serializer()")
    assert "constellation.serializers.pickle" in loaded
    assert not loaded & {
        "constellation.serializers.msgpack",
        "constellation.transports.tcp",
        "constellation.schedulers.bin_packing",
        "importlib_metadata",
        "importlib.metadata",
        "tomllib",
        "difflib",
    }


def test_every_public_name_is_there() -> None:
    """Names that load late exist, and the list that tools read is the one that is loaded from."""
    assert [name for name in constellation.__all__ if not hasattr(constellation, name)] == []
    assert sorted(constellation._HOMES) == sorted(constellation.__all__)
    assert [name for name in constellation.plugin.__all__ if not hasattr(constellation.plugin, name)] == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    """The lazy package answers as a plain one does."""
    with pytest.raises(AttributeError, match="module 'constellation' has no attribute 'spwan'"):
        _ = constellation.spwan
