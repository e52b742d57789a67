"""What the daemons of a fabric say to each other: four kinds of connection, each with its own schema.

* STATION: a node daemon and the monitor process of one deployment on its computer. One SOCK_SEQPACKET socketpair; a
  payload travels in a memfd. All but the last of them pass through the daemon, which does not look into them, to the
  coordinator on the master.
* TRUNK: a node daemon and the master. What belongs to a deployment is wrapped in `Up` and `Down`; each `Up` has a number,
  and the daemon keeps it until the master has acknowledged it, so that a master that is started again loses nothing.
* BRIDGE: the bridge and the master.
* CLIENT: a client (``constellation deploy`` and its like) and the bridge.

As for control messages the position in a schema is the number on the wire: append only. Pids travel as 32 bytes,
deployments as 16, Resources and ExitStatus as their fields.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeAlias

from constellation.core.schema import Schema

DEPLOYMENT_BYTES: Final = 16

PIECE: Final = 4 << 20
"""A payload above this travels in pieces of this size, so that no frame holds up the beats for long."""


# -- STATION, upward: what a computer tells the coordinator ------------------------------------------------------------


class Said(NamedTuple):
    """A process has sent a control message that is not for its node alone. A payload in a memfd goes beside it."""

    key: bytes
    message: list[Any]


class Began(NamedTuple):
    """A process runs; or, not ``is_running``, it has ended before it could say so, and `Over` follows."""

    key: bytes
    os_pid: int
    is_running: bool


class NotBegun(NamedTuple):
    """A process could not be started."""

    key: bytes
    text: str


class Over(NamedTuple):
    """A process has ended; its certificate. All that it had sent and written came before."""

    key: bytes
    status: list[Any]


class Wrote(NamedTuple):
    """A process has written to its stdout (1) or stderr (2), at ``time`` by the clock of its node."""

    key: bytes
    fd: int
    data: bytes
    time: float


class NotLinked(NamedTuple):
    """A link could not be made: ``ending`` is about to end; or, where that is empty, for a reason."""

    one: bytes
    two: bytes
    number: int
    ending: bytes
    reason: str


class Words(NamedTuple):
    """A line for the user."""

    text: str


class Reached(NamedTuple):
    """The program, run as a template, has come to its init(), which asks for this; what it wrote on its way."""

    resources: list[Any]
    output: bytes
    made: list[Any]
    """What the program is there (`fitting.Made`)."""


class Missed(NamedTuple):
    """The program, run as a template, did not come to its init(): why, and what it wrote."""

    text: str
    output: bytes


class Took(NamedTuple):
    """The first process's stdin has taken so many bytes of `Input`."""

    size: int


class Unfit(NamedTuple):
    """The program cannot run on this node, though it may on others: nothing of it has run here beyond its init()."""

    text: str
    """Why, with what mends it."""
    plugins: list[Any]
    """Names of those that it wants and that are not here; the reason, where there are any."""


# -- STATION, downward: what the coordinator wants of a computer -------------------------------------------------------


class Recce(NamedTuple):
    """Run the program up to its init(), and say with `Reached` what that asks for."""


class Like(NamedTuple):
    """The program must be here what it is on the node where it came to its init() first; before the first `Start`."""

    node: str
    """The name of that node."""
    made: list[Any]
    """As in `Reached`."""


class Start(NamedTuple):
    """Start a process. ``parent`` is empty for the first one, which goes on from its init(); a payload in a memfd.

    ``request`` is the number that the spawn has at the parent.
    """

    number: int
    pid: bytes
    parent: bytes
    request: int
    resources: list[Any]
    function: str
    place: str
    payload: bytes


class Tell(NamedTuple):
    """Send a control message to a process."""

    key: bytes
    message: list[Any]


class Pair(NamedTuple):
    """Make a link between two processes of this computer."""

    one: bytes
    two: bytes
    number: int


class Dial(NamedTuple):
    """Make a link from process ``one`` here to ``two`` on another computer, by the address of its daemon.

    Empty: where this node, which can only dial out, has dialled the master. There ``two`` runs, or the link is relayed.
    """

    one: bytes
    two: bytes
    number: int
    address: str


class Ask(NamedTuple):
    """Ask a process to end, and kill it after ``grace`` seconds."""

    key: bytes
    cause: str
    grace: float


