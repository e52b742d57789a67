"""The door: how it is found, which deployment is meant, what travels through it."""

from __future__ import annotations

from typing import Any, get_args

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core.door import (
    DOOR,
    LARGEST_LINES,
    AskWhy,
    Describe,
    Description,
    End,
    Lines,
    Question,
    doors_in,
    in_packets,
    in_words,
    is_meant,
    name_of,
    program_in,
)

DESCRIPTION = Description(
    4711, "0a1b2c3d" * 4, ["/usr/bin/python", "-X", "dev", "work/prog.py", "ring"], "/home/me", 1.5, 3, False
)
TABLE = """\
Num       RefCount Protocol Flags    Type St Inode Path
0000000080d07d44: 00000003 00000000 00000000 0001 03  1593
0000000000000001: 00000002 00000000 00010000 0005 01  1594 @constellation/1000/77/00ff00ff00ff00ff
0000000000000002: 00000003 00000000 00000000 0005 03  1595 @constellation/1000/77/00ff00ff00ff00ff
0000000000000003: 00000002 00000000 00010000 0005 01  1596 @constellation/1000/5/abcd
0000000000000004: 00000002 00000000 00010000 0005 01  1597 @constellation/1001/6/abcd
0000000000000005: 00000002 00000000 00010000 0001 01  1598 /run/constellation/1000/7/abcd
0000000000000006: 00000002 00000000 00010000 0001 01  1599 @constellation/1000/8/../x
"""


def test_doors_are_the_listening_ones_of_this_user() -> None:
    """Not their connections, not those of others, not files or names that only look alike."""
    assert doors_in(TABLE.splitlines(), 1000) == [
        (5, "constellation/1000/5/abcd"),
        (77, name_of(1000, 77, "00ff00ff00ff00ff")),
    ]
    assert doors_in(TABLE.splitlines(), 0) == []


@given(st.lists(st.text(max_size=80), max_size=5))
def test_any_table_is_read(lines: list[str]) -> None:
    """The names in it are chosen by whoever runs on this computer."""
    assert doors_in(lines, 1000) == []


@pytest.mark.parametrize(
    ("command", "program"),
    [
        (["python", "prog.py", "a"], "prog.py"),
        (["python", "-u", "-W", "error", "-X", "dev", "x/prog.py"], "x/prog.py"),
        (["python", "-m", "pkg.mod", "a"], "-m pkg.mod"),
        (["python", "-c", "pass", "prog.py"], ""),
        (["python", "-m"], "-m"),
        (["python"], ""),
        ([], ""),
    ],
)
def test_the_program_of_a_command_line(command: list[str], program: str) -> None:
    """As Python reads it."""
    assert program_in(command) == program


@pytest.mark.parametrize("wanted", ["prog.py", "work/prog.py", "/home/me/work/prog.py", "0a1b", "0A1B2C3"])
def test_a_deployment_is_named_by_program_or_pid(wanted: str) -> None:
    """With its folder or without, or by the first digits."""
    assert is_meant(DESCRIPTION, wanted)


@pytest.mark.parametrize("wanted", ["ring", "prog", "0a1", "/elsewhere/prog.py", "", "python"])
def test_what_names_another_does_not_mean_it(wanted: str) -> None:
    """Neither an argument nor a part of a name nor too few digits."""
    assert not is_meant(DESCRIPTION, wanted)


def test_a_module_is_named_without_its_option() -> None:
    """As people call it."""
    assert is_meant(DESCRIPTION._replace(program=["python", "-m", "pkg.mod"]), "pkg.mod")


def test_one_line_for_a_list() -> None:
    """What there is to choose from."""
    assert in_words(DESCRIPTION) == "4711  work/prog.py in /home/me, 3 processes"
    assert in_words(DESCRIPTION._replace(program=[], processes=1)).endswith(
        "a program without a file in /home/me, 1 process"
    )


@given(st.lists(st.text(max_size=40) | st.text(min_size=3000, max_size=20_000), max_size=40))
def test_lines_go_in_packets_in_their_order(lines: list[str]) -> None:
    """Each within the limit; only a line beyond all reason is cut."""
    packets = in_packets(lines)

    assert [line for packet in packets for line in packet] == [line[: LARGEST_LINES // 4] for line in lines]
    assert all(len("".join(packet).encode(errors="replace")) <= 2 * LARGEST_LINES for packet in packets)


@pytest.mark.parametrize("message", [Describe(5), AskWhy(), DESCRIPTION, Lines(["a", "b"]), End()])
def test_each_message_survives_the_wire(message: Any) -> None:
    """With its number, which never changes."""
    assert DOOR.read(msgpack.unpackb(msgpack.packb(DOOR.fields_of(message)))) == message
    assert [kind.__name__ for kind in DOOR.kinds] == ["Describe", "AskWhy", "Description", "Lines", "End"]
    assert set(get_args(Question)) <= set(DOOR.kinds)
