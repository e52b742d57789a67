"""What is held of demands, the units of the kernel, its texts, and the words for who died of want."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core.lifecycle import KnownEnd, certificate
from constellation.core.limits import (
    LATEST_S,
    LEAST_MEM,
    LOOK_SHARE,
    OUT_OF_MEMORY,
    SOONEST_S,
    Counters,
    Held,
    Owner,
    Place,
    counters_v1,
    counters_v2,
    group_cause,
    held,
    limit_cause,
    next_look,
    owner_of,
    places,
    private,
    read_keyed,
    resident,
    shares,
    weight,
)
from constellation.core.pid import Pid
from constellation.core.resources import Resources

MIB = 1 << 20

CGROUP_V1 = "4:memory:/outer/inner\n2:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n"
MOUNTS_V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)


@pytest.mark.parametrize(
    ("demand", "is_all", "expected"),
    [
        (Resources(), False, Held(None, None)),
        (Resources(), True, Held(100 * MIB, 62_500)),
        (Resources(mem="100 MiB"), False, Held(100 * MIB, None)),
        (Resources(cpu=1 / 16), False, Held(None, 62_500)),
        (Resources("20 MiB", 0.5), False, Held(20 * MIB, 500_000)),
        (Resources(gpu=1), False, Held(None, None)),
        (Resources(mem=0), False, Held(LEAST_MEM, None)),
        (Resources(mem=1), True, Held(LEAST_MEM, 62_500)),
        (Resources("1 GiB") + Resources(), False, Held((1 << 30) + 100 * MIB, 125_000)),
    ],
)
def test_what_the_user_wrote_is_held(demand: Resources, is_all: bool, expected: Held) -> None:
    """A default holds nobody unless a capacity is given, also where it equals what somebody might write."""
    assert held(demand, is_all=is_all) == expected


@pytest.mark.parametrize(
    ("cores", "v1", "v2"), [(0, 2, 2), (0.001, 2, 2), (1 / 16, 64, 6), (1, 1024, 100), (500, 1 << 18, 10_000)]
)
def test_cores_become_weights(cores: float, v1: int, v2: int) -> None:
    """One core weighs as much as a plain process, and nothing less than what the kernel takes."""
    cpu = Resources(cpu=cores).cpu_millionths
    assert (shares(cpu), weight(cpu)) == (v1, v2)


def test_places_of_version_1() -> None:
    """Each controller has its mount; the one for many has a name of several."""
    assert places(CGROUP_V1, MOUNTS_V1) == {
        "memory": Place("/sys/fs/cgroup/memory/outer/inner", 1),
        "cpu": Place("/sys/fs/cgroup/cpu,cpuacct", 1),
    }


def test_places_of_version_2() -> None:
    """One mount has both; blanks come as octal numbers, and a mount of a part of the tree is cut off."""
    mounts = "30 23 0:26 /box /sys/fs/my\\040cgroup rw - cgroup2 cgroup2 rw\n"
    here = Place("/sys/fs/my cgroup/in", 2)
    assert places("0::/box/in\n", mounts) == {"memory": here, "cpu": here}
    assert places("0::/elsewhere\n", mounts) == {}


@given(st.text(max_size=200), st.text(max_size=200))
def test_places_of_nonsense(cgroup: str, mounts: str) -> None:
    """What cannot be read is nowhere."""
    places(cgroup, mounts)
    places(cgroup, MOUNTS_V1)
    places(CGROUP_V1, mounts)


def test_names_tell_the_owner() -> None:
    """So that groups of the dead are found, and only ours."""
    owner = Owner(4026531836, 17, 99)
    assert owner_of(owner.folder(3)) == owner
    for other in ("constellation-1-2-3", "constellation-1-2-3-x", "tasks", "user.slice", "constellation-1-2-3-4-5"):
        assert owner_of(other) is None


def test_counters_of_version_1() -> None:
    """Whether its own limit stood in the way shows by its peak; cache alone also fails now and then, and is given back."""
    control = "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"
    limit = 50 * MIB
    assert counters_v1(control, "7\n", f"{limit}\n", f"{limit}\n") == Counters(1, is_full=True)
    assert counters_v1(control, "0\n", f"{limit - 4096}\n", f"{limit}\n") == Counters(1, is_full=False)
    assert counters_v1(control, "7\n", f"{30 * MIB}\n", f"{limit}\n") == Counters(1, is_full=False)


def test_counters_of_version_2() -> None:
    """`oom` counts what the group's own limit did."""
    assert counters_v2("low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\n") == Counters(2, is_full=True)
    assert counters_v2("low 0\nhigh 0\nmax 0\noom 0\noom_kill 1\n") == Counters(1, is_full=False)
    assert read_keyed("a 1\nb\nc x\n") == {"a": 1}


def test_causes_say_what_is_known() -> None:
    """The limit where it was the limit, the machine where it was not, and nothing where nobody was killed."""
    assert group_cause(Counters(0, is_full=True), 20 * MIB, 20 * MIB) is None
    assert group_cause(Counters(1), 20 * MIB, 20 * MIB) == OUT_OF_MEMORY
    full = Counters(1, is_full=True)
    assert group_cause(full, 20 * MIB, 20 * MIB) == "memory limit: it asked for 20 MiB and needed more"
    assert group_cause(full, MIB, LEAST_MEM) == "memory limit: it asked for 1 MiB and needed more than 16 MiB"
    had = 31 * MIB + 12345
    assert limit_cause(20 * MIB, 20 * MIB, had) == "memory limit: it asked for 20 MiB and had 31 MiB"


def test_want_of_memory_comes_before_other_causes() -> None:
    """The watchdog kills by the monitor, which would name itself."""
    end = KnownEnd(Pid(1, 2, bytes(16)), None, 9, memory=OUT_OF_MEMORY, killer="the fabric", exception=("E", "x"))
    assert certificate(end).cause == OUT_OF_MEMORY


def test_memory_of_a_process() -> None:
    """Only what it has written is its own; the cheap number is never below that."""
    rollup = "5555-7fff ---p 0 0 [rollup]\nRss: 9000 kB\nPrivate_Clean: 40 kB\nPrivate_Dirty: 112 kB\nSwap: 9 kB\nSwapPss: 8 kB\n"
    assert private(rollup) == 120 << 10
    assert resident("Name:\tx\nVmRSS:\t  9000 kB\nVmSwap:\t  8 kB\n") == 9008 << 10
    assert resident("Name:\tx\nState:\tZ (zombie)\n") == 0


@given(
    st.integers(LEAST_MEM, 1 << 40),
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 40),
    st.floats(0, 10),
    st.floats(0, 0.01),
    st.integers(1, 1000),
)
def test_looks_are_neither_rare_nor_dear(
    limit: int, had: int, before: int, last: float, cost: float, watched: int
) -> None:
    """All looks together take no more than their part of a core, and one that costs nothing comes in time."""
    delay = next_look(limit, min(had, limit), before, last, cost, watched)
    assert delay >= SOONEST_S
    assert watched * cost / delay <= LOOK_SHARE * 1.001
    assert next_look(limit, min(had, limit), before, last, 0.0, watched) <= LATEST_S


def test_a_steady_process_is_looked_at_less_often() -> None:
    """And one that grows near its limit at once again."""
    near = 100 * MIB - 1
    assert next_look(100 * MIB, near, near, 0.04, 0, 1) == 0.08
    assert next_look(100 * MIB, near, near - MIB, 0.08, 0, 1) == SOONEST_S
