"""Options of plugins: what a plugin declares, and how what was given becomes values of the declared types.

A plugin lists its options in the hook `register_options`. Texts come from ``--plugin-option`` and from
CONSTELLATION_PLUGIN_OPTIONS, texts, numbers and booleans from ``[tool.constellation.NAME]`` in pyproject.toml. What was not
declared is refused, with the near name; so a plugin never reads a text and never meets a slip of the pen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from constellation.core.errors import PluginError

TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"0", "false", "no", "off"})


class Option(NamedTuple):
    """One option of a plugin, as the plugin declares it.

    An example: ``Option("idle_s", float, 30.0, "Seconds without traffic after which a ping is sent.")``
    """

    name: str
    """A Python identifier: what stands behind the dot in ``--plugin-option PLUGIN.NAME=VALUE``."""
    type: type[str] | type[int] | type[float] | type[bool] = str
    """``str``, ``int``, ``float`` or ``bool``; a bool is given as true, false, yes, no, on, off, 1 or 0."""
    default: str | int | float | bool | None = None
    """What the plugin gets where nothing was given: a value of the type, or None."""
    help: str = ""
    """One sentence for ``constellation plugins --options``."""
    choices: tuple[str | int | float, ...] = ()
    """The values that are allowed; empty: all of the type."""


def check_declared(plugin: str, declared: object) -> tuple[Option, ...]:
    """Hold what a plugin declares against the rules.

    Args:
        plugin: Its name.
        declared: What its `register_options` returned.

    Raises:
        PluginError: It is no list of options, or one of them cannot be; says which, and what was expected.
    """
    if not isinstance(declared, (list, tuple)) or not all(isinstance(option, Option) for option in declared):
        raise PluginError(
            f"plugin {plugin!r} returned {declared!r:.100} from register_options: expected a list of "
            'constellation.plugin.Option, such as [Option("url", str, "", "Where to dial.")]'
        )
    seen: set[str] = set()
    for option in declared:
        head = f"plugin {plugin!r} declares the option {option.name!r}"
        if not isinstance(option.name, str) or not option.name.isidentifier():
            raise PluginError(f"{head}: expected a name that is an identifier, such as 'idle_s'")
        if option.name in seen:
            raise PluginError(f"{head} twice: expected each name once")
        seen.add(option.name)
        if option.type not in {str, int, float, bool}:
            raise PluginError(f"{head} with the type {option.type!r}: expected str, int, float or bool")
        for value in (option.default, *option.choices):
            if value is not None and not _is_of(option.type, value):
                raise PluginError(
                    f"{head} as {option.type.__name__} with the value {value!r}: expected one of its type"
                )
        if option.choices and option.default is not None and option.default not in option.choices:
            raise PluginError(f"{head} with the default {option.default!r}: expected one of {_listed(option.choices)}")
    return tuple(declared)


def read(plugin: str, declared: Sequence[Option], given: Mapping[str, object]) -> dict[str, Any]:
    """Give the value of every declared option.

    Args:
        plugin: The plugin's name.
        declared: Its options.
        given: What was given for this plugin, by the option's name: texts, or values as TOML has them.

    Raises:
        PluginError: An option is not declared (with the near name), or its value is not of its type.
    """
    known = {option.name: option for option in declared}
    for name in given:
        if name not in known:
            raise PluginError(f"no option {name!r} of plugin {plugin!r}{_hint(name, list(known))}")
    return {
        name: _value(plugin, option, given[name]) if name in given else option.default for name, option in known.items()
    }


def _hint(name: str, known: list[str]) -> str:
    if not known:
        return ": it takes none"
    import difflib  # late: for an error only

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f": did you mean {near[0]!r}?" if near else f": it takes {', '.join(sorted(known))}"


def _value(plugin: str, option: Option, given: object) -> Any:
    value = _parse(option.type, given) if isinstance(given, str) else given
    if value is not None and option.type is float and type(value) is int:
        value = float(value)
    if value is None or not _is_of(option.type, value):
        raise PluginError(f"cannot use {plugin}.{option.name}={given!r}: expected {_expected(option)}")
    if option.choices and value not in option.choices:
        raise PluginError(f"cannot use {plugin}.{option.name}={given!r}: expected one of {_listed(option.choices)}")
    return value


def _parse(kind: type, text: str) -> object:
    """Read a text as a value of a type; None where it is none."""
    if kind is bool:
        word = text.strip().lower()
        return True if word in TRUE else False if word in FALSE else None
    try:
        return kind(text)
    except ValueError:
        return None


def _is_of(kind: type, value: object) -> bool:
    return type(value) is kind or (kind is float and type(value) is int)


def _expected(option: Option) -> str:
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[option.type]
    return f"{words}, such as {_shown(option.default)}" if option.default not in {None, ""} else words


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _listed(choices: Sequence[object]) -> str:
    return ", ".join(map(repr, choices))
