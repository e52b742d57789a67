"""Another process, as this one sees it: its link and the channels with it.

One link carries all channels between two processes. It is made by the node at the first use and taken down with the
last channel: core/linklife.py has the rule, by which a wire is in use (`wire`), or given up (`_closing`) until the other
side closes it or opens another channel on it.

Frames from the sending half (OPEN, values, CLOSE, WANT, FLUSH) and from the receiving half (GRANT, REFUSE, FLUSHED)
share the link. A process that has a channel to itself uses a link of two wires: the first for the sending half, `back`
for the receiving half; else `back` is the same wire.

Every handler of a frame may be run twice for one frame, after a Ctrl-C: all state in them is absolute, never a step.
"""

from __future__ import annotations

import _thread
import os
from typing import TYPE_CHECKING

from constellation.core import framing, handshake, linklife
from constellation.core.draining import Held
from constellation.core.errors import ChannelClosed, ChannelError, HandshakeError, PeerDied
from constellation.core.linklife import Connecting
from constellation.core.messages import Connect
from constellation.core.status import ExitStatus
from constellation.process.incoming import Incoming
from constellation.process.kernel import describe_lack
from constellation.process.outgoing import Outgoing
from constellation.process.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from constellation.core.contracts import Link
    from constellation.core.pid import Pid
    from constellation.process.runtime import Runtime


