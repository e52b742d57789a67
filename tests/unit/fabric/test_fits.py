"""Which nodes a deployment can be on, by what they said when they joined."""

from __future__ import annotations

from typing import Any

from constellation.core.fitting import Installation, Made
from constellation.core.specification import fields_of_installation
from constellation.core.trunk import Specification
from constellation.fabric.fits import Fits, Reason

HERE = Installation("here", (3, 12, 1), 1, "0.2.0", {})
NODE = HERE._replace(title="n1", plugins={"spread": "constellation-spread 1.0"})
OLD = NODE._replace(title="n2", python=(3, 11, 7))
MADE = Made((("spread", "constellation-spread 1.0"),), (), "tcp")


def fits(client: Installation = HERE, **given: Any) -> Fits:
    """Of a program that is deployed from here."""
    fields = dict.fromkeys(Specification._fields, "")
    lists: dict[str, Any] = {
        name: [] for name in ("program", "search", "environment", "manifest", "plugins", "options", "settings")
    }
    made = {**fields, **lists, "is_forced": False, "client": fields_of_installation(client), **given}
    return Fits(Specification(**made), "prog.py")


def test_without_a_statement_a_node_has_the_python_that_is_deployed_from() -> None:
    """The minor version counts."""
    assert fits().judge(NODE) is None
    reason = fits().judge(OLD)
    assert reason is not None
    assert (reason.title, reason.brief) == ("n2", "Python: 3.11.7, here: 3.12.1")
    assert "on n2: start the node with Python 3.12" in reason.text


def test_what_is_stated_counts_in_its_place_and_force_lets_any_in() -> None:
    """`requires-python`, and `--env-of-node`."""
    assert fits(python=">=3.11").judge(OLD) is None
    assert fits(python=">=3.12").judge(OLD) is not None
    assert fits(is_forced=True).judge(OLD) is None
    assert fits(is_forced=True, python=">=3.12").judge(OLD) is None


def test_from_its_init_on_nodes_must_be_like_the_first() -> None:
    """Whatever is stated; and have the plugins that the program names."""
    made = fits(python=">=3.11")
    made.reached(NODE, MADE)
    assert made.judge(NODE) is None
    assert made.judge(OLD) is not None
    lacking = made.judge(NODE._replace(title="n3", plugins={}))
    assert lacking is not None
    assert "on n3: pip install constellation-spread==1.0" in lacking.text


def test_a_plugin_that_is_deployed_with_is_on_each_node() -> None:
    """Defaults and modules are no matter of what is installed."""
    client = HERE._replace(plugins={"spread": "constellation-spread 1.0", "pickle": "", "prog.mine": ""})
    made = fits(client, plugins=["spread", "pickle", "prog.mine"])
    assert made.judge(NODE) is None
    assert made.judge(NODE._replace(plugins={})) is not None


def test_a_plugin_that_a_node_was_found_to_lack_is_looked_for_on_all() -> None:
    """With the version that some node has, where one is known."""
    made = fits()
    made.wants(["spread", "other"], [NODE])
    reason = made.judge(NODE._replace(title="n4", plugins={}))
    assert reason is not None
    assert "on n4: pip install constellation-spread==1.0 constellation-other; then start the node again" in reason.text
    assert "plugin other" in reason.text


def test_a_refusal_has_the_tables_of_what_is_left_out() -> None:
    """Some of them; where every node is left out, nothing else."""
    made = fits()
    assert made.explained("cannot place it", {1, 2}) == "cannot place it"
    for number in range(1, 7):
        made.left_out[number] = Reason(f"n{number}", f"table {number}", "brief")
    assert made.explained("cannot place it", set(range(1, 9))).splitlines() == [
        "cannot place it", "table 1", "table 2", "table 3", "table 4", "and 2 more nodes do not fit it",
    ]  # fmt: skip
    assert made.explained("cannot place it", {1, 2}).startswith("table 1")
    assert made.in_a_line().startswith("n1 (brief); n2 (brief)")
    made.left_out.update({number: Reason(f"n{number}", "", "b") for number in range(7, 12)})
    assert made.in_a_line().endswith("n8 (b) and 3 more")
