"""nodes.toml: what it may say, and how its faults are told."""

from __future__ import annotations

import pickle
import textwrap
from pathlib import Path

import pytest

from constellation.core.address import Address
from constellation.core.errors import UsageError
from constellation.core.nodesfile import LARGEST_FILE, NodesFileError, read
from constellation.fabric.nodesfile import load

ORIGINAL = """\
[[nodes]]
fabric_addr = "10.0.0.1:9999" # local address to bind to
bridge_bind = "10.0.0.1:8888" # local address of the bridge to bind to
mem = "100 GiB"               # resource capacity of the node
cpu = 16                      # number of logical cores

[[nodes]]
fabric_addr = "10.0.0.2:9999"
mem = "100 GiB"
cpu = 16
"""


def complaints(text: str) -> list[str]:
    """What is wrong with a text, one line each."""
    with pytest.raises(NodesFileError) as caught:
        read(textwrap.dedent(text), "n.toml")
    return str(caught.value).splitlines()


def test_file_of_the_original_is_read_as_it_is() -> None:
    """The form is the one that its users have."""
    first, second = read(ORIGINAL, "nodes.toml").nodes
    assert first.fabric_addr == Address("10.0.0.1", 9999)
    assert first.bridge_bind == Address("10.0.0.1", 8888)
    assert (first.mem, first.cpu) == (100 << 30, 16_000_000)
    assert (second.bridge_bind, second.name, second.labels, second.resources) == (None, None, (), ())
    assert (second.title, second.dialled, second.line) == ("10.0.0.2:9999", Address("10.0.0.2", 9999), 7)


def test_everything_of_ours_is_read() -> None:
    """Names, labels, custom resources, IPv6, another address to be dialled at, ssh."""
    (node,) = read(
        '[[nodes]]\nfabric_addr = "[::]:5000"\nadvertise = "host.example:5000"\nname = "big"\n'
        'labels = {rack = "a", disk = "ssd"}\nresources = {gpu = 2, tape = 0.5}\nssh = "me@host"\nmem = 1024\ncpu = 0.5\n',
        "n.toml",
    ).nodes
    assert node.title == "big"
    assert node.dialled == Address("host.example", 5000)
    assert node.labels == (("disk", "ssd"), ("rack", "a"))
    assert node.resources == (("gpu", 2_000_000), ("tape", 500_000))
    assert (node.ssh, node.mem, node.cpu) == ("me@host", 1024, 500_000)


