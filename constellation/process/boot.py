"""The command lines of the interpreters that a program starts: fabric, keeper, template; isolated (core/interpreter.py)."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import msgpack
import pluggy

from constellation.core.interpreter import preface

_FABRIC = """\
from constellation.fabric.main import main
sys.exit(main(int(sys.argv[2])))
"""
_KEEPER = """\
from constellation.fabric.keeper import main
sys.exit(main(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
"""
# Both roles out of one interpreter: a caller that has threads must not fork by itself.
_BOTH = """\
import ctypes, os
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER, before there is anybody to be orphaned
config, keeper_end, book = int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
pid = os.fork()
if pid == 0:
    os.close(keeper_end)
    from constellation.fabric.main import main
    sys.exit(main(config))
os.close(config)
from constellation.fabric.keeper import main
sys.exit(main(pid, keeper_end, book))
"""
_TEMPLATE = """\
import json, os
sys.path[:] = json.loads(sys.argv[2])
from constellation.process.template import run_bare
run_bare(json.loads(sys.argv[3]))
"""


def fabric_command(config: int) -> list[str]:
    """The fabric: node, master, bridge and monitor, told all by the descriptor of its configuration."""
    return [sys.executable, "-I", "-c", preface(msgpack, pluggy) + _FABRIC, "fabric", str(config)]


def keeper_command(fabric: int, keeper_end: int, book: int) -> list[str]:
    """The keeper of a fabric with this OS pid; holds the only write end of the pipe that the fabric watches."""
    return [
        sys.executable,
        "-I",
        "-S",
        "-c",
        preface(msgpack, pluggy) + _KEEPER,
        "keeper",
        str(fabric),
        str(keeper_end),
        str(book),
    ]


def attached_command(config: int, keeper_end: int, book: int) -> list[str]:
    """A keeper that forks its fabric itself."""
    return [
        sys.executable,
        "-I",
        "-c",
        preface(msgpack, pluggy) + _BOTH,
        "keeper",
        str(config),
        str(keeper_end),
        str(book),
    ]


def bare_template_command(config: dict[str, Any]) -> list[str]:
    """A template without a program: functions come to it by value."""
    return [
        sys.executable,
        *_flags(),
        "-c",
        preface(msgpack, pluggy) + _TEMPLATE,
        "template",
        json.dumps(sys.path),
        json.dumps(config),
    ]


def program_command() -> list[str]:
    """The program's own command line, to be run again, without a debugger or coverage around it."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    original = sys.orig_argv
    name = spec.name.removesuffix(".__main__") if spec is not None else "__main__"
    if name != "__main__":  # the name that a folder or a zip file has
        found = [at for at in range(1, len(original)) if original[at - 1] == "-m" and original[at] == name]
        target = ["-m", name]
    else:
        path = os.path.abspath(main.__file__ or "")
        found = [at for at in range(1, len(original)) if os.path.abspath(original[at]) in {path, os.path.dirname(path)}]
        target = [original[found[0]] if found else path]
    # The program may have changed sys.argv by now; what it was given stands in the original line.
    arguments = original[found[0] + 1 :] if found else sys.argv[1:]
    return [sys.executable, *_flags(), *target, *arguments]


def _flags() -> list[str]:
    import subprocess  # late: a plain script never comes here

    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing
    return flags