class SignalTo(NamedTuple):
    """Send a signal to a process."""

    key: bytes
    signum: int
    cause: str


class KillNow(NamedTuple):
    """Kill a process."""

    key: bytes
    cause: str


class Input(NamedTuple):
    """For the stdin of the first process; empty: its end."""

    data: bytes


class Insist(NamedTuple):
    """Kill everything below: all have been killed, and nothing is heard of their ends."""


class Meet(NamedTuple):
    """Of a link that is relayed, the called side: dial the master for process ``one`` here, as ``two`` is told to by `Dial`."""

    one: bytes
    two: bytes
    number: int


# -- STATION, between the daemon and the monitor process only ----------------------------------------------------------


class Dialled(NamedTuple):
    """daemon -> monitor: a link for process ``one``, with its connected socket; ``dials``: it was dialled from here."""

    one: bytes
    two: bytes
    number: int
    dials: bool


class Lease(NamedTuple):
    """daemon -> monitor: go on for so many seconds; without another word by then kill everything."""

    seconds: float


class Grouped(NamedTuple):
    """daemon -> monitor: control groups that were made for a process which is to be started next, with their entrances.

    Each as what it holds, separated by blanks, the version of its hierarchy and its folder.
    """

    key: bytes
    groups: list[Any]


StationMessage: TypeAlias = (
    Said | Began | NotBegun | Over | Wrote | NotLinked | Words | Reached | Missed | Took
    | Recce | Start | Tell | Pair | Dial | Ask | SignalTo | KillNow | Input | Insist | Dialled | Lease | Meet
    | Grouped | Unfit | Like
)  # fmt: skip

STATION: Final = Schema(
    "message of a monitor",
    (
        Said, Began, NotBegun, Over, Wrote, NotLinked, Words, Reached, Missed, Took,
        Recce, Start, Tell, Pair, Dial, Ask, SignalTo, KillNow, Input, Insist, Dialled, Lease, Meet,
        Grouped, Unfit, Like,
    ),
)  # fmt: skip


# -- TRUNK -------------------------------------------------------------------------------------------------------------


class Hello(NamedTuple):
    """master -> node, first: which fabric's master this is, and for how long its word holds."""

    version: str
    lease: float
    name: str
    """What the master's file calls the node; empty: what the node calls itself."""
    mem: int | None
    """What the file says of its memory, in bytes; None: what it has."""
    cpu: int | None
    """The same of its cores, in millionths."""
    custom: list[Any]
    labels: list[Any]


class Join(NamedTuple):
    """node -> master, the answer: what it is and has, and what it runs."""

    version: str
    name: str
    node_id: int
    """The number that it has had in this fabric; 0: none yet."""
    address: str
    capacity: list[Any]
    labels: list[Any]
    deployments: list[Any]
    """Of those that run here: deployment, specification, and the number of the last `Down` that has come."""
    gone: list[Any]
    """Of those that ended here without the master's word, which it may not have heard: what `Gone` says."""
    clock: float
    master: bytes
    """Which master it was in last, by its `Welcome`; empty: none."""
    installation: list[Any]
    """Python, wire version, version, and all plugins that are installed (`specification.fields_of_installation`)."""


class Welcome(NamedTuple):
    """master -> node: it is in, with this number. Of what runs there, ``unknown`` deployments are to be ended.

    Of the ``adopted`` ones an `Inventory` is wanted: this master has been started since.
    """

    node_id: int
    unknown: list[Any]
    adopted: list[Any]
    master: bytes
    """16 bytes, made by each master when it starts."""


class Beat(NamedTuple):
    """master -> node, each second; the node answers with the same number.

    ``heard`` is the last answer that has come, 0 for none: only what the master is known to have heard extends the lease,
    so that a cut in one direction ends it like one in both.
    """

    number: int
    heard: int


class Up(NamedTuple):
    """node -> master: a STATION message of a deployment, numbered from 1 in each deployment on each node."""

    deployment: bytes
    number: int
    message: list[Any]
    payload: bytes


class Down(NamedTuple):
    """master -> node: a STATION message for a deployment, numbered from 1 in each deployment on each node."""

    deployment: bytes
    number: int
    message: list[Any]
    payload: bytes


class More(NamedTuple):
    """A part of the payload of the next `Up` or `Down` of this deployment."""

    deployment: bytes
    data: bytes


