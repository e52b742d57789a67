"""Whether computers are fit for a fabric, and for each other: from what was seen to what is wrong and what mends it.

`constellation doctor` gathers *facts* (fabric/checkup.py) and asks here what they mean. Facts are plain values by name, because
they travel between daemons of different versions: what is missing among them is not judged. A finding is well ("ok"), worth
knowing ("note"), or stands in somebody's way ("wrong"); only the last makes the command fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from constellation.core.preamble import WINDOW
from constellation.core.resources import format_amount, format_mem

OK: Final = "ok"
NOTE: Final = "note"
WRONG: Final = "wrong"

OLDEST_PYTHON: Final = (3, 11)
SKEW_S: Final = 1.0
"""How far two clocks may be apart, beyond what cannot be measured: events carry their node's time, and people read them in order."""
SOON_DAYS: Final = 30
"""A credential that expires within so many days is worth a note: to hand out another one takes people."""
FEW_FILES: Final = 1024
"""Open files that a node needs: some for each process, one for each link to another computer."""
MANY_FILES: Final = 8192
SMALL_STATE: Final = 1 << 30
"""Bytes free for a node's files: below that, two programs with environments of their own fill it."""
LEAST_STATE: Final = 256 << 20
LEAST_TEMPORARY: Final = 64 << 20
LEAST_SHARED: Final = 64 << 20

_DAY: Final = 86400


class Finding(NamedTuple):
    """One thing that was looked at."""

    where: str
    """``here``, a node's name, ``n1 -> n2``, or an address."""
    what: str
    """What was looked at."""
    value: str
    """What was seen."""
    expected: str
    state: str
    """`OK`, `NOTE` or `WRONG`."""
    mend: str = ""
    """The command or the step that mends it; empty where nothing is to be mended."""


class NodeFacts(NamedTuple):
    """What is known of one node of a fabric."""

    name: str
    address: str
    """Empty where it can only dial out."""
    state: str
    """As `constellation nodes` shows it."""
    offset: float | None
    """Seconds by which its clock is ahead of the master's; None: it did not answer."""
    doubt: float
    """How wrong that may be: half of the way there and back."""
    facts: Mapping[str, Any] | None
    """None: it did not answer."""


class Tried(NamedTuple):
    """One attempt to reach a port, as far as it got."""

    source: str
    """Who tried."""
    target: str
    address: str
    step: str
    """The step that failed: ``name``, ``route``, ``port``, ``TLS``, ``role``, ``credential``, ``answer``; empty: none did."""
    text: str
    seconds: float
    """For the way there and back, where all went well."""


def is_well(findings: Sequence[Finding]) -> bool:
    """Whether nothing is wrong."""
    return all(finding.state != WRONG for finding in findings)


# One computer


def judge_computer(where: str, facts: Mapping[str, Any]) -> list[Finding]:
    """What the facts of one computer mean.

    Args:
        where: What to call it; the commands are for it.
        facts: Of `fabric/checkup.py`; what is missing is passed over.
    """
    at = "" if where == "here" else f"on {where}: "
    judges = {
        "python": _python,
        "lacks": _packages,
        "plugins": _plugins,
        "credentials": _credentials,
        "proc": _proc,
        "memory_groups": _memory_groups,
        "smaps": _smaps,
        "files": _files,
        "calls": _calls,
        "confined": _confined,
        "disks": _disks,
        "clock": _clock,
        "ports": _ports,
        "capacity": _capacity,
    }
    found = []
    for name, judge in judges.items():
        if name in facts:
            for finding in judge(where, facts[name], facts):
                mend = at + finding.mend if finding.mend else ""
                found.append(finding._replace(mend=mend))
    return found


def _python(where: str, value: Any, facts: Mapping[str, Any]) -> Iterator[Finding]:
    shown = ".".join(map(str, value)) + f" ({facts.get('implementation', 'cpython')})"
    is_old = tuple(value[:2]) < OLDEST_PYTHON
    expected = ".".join(map(str, OLDEST_PYTHON)) + " or newer"
    mend = f"install Python {'.'.join(map(str, OLDEST_PYTHON))} and start it with that" if is_old else ""
    yield Finding(where, "Python", shown, expected, WRONG if is_old else OK, mend)
    if "constellation" in facts:
        yield Finding(where, "constellation", str(facts["constellation"]), "any", OK)


