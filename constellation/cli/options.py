"""The options that are taken both before and after a command's name, and how the two places are joined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import click

from constellation.cli import completion
from constellation.core.enabling import CHOICES

FORMATS = ("human", "json", "raw")

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Shared(NamedTuple):
    """What the shared options say; kept in ``ctx.obj`` by the group, completed by the command."""

    format: str | None = None
    """How a run's output is shown, or None where nobody has said."""
    plugins: tuple[str, ...] = ()
    """Plugins to enable, in order."""
    plugin_options: tuple[tuple[str, str], ...] = ()
    """Pairs of ``NAME.KEY`` and value; of two for one key the last counts."""

    def joined(self, later: Shared) -> Shared:
        """Add what was said after the command's name; where only one can count, that is the one."""
        return Shared(
            later.format or self.format,
            tuple(dict.fromkeys(self.plugins + later.plugins)),
            self.plugin_options + later.plugin_options,
        )


def shared_options(function: _Function) -> _Function:
    """Give a command ``--format``, ``--plugin`` and ``--plugin-option``.

    The last two are eager, because ``--help`` shows the commands of plugins.
    """
    for option in (
        click.option("--plugin-option", "plugin_options", metavar="NAME.KEY=VALUE", multiple=True, is_eager=True, callback=_read_pairs,
                     help="Give an option to a plugin; may be repeated."),
        click.option("--plugin", "plugins", metavar="NAME", multiple=True, is_eager=True, callback=_read_names,
                     shell_complete=completion.plugins,
                     help="Enable a plugin: the name of an entry point, or a module as pkg.module; may be repeated."),
        click.option("--format", "format_", type=click.Choice(FORMATS),
                     help="How output is shown: for people, one JSON event a line, or the bytes untouched."),
    ):  # fmt: skip
        function = option(function)
    return function


def choice_options(function: _Function) -> _Function:
    """Give a command ``--transport``, ``--serializer`` and ``--scheduler``."""
    for kind in CHOICES:
        function = click.option(
            f"--{kind}", metavar="NAME", help=f"Use this {kind}; needed where the enabled plugins offer several."
        )(function)
    return function


def split_pair(text: str, form: str) -> tuple[str, str]:
    """Split ``NAME=VALUE``; ``form`` is how the two are called in the error.

    Raises:
        click.BadParameter: There is no ``=``, or nothing before it.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise click.BadParameter(f"cannot read {text!r}: expected {form}")
    return name.strip(), value


def _read_names(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    # CONSTELLATION_PLUGINS, which carries them on, is separated by commas: so a comma separates here too.
    names = [name.strip() for value in values for name in value.split(",")]
    if not all(names):
        raise click.BadParameter(f"cannot use an empty name in {','.join(values)!r}: expected the name of a plugin")
    return tuple(names)


def _read_pairs(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    pairs = tuple(split_pair(value, "NAME.KEY=VALUE, such as websocket.url=wss://host") for value in values)
    for key, _ in pairs:
        name, _, option = key.rpartition(".")
        if not name or not option:
            raise click.BadParameter(f"cannot use the key {key!r}: expected NAME.KEY with the name of the plugin")
    return pairs
