"""What a program says it needs, in each of the places."""

from __future__ import annotations

import pytest

from constellation.core.errors import DeployError
from constellation.core.requirements import Included, extras_of_project, from_lines, from_project, from_script

SCRIPT = '''\
#!/usr/bin/env python3
"""A program."""
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "requests<3",  # a comment
#   "rich",
# ]
#
# [tool.x]
# y = 1
# ///

import requests
'''


def test_block_of_a_script_is_read() -> None:
    """As PEP 723 has it, also with the line ends of Windows."""
    for text in (SCRIPT, SCRIPT.replace("\n", "\r\n")):
        found = from_script(text, "prog.py")
        assert found is not None
        assert (found.source, found.requirements, found.python) == ("prog.py", ("requests<3", "rich"), ">=3.11")


def test_script_without_a_block_says_nothing() -> None:
    """Another kind of block, or one that does not end, is none."""
    assert from_script("import os\n", "p.py") is None
    assert from_script("# /// other\n# x = 1\n# ///\n", "p.py") is None
    assert from_script("# /// script\n# x = 1\n", "p.py") is None
    empty = from_script("# /// script\n#\n# ///\n", "p.py")
    assert empty is not None
    assert empty.is_empty


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# /// script\n# x =\n# ///\n", "cannot read the block '# /// script' of p.py"),
        ("# /// script\n# x = 1\n# ///\n\n# /// script\n# x = 1\n# ///\n", "2 blocks"),
        (
            "# /// script\n# dependencies = 'x'\n# ///\n",
            "p.py: dependencies in its block is 'x': expected a list of texts",
        ),
        (
            "# /// script\n# requires-python = 3.11\n# ///\n",
            "p.py: requires-python in its block is 3.11: expected text",
        ),
    ],
)
def test_block_that_cannot_be_read_is_refused(text: str, words: str) -> None:
    """It would otherwise look as if nothing were asked for."""
    with pytest.raises(DeployError, match=words.replace("'# /// script'", ".*")):
        from_script(text, "p.py")


def test_project_is_read() -> None:
    """Dependencies, the version of Python, extras."""
    text = '[project]\nname = "x"\nrequires-python = ">=3.11"\ndependencies = ["a", "b>1"]\n[project.optional-dependencies]\nt = ["c"]\n'
    found = from_project(text, "pyproject.toml")
    assert (found.source, found.requirements, found.python) == ("pyproject.toml", ("a", "b>1"), ">=3.11")
    assert extras_of_project(text, "pyproject.toml", frozenset({"t", "gone"})) == ("c",)
    assert extras_of_project("[project]\noptional-dependencies = 1\n", "p", frozenset({"t"})) == ()
    assert from_project("[tool.x]\ny = 1\n", "pyproject.toml").source == ""


@pytest.mark.parametrize(
    "text", ["[project", "project = 1", "[project]\ndependencies = 1", "[project]\nrequires-python = 3"]
)
def test_project_that_cannot_be_read_is_refused(text: str) -> None:
    """With the name of the file."""
    with pytest.raises(DeployError, match=r"pyproject\.toml"):
        from_project(text, "pyproject.toml")


def test_lines_of_all_kinds_are_told_apart() -> None:
    """Requirements with hashes and markers, options, includes, files, the project itself."""
    found = from_lines(
        """\
# a comment
requests >= 2 ; python_version > "3"   # why
numpy==2.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb

-r more.txt
--constraint=limits.txt
-ccommon.txt
--index-url https://example.org/simple
-f wheels
--find-links https://example.org/links
./wheels/lib-1-py3-none-any.whl
tool @ https://example.org/tool.zip
git+https://example.org/x.git#egg=x
-e .[test, docs]
.
""",
        "requirements.txt",
    )
    assert found.requirements == (
        'requests >= 2 ; python_version > "3"',
        "numpy==2.0     --hash=sha256:aa     --hash=sha256:bb",
        "./wheels/lib-1-py3-none-any.whl",
        "tool @ https://example.org/tool.zip",
        "git+https://example.org/x.git#egg=x",
    )
    assert found.includes == (
        Included("requirement", "more.txt", 7),
        Included("constraint", "limits.txt", 8),
        Included("constraint", "common.txt", 9),
    )
    assert found.options == (
        "--index-url https://example.org/simple",
        "-f wheels",
        "--find-links https://example.org/links",
    )
    assert found.local == ("wheels", "./wheels/lib-1-py3-none-any.whl")
    assert found.own_extras == frozenset({"test", "docs"})
    assert from_lines("", "r").own_extras is None
    assert from_lines("a \\", "r").requirements == ("a",)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("./lib", "is a folder"),
        ("-e ../lib", "is a folder"),
        ("/abs/lib", "is a folder"),
        ("lib/sub", "is a folder"),
        ("-e git+https://example.org/x.git", "in editable form"),
        ("-r", "nothing behind the option"),
        ("-e", "nothing behind the option"),
    ],
)
def test_lines_that_a_node_cannot_do_are_refused_with_their_number(line: str, words: str) -> None:
    """Folders and editable installations hang on a copy of the program that goes with the deployment."""
    with pytest.raises(DeployError, match=f"r.txt:3: .*{words}"):
        from_lines(f"a\n\n{line}\n", "r.txt")
