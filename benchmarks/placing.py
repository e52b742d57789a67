"""The placement machine with its scheduler, alone: many demands on many nodes, most of them in use.

Demands of a few sizes are placed until the nodes are full to `FILL`; then each step gives one back and places another. No
process runs and no message travels: this is what the master computes for each spawn and each end. In CPU time, for it only
computes.
"""

from __future__ import annotations

import os
import random
import sys
from time import process_time_ns as cpu_now

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from benchmarks.measure import PLACED, PLACING_NODES, report, scaled  # noqa: E402  # the path had to be set before
from constellation.core.contracts import NodeView  # noqa: E402
from constellation.core.placement import Placed, Placement  # noqa: E402
from constellation.core.resources import MILLIONTHS, Resources  # noqa: E402
from constellation.schedulers.bin_packing import BinPacking  # noqa: E402

GIB = 1 << 30
CAPACITIES = [(16, 4), (32, 8), (64, 16), (128, 32)]
"""GiB and cores of nodes."""
DEMANDS = [(1, 0.25), (2, 0.5), (2, 1), (4, 1), (8, 2), (16, 2)]
FILL = 0.8


def place(nodes: int, demands: int, seed: int) -> tuple[float, float]:
    """Give the microseconds of CPU time that it takes to place one demand, and to give one back.

    Args:
        nodes: How many.
        demands: How many.
        seed: Of the sizes and of the order in which they are given back.
    """
    rng = random.Random(seed)
    machine = Placement(BinPacking(), limited=True)
    whole = 0
    for number in range(nodes):
        mem, cpu = rng.choice(CAPACITIES)
        capacity = Resources.exact(mem * GIB, cpu * MILLIONTHS)
        machine.node_joined(NodeView(number, f"node{number}", capacity, capacity))
        whole += mem
    kinds = [(mem, Resources.exact(mem * GIB, int(cpu * MILLIONTHS))) for mem, cpu in DEMANDS]
    held: list[tuple[int, int]] = []
    used = 0
    placing = releasing = releases = 0
    for number in range(demands):
        mem, demand = rng.choice(kinds)
        at = -1
        if used > FILL * whole:
            at = rng.randrange(len(held))
            began = cpu_now()
            machine.released(held[at][0], 0.0)
            releasing += cpu_now() - began
            releases += 1
        began = cpu_now()
        effects = machine.submit(number, demand, True, 0.0)
        placing += cpu_now() - began
        if at >= 0:
            used -= held[at][1]
            held[at] = held[-1]
            held.pop()
        if not isinstance(effects[0], Placed):
            machine.cancel(number, 0.0)
            continue
        held.append((number, mem))
        used += mem
    return placing / demands / 1e3, releasing / max(1, releases) / 1e3


def main(scale: float) -> None:
    """Measure each number of nodes, and how it grows."""
    demands = scaled(PLACED, scale)
    took = {}
    for nodes in PLACING_NODES:
        took[nodes], given_back = place(nodes, demands, 1)
        report(f"placement on {nodes:,} nodes", took[nodes], "µs")
        report(f"placement on {nodes:,} nodes: given back", given_back, "µs")
    least, most = min(PLACING_NODES), max(PLACING_NODES)
    report(f"placement: times as long on {most:,} nodes as on {least:,}", took[most] / took[least], "")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
