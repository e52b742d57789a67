"""What `constellation deploy` sends: the program's folder, or only where it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from constellation.core.errors import UsageError


class Sent(NamedTuple):
    """A program, as the nodes will find it."""

    program: list[str]
    """Arguments of the interpreter, without those of the program."""
    root: str
    """Where the files are, for nodes that have them; empty where they are sent."""
    folder: str
    """The working folder, relative to the root."""
    manifest: list[Any]
    chunk: Callable[[bytes], bytes]


def collect(program: str, *, as_module: bool, in_place: bool) -> Sent:
    """Find out what a program needs.

    Args:
        program: A file, a folder, or a module's name.
        as_module: Whether it is a module's name.
        in_place: Whether the files stay where they are.

    Raises:
        UsageError: There is no such program.
    """
    if not as_module and not os.path.exists(program):
        raise UsageError(f"cannot deploy {program!r}: expected a file or folder that exists; a module is given with -m")
    started = ["-m", program] if as_module else [program]
    return Sent(started, os.getcwd(), "", [], _nothing)


def _nothing(digest: bytes) -> bytes:
    raise UsageError(f"no file has a part {digest.hex()}")
