"""What the suites have in common: a check is one promise of a contract, and a failure says all that repeats it.

A check runs in a thread of its own, because a plugin that does not keep its promise may block in it. The thread says when it
gets on (`Trial.progress`); one that has not for `Trial.patience` seconds has failed, where it stands: the text has the
innermost lines of its stack, which are the author's.
"""

from __future__ import annotations

import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, TypeVar

PATIENCE_S: Final = 10.0
"""How long a call of a plugin may take before it is said to hang: far more than any needs on a busy machine."""

_T = TypeVar("_T")
_LOOK_S = 0.02
_LINES_SHOWN = 4


class BrokenPromise(AssertionError):
    """A plugin does not keep a promise of its contract.

    Attributes:
        check: The name of the check.
        promise: What was promised, in a sentence.
        seen: What was seen instead.
        seed: What repeats the run, as ``check(make, seed=...)``.
    """

    def __init__(self, check: str, promise: str, seen: str, seed: int) -> None:
        super().__init__(check, promise, seen, seed)
        self.check = check
        self.promise = promise
        self.seen = seen
        self.seed = seed

    def __str__(self) -> str:
        return (
            f"{self.check}: {self.seen}\n  promised: {self.promise}\n  to repeat: {self.check}(make, seed={self.seed})"
        )


class Trial:
    """One run of a check.

    Attributes:
        seed: Where the chances come from.
        chance: They.
        patience: Seconds without progress after which the check has failed.
    """

    def __init__(self, name: str, seed: int, patience: float) -> None:
        self.seed = seed
        self.patience = patience
        self.chance = random.Random(f"{name} {seed}")  # noqa: S311  # a test's dice
        self.last_progress = time.monotonic()
        self._cleanups: list[Callable[[], object]] = []

    def progress(self) -> None:
        """Say that the plugin has answered."""
        self.last_progress = time.monotonic()

    def at_end(self, cleanup: Callable[[], object]) -> None:
        """Call something when the check is over, also when it hangs; what it raises does not matter."""
        self._cleanups.append(cleanup)

    def clean_up(self) -> None:
        """Call what was given to `at_end`, the last first."""
        while self._cleanups:
            try:
                self._cleanups.pop()()
            except Exception:  # the plugin's own; what there is to say about it, the checks have said
                pass


class Check(Generic[_T]):
    """One named promise of a contract; call it with what makes the plugin's object.

    Raises:
        BrokenPromise: The promise is not kept, or the plugin raised or hung.
    """

    def __init__(self, function: Callable[[Callable[[], _T], Trial], None]) -> None:
        self._function = function
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__
        self.promise = " ".join((function.__doc__ or "").split())

    def __str__(self) -> str:
        return self.__name__

    def __repr__(self) -> str:
        return f"<check {self.__name__}>"

    def __call__(self, make: Callable[[], _T], *, seed: int = 0, patience: float = PATIENCE_S) -> None:
        """Run the check. Blocks.

        Args:
            make: Makes a new object of the plugin.
            seed: Another one takes other chances.
            patience: Seconds after which a call that has not returned is said to hang.

        Raises:
            BrokenPromise: See the class.
        """
        trial = Trial(self.__name__, seed, patience)
        raised: list[BaseException] = []

        def run() -> None:
            try:
                self._function(make, trial)
            except BaseException as error:  # handed over to the thread that has asked
                raised.append(error)

        thread = threading.Thread(target=run, name=f"check {self.__name__}", daemon=True)
        thread.start()
        stuck = ""
        while not stuck:
            thread.join(_LOOK_S)
            if not thread.is_alive():
                break
            if time.monotonic() - trial.last_progress > patience:
                stuck = f"it has not returned for {patience:g} s, at {_where_is(thread)}"
        trial.clean_up()
        thread.join(_LOOK_S if stuck else None)
        if stuck:
            raise BrokenPromise(self.__name__, self.promise, stuck, seed)
        if raised:
            error = raised[0]
            if isinstance(error, AssertionError):
                raise BrokenPromise(self.__name__, self.promise, str(error), seed) from error
            if not isinstance(error, Exception):
                raise error
            raise BrokenPromise(self.__name__, self.promise, f"{_words(error)}, at {_place(error)}", seed) from error


def run_all(checks: Iterable[Check[_T]], make: Callable[[], _T], seed: int, patience: float) -> None:
    """Run checks one after the other; the first broken promise ends it. Blocks."""
    for check in checks:
        check(make, seed=seed, patience=patience)


def expect(holds: object, seen: str) -> None:
    """Fail a check with what was seen; not an assert, which ``python -O`` leaves out."""
    if not holds:
        raise AssertionError(seen)


def short(value: object, limit: int = 120) -> str:
    """Text of a value that fits into a line."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 4 :]} ({len(text)} characters)"


def has_text_name(plugin: Any) -> None:
    """Fail a check unless the plugin's object has a name that can select it."""
    name = getattr(plugin, "name", None)
    expect(isinstance(name, str) and name, f"name is {name!r}: expected text that is not empty")


def _where_is(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return "its end"
    return " < ".join(_lines(traceback.extract_stack(frame)))


def _place(error: BaseException) -> str:
    return " < ".join(_lines(traceback.extract_tb(error.__traceback__)))


def _lines(stack: traceback.StackSummary) -> list[str]:
    return [f"{line.filename}:{line.lineno} in {line.name}" for line in list(stack)[: -_LINES_SHOWN - 1 : -1]]


def _words(error: Exception) -> str:
    return f"it raised {type(error).__name__}: {error}"
