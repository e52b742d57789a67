"""Child specifications: data, checked field by field."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from constellation.core.childspec import ChildSpec, check_children, check_flags
from constellation.core.errors import UsageError
from constellation.core.resources import Resources


def fn() -> None:
    """What children run, if they were run."""


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"id": ""}, "cannot use id='': expected text of 1 to 200 characters"),
        ({"id": 5}, "cannot use id=5: expected text"),
        ({"start": "fn"}, "cannot use start='fn' of child 'db': expected a function"),
        ({"args": 5}, "cannot use args=5 of child 'db': expected a tuple"),
        ({"args": "text"}, "cannot use args='text' of child 'db': expected a tuple"),
        ({"kwargs": [1]}, r"cannot use kwargs=\[1\] of child 'db': expected a dict"),
        ({"kwargs": {1: 2}}, "cannot use kwargs={1: 2} of child 'db'"),
        ({"restart": "always"}, "restart='always' of child 'db': expected 'permanent', 'transient' or 'temporary'"),
        ({"restart": None}, "cannot use restart=None of child 'db'"),
        ({"shutdown": -1}, "cannot use shutdown=-1 of child 'db': expected seconds, not below zero, or None"),
        ({"shutdown": float("nan")}, "cannot use shutdown=nan"),
        ({"shutdown": float("inf")}, "cannot use shutdown=inf"),
        ({"shutdown": True}, "cannot use shutdown=True"),
        ({"shutdown": "5"}, "cannot use shutdown='5'"),
        ({"resources": 5}, r"cannot use resources=5 of child 'db': expected Resources\(mem=..., cpu=...\) or None"),
        ({"name": ""}, "cannot use name='' of child 'db': expected 1 to 4096 bytes of text, or None"),
        ({"name": "\ud800"}, "cannot use name="),
        ({"name": 5}, "cannot use name=5"),
        ({"significant": 1, "restart": "transient"}, "cannot use significant=1 of child 'db': expected True or False"),
        ({"significant": True}, "it is permanent, so it is restarted whenever it ends"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(change: dict[str, Any], text: str) -> None:
    """With its value, and what was expected."""
    given_fields: dict[str, Any] = {"id": "db", "start": fn, **change}
    with pytest.raises(UsageError, match=text):
        ChildSpec(**given_fields)


def test_a_specification_is_data() -> None:
    """It has defaults, cannot be changed, is compared by its fields, and travels."""
    kwargs = {"n": 1}
    spec = ChildSpec("db", fn, args=[1], kwargs=kwargs, resources=Resources(mem=1), name="db")
    kwargs["n"] = 2
    assert (spec.args, spec.kwargs, spec.restart, spec.shutdown, spec.significant) == (
        (1,),
        {"n": 1},
        "permanent",
        5.0,
        False,
    )
    with pytest.raises(AttributeError):
        spec.id = "x"  # type: ignore[misc]  # that is the point
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert hash(spec) == hash(ChildSpec("db", fn, args=(1,), resources=Resources(mem=1), name="db"))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: 5, "cannot use children=5: expected a list of ChildSpec"),
        (lambda: [fn], "cannot supervise <function fn .*>: expected ChildSpec"),
        (lambda: [ChildSpec("a", fn), ChildSpec("a", fn)], "two children have the id 'a'"),
        (lambda: [ChildSpec("a", fn, name="db"), ChildSpec("b", fn, name="db")], "two children have the name 'db'"),
        (
            lambda: [ChildSpec("a", fn, restart="transient", significant=True)],
            "is significant, and auto_shutdown is 'never'",
        ),
    ],
)
def test_children_that_do_not_fit_together_are_refused(make: Callable[[], Any], text: str) -> None:
    """With the ids and names that are in the way."""
    with pytest.raises(UsageError, match=text):
        check_children(make(), "never")


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("all", 1, 5.0, "never"), "strategy='all': expected 'one_for_one', 'one_for_all' or 'rest_for_one'"),
        (("one_for_one", -1, 5.0, "never"), "intensity=-1: expected a number of restarts, not below zero"),
        (("one_for_one", 1.5, 5.0, "never"), "intensity=1.5"),
        (("one_for_one", True, 5.0, "never"), "intensity=True"),
        (("one_for_one", 1, 0, "never"), "period=0: expected seconds above zero"),
        (("one_for_one", 1, "5", "never"), "period='5'"),
        (
            ("one_for_one", 1, 5.0, "any"),
            "auto_shutdown='any': expected 'never', 'any_significant' or 'all_significant'",
        ),
        (([], 1, 5.0, "never"), r"strategy=\[\]: expected"),
    ],
)
def test_flags_that_cannot_be_used_are_named(flags: tuple[Any, ...], text: str) -> None:
    """As the fields of a child are."""
    with pytest.raises(UsageError, match=text):
        check_flags(*flags)


def test_children_that_fit_together_are_given_back() -> None:
    """In their order, from any iterable."""
    specs = [
        ChildSpec("a", fn, name="x"),
        ChildSpec("b", fn, name="y"),
        ChildSpec("c", fn, restart="temporary", significant=True),
    ]
    assert check_children(iter(specs), "any_significant") == tuple(specs)
