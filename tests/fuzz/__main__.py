"""Fuzz for a time: `python -m tests.fuzz [SECONDS]`. Prints each input that makes something fail, and exits with 1 then."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
import traceback

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.targets import TARGETS, Target

ROUND = 300
"""Inputs that a target gets before it is the next one's turn."""


def fuzz(target: Target, number: int) -> str | None:
    """Give a target one round of inputs.

    Args:
        target: What is fuzzed.
        number: The seed.

    Returns:
        The smallest input that fails, with what it fails with; None: all is well.
    """
    last: list[object] = []

    @seed(number)
    @settings(
        max_examples=ROUND,
        derandomize=False,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(target.inputs)
    def check(data: object) -> None:
        last[:] = [data]
        target.check(data)

    try:
        check()
    except Exception:
        return f"{target.name}, seed {number}: {last[0]!r}\n{traceback.format_exc()}"
    return None


def main() -> int:
    """Fuzz all targets in turn until the time is over."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Hostile bytes into everything that reads some."
    )
    parser.add_argument("seconds", nargs="?", type=float, default=600.0, help="how long; 600 by default")
    parser.add_argument("--seed", type=int, help="begin with this one; a random one by default, which is printed")
    parser.add_argument("--only", default="", metavar="WORD", help="only targets whose name has it")
    options = parser.parse_args()
    targets = [target for target in TARGETS if options.only in target.name]
    number = options.seed if options.seed is not None else secrets.randbelow(1 << 32)
    print(f"fuzzing {len(targets)} targets for {options.seconds:g} s, from seed {number}", flush=True)
    until = time.monotonic() + options.seconds
    inputs = dict.fromkeys((target.name for target in targets), 0)
    failed: dict[str, str] = {}
    while time.monotonic() < until and len(failed) < len(targets):
        for target in targets:
            if target.name in failed or time.monotonic() >= until:
                continue
            fault = fuzz(target, number)
            inputs[target.name] += ROUND
            if fault is not None:
                failed[target.name] = fault
                print(f"FAILED {fault}", flush=True)
        number += 1
    for name, count in inputs.items():
        print(f"{name}: {count} inputs{', FAILED' if name in failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
