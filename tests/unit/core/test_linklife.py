"""Every interleaving of two processes that open, close and take down links with each other (core/linklife.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from constellation.core import linklife
from constellation.core.linklife import Connecting, LinkLife

Frame = tuple[str, int]
"""OPEN, VALUE and CLOSE with the channel's number; BYE and BYE_TOO with theirs."""

CARRY = frozenset(("OPEN", "VALUE", "CLOSE"))


class Life(NamedTuple):
    """The fields of a `LinkLife`."""

    said: int = 0
    next: int = 1
    heard: int = 0
    given_up: bool = False


class Side(NamedTuple):
    """One process: what `process/peer.py` knows of the other."""

    life: Life = Life()  # of the wire in use
    link: int = 0  # its link's number, 0 while it has none
    unsent: tuple[Frame, ...] = ()  # written to a wire without a link
    closing: tuple[tuple[int, Life], ...] = ()  # links that were given up and have not ended
    asked: bool = False
    number: int = 0
    sends: int = 0  # number of the channel that is open for sending, 0: none
    sent: int = 0  # channels opened so far
    receives: bool = False  # a Receiver is waited on
    posted: int = 0  # Receivers made so far
    taken: tuple[int, str] = (0, "CLOSE")  # the last frame that has been taken in

    @property
    def has_channels(self) -> bool:
        """As `Peer._has_channels`."""
        return bool(self.sends) or self.receives


class World(NamedTuple):
    """Both processes, the node, and what is under way."""

    sides: tuple[Side, Side] = (Side(), Side())
    wires: tuple[tuple[int, tuple[Frame, ...], tuple[Frame, ...], bool, bool], ...] = ()
    """Each link that exists: number, frames to side 0 and to side 1, whether each end is open."""
    asks: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())  # Connect, to the node
    tells: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())  # LinkMade, from the node
    made: int = 0


class Fault(Exception):
    """The rule is broken."""