def test_several_complaints_come_at_once_each_with_line_and_field() -> None:
    """Whoever mends the file mends it once."""
    found = complaints(
        """\
        [[nodes]]
        fabric_addr = "10.0.0.1"   # no port
        cpus = 4

        [[nodes]]
        mem = "100 Gigs"
        cpu = "16"
        labels = {rack = 1}

        [[nodes]]
        fabric_addr = 5000
        resources = {
            mem = 3 }
        """.replace("{\n            mem", "{ mem")
    )
    assert [line.split(": ")[:2] for line in found] == [
        ["n.toml:2", "nodes[0].fabric_addr"],
        ["n.toml:3", "nodes[0].cpus"],
        ["n.toml:5", "nodes[1].fabric_addr"],
        ["n.toml:6", "nodes[1].mem"],
        ["n.toml:7", "nodes[1].cpu"],
        ["n.toml:8", "nodes[1].labels.rack"],
        ["n.toml:11", "nodes[2].fabric_addr"],
        ["n.toml:12", "nodes[2].resources.mem"],
    ]
    assert "did you mean 'cpu'?" in found[1]
    assert "missing: expected fabric_addr" in found[2]
    assert "cannot read '100 Gigs': expected bytes" in found[3]
    assert "cannot use '16': expected a number" in found[4]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "no nodes: expected [[nodes]]"),
        ("nodes = []", 1, "no nodes"),
        ("# x\n[nodes]\nfabric_addr = 'a:1'", 2, "expected [[nodes]] in two brackets"),
        ("node = 1\n[[nodes]]\nfabric_addr = 'a:1'", 1, "did you mean 'nodes'?"),
        ("nodes = [\n 3]", 2, "is 3: expected a table"),
        ("[[nodes]]\nfabric_addr = 'a:0'", 2, "has port 0"),
        ("[[nodes]]\nfabric_addr = '::1:5'", 2, "stands in brackets"),
        ("[[nodes]]\nfabric_addr = '0.0.0.0:5'", 2, "say with advertise which one others dial"),
        ("[[nodes]]\nfabric_addr = 'a:5'\nadvertise = '[::]:5'", 3, "cannot be dialled"),
        ("[[nodes]]\nfabric_addr = 'a:5'\nssh = '-oProxyCommand=x'", 3, "expected a host or user@host"),
        ("[[nodes]]\nfabric_addr = 'a:5'\nssh = 'a b'", 3, "expected a host or user@host"),
        ("[[nodes]]\nfabric_addr = 'a:5'\nname = 'x/y'", 3, "expected up to 63 letters"),
        ("[[nodes]]\nfabric_addr = 'a:5'\ncpu = true", 3, "cannot use True: expected a number"),
        ("[[nodes]]\nfabric_addr = 'a:5'\ncpu = nan", 3, "expected a number"),
        ("[[nodes]]\nfabric_addr = 'a:5'\nmem = -1", 3, "expected bytes"),
        ("[[nodes]]\nfabric_addr = 'a:5'\nlabels = 'a'", 3, "expected a table such as"),
        ("[[nodes]]\nfabric_addr = 'a:5'\nlabels = {'a b' = 'c'}", 3, "cannot be the name of a label"),
        ("[[nodes]]\nfabric_addr = 'a:5'\nlabels = {a = \"c\\n\"}", 3, "expected text of up to 255"),
        ("[[nodes]]\nfabric_addr = 'a:5'\nresources = [1]", 3, "expected a table such as {gpu = 2}"),
        ("[[nodes]]\nfabric_addr = 'a:5'\nresources = {'x y' = 1}", 3, "cannot be the name of a resource"),
        ("[[nodes]]\nfabric_addr = 'a:5'\nresources = {gpu = 'two'}", 3, "cannot use 'two': expected a number"),
        ("[[nodes]]\nfabric_addr = 'a:5'\nname = true", 3, "is true: expected up to 63 letters"),
        ("[[nodes]]\n\nfabric_addr =", 3, "not TOML"),
        ("[[nodes]]\nfabric_addr = ?\ncpu = 1", 2, "at column 15"),
        ("[[nodes]]\nfabric_addr = 'a:5'\nfabric_addr = 'b:5'", 3, "not TOML"),
        (f"x = {'1' * 5000}", 1, "not TOML"),
        ("[[nodes]]\nfabric_addr = 'a", 2, "not TOML"),
    ],
)  # fmt: skip
def test_one_fault_is_told_with_its_line(text: str, line: int, words: str) -> None:
    """Wrong types, missing and unknown fields, addresses that cannot be, and text that is no TOML."""
    found = complaints(text)
    assert found[0].startswith(f"n.toml:{line}: "), found
    assert words in found[0]


def test_too_deep_a_text_is_a_complaint_too() -> None:
    """A text that tomllib cannot read ends in words and not in its RecursionError."""
    assert "n.toml:1: " in complaints("x = " + "[" * 20_000 + "]" * 20_000)[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [("10.0.0.1:5", "10.0.0.1:5"), ("[::ffff:10.0.0.1]:5", "10.0.0.1:5"), ("Host:5", "host.:5"), ("[::1]:5", "[0:0::1]:5")],
)  # fmt: skip
def test_an_address_that_is_there_already_is_refused_however_it_is_written(one: str, other: str) -> None:
    """Two daemons cannot listen at the same place; the complaint names the other one."""
    (found,) = complaints(f'[[nodes]]\nfabric_addr = "{one}"\n[[nodes]]\nfabric_addr = "{other}"\n')
    assert found.startswith("n.toml:4: nodes[1].fabric_addr: ")
    assert "nodes[0].fabric_addr already" in found


