"""The conformance suite for launchers, which the built-in one passes too.

In a plugin's tests::

    @pytest.mark.parametrize("check", LAUNCHER_CHECKS, ids=str)
    def test_launcher(check):
        check(MyLauncher)

or, all at once, ``check_launcher(MyLauncher)``. Where nodes run elsewhere, say where and how they reach this computer:
``launcher_checks(place="h1", address="10.0.0.1", python="/usr/bin/python3")`` gives the checks for that place.

The nodes are small programs that dial the suite (`constellation.testing.witness`); nothing else is needed of the engine.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from constellation.core.contracts import Launcher, NodeCommand
from constellation.core.errors import LaunchError
from constellation.testing import witness as words
from constellation.testing.leaks import left, look
from constellation.testing.promises import PATIENCE_S, Check, Trial, expect, has_text_name, run_all, short
from constellation.testing.witness import Told, Witness

Make = Callable[[], Launcher]
"""Makes a new launcher."""

_GRACE = 30.0
_HARD = ("", " ", "two words", "$HOME", "`id`", "'", '"', "\\", "a\nb", "*", "-x", "é", ";&|<>", "%s", "{}", "~")


class Ground(NamedTuple):
    """Where a check starts its nodes."""

    place: str
    address: str
    python: str


class _Nodes:
    """The nodes of one check: started, watched, and stopped at its end whatever happens."""

    def __init__(self, make: Make, trial: Trial, ground: Ground) -> None:
        self.launcher = make()
        self.place = ground.place
        self.witness = Witness(ground.address, ground.python, trial.patience / 2, trial.progress)
        self._make = make
        self._trial = trial
        self._handles: list[str] = []
        trial.at_end(self.witness.close)

    def start(self, mode: str, *rest: str, **fields: Any) -> tuple[str, Told]:
        """Start a node and wait until it has said what it is."""
        command, told = self.witness.command(mode, *rest, **fields)
        handle = self.run(command)
        came = self.witness.wait(lambda: told.hello is not None)
        expect(
            came,
            f"start has given {short(handle)}, and nothing comes of the node; ended: {self.launcher.ended(handle)!r}",
        )
        return handle, told

    def run(self, command: NodeCommand) -> str:
        """Start what a command says; stopped at the end."""
        handle = self.launcher.start(command, self.place)
        self._trial.progress()
        expect(isinstance(handle, str) and handle, f"start gives {handle!r}: expected a handle, which is text")
        self._trial.at_end(lambda: self._make().stop(handle, 0.0))
        return handle

    def end_of(self, handle: str) -> str | None:
        """Ask how a node has ended until there is an answer; None: there is none."""
        self.witness.wait(lambda: self.launcher.ended(handle) is not None)
        return self.launcher.ended(handle)

    def stop(self, handle: str, grace: float = _GRACE, launcher: Launcher | None = None) -> None:
        """Stop a node. What is awaited of it is the caller's to check."""
        (launcher or self.launcher).stop(handle, grace)
        self._trial.progress()


def says_what_it_is(make: Make, trial: Trial, ground: Ground) -> None:
    """It has a name, and the three methods."""
    launcher: Any = make()
    has_text_name(launcher)
    missing = [name for name in ("start", "ended", "stop") if not callable(getattr(launcher, name, None))]
    expect(not missing, f"it has no {missing[0] if missing else ''}(): expected start, ended, stop")


def runs_the_command_as_it_is(make: Make, trial: Trial, ground: Ground) -> None:
    """Every argument arrives exactly as it is, whatever a shell would make of it, and variables are set."""
    nodes = _Nodes(make, trial, ground)
    environment = {"CONSTELLATION_TEST_A": "a value; $HOME 'x'", "CONSTELLATION_TEST_B": ""}
    _, told = nodes.start(words.OBEYS, *_HARD, environment=environment)
    assert told.hello is not None
    for given, got in zip(_HARD, told.hello["argv"], strict=False):
        expect(given == got, f"the argument {given!r} arrived as {got!r}")
    expect(
        len(told.hello["argv"]) == len(_HARD), f"{len(_HARD)} arguments were given, {len(told.hello['argv'])} arrived"
    )
    for name, value in environment.items():
        got = told.hello["environment"].get(name)
        expect(got == value, f"the variable {name} was given as {value!r} and arrived as {got!r}")
    expect("PATH" in told.hello["environment"], "the node has no PATH: expected the place's environment, and more")


