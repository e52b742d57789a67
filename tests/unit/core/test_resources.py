"""Resources: reading, exact arithmetic, comparison by fit."""

from __future__ import annotations

import math
import operator
import pickle
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core.errors import UsageError
from constellation.core.resources import (
    DEFAULT_CPU,
    DEFAULT_MEM,
    LARGEST_AMOUNT,
    LARGEST_MEM,
    Resources,
    format_amount,
    format_mem,
    parse_amount,
    parse_mem,
)

amounts = st.integers(0, 10**7)
customs = st.dictionaries(st.sampled_from(["gpu", "tpu", "disk"]), amounts).map(lambda each: tuple(each.items()))
resources = st.builds(Resources.exact, amounts, amounts, customs)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (0, 0),
        (1234, 1234),
        (0.5, 1),
        (2.4, 2),
        ("0", 0),
        ("100", 100),
        ("100 B", 100),
        ("20 MiB", 20 << 20),
        ("20MiB", 20 << 20),
        ("20m", 20 << 20),
        (" 1.5 gib ", 3 << 29),
        ("1 GB", 10**9),
        ("2kb", 2000),
        ("1 TiB", 1 << 40),
        ("3 PB", 3 * 10**15),
        (LARGEST_MEM, LARGEST_MEM),
    ],
)
def test_mem_is_read(value: float | str, size: int) -> None:
    """Bytes, or text with a unit, in either case of letters."""
    assert parse_mem(value) == Resources(value).mem == size


@pytest.mark.parametrize(
    "value",
    [
        -1,
        -0.5,
        math.nan,
        math.inf,
        10**400,
        LARGEST_MEM + 1,
        True,
        None,
        [1],
        b"1 MiB",
        "",
        "MiB",
        "-1 MiB",
        "10 GB of ram",
        "1e3",
        "1 XB",
        "NaN",
        "9" * 5000,
        "9" * 19 + " PiB",
        "\u0661 MiB",
    ],
)
def test_mem_that_cannot_be_meant_is_refused(value: Any) -> None:
    """With the value and what was expected."""
    with pytest.raises(UsageError, match=r"mem=.*expected"):
        Resources(mem=value)


@pytest.mark.parametrize(
    "value", [-1, -1e-9, math.nan, math.inf, -math.inf, 10**400, LARGEST_AMOUNT + 1, True, "1", None]
)
def test_amount_that_cannot_be_meant_is_refused(value: Any) -> None:
    """For cores and custom ones, with the name."""
    with pytest.raises(UsageError, match="cpu="):
        Resources(cpu=value)
    with pytest.raises(UsageError, match="gpu="):
        Resources(gpu=value)


@pytest.mark.parametrize("name", ["", "g pu", "1gpu", "gpu\n", "gpü"])
def test_name_that_cannot_be_meant_is_refused(name: str) -> None:
    """Names appear in messages and options."""
    with pytest.raises(UsageError, match="cannot use a resource named"):
        Resources(**{name: 1})


def test_defaults_are_those_of_the_original() -> None:
    """100 MiB and a sixteenth of a core."""
    assert Resources() == Resources(DEFAULT_MEM, DEFAULT_CPU) == Resources("100 MiB", 0.0625)


@given(st.floats(0, 1000))
def test_amounts_are_rounded_to_millionths(value: float) -> None:
    """To the nearest one."""
    assert abs(Fraction(parse_amount("cpu", value), 10**6) - Fraction(value)) <= Fraction(1, 2 * 10**6) + Fraction(
        1, 10**12
    )


def test_half_a_millionth_is_rounded_up() -> None:
    """Not to even."""
    assert [parse_amount("cpu", value) for value in (0.0000005, 0.0000015, 0.0000025, 0.00000049)] == [1, 2, 3, 0]


def test_decimal_fractions_are_exact() -> None:
    """With floats the rest would be 2.8e-17, and a node never empty again."""
    rest = Resources(0, 0.3) - Resources(0, 0.1) - Resources(0, 0.1) - Resources(0, 0.1)
    assert rest == Resources(0, 0)
    assert rest.cpu == 0


@given(resources, resources, resources)
def test_sums_are_exact(one: Resources, two: Resources, three: Resources) -> None:
    """In any order, and back."""
    assert one + two == two + one
    assert (one + two) + three == one + (two + three)
    assert (one + two) - two == one
    assert one <= one + two


@given(resources, resources)
def test_fit_is_fit_in_each_amount(one: Resources, two: Resources) -> None:
    """And a difference exists just where it holds."""
    names = ("gpu", "tpu", "disk")
    fits = (
        one.mem <= two.mem and one.cpu <= two.cpu and all(one.custom.get(n, 0) <= two.custom.get(n, 0) for n in names)
    )
    assert (one <= two) == (two >= one) == fits
    assert (one < two) == (two > one) == (fits and one != two)
    if fits:
        assert (two - one) + one == two
    else:
        with pytest.raises(UsageError, match=r"cannot take .* there is not so much"):
            two - one


