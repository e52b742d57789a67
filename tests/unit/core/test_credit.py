"""The credit of a channel: its sender and its receiver over a wire with any delays."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from constellation.core import credit, settings
from constellation.core.credit import Grant, ReceiverSide, SenderSide

WINDOW = settings.WINDOW
CREDIT = 16 * WINDOW


class Channel:
    """A sender, a receiver, and the wire: values and WANT one way, GRANT the other."""

    def __init__(self, budget: int = 1) -> None:
        self.sender = SenderSide(CREDIT)
        self.receiver = ReceiverSide(CREDIT)
        self.budget = budget  # how many channels may widen
        self.is_waiting = False  # somebody waits in a recv
        self.held: deque[int] = deque()  # accepted, may not leave yet
        self.there: deque[tuple[str, int]] = deque()
        self.back: deque[Grant] = deque()
        self.here: deque[int] = deque()
        self.taken: list[int] = []
        self.accepted: list[int] = []

    def send(self, size: int) -> bool:
        """Accept a value and let leave what may."""
        if not self.sender.accept(size):
            return False
        self.accepted.append(size)
        self.held.append(size)
        self.pump()
        return True

    def pump(self) -> None:
        """As `Outgoing._pump`."""
        while self.held and self.sender.transmit(self.held[0]):
            self.there.append(("value", self.held.popleft()))
        if self.held and self.sender.want(self.held[0]):
            self.there.append(("want", self.held[0]))

    def arrive(self, *, twice: bool = False) -> None:
        """The next frame reaches the receiver."""
        kind, size = self.there.popleft()
        if kind == "value":
            assert self.receiver.arrive(size), "the grant is never exceeded"
            self.here.append(size)
            if self.is_waiting:
                self.recv()
            return
        for _ in range(1 + twice):
            self.reply(self.receiver.on_want(size, self.is_waiting, bool(self.budget)))

    def come_back(self, *, twice: bool = False) -> None:
        """The next GRANT reaches the sender."""
        grant = self.back.popleft()
        for _ in range(1 + twice):
            self.sender.on_grant(grant)
        self.pump()

    def recv(self) -> None:
        """Take a value, or begin to wait."""
        if self.here:
            self.is_waiting = False
            size = self.here.popleft()
            self.taken.append(size)
            self.reply(self.receiver.take(size))
        else:
            self.is_waiting = True
            self.reply(self.receiver.post())

    def reply(self, grant: Grant | None) -> None:
        """Send a GRANT."""
        if grant is not None:
            self.back.append(grant)

    def settle(self) -> None:
        """All that is on the wire arrives."""
        while self.there or self.back:
            if self.there:
                self.arrive()
            if self.back:
                self.come_back()

    def check(self) -> None:
        """What holds at any time."""
        large = sum(
            size
            for size in (*self.held, *self.here, *(one for kind, one in self.there if kind == "value"))
            if size > CREDIT
        )
        assert self.sender.accepted - self.receiver.taken - large <= CREDIT + max(WINDOW, CREDIT // 4)
        assert self.sender.consumed <= self.receiver.taken <= self.receiver.received <= self.sender.sent
        assert self.sender.sent <= self.sender.granted <= self.receiver.granted
        assert [*self.taken, *self.here] == self.accepted[: len(self.taken) + len(self.here)]


sizes = st.one_of(
    st.integers(0, 200),
    st.integers(WINDOW // 8, WINDOW + 10),
    st.integers(CREDIT // 2, CREDIT),
    st.integers(CREDIT + 1, 3 * CREDIT),
)
moves = st.lists(
    st.one_of(
        st.tuples(st.just("send"), sizes),
        st.tuples(st.sampled_from(("arrive", "back", "recv", "arrive twice", "back twice")), st.just(0)),
    ),
    max_size=80,
)


def play(channel: Channel, steps: list[tuple[str, int]]) -> None:
    """Do what can be done of some steps."""
    for kind, size in steps:
        if kind == "send":
            channel.send(size)
        elif kind == "recv":
            if not channel.is_waiting:
                channel.recv()
        elif kind.startswith("arrive"):
            if channel.there:
                channel.arrive(twice=kind.endswith("twice"))
        elif channel.back:
            channel.come_back(twice=kind.endswith("twice"))
        channel.check()


@given(moves, st.integers(0, 1))
def test_the_grant_is_kept_and_the_bound_too_whatever_the_delays(steps: list[tuple[str, int]], budget: int) -> None:
    """A sender sends no more than it was granted; what is accepted and not taken stays within the credit and a quarter."""
    play(Channel(budget), steps)


@given(moves, st.integers(0, 1))
def test_every_accepted_value_reaches_who_waits_for_it(steps: list[tuple[str, int]], budget: int) -> None:
    """With recv after recv posted, all arrives, in order, whatever its size and whatever the budget."""
    channel = Channel(budget)
    play(channel, steps)
    channel.settle()
    while len(channel.taken) < len(channel.accepted):
        before = len(channel.taken)
        if not channel.is_waiting:
            channel.recv()
        channel.settle()
        channel.check()
        assert len(channel.taken) > before, "a posted recv gets its value"


@given(moves, st.integers(0, 1), st.integers(0, CREDIT))
def test_an_idle_channel_accepts_every_value_up_to_the_credit(
    steps: list[tuple[str, int]], budget: int, size: int
) -> None:
    """When all has been taken and reported, no recv need be posted."""
    channel = Channel(budget)
    play(channel, steps)
    channel.settle()
    while len(channel.taken) < len(channel.accepted):
        if not channel.is_waiting:
            channel.recv()
        channel.settle()
    channel.is_waiting = False
    assert channel.send(size)


@given(moves)
def test_a_channel_with_budget_takes_in_a_value_up_to_the_credit_unasked(steps: list[tuple[str, int]]) -> None:
    """It does not wait at the sender for a recv."""
    channel = Channel()
    play(channel, steps)
    channel.settle()
    while len(channel.taken) < len(channel.accepted):
        if not channel.is_waiting:
            channel.recv()
        channel.settle()
    channel.is_waiting = False
    assert channel.send(CREDIT)
    channel.settle()
    assert list(channel.here) == [CREDIT]


@given(moves)
def test_frames_that_are_handled_twice_change_nothing(steps: list[tuple[str, int]]) -> None:
    """After a Ctrl-C a handler may run again: the same numbers come out as without."""
    twice, once = Channel(), Channel()
    play(twice, steps)
    play(once, [(kind.removesuffix(" twice"), size) for kind, size in steps])
    for channel in (twice, once):
        channel.settle()
    assert twice.taken == once.taken
    assert list(twice.here) == list(once.here)
    assert twice.sender.accepted == once.sender.accepted


def test_a_value_near_the_credit_follows_what_has_just_been_taken() -> None:
    """What was taken last is not reported yet, and the value is accepted all the same."""
    channel = Channel()
    assert channel.send(3 * WINDOW)
    channel.settle()
    channel.recv()
    channel.settle()
    assert channel.receiver.window == CREDIT
    assert channel.send(CREDIT // 4 - WINDOW)
    channel.settle()
    channel.recv()
    channel.settle()
    assert channel.send(CREDIT)


def test_more_than_was_granted_is_seen() -> None:
    """The receiver says so; who does that is no peer of ours."""
    receiver = ReceiverSide(CREDIT)
    assert receiver.arrive(WINDOW)
    assert not receiver.arrive(1)


@given(st.integers(0, 5 * WINDOW), st.sampled_from((WINDOW, CREDIT)))
def test_a_stream_is_reported_at_a_quarter_of_the_window(unreported: int, window: int) -> None:
    """Not for every value, and long before the window has been used up."""
    assert credit.is_due(unreported, window) == (unreported >= window // 4)


def test_a_receiver_cannot_have_taken_more_than_was_sent() -> None:
    """Whatever it says: what it could take beyond that would let the sender hold more than the credit."""
    sender = SenderSide(CREDIT)
    assert sender.accept(100)
    assert sender.transmit(100)
    sender.on_grant(Grant(2 * WINDOW, 1 << 40))
    assert (sender.consumed, sender.granted) == (100, 2 * WINDOW)


def test_a_window_that_was_widened_is_granted_also_where_it_does_not_suffice() -> None:
    """Nothing has been taken since the last report; but the sender may send as much as the channel now holds."""
    receiver = ReceiverSide(CREDIT)
    assert receiver.on_want(CREDIT + 1, is_whole=False, may_widen=False) is None
    assert receiver.on_want(CREDIT + 1, is_whole=False, may_widen=True) == Grant(CREDIT, 0)
