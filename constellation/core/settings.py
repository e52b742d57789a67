"""Every limit and constant of time, with its reason. Sizes in bytes, times in seconds."""

from __future__ import annotations

from typing import Final

WIRE_VERSION: Final = 1
"""Of the frames on a link (docs/wire.md). Two sides with different numbers refuse each other."""

CREDIT: Final = 4 << 20
"""What a channel accepts before its sender waits. Large enough that a fast stream never waits for a grant to come back
(1 GiB/s times a scheduling delay of 4 ms); CONSTELLATION_CREDIT changes it."""

WINDOW: Final = 64 << 10
"""What a receiver holds for every channel without being asked, whatever its budget says."""

BUDGET_FLOOR: Final = 3 << 19
"""1.5 MiB: what a runtime may buffer over all channels, beyond their windows, however small its ``mem`` is."""

BUDGET_SHARE: Final = 4
"""The divisor of ``mem`` that gives the same for larger demands."""

DRAIN_LIMIT: Final = 256 << 20
"""What a receiver takes in from a process that is about to leave, over all its channels."""

LINGER: Final = 60.0
"""How long a process that has returned waits for its peers to take what it sent (CONSTELLATION_LINGER)."""

GRACE: Final = 5.0
"""Between asking a process to end and killing it (CONSTELLATION_GRACE)."""

CHUNK: Final = 256 << 10
"""Large values travel in chunks of this size, so that another channel's message waits for one chunk at most."""

INLINE: Final = 64 << 10
"""An encoded value up to this size is one frame; buffers that their owner could change are copied up to it."""

COMBINE_ITEM: Final = 4 << 10
"""A str or bytes up to this length may be queued with others and serialized as one list."""

COMBINE_BYTES: Final = 64 << 10
"""A list of queued values leaves when they are about this many bytes."""

COMBINE_TIME: Final = 100e-6
"""... or when the first one has waited for so long."""

COMBINE_AFTER: Final = 3
"""Quick sends in a row before values are queued: a lone value leaves at once."""

QUICK: Final = 40e-6
"""Two sends closer than this, without a wait between them, are quick."""

TICK: Final = 0.002
"""How often the background thread looks whether the foreground still drives, while it does."""

PATIENCE: Final = 0.05
"""A process whose operation has been pending for so long, and that used less than IDLE_CPU meanwhile, waits."""

IDLE_CPU: Final = 0.001

LONG_WAIT: Final = 0.25
"""After this, beyond PATIENCE, the node is told what a process waits for and where."""

LONGEST_POLL: Final = 1e6
"""The kernel counts milliseconds in an int, which ends after 24 days; who is woken too early waits again."""

STANDSTILL: Final = 5.0
"""For so long nothing may change before a deployment is said to stand still."""

SPIN: Final = 100e-6
"""How long a driver polls before it sleeps in the kernel, where that has paid lately. Waking a sleeping thread on another
core costs 25 us and more on a virtual machine; a reply to a small message takes 10 us."""

LARGEST_FRAME: Final = 1 << 20
"""A frame that announces more is a broken or hostile peer: values above INLINE travel in chunks."""

LARGEST_NAME: Final = 4096
"""Bytes of a channel's name, and of the text of its type."""

LARGEST_VALUE: Final = 1 << 48
"""A size above this is no size."""

MOST_PARTS: Final = 4096
"""Out-of-band buffers of one value; what has more is encoded in band."""
