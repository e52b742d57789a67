"""Fabrics of others on one computer: Dask's LocalCluster and Ray, each with three workers, from nothing until it takes work."""

from __future__ import annotations

import importlib
import time
from typing import Any

from benchmarks.measure import FABRIC_NODES, report

READY = f"fabric of {FABRIC_NODES} nodes, start to ready"


def run(peer: str) -> None:
    """Measure one of them: the import, which a person waits for too, is counted as it is with our commands.

    Args:
        peer: ``dask`` or ``ray``.
    """
    began = time.perf_counter()
    if peer == "dask":
        _dask(began)
    else:
        _ray(began)


def _dask(began: float) -> None:
    dask: Any = importlib.import_module("distributed")
    with (
        dask.LocalCluster(n_workers=FABRIC_NODES, threads_per_worker=1, dashboard_address=None) as cluster,
        dask.Client(cluster) as client,
    ):
        client.wait_for_workers(FABRIC_NODES)
        report(READY, time.perf_counter() - began, "s", "dask")


def _ray(began: float) -> None:
    ray: Any = importlib.import_module("ray")  # neither of the two is a dependency, not even of the checks
    ray.init(num_cpus=FABRIC_NODES, include_dashboard=False, log_to_driver=False)
    try:
        report(READY, time.perf_counter() - began, "s", "ray")
    finally:
        ray.shutdown()
