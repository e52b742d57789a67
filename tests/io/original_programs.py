"""The test programs of the original, in `tests/programs`: what each must show, and how the trees of two runs are compared.

In each file stands what is expected, in comments that begin with ``#:``, a line for each process, indented below its parent:

    #: 'text on stdout' err r'expression for stderr' -> exit
    #:     10 x 'of each of ten children' -> 0

``exit`` is a code or the name of a signal. Texts are Python's literals, ``bytes`` stands for each byte once, in order; where ``err``
is left out, stderr is empty. Which child came first is nobody's promise, so children are compared without order. Lines such as
``(()())`` below ``#: shape`` stand for processes that write nothing and end with 0, a pair of brackets each. ``#: arguments [...]``
gives the program's arguments.

A run is told by its JSON events, however it was run: `run` does it natively, a deployment gives the same events.
"""

from __future__ import annotations

import ast
import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).resolve().parents[1] / "programs"
PROGRAMS = sorted(FOLDER.glob("*.py"))
_LINE = re.compile(r"#: (?P<indent> *)(?:(?P<count>\d+) x )?(?P<texts>.*) -> (?P<exit>\w+)")


class Tree(NamedTuple):
    """What a process and those below it have left."""

    out: bytes
    err: bytes
    """Of an expectation: an expression for it."""
    exit: str
    children: tuple[Tree, ...] = ()

    def number(self) -> int:
        """How many processes there are."""
        waiting, found = [self], 0
        while waiting:
            found += 1
            waiting += waiting.pop().children
        return found

    def depth(self) -> int:
        """How many stand below each other at most."""
        level, found = [self], 0
        while level:
            found += 1
            level = [child for each in level for child in each.children]
        return found


class Expectation(NamedTuple):
    """What stands in a program's file."""

    tree: Tree
    arguments: tuple[str, ...]


class Ran(NamedTuple):
    """What a run has left."""

    events: tuple[Mapping[str, Any], ...]
    code: int
    err: str
    """What came on stderr beside the events: nothing, usually."""


def expectation(program: Path) -> Expectation:
    """Read what a program must show."""
    text = program.read_text(encoding="utf-8")
    arguments = re.search(r"^#: arguments (.*)$", text, re.MULTILINE)
    given = tuple(ast.literal_eval(arguments[1])) if arguments else ()
    shape = re.search(r"^#: shape\n((?:#: +[()]+\n)+)", text, re.MULTILINE)
    if shape is not None:
        return Expectation(_of_shape(re.sub(r"[^()]", "", shape[1])), given)
    lines = [line for line in text.splitlines() if line.startswith("#:") and not line.startswith("#: arguments")]
    read = [_LINE.fullmatch(line) for line in lines]
    assert read, f"{program.name} has no line with #:"
    assert all(read), f"{program.name}: cannot read {lines[read.index(None)] if None in read else ''}"
    trees = _of_lines([line for line in read if line is not None])
    assert len(trees) == 1, f"{program.name} has {len(trees)} first processes"
    return Expectation(trees[0], given)


def _of_lines(lines: list[re.Match[str]]) -> list[Tree]:
    trees: list[Tree] = []
    while lines:
        head = lines.pop(0)
        inside = []
        while lines and len(lines[0]["indent"]) > len(head["indent"]):
            inside.append(lines.pop(0))
        out, _, err = head["texts"].partition(" err ")
        tree = Tree(_bytes(out), _bytes(err or "''"), head["exit"], tuple(_of_lines(inside)))
        trees += [tree] * int(head["count"] or 1)
    return trees


def _bytes(literal: str) -> bytes:
    if literal == "bytes":
        return bytes(range(256))
    value = ast.literal_eval(literal)
    return value if isinstance(value, bytes) else value.encode()


def _of_shape(shape: str) -> Tree:
    """A tree without words; without recursion, for it may be deep."""
    open_: list[list[Tree]] = [[]]
    for bracket in shape:
        if bracket == "(":
            open_.append([])
        else:
            children = open_.pop()
            open_[-1].append(Tree(b"", b"", "0", tuple(children)))
    (tree,) = open_[0]
    return tree


def shape_of(tree: Tree) -> str:
    """The shape of a tree, children of equal shape beside each other: what `_of_shape` reads."""
    return str(_fold(tree, lambda _each, inside: "(" + "".join(sorted(inside)) + ")"))


def _fold(tree: Tree, join: Any) -> Any:
    """Bring a tree together from below, without recursion."""
    order, waiting = [], [tree]
    while waiting:
        order.append(waiting.pop())
        waiting += order[-1].children
    found: dict[int, Any] = {}
    for each in reversed(order):
        found[id(each)] = join(each, [found[id(child)] for child in each.children])
    return found[id(tree)]