def _packages(where: str, lacks: Any, facts: Mapping[str, Any]) -> Iterator[Finding]:
    python = facts.get("executable", "python")
    if not lacks:
        versions = ", ".join(f"{name} {version}" for name, version in facts.get("versions", ()))
        yield Finding(where, "packages", versions or "all there", "what constellation and its plugins ask for", OK)
    for owner, requirement, has in lacks:
        mend = f"{python} -m pip install '{requirement}'"
        yield Finding(where, "package", has, f"{requirement}, which {owner} asks for", WRONG, mend)


def _plugins(where: str, plugins: Any, facts: Mapping[str, Any]) -> Iterator[Finding]:
    for name, package, problem, is_enabled in plugins:
        state = (WRONG if is_enabled else NOTE) if problem else OK
        mend = (
            f"{facts.get('executable', 'python')} -m pip install --upgrade {package.partition(' ')[0]}"
            if package
            else ""
        )
        shown = f"{package or 'a module'}: {problem}" if problem else package or "a module"
        yield Finding(where, f"plugin {name}", shown, "a plugin that can be used", state, mend if problem else "")


def _credentials(where: str, credentials: Any, _: Mapping[str, Any]) -> Iterator[Finding]:
    for kind, path, state, text, seconds in credentials:
        what, expected = f"{kind} credential", f"{path}, mode 0600, not expired"
        again = "constellation keygen NEW-FOLDER" if kind == "node" else "constellation keygen --owner NAME"
        if state == "absent":
            said = "none: on loopback one is made by itself; elsewhere it is needed"
            yield Finding(where, what, said, expected, NOTE, "constellation keygen")
        elif state != OK:
            yield Finding(where, what, text, expected, WRONG, _last_part(text) or again)
        else:
            days = int(seconds // _DAY)
            soon = days < SOON_DAYS
            mend = f"{again}, and hand it out before that" if soon else ""
            yield Finding(where, what, f"expires in {days} days", expected, NOTE if soon else OK, mend)


def _last_part(text: str) -> str:
    """What a message about a credential says that mends it, where it names a command."""
    for mark in ("chmod ", "chown ", "constellation keygen"):
        at = text.find(mark)
        if at >= 0:
            return text[at:].partition(", and if")[0]
    return ""


def _proc(where: str, value: Any, _: Mapping[str, Any]) -> Iterator[Finding]:
    mend = "" if value else "mount -t proc proc /proc"
    yield Finding(where, "/proc", "mounted" if value else "not there", "mounted", OK if value else WRONG, mend)


def _memory_groups(where: str, value: Any, _: Mapping[str, Any]) -> Iterator[Finding]:
    version, fault = value
    shown = f"cgroup version {version}" if version else "no control groups"
    if not fault:
        yield Finding(where, "memory limits", f"{shown}, groups can be made", "the kernel holds them", OK)
        return
    mend = "start it as root, or in a group of its own: systemd-run --user --scope -p Delegate=yes constellation ..."
    watched = f"{shown}: {fault}; memory is watched every few milliseconds instead"
    yield Finding(where, "memory limits", watched, "the kernel holds them", NOTE, mend)


def _smaps(where: str, fault: Any, _: Mapping[str, Any]) -> Iterator[Finding]:
    mend = "use a kernel with CONFIG_PROC_PAGE_MONITOR" if fault else ""
    shown = f"/proc/PID/smaps_rollup: {fault}" if fault else "can be read"
    yield Finding(where, "memory of processes", shown, "it can be read, to watch a limit", NOTE if fault else OK, mend)


def _confined(where: str, value: Any, _: Mapping[str, Any]) -> Iterator[Finding]:
    seccomp, _, scope = value
    shown = {0: "no filter", 1: "strict", 2: "a filter"}.get(seccomp, "not known")
    yield Finding(where, "seccomp", shown, "any that allows the calls above", OK)
    scopes = {0: "every process of this user", 1: "children only", 2: "root only", 3: "nobody"}
    mend = "sysctl kernel.yama.ptrace_scope=1, to look into processes with py-spy or gdb" if scope >= 2 else ""
    shown = scopes.get(scope, "not restricted here")
    yield Finding(
        where, "ptrace", shown, "children, for debuggers; nothing of ours needs it", NOTE if mend else OK, mend
    )


def _files(where: str, value: Any, _: Mapping[str, Any]) -> Iterator[Finding]:
    _, hard = value
    state = WRONG if hard < FEW_FILES else NOTE if hard < MANY_FILES else OK
    mend = f"raise it where it is started: ulimit -Hn {MANY_FILES}, or LimitNOFILE={MANY_FILES} in its service"
    yield Finding(where, "open files", f"at most {hard}", f"{MANY_FILES} or more", state, mend if state != OK else "")


def _calls(where: str, calls: Any, _: Mapping[str, Any]) -> Iterator[Finding]:
    refused = [(name, text) for name, text in calls if text]
    for name, text in refused:
        mend = "run it on a kernel from 5.3 on, and with a seccomp profile that allows it (podman run --security-opt seccomp=unconfined)"
        yield Finding(where, f"kernel call {name}", text, "it is allowed", WRONG, mend)
    if not refused:
        yield Finding(where, "kernel calls", ", ".join(name for name, _ in calls), "all are allowed", OK)


def _disks(where: str, disks: Any, _: Mapping[str, Any]) -> Iterator[Finding]:
    limits = {
        "state": (SMALL_STATE, LEAST_STATE),
        "temporary": (LEAST_TEMPORARY, LEAST_TEMPORARY),
        "shared": (LEAST_SHARED, 0),
    }
    names = {"state": "disk for its files", "temporary": "temporary files", "shared": "shared memory"}
    for use, path, free, fault in disks:
        some, least = limits[use]
        what = names[use]
        if fault:
            mend = f"mkdir -p {path}, for this user to write to"
            yield Finding(
                where, what, f"{path}: {fault}", "a folder that can be written to", WRONG if least else NOTE, mend
            )
            continue
        state = WRONG if free < least else NOTE if free < some else OK
        remount = f"mount -o remount,size=1g {path} (podman run --shm-size=1g)"
        mend = remount if use == "shared" else f"make room on the disk of {path}: df -h {path}"
        shown, expected = f"{format_mem(free)} free in {path}", f"{format_mem(some)} or more"
        yield Finding(where, what, shown, expected, state, mend if state != OK else "")


def _clock(where: str, value: Any, _: Mapping[str, Any]) -> Iterator[Finding]:
    is_good = value in {"synchronised", "unknown"}
    mend = "" if is_good else "timedatectl set-ntp true"
    yield Finding(where, "clock", str(value), "synchronised", OK if value == "synchronised" else NOTE, mend)


def _ports(where: str, ports: Any, _: Mapping[str, Any]) -> Iterator[Finding]:
    for address, problem in ports:
        mend = problem.partition(": ")[2] if problem else ""
        yield Finding(where, f"port {address}", problem or "free", "free", WRONG if problem else OK, mend)


def _capacity(where: str, value: Any, _: Mapping[str, Any]) -> Iterator[Finding]:
    """What the file promises of a node, and what it has: the smaller counts."""
    for name, has, said, shown in (
        ("mem", value.get("mem"), value.get("file_mem"), format_mem),
        ("cpu", value.get("cpu"), value.get("file_cpu"), format_amount),
    ):
        if has is None:
            continue
        too_much = said is not None and said > has
        what, expected = f"capacity, {name}", f"{shown(said)}, as nodes.toml says" if said is not None else "any"
        offered = shown(has if said is None else min(has, said))
        quoted = f'"{shown(has)}"' if name == "mem" else shown(has)
        mend = (
            f"change its entry in the master's nodes.toml to {name} = {quoted}, or start it with --{name}"
            if too_much
            else ""
        )
        yield Finding(where, what, offered, expected, WRONG if too_much else OK, mend)


# A whole fabric


def judge_fabric(nodes: Sequence[NodeFacts], absent: Sequence[Tried], dials: Sequence[Tried]) -> list[Finding]:
    """What was seen of all nodes means.

    Args:
        nodes: Those that have joined; the master's own is the first.
        absent: Those of the master's file that have not, with how far the master's last attempt got.
        dials: What each node found that dialled each other one.
    """
    found: list[Finding] = []
    joined = {node.name for node in nodes}
    for tried in absent:
        if tried.target in joined:  # lost while it was asked: that it did not answer stands below
            continue
        mend = mend_of(tried._replace(source="the master"))
        said = f"it has not joined: {tried.text or 'it has not answered yet'}"
        found.append(Finding(tried.target, f"node at {tried.address}", said, "a node that has joined", WRONG, mend))
    for node in nodes:
        found += _judge_node(node)
    found += _judge_versions(nodes)
    return found + _judge_dials(dials)


def _judge_node(node: NodeFacts) -> Iterator[Finding]:
    if node.facts is None:
        mend = f"on {node.name}: see whether it is stopped (ps -o pid,stat,cmd -C constellation), and start it again"
        said = "no answer in the time given" if node.state == "present" else node.state
        yield Finding(node.name, f"node at {node.address or 'no address'}", said, "an answer", WRONG, mend)
    elif node.state == "draining":
        mend = f"on {node.name}: start the node again, when it is to be used again"
        yield Finding(node.name, "node", "draining: nothing more is placed on it", "present", NOTE, mend)
    else:
        yield Finding(
            node.name, "node", f"{node.state} at {node.address or 'no address: it dials out only'}", "present", OK
        )
    if node.offset is not None:
        yield judge_clock(node.name, "the master's", node.offset, node.doubt)
    if node.facts is not None:
        yield from judge_computer(node.name, node.facts)


def judge_clock(where: str, whose: str, offset: float, doubt: float) -> Finding:
    """What the distance of two clocks means.

    Args:
        where: Whose clock.
        whose: The one that it was compared with.
        offset: Seconds by which it is ahead.
        doubt: How wrong that may be.
    """
    is_off = abs(offset) > SKEW_S + doubt
    shown = f"{abs(offset):.3f} s {'ahead of' if offset > 0 else 'behind'} {whose} (give or take {doubt:.3f} s)"
    expected = f"within {SKEW_S:g} s; beyond {WINDOW:.0f} s connections are refused"
    mend = f"on {where}: timedatectl set-ntp true (or chronyc makestep)" if is_off else ""
    return Finding(where, "clock", shown, expected, WRONG if is_off else OK, mend)


def _judge_versions(nodes: Sequence[NodeFacts]) -> Iterator[Finding]:
    """Hold all nodes against the first: which programs can use them together."""
    known = [(node.name, node.facts) for node in nodes if node.facts is not None]
    if len(known) < 2:
        return
    (first, reference), *others = known
    for name, facts in others:
        mine, theirs = (tuple(each.get("python", ())[:2]) for each in (reference, facts))
        if mine != theirs:
            mend = f"on {name}: start the node with Python {'.'.join(map(str, mine))}"
            shown, wanted = (".".join(map(str, each)) for each in (theirs, mine))
            said = f"{wanted}, as on {first}: a program runs on nodes with one minor version"
            yield Finding(name, "Python", shown, said, WRONG, mend)
        yield from _judge_constellation(first, reference, name, facts)
        yield from _judge_plugins(first, reference, name, facts)


def _judge_constellation(
    first: str, reference: Mapping[str, Any], name: str, facts: Mapping[str, Any]
) -> Iterator[Finding]:
    version, other = reference.get("constellation", ""), facts.get("constellation", "")
    if reference.get("wire") != facts.get("wire"):
        mend = f"on {name}: pip install constellation=={version}"
        shown = f"{facts.get('wire')} (constellation {other})"
        yield Finding(name, "wire version", shown, f"{reference.get('wire')}, as on {first}", WRONG, mend)
    elif version != other:
        mend = f"on {name}: pip install constellation=={version}"
        yield Finding(
            name, "constellation", other, f"{version}, as on {first}; others with its wire version work", NOTE, mend
        )
    msgpack, own = (dict(each.get("versions", ())).get("msgpack", "") for each in (reference, facts))
    if msgpack.partition(".")[0] != own.partition(".")[0]:
        yield Finding(
            name, "msgpack", own, f"{msgpack}, as on {first}", NOTE, f"on {name}: pip install msgpack=={msgpack}"
        )


def _judge_plugins(first: str, reference: Mapping[str, Any], name: str, facts: Mapping[str, Any]) -> Iterator[Finding]:
    mine = {plugin: package for plugin, package, *_ in reference.get("plugins", ())}
    theirs = {plugin: package for plugin, package, *_ in facts.get("plugins", ())}
    for plugin in sorted({*mine, *theirs}):
        if mine.get(plugin) == theirs.get(plugin):
            continue
        if plugin not in theirs or plugin not in mine:
            lacking, having = (name, first) if plugin not in theirs else (first, name)
            package = theirs.get(plugin) or mine.get(plugin, "")
            expected = f"{package}, as on {having}, for programs that use it"
            mend = f"on {lacking}: pip install {package.replace(' ', '==')}; then start the node again"
            yield Finding(lacking, f"plugin {plugin}", "not installed", expected, NOTE, mend)
        else:
            expected = f"{mine[plugin]}, as on {first}: a program runs on nodes with one version"
            mend = f"on {name}: pip install {mine[plugin].replace(' ', '==')}; then start the node again"
            yield Finding(name, f"plugin {plugin}", theirs[plugin], expected, WRONG, mend)


# Ports


def _judge_dials(dials: Sequence[Tried]) -> list[Finding]:
    failed = [tried for tried in dials if tried.step]
    found = [judge_tried(tried) for tried in failed]
    targets = dict.fromkeys((tried.target, tried.address) for tried in dials)
    for target, address in targets:
        answered = [tried for tried in dials if tried.target == target and not tried.step]
        if answered:
            slowest = max(tried.seconds for tried in answered)
            count = sum(tried.target == target for tried in dials)
            shown = f"{len(answered)} of {count} other nodes reached it, in {slowest * 1000:.1f} ms at most"
            found.append(Finding(target, f"port {address}", shown, "all reach it", OK))
    return found


def judge_file(tried: Sequence[Tried]) -> list[Finding]:
    """What was found from here of each address of a nodes.toml means."""
    return [judge_tried(each) for each in tried]


def judge_tried(tried: Tried) -> Finding:
    """What one attempt to reach a port means."""
    where = f"{tried.source} -> {tried.target}"
    if not tried.step:
        is_whole = tried.seconds > 0
        shown = (
            f"answered in {tried.seconds * 1000:.1f} ms"
            if is_whole
            else "open; not asked more, for want of a credential here"
        )
        return Finding(where, f"port {tried.address}", shown, "an answer", OK)
    expected = {
        "name": "a name that is known there",
        "route": "a way to that network",
        "port": "an open port",
        "TLS": "a handshake with the same fabric's credential",
        "role": "the right kind of daemon",
        "credential": "our certificate is accepted",
        "answer": "an answer",
    }
    return Finding(where, f"{tried.step} of {tried.address}", tried.text, expected[tried.step], WRONG, mend_of(tried))


def mend_of(tried: Tried) -> str:
    """What mends a failed attempt."""
    host, _, port = tried.address.rpartition(":")
    if "://" in tried.address:  # a plugin's transport leads there, and what lies between is not ours to know
        host, port = tried.address, "443 or what the URL says"
    source, target = tried.source, tried.target
    on_source = "" if source == "here" else f"on {source}: "
    match tried.step:
        case "name":
            return f"{on_source}put {host} into /etc/hosts or the name server; getent hosts {host} shows what is known"
        case "route":
            return f"{on_source}ip route get {host.strip('[]')} shows the way; bring up the interface or add a route"
        case "port" if "refused" in tried.text:
            return (
                f"on {target}: start it (constellation node {tried.address}), or, if it runs, have the firewall let {source} in; "
                f"ss -ltn 'sport = :{port}' shows who listens"
            )
        case "port":
            return (
                f"on {target}, and on what lies between: open TCP port {port} for {source} "
                f"(ufw allow {port}/tcp; or nft insert rule inet filter input tcp dport {port} accept)"
            )
        case "TLS" | "credential":
            return (
                f"on {target}: the log says why; give both the same fabric's file: "
                "scp ~/.config/constellation/node.pem HOST:.config/constellation/; and set the clocks: timedatectl set-ntp true"
            )
        case "role":
            return f"see which daemon listens at {tried.address}: a bridge and a node have ports of their own"
        case _:
            return f"on {target}: see whether it is stopped (ps -o pid,stat,cmd -C constellation), and start it again"