def in_pieces(deployment: bytes, payload: bytes) -> tuple[list[More], bytes]:
    """What of a payload goes before the `Up` or `Down` that it belongs to, and the rest that stands in that."""
    ahead = [More(deployment, payload[at : at + PIECE]) for at in range(0, len(payload) - PIECE, PIECE)]
    return ahead, payload[len(ahead) * PIECE :]


class Acked(NamedTuple):
    """All `Up` (from the master), or all `Down` (from the node), to this number may be forgotten."""

    deployment: bytes
    number: int


class Open(NamedTuple):
    """master -> node: this deployment is about to run something here; its specification (`Specification`)."""

    deployment: bytes
    specification: list[Any]


class Shut(NamedTuple):
    """master -> node: this deployment is over; forget it."""

    deployment: bytes


class Gone(NamedTuple):
    """node -> master: all that ran of a deployment here has ended, and not by the master's word."""

    deployment: bytes
    cause: str
    """For the certificates of its processes."""


class Need(NamedTuple):
    """node -> master: chunks of a deployment's files, by digest."""

    deployment: bytes
    digests: list[Any]


class Chunk(NamedTuple):
    """One chunk of files; to a node, no data: the master does not have it."""

    deployment: bytes
    """Whose answer to `Need` it is; empty from a client."""
    digest: bytes
    data: bytes


class Inventory(NamedTuple):
    """node -> master, after a `Welcome` by one that has been started anew: what is known here of a deployment.

    A process is [pid, fields of its `Start`, number of the `Up` that told of its beginning or 0, the same of its end, its
    certificate where that was not a good one]. A link is [one, two, number]. What processes said that still holds, or
    has not been answered, follows as `Up` with the number 0; then what has not been acknowledged.
    """

    deployment: bytes
    processes: list[Any]
    links: list[Any]


class Leave(NamedTuple):
    """node -> master: it is about to stop; place nothing here."""

    reason: str


class Come(NamedTuple):
    """node -> master, first, where the node has dialled because nobody can dial it: it wants in; `Hello` follows."""

    version: str
    name: str
    instance: bytes
    """16 bytes, made when the daemon starts: by them the master knows it again after its connection broke."""


class Refuse(NamedTuple):
    """The answer to `Come`, or to what the node says next: it is not let in, and why. The connection is closed."""

    reason: str


class Ping(NamedTuple):
    """To a node, by its master or by anybody with a node's certificate: are you there, and what is your clock?"""

    number: int


class Pong(NamedTuple):
    """The answer to `Ping`, at once."""

    number: int
    clock: float
    """Seconds since 1970."""


class Examine(NamedTuple):
    """master -> node: look at your computer, and dial these daemons, for `constellation doctor`."""

    number: int
    addresses: list[Any]


class Examined(NamedTuple):
    """node -> master: what was found."""

    number: int
    facts: list[Any]
    """Pairs of name and value (fabric/checkup.py)."""
    dials: list[Any]
    """For each address: how far it came, what failed, seconds there and back (`fabric/probing.py`)."""


class Draining(NamedTuple):
    """node -> master: it is to stop, and what runs there goes on for a while; place nothing there. `Leave` follows."""

    reason: str


TrunkMessage: TypeAlias = (
    Hello | Join | Welcome | Beat | Up | Down | More | Acked | Open | Shut | Gone | Need | Chunk | Inventory | Leave
    | Come | Refuse
    | Ping | Pong | Examine | Examined
    | Draining
)  # fmt: skip

TRUNK: Final = Schema(
    "message between node and master",
    (
        Hello, Join, Welcome, Beat, Up, Down, More, Acked, Open, Shut, Gone, Need, Chunk, Inventory, Leave,
        Come, Refuse,
        Ping, Pong, Examine, Examined,
        Draining,
    ),
)  # fmt: skip


