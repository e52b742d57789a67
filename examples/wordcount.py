"""Word count over real text: one process deals out, several count, one merges and shows how far it is.

The text is what every machine with Python has: the sources and documents of the standard library and of the installed
packages, or folders of yours. What cannot be read is counted and named, and ends nothing. Shows a topology of several
roles, dealing by demand with `select` (who is free asks), named channels, and iteration until the other end closes.

    python examples/wordcount.py [FOLDER ...] [--mb LIMIT] [--counters N]
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from constellation import Pid, Receiver, Sender, init, join, parent, select, spawn, watch

INSTALLED = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib", "include")]
DEBIAN = os.path.join(sys.base_prefix, "lib", "python3")  # where some systems have further packages
SUFFIXES = (".py", ".pyi", ".h", ".rst", ".txt", ".md")
CHUNK_BYTES = 512 << 10
WORD = re.compile(rb"[a-z]{2,}")


class Report(NamedTuple):
    """From a counter to the merger: bytes counted since the last report; the words come with the last one."""

    text_bytes: int
    words: dict[bytes, int] | None = None


class Dealt(NamedTuple):
    """From the dealer to the merger, when all is dealt out."""

    files: list[str]
    unreadable: list[str]


def find_files(folders: list[str], unreadable: list[str]) -> Iterator[str]:
    """Give the text files below the folders in a fixed order, each folder once."""
    seen: set[str] = set()
    for top in folders:
        for folder, inner, names in os.walk(top, onerror=lambda error: unreadable.append(str(error))):
            real = os.path.realpath(folder)
            inner[:] = sorted(inner) if real not in seen else []
            paths = [os.path.join(folder, name) for name in sorted(names) if name.endswith(SUFFIXES)]
            if real not in seen:
                # A pipe or a device with such a name would never come to an end; a broken link is named when opened.
                yield from (path for path in paths if os.path.isfile(path) or not os.path.exists(path))
            seen.add(real)


def read_chunks(folders: list[str], limit_bytes: int, dealt: Dealt) -> Iterator[bytes]:
    """Give the text of whole files in chunks of about half a MiB, until the limit; note in ``dealt`` what was read."""
    parts: list[bytes] = []
    size = total = 0
    for path in find_files(folders, dealt.unreadable):
        try:
            with open(path, "rb") as file:
                parts.append(file.read())
        except OSError as error:
            dealt.unreadable.append(str(error))
            continue
        dealt.files.append(path)
        size, total = size + len(parts[-1]), total + len(parts[-1])
        if size >= CHUNK_BYTES or total >= limit_bytes:
            yield b"\n".join(parts)
            parts, size = [], 0
            if total >= limit_bytes:
                return
    yield b"\n".join(parts)


def deal(folders: list[str], limit_bytes: int, counters: list[Pid]) -> Dealt:
    """Give each chunk to the first counter that asks for one."""
    dealt = Dealt([], [])
    chunks = [Sender[bytes](counter) for counter in counters]
    requests = [Receiver[int](counter, "more") for counter in counters]
    for text in read_chunks(folders, limit_bytes, dealt):
        index, _ = select(*(request.recv() for request in requests)).block()  # a recv that loses takes nothing
        chunks[index].send(text).block()
    for sender in chunks:
        sender.close()
    join(*(watch(counter) for counter in counters)).block()  # they ask ahead: stay until they ask no more
    return dealt


def count(merger: Pid) -> None:
    """Count the words of one chunk after the other, one asked for ahead, until the dealer closes."""
    reports, more = Sender[Report](merger), Sender[int](parent(), "more")
    words = Counter[bytes]()
    join(more.send(1), more.send(1)).block()
    for text in Receiver[bytes](parent()):
        words.update(WORD.findall(text.lower()))
        reports.send(Report(len(text))).block()
        more.send(1).block()
    reports.send(Report(0, dict(words))).block()


def merge() -> None:
    """Add up what the counters report; print the progress as it goes and the result at the end."""
    start = shown = time.perf_counter()
    receivers = [Receiver[Report](counter) for counter in Receiver[list[Pid]](parent(), "counters").recv().block()]
    words, done, counting = Counter[bytes](), 0, len(receivers)
    while receivers:
        index, report = select(*(receiver.recv() for receiver in receivers)).block()
        done += report.text_bytes
        if (now := time.perf_counter()) - shown >= 0.5:
            shown = now
            print(f"{done / 1e6:7.1f} MB counted, {done / 1e6 / (now - start):5.1f} MB/s")
        if report.words is not None:
            words.update(report.words)
            del receivers[index]
    seconds = time.perf_counter() - start
    dealt = Receiver[Dealt](parent(), "dealt").recv().block()
    for word, times in words.most_common(10):
        print(f"{times:12,}  {word.decode()}")
    if dealt.unreadable:
        print(f"{len(dealt.unreadable)} could not be read:", *dealt.unreadable[:10], sep="\n    ")
    print(f"{words.total():,} words, {len(words):,} different, in {len(dealt.files):,} files")
    print(f"{done / 1e6:.1f} MB in {seconds:.2f} s: {done / 1e6 / seconds:.1f} MB/s, {counting} processes counting")


def main() -> None:
    """Spawn those who count and the one who merges, and deal out."""
    options = argparse.ArgumentParser(description="count the words of real text in several processes")
    options.add_argument("folder", nargs="*", default=[path for path in (*INSTALLED, DEBIAN) if os.path.isdir(path)])
    options.add_argument("--mb", type=float, default=48, help="stop after so many MB (default: 48)")
    options.add_argument("--counters", type=int, default=max(2, os.cpu_count() or 2))
    arguments = options.parse_args()
    init()
    merger = spawn(merge).block()
    counters = join(*(spawn(count, merger) for _ in range(max(1, arguments.counters)))).block()
    Sender[list[Pid]](merger, "counters").send(counters).block()
    Sender[Dealt](merger, "dealt").send(deal(arguments.folder, int(arguments.mb * 1e6), counters)).block()


if __name__ == "__main__":
    main()