def gives_standard_input(make: Make, trial: Trial, ground: Ground) -> None:
    """The node reads from its standard input what was given, to the end."""
    nodes = _Nodes(make, trial, ground)
    for given in (b"", bytes(range(256)), trial.chance.randbytes(300_000)):
        _, told = nodes.start(words.OBEYS, stdin=given)
        assert told.hello is not None
        got = bytes.fromhex(told.hello["stdin"])
        expect(got == given, f"{len(given)} bytes were to be read from stdin, the node read {len(got)}: {short(got)}")


def keeps_the_secret(make: Make, trial: Trial, ground: Ground) -> None:
    """What is given for standard input stands in no command line, no environment and no handle."""
    nodes = _Nodes(make, trial, ground)
    secret = "secret-" + trial.chance.randbytes(12).hex()
    handle, told = nodes.start(words.OBEYS, stdin=secret.encode())
    assert told.hello is not None
    for name, text in (
        ("command line", told.hello["argv"]),
        ("environment", told.hello["environment"]),
        ("handle", handle),
    ):
        expect(secret not in str(text), f"what was given for standard input stands in the {name}")


def outlives_who_started_it(make: Make, trial: Trial, ground: Ground) -> None:
    """A node runs on when the process that started it has ended, and another process stops it by the handle."""
    nodes = _Nodes(make, trial, ground)
    command, told = nodes.witness.command(words.OBEYS)
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # the child makes one call and ends: what a thread held, it needs not
        child = os.fork()
    if not child:
        try:
            os.write(write_end, make().start(command, ground.place).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        handle = pipe.read().decode()
    os.waitpid(child, 0)
    trial.progress()
    expect(handle, "start in another process gave no handle, or hung with the descriptors of that process")
    trial.at_end(lambda: make().stop(handle, 0.0))
    expect(
        nodes.witness.wait(lambda: told.hello is not None),
        "a process started a node and ended, and nothing comes of the node",
    )
    told.word("still there?")
    alive = nodes.witness.wait(lambda: told.echoes)
    expect(alive and not told.ended, "the node has ended with the process that started it")
    how = make().ended(handle)
    expect(how is None, f"the node runs, and ended, asked in another process, says {how!r}: expected None")
    nodes.stop(handle)
    expect(
        nodes.witness.wait(lambda: told.ended),
        "stop in another process than the one that started the node has no effect",
    )


def gives_handles_that_can_be_stored(make: Make, trial: Trial, ground: Ground) -> None:
    """A handle is text that survives a file, each node has its own, and another launcher object stops by it."""
    nodes = _Nodes(make, trial, ground)
    one, first = nodes.start(words.OBEYS)
    other, second = nodes.start(words.OBEYS)
    expect(one != other, f"two nodes have the handle {one!r}")
    stored = one.encode().decode()
    expect("\0" not in stored, f"the handle {one!r} has a NUL")
    nodes.stop(stored, launcher=make())
    expect(
        nodes.witness.wait(lambda: first.ended), "another launcher object was given the handle, and the node runs on"
    )
    second.word("still there?")
    expect(nodes.witness.wait(lambda: second.echoes) and not second.ended, "stopping one node has ended another")
    nodes.stop(other, launcher=make())


def stop_asks_and_waits(make: Make, trial: Trial, ground: Ground) -> None:
    """`stop` asks by SIGTERM, and returns when the node has ended, and not before."""
    nodes = _Nodes(make, trial, ground)
    handle, told = nodes.start(words.RUNS)
    failures: list[BaseException] = []

    def stop() -> None:
        try:
            nodes.launcher.stop(handle, _GRACE)
        except BaseException as error:  # raised below
            failures.append(error)

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    asked = nodes.witness.wait(lambda: told.was_asked or told.ended)
    expect(
        asked and told.was_asked, "the node was not asked to end by SIGTERM" + (", it was killed" if told.ended else "")
    )
    early = nodes.witness.wait(lambda: not thread.is_alive() or told.ended, 0.3)
    expect(not told.ended, "the node was killed though its grace time has just begun")
    expect(not early, "stop has returned while the node was still ending")
    told.word("end")
    expect(nodes.witness.wait(lambda: not thread.is_alive()), "the node has ended, and stop does not return")
    if failures:
        raise failures[0]
    expect(nodes.witness.wait(lambda: told.ended), "stop has returned, and the node runs")


def stop_kills_after_the_grace_time(make: Make, trial: Trial, ground: Ground) -> None:
    """A node that does not end when it is asked to is killed after the grace time."""
    nodes = _Nodes(make, trial, ground)
    handle, told = nodes.start(words.STUBBORN)
    nodes.stop(handle, 0.2)
    expect(nodes.witness.wait(lambda: told.ended), "stop has returned, and a node that took no notice runs on")
    expect(told.was_asked, "the node was killed without having been asked")


def leaves_nothing_of_a_node(make: Make, trial: Trial, ground: Ground) -> None:
    """After `stop` nothing that the node has started is left, also when it had to be killed."""
    nodes = _Nodes(make, trial, ground)
    handle, told = nodes.start(words.FAMILY)
    child = nodes.witness.child_of(told)
    expect(nodes.witness.wait(lambda: child.hello is not None), "a process that the node was to start is not heard of")
    nodes.stop(handle, 0.1)
    gone = nodes.witness.wait(lambda: told.ended and child.ended, PATIENCE_S / 5)
    expect(gone, "stop has returned, and the node, or a process that it has started, is left behind")


def stopping_again_is_no_fault(make: Make, trial: Trial, ground: Ground) -> None:
    """`stop` of a node that has ended, by itself or by an earlier call, does nothing."""
    nodes = _Nodes(make, trial, ground)
    handle, told = nodes.start(words.RUNS)
    told.word("end")
    expect(nodes.witness.wait(lambda: told.ended), "a node was told to end and does not")
    for _ in range(3):
        nodes.stop(handle)


def tells_how_it_ended(make: Make, trial: Trial, ground: Ground) -> None:
    """`ended` is None while the node runs, and then a text with the last that it said."""
    nodes = _Nodes(make, trial, ground)
    handle, told = nodes.start(words.RUNS)
    how = nodes.launcher.ended(handle)
    expect(how is None, f"ended says {how!r} of a node that runs: expected None")
    failed, failing = nodes.start(words.FAILS)
    expect(nodes.witness.wait(lambda: failing.ended), "a node was to end by itself and does not")
    how = nodes.end_of(failed)
    expect(isinstance(how, str), f"ended says {how!r} of a node that has ended: expected text")
    expect(words.LAST_WORDS in str(how), f"ended says {how!r}: expected the last that it said, {words.LAST_WORDS!r}")
    told.word("end")
    expect(nodes.witness.wait(lambda: told.ended), "a node was told to end and does not")


def says_why_it_cannot_start(make: Make, trial: Trial, ground: Ground) -> None:
    """A program that is not there: LaunchError from `start`, or from `ended` a text, and it names the program."""
    nodes = _Nodes(make, trial, ground)
    command = NodeCommand("no node", ("/no/such/program-4711", "argument"), {}, b"")
    try:
        handle = nodes.run(command)
    except LaunchError as error:
        text = str(error)
    else:
        text = str(nodes.end_of(handle))
        nodes.stop(handle)
    expect(
        "program-4711" in text, f"the program cannot be started, and the words are {text!r}: expected its name in them"
    )


def several_at_once(make: Make, trial: Trial, ground: Ground) -> None:
    """Several threads start and stop nodes at once."""
    nodes = _Nodes(make, trial, ground)
    commands = [nodes.witness.command(words.OBEYS) for _ in range(4)]
    failures: list[BaseException] = []
    together = threading.Barrier(len(commands))

    def run(command: NodeCommand, told: Told) -> None:
        try:
            together.wait(trial.patience)
            handle = nodes.run(command)
            expect(
                nodes.witness.wait(lambda: told.hello is not None),
                "four nodes were started at once, and one is not heard of",
            )
            expect(nodes.launcher.ended(handle) is None, "a node runs, and ended says that it has ended")
            nodes.stop(handle)
            expect(nodes.witness.wait(lambda: told.ended), "four nodes were stopped at once, and one runs on")
        except BaseException as error:  # raised below
            failures.append(error)

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in commands]
    for thread in threads:
        thread.start()
    nodes.witness.wait(lambda: not any(thread.is_alive() for thread in threads), trial.patience * 2)
    if failures:
        raise failures[0]


