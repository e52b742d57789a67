"""Whether a uvloop loop can go on by itself.

It has its timers, descriptors and callbacks in C, and shows them to nobody but the garbage collector, which must know
all that an object holds. So they are asked for there, and told apart by their kind. What is not seen so must not be
taken for nothing: our own descriptor and a timer have to be found where they are, or nothing is said; and names that are
looked up are in threads of libuv's, seen as such only, so a loop that has these never counts as idle.
"""

from __future__ import annotations

import gc
import os
import socket
from collections import deque
from collections.abc import Collection
from typing import Any
from weakref import WeakValueDictionary

_FAR_S = 1e6
_WORKER = "libuv-worker"


def is_idle(loop: Any, own: int, own_timers: Collection[Any]) -> bool:
    """Whether nothing will be called by a loop but what is called for one descriptor. False where that cannot be known.

    Args:
        loop: Any event loop of asyncio's kind; to be called in its thread.
        own: The descriptor.
        own_timers: Those that do not count; one that calls this is still among those that the loop has.
    """
    if type(loop).__module__.partition(".")[0] != "uvloop":
        return False
    probe = loop.call_later(_FAR_S, _nothing)
    try:
        held = gc.get_referents(loop)
        wakes = {each.fileno() for each in held if isinstance(each, socket.socket)}  # signals wake it by these
        timers = [each for each in held if isinstance(each, set) and probe in each]
        readers = [each for each in held if isinstance(each, dict) and own in each]
        if not (timers and readers) or _looks_up_names():
            return False
        return all(_is_nothing(each, {own, *wakes}, {probe, *own_timers}) for each in held)
    finally:
        probe.cancel()


def _is_nothing(held: Any, descriptors: set[int], timers: set[Any]) -> bool:
    """Whether something that a loop holds will not make it call anything."""
    if isinstance(held, deque):
        return not held  # callbacks that are due
    if isinstance(held, set):  # timers, processes, servers
        return held <= timers
    if isinstance(held, WeakValueDictionary):
        return all(transport.is_closing() for transport in list(held.values()))
    if isinstance(held, dict):  # what is watched by descriptor; handlers of signals, by their numbers
        return held.keys() <= descriptors and not any(type(each).__name__ == "Handle" for each in held.values())
    return True


def _looks_up_names() -> bool:
    names = []
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/comm") as file:
                names.append(file.read().strip())
        except OSError:
            continue  # it has ended meanwhile
    return _WORKER in names


def _nothing() -> None:
    """Never called."""
