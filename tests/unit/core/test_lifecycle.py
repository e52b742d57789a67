"""What follows what in the life of a process and of a deployment."""

from __future__ import annotations

import signal

import pytest

from constellation.core.fatal import Call, Fatal
from constellation.core.lifecycle import (
    HEARD_SIGTERM,
    SAME_WISH,
    Ending,
    EndingState,
    GraceOver,
    Interrupted,
    KillAll,
    KillOrder,
    KnownEnd,
    Lost,
    SignalFirst,
    SignalOthers,
    Terminated,
    certificate,
    closing_words,
)
from constellation.core.pid import Pid
from constellation.core.status import ExitStatus

PID = Pid(1, 2, bytes(16))
TYPED = Interrupted(is_typed=True)
SENT = Interrupted(is_typed=False)
LINK = "linked process 12 died: exited: 1"
FAULT = Fatal("Segmentation fault", (Call("a.py", "3", "f"),))


def test_ctrl_c_asks_the_first_by_sigint_and_the_others_by_sigterm() -> None:
    """A program's main part knows KeyboardInterrupt; the others only have to go."""
    ending = Ending(5.0)
    effects = ending.step(TYPED, now=10.0)
    assert effects == [SignalFirst(signal.SIGINT, "Ctrl-C"), SignalOthers(signal.SIGTERM, "Ctrl-C")]
    assert (ending.state, ending.exit_code, ending.next_deadline()) == (EndingState.ASKED, 130, 15.0)
    assert ending.was_interrupted


def test_ctrl_c_twice_kills() -> None:
    """A person does not want to wait for the grace time."""
    ending = Ending(5.0)
    ending.step(TYPED, now=10.0)
    assert ending.step(TYPED, now=10.001) == [KillAll("Ctrl-C")]
    assert (ending.state, ending.next_deadline()) == (EndingState.KILLED, None)


def test_two_sigint_at_once_are_one_wish() -> None:
    """One is sent to the keeper, which passes it on, the other to the whole group."""
    ending = Ending(5.0)
    ending.step(SENT, now=10.0)
    assert ending.step(SENT, now=10.0 + SAME_WISH / 2) == []
    assert ending.step(SENT, now=10.0 + 2 * SAME_WISH) == [KillAll("Ctrl-C")]


def test_the_end_of_the_grace_time_kills() -> None:
    """Not before it; and a late or second word does no harm."""
    ending = Ending(5.0)
    assert ending.step(GraceOver(), now=9.0) == []
    ending.step(Terminated(signal.SIGTERM), now=10.0)
    assert ending.step(GraceOver(), now=14.9) == []
    assert ending.step(GraceOver(), now=15.0) == [KillAll("SIGTERM")]
    assert ending.step(GraceOver(), now=16.0) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_asks_all_and_gives_its_code(number: int, code: int) -> None:
    """The same signal again changes nothing: `timeout` sends it twice."""
    ending = Ending(5.0)
    name = signal.Signals(number).name
    assert ending.step(Terminated(number), now=0.0) == [
        SignalFirst(signal.SIGTERM, name),
        SignalOthers(signal.SIGTERM, name),
    ]
    assert ending.step(Terminated(number), now=1.0) == []
    assert ending.exit_code == code
    assert not ending.was_interrupted


def test_the_loss_of_stdout_asks_and_the_loss_of_the_keeper_kills() -> None:
    """Without a keeper nobody would sweep after us."""
    ending = Ending(5.0)
    assert ending.step(Lost("stdout", 141, at_once=False), now=0.0)[0] == SignalFirst(
        signal.SIGTERM, "the loss of stdout"
    )
    assert ending.step(Lost("the keeper", 1, at_once=True), now=0.1) == [KillAll("the loss of stdout")]
    assert ending.exit_code == 141
    ending = Ending(5.0)
    assert ending.step(Lost("the keeper", 1, at_once=True), now=0.0) == [KillAll("the loss of the keeper")]
    assert ending.exit_code == 1


def test_the_first_reason_gives_the_exit_code() -> None:
    """A Ctrl-C that follows a SIGTERM only hurries it."""
    ending = Ending(5.0)
    ending.step(Terminated(signal.SIGTERM), now=0.0)
    assert ending.step(TYPED, now=1.0) == [KillAll("SIGTERM")]
    assert ending.exit_code == 143


def test_a_kill_order_asks_then_kills() -> None:
    """SIGTERM, after the grace time SIGKILL, then nothing."""
    order = KillOrder()
    assert order.ask("process a", 2.0, 10.0) == signal.SIGTERM
    assert order.next_deadline() == 12.0
    assert order.tick(11.0) is None
    assert order.tick(12.0) == signal.SIGKILL
    assert order.tick(13.0) is None
    assert order.ask("process b", 1.0, 14.0) is None
    assert order.cause == "process a"


def test_of_several_wishes_the_earliest_counts() -> None:
    """And the first one who asked is named."""
    order = KillOrder()
    order.ask("process a", 5.0, 0.0)
    assert order.ask("process b", 1.0, 1.0) is None
    assert order.next_deadline() == 2.0
    assert order.ask("process c", 9.0, 1.0) is None
    assert order.next_deadline() == 2.0
    assert order.ask("process d", 0.0, 1.5) == signal.SIGKILL
    assert (order.cause, order.next_deadline()) == ("process a", None)


