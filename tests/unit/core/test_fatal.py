"""The last Python stack, read out of what Python writes, and whether the C stack was full."""

from __future__ import annotations

import signal

import pytest

from constellation.core import fatal
from constellation.core.fatal import Call, Fatal

BORDER = ("constellation/process/life.py", "_call")

SEGMENTATION = """\
Fatal Python error: Segmentation fault

Stack (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "/home/me/prog.py", line 9 in child
  File "/venv/constellation/process/life.py", line 100 in _call
  File "/venv/constellation/process/life.py", line 71 in <lambda>
  File "/home/me/prog.py", line 43 in <module>

Extension modules: msgpack._cmsgpack (total: 1)
"""
OWN_ERROR = """\
Traceback (most recent call last): something else
Fatal Python error: _Py_CheckRecursiveCall: Cannot recover from stack overflow.
Python runtime state: initialized

Thread 0x00007f46738b0b80 (most recent call first):
  File "/home/me/other.py", line 1 in other

Current thread 0x00007fc145882b80 (most recent call first):
  Garbage-collecting
  File "/home/me/my prog.py", line 26 in f
  File "/home/me/my prog.py", line 27 in g
"""


def test_a_signal_s_stack_ends_where_ours_begins() -> None:
    """The most recent call first; what lies below the user's function is the same for all and of no use."""
    found = fatal.find(SEGMENTATION, BORDER)
    assert found == Fatal(
        "Segmentation fault",
        (
            Call("/usr/lib/python3.11/ctypes/__init__.py", "519", "string_at"),
            Call("/home/me/prog.py", "9", "child"),
        ),
    )
    assert found.cause() == "Segmentation fault in string_at at /usr/lib/python3.11/ctypes/__init__.py:519"
    assert found.stack() == ("string_at at /usr/lib/python3.11/ctypes/__init__.py:519", "child at /home/me/prog.py:9")
    assert found.text() == SEGMENTATION.partition('  File "/venv')[0]


def test_a_process_without_the_border_has_all_its_calls() -> None:
    """The first process has no function of ours below its own."""
    found = fatal.find(SEGMENTATION)
    assert found is not None and len(found.calls) == 5


def test_python_s_own_fatal_error_is_that_of_the_current_thread() -> None:
    """Other threads may stand before it."""
    found = fatal.find(OWN_ERROR, BORDER)
    assert found is not None
    assert found.cause() == (
        "fatal Python error: _Py_CheckRecursiveCall: Cannot recover from stack overflow. in f at /home/me/my prog.py:26"
    )
    assert found.stack() == ("f at /home/me/my prog.py:26", "g at /home/me/my prog.py:27")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Segmentation fault",
        "it said Fatal Python error: no\n",
        'Stack (most recent call first):\n  File "a", line 1 in f',
    ],
)
def test_no_title_is_no_error(text: str) -> None:
    """Where the beginning is cut off nothing is known."""
    assert fatal.find(text) is None


def test_the_last_of_several_counts() -> None:
    """A child of the program's own may have written before."""
    found = fatal.find(
        SEGMENTATION + SEGMENTATION.replace("Segmentation fault", "Bus error").replace("child", "g"), BORDER
    )
    assert found is not None and found.what == "Bus error" and found.calls[1].function == "g"


def test_without_a_stack_there_is_the_title() -> None:
    """A thread that runs no Python, or a text that is cut short."""
    found = fatal.find("Fatal Python error: Aborted\n\n", BORDER)
    assert found == Fatal("Aborted")
    assert (found.cause(), found.stack()) == ("Aborted", ())
    assert found.text().endswith("first):\n  <no Python frame>\n")
    assert fatal.find("Fatal Python error:  \n") == Fatal("unknown")


def test_a_recursion_is_counted() -> None:
    """A hundred equal lines say less than three and a number; that there were more is kept."""
    lines = '  File "a.py", line 3 in f\n' * 99 + '  File "a.py", line 9 in g\n  ...\n'
    found = fatal.find(f"Fatal Python error: Segmentation fault\n\nStack (most recent call first):\n{lines}")
    assert found is not None and found.has_more and len(found.calls) == 100
    assert found.stack() == ("f at a.py:3", "f at a.py:3", "f at a.py:3", "... 96 times more", "g at a.py:9")
    assert found.text().splitlines()[3:] == [
        *['  File "a.py", line 3 in f'] * 3,
        "  [Previous line repeated 96 more times]",
        '  File "a.py", line 9 in g',
        "  ...",
    ]


def test_calls_whose_place_is_not_known_are_read_too() -> None:
    """Python writes question marks for what it cannot read in a broken state."""
    text = "Fatal Python error: Aborted\n\nStack (most recent call first):\n  File ???, line ??? in ???\n"
    found = fatal.find(text)
    assert found is not None and found.calls == (Call("???", "???", "???"),)


@pytest.mark.parametrize(
    ("what", "signum", "fits"),
    [
        ("Segmentation fault", signal.SIGSEGV, True),
        ("Segmentation fault", signal.SIGABRT, False),
        ("Segmentation fault", None, False),
        ("Floating point exception", signal.SIGFPE, True),
        ("Aborted", signal.SIGABRT, True),
        ("anything of Python's own", signal.SIGABRT, True),
        ("anything of Python's own", signal.SIGSEGV, False),
    ],
)
def test_it_is_the_reason_only_of_its_own_signal(what: str, signum: int | None, fits: bool) -> None:
    """Nothing is claimed that may be another's."""
    assert Fatal(what).fits(signum) is fits


# The C stack

LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max stack size            {}              unlimited            bytes
"""
TOP = 0x7FFD2B2F0000


def _maps(size: int, gap: int = 1 << 40) -> str:
    low = TOP - size
    return (
        f"{low - gap - 4096:x}-{low - gap:x} rw-p 00000000 00:00 0 /usr/lib/ld.so\n"
        f"{low:x}-{TOP:x} rw-p 00000000 00:00 0                          [stack]\n"
        f"{TOP + 8192:x}-{TOP + 16384:x} r-xp 00000000 00:00 0 [vdso]\n"
    )


@pytest.mark.parametrize(
    ("maps", "limit", "full"),
    [
        (_maps(8 << 20), 8 << 20, 8 << 20),
        (_maps((8 << 20) - 4096), 8 << 20, (8 << 20) - 4096),
        (_maps(7 << 20), 8 << 20, None),
        (_maps(135168), 8 << 20, None),
        (_maps(64 << 20), "unlimited", None),
        (_maps(64 << 20, gap=1 << 20), "unlimited", 64 << 20),
        (_maps(1 << 20, gap=1 << 20), 8 << 20, 1 << 20),
        ("", 8 << 20, None),
        ("nonsense", 8 << 20, None),
    ],
)
def test_a_stack_is_full_at_its_limit_or_at_its_neighbour(maps: str, limit: object, full: int | None) -> None:
    """The kernel lets it grow to RLIMIT_STACK, and no nearer than a gap to what lies below."""
    assert fatal.full_stack(maps, LIMITS.format(limit)) == full


def test_without_the_limits_nothing_is_said() -> None:
    """The stack may be any part of what it could have been."""
    assert fatal.full_stack(_maps(8 << 20), "") is None
    assert fatal.full_stack(_maps(8 << 20), "Max stack size\n") is None


def test_the_sentence_of_a_full_stack() -> None:
    """It is not a segmentation fault like others."""
    found = Fatal("Segmentation fault", (Call("a.py", "3", "f"),), full_stack=8 << 20)
    assert found.cause() == "C stack overflow in f at a.py:3: all 8 MiB of the stack are used"
