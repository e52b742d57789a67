"""What facts of computers and fabrics mean: what is wrong, with which value, what was expected, what mends it."""

from __future__ import annotations

from typing import Any

import pytest

from constellation.core.health import (
    NOTE,
    OK,
    WRONG,
    Finding,
    NodeFacts,
    Tried,
    is_well,
    judge_clock,
    judge_computer,
    judge_fabric,
    judge_file,
    judge_tried,
)

GIB = 1 << 30
DAY = 86400.0

WELL: dict[str, Any] = {
    "python": [3, 11, 7],
    "implementation": "cpython",
    "executable": "/usr/bin/python3",
    "constellation": "0.2.0",
    "wire": 1,
    "versions": [["msgpack", "1.0.8"]],
    "lacks": [],
    "plugins": [["spread", "constellation-spread 1.0", "", True]],
    "credentials": [["node", "/c/node.pem", "ok", "", 400 * DAY]],
    "proc": True,
    "memory_groups": [2, ""],
    "smaps": "",
    "files": [1024, 20000],
    "calls": [["pidfd_open", ""], ["memfd_create", ""]],
    "confined": [0, 0, 1],
    "disks": [["state", "/var/lib", 9 * GIB, ""], ["temporary", "/tmp", GIB, ""], ["shared", "/dev/shm", GIB, ""]],
    "clock": "synchronised",
    "ports": [["127.0.0.1:5000", ""]],
    "capacity": {"mem": 8 * GIB, "cpu": 4_000_000, "file_mem": 4 * GIB, "file_cpu": None},
}


def only(findings: list[Finding]) -> Finding:
    """The one that is not well."""
    bad = [each for each in findings if each.state != OK]
    assert len(bad) == 1, bad
    return bad[0]


def test_a_computer_that_has_all_is_well() -> None:
    """Every fact has a line, and none asks for anything."""
    findings = judge_computer("here", WELL)
    assert [each.state for each in findings] == [OK] * len(findings)
    assert len(findings) >= len(WELL) - 5  # of five the lines are those of others
    assert not any(each.mend for each in findings)
    assert is_well(findings)