def test_a_signal_noted_after_the_kill_does_not_weaken_it() -> None:
    """What is caught up with later is the SIGKILL."""
    order = KillOrder()
    order.kill("Ctrl-C")
    order.note("Ctrl-C", signal.SIGTERM)
    assert order.asked_with == signal.SIGKILL


def test_a_good_end_has_no_words() -> None:
    """Even where somebody had asked for it."""
    assert certificate(KnownEnd(PID, 0, None, killer="Ctrl-C", stderr=("x",), place="a.py:1")) == ExitStatus(
        PID, 0, None
    )


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        (KnownEnd(PID, None, 9, killer="process 1234567", sent=9), "killed by process 1234567"),
        (
            KnownEnd(PID, None, 9, killer="process 1234567", sent=15),
            "not by constellation, which had only asked it to end",
        ),
        (KnownEnd(PID, None, 15, killer="process 1234567", sent=9), "killed by process 1234567"),
        (KnownEnd(PID, 143, None, killer="Ctrl-C", sent=15, reason=HEARD_SIGTERM), "killed by Ctrl-C"),
        (KnownEnd(PID, 143, None, killer=LINK, sent=15), LINK),
        (KnownEnd(PID, 0, None, killer=LINK, sent=15), LINK),
        (KnownEnd(PID, 3, None, killer=LINK, sent=15, reason="SystemExit: 3"), "SystemExit: 3"),
        (KnownEnd(PID, 130, None, killer="Ctrl-C", sent=2, exception=("KeyboardInterrupt", "")), "killed by Ctrl-C"),
        (KnownEnd(PID, 1, None, killer="Ctrl-C", sent=15, exception=("OSError", "gone")), "uncaught OSError: gone"),
        (KnownEnd(PID, 3, None, killer="Ctrl-C", sent=15), "without a word, as by os._exit"),
        (KnownEnd(PID, None, 9, memory="memory limit: ...", killer="the fabric", sent=9), "memory limit: ..."),
        (KnownEnd(PID, None, 11, fatal=FAULT), "Segmentation fault in f at a.py:3"),
        (KnownEnd(PID, None, 9, fatal=FAULT), "not by constellation"),
        (KnownEnd(PID, None, 11), None),
        (KnownEnd(PID, None, 14), "not by constellation"),
        (KnownEnd(PID, 143, None, reason=HEARD_SIGTERM), "SIGTERM, not by constellation"),
        (KnownEnd(PID, 4, None, reason=HEARD_SIGTERM), None),
        (KnownEnd(PID, 3, None, reason="SystemExit: 3"), "SystemExit: 3"),
        (KnownEnd(PID, 3, None, reason=""), "SystemExit: 3"),
        (KnownEnd(PID, 1, None, reason=""), "SystemExit"),
        (KnownEnd(PID, 1, None, may_say=False), None),
        (KnownEnd(PID, None, None), None),
        (KnownEnd(PID, 1, None, exception=("KeyError", "'a'")), "uncaught KeyError: 'a'"),
        (KnownEnd(PID, 1, None, exception=("RuntimeError", "")), "uncaught RuntimeError"),
        (KnownEnd(PID, None, 9, is_template_lost=True), "template lost"),
        (KnownEnd(PID, None, 9, is_template_lost=True, template_end=(None, 11)), "template lost: killed by SIGSEGV"),
        (KnownEnd(PID, None, None, is_template_lost=True, template_end=(3, None)), "template lost: exited with 3"),
        (KnownEnd(PID, 3, None, is_template_lost=True, template_end=(None, 9), reason=""), "SystemExit: 3"),
        (KnownEnd(PID, 3, None, is_template_lost=True, reason="SystemExit: 3"), "SystemExit: 3"),
        (KnownEnd(PID, 0, None, undelivered=("1 channel to 1a2b3c4",)), "undelivered: 1 channel to 1a2b3c4"),
        (KnownEnd(PID, 1, None, fault="it sent a malformed control message"), "it sent a malformed control message"),
        (KnownEnd(PID, None, 9), "not by constellation"),
        (KnownEnd(PID, 3, None), "without a word, as by os._exit"),
    ],
)
def test_a_certificate_names_the_first_cause_that_is_known(end: KnownEnd, cause: str | None) -> None:
    """And nothing that is not known."""
    status = certificate(end)
    assert status.cause == cause
    assert status.signal == (None if end.signum is None else signal.Signals(end.signum).name)


def test_a_last_stack_stands_in_the_certificate_of_its_fault_only() -> None:
    """A child of the program's own may have written it, and the process have ended in another way."""
    assert certificate(KnownEnd(PID, None, 11, fatal=FAULT)).stack == ("f at a.py:3",)
    assert certificate(KnownEnd(PID, 1, None, fatal=FAULT)).stack == ()
    assert certificate(KnownEnd(PID, None, 6, fatal=FAULT)).stack == ()


def test_closing_words_are_the_last_lines() -> None:
    """Cut characters do not matter."""
    assert closing_words(b"\xaf a\nb\nc\n", 2) == ("b", "c")
    assert closing_words(b"") == ()
    assert closing_words(b"\xaf") == ("\N{REPLACEMENT CHARACTER}",)
