"""When a link is taken down: the rule of BYE, BYE_TOO and OPEN, as a machine without I/O. One for each side of each link.

The node makes a link at the first use; the two processes take it down when neither has a channel with the other. Nothing
may be lost, so one side closes, and only when it knows that the other sends no more:

1. A side whose last channel has gone says BYE, with a number (how many times it has said so on this link).
2. A side that reads BYE n and has no channel either answers BYE_TOO n. From then on it sends no channel's frames here:
   its link is *given up*, and what it sends next goes over the link after this one.
3. Who reads BYE_TOO n, n being its last BYE and that one still standing, has read all that the other sent: it closes.
4. OPEN takes the sender's own BYE back. Who reads OPEN on a link that it has given up takes the link back: the answer
   BYE_TOO, if it is still on its way, then answers a BYE that does not stand any more, and is ignored by its number.
   (Without the number it would answer a later BYE, and close the link over what was sent in between.)
5. Both say BYE at once: both answer, and both close.

Frames of the receiving half (GRANT, REFUSE, FLUSHED) and FLUSH take no BYE back: whoever reads or writes BYE has no
channel that they could matter to, and BYE_TOO says that all before the BYE has been taken in, which is what FLUSH asks.

`Connecting` is the other half: at most one link at a time, and links have numbers. A side asks the node for a link after
the last that it knows of (`Connect.after`); the node ignores the request where a later one is on its way already. Who has
given a link up asks only when that one has ended, so no request can overtake a link that may still be taken back.

`process/peer.py` does what these two say. A method decides and changes nothing that the doing depends on; `done` is
called when it has been done: after a Ctrl-C in between the same is decided once more, and doing it twice is harmless.
`tests/unit/core/test_linklife.py` walks through every interleaving of two sides, the wires between them and the node.
"""

from __future__ import annotations

from typing import Final

NOTHING: Final = 0
SAY: Final = 1
"""Send BYE with the number `LinkLife.next`."""
ANSWER: Final = 2
"""Send BYE_TOO with the number `LinkLife.heard`. Where the link was not given up before, it is now: begin a new one."""
CLOSE: Final = 3
"""Close the link and begin a new one."""
TAKE_BACK: Final = 4
"""The link that was given up is the one in use again: what waits for the next one goes here."""


class LinkLife:
    """One side of one link."""

    __slots__ = ("given_up", "heard", "next", "said")

    def __init__(self) -> None:
        self.said = 0  # number of our BYE that stands; 0: none does
        self.next = 1  # number of our next BYE
        self.heard = 0  # number of the other side's BYE that stands; 0: none does
        self.given_up = False

    def opening(self) -> None:
        """An OPEN is about to be sent here."""
        self.said = 0

    def idle(self) -> int:
        """The last channel has gone: what to do."""
        if self.heard:
            return ANSWER
        return NOTHING if self.said else SAY

    def on_open(self) -> int:
        """An OPEN has come: what to do first."""
        self.heard = 0
        return TAKE_BACK if self.given_up else NOTHING

    def on_bye(self, number: int, has_channels: bool) -> int:
        """A BYE has come: what to do."""
        self.heard = number
        return NOTHING if has_channels and not self.given_up else ANSWER

    def on_bye_too(self, number: int) -> int:
        """A BYE_TOO has come: what to do."""
        return CLOSE if self.said and number == self.said else NOTHING

    def done(self, action: int) -> None:
        """What was decided has been done."""
        if action == SAY:
            self.said = self.next
            self.next += 1
        elif action == ANSWER:
            self.given_up = True
        elif action == TAKE_BACK:
            self.given_up = False


class Connecting:
    """The numbers of the links with one other process, at one side."""

    __slots__ = ("is_asked", "number")

    def __init__(self) -> None:
        self.is_asked = False  # the node has been asked for a link, and has not made it yet
        self.number = 0  # of the last link

    def may_ask(self, has_link: bool, is_closing: bool) -> bool:
        """Whether to ask the node now for a link after `number`.

        Args:
            has_link: There is one in use.
            is_closing: One that was given up has not ended yet.
        """
        return not (has_link or is_closing or self.is_asked)

    def is_next(self, number: int, has_link: bool) -> bool:
        """Whether a link that the node has made is the one to use."""
        return not has_link and number > self.number


def number_of(last: int, after: int) -> int:
    """At the node: the number of the link to make for a side that knows of ``after``; 0 where a later one is on its way.

    Args:
        last: The number of the last link between the two, 0 where there was none.
        after: What the side says.
    """
    return after + 1 if after >= last else 0
