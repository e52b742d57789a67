"""Run one peer on one workload: `python -m benchmarks.peers PEER WORKLOAD [SCALE]`.

The imports stand inside the branches: multiprocessing imports this module again in its children, and a peer must not
look slow or large because of another one's modules.
"""

from __future__ import annotations

import sys


def main(peer: str, workload: str, scale: float) -> None:
    """Run one peer.

    Args:
        peer: The peer's name in `benchmarks.plan`.
        workload: The workload's name there.
        scale: As in `measure.scaled`.
    """
    match peer.split("-"):
        case ["tcp" | "unix", *_]:
            from benchmarks.peers.sockets import run as run_sockets

            run_sockets(peer, workload, scale)
        case ["pipe"]:
            from benchmarks.peers.pipes import run as run_pipe

            run_pipe(workload, scale)
        case ["zmq", carrier]:
            from benchmarks.peers.zeromq import run as run_zmq

            run_zmq(carrier, workload, scale)
        case ["asyncio" | "uvloop"]:
            from benchmarks.peers.streams import run as run_streams

            run_streams(peer, scale)
        case ["fork" | "forkserver" | "spawn"]:
            from benchmarks.peers.starting import run as run_starting

            run_starting(peer, workload, scale)
        case ["dask" | "ray"]:
            from benchmarks.peers.clusters import run as run_cluster

            run_cluster(peer)
        case _:
            raise SystemExit(f"no peer {peer!r}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 1.0)
