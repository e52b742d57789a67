"""Whose process is it: what is read from environments and maps, and who is killed for it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core.marker import (
    DEEPEST,
    MAPPED,
    VARIABLE,
    Chain,
    Role,
    find,
    from_text,
    inside,
    is_left,
    lives,
    machine,
    outer,
    role,
    start_time,
    to_text,
)

HERE = "b007-26-34"
KEEPER, FABRIC = Role(10, 100), Role(11, 101)
OUTER_KEEPER, OUTER_FABRIC = Role(5, 50), Role(6, 51)
ALONE = Chain(HERE, ((KEEPER, FABRIC),))
NESTED = Chain(HERE, ((OUTER_KEEPER, OUTER_FABRIC), (KEEPER, FABRIC)))

ROLES = st.builds(Role, st.integers(1, 1 << 22), st.integers(0, 1 << 60))
CHAINS = st.builds(Chain, st.just(HERE), st.lists(st.tuples(ROLES, ROLES), min_size=1, max_size=DEEPEST).map(tuple))


@given(CHAINS)
def test_a_marker_is_read_as_it_was_written(chain: Chain) -> None:
    """Out of the variable, the environment, and the name of what is mapped."""
    text = to_text(chain)
    line = f"7f00-7f01 ---s 00000000 00:01 77 /memfd:{MAPPED}{text} (deleted)\n".encode()
    assert from_text(text) == chain
    assert find(f"A=b\0{VARIABLE}={text}\0C=d\0".encode(), b"") == chain
    assert find(f"{VARIABLE}={text}\0".encode(), b"") == chain
    assert find(b"", b"55-56 r-xp 0 0:0 1 /bin/python\n" + line) == chain


def test_a_name_has_room_for_the_deepest_chain() -> None:
    """The kernel takes 249 bytes; pids have seven digits, start times after a year ten."""
    deepest = Role(4_194_304, 3_200_000_000)
    chain = Chain(machine(_boot, _namespace), ())
    for _ in range(2 * DEEPEST):
        chain = inside(chain, deepest, deepest)
    assert len(chain.deployments) == DEEPEST
    assert len(MAPPED + to_text(chain)) <= 249


@given(st.text() | st.from_regex(r"[0-9a-f-]{1,9}(:[0-9.]{0,9}){0,3}", fullmatch=True))
def test_what_is_no_marker_is_passed_over(text: str) -> None:
    """Somebody else may have a variable of that name: never an exception, and what is read is what was written."""
    chain = from_text(text)
    assert chain is None or from_text(to_text(chain)) == chain
    find(f"{VARIABLE}={text}\0".encode("utf-8", "surrogatepass"), b"")


@pytest.mark.parametrize(
    "text", ["", "here", "here:", ":1.2.3.4", "here:1.2.3", "here:1.2.3.x", "here:1.2.3.4.5", "a:-1.2.3.4"]
)
def test_malformed_markers(text: str) -> None:
    """None of them is one."""
    assert from_text(text) is None


def test_others_of_a_like_name_are_not_it() -> None:
    """Neither a variable that ends so, nor a file."""
    assert find(f"X{VARIABLE}={to_text(ALONE)}\0".encode(), b"") is None
    assert find(b"", f"7f00-7f01 ---s 0 0:1 77 /home/{MAPPED}{to_text(ALONE)} (deleted)\n".encode()) is None


def test_what_is_mapped_counts_before_the_environment() -> None:
    """A program that was executed inside one deployment has begun another since."""
    maps = f"7f00-7f01 ---s 0 0:1 77 /memfd:{MAPPED}{to_text(NESTED)} (deleted)\n".encode()
    assert find(f"{VARIABLE}={to_text(ALONE)}\0".encode(), maps) == NESTED


@pytest.mark.parametrize(
    ("chain", "alive", "expected"),
    [
        (ALONE, {KEEPER, FABRIC}, False),
        (ALONE, {KEEPER}, False),  # it sweeps
        (ALONE, {FABRIC}, False),  # it sweeps too, and may still be writing what processes wrote
        (ALONE, set(), True),
        (ALONE, {Role(KEEPER.os_pid, 999), Role(FABRIC.os_pid, 999)}, True),  # others, of the same numbers
        (NESTED, {OUTER_FABRIC, KEEPER}, False),
        (NESTED, {OUTER_KEEPER, OUTER_FABRIC}, True),
        (NESTED, {KEEPER, FABRIC}, True),  # what a dead deployment has started goes, a deployment of its own or not
        (ALONE._replace(machine="b008-26-34"), set(), False),  # from another computer, or before the last boot
    ],
)
def test_who_is_left_over(chain: Chain, alive: set[Role], *, expected: bool) -> None:
    """Whose keeper and fabric are dead, here, in any deployment of the chain."""
    assert is_left(chain, HERE, alive.__contains__) is expected


@given(CHAINS, st.data())
def test_nobody_of_a_living_deployment_is_left_over(chain: Chain, data: st.DataObject) -> None:
    """One living sweeper for each deployment of the chain is enough; none for any one of them is too few."""
    alive = {pair[data.draw(st.integers(0, 1))] for pair in chain.deployments}
    assert not is_left(chain, HERE, alive.__contains__)
    keeper, fabric = data.draw(st.sampled_from(chain.deployments))
    assert is_left(chain, HERE, (alive - {keeper, fabric}).__contains__)


def test_a_deployment_knows_what_it_was_started_in() -> None:
    """By a living deployment: it is in the chain. By what is left over, or from elsewhere: it is not."""
    text = to_text(ALONE)
    everybody: set[Role] = {KEEPER, FABRIC}
    assert outer(text, HERE, everybody.__contains__) == ALONE
    assert outer(text, HERE, {KEEPER}.__contains__) == ALONE
    for marker, here, alive in (
        (text, HERE, set()),
        (text, "b008-26-34", everybody),
        (None, HERE, everybody),
        ("x", HERE, everybody),
    ):
        assert outer(marker, here, alive.__contains__) == Chain(here, ())
    assert inside(ALONE, OUTER_KEEPER, OUTER_FABRIC).deployments == ((KEEPER, FABRIC), (OUTER_KEEPER, OUTER_FABRIC))


def _boot(path: str) -> str:
    assert path == "/proc/sys/kernel/random/boot_id"
    return "01234567-89ab-cdef-0123-456789abcdef\n"


def _namespace(path: str) -> str:
    return {"/proc/self/ns/pid": "pid:[4026531836]", "/proc/self/ns/time": "time:[4026531834]"}[path]


def test_a_machine_is_a_boot_and_its_namespaces() -> None:
    """Older kernels know no namespaces of time."""

    def old(path: str) -> str:
        if path.endswith("time"):
            raise FileNotFoundError(path)
        return _namespace(path)

    assert machine(_boot, _namespace) == "0123456789abcdef-4026531836-4026531834"
    assert machine(_boot, old) == "0123456789abcdef-4026531836-"
    assert re.fullmatch("[0-9a-f-]+", machine(_boot, _namespace))


REST = " ".join(map(str, range(1, 40)))


def test_processes_are_told_apart_by_their_start_times() -> None:
    """A name may hold anything; a zombie has ended; who cannot be read has, too."""
    assert start_time(f"17 (a) name) S {REST}") == 19
    assert start_time(f"17 (a) name) Z {REST}") == 0
    with pytest.raises(ValueError, match="cannot read the start time"):
        start_time("17")

    def read(path: str) -> str:
        if path == "/proc/17/stat":
            return f"17 (x) S {REST}"
        if path == "/proc/18/stat":
            return f"18 (x) Z {REST}"
        raise FileNotFoundError(path)

    assert role(17, read) == Role(17, 19)
    assert role(18, read) == Role(18, 0) and role(19, read) == Role(19, 0)
    assert lives(Role(17, 19), read)
    for other in (Role(17, 20), Role(18, 0), Role(18, 19), Role(19, 0), Role(19, 5)):
        assert not lives(other, read)
