"""Control messages between a node, its templates and its processes.

Each travels as one packet on a SOCK_SEQPACKET socketpair: msgpack of ``[number, field, ...]``, descriptors beside it by
SCM_RIGHTS. This module has the records; `core/schema.py` checks them. Never pickle; a payload in `Spawn` and `Fork` is
opaque bytes to everybody but the process that runs it. Pids travel as 32 bytes, Resources and ExitStatus as their fields.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeAlias

from constellation.core.schema import Schema

PAYLOAD_INLINE = 48 << 10
"""Payloads above this travel in a memfd, passed as the last descriptor with ``payload=b""``: a packet must fit into the
kernel's default socket buffer of 208 KiB together with others."""

LARGEST_PACKET = 128 << 10


class Ready(NamedTuple):
    """process -> node: the process runs, its Pid may be given out."""

    os_pid: int


class Spawn(NamedTuple):
    """process -> node: place and start a process. ``wait`` is False for try_spawn; ``on`` (core/where.py) says where."""

    request: int
    function: str
    place: str
    resources: list[Any]
    wait: bool
    payload: bytes
    on: list[Any] = []  # noqa: RUF012  # never changed


class Connect(NamedTuple):
    """process -> node: make a link to ``peer``, unless one with a number above ``after`` has been made."""

    peer: bytes
    after: int


class Watch(NamedTuple):
    """process -> node: answer with `Exited` when ``pid`` has ended."""

    request: int
    pid: bytes


class Kill(NamedTuple):
    """process -> node: SIGTERM, after ``grace`` seconds SIGKILL; answer with `Exited`."""

    request: int
    pid: bytes
    grace: float
    tree: bool


class Cancel(NamedTuple):
    """process -> node: forget a request; a queued spawn is withdrawn, and answered with SpawnFailed "Cancelled"."""

    request: int


class Raised(NamedTuple):
    """process -> node: an uncaught exception is about to end this process."""

    type: str
    text: str


class Draining(NamedTuple):
    """process -> node: the function has returned, these channels still hold data (core/draining.py); ``is_over``: for ever."""

    channels: list[Any]
    linger: float
    is_over: bool


class Close(NamedTuple):
    """first process -> node: end the deployment. ``kill`` ends the others, else they are waited for; then `Closed`."""

    request: int
    kill: bool


class Begin(NamedTuple):
    """first process -> node: a new deployment by the same first process; its template's control socket is passed."""

    request: int
    pid: bytes
    function: str
    resources: list[Any]
    capacity: list[Any] | None


class Waiting(NamedTuple):
    """process -> node: the process waits (True) or runs again (False), as the design defines it."""

    waits: bool


class LinkMade(NamedTuple):
    """node -> process: a link to ``peer``; its descriptor is passed."""

    peer: bytes
    number: int


class Refused(NamedTuple):
    """node -> process: no link to ``peer``: it has ended (with its status), or is not known here (None)."""

    peer: bytes
    status: list[Any] | None


class Spawned(NamedTuple):
    """node -> process: the process asked for runs."""

    request: int
    pid: bytes


class SpawnFailed(NamedTuple):
    """node -> process: ``kind`` is the name of a class in core.errors, or "Cancelled"."""

    request: int
    kind: str
    text: str


class Exited(NamedTuple):
    """node -> process: the answer to `Watch` and `Kill`; None where the Pid is not known here."""

    request: int
    status: list[Any] | None


class Closed(NamedTuple):
    """node -> process: the answer to `Close` and `Begin`."""

    request: int


class Fork(NamedTuple):
    """node -> template: fork one process.

    Descriptors: control, stdout, stderr, the pipe for a last stack, the payload's memfd where ``payload`` is empty, and
    the entrances of control groups, to each of which the process writes "0".
    """

    process: int
    pid: bytes
    parent: bytes
    resources: list[Any]
    function: str
    payload: bytes


class Forked(NamedTuple):
    """template -> node: forked; a pidfd is passed."""

    process: int
    os_pid: int


class ForkFailed(NamedTuple):
    """template -> node: the kernel refused, with its words."""

    process: int
    text: str


class Ended(NamedTuple):
    """template -> node: a child has been waited for. Exactly one of ``code`` and ``signal`` (a number) is set."""

    os_pid: int
    code: int | None
    signal: int | None


class TemplateReady(NamedTuple):
    """template -> node: the program has reached init(). ``threads`` is the kernel's count after a trial fork."""

    os_pid: int
    threads: int
    resources: list[Any]
    made: list[Any] = []  # noqa: RUF012  # never changed; what the program is (`fitting.Made`)