def passes_no_descriptor(make: Make, trial: Trial, ground: Ground) -> None:
    """No descriptor of the caller gets into the node, not even one that is inherited by programs."""
    nodes = _Nodes(make, trial, ground)
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    os.set_blocking(read_end, False)
    try:
        nodes.start(words.RUNS)
    finally:
        os.close(write_end)
    try:
        open_still = os.read(read_end, 1) != b""
    except BlockingIOError:
        open_still = True
    finally:
        os.close(read_end)
    expect(not open_still, "a pipe of the caller is still open in the node after the caller has closed it")


def leaves_nothing_in_the_caller(make: Make, trial: Trial, ground: Ground) -> None:
    """When all nodes are stopped, no descriptor, thread or zombie is left in the process that started them."""
    nodes = _Nodes(make, trial, ground)
    handle, _ = nodes.start(words.OBEYS)  # what is made once does not count
    nodes.stop(handle)
    nodes.witness.close()
    before = look()
    for mode in (words.OBEYS, words.STUBBORN, words.FAILS):
        more = _Nodes(make, trial, ground)
        handle, _ = more.start(mode)
        more.stop(handle, 0.1)
        more.witness.close()
    lines = left(before, trial.patience / 2)
    expect(not lines, f"after all nodes were stopped there is left: {'; '.join(lines[:4])}")


