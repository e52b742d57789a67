"""What a shell is offered: words that bash has parted, commands, options, files, bridges; nothing is made or said by it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.shell_completion import CompletionItem, get_completion_class
from click.testing import CliRunner

from constellation.cli import completion
from constellation.cli.main import cli


def offered(*words: str) -> list[CompletionItem[str]]:
    """What is offered for the last word."""
    completion.prepare()
    made = get_completion_class("bash")
    assert made is not None
    return made(cli, {}, "constellation", completion.VARIABLE).get_completions(list(words[:-1]), words[-1])


def values(*words: str) -> list[str]:
    """The same as plain words."""
    return [str(item.value) for item in offered(*words)]


@pytest.mark.parametrize(
    ("words", "at", "expected"),
    [
        (["constellation", "ps", "10.0.0.1", ":", "5001"], 4, (["ps"], "10.0.0.1:5001")),
        (["constellation", "kill", "10.0.0.1", ":", "5001", "3f"], 5, (["kill", "10.0.0.1:5001"], "3f")),
        (["constellation", "kill", "10.0.0.1", ":", "5001"], 5, (["kill", "10.0.0.1:5001"], "")),
        (["constellation", "ps", "10.0.0.1", ":"], 3, (["ps"], "10.0.0.1:")),
        (["constellation", "ps", "[", "::", "1", "]:", "50"], 2, (["ps"], "[")),
        (["constellation", "p"], 1, ([], "p")),
        (["constellation"], 1, ([], "")),
        (["constellation", "ps", "--credential", "x"], 1, ([], "ps")),
    ],
)
def test_words_that_bash_has_parted_at_colons_are_one(
    words: list[str], at: int, expected: tuple[list[str], str]
) -> None:
    """And what stands behind the cursor is nobody's."""
    assert completion.rejoined(words, at) == expected


def test_commands_and_options_are_offered() -> None:
    """Also of a command in a group, and choices of an option."""
    assert values("do") == ["doctor"]
    assert values("plugins", "n") == ["new"]
    assert values("run", "--tran") == ["--transport"]
    assert values("run", "--format", "r") == ["raw"]
    assert values("completion", "") == ["bash", "zsh", "fish"]
    assert "msgpack" in values("run", "--plugin", "m")


def test_what_is_no_command_offers_nothing_and_raises_nothing() -> None:
    """A shell would print the traceback into the line that is being typed."""
    assert values("no-such-command", "x") == []


def test_files_are_left_to_the_shell() -> None:
    """It knows them best."""
    assert [item.type for item in offered("run", "pr")] == ["file"]
    assert [item.type for item in offered("deploy", "10.0.0.1:1", "pr")] == ["file"]
    assert [item.type for item in offered("ps", "--credential", "x")] == ["file"]


def test_bridges_come_from_the_file_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nodes.toml names them."""
    monkeypatch.chdir(tmp_path)
    assert values("ps", "") == []
    assert [item.type for item in offered("doctor", "")] == ["file"]
    (tmp_path / "nodes.toml").write_text(
        '[[nodes]]\nfabric_addr = "10.0.0.1:5000"\nbridge_bind = "10.0.0.1:5001"\n# bridge_bind = "no"\n'
    )
    assert values("ps", "") == ["10.0.0.1:5001"]
    assert values("ps", "10.0.0.2") == []
    assert values("doctor", "10") == ["10.0.0.1:5001"]


def test_without_a_shell_that_is_known_it_is_wrong_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable SHELL says which, where none is given."""
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    done = CliRunner().invoke(cli, ["completion"], prog_name="constellation")
    assert done.exit_code == 2
    assert "no completion for the shell 'tcsh'" in done.output
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    done = CliRunner().invoke(cli, ["completion"], prog_name="constellation")
    assert done.exit_code == 0
    assert "complete --no-files --command constellation" in done.output