@pytest.mark.parametrize(
    ("fact", "value", "state", "what", "found", "mend"),
    [
        ("python", [3, 10, 2], WRONG, "Python", "3.10.2", "install Python 3.11"),
        ("lacks", [["constellation", "msgpack>=1.0.8", "0.6"]], WRONG, "package", "0.6", "python3 -m pip install 'msgpack>=1.0.8'"),
        ("plugins", [["x", "constellation-x 1", "it needs y", True]], WRONG, "plugin x", "it needs y", "--upgrade constellation-x"),
        ("plugins", [["x", "constellation-x 1", "it needs y", False]], NOTE, "plugin x", "it needs y", "--upgrade constellation-x"),
        ("credentials", [["node", "/p", "absent", "", 0.0]], NOTE, "node credential", "none", "constellation keygen"),
        (
            "credentials",
            [["node", "/p", "wrong", "the credential /p has mode 0644: expected 0600; chmod 600 /p, and if", 0.0]],
            WRONG, "node credential", "mode 0644", "chmod 600 /p",
        ),
        (
            "credentials",
            [["deployer", "/p", "wrong", "it has expired: make another: constellation keygen --owner ann, where", 0.0]],
            WRONG, "deployer credential", "expired", "constellation keygen --owner ann",
        ),
        ("credentials", [["deployer", "/p", "ok", "", 5.5 * DAY]], NOTE, "deployer credential", "5 days", "keygen --owner NAME"),
        ("proc", False, WRONG, "/proc", "not there", "mount -t proc"),
        ("memory_groups", [1, "/sys: Read-only file system"], NOTE, "memory limits", "Read-only", "Delegate=yes"),
        ("memory_groups", [0, "there is none"], NOTE, "memory limits", "no control groups", "Delegate=yes"),
        ("smaps", "No such file", NOTE, "memory of processes", "No such file", "CONFIG_PROC_PAGE_MONITOR"),
        ("files", [256, 512], WRONG, "open files", "at most 512", "LimitNOFILE"),
        ("files", [1024, 4096], NOTE, "open files", "at most 4096", "ulimit -Hn"),
        ("calls", [["pidfd_open", "Operation not permitted"]], WRONG, "kernel call pidfd_open", "not permitted", "seccomp"),
        ("confined", [2, 1, 2], NOTE, "ptrace", "root only", "ptrace_scope=1"),
        ("disks", [["state", "/s", 100 << 20, ""]], WRONG, "disk for its files", "100 MiB free in /s", "df -h /s"),
        ("disks", [["state", "/s", 500 << 20, ""]], NOTE, "disk for its files", "500 MiB", "df -h /s"),
        ("disks", [["temporary", "/t", 9 * GIB, "this user may not write there"]], WRONG, "temporary files", "/t", "mkdir -p /t"),
        ("disks", [["shared", "/dev/shm", 0, ""]], NOTE, "shared memory", "0", "remount"),
        ("clock", "not synchronised", NOTE, "clock", "not synchronised", "timedatectl"),
        ("ports", [["a:5", "another program listens there: end it"]], WRONG, "port a:5", "another program", "end it"),
        (
            "capacity",
            {"mem": 24 * GIB, "cpu": 2_000_000, "file_mem": 100 * GIB, "file_cpu": None},
            WRONG, "capacity, mem", "24 GiB", 'mem = "24 GiB"',
        ),
        ("capacity", {"mem": GIB, "cpu": 2_000_000, "file_mem": None, "file_cpu": 16_000_000}, WRONG, "capacity, cpu", "2", "cpu = 2"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_computer_is_said_with_what_mends_it(
    fact: str, value: Any, state: str, what: str, found: str, mend: str
) -> None:
    """One fact after the other; on a node the command says where it is to be run."""
    finding = only(judge_computer("n2", {**WELL, fact: value}))
    assert (finding.where, finding.state, finding.what) == ("n2", state, what)
    assert found in finding.value
    assert finding.expected
    assert finding.mend.startswith("on n2: ")
    assert mend in finding.mend


def test_facts_that_are_missing_are_not_judged() -> None:
    """A node of another version may not tell them, and tell others."""
    assert judge_computer("here", {}) == []
    assert judge_computer("here", {"of_tomorrow": 1}) == []


def node(name: str, address: str = "10.0.0.1:5000", offset: float | None = 0.0, **facts: Any) -> NodeFacts:
    """A node that is well but for what is said."""
    return NodeFacts(name, address, "present", offset, 0.001, {**WELL, **facts})


def test_a_fabric_of_like_nodes_is_well() -> None:
    """All have joined, agree, and reach each other."""
    dials = [Tried("n1", "n2", "b:5000", "", "", 0.001), Tried("n2", "n1", "a:5000", "", "", 0.002)]
    findings = judge_fabric([node("n1", "a:5000"), node("n2", "b:5000")], [], dials)
    assert is_well(findings)
    assert [each.value for each in findings if each.what == "port b:5000"] == [
        "1 of 1 other nodes reached it, in 1.0 ms at most"
    ]


@pytest.mark.parametrize(
    ("facts", "state", "what", "found", "mend"),
    [
        ({"python": [3, 12, 1]}, WRONG, "Python", "3.12", "on n2: start the node with Python 3.11"),
        ({"constellation": "0.1.9"}, NOTE, "constellation", "0.1.9", "on n2: pip install constellation==0.2.0"),
        ({"wire": 2, "constellation": "0.3.0"}, WRONG, "wire version", "2 (constellation 0.3.0)", "constellation==0.2.0"),
        ({"versions": [["msgpack", "2.0"]]}, NOTE, "msgpack", "2.0", "on n2: pip install msgpack==1.0.8"),
        ({"plugins": []}, NOTE, "plugin spread", "not installed", "on n2: pip install constellation-spread==1.0"),
        (
            {"plugins": [["spread", "constellation-spread 2.0", "", True]]},
            WRONG, "plugin spread", "constellation-spread 2.0", "on n2: pip install constellation-spread==1.0",
        ),
    ],
)  # fmt: skip
def test_nodes_that_differ_are_held_against_the_first(
    facts: dict[str, Any], state: str, what: str, found: str, mend: str
) -> None:
    """What keeps programs from running on both is wrong, what does not is worth knowing."""
    finding = only(judge_fabric([node("n1"), node("n2", **facts)], [], []))
    assert (finding.where, finding.state, finding.what) == ("n2", state, what)
    assert found in finding.value
    assert mend in finding.mend


def test_a_plugin_that_only_another_node_has_is_lacking_at_the_first() -> None:
    """The lack is named where it is."""
    extra = [*WELL["plugins"], ["arrow", "constellation-arrow 1", "", False]]
    finding = only(judge_fabric([node("n1"), node("n2", plugins=extra)], [], []))
    assert (finding.where, finding.what, finding.state) == ("n1", "plugin arrow", NOTE)


@pytest.mark.parametrize(
    ("offset", "doubt", "state", "word"),
    [
        (0.5, 0.001, OK, "ahead of"),
        (-120.0, 0.002, WRONG, "behind"),
        (400.0, 0.002, WRONG, "ahead of"),
        (3.0, 2.5, OK, "ahead of"),
    ],
)
def test_clocks_are_apart_only_beyond_what_cannot_be_measured(
    offset: float, doubt: float, state: str, word: str
) -> None:
    """A slow answer excuses as much as it hides."""
    finding = judge_clock("n2", "the master's", offset, doubt)
    assert finding.state == state
    assert f"{word} the master's" in finding.value
    assert bool(finding.mend) == (state == WRONG)


def test_who_does_not_answer_and_who_has_not_joined_is_named_once() -> None:
    """A node that is stopped while it is asked is then both, and one line."""
    silent = NodeFacts("n2", "b:5000", "present", None, 0.0, None)
    gone = Tried("the master", "n3", "c:5000", "port", "no answer within 5 s", 0.0)
    both = Tried("the master", "n2", "b:5000", "answer", "", 0.0)
    findings = [each for each in judge_fabric([node("n1"), silent], [gone, both], []) if each.state == WRONG]
    assert [(each.where, each.value) for each in findings] == [
        ("n3", "it has not joined: no answer within 5 s"),
        ("n2", "no answer in the time given"),
    ]
    assert "open TCP port 5000 for the master" in findings[0].mend


def test_a_node_that_drains_is_worth_knowing() -> None:
    """It was asked for."""
    finding = only(judge_fabric([node("n1"), node("n2")._replace(state="draining")], [], []))
    assert (finding.where, finding.state) == ("n2", NOTE)


@pytest.mark.parametrize(
    ("step", "text", "mend"),
    [
        ("name", "the name 'big' is not known here", "on n1: put big into /etc/hosts"),
        ("route", "No route to host", "on n1: ip route get big"),
        (
            "port",
            "no answer within 5 s",
            "on n2, and on what lies between: open TCP port 5000 for n1 (ufw allow 5000/tcp",
        ),
        ("port", "connection refused: nothing listens there", "on n2: start it (constellation node big:5000)"),
        ("TLS", "it closed the connection", "scp ~/.config/constellation/node.pem"),
        ("role", "it is bridge x: expected node", "big:5000"),
        ("credential", "it has refused this side", "on n2: the log says why"),
        ("answer", "it is stopped", "on n2: see whether it is stopped"),
    ],
)
def test_each_step_on_the_way_to_a_port_has_what_mends_it(step: str, text: str, mend: str) -> None:
    """Both ends and the address are named."""
    finding = judge_tried(Tried("n1", "n2", "big:5000", step, text, 0.0))
    assert (finding.where, finding.what, finding.value, finding.state) == (
        "n1 -> n2",
        f"{step} of big:5000",
        text,
        WRONG,
    )
    assert mend in finding.mend


def test_both_directions_of_a_pair_are_named() -> None:
    """One line for each direction that does not work, and none for one that does."""
    dials = [
        Tried("n1", "n2", "b:5", "port", "no answer within 5 s", 0.0),
        Tried("n2", "n1", "a:5", "", "", 0.001),
        Tried("n3", "n2", "b:5", "", "", 0.001),
    ]
    findings = judge_fabric([node("n1"), node("n2"), node("n3")], [], dials)
    assert only(findings).where == "n1 -> n2"
    assert any(each.value.startswith("1 of 2 other nodes reached it") for each in findings)


def test_an_address_of_a_file_says_how_far_one_came() -> None:
    """Without a credential no further than the port."""
    whole, port = judge_file([Tried("here", "n1", "a:5", "", "", 0.002), Tried("here", "n2", "b:5", "", "", 0.0)])
    assert whole.value == "answered in 2.0 ms"
    assert "for want of a credential" in port.value
