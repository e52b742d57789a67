"""The human format: whole lines of each process under its header."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core.human import PARTIAL_BYTES, PARTIAL_S, Names
from constellation.core.output import Chunk, Renderer
from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.core.status import ExitStatus

A = Pid(1, 1, bytes.fromhex("3fecd01" + "0" * 25))
B = Pid(1, 2, bytes.fromhex("a2b4c6d" + "1" * 25))
C = Pid(1, 3, bytes.fromhex("ccccccc" + "2" * 25))


class Screen:
    """A renderer and all that it has shown, on stdout and stderr together and apart."""

    def __init__(self, *, colour: bool = False, joined: bool = True) -> None:
        self.renderer = Renderer("human", colour=colour, joined=joined)
        self.now = 100.0
        self.all = b""
        self.apart = {1: b"", 2: b""}

    def show(self, chunks: list[Chunk]) -> None:
        for fd, data in chunks:
            assert data
            self.all += data
            self.apart[fd] += data

    def output(self, pid: Pid, data: bytes | str, fd: int = 1) -> None:
        self.show(self.renderer.output(self.now, pid, fd, data if isinstance(data, bytes) else data.encode()))

    def exit(self, pid: Pid, code: int | None = 0, signal: str | None = None, cause: str | None = None) -> None:
        self.show(self.renderer.exit(self.now, ExitStatus(pid, code, signal, cause)))

    def wait(self, seconds: float = PARTIAL_S) -> None:
        self.now += seconds
        self.show(self.renderer.tick(self.now))

    def finish(self) -> None:
        self.show(self.renderer.finish(self.now))

    def taken(self) -> str:
        """What has been shown since the last call."""
        text, self.all = self.all.decode(), b""
        return text


@pytest.fixture
def screen() -> Screen:
    """Of one terminal, without colours."""
    return Screen()


def test_shows_what_the_design_shows(screen: Screen) -> None:
    """A header, the lines, the end."""
    screen.show(screen.renderer.spawn(screen.now, A, None, "prog:__main__", "local", Resources()))
    screen.output(A, "Hello, world!\n")
    screen.exit(A)
    assert screen.taken() == "3fecd01:\n    Hello, world!\n    exited: 0\n"


def test_header_is_written_when_the_speaker_changes(screen: Screen) -> None:
    """And only then."""
    screen.output(A, "one\n")
    screen.output(A, "two\n\nthree\n")
    screen.output(B, "one\n")
    screen.exit(A)
    assert screen.taken() == (
        "3fecd01:\n    one\n    two\n    \n    three\na2b4c6d:\n    one\n3fecd01:\n    exited: 0\n"
    )


def test_process_without_output_has_its_end_shown(screen: Screen) -> None:
    """With a header."""
    screen.exit(A, None, "SIGKILL", "out of memory")
    assert screen.taken() == "3fecd01:\n    killed: SIGKILL (out of memory)\n"


def test_cause_of_several_lines_is_indented(screen: Screen) -> None:
    """Else its second line would look like a header."""
    screen.exit(A, 1, cause="ValueError: one\ntwo \ud800")
    assert screen.taken() == "3fecd01:\n    exited: 1 (ValueError: one\n    two \\ud800)\n"


def test_part_of_a_line_is_shown_after_a_while(screen: Screen) -> None:
    """A prompt is seen, though not at once."""
    screen.output(A, "name? ")
    assert screen.renderer.next_deadline() == screen.now + PARTIAL_S
    screen.wait(PARTIAL_S / 2)
    assert screen.taken() == ""
    screen.wait(PARTIAL_S / 2)
    assert screen.taken() == "3fecd01:\n    name? "
    assert screen.renderer.next_deadline() is None
    screen.wait()
    assert screen.taken() == ""


def test_open_line_goes_on_at_once(screen: Screen) -> None:
    """An echo must not lag."""
    screen.output(A, "name? ")
    screen.wait()
    screen.output(A, "J")
    screen.output(A, "o\r\nhello ")
    assert screen.taken() == "3fecd01:\n    name? Jo\r\n"
    screen.wait()
    assert screen.taken() == "    hello "


def test_part_waits_from_its_first_byte(screen: Screen) -> None:
    """More of it does not put the deadline off."""
    screen.output(A, "a")
    deadline = screen.renderer.next_deadline()
    screen.now += PARTIAL_S / 2
    screen.output(A, "b")
    assert screen.renderer.next_deadline() == deadline


def test_broken_line_is_continued_with_a_mark(screen: Screen) -> None:
    """And the line of the other process is whole."""
    screen.output(A, "name? ")
    screen.wait()
    screen.output(B, "hello\n")
    screen.output(A, "Jo\nnext\n")
    assert screen.taken() == "3fecd01:\n    name? \na2b4c6d:\n    hello\n3fecd01:\n    ... Jo\n    next\n"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_end_of_a_broken_line_is_not_shown_twice(screen: Screen, end: str) -> None:
    """It was ended when it was broken."""
    screen.output(A, "part")
    screen.wait()
    screen.output(B, "hello\n")
    screen.output(A, end)
    screen.output(B, "world\n")
    screen.output(A, "more\n")
    assert screen.taken() == "3fecd01:\n    part\na2b4c6d:\n    hello\n    world\n3fecd01:\n    more\n"


def test_end_of_a_process_breaks_an_open_line(screen: Screen) -> None:
    """And ends its own."""
    screen.output(A, "a")
    screen.wait()
    screen.output(B, "b")
    screen.exit(B)
    screen.exit(A)
    assert screen.taken() == ("3fecd01:\n    a\na2b4c6d:\n    b\n    exited: 0\n3fecd01:\n    exited: 0\n")


def test_character_is_not_cut(screen: Screen) -> None:
    """No deadline shows half of one; its rest, or the end, does."""
    screen.output(A, b"\xe2")
    assert screen.renderer.next_deadline() is None
    screen.output(A, b"\x82\xac \xe2\x82")
    screen.wait()
    assert screen.taken() == "3fecd01:\n    \u20ac "
    screen.output(A, b"\xac\xe2")
    assert screen.taken() == "\u20ac"
    screen.exit(A)
    assert screen.all == b"\xe2\n    exited: 0\n"


def test_half_a_character_is_kept_while_others_speak(screen: Screen) -> None:
    """It is whole when it is shown."""
    screen.output(A, b"5 \xe2\x82")
    screen.wait()
    screen.output(B, "b\n")
    screen.output(A, b"\xac\n")
    assert screen.taken() == "3fecd01:\n    5 \na2b4c6d:\n    b\n3fecd01:\n    ... \u20ac\n"


def test_progress_bar_stays_in_its_column(screen: Screen) -> None:
    """The indentation is written again after a carriage return, wherever the chunk ends."""
    screen.output(A, "\r10%")
    screen.wait()
    screen.output(A, "\r20%\r")
    screen.output(A, "30%\r")
    screen.output(A, "\r")
    screen.output(A, "\n")
    assert screen.taken() == "3fecd01:\n    \r    10%\r    20%\r    30%\r\r\n"


def test_broken_progress_bar_begins_anew(screen: Screen) -> None:
    """Without a mark, for it writes its whole line again."""
    screen.output(A, "10%")
    screen.wait()
    screen.output(B, "b\n")
    screen.output(A, "\r20%")
    screen.wait()
    assert screen.taken() == "3fecd01:\n    10%\na2b4c6d:\n    b\n3fecd01:\n    \r    20%"


def test_stderr_goes_to_stderr_and_is_kept_apart(screen: Screen) -> None:
    """A line of stdout is not mixed with one of stderr, of the same process either."""
    screen.output(A, "out", fd=1)
    screen.wait()
    screen.output(A, "err\n", fd=2)
    screen.output(A, "put\n", fd=1)
    assert screen.taken() == "3fecd01:\n    out\n    err\n    ... put\n"
    assert screen.apart == {1: b"3fecd01:\n    out\n    ... put\n", 2: b"    err\n"}


def test_separate_stderr_has_headers_of_its_own() -> None:
    """Each file can be read alone, and a line in one breaks none in the other."""
    screen = Screen(joined=False)
    screen.output(A, "out", fd=1)
    screen.wait()
    screen.output(A, "err\n", fd=2)
    screen.output(A, "put\n", fd=1)
    screen.exit(A)
    assert screen.apart == {1: b"3fecd01:\n    output\n    exited: 0\n", 2: b"3fecd01:\n    err\n"}


def test_chunks_are_in_order_and_joined(screen: Screen) -> None:
    """One write for each change of descriptor."""
    screen.output(A, "out")
    screen.wait()
    assert screen.renderer.output(screen.now, B, 2, b"err\n") == [(1, b"\n"), (2, b"a2b4c6d:\n    err\n")]


def test_colours() -> None:
    """Headers by Pid, the same each time; red for a bad end only."""
    screen = Screen(colour=True)
    screen.output(A, "a\n")
    screen.exit(A)
    screen.exit(A, 3)
    text = screen.taken()
    assert re.fullmatch(
        r"\x1b\[0;(3[2-6]|9[2-6])m3fecd01:\x1b\[0m\n    a\n    exited: 0\n    \x1b\[0;31mexited: 3\x1b\[0m\n", text
    )


def test_without_colour_there_is_no_escape(screen: Screen) -> None:
    """What a process writes itself passes."""
    screen.exit(A, 3)
    assert "\x1b" not in screen.taken()
    screen.output(A, "\x1b[31mred\x1b[0m\x07\n")
    assert screen.taken() == "    \x1b[31mred\x1b[0m\x07\n"


def test_clock_that_is_set_back_delays_nothing(screen: Screen) -> None:
    """A part that would wait for hours is shown."""
    screen.output(A, "a")
    screen.wait(-3600.0)
    assert screen.taken() == "3fecd01:\n    a"


def test_finish_shows_all_and_ends_the_line(screen: Screen) -> None:
    """Twice is harmless."""
    screen.output(A, b"a\xe2")
    screen.output(B, "b")
    screen.output(C, "c\n")
    screen.finish()
    assert screen.all == b"ccccccc:\n    c\n3fecd01:\n    a\xe2\na2b4c6d:\n    b\n"
    screen.finish()
    assert screen.all.endswith(b"b\n")


def test_no_line_is_held_beyond_its_limit(screen: Screen) -> None:
    """A line of any length passes through, in time that grows with its length only."""
    chunk = b"x" * 1000
    for count in range(1, 301):
        screen.output(A, chunk)
        assert len(screen.apart[1]) >= count * len(chunk) - PARTIAL_BYTES
    screen.finish()
    assert screen.apart[1] == b"3fecd01:\n    " + chunk * 300 + b"\n"


def test_long_line_gives_way_to_others(screen: Screen) -> None:
    """It is broken, held again, and shown when it is long or has waited."""
    screen.output(A, b"x" * PARTIAL_BYTES)
    screen.output(B, "b\n")
    screen.output(A, b"y" * (PARTIAL_BYTES - 1))
    assert screen.renderer.next_deadline() is not None
    screen.output(A, "y")
    assert screen.renderer.next_deadline() is None
    assert screen.taken().endswith("3fecd01:\n    ... " + "y" * PARTIAL_BYTES)


def test_names_are_longer_where_pids_begin_alike() -> None:
    """As many digits as tell them apart, 32 at most."""
    names = Names()
    alike = Pid(1, 4, bytes.fromhex("3fecd01" + "00f" + "0" * 22))
    assert names.name(A) == "3fecd01"
    assert names.name(alike) == "3fecd0100f"
    assert names.name(A) == "3fecd01000"
    assert names.name(Pid(9, 9, A.key)) == "3fecd01000"
    last = Pid(1, 5, bytes.fromhex("3fecd01" + "0" * 24 + "1"))
    assert names.name(last) == last.hex()
    assert names.name(B) == "a2b4c6d"


texts = st.text(st.sampled_from("ab\n\n \u20ac\U0001f600"), max_size=30)
steps = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6), st.sampled_from([0.0, 0.01, PARTIAL_S])), max_size=60)


@given(st.tuples(texts, texts, texts), steps)
def test_lines_of_processes_are_never_mixed(content: tuple[str, str, str], steps: list[tuple[int, int, float]]) -> None:
    """Each process's text can be read back from under its headers, whole and in order, however it came."""
    screen = Screen()
    pids = (A, B, C)
    left = [text.encode() for text in content]
    for who, size, seconds in steps:
        screen.output(pids[who], left[who][:size])
        left[who] = left[who][size:]
        screen.wait(seconds)
    for pid, rest in zip(pids, left, strict=True):
        screen.output(pid, rest)
    for pid in pids:
        screen.exit(pid)
    read = read_back(screen.taken())
    for pid, text in zip(pids, content, strict=True):
        whole = text if text.endswith("\n") or not text else text + "\n"
        assert read[pid.hex()[:7]] == whole + "exited: 0\n"