class Lacking(NamedTuple):
    """template -> node, in place of `TemplateReady`: the program wants plugins that are not installed here."""

    plugins: list[Any]
    text: str


class Register(NamedTuple):
    """process -> node: give this process a name, which is free again at its end; answered with `Done`."""

    request: int
    name: str


class Unregister(NamedTuple):
    """process -> node: take a name from this process; answered with `Done`."""

    request: int
    name: str


class Whereis(NamedTuple):
    """process -> node: answer with `Found` who has a name; ``wait``: when somebody has it."""

    request: int
    name: str
    wait: bool


class Tie(NamedTuple):
    """process -> node: end this process when ``pid`` ends badly; ``both``: and the other way round. `Done`."""

    request: int
    pid: bytes
    both: bool


class Untie(NamedTuple):
    """process -> node: take back what `Tie` did, in both directions; answered with `Done`."""

    request: int
    pid: bytes


class Done(NamedTuple):
    """node -> process: it is done; or ``kind``, the name of a class in core.errors, says why not."""

    request: int
    kind: str
    text: str


class Found(NamedTuple):
    """node -> process: the answer to `Whereis`; empty where nobody has the name."""

    request: int
    pid: bytes


class LongWaits(NamedTuple):
    """process -> node: what it waits for since long (core/why.py), nothing when it goes on; whether only others can end it."""

    waits: list[Any]
    endless: bool


class Unreachable(NamedTuple):
    """node -> process: no link to ``peer`` could be made, though it may run: the reason."""

    peer: bytes
    reason: str


class PeerLost(NamedTuple):
    """node -> process: ``peer``, with which there is a link, was lost with its computer; its status. Nothing more comes."""

    peer: bytes
    status: list[Any]


class FarLink(NamedTuple):
    """node -> process: a link to ``peer`` on another computer; its socket is passed. ``dials``: this end called."""

    peer: bytes
    number: int
    dials: bool


class Identity(NamedTuple):
    """node -> process: what it shows on links to other computers, and what it asks for, in PEM; before any `FarLink`."""

    deployment: bytes
    certificate: bytes
    key: bytes
    authority: bytes


class Leaving(NamedTuple):
    """process -> node: it ends as Python programs do, and perhaps why, as a cause; who does not say so has left at once."""

    reason: str


class LinkLost(NamedTuple):
    """process -> node -> the other: the link to ``peer`` has failed at one end, though both run: what was seen there."""

    peer: bytes
    reason: str


class LinkCut(NamedTuple):
    """process -> node: link ``number`` to ``peer``, on another computer, has ended without a word: it died, or the way broke."""

    peer: bytes
    number: int
    reason: str


Message: TypeAlias = (
    Ready | Spawn | Connect | Watch | Kill | Cancel | Raised | Draining | Close | Begin | Waiting
    | LinkMade | Refused | Spawned | SpawnFailed | Exited | Closed
    | Fork | Forked | ForkFailed | Ended | TemplateReady
    | Register | Unregister | Whereis | Tie | Untie | Done | Found
    | LongWaits | Unreachable | FarLink | Identity | PeerLost | Leaving | LinkLost | LinkCut | Lacking
)  # fmt: skip

REQUESTS: Final = (Spawn, Watch, Kill, Register, Unregister, Whereis, Tie, Untie, Close)
"""What a process asks of the coordinator, and what is answered."""
NOTES: Final = (Connect, Cancel, LinkLost, LinkCut, Waiting, LongWaits, Draining)
"""What else a process tells the coordinator."""

# The position is the number on the wire: append only (docs/wire.md).
CONTROL: Final = Schema(
    "control message",
    (
        Ready, Spawn, Connect, Watch, Kill, Cancel, Raised, Draining, Close, Begin, Waiting,
        LinkMade, Refused, Spawned, SpawnFailed, Exited, Closed,
        Fork, Forked, ForkFailed, Ended, TemplateReady,
        Register, Unregister, Whereis, Tie, Untie, Done, Found,
        LongWaits, Unreachable, FarLink, Identity, Leaving, LinkLost, PeerLost, LinkCut, Lacking,
    ),
)  # fmt: skip


def fields_of(message: Message) -> list[Any]:
    """The plain form of a message: its number, then its fields."""
    return CONTROL.fields_of(message)


def read(plain: Any) -> Message:
    """The message of a plain form.

    Raises:
        ValueError: Unknown number, or fields that do not fit; says which.
    """
    message: Message = CONTROL.read(plain)
    return message