_BODIES = (
    says_what_it_is,
    runs_the_command_as_it_is,
    gives_standard_input,
    keeps_the_secret,
    outlives_who_started_it,
    gives_handles_that_can_be_stored,
    stop_asks_and_waits,
    stop_kills_after_the_grace_time,
    leaves_nothing_of_a_node,
    stopping_again_is_no_fault,
    tells_how_it_ended,
    says_why_it_cannot_start,
    several_at_once,
    passes_no_descriptor,
    leaves_nothing_in_the_caller,
)


def launcher_checks(
    *, place: str = "", address: str = "127.0.0.1", python: str = sys.executable
) -> tuple[Check[Launcher], ...]:
    """Make all checks for one place.

    Args:
        place: What `start` is given as the place.
        address: Where nodes reach this computer; other ones than the default are reached on all its addresses.
        python: A Python at the place.
    """
    ground = Ground(place, address, python)

    def at(body: Callable[[Make, Trial, Ground], None]) -> Check[Launcher]:
        @functools.wraps(body)
        def function(make: Make, trial: Trial) -> None:
            body(make, trial, ground)

        return Check(function)

    return tuple(map(at, _BODIES))


LAUNCHER_CHECKS = launcher_checks()
"""All checks, for nodes on this computer."""


def check_launcher(make: Make, *, seed: int = 0, patience: float = PATIENCE_S) -> None:
    """Check that a launcher keeps the contract of `constellation.plugin.Launcher`, on this computer.

    Args:
        make: Makes a new launcher.
        seed: Another one takes other chances.
        patience: Seconds after which a call that has not returned is said to hang.

    Raises:
        BrokenPromise: A check fails: which, what was seen, and the seed that repeats it.
    """
    run_all(LAUNCHER_CHECKS, make, seed, patience)
