"""What the page about deploying says of nodes.toml and of what is refused is what the code does."""

from __future__ import annotations

import re

from constellation.core import nodesfile
from constellation.core.bundle import BUNDLE_LIMIT, LARGEST_CHUNK, MOST_ENTRIES, SMALLEST_CHUNK
from constellation.core.fitting import Installation, fit
from constellation.core.resources import format_mem

from .conftest import ROOT

PAGE = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")


def test_nodes_file_of_the_page_is_read_and_its_table_has_every_key() -> None:
    """What somebody copies works, and nothing is left unsaid."""
    block, of_urls = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (reached,) = nodesfile.read(of_urls, "page").nodes
    assert reached.advertise is not None
    assert reached.advertise.url == "wss://nodes.example.org/n1"
    first, second = nodesfile.read(block, "page").nodes
    assert (first.mem, first.cpu, second.name, second.ssh) == (100 << 30, 16_000_000, "big", "user@big.example")
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == sorted(
        nodesfile._FIELDS, key=re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE).index
    )


def test_limits_of_the_page_are_those_of_the_code() -> None:
    """Numbers on pages grow old."""
    assert f"{SMALLEST_CHUNK >> 10} to {LARGEST_CHUNK >> 10} KiB" in PAGE
    assert f"More than {format_mem(BUNDLE_LIMIT)}, or {MOST_ENTRIES:,} files" in PAGE


def test_refusal_of_the_page_is_the_one_that_is_printed() -> None:
    """Word by word."""
    here = Installation("here", (3, 12, 1), 3, "0.2.0", {})
    node = Installation("n1", (3, 11, 7), 2, "0.1.0", {})
    assert fit(here, node).refusal("prog.py") in PAGE
