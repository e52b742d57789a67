"""The JSON and raw formats, and the exit code of a run."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core.errors import UsageError
from constellation.core.output import Chunk, Renderer, run_exit_code
from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.core.status import ExitStatus

A = Pid(1, 1, bytes.fromhex("3fecd01" + "0" * 25))
B = Pid(1, 2, bytes.fromhex("a2b4c6d" + "1" * 25))
END = ExitStatus(A, 0, None)


def json_renderer() -> Renderer:
    """As the driver makes it."""
    return Renderer("json", colour=False)


def events(chunks: list[Chunk]) -> list[dict[str, Any]]:
    """The events of chunks, which all go to stdout, a line each."""
    assert all(fd == 1 and data.endswith(b"\n") and data.count(b"\n") == 1 for fd, data in chunks)
    return [json.loads(data) for _, data in chunks]


def test_unknown_format_is_refused() -> None:
    """The message says which there are."""
    with pytest.raises(UsageError, match="'xml': expected one of human, json, raw"):
        Renderer("xml", colour=False)


def test_json_spawn_has_the_keys_of_the_design() -> None:
    """Pids in full, resources as numbers, in the order that the design shows."""
    chunks = json_renderer().spawn(1.5, A, B, "prog:child", "local", Resources(mem="100 MiB", cpu=1 / 16))
    assert chunks == [
        (
            1,
            (
                b'{"event": "spawn", "time": 1.5, "pid": "3fecd010000000000000000000000000", '
                b'"parent": "a2b4c6d1111111111111111111111111", "function": "prog:child", "node": "local", '
                b'"resources": {"mem": 104857600, "cpu": 0.0625}}\n'
            ),
        )
    ]


def test_json_first_process_has_no_parent() -> None:
    """null, not a missing key."""
    [event] = events(json_renderer().spawn(1.5, A, None, "prog:__main__", "local", Resources()))
    assert event["parent"] is None


def test_json_output_has_the_keys_of_the_design() -> None:
    """Text as text."""
    assert json_renderer().output(1.6, A, 1, b"Hello, world!\n") == [
        (
            1,
            (
                b'{"event": "output", "time": 1.6, "pid": "3fecd010000000000000000000000000", "fd": 1, '
                b'"data": "Hello, world!\\n", "encoding": "utf-8"}\n'
            ),
        )
    ]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (ExitStatus(A, 0, None), {"code": 0, "signal": None, "cause": None}),
        (
            ExitStatus(A, None, "SIGKILL", "out of memory"),
            {"code": None, "signal": "SIGKILL", "cause": "out of memory"},
        ),
        (ExitStatus(A, None, None, "node lost"), {"code": None, "signal": None, "cause": "node lost"}),
    ],
)
def test_json_exit_has_the_keys_of_the_design(status: ExitStatus, expected: dict[str, object]) -> None:
    """Code, signal and cause, null where not known."""
    [event] = events(json_renderer().exit(1.7, status))
    assert event == {"event": "exit", "time": 1.7, "pid": A.hex(), **expected}


def test_json_holds_the_beginning_of_a_character() -> None:
    """No deadline gives out half a character, the rest does."""
    renderer = json_renderer()
    assert [event["data"] for event in events(renderer.output(1.0, A, 1, b"5 \xe2\x82"))] == ["5 "]
    assert renderer.next_deadline() is None
    assert renderer.tick(9.0) == []
    assert [event["data"] for event in events(renderer.output(1.1, A, 1, b"\xac"))] == ["\u20ac"]


def test_json_gives_out_half_a_character_at_the_end() -> None:
    """As base64, before the exit."""
    renderer = json_renderer()
    assert renderer.output(1.0, A, 2, b"\xe2\x82") == []
    output, end = events(renderer.exit(2.0, END))
    assert (output["fd"], output["data"], output["encoding"]) == (2, "4oI=", "base64")
    assert end["event"] == "exit"


def test_json_finish_gives_out_what_is_held() -> None:
    """Once."""
    renderer = json_renderer()
    renderer.output(1.0, A, 1, b"\xe2")
    assert [event["data"] for event in events(renderer.finish(2.0))] == ["4g=="]
    assert renderer.finish(2.0) == []


def test_json_bytes_that_are_not_text_come_at_once() -> None:
    """As base64, but for the beginning of a character after them."""
    renderer = json_renderer()
    [event] = events(renderer.output(1.0, A, 1, b"a\xff\xe2\x82"))
    assert (base64.b64decode(event["data"]), event["encoding"]) == (b"a\xff", "base64")
    assert [event["data"] for event in events(renderer.output(1.0, A, 1, b"\xac"))] == ["\u20ac"]


def test_json_streams_do_not_complete_each_other() -> None:
    """Half a character of one process waits for its own other half."""
    renderer = json_renderer()
    assert renderer.output(1.0, A, 1, b"\xe2\x82") == []
    assert events(renderer.output(1.0, B, 1, b"\xac"))[0]["encoding"] == "base64"
    assert events(renderer.output(1.0, A, 2, b"\xac"))[0]["encoding"] == "base64"
    assert events(renderer.output(1.0, A, 1, b"\xac"))[0]["data"] == "\u20ac"


def test_json_lines_are_ascii() -> None:
    """U+2028 and U+0085 must not end a line for readers that think they do."""
    chunks = json_renderer().output(1.0, A, 1, "a\u2028b\u0085c\nd".encode())
    assert len(chunks) == 1
    assert chunks[0][1].isascii()
    assert events(chunks)[0]["data"] == "a\u2028b\u0085c\nd"


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut data into chunks of these sizes, over and over."""
    chunks = []
    while data:
        for size in sizes:
            chunks.append(data[:size])
            data = data[size:]
    return chunks


