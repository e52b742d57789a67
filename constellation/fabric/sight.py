"""What can be seen of processes from outside, for "why does it wait?": who is stopped, whose output nobody reads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from constellation.core.resources import format_mem
from constellation.fabric.proc import state_of

if TYPE_CHECKING:
    from constellation.fabric.monitor import Monitor
    from constellation.fabric.node import Node
    from constellation.fabric.writer import Writer

NOT_READ_S = 0.5
"""For so long a write to our stdout must have waited before it is said that nobody reads there."""


class Sight:
    """What the fabric sees of the processes on its computer.

    Args:
        node: Has the processes.
        monitor: Has their pipes.
        writer: Has our stdout.
    """

    def __init__(self, node: Node, monitor: Monitor, writer: Writer) -> None:
        self._node = node
        self._monitor = monitor
        self._writer = writer

    def look(self) -> tuple[list[str], dict[bytes, str]]:
        """What is true of the whole, and the state of each process, in words."""
        whole = []
        waited = self._writer.waited
        if waited >= NOT_READ_S:
            whole.append(
                f"nobody reads our {'stderr' if self._writer.writes_to == 2 else 'stdout'}: "
                f"{format_mem(self._writer.unwritten)} wait to be written, since {waited:.1f} s"
            )
        states: dict[bytes, str] = {}
        above: dict[int, None] = {}
        for process in self._node.living:
            state = state_of(process.os_pid) if process.os_pid else None
            if state is None:
                continue
            if not process.is_attached and state.parent != os.getpid():
                above[state.parent] = None
            if state.is_stopped:
                states[process.key] = f"is stopped (kill -CONT {process.os_pid} lets it go on)"
            elif self._monitor.is_full(process):
                states[process.key] = "waits until its output is read"
        for os_pid in above:
            state = state_of(os_pid)
            if state is not None and state.is_stopped:
                whole.append(f"the template is stopped: nothing is started (kill -CONT {os_pid} lets it go on)")
        return whole, states