def tree_of(events: Iterable[Mapping[str, Any]]) -> Tree:
    """The tree that the events of a run tell; every process must have been spawned, and have ended once."""
    streams: dict[str, dict[int, bytes]] = {}
    ends: dict[str, str] = {}
    parents: dict[str, str | None] = {}
    for event in events:
        which = event["pid"]
        if event["event"] == "spawn":
            assert which not in parents, f"{which} was spawned twice"
            parents[which] = event["parent"]
            streams[which] = {1: b"", 2: b""}
        elif event["event"] == "output":
            data = event["data"]
            streams[which][event["fd"]] += base64.b64decode(data) if event["encoding"] == "base64" else data.encode()
        else:
            assert which not in ends, f"{which} ended twice"
            ends[which] = event["signal"] or str(event["code"])
    assert set(ends) == set(parents), f"without an end: {set(parents) - set(ends)}"
    children: dict[str | None, list[str]] = {}
    for which, above in parents.items():
        children.setdefault(above, []).append(which)
    (first,) = children[None]
    order, waiting = [], [first]
    while waiting:
        order.append(waiting.pop())
        waiting += children.get(order[-1], [])
    made: dict[str, Tree] = {}
    for which in reversed(order):
        below = tuple(made[each] for each in children.get(which, []))
        made[which] = Tree(streams[which][1], streams[which][2], ends[which], below)
    return made[first]


def difference(tree: Tree, expected: Tree) -> str | None:
    """Say how a tree differs from what is expected; None if it does not."""
    if not tree.err and shape_of(tree) == shape_of(expected) and _plain(tree) == _plain(expected):
        return None
    return _difference(tree, expected, "the first process")


def _plain(tree: Tree) -> Any:
    """A tree as a text that does not depend on the order of children."""
    return _fold(tree, lambda each, inside: f"[{each.out!r} {each.err!r} {each.exit} {''.join(sorted(inside))}]")


def _difference(tree: Tree, expected: Tree, who: str) -> str | None:
    if tree.out != expected.out:
        return f"{who} wrote {tree.out!r}: expected {expected.out!r}"
    if not re.fullmatch(expected.err, tree.err, re.DOTALL):
        return f"{who} wrote {tree.err!r} on stderr: expected {expected.err!r}"
    if tree.exit != expected.exit:
        return f"{who} ended with {tree.exit}: expected {expected.exit}"
    if len(tree.children) != len(expected.children):
        return f"{who} has {len(tree.children)} children: expected {len(expected.children)}"
    left = list(expected.children)
    for child in tree.children:
        fitting = next((each for each in left if _difference(child, each, "") is None), None)
        if fitting is None:
            return _difference(child, left[0], f"a child of {who}")
        left.remove(fitting)
    return None


def exit_code(tree: Tree) -> int:
    """The exit code of a run with this tree: 0, what the failed have in common, else 1."""
    codes: set[int] = set()
    waiting = [tree]
    while waiting:
        each = waiting.pop()
        waiting += each.children
        if each.exit != "0":
            codes.add(int(each.exit) if each.exit.isdigit() else 134 if each.exit == "SIGABRT" else -1)
    return 0 if not codes else codes.pop() if len(codes) == 1 else 1


def command(program: Path, how: str, arguments: Iterable[str]) -> list[str]:
    """The command for one way of running: ``python`` or ``run``."""
    head = {
        "python": [sys.executable],
        "run": [sys.executable, "-m", "constellation", "run", "--format", "json"],
    }[how]
    return [*head, str(program), *arguments]


def run(program: Path, how: str, environment: Mapping[str, str], *, seconds: float = 100.0) -> Ran:
    """Run a program natively.

    Args:
        program: The file.
        how: ``python`` or ``run``.
        environment: Of the run.
        seconds: How long it may take.
    """
    done = subprocess.run(
        command(program, how, expectation(program).arguments),
        env={**environment, "CONSTELLATION_FORMAT": "json"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds,
        check=False,
    )
    return read_run(done.stdout, done.stderr, done.returncode)


def read_run(out: bytes, err: bytes, code: int) -> Ran:
    """What a run has left, from what it printed with ``--format json``."""
    return Ran(tuple(json.loads(line) for line in out.splitlines()), code, err.decode(errors="replace"))


def check(ran: Ran, program: Path) -> None:
    """Hold a run against what stands in the program's file."""
    wanted = expectation(program).tree
    wrong = difference(tree_of(ran.events), wanted)
    assert wrong is None, f"{program.name}: {wrong}"
    assert ran.err == ""
    assert ran.code == exit_code(wanted)
