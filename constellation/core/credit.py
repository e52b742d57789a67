"""The credit of a channel, as two machines without I/O: who may send how much, and when the receiver says so.

All numbers are bytes of encoded values, counted from the channel's beginning: absolute, so a frame that is handled twice
changes nothing the second time. A value counts as a whole.

Sender. A value is *accepted* (its send completes) while what is accepted and has not been taken, as far as the sender
knows, is within the credit and one window: `accepts`. It may *leave* while what has been sent is within what was
granted; what is accepted and may not leave waits at the sender. When the first of these does not fit, the sender says
WANT, once. A value above the credit is accepted at any time, and its send completes when its last byte has left: it
leaves only when it is granted, so the receiver takes memory for what it asked for.

The sender does not know all that has been taken: up to a quarter of the window is not reported, and the window may be as
wide as the credit. A value near the credit would wait for ever for a channel that is idle. So where less than a quarter
of the credit is accepted and not known to be taken, any value up to the credit is accepted. (Reporting more often costs
a stream of values of 200 KB three quarters of its throughput: each GRANT wakes the sender's process.)

Receiver. It grants one `window` more than what has been taken: at first `settings.WINDOW`, unasked. To a sender that
wants more it gives the whole credit as the window, where the runtime's budget has room (it *widens*). It grants all that
a sender wants when somebody waits in a recv, whatever the budget says: the value goes straight to him. For a sender that
is about to leave it grants up to a limit (`settings.DRAIN_LIMIT`). What has been taken is reported by a GRANT when it is
a quarter of the window: a stream then never waits for a GRANT to come back.

So at most the credit and a quarter (or the credit and a window) is accepted and not taken, a value up to the credit needs
no posted recv on an idle channel, and whoever waits in a recv gets his value: tests/unit/core/test_credit.py.

`process/outgoing.py` and `process/incoming.py` keep these numbers in their own slots. On slow paths they call the
functions here; the hot paths have the same rule written out, and the tests hold them to it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from constellation.core import settings

_WINDOW: Final = settings.WINDOW


# The sender's rules


def accepts(size: int, accepted: int, consumed: int, credit: int) -> bool:
    """Whether a value is accepted now."""
    ahead = accepted - consumed
    return ahead + size <= credit + _WINDOW or ahead < credit >> 2 or size > credit


def room(accepted: int, sent: int, consumed: int, granted: int, credit: int) -> int:
    """Bytes that may be accepted and leave at once, where nothing waits to leave."""
    return min(granted - sent, credit + _WINDOW - (accepted - consumed))


# The receiver's rules


def is_due(unreported: int, window: int) -> bool:
    """Whether to report what has been taken since the last report, the value that is being taken included."""
    return unreported >= window >> 2


def total_for(want: int, taken: int, window: int, is_whole: bool) -> int:
    """The number to grant to a sender that wants ``want`` bytes in all; ``is_whole`` where it gets all that it wants."""
    return max(want, taken + window) if is_whole else taken + window


# The machines


class Grant(NamedTuple):
    """A GRANT frame: bytes that may have been sent in all, bytes that have been taken."""

    granted: int
    taken: int


class SenderSide:
    """The numbers of one incarnation of a channel, at its sender.

    Args:
        credit: What the channel accepts, in bytes.
    """

    __slots__ = ("accepted", "consumed", "credit", "granted", "sent", "wanted")

    def __init__(self, credit: int) -> None:
        self.credit = credit
        self.accepted = self.sent = self.consumed = self.wanted = 0
        self.granted = _WINDOW

    @property
    def room(self) -> int:
        """Bytes that may be accepted and leave at once, where nothing waits to leave."""
        return room(self.accepted, self.sent, self.consumed, self.granted, self.credit)

    def accept(self, size: int) -> bool:
        """Accept a value, or not yet."""
        if not accepts(size, self.accepted, self.consumed, self.credit):
            return False
        self.accepted += size
        return True

    def transmit(self, size: int) -> bool:
        """Let the next value leave, or not yet."""
        if self.sent + size > self.granted:
            return False
        self.sent += size
        return True

    def want(self, size: int) -> bool:
        """Whether to say WANT for the next value, which may not leave: once for each."""
        if self.wanted == self.sent + size:
            return False
        self.wanted = self.sent + size
        return True

    def on_grant(self, grant: Grant) -> None:
        """A GRANT has come."""
        self.granted = max(self.granted, grant.granted)
        self.consumed = max(self.consumed, min(grant.taken, self.sent))


class ReceiverSide:
    """The numbers of one incarnation of a channel, at its receiver.

    Args:
        credit: What the window is widened to, in bytes.
    """

    __slots__ = ("credit", "granted", "received", "reported", "taken", "wanted", "window")

    def __init__(self, credit: int) -> None:
        self.credit = credit
        self.window = self.granted = _WINDOW
        self.received = self.taken = self.reported = self.wanted = 0

    def arrive(self, size: int) -> bool:
        """A value has come; False where its sender had no right to send it."""
        self.received += size
        return self.received <= self.granted

    def take(self, size: int) -> Grant | None:
        """A value is taken."""
        self.taken += size
        return self._grant(self.taken + self.window) if is_due(self.taken - self.reported, self.window) else None

    def post(self) -> Grant | None:
        """Somebody begins to wait in a recv, and nothing is here."""
        return self._grant(self.wanted) if self.wanted > self.granted else None

    def on_want(self, size: int, is_whole: bool, may_widen: bool) -> Grant | None:
        """A WANT has come.

        Args:
            size: Bytes that wait at the sender.
            is_whole: Whether somebody waits in a recv, or the sender is leaving and there is room for what it holds.
            may_widen: Whether the runtime's budget has room.
        """
        self.wanted = self.received + size
        if may_widen:
            self.window = max(self.window, self.credit)
        total = total_for(self.wanted, self.taken, self.window, is_whole)
        if total >= self.wanted or self.taken != self.reported or self.window > _WINDOW:
            return self._grant(total)
        return None

    def _grant(self, total: int) -> Grant:
        self.granted = max(self.granted, total)
        self.reported = self.taken
        return Grant(self.granted, self.taken)
