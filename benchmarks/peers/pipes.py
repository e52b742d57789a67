"""multiprocessing.Pipe between two processes."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any

from benchmarks import links

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


class PipeLink:
    """The methods of a Connection, without a layer between."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self.send = connection.send
        self.recv = connection.recv
        self.ready = connection.poll

    def flush(self) -> None:
        """Do nothing: each send has left."""


def run(workload: str, scale: float) -> None:
    """Measure one workload between this process and a forked one.

    Args:
        workload: As in `links.near`.
        scale: As in `measure.scaled`.
    """
    context = multiprocessing.get_context("fork")
    near, far = context.Pipe()
    process = context.Process(target=links.far, args=(PipeLink(far), workload, scale))
    process.start()
    links.near(PipeLink(near), workload, scale)
    process.join()
