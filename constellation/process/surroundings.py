"""Where init() is called: may this process be replaced by a tree, and can its program be run again?"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from constellation.process import kernel


class Surroundings(NamedTuple):
    """What `look` finds."""

    main: str | None
    """The program that can be run again: its file or module; None for a REPL, a notebook, a test runner, ``-c``."""
    function: str
    """The first process's function in the output: ``prog:__main__``."""
    may_fork: bool
    """Whether the chain of forks is safe here."""


def look() -> Surroundings:
    """Find out. Makes a trial fork where there are several threads."""
    main = _program()
    may_fork = (
        main is not None and not _in_event_loop() and (kernel.thread_count() == 1 or kernel.threads_after_fork() == 1)
    )
    return Surroundings(main, f"{_name(main)}:__main__", may_fork)


def _program() -> str | None:
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    # sys.ps1 exists at a prompt only; IPython and its kernels leave another mark.
    if path is None or sys.flags.interactive or hasattr(sys, "ps1") or "get_ipython" in vars(main):
        return None
    spec = getattr(main, "__spec__", None)
    name = spec.name.removesuffix(".__main__") if spec is not None else "__main__"
    program = path if name == "__main__" else name
    return None if _is_test_runner(name, path) else program


def _is_test_runner(name: str, path: str) -> bool:
    # The variable is inherited by programs that a test starts: these have no pytest in them.
    if "_pytest" not in sys.modules:
        return False
    return "PYTEST_CURRENT_TEST" in os.environ or name == "pytest" or os.path.basename(path) in {"pytest", "py.test"}


def _in_event_loop() -> bool:
    asyncio_events = sys.modules.get("asyncio.events")
    if asyncio_events is not None and asyncio_events._get_running_loop() is not None:
        return True
    trio_run = sys.modules.get("trio._core._run")
    return trio_run is not None and hasattr(trio_run.GLOBAL_RUN_CONTEXT, "runner")


def _name(main: str | None) -> str:
    if main is None:
        if "_pytest" in sys.modules:
            return "pytest"
        return "notebook" if "ipykernel" in sys.modules else "python"
    base = os.path.basename(main)
    if base == "__main__.py":
        base = os.path.basename(os.path.dirname(os.path.abspath(main)))
    return base.removesuffix(".py")
