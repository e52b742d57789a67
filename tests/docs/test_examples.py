"""Every example runs, ends with 0 and says what it should."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from .conftest import ROOT, Run, without_pids

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_fibonacci_prints_the_number_and_the_end_of_each_process(run: Run) -> None:
    """177 processes take part; one prints the number."""
    ran = run("examples/fibonacci.py")
    assert (ran.code, ran.err) == (0, ""), ran
    assert "    10th Fibonacci number is 55!" in ran.out.splitlines()
    assert ran.lines().count("    exited: 0") == 177
    assert ran.lines().count("PID:") >= 177


@pytest.mark.parametrize("count", [2, 5])
def test_all_to_all_adds_up_in_every_member(run: Run, count: int) -> None:
    """Each of n members finds the sum of all numbers below n."""
    ran = run("examples/all_to_all.py", str(count))
    assert (ran.code, ran.err) == (0, ""), ran
    expected = (
        f"    {count} processes exchanged {count * (count - 1)} numbers; each found the sum {count * (count - 1) // 2}"
    )
    assert expected in ran.out.splitlines()


def test_fork_join_sorts(run: Run) -> None:
    """The program checks its result itself."""
    ran = run("examples/fork_join.py", "20000", "2")
    assert (ran.code, ran.err) == (0, ""), ran
    assert "    sorted 20000 numbers in 6 processes in" in ran.out


def test_process_pool_gives_results_in_order_and_carries_errors_back(run: Run) -> None:
    """The pool outlives a job's error, and ends well."""
    ran = run("examples/process_pool.py")
    assert (ran.code, ran.err) == (0, ""), ran
    assert "    primes: [168, 303, 430, 550, 669, 783, 900, 1007, 1117, 1229]" in ran.out
    assert "    again: ['A', 'B', 'C']" in ran.out
    assert "    an error came back: invalid literal for int() with base 10: 'twelve'" in ran.out


def test_process_pool_replaces_a_process_that_dies(run: Run) -> None:
    """The pool goes on, and the run's exit code is that of the process that failed."""
    ran = run("examples/process_pool.py", "--crash")
    assert ran.code == 3, ran
    assert "    a process died: exited: 3" in ran.out
    assert "    the pool goes on: 25" in ran.out


def test_wordcount_counts_every_word_and_names_what_it_cannot_read(run: Run, tmp_path: Path) -> None:
    """A broken link is named; a file of another kind and a pipe are passed over; the words add up."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "one.txt").write_text("the cat and the dog\n" * 1000)
    (tmp_path / "inner" / "two.md").write_bytes(b"The bird \xff and\n" * 500)
    (tmp_path / "not_text.bin").write_text("the the the")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    ran = run("examples/wordcount.py", tmp_path, "--counters", "3")
    assert (ran.code, ran.err) == (0, ""), ran
    assert re.search(r"^ +2,500  the$", ran.out, re.MULTILINE), ran.out
    assert re.search(r"^ +1,500  and$", ran.out, re.MULTILINE), ran.out
    assert "6,500 words, 5 different, in 2 files" in ran.out
    assert "1 could not be read:" in ran.out
    assert "gone.py" in ran.out
    assert re.search(r"MB/s, 3 processes counting$", ran.out, re.MULTILINE), ran.out


def test_wordcount_of_a_folder_that_is_not_there(run: Run, tmp_path: Path) -> None:
    """Nothing is counted, and the folder is named."""
    ran = run("examples/wordcount.py", tmp_path / "nowhere")
    assert (ran.code, ran.err) == (0, ""), ran
    assert "0 words, 0 different, in 0 files" in ran.out
    assert "nowhere" in ran.out


def test_wordcount_stops_at_its_limit(run: Run) -> None:
    """Of what is installed, the limit and at most one file more is counted."""
    ran = run("examples/wordcount.py", "--mb", "3")
    assert (ran.code, ran.err) == (0, ""), ran
    counted = re.search(r"^    ([0-9.]+) MB in [0-9.]+ s: [0-9.]+ MB/s", ran.out, re.MULTILINE)
    assert counted is not None, ran.out
    assert 3.0 <= float(counted[1]) < 8.0


def test_async_pipeline_passes_every_line(run: Run) -> None:
    """Three steps are applied in order by a process each; the last one counts the lines."""
    ran = run("examples/async_pipeline.py", "2500")
    assert (ran.code, ran.err) == (0, ""), ran
    assert "    5 words: LINE # OF THE SOURCE" in ran.out
    assert "    2500 lines came through" in ran.out


def test_trio_echo_answers_each_client(run: Run) -> None:
    """Each client gets its own answers, and its timeout takes nothing."""
    pytest.importorskip("trio")
    ran = run("examples/trio_echo.py", "2")
    assert (ran.code, ran.err) == (0, ""), ran
    for client in range(2):
        for number in range(3):
            assert f"    client {client} {number}, client {client} {number}" in ran.out
        assert f"    client {client} has waited in vain: True" in ran.out


def test_supervised_answers_all_though_its_worker_is_killed(run: Run) -> None:
    """Each death is seen by the client, the store and the supervisor; the shutdown is in reverse order."""
    ran = run("examples/supervised.py", "7")
    lines, complaints = ran.lines(), without_pids(ran.err)
    assert ran.code == 137, ran
    assert "    squares: [0, 1, 4, 9, 16, 25, 36]" in lines
    for number in (2, 5):
        assert (
            f"    square of {number}: process PID has died: killed: SIGKILL (not by constellation); trying again"
            in lines
        )
    assert lines.count("    store: process PID has died: killed: SIGKILL (not by constellation)") == 2
    assert complaints == ["PID:"] + ["    supervisor: child 'worker' (PID) killed: SIGKILL (not by constellation)"] * 2
    assert lines.count("    exited: 0") == 4


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_example_opens_with_a_docstring_and_is_short(path: Path) -> None:
    """It says what it shows and how it is run, and stays under 150 lines."""
    text = path.read_text()
    doc = ast.get_docstring(ast.parse(text)) or ""
    assert f"python examples/{path.name}" in doc
    assert "Shows " in doc
    assert len(text.splitlines()) < 150


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_example_has_a_test_here(path: Path) -> None:
    """No example is added that nobody runs."""
    assert f'"examples/{path.name}"' in Path(__file__).read_text()
