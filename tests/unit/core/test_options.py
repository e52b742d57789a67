"""Options of plugins: what may be declared, and how what was given becomes values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core.errors import PluginError
from constellation.core.options import Option, check_declared, read

DECLARED = (
    Option("url", str, "", "Where."),
    Option("count", int, 3),
    Option("seconds", float, 1.5),
    Option("loud", bool, False),
    Option("order", str, "most", choices=("most", "least")),
    Option("optional", int),
)


def test_nothing_given_gives_the_defaults() -> None:
    """Every option has a value."""
    expected = {"url": "", "count": 3, "seconds": 1.5, "loud": False, "order": "most", "optional": None}
    assert read("p", DECLARED, {}) == expected


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("url", "wss://host", "wss://host"),
        ("url", "", ""),
        ("url", "12", "12"),
        ("count", "-4", -4),
        ("count", 4, 4),
        ("seconds", "2", 2.0),
        ("seconds", 2, 2.0),
        ("seconds", "1e-3", 0.001),
        ("loud", "Yes", True),
        ("loud", "off", False),
        ("loud", True, True),
        ("order", "least", "least"),
        ("optional", "0", 0),
    ],
)
def test_a_value_has_the_declared_type(name: str, text: object, value: object) -> None:
    """Texts are read, values of TOML are taken."""
    found = read("p", DECLARED, {name: text})[name]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "given_value", "text"),
    [
        ("urll", "x", "no option 'urll' of plugin 'p': did you mean 'url'?"),
        ("xyz", "x", "no option 'xyz' of plugin 'p': it takes count, loud, optional, order, seconds, url"),
        ("count", "many", "cannot use p.count='many': expected a whole number, such as 3"),
        ("count", 1.5, "cannot use p.count=1.5: expected a whole number"),
        ("count", True, "cannot use p.count=True: expected a whole number"),
        ("seconds", "soon", "cannot use p.seconds='soon': expected a number, such as 1.5"),
        ("loud", "loud", "cannot use p.loud='loud': expected true or false, such as false"),
        ("loud", 1, "cannot use p.loud=1: expected true or false"),
        ("url", 12, "cannot use p.url=12: expected text"),
        ("url", ["a"], "cannot use p.url=['a']: expected text"),
        ("order", "middle", "cannot use p.order='middle': expected one of 'most', 'least'"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, given_value: object, text: str) -> None:
    """The message has the option, the value, and what was expected."""
    with pytest.raises(PluginError) as caught:
        read("p", DECLARED, {name: given_value})
    assert text in str(caught.value)


def test_a_plugin_without_options_takes_none() -> None:
    """There is no near name then."""
    with pytest.raises(PluginError, match="no option 'url' of plugin 'p': it takes none"):
        read("p", (), {"url": "x"})


@given(st.text(), st.sampled_from(["url", "count", "seconds", "loud", "order", "optional"]))
def test_any_text_is_read_or_refused(text: str, name: str) -> None:
    """Whatever a user writes, it is a value of the type or a PluginError."""
    try:
        value = read("p", DECLARED, {name: text})[name]
    except PluginError:
        return
    declared = next(option for option in DECLARED if option.name == name)
    assert type(value) is declared.type


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        (None, "returned None from register_options: expected a list"),
        (["url"], "expected a list of constellation.plugin.Option"),
        ([Option("two words")], "declares the option 'two words': expected a name that is an identifier"),
        ([Option("url"), Option("url")], "declares the option 'url' twice"),
        ([Option("url", list)], "with the type <class 'list'>: expected str, int, float or bool"),  # type: ignore[arg-type]
        ([Option("count", int, "3")], "as int with the value '3': expected one of its type"),
        ([Option("order", str, "a", choices=("b",))], "with the default 'a': expected one of 'b'"),
        ([Option("order", str, "a", choices=("a", 1))], "as str with the value 1: expected one of its type"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(declared: Any, text: str) -> None:
    """The plugin is named, for its author."""
    with pytest.raises(PluginError, match=r"^plugin 'p' ") as caught:
        check_declared("p", declared)
    assert text in str(caught.value)


def test_a_right_declaration_is_taken() -> None:
    """A list or a tuple; a whole number as the default of a float."""
    assert check_declared("p", list(DECLARED)) == DECLARED
    assert check_declared("p", (Option("seconds", float, 2),))[0].default == 2