class Play:
    """One step of one side, on a copy of the world."""

    def __init__(self, world: World, me: int) -> None:
        self.me = me
        self.side = world.sides[me]
        self.sides = list(world.sides)
        self.wires: dict[int, list[Any]] = {wire[0]: list(wire) for wire in world.wires}
        self.asks = list(world.asks)
        self.tells = list(world.tells)
        self.made = world.made

    def world(self) -> World:
        """The world after the step."""
        self.sides[self.me] = self.side
        return World(
            (self.sides[0], self.sides[1]),
            tuple(
                (number, to_0, to_1, open_0, open_1)
                for number, to_0, to_1, open_0, open_1 in self.wires.values()
                if open_0 or open_1
            ),
            (self.asks[0], self.asks[1]),
            (self.tells[0], self.tells[1]),
            self.made,
        )

    def set(self, **changes: object) -> None:
        """Change fields of this side."""
        self.side = self.side._replace(**changes)  # type: ignore[arg-type]

    def machine(self, life: Life) -> LinkLife:
        """The machine under test, as it was."""
        machine = LinkLife()
        machine.said, machine.next, machine.heard, machine.given_up = life
        return machine

    def connecting(self) -> Connecting:
        """The other machine under test."""
        connecting = Connecting()
        connecting.is_asked, connecting.number = self.side.asked, self.side.number
        return connecting

    # What peer.py does

    def send(self, link: int, *frames: Frame) -> None:
        """`Wire.put`."""
        if not link:
            self.set(unsent=self.side.unsent + frames)
            return
        wire = self.wires[link]
        if wire[4 - self.me]:
            wire[2 - self.me] += frames
        elif CARRY & {frame[0] for frame in frames}:
            raise Fault(f"{frames} were written to a link that the other had closed")

    def ensure_link(self) -> None:
        """`Peer.ensure_link`."""
        connecting = self.connecting()
        if connecting.may_ask(bool(self.side.link), bool(self.side.closing)):
            self.asks[self.me] += (connecting.number,)
            self.set(asked=True)

    def say_bye(self) -> None:
        """`Peer._say_bye`."""
        if self.side.link and not self.side.has_channels:
            machine = self.machine(self.side.life)
            self.act(machine.idle(), machine, self.side.link)

    def act(self, action: int, machine: LinkLife, link: int) -> None:
        """`Peer._act`."""
        in_use = link == self.side.link
        machine.done(action)
        life = Life(machine.said, machine.next, machine.heard, machine.given_up)
        if in_use:
            self.set(life=life)
        else:
            self.set(closing=tuple((number, life if number == link else old) for number, old in self.side.closing))
        if action == linklife.SAY:
            self.send(link, ("BYE", life.said))
        elif action == linklife.ANSWER:
            self.send(link, ("BYE_TOO", life.heard))
            if in_use:
                self.set(closing=(*self.side.closing, (link, life)), life=Life(), link=0)
        elif action == linklife.CLOSE:
            self.close(link)
            if in_use:
                self.set(life=Life(), link=0)
                if self.side.has_channels:
                    self.ensure_link()
            else:
                self.ended(link)
        elif action == linklife.TAKE_BACK:
            if self.side.link:
                raise Fault("a link is taken back beside another")
            unsent = self.side.unsent
            self.set(
                closing=tuple(each for each in self.side.closing if each[0] != link), life=life, link=link, unsent=()
            )
            self.begin(unsent)

    def begin(self, unsent: tuple[Frame, ...]) -> None:
        """What had waited for a link goes over this one: an OPEN among it takes a BYE back."""
        if any(frame[0] == "OPEN" for frame in unsent):
            self.set(life=self.side.life._replace(said=0))
        self.send(self.side.link, *unsent)

    def close(self, link: int) -> None:
        """`Wire.close`."""
        wire = self.wires[link]
        wire[3 + self.me] = False
        lost = CARRY & {frame[0] for frame in wire[1 + self.me]}
        if lost:
            raise Fault(f"a link was closed over {lost}")
        wire[1 + self.me] = ()

    def ended(self, link: int) -> None:
        """`Peer.on_end`, of a link that was given up."""
        self.set(closing=tuple(each for each in self.side.closing if each[0] != link))
        if self.side.unsent or self.side.has_channels:
            self.ensure_link()

    # Steps

    def open(self) -> None:
        """The program sends a value over a new channel."""
        channel = self.side.sent + 1
        self.set(sends=channel, sent=channel)
        machine = self.machine(self.side.life)
        machine.opening()
        self.set(life=self.side.life._replace(said=machine.said))
        self.send(self.side.link, ("OPEN", channel), ("VALUE", channel))
        self.ensure_link()

    def close_channel(self) -> None:
        """The program closes it."""
        channel = self.side.sends
        self.set(sends=0)
        self.send(self.side.link, ("CLOSE", channel))
        self.say_bye()

    def post(self) -> None:
        """The program waits on a Receiver."""
        self.set(receives=True, posted=self.side.posted + 1)
        self.ensure_link()

    def unpost(self) -> None:
        """The program closes it."""
        self.set(receives=False)
        self.say_bye()

    def link_made(self) -> None:
        """`Peer.on_link`."""
        number, *rest = self.tells[self.me]
        self.tells[self.me] = tuple(rest)
        connecting = self.connecting()
        if not connecting.is_next(number, bool(self.side.link)):
            raise Fault(f"link {number} comes to a side that has one")
        unsent = self.side.unsent
        self.set(asked=False, number=number, link=number, unsent=())
        self.begin(unsent)
        if connecting.is_asked:
            self.say_bye()

    def read(self, link: int) -> None:
        """`Peer.on_frame`, or the end."""
        wire = self.wires[link]
        frames = wire[1 + self.me]
        if not frames:
            self.close(link)
            if link == self.side.link:
                raise Fault("a link in use has ended")
            self.ended(link)
            return
        (kind, number), wire[1 + self.me] = frames[0], frames[1:]
        in_use = link == self.side.link
        machine = self.machine(self.side.life if in_use else dict(self.side.closing)[link])
        if kind == "OPEN":
            self.act(machine.on_open(), machine, link)
            self.take(number, kind, (number - 1, "CLOSE"))
        elif kind == "VALUE":
            self.take(number, kind, (number, "OPEN"))
        elif kind == "CLOSE":
            self.take(number, kind, (number, "VALUE"))
            self.say_bye()
        elif kind == "BYE":
            self.act(machine.on_bye(number, self.side.has_channels), machine, link)
        else:
            self.act(machine.on_bye_too(number), machine, link)

    def take(self, number: int, kind: str, after: tuple[int, str]) -> None:
        """A frame is taken in: it must be the next one."""
        if self.side.taken != after:
            raise Fault(f"{kind} {number} comes after {self.side.taken}")
        self.set(taken=(number, kind))


def moves(world: World) -> Iterator[World]:
    """What happens by itself: a frame, an end or a control message arrives."""
    for me in (0, 1):
        for number, *wire in world.wires:
            frames, is_open, other_open = wire[me], wire[2 + me], wire[3 - me]
            side = world.sides[me]
            has_it = number == side.link or number in dict(side.closing)  # and not only in its control socket
            if has_it and is_open and (frames or not other_open):
                play = Play(world, me)
                play.read(number)
                yield play.world()
        if world.tells[me]:
            play = Play(world, me)
            play.link_made()
            yield play.world()
        if world.asks[me]:
            play = Play(world, me)
            after, *rest = play.asks[me]
            play.asks[me] = tuple(rest)
            number = linklife.number_of(play.made, after)
            if number:
                play.made = number
                play.wires[number] = [number, (), (), True, True]
                play.tells = [(*told, number) for told in play.tells]
            yield play.world()


