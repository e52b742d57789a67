"""What `--help` says: of every command an example whose words are right, and the exit codes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from constellation.cli.main import cli


def commands(group: click.Group, name: str = "constellation") -> Iterator[tuple[str, click.Command]]:
    """All commands, groups too, by what is typed."""
    yield name, group
    for word, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


ALL = dict(commands(cli))


def help_of(name: str) -> str:
    """What is printed."""
    done = CliRunner().invoke(cli, [*name.split()[1:], "--help"], prog_name="constellation", terminal_width=200)
    assert done.exit_code == 0, done.output
    return done.output


def examples_of(name: str) -> list[str]:
    """The command lines under "Example:"."""
    text = help_of(name)
    found = re.search(r"\n  Examples?:\n(.*?)\n\n", text, re.DOTALL)
    assert found is not None, text
    below = found[1]
    return [line.strip() for line in below.splitlines() if line.strip()]


@pytest.mark.parametrize("name", ALL)
def test_help_has_an_example_of_the_command_itself(name: str) -> None:
    """At least one line begins with what is typed for it."""
    assert any(line.startswith(f"{name} ") or line == name for line in examples_of(name))


@pytest.mark.parametrize("name", ALL)
def test_help_has_the_exit_codes(name: str) -> None:
    """2 is wrong use everywhere; who asks a bridge says what 3 is."""
    said = " ".join(help_of(name).partition("Exit codes:")[2].split("Options:")[0].split())
    assert re.search(r"\b2 wrong use", said), said
    if any(parameter.name == "bridge" and isinstance(parameter, click.Argument) for parameter in ALL[name].params):
        assert re.search(r"\b3 (the )?bridge", said), said


@pytest.mark.parametrize("name", ALL)
def test_examples_are_command_lines_that_are_understood(name: str) -> None:
    """Every option is there and takes what is given; nothing is run."""
    for line in examples_of(name):
        words = shlex.split(line)
        if words[0] != "constellation":
            assert words[0] == "scp", line
            continue
        words = words[1:]
        context: click.Context = cli.make_context("constellation", list(words))
        while isinstance(context.command, click.Group) and (rest := [*context._protected_args, *context.args]):
            word, command, rest = context.command.resolve_command(context, rest)
            assert command is not None, line
            context = command.make_context(word, rest, parent=context)


def test_every_word_of_help_fits_a_terminal() -> None:
    """Blocks that click does not wrap are no wider than 100 columns."""
    for name in ALL:
        done = CliRunner().invoke(cli, [*name.split()[1:], "--help"], prog_name="constellation", terminal_width=100)
        assert [line for line in done.output.splitlines() if len(line) > 100] == [], name