class Specification(NamedTuple):
    """What a deployment is: all that a node must know to run a part of it."""

    owner: str
    """Whose it is, from the credential of the one that deployed."""
    program: list[Any]
    """Arguments of the interpreter: ``["prog.py", "ARG"]`` or ``["-m", "pkg", "ARG"]``."""
    script: str
    """The file or folder that is run, relative to the root of the files; empty for a module."""
    folder: str
    """The working folder, relative to the root of the files; absolute where none were sent and it lies outside."""
    search: list[Any]
    """Folders, relative to the root of the files, for the end of sys.path."""
    environment: list[Any]
    """Pairs of name and value, for ``--env``."""
    manifest: list[Any]
    """The chunks of the list of files, ``[[digest, size], ...]``; empty: no files were sent, ``root`` is where they are."""
    root: str
    plugins: list[Any]
    options: list[Any]
    """Pairs of NAME.KEY and value."""
    settings: list[Any]
    """Pairs of name and value: grace, linger, credit, scheduler, transport, serializer."""
    is_forced: bool
    """Whether the node's own Python is used as it is (``--env-of-node``)."""
    client: list[Any]
    """The installation that it is deployed from: Python's three numbers, wire version, version, pairs of plugin and version."""
    python: str
    """What the program states of Python, such as ``>=3.11``; empty: nothing."""


# -- BRIDGE and CLIENT -------------------------------------------------------------------------------------------------


class Deploy(NamedTuple):
    """client -> bridge -> master: run this. ``client`` is the bridge's number for the client (0 from the client)."""

    client: int
    specification: list[Any]
    is_detached: bool


class Missing(NamedTuple):
    """bridge -> client: the chunks that are not here yet; then `Deploy` may be said again."""

    digests: list[Any]


class Accepted(NamedTuple):
    """master -> bridge -> client: the deployment has this name."""

    client: int
    deployment: bytes


class Refusal(NamedTuple):
    """To a client: no, with the reason and the exit code of the command."""

    client: int
    text: str
    code: int


class Event(NamedTuple):
    """master -> bridge -> client: something has happened in a deployment, numbered from 1 (core/events.py)."""

    deployment: bytes
    number: int
    fields: list[Any]
    node_id: int
    """The node whose message it came of; 0: none."""
    source: int
    """The number of that message."""


class Stored(NamedTuple):
    """bridge -> master: all events up to this number are kept here."""

    deployment: bytes
    number: int


class Attach(NamedTuple):
    """client -> bridge: show the events of a deployment after number ``after``."""

    deployment: bytes
    after: int
    is_lasting: bool
    """Whether the deployment ends when the client goes."""
    is_following: bool
    """Whether those to come are shown as well; else `Ended` follows what there is."""


class Typed(NamedTuple):
    """client -> bridge -> master: for the stdin of the first process; empty: its end."""

    deployment: bytes
    data: bytes


class Interrupt(NamedTuple):
    """client -> bridge -> master: a Ctrl-C at the client (SIGINT), or what asks it to end (SIGTERM, SIGHUP)."""

    deployment: bytes
    signum: int


class Lost(NamedTuple):
    """bridge -> master: the client to which a deployment was attached has gone."""

    deployment: bytes


class Question(NamedTuple):
    """client -> bridge -> master: ``ps``, ``nodes``, ``why``, ``kill``, ``drain``... with its argument and the asker's name."""

    client: int
    kind: str
    argument: str
    owner: str


class Answer(NamedTuple):
    """The answer to a `Question`: rows of columns."""

    client: int
    rows: list[Any]


class Ready(NamedTuple):
    """bridge -> master, first: where it listens, and up to which number it has each deployment's events."""

    address: str
    stored: list[Any]
    """Of each deployment that has not ended: its name, the number of the last event, pairs of a node and the number of its
    last message, the Pids of those that have begun and not ended."""


class Read(NamedTuple):
    """client -> bridge: it has shown all events up to this number."""

    deployment: bytes
    number: int


class Ended(NamedTuple):
    """bridge -> client: all that was asked for has been said of this deployment."""

    deployment: bytes


BridgeMessage: TypeAlias = (
    Deploy | Accepted | Refusal | Event | Stored | Typed | Interrupt | Lost | Question | Answer | Ready
)
BRIDGE: Final = Schema(
    "message between bridge and master",
    (Deploy, Accepted, Refusal, Event, Stored, Typed, Interrupt, Lost, Question, Answer, Ready),
)

ClientMessage: TypeAlias = (
    Deploy | Missing | Chunk | Accepted | Refusal | Event | Attach | Typed | Interrupt | Question | Answer | Read | Ended
)  # fmt: skip
CLIENT: Final = Schema(
    "message between client and bridge",
    (
        Deploy, Missing, Chunk, Accepted, Refusal, Event, Attach, Typed, Interrupt, Question, Answer, Read, Ended,
    ),
)  # fmt: skip
