"""The lines of the keys of a TOML text."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from constellation.core.tomllines import Place, lines_of

MANY_FORMS = '''\
# a comment with [[brackets]] and "quotes"
top = "a # no comment"
[[nodes]]          # 3
fabric_addr = 'literal " quote'   # 4
text = """
[[nodes]]
x = 1 \\""" still """""
after.dotted."quoted \\u0041".end = 9  # 8
[[nodes]]
list = [ 1, # one
  [2, "]"], {a = "}", b = [3]},
  # none
  4,
]
labels = {rack = "a", "b c" = \'\'\'d\'\'\'}
[nodes.sub]
\tkey\t=\t1979-05-27 07:32:00
[other]
empty = ""
none = []
nothing = {}
last = 1_000'''


def places(value: object, place: Place = ()) -> Iterator[Place]:
    """Every place in what tomllib gives."""
    if place:
        yield place
    items: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for step, inner in items:
        yield from places(inner, (*place, step))


def test_every_key_of_a_text_of_many_forms_has_its_line() -> None:
    """Comments, strings of all kinds, dotted and quoted keys, arrays and inline tables do not lead astray."""
    lines = lines_of(MANY_FORMS)
    assert set(lines) == set(places(tomllib.loads(MANY_FORMS)))
    assert lines["top",] == 2
    assert lines["nodes", 0] == 3
    assert lines["nodes", 0, "fabric_addr"] == 4
    assert lines["nodes", 0, "text"] == 5
    assert lines["nodes", 0, "after", "dotted", "quoted A", "end"] == 8
    assert lines["nodes", 1] == 9
    assert lines["nodes", 1, "list", 1, 1] == 11
    assert lines["nodes", 1, "list", 2, "b"] == 11
    assert lines["nodes", 1, "list", 3] == 13
    assert lines["nodes", 1, "labels", "b c"] == 15
    assert lines["nodes", 1, "sub"] == 16
    assert lines["nodes", 1, "sub", "key"] == 17
    assert lines["other", "last"] == 22


def test_lines_are_counted_over_both_kinds_of_line_end() -> None:
    """A file saved under Windows has the same lines."""
    text = 'a = 1\n[[b]]\nc = """x\ny"""\n[[b]]\nd = 2\n'
    assert lines_of(text.replace("\n", "\r\n")) == lines_of(text)


VALUES = st.sampled_from(
    [
        "1",
        "-0.5e3",
        "true",
        "inf",
        '""',
        "''",
        '"#[=]{,}"',
        "'#[=]{,}\\'",
        '"\\\\\\""',
        "07:32:00",
        '"""\n#x\n"""',
        "'''\n\"\n'''",
    ]
)
KEYS = st.sampled_from(["a", "b-c", "0", '"q.u # o"', "'l\\i'", "d . e", '"\\u00e9"', "f.g.h"])
BLANKS = st.sampled_from(["", "", " ", "\t", "\n", "# ]}\n", " \n # '''\n"])
INLINE = st.recursive(
    VALUES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda each: "[" + ", ".join(each) + "]"),
        st.tuples(st.lists(inner, max_size=3), BLANKS, BLANKS).map(
            lambda each: "[" + each[1] + ("," + each[2]).join(each[0]) + each[2] + "]"
        ),
        st.lists(inner.filter(lambda text: "\n" not in text), max_size=3).map(
            lambda each: "{" + ", ".join(f"k{number} = {value}" for number, value in enumerate(each)) + "}"
        ),
    ),
    max_leaves=6,
)


@given(
    st.lists(
        st.tuples(st.sampled_from(["[[n]]", "[[n.m]]", "[t{}]", "[n.s{}]"]), st.lists(st.tuples(KEYS, INLINE, BLANKS))),
        max_size=5,
    )
)
def test_places_are_those_of_tomllib_whatever_the_text_is(blocks: list[tuple[str, list[tuple[str, str, str]]]]) -> None:
    """What tomllib reads has a line for every place, and each key of a table stands on its line."""
    text = "[[n]]\n"
    for number, (header, pairs) in enumerate(blocks):
        text += header.format(number) + " # header\n"
        seen: set[str] = set()
        for key, value, blank in pairs:
            if key not in seen:
                seen.add(key)
                text += f"{blank}{key} = {value} # '\n"
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = lines_of(text)
    assert set(lines) == set(places(tables))
    every = text.split("\n")
    for place, line in lines.items():
        if place[-1] in {"a", "b-c", "f", "d"}:
            assert str(place[-1]) in every[line - 1]