class Peer:
    """One other process, or this process itself."""

    def __init__(self, runtime: Runtime, pid: Pid) -> None:
        self.runtime = runtime
        self.reactor = runtime.reactor
        self.pid = pid
        self.lock = _thread.RLock()
        self.gone: ChannelError | HandshakeError | None = None
        self.incoming_by_number: dict[int, Incoming] = {}
        self.outgoing_by_number: dict[int, Outgoing] = {}
        self.claimed: set[tuple[str, str]] = set()  # ("sender" or "receiver", name) of each end that is held
        self.flushed = 0  # the last token that the peer has answered
        self._incoming: dict[tuple[str, int], Incoming] = {}
        self._receiving: dict[str, Incoming] = {}
        self._sending: dict[str, Outgoing] = {}
        self._sent_incarnations: dict[str, int] = {}
        self._received_incarnations: dict[str, int] = {}
        self._last_channel = 0
        self._token = 0
        self._connecting = Connecting()
        self._closing: list[Wire] = []  # given up
        self._asked = False
        self._is_cut = False  # the link has ended while this process was leaving, and nobody has asked why
        self._unlinked: list[Outgoing] = []  # opened on a wire that has no link yet
        self.wire = self._new_wire()
        self.back = self.wire

    # Channels

    def sending(self, name: str) -> Outgoing:
        """The current incarnation of the sending half."""
        channel = self._sending.get(name)
        if channel is None:
            number = self._sent_incarnations.get(name, 0)
            channel = self._sending[name] = Outgoing(self, name, number)
            if self.gone is not None:
                channel.over = self.gone
        return channel

    def receiving(self, name: str) -> Incoming:
        """The current incarnation of the receiving half."""
        channel = self._receiving.get(name)
        if channel is None:
            number = self._received_incarnations.get(name, 0)
            channel = self._receiving[name] = self._incarnation(name, number)
        return channel

    def _incarnation(self, name: str, number: int) -> Incoming:
        channel = self._incoming.get((name, number))
        if channel is None:
            channel = self._incoming.setdefault((name, number), Incoming(self, name, number))
        return channel

    def open_outgoing(self, channel: Outgoing) -> int:
        """Give a channel its number and say so. The lock must be held."""
        self._last_channel = number = self._last_channel + 1
        self.outgoing_by_number[number] = channel
        if self.wire.link is None:
            self._unlinked.append(channel)
        self.wire.life.opening()
        self.wire.out.append(framing.encode_open(number, channel.incarnation, channel.name, channel.stated_type))
        self.ensure_link()
        return number

    def close_outgoing(self, channel: Outgoing) -> None:
        """Say that the channel is closed. The lock must be held."""
        if self.outgoing_by_number.pop(channel.number, None) is not None:
            self.wire.put(framing.encode_frame(framing.CLOSE, channel.number))
            self._say_bye()

    def end_sending(self, channel: Outgoing) -> None:
        """The sending end has been closed: the next one is another incarnation."""
        with self.lock:
            if self._sending.get(channel.name) is channel:
                del self._sending[channel.name]
                self._sent_incarnations[channel.name] = channel.incarnation + 1
                if not channel.number:
                    # Never used. The receiver must not wait for it, link or no link as yet: open it, then close it.
                    if channel.over is None:
                        channel.number = self.open_outgoing(channel)
                        self.close_outgoing(channel)
                    else:
                        self._sent_incarnations[channel.name] = channel.incarnation

    def end_receiving(self, channel: Incoming) -> None:
        """The receiving end has been closed: its values are dropped, the next one is another incarnation."""
        with self.lock:
            if self._receiving.get(channel.name) is not channel:
                return
            del self._receiving[channel.name]
            self._received_incarnations[channel.name] = channel.incarnation + 1
            if channel.ended is not None:
                self._incoming.pop((channel.name, channel.incarnation), None)
            channel.discard()
            if channel.ended is None and channel.number is not None:
                self.reply(framing.REFUSE, channel.number)
            self._say_bye()

    def refuse(self, channel: Incoming, stated: str) -> None:
        """Tell the sender that its type is not the receiver's."""
        if channel.number is not None and channel.ended is None:
            self.reply(framing.REFUSE, channel.number, stated.encode())

    def reply(self, kind: int, number: int, payload: bytes = b"") -> None:
        """Send a frame of the receiving half."""
        self.back.put(framing.encode_frame(kind, number, payload))

    # The link

    def _new_wire(self) -> Wire:
        wire = Wire(self, self.reactor)
        wire.out.append(handshake.encode(self.runtime.offer))
        return wire

    def ensure_link(self) -> None:
        """Ask the node for a link, unless there is one or one is on its way."""
        with self.lock:
            if self.gone is not None or not self._connecting.may_ask(self.wire.link is not None, bool(self._closing)):
                return
            if self.pid == self.runtime.pid:
                self._link_to_self()
                return
            if not self.runtime.control.is_open:
                self.runtime.lose_peer(self)
                return
            self.runtime.control.send(Connect(self.pid.to_bytes(), self._connecting.number))
            self._connecting.is_asked = True

    def _link_to_self(self) -> None:
        transport = self.runtime.transport
        try:
            front, back = transport.pair()
            self.back = self._new_wire()
            self.wire.open(transport.adopt(front), 0)
            self.back.open(transport.adopt(back), 0)
        except Exception as error:  # a plugin's
            self.wire.fail(error)

    def on_link(self, number: int, fd: int, make: Callable[[int], Link] | None = None) -> None:
        """The node has made a link.

        Args:
            number: Of the link.
            fd: Its descriptor, which stays the caller's.
            make: Makes a link of it, taking over what it is given; None: one within this computer.
        """
        with self.lock:
            connecting, wire = self._connecting, self.wire
            if connecting.is_next(number, wire.link is not None):
                try:
                    mine = os.dup(fd)
                except OSError as error:
                    self.on_no_room(error)
                    return
                wire.is_far = make is not None
                try:
                    wire.open((self.runtime.transport.adopt if make is None else make)(mine), number)
                except Exception as error:  # a plugin's
                    wire.fail(error)
            elif wire.number == number and wire.link is not None:  # once more, after a Ctrl-C
                wire.open(wire.link, number)
            else:
                return
            connecting.number = number
            self._unlinked.clear()
            if connecting.is_asked:
                connecting.is_asked = False
                self._say_bye()  # what it was asked for may have gone meanwhile

    def on_refused(self, error: ChannelError) -> None:
        """There is no such process, or it has ended."""
        self._connecting.is_asked = False
        if self.wire.link is None:
            self.fail(error)

    def on_ended(self, error: ChannelError) -> None:
        """Its process has ended; what it sent on a link that we have or had is taken in all the same."""
        if self.wire.link is None and not self._closing:
            self.fail(error)

    def on_end(self, wire: Wire) -> None:
        """The link has ended: as agreed, or because the process is gone. The role is held."""
        with self.lock:
            if wire in self._closing:
                self._closing.remove(wire)
                self._after_end()
            elif self.gone is None and not self._asked:
                if self.runtime.leaving and not wire.is_far and not self._is_awaited():
                    # Nobody is left to whom it matters how the peer has ended, and hundreds may end at once.
                    self._is_cut = True
                else:
                    self.runtime.watch_peer(self)
                    self._asked = True
                    if wire.cut and wire.is_far:
                        self.runtime.tell_cut(self.pid, wire.number, wire.cut)
        wire.close()

    def _is_awaited(self) -> bool:
        """Whether a thread or task waits on a channel with this process."""
        sending, receiving = self._sending.values(), self._incoming.values()
        return any(channel.waiters for channel in sending) or any(channel.waiters for channel in receiving)

    def on_broken(self, error: framing.FrameError) -> None:
        """The peer has sent what no peer of ours sends, or has started with something else than this process."""
        if isinstance(error, handshake.Disagreement):
            self.fail(HandshakeError(f"no link with process {self.pid}: {error}"))
        else:
            self.on_failed(f"process {self.pid} sent {error}")

    def on_failed(self, reason: str) -> None:
        """The link has failed at this end, and nobody knows what of the stream is lost. The other end must hear of it."""
        if self.gone is None and self.pid != self.runtime.pid:
            self.runtime.tell_lost(self.pid, reason)
        self.fail(self._lost(reason))

    def on_no_room(self, error: OSError) -> None:
        """The node has made a link, and this process has no descriptor for it: it does not come a second time."""
        self.on_failed(f"process {self.runtime.pid} has no room for it: {describe_lack(error)}")

    def on_lost(self, reason: str) -> None:
        """The link has failed at the other end. The role is held."""
        self.wire.drain()  # what it had sent before
        self.fail(self._lost(f"{reason} (seen by process {self.pid})"))

    def _lost(self, reason: str) -> PeerDied:
        return PeerDied(self.pid, ExitStatus(self.pid, None, None, f"the link is lost: {reason}"))

    def on_peer_lost(self, status: ExitStatus) -> None:
        """Nothing more comes from its computer, or over the way to it. The role is held."""
        self.wire.drain()  # what has come is taken in
        self.on_status(status)

    def on_status(self, status: ExitStatus | None) -> None:
        """The node has said how the process ended."""
        self.fail(error_of(self.pid, status))

    def fail(self, error: ChannelError | HandshakeError) -> None:
        """No channel with this process will carry anything more. The first error counts."""
        with self.lock:
            if self.gone is None:
                self.gone = error
            for wire in (self.wire, self.back, *self._closing):
                wire.close()
            for outgoing in list(self._sending.values()):
                outgoing.finish(self.gone)
            for incoming in list(self._incoming.values()):
                incoming.lose_rest()

    def error(self) -> BaseException:
        """What an operation on a channel with this process raises."""
        assert self.gone is not None
        return self.gone

    def _has_channels(self) -> bool:
        return bool(self.outgoing_by_number) or any(channel.is_live for channel in self._receiving.values())

    def _say_bye(self) -> None:
        """After a channel has gone: offer to take the link down if it was the last."""
        wire = self.wire
        if wire.link is not None and self.back is wire and not self._has_channels():
            self._act(wire, wire.life.idle())

    def _act(self, wire: Wire, action: int) -> None:
        """Do what the rule of a link says. May be done twice, after a Ctrl-C."""
        if action == linklife.SAY:
            wire.put(framing.encode_frame(framing.BYE, wire.life.next))
        elif action == linklife.ANSWER:
            self._give_up(wire)
        elif action == linklife.TAKE_BACK:
            self._take_back(wire)
        elif action == linklife.CLOSE:
            if wire is self.wire:
                self.wire = self.back = self._new_wire()
            elif wire in self._closing:
                self._closing.remove(wire)
            wire.close()
            self._after_end()
        wire.life.done(action)

    def _give_up(self, wire: Wire) -> None:
        """Answer a BYE: nothing may follow on this wire, whatever comes in between."""
        answer = (framing.encode_frame(framing.BYE_TOO, wire.life.heard),)
        if wire is self.wire:
            fresh, life = self._new_wire(), wire.life
            wire.out += answer
            self._closing += (wire,)
            self.wire = self.back = fresh
            life.given_up = True  # commit, from `wire.out` on
        else:
            wire.out += answer
        wire.flush()

    def _take_back(self, wire: Wire) -> None:
        """The other side has opened a channel after its BYE: the link stays."""
        fresh = self.wire
        if fresh is not wire:
            waiting, bulk = list(fresh.out)[1:], fresh.bulk  # all but its HELLO
            if waiting:
                wire.life.opening()
            wire.out += waiting
            wire.bulk += bulk
            self.wire = self.back = wire  # commit, from `wire.out` on
            self._unlinked.clear()
        if wire in self._closing:
            self._closing.remove(wire)
        wire.flush()

    def _after_end(self) -> None:
        """A link has been taken down as agreed: all that was sent on it has been taken in."""
        if len(self.wire.out) > 1 or self._has_channels():
            self.ensure_link()  # also for a Receiver that waits: without a link it would not see the peer's end
        elif not self._closing:
            self.flushed = self._token

    def resume(self) -> None:
        """After an exception of a signal handler: let leave what may."""
        with self.lock:
            for channel in list(self.outgoing_by_number.values()):
                channel.go_on()
                self.reactor.touched += (channel,)
            if len(self.wire.out) > 1 or self._has_channels():
                self.ensure_link()
            else:
                self._say_bye()

    def abandon(self) -> None:
        """In a child that the user's program forked: let go of the links, without a word and without a lock."""
        for wire in (self.wire, self.back, *self._closing):
            if wire.link is not None:
                wire.link.close()
                wire.link = None
        for channel in self._incoming.values():
            channel.values.clear()  # what is looked at first, before the process is asked who it is
        for sending in self._sending.values():
            sending.lot = 0

    # Frames

    def on_frame(self, wire: Wire, kind: int, number: int, payload: bytes) -> None:
        """Handle a frame that is no value. The role is held.

        Raises:
            FrameError: No honest peer sends this.
        """
        with self.lock:
            if kind == framing.GRANT:
                outgoing = self.outgoing_by_number.get(number)
                if outgoing is not None:
                    outgoing.granted(*framing.read_counts(payload))
            elif kind == framing.PARTS:
                self._numbered(number).begin_large(*framing.read_parts(payload))
            elif kind == framing.OPEN:
                self._act(wire, wire.life.on_open())
                self._on_open(number, *framing.read_open(payload))
            elif kind == framing.CLOSE:
                incoming = self.incoming_by_number.get(number)
                if incoming is not None:
                    incoming.end()
                    if incoming.discarding:
                        self._incoming.pop((incoming.name, incoming.incarnation), None)
                    self.incoming_by_number.pop(number, None)
                    self._say_bye()
            elif kind == framing.REFUSE:
                outgoing = self.outgoing_by_number.get(number)
                if outgoing is not None:
                    outgoing.refused(payload.decode(errors="replace"))
                    # Nothing follows: the receiver may forget this incarnation.
                    self.wire.put(framing.encode_frame(framing.CLOSE, number))
                    self.outgoing_by_number.pop(number, None)
                    self._say_bye()
            elif kind == framing.WANT:
                self._numbered(number).wanted(*framing.read_wanted(payload))
            elif kind == framing.FLUSH:
                # On the link that it came by: after its BYE that one may have been given up here already.
                wire.put(framing.encode_frame(framing.FLUSHED, number))
            elif kind == framing.FLUSHED:
                self.flushed = max(self.flushed, number)
            elif kind == framing.HELLO:
                self._on_hello(payload)
            elif kind == framing.BYE:
                self._act(wire, wire.life.on_bye(number, self._has_channels()))
            elif kind == framing.BYE_TOO:
                self._act(wire, wire.life.on_bye_too(number))

    def _numbered(self, number: int) -> Incoming:
        channel = self.incoming_by_number.get(number)
        if channel is None:
            raise framing.FrameError(f"a frame for channel {number}, which is not open")
        return channel

    def _on_open(self, number: int, incarnation: int, name: str, type_text: str) -> None:
        channel = self._incarnation(name, incarnation)
        channel.number = number
        channel.sender_type = type_text
        channel.compare_types()
        self.incoming_by_number[number] = channel
        if incarnation < self._received_incarnations.get(name, 0):
            channel.discarding = True
            self.reply(framing.REFUSE, number)
        self.reactor.touched += (channel,)

    def _on_hello(self, payload: bytes) -> None:
        ours, theirs = self.runtime.offer, handshake.read(payload)
        if ours[:5] + ours[6:] != theirs[:5] + theirs[6:]:  # all but the credit
            handshake.compare(ours, theirs, self.runtime.packages())

    # Leaving

    def ask_flush(self) -> None:
        """The process is leaving: ask the peer to say when it has taken in all that was sent, if anything was."""
        with self.lock:
            if not self._last_channel:
                self.wire.release()
                return
            for wire in self._closing:
                # Read where the peer has opened a channel since its BYE; else it closes, which is an answer too.
                self._ask_flush(wire)
            if self.wire.link is not None or len(self.wire.out) > 1:
                self.ensure_link()
                self.wire.release()
                for channel in list(self._sending.values()):
                    channel.want_again()
                self._ask_flush(self.wire)

    def _ask_flush(self, wire: Wire) -> None:
        self._token += 1
        wire.put(framing.encode_frame(framing.FLUSH, self._token))

    @property
    def is_delivered(self) -> bool:
        """Whether the peer has taken in all that was sent, or nobody will."""
        if self.gone is not None or self._is_cut:
            return True
        if not all(channel.is_drained for channel in self.undrained()):
            return False
        if self._closing or self.flushed < self._token:
            return False
        return not ((self.wire.out and self.wire.link is not None) or self.wire.bulk)

    @property
    def was_used(self) -> bool:
        """Whether there is a link, or something that waits for one."""
        return self.gone is None and (self.wire.link is not None or len(self.wire.out) > 1 or bool(self._closing))

    def lost(self) -> list[Held]:
        """What was accepted for a process that had ended before, where no operation has said so since."""
        return [
            Held(channel.name, self.pid, channel.accepted)
            for channel in self._unlinked
            if self.gone is not None and channel.accepted and not channel.is_told
        ]

    def undrained(self) -> list[Outgoing]:
        """The channels that still hold something."""
        channels = {*self._sending.values(), *self.outgoing_by_number.values()}
        return [channel for channel in channels if not channel.is_drained]


def error_of(pid: Pid, status: ExitStatus | None) -> ChannelError:
    """What the end of a process means for its channels."""
    if status is None:
        return ChannelError(f"process {pid} is not known on this node: it belongs to another deployment, or never was")
    if status.ok:
        return ChannelClosed(f"process {pid} has ended")
    return PeerDied(pid, status)