def test_two_can_be_incomparable() -> None:
    """Neither fits into the other."""
    one, two = Resources(1, 2), Resources(2, 1)
    assert not one <= two
    assert not two <= one


@given(resources)
def test_survives_every_form(one: Resources) -> None:
    """Fields, pickle, and its own repr."""
    assert Resources.from_fields(one.to_fields()) == one
    assert pickle.loads(pickle.dumps(one)) == one
    assert eval(repr(one), {"Resources": Resources}) == one
    assert hash(Resources.from_fields(one.to_fields())) == hash(one)


@pytest.mark.parametrize(
    ("one", "written"),
    [
        (Resources(), ()),
        (Resources(gpu=1), ()),
        (Resources(mem="100 MiB"), ("mem",)),
        (Resources(cpu=1 / 16), ("cpu",)),
        (Resources("100 MiB", 1 / 16), ("mem", "cpu")),
        (Resources() + Resources(), ("mem", "cpu")),
    ],
)
def test_knows_what_somebody_wrote(one: Resources, written: tuple[str, ...]) -> None:
    """In every form; what is written is equal to a default of the same amount all the same."""
    assert one.written == written
    assert Resources.from_fields(one.to_fields()).written == written
    assert pickle.loads(pickle.dumps(one)).written == written
    assert Resources() == Resources("100 MiB", 1 / 16)


def test_amounts_of_zero_are_left_out() -> None:
    """Asking for no gpu is asking for nothing."""
    assert Resources(1, 1, gpu=0) == Resources(1, 1)
    assert Resources(1, 1, gpu=0, tpu=0.5).custom == {"tpu": 0.5}


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (20 << 20, "20 MiB"),
        (5 << 29, "2.5 GiB"),
        (1 << 50, "1024 TiB"),
    ],
)
def test_mem_for_people(size: int, text: str) -> None:
    """Exact where the unit divides."""
    assert format_mem(size) == text


def test_words() -> None:
    """For messages, with amounts as they were given."""
    assert str(Resources("1 GiB", 1, gpu=2)) == "1 GiB, 1 core, 2 gpu"
    assert str(Resources(0, 1234567.125)) == "0 B, 1234567.125 cores"
    assert repr(Resources(5, 0.1, gpu=0.000001)) == "Resources(mem=5, cpu=0.1, gpu=0.000001)"
    assert [format_amount(amount) for amount in (0, 10, 10_000_000)] == ["0", "0.00001", "10"]
    assert Resources(5, 0.5, gpu=2).describe() == {"mem": 5, "cpu": 0.5, "gpu": 2}


def test_is_immutable() -> None:
    """It is shared and a key."""
    one = Resources()
    with pytest.raises(AttributeError, match="cannot set 'mem'"):
        one.mem = 5  # type: ignore[misc]
    with pytest.raises(AttributeError, match="cannot delete '_mem'"):
        del one._mem


def test_means_nothing_with_other_things() -> None:
    """TypeError from operators, unequal from ==."""
    one: Any = Resources()
    assert one != 5
    for operation in (operator.add, operator.sub, operator.le, operator.ge, operator.lt, operator.gt):
        with pytest.raises(TypeError):
            operation(one, 5)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=10,
)


@given(plain)
def test_hostile_fields_end_in_value_error_only(fields: Any) -> None:
    """Whatever msgpack may have brought."""
    try:
        read = Resources.from_fields(fields)
    except ValueError:
        return
    assert Resources.from_fields(read.to_fields()) == read


@pytest.mark.parametrize(
    "fields",
    [
        None,
        [1, 2],
        [1, 2, None],
        [1, 2, [["gpu"]]],
        [-1, 2, []],
        [1, 2.5, []],
        [True, 2, []],
        [1, LARGEST_MEM + 1, []],
        [1, 2, [["gpu", "5"]]],
        [1, 2, [["gpu", True]]],
        [1, 2, [[5, 5]]],
        [1, 2, [["g pu", 5]]],
        [1, 2, [["gpu", 5], ["gpu", 5]]],
        [1, 2, [[[], 5]]],
        [1, 2, [], 4],
        [1, 2, [], True],
        [1, 2, [], 3, 3],
    ],
)
def test_fields_that_do_not_fit_are_refused(fields: Any) -> None:
    """With the fields."""
    with pytest.raises(ValueError, match="cannot read resources from"):
        Resources.from_fields(fields)