def test_bridge_and_name_are_alone_as_well() -> None:
    """A bridge at the node's own address, and two nodes of one name, are refused."""
    text = (
        '[[nodes]]\nfabric_addr = "a:5"\nbridge_bind = "a:5"\nname = "n"\n[[nodes]]\nfabric_addr = "b:5"\nname = "n"\n'
    )
    found = complaints(text)
    assert [line.split(": ")[1] for line in found] == ["nodes[0].bridge_bind", "nodes[1].name"]


def test_of_many_complaints_some_are_counted_only() -> None:
    """A wrong file does not fill the terminal."""
    found = complaints("".join(f'[[nodes]]\nfabric_addr = "a:{port}"\nx = 1\n' for port in range(1, 101)))
    assert (len(found), found[-1]) == (21, "and 80 more")


def test_the_error_survives_pickling() -> None:
    """It is a record like all errors."""
    with pytest.raises(NodesFileError) as caught:
        read("", "n.toml")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.complaints) == (str(caught.value), caught.value.complaints)


def test_file_is_loaded_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Some editors write one."""
    (tmp_path / "n.toml").write_bytes(b"\xef\xbb\xbf" + ORIGINAL.encode())
    assert len(load(tmp_path / "n.toml").nodes) == 2


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    """Nothing there, a folder, a pipe, a huge file, bytes that are no text."""
    with pytest.raises(UsageError, match=r"gone\.toml: No such file"):
        load(tmp_path / "gone.toml")
    with pytest.raises(UsageError, match="it is no file"):
        load(tmp_path)
    with (tmp_path / "huge.toml").open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    with pytest.raises(UsageError, match="is it the right file"):
        load(tmp_path / "huge.toml")
    (tmp_path / "latin.toml").write_bytes(b"# a\n# caf\xe9\n")
    with pytest.raises(NodesFileError, match=r"latin\.toml:2: not UTF-8: byte 0xe9"):
        load(tmp_path / "latin.toml")


def test_nodes_behind_a_proxy_are_named_by_urls() -> None:
    """Each computer may listen at the same address of its own, for each is dialled elsewhere."""
    first, second = read(
        textwrap.dedent("""\
            [[nodes]]
            fabric_addr = "ws://127.0.0.1:7000/constellation"
            bridge_bind = "ws://127.0.0.1:7001/bridge"
            advertise = "wss://nodes.example/n1"
            [[nodes]]
            fabric_addr = "ws://127.0.0.1:7000/constellation"
            bridge_bind = "ws://127.0.0.1:7001/bridge"
            advertise = "wss://nodes.example/n2"
            """),
        "n.toml",
    ).nodes
    assert str(first.dialled) == "wss://nodes.example/n1"
    assert first.fabric_addr == second.fabric_addr


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[[nodes]]\nfabric_addr = 'wss://'", 2, "the host is missing"),
        ("[[nodes]]\nfabric_addr = 'ws://0.0.0.0:7'", 2, "say with advertise which one others dial"),
        ("[[nodes]]\nfabric_addr = 'a:5'\nadvertise = 'ws://h:x/'", 3, "'x' is no port"),
        (
            "[[nodes]]\nfabric_addr = 'wss://h/a'\n[[nodes]]\nfabric_addr = 'wss://h/a'",
            4,
            "nodes[0].fabric_addr already",
        ),
        (
            "[[nodes]]\nfabric_addr = '[::]:5'\nadvertise = 'h:5'\n[[nodes]]\nfabric_addr = '[::]:5'\nadvertise = 'h:5'",
            6,
            "nodes[0].advertise already",
        ),
        (
            "[[nodes]]\nfabric_addr = 'ws://[::1]:5'\nbridge_bind = 'ws://[::1]:5'\nadvertise = 'wss://h/'",
            3,
            "nodes[0].fabric_addr already",
        ),
    ],
)
def test_wrong_urls_are_complained_about_as_other_addresses(text: str, line: int, words: str) -> None:
    """With line and field."""
    (found,) = complaints(text)
    assert found.startswith(f"n.toml:{line}: nodes[")
    assert words in found
