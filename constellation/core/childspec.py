"""What a supervisor is told: its children and its flags, as data that is checked field by field.

Source: check_childspecs of lib/stdlib/src/supervisor.erl, OTP 27.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from constellation.core.errors import UsageError
from constellation.core.resources import Resources
from constellation.core.settings import GRACE, LARGEST_NAME

Restart: TypeAlias = Literal["permanent", "transient", "temporary"]
Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]
AutoShutdown: TypeAlias = Literal["never", "any_significant", "all_significant"]

LONGEST_GRACE = 1e9
"""Seconds; above this no time is meant."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What a supervisor starts, and what it does when that ends. Immutable; each field is checked.

    Args:
        id: What the child is called in its supervisor.
        start: The function that its process calls; ``async def`` is fine. For a supervisor below this one its `run`.
        args: Arguments of ``start``.
        kwargs: Keyword arguments of ``start``.
        restart: "permanent": always restarted. "transient": restarted when it ends badly, which is every end but exit
            code 0 and that by SIGTERM. "temporary": never restarted, and forgotten when it ends.
        shutdown: Seconds between asking it to end and killing it; 0 kills at once, None waits as long as it takes,
            which is right for a supervisor.
        resources: What each process of it demands.
        name: A name that each process of it registers before it calls ``start``.
        significant: Whether its end by itself can end the supervisor (``auto_shutdown``); not if it is permanent.

    Raises:
        UsageError: A field cannot be used; says which, and what was expected.
    """

    id: str
    start: Callable[..., object]
    _: KW_ONLY
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    restart: Restart = "permanent"
    shutdown: float | None = GRACE
    resources: Resources | None = None
    name: str | None = None
    significant: bool = False

    def __post_init__(self) -> None:
        _check(self.id, "id", "text of 1 to 200 characters", lambda it: isinstance(it, str) and 1 <= len(it) <= 200)
        which = f" of child {self.id!r}"
        _check(self.start, f"start{which}", "a function", callable)
        _check(self.args, f"args{which}", "a tuple of arguments", lambda it: isinstance(it, (tuple, list)))
        _check(self.kwargs, f"kwargs{which}", "a dict of keyword arguments", _is_kwargs)
        _check_word(self.restart, f"restart{which}", Restart)
        _check(
            self.shutdown,
            f"shutdown{which}",
            "seconds, not below zero, or None for as long as it takes",
            lambda it: it is None or (_is_number(it) and 0 <= it < LONGEST_GRACE),
        )
        _check(
            self.resources,
            f"resources{which}",
            "Resources(mem=..., cpu=...) or None",
            lambda it: it is None or isinstance(it, Resources),
        )
        _check(self.name, f"name{which}", f"1 to {LARGEST_NAME} bytes of text, or None", _is_name)
        _check(self.significant, f"significant{which}", "True or False", lambda it: isinstance(it, bool))
        if self.significant and self.restart == "permanent":
            raise UsageError(
                f"cannot use significant=True{which}: it is permanent, so it is restarted whenever it ends; make it "
                "transient or temporary"
            )
        object.__setattr__(self, "args", tuple(self.args))
        object.__setattr__(self, "kwargs", dict(self.kwargs))


def check_children(children: Iterable[ChildSpec], auto_shutdown: AutoShutdown) -> tuple[ChildSpec, ...]:
    """The specifications of one supervisor.

    Raises:
        UsageError: One is no ChildSpec, two have the same id or the same name, or one is significant where that means
            nothing.
    """
    try:
        specs = tuple(children)
    except TypeError as error:
        raise UsageError(f"cannot use children={children!r}: expected a list of ChildSpec") from error
    ids: set[str] = set()
    names: set[str] = set()
    for spec in specs:
        if not isinstance(spec, ChildSpec):
            raise UsageError(f"cannot supervise {spec!r}: expected ChildSpec(id, start, ...)")
        if spec.id in ids:
            raise UsageError(f"two children have the id {spec.id!r}: give each its own")
        if spec.name is not None and spec.name in names:
            raise UsageError(f"two children have the name {spec.name!r}: only one process can have it")
        if spec.significant and auto_shutdown == "never":
            raise UsageError(
                f"child {spec.id!r} is significant, and auto_shutdown is 'never': expected 'any_significant' or "
                "'all_significant'"
            )
        ids.add(spec.id)
        if spec.name is not None:
            names.add(spec.name)
    return specs


def check_flags(strategy: object, intensity: object, period: object, auto_shutdown: object) -> None:
    """Check what a supervisor is given beside its children.

    Raises:
        UsageError: One cannot be used; says which, and what was expected.
    """
    _check_word(strategy, "strategy", Strategy)
    _check_word(auto_shutdown, "auto_shutdown", AutoShutdown)
    _check(
        intensity,
        "intensity",
        "a number of restarts, not below zero",
        lambda it: isinstance(it, int) and not isinstance(it, bool) and it >= 0,
    )
    _check(period, "period", "seconds above zero", lambda it: _is_number(it) and 0 < it < LONGEST_GRACE)


def _check(value: object, what: str, expected: str, is_right: Callable[[Any], bool]) -> None:
    if not is_right(value):
        name, space, which = what.partition(" ")
        raise UsageError(f"cannot use {name}={value!r}{space}{which}: expected {expected}")


def _check_word(value: object, what: str, words: Any) -> None:
    allowed = get_args(words)
    _check(value, what, f"{', '.join(map(repr, allowed[:-1]))} or {allowed[-1]!r}", lambda it: it in allowed)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_kwargs(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _is_name(value: object) -> bool:
    if value is None:
        return True
    try:
        return isinstance(value, str) and 1 <= len(value.encode()) <= LARGEST_NAME
    except UnicodeEncodeError:
        return False
