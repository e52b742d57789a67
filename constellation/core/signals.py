"""Names and numbers of signals, the real-time ones included, which have no name of their own in Python."""

from __future__ import annotations

import signal


def signal_name(number: int) -> str:
    """The name of a signal: ``SIGKILL``, ``SIGRTMIN+1``; ``signal 99`` where the kernel has no name for it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        if signal.SIGRTMIN < number < signal.SIGRTMAX:
            return f"SIGRTMIN+{number - signal.SIGRTMIN}"
        return f"signal {number}"


def signal_number(name: str) -> int | None:
    """The number of what `signal_name` gave, or None."""
    known = signal.Signals.__members__.get(name)
    if known is not None:
        return int(known)
    for prefix, base in (("SIGRTMIN+", int(signal.SIGRTMIN)), ("signal ", 0)):
        digits = name.removeprefix(prefix)
        if digits != name and digits.isdecimal() and len(digits) <= 3:
            return base + int(digits)
    return None
