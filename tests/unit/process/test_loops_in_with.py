"""The loops of the hot path leave no hole in the blocks around them (process/reactor.py says which kind would)."""

from __future__ import annotations

import dis
import importlib
import inspect
import types
from collections.abc import Iterator

import pytest

MODULES = ("asynchrony", "channel", "control", "incoming", "operations", "outgoing", "peer", "reactor", "wire")
NEVER_IN_THE_MAIN_THREAD = {"Reactor.drive_aside", "Reactor._run_background", "Reactor._flush_for_others"}
"""No signal handler ever runs there."""


def code_of(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from code_of(constant)


@pytest.mark.parametrize("name", MODULES)
def test_a_jump_back_lies_inside_the_with_that_it_jumps_back_into(name: str) -> None:
    """Else a Ctrl-C at that jump would leave the block without its end: a lock would be held for ever."""
    module = importlib.import_module(f"constellation.process.{name}")
    holes = []
    for code in code_of(compile(inspect.getsource(module), name, "exec")):
        table = dis._parse_exception_table(code)  # type: ignore[attr-defined]  # no public way
        instructions = list(dis.get_instructions(code))
        ends_with = {one.offset for one in instructions if one.opname == "WITH_EXCEPT_START"}
        # A handler of `with` begins with PUSH_EXC_INFO, and WITH_EXCEPT_START follows.
        regions = [
            (entry.start, entry.end)
            for entry in table
            if any(entry.target < offset <= entry.target + 8 for offset in ends_with)
        ]
        for one in instructions:
            if one.opname == "JUMP_BACKWARD" and code.co_qualname not in NEVER_IN_THE_MAIN_THREAD:
                into = [(start, end) for start, end in regions if start <= one.argval < end]
                if into and not any(start <= one.offset < end for start, end in regions):
                    holes.append(f"{code.co_qualname}, line {one.positions.lineno if one.positions else '?'}")
    assert not holes
