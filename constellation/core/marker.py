"""Whose process is it? What a later start knows by, where nobody of a dead deployment was left to sweep.

Who is killed with its keeper and its fabric in the same instant, and with its template, leaves grandchildren that nobody
knows of. So every process of a deployment carries a marker, and what it starts inherits it: in its environment, where it
is seen once a program has been executed, and as the name of an empty memory file that is mapped, which a plain fork keeps.

A marker names the keeper and the fabric of the deployment, each by OS pid and start time, and before these those of the
deployments that it was started in. A deployment lives while its keeper or its fabric does: either sweeps. A process is
left over when any deployment of its chain is dead. A program that is started by what is already left over belongs to
nobody: its chain begins with itself, so that a shell that has outlived a deployment can be worked with.

Pids mean something on one computer, in one pid namespace, and start times in one time namespace only: a marker that has
come from somewhere else (a batch system hands the environment on) says nothing, and nobody is killed for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

VARIABLE = "CONSTELLATION_DEPLOYMENT"
MAPPED = "constellation/"
"""How the name of the mapped file begins; the marker follows."""

DEEPEST = 5
"""Deployments in one chain, the innermost ones: the kernel has room for 249 bytes in the name of a memory file."""

_DIGITS = frozenset("0123456789")


class Role(NamedTuple):
    """A process, told from later ones of its number by its start time in ticks since the boot."""

    os_pid: int
    start: int


class Chain(NamedTuple):
    """A deployment, and those that it was started in."""

    machine: str
    """Where the numbers mean something: see `machine`."""
    deployments: tuple[tuple[Role, Role], ...]
    """Keeper and fabric of each, the outermost first."""


def machine(read: Callable[[str], str], link: Callable[[str], str]) -> str:
    """Name this computer and the namespaces of pids and time that we are in.

    Args:
        read: Gives the text of a file.
        link: Says where a symbolic link points to.

    Raises:
        OSError: /proc is not to be had.
    """
    boot = read("/proc/sys/kernel/random/boot_id").replace("-", "")[:16]
    try:
        time = link("/proc/self/ns/time")
    except OSError:  # before Linux 5.6
        time = ""
    return "-".join([boot, _digits(link("/proc/self/ns/pid")), _digits(time)])


def _digits(text: str) -> str:
    return "".join(letter for letter in text if letter in _DIGITS)


def role(os_pid: int, read: Callable[[str], str]) -> Role:
    """A process by its OS pid; one that has ended gets the start time 0."""
    try:
        return Role(os_pid, start_time(read(f"/proc/{os_pid}/stat")))
    except (OSError, ValueError):
        return Role(os_pid, 0)


def lives(one: Role, read: Callable[[str], str]) -> bool:
    """Whether a process lives still."""
    return one.start != 0 and role(one.os_pid, read) == one


def start_time(stat: str) -> int:
    """When a process began, by /proc/PID/stat: ticks since the boot; 0 where it has ended and nobody has waited for it.

    Raises:
        ValueError: That is no such text.
    """
    fields = stat.rpartition(")")[2].split()
    if len(fields) < 20:
        raise ValueError(f"cannot read the start time from {stat!r}")
    return 0 if fields[0] in {"Z", "X"} else int(fields[19])


def to_text(chain: Chain) -> str:
    """Write a chain as the variable's value."""
    pairs = (f"{keeper.os_pid}.{keeper.start}.{fabric.os_pid}.{fabric.start}" for keeper, fabric in chain.deployments)
    return ":".join([chain.machine, *pairs])


def from_text(text: str) -> Chain | None:
    """Read a chain; None where that is not one."""
    here, *pairs = text.split(":")
    if not here or not pairs:
        return None
    deployments = []
    for pair in pairs:
        numbers = pair.split(".")
        if len(numbers) != 4 or not all(number and _DIGITS.issuperset(number) for number in numbers):
            return None
        keeper, keeper_start, fabric, fabric_start = map(int, numbers)
        deployments.append((Role(keeper, keeper_start), Role(fabric, fabric_start)))
    return Chain(here, tuple(deployments))


def outer(text: str | None, here: str, is_alive: Callable[[Role], bool]) -> Chain:
    """The chain that a new deployment is started in; without deployments where there is none, or it is dead.

    Args:
        text: The variable's value in the program that starts it.
        here: This `machine`.
        is_alive: Whether a process lives.
    """
    chain = from_text(text) if text else None
    if chain is None or is_left(chain, here, is_alive) or chain.machine != here:
        return Chain(here, ())
    return chain


def inside(chain: Chain, keeper: Role, fabric: Role) -> Chain:
    """The chain of a deployment that is started in ``chain``."""
    return Chain(chain.machine, (*chain.deployments, (keeper, fabric))[-DEEPEST:])


def is_left(chain: Chain, here: str, is_alive: Callable[[Role], bool]) -> bool:
    """Whether a process with this marker is left over.

    Args:
        chain: The marker.
        here: The `machine` of who asks.
        is_alive: Whether a process lives.
    """
    return chain.machine == here and any(
        not is_alive(keeper) and not is_alive(fabric) for keeper, fabric in chain.deployments
    )


def find(environ: bytes, maps: bytes) -> Chain | None:
    """Find the marker of a process; None where it has none.

    What is mapped counts before the environment, which is that of the program that was executed last: a program that
    became a deployment after it was executed is no longer what its environment says.

    Args:
        environ: What /proc/PID/environ says.
        maps: What /proc/PID/maps says, or nothing.
    """
    return _find(maps, f"/memfd:{MAPPED}".encode(), b" (deleted)\n") or _find(
        b"\0" + environ, f"\0{VARIABLE}=".encode(), b"\0"
    )


def _find(text: bytes, before: bytes, behind: bytes) -> Chain | None:
    _, found, rest = text.partition(before)
    return from_text(rest.partition(behind)[0].decode("ascii", "replace")) if found else None