def news(world: World, channels: int, receivers: int) -> Iterator[World]:
    """What the programs may do."""
    for me in (0, 1):
        side = world.sides[me]
        if side.sends:
            play = Play(world, me)
            play.close_channel()
            yield play.world()
        elif side.sent < channels:
            play = Play(world, me)
            play.open()
            yield play.world()
        if side.receives:
            play = Play(world, me)
            play.unpost()
            yield play.world()
        elif side.posted < receivers:
            play = Play(world, me)
            play.post()
            yield play.world()


def check(world: World) -> None:
    """No two links are in use at once."""
    links = [side.link for side in world.sides if side.link]
    if len(set(links)) > 1:
        raise Fault(f"links {links} are in use at once")


def check_rest(world: World) -> None:
    """Nothing is under way any more: all has arrived, and there is a link just where somebody has a channel."""
    for me in (0, 1):
        side, other = world.sides[me], world.sides[1 - me]
        if other.taken[0] != side.sent:
            raise Fault(f"channel {side.sent} of side {me} has never arrived")
        if side.sent and other.taken[1] != ("VALUE" if side.sends else "CLOSE"):
            raise Fault(f"the last frame of side {me} has never arrived")
    if any(side.has_channels for side in world.sides):
        if len({side.link for side in world.sides}) != 1 or not world.sides[0].link:
            raise Fault("somebody has a channel and there is no link")
    elif world.wires or any(side.link or side.closing or side.asked for side in world.sides):
        raise Fault("a link stays open that nobody needs")


def explore(channels: int, receivers: int) -> int:
    """Walk through all; the number of states."""
    seen = {World()}
    for world in (order := [World()]):
        after = list(moves(world))
        if not after:
            check_rest(world)
        for each in (*after, *news(world, channels, receivers)):
            if each not in seen:
                check(each)
                seen.add(each)
                order.append(each)
    return len(seen)


@pytest.mark.parametrize(("channels", "receivers"), [(1, 1), (2, 0), (0, 2)])
def test_no_frame_is_lost_and_no_link_kept_in_any_interleaving(channels: int, receivers: int) -> None:
    """Two sides that open and close channels to each other at any moment: all arrives, and the link goes when idle."""
    assert explore(channels, receivers) > 1000


def test_a_late_answer_does_not_close_over_a_new_channel() -> None:
    """BYE, OPEN, CLOSE and BYE again: the answer to the first BYE says nothing about the second."""
    life = LinkLife()
    life.done(life.idle())
    life.opening()
    life.done(life.idle())
    assert life.on_bye_too(1) == linklife.NOTHING
    assert life.on_bye_too(2) == linklife.CLOSE


def test_of_two_byes_at_once_both_are_answered() -> None:
    """Both sides close; neither waits for the other."""
    sides = LinkLife(), LinkLife()
    assert [side.idle() for side in sides] == [linklife.SAY] * 2
    for side in sides:
        side.done(linklife.SAY)
    assert [side.on_bye(1, has_channels=False) for side in sides] == [linklife.ANSWER] * 2
    assert [side.on_bye_too(1) for side in sides] == [linklife.CLOSE] * 2


class Numberless(LinkLife):
    """Whose answers do not say which BYE they answer."""

    __slots__ = ()

    def on_bye_too(self, number: int) -> int:
        return linklife.CLOSE if self.said else linklife.NOTHING


class Deaf(LinkLife):
    """Where OPEN does not take a BYE back at its sender."""

    __slots__ = ()

    def opening(self) -> None:
        pass


class Forgetful(LinkLife):
    """Where OPEN does not take a BYE back at its reader."""

    __slots__ = ()

    def on_open(self) -> int:
        return linklife.TAKE_BACK if self.given_up else linklife.NOTHING


class Polite(LinkLife):
    """Who does not answer a BYE after his own: nobody closes."""

    __slots__ = ()

    def on_bye(self, number: int, has_channels: bool) -> int:
        action = super().on_bye(number, has_channels)
        return linklife.NOTHING if self.said and not self.given_up else action


@pytest.mark.parametrize("wrong", [Numberless, Deaf, Forgetful, Polite])
def test_a_rule_that_is_missing_is_found(wrong: type[LinkLife], monkeypatch: pytest.MonkeyPatch) -> None:
    """The search sees what it is there to see: without any of the rules a frame or a link is lost, or a link is kept."""
    monkeypatch.setattr(f"{__name__}.LinkLife", wrong)
    with pytest.raises(Fault):
        explore(2, 0)
