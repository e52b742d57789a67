"""What `constellation plugins` shows of good plugins, broken ones and those that are only installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from constellation.core.listing import PluginInfo, listing

HEAD = "from constellation.plugin import Option, hookimpl\n"
SCHEDULER = """
class First:
    name = NAME
    def node_changed(self, node): ...
    def node_removed(self, node_id): ...
    def place(self, demand): return None
@hookimpl
def register_schedulers(): return [First()]
@hookimpl
def register_options(): return [Option("depth", int, 2, "How deep.")]
@hookimpl
def node_lost(node): ...
"""

Write = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Give a function that installs a distribution with one module, an entry point, and what it requires."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write(name: str, source: str, *requires: str, distribution: str = "") -> None:
        (tmp_path / f"lst_{distribution or name}.py").write_text(HEAD + source.replace("NAME", repr(name)))
        info = tmp_path / f"{distribution or name}-1.5.dist-info"
        info.mkdir()
        lines = [f"Requires-Dist: {each}\n" for each in requires]
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution or name}\nVersion: 1.5\n{''.join(lines)}"
        )
        (info / "entry_points.txt").write_text(f"[constellation]\n{name} = lst_{distribution or name}\n")

    yield write
    for loaded in set(sys.modules) - before:
        if loaded.startswith("lst_"):
            del sys.modules[loaded]


def lines(*names: str, import_all: bool = False, **given: object) -> dict[str, PluginInfo]:
    """The listing by name."""
    options = {key.replace("__", "."): value for key, value in given.items()}
    return {line.name: line for line in listing(dict.fromkeys(names, "--plugin"), options, import_all=import_all)}


def test_an_enabled_plugin_says_all(install: Write) -> None:
    """Kinds, what it provides, package and version, what enables it, hooks and options."""
    install("mine", SCHEDULER)
    line = lines("mine")["mine"]
    assert line[:8] == (
        "mine",
        ("scheduler", "news"),
        ("scheduler mine",),
        "mine",
        "1.5",
        "entry point",
        "lst_mine",
        "--plugin",
    )
    assert line.hooks == ("node_lost", "register_options", "register_schedulers")
    assert [option.name for option in line.options] == ["depth"]
    assert (line.state, line.reason) == ("ok", "")


def test_defaults_are_plugins_too(install: Write) -> None:
    """With our own package."""
    found = lines()
    assert {"tcp", "pickle", "msgpack", "bin_packing"} <= set(found)
    assert (found["pickle"].provides, found["pickle"].enabled_by) == (("serializer pickle",), "default")
    assert (found["pickle"].package, found["pickle"].state) == ("constellation", "ok")


def test_what_is_not_enabled_is_not_imported_unless_asked_for(install: Write) -> None:
    """Importing is what runs foreign code."""
    install("mine", SCHEDULER)
    assert (lines()["mine"].state, lines()["mine"].kinds) == ("not imported", ())
    assert "lst_mine" not in sys.modules
    line = lines(import_all=True)["mine"]
    assert (line.state, line.provides, line.enabled_by) == ("ok", ("scheduler mine",), "")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import there_is_none\n", "ModuleNotFoundError: No module named 'there_is_none'"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("", "has no hooks"),
        ("@hookimpl\ndef node_lost(colour): ...\n", "does not fit"),
        ("@hookimpl\ndef register_schedulers(): return 5\n", "returned 5 from register_schedulers"),
        ("contract_version = 99\n", "was written for version 99 of the contracts"),
    ],
)
def test_a_broken_plugin_is_a_line_with_the_reason(install: Write, source: str, reason: str) -> None:
    """And the others are listed all the same."""
    install("bad", source)
    install("good", SCHEDULER)
    found = lines("bad", "good")
    assert found["bad"].state == "unusable"
    assert reason in found["bad"].reason
    assert (found["good"].state, found["bad"].package) == ("ok", "bad")


def test_a_bad_option_is_the_reason(install: Write) -> None:
    """What would end a program is said here."""
    install("mine", SCHEDULER)
    assert "cannot use mine.depth='x'" in lines("mine", mine__depth="x")["mine"].reason


def test_an_unknown_plugin_is_a_line(install: Write) -> None:
    """As enabled, and not there."""
    assert "unknown plugin 'nothing'" in lines("nothing")["nothing"].reason


def test_a_name_that_two_offer_is_refused_for_the_second(install: Write) -> None:
    """Both are named."""
    install("one", SCHEDULER.replace("NAME", "'same'"))
    install("two", SCHEDULER.replace("NAME", "'same'"))
    found = lines("one", "two")
    assert found["one"].state == "ok"
    assert "claim the scheduler 'same': 'one (one 1.5)' and 'two (two 1.5)'" in found["two"].reason


def test_a_name_that_two_packages_claim(install: Write) -> None:
    """Neither can be enabled, others can."""
    install("same", SCHEDULER, distribution="first")
    install("same", SCHEDULER, distribution="second")
    install("good", SCHEDULER)
    rows = [line for line in listing({"good": "--plugin"}, {}) if line.name == "same"]
    assert [row.state for row in rows] == ["unusable", "unusable"]
    assert "first 1.5" in rows[0].reason
    assert "second 1.5" in rows[0].reason
    assert lines("good")["good"].state == "ok"


def test_a_name_of_a_default_cannot_be_claimed(install: Write) -> None:
    """The default would be used in its place."""
    install("pickle", SCHEDULER, distribution="other-pickle")
    row = next(line for line in listing({}, {}) if line.package == "other-pickle")
    assert "claim the plugin 'pickle'" in row.reason


def test_a_requirement_that_is_not_installed_is_seen_without_import(install: Write) -> None:
    """What depends on an extra or on a marker is not looked at."""
    install("needy", SCHEDULER, "there-is-none>=1", "pytest", "neither ; extra == 'x'")
    line = lines()["needy"]
    assert line.state == "unusable"
    assert line.reason == "it needs there-is-none, not installed here: `pip install --upgrade needy`"
