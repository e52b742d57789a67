"""``constellation run``: the same as ``python prog.py ARGS``, with our options said in the environment."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import MutableMapping
from typing import NoReturn

import click

from constellation.cli.completion import files
from constellation.cli.options import Shared, choice_options, shared_options, split_pair
from constellation.core.enabling import CHOICES, read_options
from constellation.core.errors import UsageError
from constellation.core.finding import refuse_unknown
from constellation.core.resources import Resources


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--mem", metavar="M", help="Memory that all processes may ask for together, such as '4 GiB'.")
@click.option("--cpu", metavar="C", type=float, help="Cores that they may ask for together; fractions are allowed.")
@click.option(
    "--resource",
    "custom",
    metavar="NAME=VALUE",
    multiple=True,
    help="An amount by name, such as gpu=2; may be repeated.",
)
@click.option("-m", "as_module", is_flag=True, help="PROGRAM is a module's name, as in python -m.")
@choice_options
@shared_options
@click.argument("program", required=False, shell_complete=files)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]...")
@click.pass_context
def run(
    context: click.Context,
    *,
    mem: str | None,
    cpu: float | None,
    custom: tuple[str, ...],
    as_module: bool,
    transport: str | None,
    serializer: str | None,
    scheduler: str | None,
    format_: str | None,
    plugins: tuple[str, ...],
    plugin_options: tuple[tuple[str, str], ...],
    program: str | None,
    arguments: tuple[str, ...],
) -> NoReturn:
    """Run PROGRAM with ARGS on this computer.

    Options for constellation stand before PROGRAM; what follows belongs to the program. With --mem, --cpu or
    --resource the computer counts as having that much: spawns wait while it is taken, and demands beyond it are refused.

    \b
    Example:
        constellation run --cpu 2 --mem '4 GiB' --format json prog.py ARGS

    Exit codes: 0 if every process ended with 0; else the code that the failed ones have in common (128 + n after signal n), else
    1; 130 after Ctrl-C; 2 wrong use.
    """  # noqa: D301  # the mark is click's
    if not program:
        context.fail("no program given: expected constellation run prog.py ARGS, or constellation run -m module ARGS")
    if not as_module and not os.path.exists(program):
        context.fail(f"cannot run {program!r}: expected a file that exists; a module is run with -m")
    before: Shared = context.obj or Shared()
    shared = before.joined(Shared(format_, plugins, plugin_options))
    refuse_unknown(shared.plugins)
    environ = dict(os.environ)
    for kind, name in {"transport": transport, "serializer": serializer, "scheduler": scheduler}.items():
        if name is not None:
            environ[CHOICES[kind]] = name
    describe(environ, shared, read_capacity(mem, cpu, custom))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *(["-m"] if as_module else []), program, *arguments], environ)


def describe(environ: MutableMapping[str, str], shared: Shared, capacity: Resources | None) -> None:
    """Say in the environment what the options said; what they did not say stays as it was.

    Raises:
        UsageError: CONSTELLATION_PLUGIN_OPTIONS, to which options are to be added, is not a JSON object.
    """
    if shared.format is not None:
        environ["CONSTELLATION_FORMAT"] = shared.format
    if shared.plugins:
        names = [*shared.plugins, *environ.get("CONSTELLATION_PLUGINS", "").split(",")]
        environ["CONSTELLATION_PLUGINS"] = ",".join(dict.fromkeys(name.strip() for name in names if name.strip()))
    if shared.plugin_options:
        environ["CONSTELLATION_PLUGIN_OPTIONS"] = json.dumps({**read_options(environ), **dict(shared.plugin_options)})
    if capacity is not None:
        environ["CONSTELLATION_CAPACITY"] = json.dumps(capacity.to_fields())


def read_capacity(mem: str | None, cpu: float | None, custom: tuple[str, ...]) -> Resources | None:
    """Make the capacity out of the options; what they leave out is what the computer has. None: nothing was said."""
    if mem is None and cpu is None and not custom:
        return None
    amounts: dict[str, float] = {}
    for text in custom:
        name, value = split_pair(text, "NAME=VALUE, such as gpu=2")
        if name in {"mem", "cpu"}:
            raise UsageError(f"cannot use --resource {text}: expected --{name} {value}")
        try:
            amounts[name] = float(value)
        except ValueError as error:
            raise UsageError(
                f"cannot use --resource {text}: expected a number after the '=', such as {name}=2"
            ) from error
    return Resources(
        mem=mem if mem is not None else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        cpu=cpu if cpu is not None else len(os.sched_getaffinity(0)),
        **amounts,
    )