def read_back(shown: str) -> dict[str, str]:
    """What each process has said, from what the screen shows."""
    texts: dict[str, str] = {}
    speaker = ""
    for line in shown.removesuffix("\n").split("\n"):
        if re.fullmatch("[0-9a-f]{7}:", line):
            assert line != speaker  # a header only when the speaker changes
            speaker = line
            continue
        assert line.startswith("    ")
        text = line[4:]
        name = speaker[:-1]
        if text.startswith("... "):
            texts[name] = texts[name].removesuffix("\n") + text[4:] + "\n"
        else:
            texts[name] = texts.get(name, "") + text + "\n"
    return texts


@given(st.binary(max_size=60) | st.text(st.sampled_from("a\r\n\u20ac")).map(str.encode), steps)
def test_cuts_and_times_change_nothing_for_one_process(data: bytes, steps: list[tuple[int, int, float]]) -> None:
    """Byte at a time equals one chunk, for any bytes."""
    screen, at_once = Screen(), Screen()
    left = data
    for _, size, seconds in steps:
        screen.output(A, left[:size])
        left = left[size:]
        screen.wait(seconds)
    screen.output(A, left)
    at_once.output(A, data)
    for each in (screen, at_once):
        each.exit(A)
    assert screen.all == at_once.all
    body = at_once.all.removeprefix(b"3fecd01:\n").removesuffix(b"    exited: 0\n")
    plain = re.sub(rb"(\A|\n)    ", rb"\1", body)
    assert re.sub(rb"\r    (?=[^\r\n])", b"\r", plain).rstrip(b"\n") == data.rstrip(b"\n")


def test_deadlines_of_many_streams_are_in_order(screen: Screen) -> None:
    """`tick` shows those whose time has come, and no other."""
    pids: list[Any] = [Pid(1, number, bytes([number]) * 16) for number in range(50)]
    for pid in pids:
        screen.output(pid, "x")
        screen.now += 0.01
    screen.now -= 0.01
    assert screen.renderer.next_deadline() == pytest.approx(100.0 + PARTIAL_S)
    screen.wait(0.0)
    assert screen.taken().count(":") == 45
