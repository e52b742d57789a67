"""Whether a program fits a node, and what is said when it does not."""

from __future__ import annotations

import pytest

from constellation.core.fitting import Installation, Lack, Made, alike, fit, same_program

HERE = Installation("here", (3, 12, 1), 3, "0.2.0", {"spread": "constellation-spread 1.0"})
NODE = HERE._replace(title="n1")


def test_equal_sides_fit() -> None:
    """Without a word."""
    found = fit(HERE, NODE, plugins=["spread"])
    assert (found.fits, found.notes, found.commands) == (True, (), ())


def test_patch_levels_may_differ_and_that_is_noted() -> None:
    """Of Python, of constellation and of plugins."""
    node = NODE._replace(python=(3, 12, 9), constellation="0.2.1", plugins={"spread": "constellation-spread 1.1"})
    found = fit(HERE, node, plugins=["spread"])
    assert found.fits
    assert found.notes == (
        "Python is 3.12.1 here and 3.12.9 on n1",
        "constellation is 0.2.0 here and 0.2.1 on n1",
        "plugin spread is constellation-spread 1.0 here and constellation-spread 1.1 on n1",
    )


def test_another_wire_version_is_refused_with_the_command_for_the_older_side() -> None:
    """The table has a column for each side."""
    old = NODE._replace(wire=2, constellation="0.1.0")
    found = fit(HERE, old)
    assert not found.fits
    assert found.refusal("prog.py").splitlines() == [
        "cannot run prog.py on n1: it does not fit",
        "                here                     n1",
        "  wire version  3 (constellation 0.2.0)  2 (constellation 0.1.0)",
        "to mend it:",
        "  on n1: pip install constellation==0.2.0",
    ]
    assert fit(HERE._replace(wire=2, constellation="0.1.0"), NODE).commands == (
        "here: pip install constellation==0.2.0",
    )


def test_another_minor_version_of_python_is_refused_unless_the_program_states_what_it_needs() -> None:
    """What it was tried with is all that is known of it; what it states is more."""
    node = NODE._replace(python=(3, 11, 7))
    found = fit(HERE, node)
    assert not found.fits
    assert "  Python  3.12.1  3.11.7" in found.refusal("prog.py").splitlines()
    assert found.commands == (
        'on n1: start the node with Python 3.12; or state in the program what it needs, such as requires-python = ">=3.11"',
    )
    stated = fit(HERE, node, python=">=3.11")
    assert stated.fits
    assert stated.notes == ("Python is 3.12.1 here and 3.11.7 on n1",)


def test_a_python_that_is_stated_and_not_there_is_refused() -> None:
    """The table says what is stated, and not what is here."""
    found = fit(HERE, NODE, python=">=3.13", lacks=[Lack("Python >=3.13", "3.12.1")])
    assert not found.fits
    assert found.refusal("p").splitlines()[2:] == [
        "  Python  >=3.13  3.12.1",
        "to mend it:",
        "  on n1: start the node with a Python that is >=3.13",
    ]


def test_plugins_and_packages_that_the_node_lacks_are_named_with_what_installs_them() -> None:
    """Each in a row of its own."""
    found = fit(
        HERE,
        NODE._replace(plugins={}),
        plugins=["spread", "mine"],
        lacks=[Lack("constellation>=0.3", "0.2.0")],
    )
    assert found.refusal("p").splitlines()[1:] == [
        "                 here                      n1",
        "  plugin spread  constellation-spread 1.0  not installed",
        "  plugin mine    enabled                   not installed",
        "  package        constellation>=0.3        0.2.0",
        "to mend it:",
        "  on n1: pip install constellation-spread constellation-mine; then start the node again",
        "  on n1: pip install 'constellation>=0.3'; then start the node again",
    ]


def test_two_nodes_of_a_deployment_must_have_the_same_minor_version() -> None:
    """Functions travel between them as code, whatever the program states."""
    second = NODE._replace(title="n2", python=(3, 12, 7))
    assert alike(NODE, second).fits
    found = alike(NODE, second._replace(python=(3, 13, 0), wire=4, constellation="0.3.0"))
    assert [row.what for row in found.rows if row.is_wrong] == ["wire version", "Python"]
    assert found.commands[0] == "on n1: pip install constellation==0.3.0"


def test_what_is_lacking_is_said_with_what_is_there() -> None:
    """For the log of a node."""
    assert str(Lack("numpy>=2", "1.26")) == "numpy>=2 (1.26)"


PROGRAM = Made((("spread", "constellation-spread 1.0"),), (("numpy", "1.26"),), "tcp")


def test_two_nodes_of_a_deployment_must_have_its_plugins_in_one_version() -> None:
    """Both ends of a link run them; a module of the program's own travels with it, and a default is everywhere."""
    other = NODE._replace(title="n2")
    assert alike(NODE, other, ["spread", "pickle", "prog.mine"]).fits
    found = alike(NODE, other._replace(plugins={"spread": "constellation-spread 2.0"}), ["spread"])
    assert found.brief == "plugin spread: constellation-spread 2.0, n1: constellation-spread 1.0"
    assert found.commands == ("on n2: pip install constellation-spread==1.0; then start the node again",)
    assert alike(NODE, other._replace(plugins={}), ["spread"]).brief.startswith("plugin spread: not installed")


def test_the_same_program_on_two_nodes() -> None:
    """Without a word; a package in another version is noted."""
    assert same_program("n1", PROGRAM, "n2", PROGRAM) == ("", ())
    other = PROGRAM._replace(packages=(("numpy", "2.0"), ("more", "1")))
    assert same_program("n1", PROGRAM, "n2", other) == ("", ("numpy is 1.26 on n1 and 2.0 on n2",))


@pytest.mark.parametrize(
    ("made", "row", "command"),
    [
        (
            PROGRAM._replace(plugins=(("spread", "constellation-spread 2.0"),)),
            "plugin spread  constellation-spread 1.0  constellation-spread 2.0",
            "on n2: pip install constellation-spread==1.0; then start the node again",
        ),
        (PROGRAM._replace(plugins=()), "plugin spread  constellation-spread 1.0  not enabled", "on n2: pip install"),
        (
            PROGRAM._replace(plugins=(*PROGRAM.plugins, ("more", ""))),
            "plugin more  not enabled  a module",
            "have the program name the same plugins everywhere",
        ),
        (PROGRAM._replace(transport="slow"), "transport  tcp  slow", "have the program choose the same transport"),
    ],
)
def test_another_program_under_the_same_name_is_refused(made: Made, row: str, command: str) -> None:
    """Because a plugin is another, or the program decides by where it runs."""
    wrong, _ = same_program("n1", PROGRAM, "n2", made)
    assert row in wrong
    assert command in wrong


def test_what_a_program_is_travels_and_is_checked() -> None:
    """As plain values, out of a process of the program."""
    assert Made.from_fields(PROGRAM.to_fields()) == PROGRAM
    for fields in ([], [1, 2, 3], [[["a"]], [], ""], [[], [], "", ""]):
        with pytest.raises(ValueError, match="not what a program is"):
            Made.from_fields(fields)
