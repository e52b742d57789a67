"""``constellation completion``: the words that a shell offers at the tab key, by click's own mechanism.

Names of nodes and deployments are asked of the bridge that stands before them on the line, if it answers within a moment; a shell
that waits is worse than one that offers nothing. Nothing is made or said by it: a credential that is not there stays so.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, get_completion_class

if TYPE_CHECKING:
    from collections.abc import Sequence

VARIABLE: Final = "_CONSTELLATION_COMPLETE"
"""By which the shell's function asks; click's name for it."""
SHELLS: Final = ("bash", "zsh", "fish")
_QUICK_S: Final = 1.0
"""For the bridge to answer, all in all."""
_BRIDGE = re.compile(r'^\s*bridge_bind\s*=\s*"([^"\n]+)"', re.MULTILINE)
_LARGEST_FILE: Final = 1 << 20


def rejoined(words: Sequence[str], at: int) -> tuple[list[str], str]:
    """Put words together again that bash has parted at colons, so that ``10.0.0.1:5001`` is one.

    Args:
        words: All of the line, the command first.
        at: Which of them is being completed; one past the last: a new one.

    Returns:
        The words between the command and that one, and that one as far as it goes.
    """
    joined: list[str] = []
    for word in words[1 : at + 1]:
        if joined and (word.startswith(":") or joined[-1].endswith(":")):
            joined[-1] += word
        else:
            joined.append(word)
    if at >= len(words):
        return joined, ""
    return joined[:-1], joined[-1] if joined else ""


class _Bash(BashComplete):
    """click's own, for words with colons."""

    name = "bash"

    def get_completion_args(self) -> tuple[list[str], str]:
        words = [each for each in os.environ["COMP_WORDS"].split("\n") if each]
        return rejoined(words, int(os.environ["COMP_CWORD"]))

    def complete(self) -> str:
        args, incomplete = self.get_completion_args()
        # What stands before the last colon is a word of its own to bash, and stays on the line.
        kept = incomplete.rpartition(":")[0] + ":" if ":" in incomplete else ""
        lines = []
        for item in self.get_completions(args, incomplete):
            item.value = str(item.value).removeprefix(kept)
            lines.append(self.format_completion(item))
        return "\n".join(lines)


def prepare() -> None:
    """Have our own class used for bash; needed only where a shell asks."""
    add_completion_class(_Bash)


@click.command()
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@click.pass_context
def completion(context: click.Context, *, shell: str | None) -> None:
    """Print what makes SHELL complete commands, options, files, and the names of nodes and deployments.

    SHELL is the one in the variable SHELL where it is not given. Evaluate it in the shell's start-up file:

    \b
        bash, in ~/.bashrc:                    eval "$(constellation completion bash)"
        zsh, in ~/.zshrc, after compinit:      eval "$(constellation completion zsh)"
        fish:    constellation completion fish > ~/.config/fish/completions/constellation.fish

    \b
    Example:
        constellation completion bash

    Exit codes: 0 printed, 2 wrong use.
    """  # noqa: D301  # the mark is click's
    found = shell or os.path.basename(os.environ.get("SHELL", ""))
    if found not in SHELLS:
        context.fail(
            f"no completion for the shell {found!r}: expected {', '.join(SHELLS)}, such as constellation completion bash"
        )
    prepare()
    made = get_completion_class(found)
    assert made is not None  # click has all three
    click.echo(made(context.find_root().command, {}, "constellation", VARIABLE).source())


# What is offered for arguments


def files(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Files, as the shell knows them."""
    return [CompletionItem(incomplete, type="file")]


def bridges(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The bridges that a nodes.toml in this folder names."""
    try:
        with open("nodes.toml", encoding="utf-8", errors="replace") as file:
            text = file.read(_LARGEST_FILE)
    except OSError:
        return []
    return [CompletionItem(each) for each in dict.fromkeys(_BRIDGE.findall(text)) if each.startswith(incomplete)]


def bridges_or_files(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """One of both: where no bridge begins so, files."""
    return bridges(context, parameter, incomplete) or files(context, parameter, incomplete)


def deployments(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The deployments of this user that run behind the bridge on the line."""
    found = {str(row[0]): str(row[1]) for row in _ask(context, "ps")}
    return [CompletionItem(name, help=program) for name, program in found.items() if name.startswith(incomplete)]


def nodes(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The nodes behind the bridge on the line."""
    found = {str(row[0]): str(row[2]) for row in _ask(context, "nodes")}
    return [CompletionItem(name, help=state) for name, state in found.items() if name.startswith(incomplete)]


def plugins(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The plugins that are installed."""
    from constellation.core.finding import DEFAULT_NAMES, scan

    return [CompletionItem(name) for name in sorted({*scan(), *DEFAULT_NAMES}) if name.startswith(incomplete)]


def _ask(context: click.Context, kind: str) -> list[list[Any]]:
    """Ask the bridge on the line; nothing where it does not answer at once."""
    from constellation.core.address import parse_address
    from constellation.core.errors import ConstellationError
    from constellation.fabric.client import Questioner
    from constellation.fabric.credential import DEPLOYER_FILE, DeployerCredential, default_folder
    from constellation.fabric.loop import Loop

    try:
        path = context.params.get("credential") or os.path.join(default_folder(), DEPLOYER_FILE)
        address = parse_address(str(context.params.get("bridge") or ""))
        if address.url:  # a plugin's import and its own time limits are no matter of a moment
            return []
        return Questioner(Loop(), address, DeployerCredential.read(path)).ask(kind, within_s=_QUICK_S)
    except ConstellationError:
        return []
