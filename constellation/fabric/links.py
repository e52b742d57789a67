"""The links of one deployment: which there are, who makes the next one, and what it means when one ends without a word.

Links are ordered by this one place, so that two processes that want each other at the same time get one: it gives each pair its
next number (core/linklife.py), and says which computer makes the link.

A link to another computer may break though both processes live, and neither can know it: what they see is what the death of
the other would show. So they say what they have seen, and here, where every end is told, it is found out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from constellation.core import messages
from constellation.core.linklife import number_of
from constellation.core.status import ExitStatus

if TYPE_CHECKING:
    from constellation.core.messages import Message
    from constellation.fabric.books import Member
    from constellation.fabric.loop import Loop

CUT_S: Final = 1.0
"""After both ends of a link have said that it ended without a word: for the news that one of the two has died."""

CUT_ALONE_S: Final = 10.0
"""The same where one has said so: a node that has gone with the other is known to be lost by then."""


class Links:
    """The links between the processes of one deployment.

    Args:
        loop: For the time.
        living: The processes by their keys; read only.
        status_of: Gives the certificate of a dead one; None where the key is not known.
    """

    def __init__(
        self, loop: Loop, living: Mapping[bytes, Member], status_of: Callable[[bytes], ExitStatus | None]
    ) -> None:
        self._loop = loop
        self._living = living
        self._status_of = status_of
        self._numbers: dict[tuple[bytes, bytes], int] = {}
        self._former: dict[tuple[bytes, bytes], int] = {}
        """The links that there were when this coordinator took over from a former one."""
        self._cuts: dict[tuple[bytes, bytes], dict[bytes, str]] = {}
        """Links that have ended without a word: who says so, and what was seen there."""

    def link(self, member: Member, peer_key: bytes, after: int) -> None:
        """A process asks for a link after number ``after``."""
        pair = _pair(member.key, peer_key)
        number = number_of(self._numbers.get(pair, 0), after)
        if not number:
            return  # one is on its way
        peer = self._living.get(peer_key)
        if peer is None or peer is member:
            known = self._status_of(peer_key)
            _send(member, messages.Refused(peer_key, known.to_fields() if known is not None else None))
            return
        self._numbers[pair] = number
        member.peers.add(peer_key)
        peer.peers.add(member.key)
        if member.computer is peer.computer:
            member.computer.pair(member.key, peer_key, number)
        else:
            member.computer.dial(member.key, peer_key, number, peer.computer)

    def take_up(self, links: dict[tuple[bytes, bytes], int]) -> None:
        """The links that there have been between processes that live."""
        for (one, two), number in links.items():
            first, second = self._living.get(one), self._living.get(two)
            if first is not None and second is not None:
                self._numbers[one, two] = self._former[one, two] = number
                first.peers.add(two)
                second.peers.add(one)

    def not_linked(self, one: bytes, two: bytes, number: int, *, ending: bytes, reason: str) -> None:
        """A link could not be made, because process ``ending`` is about to end; or, where that is empty, for a reason."""
        pair = _pair(one, two)
        if self._numbers.get(pair) == number:
            self._numbers[pair] = number - 1
        for key, other in ((one, two), (two, one)):
            member, peer = self._living.get(key), self._living.get(other)
            if member is None or key == ending:
                continue
            if reason:
                _send(member, messages.Unreachable(other, reason))
                if peer is not None and peer.computer is not member.computer:
                    self._say_lost(member, peer, reason)  # it may have its end already, where the other could not
            elif peer is None:
                self.link(member, other, number - 1)
            elif member not in peer.waiting_for_end:
                peer.waiting_for_end.append(member)

    def cut(self, member: Member, peer_key: bytes, number: int, reason: str) -> None:
        """A link between two computers has ended without a word: mostly one process has died, and that is told in a moment.

        Where both live on, the way between them has broken: nobody but this place can know it, and both are told.
        """
        peer = self._living.get(peer_key)
        pair = _pair(member.key, peer_key)
        if peer is None or self._numbers.get(pair) != number:
            return
        seen = self._cuts.setdefault(pair, {})
        seen[member.key] = reason
        self._loop.call_later(
            CUT_S if len(seen) > 1 else CUT_ALONE_S, lambda: self._lose_link(member, peer, number, reason)
        )

    def _lose_link(self, one: Member, two: Member, number: int, reason: str) -> None:
        pair = _pair(one.key, two.key)
        if not one.is_alive or not two.is_alive or self._cuts.pop(pair, None) is None:
            return
        since = "; the master has been started again since" if self._former.get(pair) == number else ""
        text = f"the way {one.computer.way_to(two.computer)} has broken ({reason}){since}"
        self._say_lost(one, two, text)
        self._say_lost(two, one, text)

    def _say_lost(self, member: Member, peer: Member, reason: str) -> None:
        """Tell a process that its link is lost; the peer may live on."""
        status = ExitStatus(peer.pid, None, None, f"the link is lost: {reason}")
        _send(member, messages.PeerLost(peer.key, status.to_fields()))

    def forget(self, member: Member) -> None:
        """A process has ended, and its links with it."""
        for peer_key in member.peers:
            for table in (self._numbers, self._former, self._cuts):
                table.pop(_pair(member.key, peer_key), None)


def _send(member: Member, message: Message) -> None:
    member.computer.tell(member.key, message)


def _pair(one: bytes, two: bytes) -> tuple[bytes, bytes]:
    return (one, two) if one < two else (two, one)
