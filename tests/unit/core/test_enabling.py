"""Which plugins the surroundings enable: the environment and pyproject.toml, and who wins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from constellation.core.enabling import Enabled, look
from constellation.core.errors import PluginError, UsageError


def configured(folder: Path, environ: Mapping[str, str] | None = None) -> Enabled:
    """Look at a folder."""
    return look(str(folder), environ or {})


def test_names_come_from_the_environment_and_the_nearest_project(tmp_path: Path) -> None:
    """Both places count, each name once, the environment first; and each says what enables it."""
    project = tmp_path / "pyproject.toml"
    project.write_text('[tool.constellation]\nplugins = ["a.b", "c.d"]\n')
    inner = tmp_path / "src" / "deep"
    inner.mkdir(parents=True)
    found = configured(inner, {"CONSTELLATION_PLUGINS": " x, a.b,,"})
    assert list(found.names.items()) == [
        ("x", "CONSTELLATION_PLUGINS"),
        ("a.b", "CONSTELLATION_PLUGINS"),
        ("c.d", str(project)),
    ]


def test_a_nearer_project_hides_the_one_above(tmp_path: Path) -> None:
    """Only the nearest pyproject.toml is read, also if it says nothing of us."""
    (tmp_path / "pyproject.toml").write_text('[tool.constellation]\nplugins = ["a.b"]\n')
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "pyproject.toml").write_text("[project]\n")
    assert configured(tmp_path / "inner") == Enabled({}, {}, {}, {})


def test_options_of_the_environment_win_over_the_project(tmp_path: Path) -> None:
    """A table is for one plugin, and may stand there while that is not enabled; a variable may not."""
    (tmp_path / "pyproject.toml").write_text(
        '[tool.constellation]\nplugins = ["ws"]\n[tool.constellation.ws]\nurl = "a"\nidle_s = 3\n'
        '[tool.constellation."my.own"]\nx = true\n'
    )
    found = configured(tmp_path, {"CONSTELLATION_PLUGIN_OPTIONS": '{"ws.url": "b", "no.z": "1"}'})
    assert found.options_of(["ws"]) == {"ws.url": "b", "ws.idle_s": 3, "no.z": "1"}
    assert found.options_of(["ws", "my.own"]) == {"ws.url": "b", "ws.idle_s": 3, "my.own.x": True, "no.z": "1"}


def test_choices_of_the_environment_win_over_the_project(tmp_path: Path) -> None:
    """Each kind by itself."""
    (tmp_path / "pyproject.toml").write_text('[tool.constellation]\ntransport = "a"\nscheduler = "b"\n')
    found = configured(tmp_path, {"CONSTELLATION_TRANSPORT": "c", "CONSTELLATION_SERIALIZER": ""})
    assert found.choices == {"transport": "c", "scheduler": "b"}


@pytest.mark.parametrize(
    "text",
    [
        "[tool.other]\nconstellation = 1\n",
        '[project]\ndependencies = ["constellation"]\n',
        "tool = 5  # constellation\n",
        "not TOML at all",
    ],
)
def test_projects_that_say_nothing_of_plugins(tmp_path: Path, text: str) -> None:
    """Other contents of a pyproject.toml are none of our business."""
    (tmp_path / "pyproject.toml").write_text(text)
    assert configured(tmp_path) == Enabled({}, {}, {}, {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('plugins = "a"', "cannot use .*plugins = 'a' in .*pyproject.toml: expected a list of names"),
        ("plugins = [1]", r"plugins = \[1\].*expected a list of names"),
        ("transport = 3", "transport = 3 in .*expected a name"),
        ('plugin = ["a"]', r"\[tool.constellation\] plugin in .*expected one of plugins, .*did you mean 'plugins'\?"),
        ("url = 3", r"url in .*, or a table \[tool.constellation.url\] of a plugin's options"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, text: str, words: str) -> None:
    """A setting that cannot be used says the file, the value and what was expected."""
    (tmp_path / "pyproject.toml").write_text(f"[tool.constellation]\n{text}\n")
    with pytest.raises(PluginError, match=words):
        configured(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tool.constellation\n", "cannot read .*pyproject.toml: "),
        ("[tool]\nconstellation = 3\n", "cannot use tool.constellation = 3 in .*: expected a table"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, words: str) -> None:
    """What cannot be read says which file."""
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(PluginError, match=words):
        configured(tmp_path)


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernel's words."""
    (tmp_path / "pyproject.toml").write_text("")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PluginError, match=r"cannot read .*pyproject.toml: Permission denied"):
        configured(tmp_path)


@pytest.mark.parametrize("text", ["[]", "a=b", '{"a.b": 1}'])
def test_bad_options_in_the_environment_are_named(tmp_path: Path, text: str) -> None:
    """The variable is named with its value."""
    with pytest.raises(UsageError, match=r"cannot use CONSTELLATION_PLUGIN_OPTIONS=.*: expected a JSON object"):
        configured(tmp_path, {"CONSTELLATION_PLUGIN_OPTIONS": text})
