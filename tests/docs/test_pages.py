"""The programs and the links of the pages are true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from .conftest import ROOT, Run, without_pids

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WORDS = re.compile(r"`[^`]*`")


class Program(NamedTuple):
    """A complete program on a page: a block ``python run [exit=N]``."""

    name: str
    text: str
    code: int
    output: str | None
    """All that it prints, from a block ``text output`` below it."""
    contains: str | None
    """Lines that must be among what it prints on stdout or stderr, from a block ``text contains`` below it."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page: what stands behind the fence, and the text."""
    return [(info.strip(), text) for info, text in FENCE.findall(page.read_text(encoding="utf-8"))]


def programs() -> Iterator[Program]:
    """The complete programs of all pages."""
    for page in PAGES:
        found = blocks(page)
        for index, (info, text) in enumerate(found):
            if not info.startswith("python run"):
                continue
            code = re.search(r"exit=(\d+)", info)
            kind, below = found[index + 1] if index + 1 < len(found) else ("", "")
            yield Program(
                name=f"{page.relative_to(ROOT)}:{index}",
                text=text,
                code=int(code[1]) if code else 0,
                output=below if kind == "text output" else None,
                contains=below if kind == "text contains" else None,
            )


@pytest.mark.parametrize("program", list(programs()), ids=lambda program: program.name)
def test_program_on_a_page_runs_and_prints_what_the_page_says(run: Run, tmp_path: Path, program: Program) -> None:
    """The exit code is the one stated, and the output that stands below it is its output."""
    name = re.match(r"# (\w+\.py)\n", program.text)
    path = tmp_path / (name[1] if name else "program.py")
    path.write_text(program.text)
    ran = run(path, cwd=tmp_path)
    assert ran.code == program.code, ran
    if program.output is not None:
        # Which process writes first is nobody's promise, so neither is how often a header comes.
        wanted = sorted(without_pids(program.output))
        assert [line for line in ran.lines() if line != "PID:"] == [line for line in wanted if line != "PID:"], ran
        assert ran.err == ""
    if program.contains is not None:
        lines = {line.strip() for line in without_pids(ran.out + ran.err)}
        wanted = [line.strip() for line in without_pids(program.contains)]
        assert [line for line in wanted if line not in lines] == [], ran


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_something(page: Path) -> None:
    """Files exist, and headings that are linked to."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    missing = []
    for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)", WORDS.sub("``", text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        if not other.exists() or (anchor and anchor not in anchors(other)):
            missing.append(target)
    assert missing == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, made as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_pages_name_only_files_that_exist() -> None:
    """A path of this repository between backquotes is the path of a file or folder."""
    named = re.compile(r"`((?:examples|docs|constellation|benchmarks|tests)/[\w./-]*)`")
    for page in PAGES:
        for path in named.findall(page.read_text(encoding="utf-8")):
            assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_first_page_of_the_tutorial_says_what_init_splits() -> None:
    """Three things that everybody must know stand before the second section."""
    first = (ROOT / "docs" / "tutorial.md").read_text().split("\n## 2.")[0]
    for words in ("before `init()`", "runs again", "not seen by spawned processes", "exit code of a run"):
        assert words in " ".join(first.replace("*", "").split())


def test_readme_shows_the_example_as_it_is() -> None:
    """The example on the front page is `examples/fibonacci.py`, without its docstring."""
    example = (ROOT / "examples" / "fibonacci.py").read_text()
    shown = [text for info, text in blocks(ROOT / "README.md") if info.startswith("python") and "fibonacci" in text]
    assert len(shown) == 1
    plain = re.sub(r'^ *""".*?"""\n+', "", example, flags=re.MULTILINE | re.DOTALL)
    assert plain.split() == shown[0].split()


def test_every_decision_is_listed() -> None:
    """The records are numbered without gaps, and the list of them is whole."""
    folder = ROOT / "docs" / "decisions"
    records = sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert [int(name[:4]) for name in records] == list(range(1, len(records) + 1))
    listed = re.findall(r"\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text())
    assert listed == records