sizes = st.lists(st.integers(1, 7), min_size=1, max_size=5)
streams = st.dictionaries(st.sampled_from([(A, 1), (A, 2), (B, 1), (B, 2)]), st.tuples(st.binary(max_size=40), sizes))


@given(streams, st.randoms(use_true_random=False))
def test_json_gives_each_byte_once_and_in_order(
    content: dict[tuple[Pid, int], tuple[bytes, list[int]]], dice: Any
) -> None:
    """For any bytes, cut anywhere, of any number of streams in any order."""
    renderer = json_renderer()
    waiting = {key: cut(*stream) for key, stream in content.items()}
    seen: list[dict[str, Any]] = []
    while left := sorted(key for key, chunks in waiting.items() if chunks):
        pid, fd = dice.choice(left)
        seen += events(renderer.output(1.0, pid, fd, waiting[pid, fd].pop(0)))
    seen += events(renderer.exit(2.0, END)) + events(renderer.finish(3.0))
    for (pid, fd), (data, _) in content.items():
        parts = [
            event for event in seen if event["event"] == "output" and (event["pid"], event["fd"]) == (pid.hex(), fd)
        ]
        assert b"".join(decode(part) for part in parts) == data


def decode(event: dict[str, Any]) -> bytes:
    """The bytes of an output event."""
    data: str = event["data"]
    return data.encode() if event["encoding"] == "utf-8" else base64.b64decode(data)


@given(st.text(), sizes)
def test_json_text_is_always_text(text: str, sizes: list[int]) -> None:
    """Where the whole is UTF-8, no cut makes base64 of it."""
    renderer = json_renderer()
    seen = [event for chunk in cut(text.encode(), sizes) for event in events(renderer.output(1.0, A, 1, chunk))]
    assert "".join(event["data"] for event in seen) == text
    assert {event["encoding"] for event in seen} <= {"utf-8"}
    assert renderer.finish(2.0) == []


def test_raw_passes_bytes_and_adds_nothing() -> None:
    """stdout to stdout, stderr to stderr."""
    renderer = Renderer("raw", colour=True)
    assert renderer.spawn(1.0, A, None, "f", "local", Resources()) == []
    assert renderer.output(1.0, A, 1, b"\xe2\n") == [(1, b"\xe2\n")]
    assert renderer.output(1.0, A, 2, b"x") == [(2, b"x")]
    assert renderer.output(1.0, A, 2, b"") == []
    assert renderer.next_deadline() is None
    assert renderer.tick(2.0) == renderer.finish(2.0) == renderer.exit(2.0, END) == []


OK = ExitStatus(B, 0, None)
UNKNOWN = ExitStatus(A, None, None, "node lost")


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], 0),
        ([OK, OK], 0),
        ([OK, ExitStatus(A, 3, None), ExitStatus(B, 3, None)], 3),
        ([ExitStatus(A, 3, None), ExitStatus(B, 4, None)], 1),
        ([ExitStatus(A, None, "SIGKILL"), OK], 137),
        ([ExitStatus(A, None, "SIGKILL"), ExitStatus(B, 137, None)], 137),
        ([ExitStatus(A, None, "SIGRTMIN+2"), OK], 128 + 36),
        ([ExitStatus(A, None, "SIGKILL"), ExitStatus(B, None, "SIGTERM")], 1),
        ([UNKNOWN], 1),
        ([UNKNOWN, ExitStatus(B, 2, None)], 1),
        ([ExitStatus(A, None, "SIGNONSENSE")], 1),
    ],
)
def test_exit_code_of_a_run(statuses: list[ExitStatus], expected: int) -> None:
    """0, what the failed have in common, or 1; 130 after Ctrl-C whatever they say."""
    assert run_exit_code(statuses, interrupted=False) == expected
    assert run_exit_code(iter(statuses), interrupted=True) == 130
