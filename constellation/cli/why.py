"""``constellation why``: what the processes of a running deployment wait for, asked from another terminal."""

from __future__ import annotations

import sys

import click

from constellation.core.door import Description, in_words
from constellation.fabric.asking import NoAnswer, Visit, find

UNREACHABLE = 3
"""Exit code: no deployment answers."""


@click.command()
@click.argument("wanted", required=False, metavar="[PID_OR_PROGRAM]")
@click.pass_context
def why(context: click.Context, *, wanted: str | None) -> None:
    """Show what each process of a running program waits for: on whom, since when, at which line.

    The same that the quit key (Ctrl-\\) shows in the program's own terminal. PID_OR_PROGRAM is the OS pid of the program or
    of one of its processes, the name of its file, or the first digits of its first Pid. It may be left out where one
    program of yours runs on this computer.

    \b
    Example:
        constellation why prog.py

    Exit codes: 0 shown, 2 wrong use or several that are meant, 3 no such program runs here.
    """  # noqa: D301  # the mark is click's
    try:
        found, silent = find(wanted)
        if len(found) > 1:
            context.fail(_several(found, wanted))
        if not found:
            raise NoAnswer(_nothing(wanted, silent))
        with Visit(found[0][0]) as visit:
            lines = visit.why()
    except NoAnswer as error:
        click.echo(f"constellation: {error}", err=True)
        sys.exit(UNREACHABLE)
    for line in lines:
        click.echo(line)
    for line in silent:
        click.echo(f"constellation: another deployment: {line}", err=True)


def _several(found: list[tuple[str, Description]], wanted: str | None) -> str:
    which = "several programs of yours run" if wanted is None else f"several programs are called {wanted!r}"
    choices = "".join(f"\n    {in_words(description)}" for _, description in found)
    return f"{which}: say which, as in constellation why {found[0][1].keeper}{choices}"


def _nothing(wanted: str | None, silent: list[str]) -> str:
    if silent:
        return "no deployment answers:" + "".join(f"\n    {line}" for line in silent)
    if wanted is None:
        return (
            "no program of yours runs here; one that runs in a container or as another user cannot be asked from here"
        )
    return f"no program of yours that runs here is meant by {wanted!r}: expected an OS pid, a program's file, or digits of a Pid"
