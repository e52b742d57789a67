"""What ``constellation plugins new`` writes: a distribution that works as it is, to be changed step by step.

The texts lie in ``skeletons/``; a test generates each kind, installs it and runs its tests.
"""

from __future__ import annotations

import os
import re
from string import Template
from typing import NamedTuple

import constellation
from constellation.core.contracts import CONTRACT_VERSION
from constellation.core.errors import UsageError
from constellation.core.finding import DEFAULT_NAMES

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "skeletons")
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

_ECHO = """\
from constellation import Receiver, Sender, init, parent, spawn

def child() -> None:
    Sender(parent()).send({"number": 12, "rest": [None, True, 0.5, "text", b"bytes"]}).block()

init()
value = Receiver(spawn(child).block()).recv().block()
print("came through:", value == {"number": 12, "rest": [None, True, 0.5, "text", b"bytes"]})"""
_SPAWNS = """\
from constellation import Resources, init, spawn, watch

def child() -> None:
    pass

init(capacity=Resources(mem="1 GiB", cpu=2))
ends = [watch(spawn(child, resources=Resources(mem="400 MiB", cpu=0.1)).block()) for _ in range(5)]
print("all ended well:", all(end.block().ok for end in ends))"""


class _Kind(NamedTuple):
    """One kind of plugin that can be begun."""

    summary: str
    tests: str
    arguments: str = ""
    """Of the constructor, in the tests."""
    program: str = ""
    words: str = ""
    """Of the command line that runs it, besides --plugin."""
    printed: str = ""


_KINDS = {
    "transport": _Kind("A transport for constellation: links over socketpairs", "test_suite", "1 << 20", _ECHO,
                       "", "came through: True"),
    "serializer": _Kind("A serializer for constellation: plain data as tagged bytes, safe on foreign ones",
                        "test_suite", "100", _ECHO, "", "came through: True"),
    "scheduler": _Kind("A scheduler for constellation: the first node that has room, or the last",
                       "test_suite", '"first"', _SPAWNS, "", "all ended well: True"),
    "launcher": _Kind("A launcher for constellation: nodes as background processes", "test_launcher"),
    "news": _Kind("News of constellation: every start and end of a process as a line of JSON", "test_news"),
}  # fmt: skip
KINDS = tuple(_KINDS)


def write(name: str, kind: str, folder: str) -> list[str]:
    """Write a distribution.

    Args:
        name: Of the plugin, as ``--plugin`` will take it.
        kind: One of `KINDS`.
        folder: Where to; must not exist.

    Returns:
        The files written.

    Raises:
        UsageError: The name cannot be used.
        FileExistsError: The folder exists.
    """
    if not _NAME.fullmatch(name) or name in DEFAULT_NAMES:
        raise UsageError(
            f"cannot name a plugin {name!r}: expected small letters and digits, parts joined by '-', "
            f"and none of {', '.join(sorted(DEFAULT_NAMES))}"
        )
    made = _KINDS[kind]
    module = name.replace("-", "_")
    words = {
        "name": name,
        "kind": kind,
        "Kind": kind.capitalize(),
        "KIND": kind.upper(),
        "Class": "".join(part.capitalize() for part in name.split("-")),
        "package": f"constellation_{module}",
        "distribution": f"constellation-{name}",
        "summary": made.summary,
        "constellation": ".".join(constellation.__version__.split(".")[:2]),
        "contract": str(CONTRACT_VERSION),
        "arguments": made.arguments,
        "program": made.program,
        "words": made.words,
        "printed": made.printed,
    }
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{words['package']}/__init__.py": f"{kind}.py",
        f"tests/test_{module}.py": f"{made.tests}.py",
    }
    os.makedirs(folder)
    written = []
    for path, source in files.items():
        target = os.path.join(folder, path)
        os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
        with open(os.path.join(FOLDER, f"{source}.txt"), encoding="utf-8") as file:
            text = Template(file.read()).substitute(words)
        with open(target, "w", encoding="utf-8") as file:
            file.write(text)
        written.append(target)
    py_typed = os.path.join(folder, words["package"], "py.typed")
    with open(py_typed, "w", encoding="utf-8"):
        pass
    return [*written, py_typed]
