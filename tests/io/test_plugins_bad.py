"""Bad plugins in real programs: each is named, and nobody else suffers from it, or waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Leftovers, RunProgram
from tests.io.plugin_harness import SCHEDULER, SERIALIZER, TRANSPORT, install, module
from tests.io.test_plugins_enabled import environment

PROGRAM = """
from constellation import Receiver, Resources, Sender, init, parent, spawn, watch
def child():
    print("child")
init(plugins=["plug.bad"], capacity=Resources(mem="1 GiB", cpu=2))
print("init() returned", flush=True)
watch(spawn(child).block()).block()
"""


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "import there_is_no_such_module",
            ("cannot import plugin 'plug.bad' (module plug.bad): ModuleNotFoundError: No module named "
            "'there_is_no_such_module'; it needs 'there_is_no_such_module', which is not installed here: "
            "`pip install there_is_no_such_module`"),
        ),
        (
            "1 / 0",
            ("cannot import plugin 'plug.bad' (module plug.bad): ZeroDivisionError: division by zero; mend it, or do not "
            "enable it"),
        ),
        (
            "@hookimpl\ndef process_exited(status, colour): ...",
            ("plugin 'plug.bad' (module plug.bad) does not fit: Plugin 'plug.bad' for hook 'process_exited'; hookimpl "
            "definition: process_exited(status, colour); Argument(s) {'colour'} are declared in the hookimpl but can not "
            "be found in the hookspec"),
        ),
        (
            "@hookimpl\ndef proces_exited(status): ...",
            (
                "plugin 'plug.bad' (module plug.bad) does not fit: unknown hook 'proces_exited'; did you mean "
                "'process_exited' or 'process_spawned'?"
            ),
        ),
        (
            "@hookimpl\ndef register_transports(): return 'tcp'",
            "plugin 'plug.bad' returned 'tcp' from register_transports: expected a list",
        ),
        (
            "@hookimpl\ndef register_schedulers(): return [print]",
            "plugin 'plug.bad' offers <built-in function print> as a scheduler: it lacks name, node_changed, node_removed, place",
        ),
        (
            "@hookimpl\ndef register_serializers(): raise PluginError('ask for a licence')",
            "plugin 'plug.bad': ask for a licence",
        ),
        (
            "contract_version = 2\n@hookimpl\ndef process_exited(status): ...",
            ("plugin 'plug.bad' (module plug.bad) was written for version 2 of the contracts, and this constellation has "
            "version 1: install a newer constellation, or an older version of the plugin"),
        ),
    ],
)  # fmt: skip
def test_a_plugin_that_cannot_be_used_ends_init_with_its_name(
    run_program: RunProgram, tmp_path: Path, source: str, words: str
) -> None:
    """Before anything runs."""
    module(tmp_path, "bad", source)
    done = run_program(tmp_path, PROGRAM)
    assert (done.stdout, done.returncode) == ("", 1)
    assert done.stderr.splitlines()[-1] == f"constellation.core.errors.PluginError: {words}"


def test_a_dependency_that_is_missing_is_brought_by_the_package(
    run_program: RunProgram, leftovers: Leftovers, tmp_path: Path
) -> None:
    """Of an installed one the package is known."""
    env = install(tmp_path, "bad", "import websocketz")
    done = run_program(tmp_path, PROGRAM.replace("plug.bad", "bad"), env=environment(leftovers, env))
    assert done.stderr.splitlines()[-1].endswith(
        "(entry point constellation_bad, constellation-bad 1.5): ModuleNotFoundError: No module named 'websocketz'; it needs "
        "'websocketz', which is not installed here: `pip install --upgrade constellation-bad` brings it"
    )


# -- News --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise ValueError('no space left')", "raised ValueError: no space left"),
        ("sys.exit(4)", "raised SystemExit: 4"),
        ("time.sleep(1.2)", "took 1.2 s: expected at most 1 s"),
    ],
)
def test_a_bad_news_hook_is_reported_once_and_off_for_the_run(
    run_program: RunProgram, tmp_path: Path, body: str, words: str
) -> None:
    """With plugin, hook and place; its other hooks, the other plugins and the run go on."""
    module(
        tmp_path,
        "bad",
        f"@hookimpl\ndef process_spawned(pid):\n    {body}\n",
        "@hookimpl\ndef process_exited(status): print('still heard', file=sys.stderr, flush=True)\n",
    )
    done = run_program(
        tmp_path,
        """
        from constellation import init, spawn, watch
        def child(): pass
        init(plugins=["plug.bad"])
        for _ in range(3):
            watch(spawn(child).block()).block()
        print("went on")
        """,
    )
    assert "    went on" in done.stdout.splitlines(), done
    assert done.returncode == 0
    reports = [line for line in done.stderr.splitlines() if "plug.bad" in line]
    assert len(reports) == 1
    assert reports[0].startswith("constellation: plugin 'plug.bad', hook process_spawned, at ")
    assert "plug/bad.py:" in reports[0]
    assert reports[0].endswith(f": {words}; not called again in this run")
    assert done.stderr.count("still heard") == 4


# -- Transports --------------------------------------------------------------------------------------------------------

STREAM = """
import sys
from constellation import ChannelError, PeerDied, Receiver, Sender, init, parent, spawn, watch

def child(sends):
    try:
        if sends:
            sender = Sender(parent())
            while True:
                sender.send(VALUE).block()
        else:
            for _ in Receiver(parent()):
                pass
    except PeerDied as error:
        print("child:", error, flush=True)

def main():
    pid = spawn(child, sys.argv[1] == "child").block()
    try:
        if sys.argv[1] == "child":
            for _ in Receiver(pid):
                pass
        else:
            sender = Sender(pid)
            while True:
                sender.send(VALUE).block()
    except PeerDied as error:
        print("first:", error, flush=True)
    print("child ended well:", watch(pid).block().ok)

init(plugins=["plug.bad"])
main()
"""
FAILS = """
counts = dict.fromkeys(("send", "send_many", "receive", "receive_into"), 0)
def failing(method, name):
    def call(*arguments):
        counts[name] += 1
        if counts[name] > 40 and FAILS(name):
            raise ValueError("the cable is on fire")
        return method(*arguments)
    return call
class Bad(Pairs):
    name = "bad"
    def adopt(self, fd):
        link = Link(fd)
        for name in counts:
            setattr(link, name, failing(getattr(link, name), name))
        return link
@hookimpl
def register_transports(): return [Bad()]
"""


def failing_transport(folder: Path, condition: str) -> None:
    """A transport that raises in the middle, where a condition on the method holds."""
    plain = TRANSPORT.split("@hookimpl", maxsplit=1)[0]
    module(folder, "bad", plain, FAILS.replace("FAILS", f"(lambda name: {condition})"))


@pytest.mark.parametrize("who", ["first", "child"])
@pytest.mark.parametrize(
    "value", ["(1, 'text')", "bytes(1000)", "bytes(10_000)", "bytes(3_000_000)", "[1, {'a': 2.5}]"]
)
@pytest.mark.parametrize("condition", ["name.startswith('send')", "name.startswith('receive')"])
def test_a_transport_that_raises_in_a_stream_ends_both_ends_with_its_words(
    run_program: RunProgram, tmp_path: Path, who: str, value: str, condition: str
) -> None:
    """Sender and receiver, first process and child, small and large values; nobody waits for ever."""
    failing_transport(tmp_path, condition)
    done = run_program(tmp_path, STREAM.replace("VALUE", value), who, timeout=30)
    lines = [line.strip() for line in done.stdout.splitlines()]
    for name in ("first", "child"):
        [line] = [line for line in lines if line.startswith(f"{name}: ")]
        assert "the link is lost: transport 'bad': raised ValueError: the cable is on fire, at " in line
        assert "plug/bad.py:" in line
    assert "child ended well: True" in lines
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (
            "def adopt(self, fd): raise ValueError('not this one')",
            "the link is lost: transport 'plug': raised ValueError: not this one",
        ),
        (
            "def adopt(self, fd): return fd",
            "the link is lost: transport 'plug': raised AttributeError: 'int' object has no attribute 'fileno'",
        ),
        (
            "def pair(self): raise ValueError('none left')",
            "can be made: making a pair of link ends raised ValueError: none left, at ",
        ),
        (
            "def pair(self): return 5",
            "can be made: making a pair of link ends raised TypeError",
        ),
    ],
)  # fmt: skip
def test_a_transport_that_makes_no_links_is_named(
    run_program: RunProgram, tmp_path: Path, method: str, words: str
) -> None:
    """In the process, or in the fabric, which goes on."""
    plain = TRANSPORT.split("@hookimpl", maxsplit=1)[0]
    offer = "@hookimpl\ndef register_transports(): return [Bad()]\n"
    module(tmp_path, "bad", plain, f"class Bad(Pairs):\n    name = 'plug'\n    {method}\n", offer)
    done = run_program(
        tmp_path,
        """
        from constellation import ChannelError, Receiver, init, spawn
        def child(): print("child ran")
        init(plugins=["plug.bad"])
        pid = spawn(child).block()
        try:
            Receiver(pid).recv().block()
        except ChannelError as error:
            print("first:", error)
        """,
        timeout=30,
    )
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert "child ran" in lines
    [line] = [line for line in lines if line.startswith("first: ")]
    assert words in line or "has ended" in line  # the child may be gone before the link is asked for
    assert done.returncode == 0


# -- Handshake ---------------------------------------------------------------------------------------------------------

VERSIONED = """
import os
with open("imports", "a") as file:
    file.write("x")
VERSION = str(os.path.getsize("imports"))
"""


@pytest.mark.parametrize(
    ("base", "kind", "end"),
    [
        (TRANSPORT, "transport", "register_transports(): return [Pairs()]"),
        (SERIALIZER, "serializer", "register_serializers(): return [Plain()]"),
    ],
)
def test_both_ends_refuse_another_version_with_both_offers(
    run_program: RunProgram, leftovers: Leftovers, tmp_path: Path, base: str, kind: str, end: str
) -> None:
    """A package that was upgraded while the program ran: its template has the new one."""
    env = install(tmp_path, "bad", VERSIONED, base.replace("name = NAME", "name = NAME\n    link_version = VERSION"))
    done = run_program(
        tmp_path,
        """
        import threading
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        from constellation import HandshakeError, Receiver, Sender, init, parent, spawn, watch
        def child():
            try:
                Sender(parent()).send(5).block()
                Receiver(parent()).recv().block()
            except HandshakeError as error:
                print("child:", error, flush=True)
        def main():
            pid = spawn(child).block()
            try:
                Receiver(pid).recv().block()
            except HandshakeError as error:
                print("first:", error)
            print("child ended well:", watch(pid).block().ok)
        init(plugins=["bad"])
        main()
        """,
        env=environment(leftovers, env),
        timeout=30,
    )
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert "child ended well: True" in lines, done
    for name in ("first", "child"):
        [line] = [line for line in lines if line.startswith(f"{name}: no link with process ")]
        assert f"{kind} 'bad' version 1" in line
        assert line.count(f"{kind} 'bad' version ") == 2
        assert "wire version 1, contract version 1" in line
        assert line.endswith("; `pip install --upgrade constellation-bad` on both sides")


# -- Serializers -------------------------------------------------------------------------------------------------------

FAULTY_SERIALIZER = """
class Bad(Plain):
    def encode(self, value):
        if value == "raise": raise KeyError("no such shape")
        if value == "refuse": raise SerializationError("value", "cannot encode that")
        if value == "bytes": return b"bytes"
        if value == "none": return None
        return super().encode(value)
    def decode(self, buffers):
        value = super().decode(buffers)
        if value == "decode": raise KeyError("no such table")
        return value
@hookimpl
def register_serializers(): return [Bad()]
"""


def test_a_serializer_that_breaks_its_promise_fails_the_operation_that_called(
    run_program: RunProgram, tmp_path: Path
) -> None:
    """PluginError with its words; SerializationError where it refuses; the channel goes on."""
    module(tmp_path, "bad", SERIALIZER.split("@hookimpl", maxsplit=1)[0], FAULTY_SERIALIZER)
    done = run_program(
        tmp_path,
        """
        from constellation import ConstellationError, Receiver, Sender, init, parent, spawn
        def child():
            receiver = Receiver(parent())
            while True:
                try:
                    value = receiver.recv().block()
                except ConstellationError as error:
                    value = f"{type(error).__name__}: {error}"
                Sender(parent()).send(["got", value]).block()
                if value == "last":
                    return
        init(plugins=["plug.bad"])
        pid = spawn(child).block()
        sender, receiver = Sender(pid), Receiver(pid)
        for value in ("one", "raise", "refuse", "bytes", "none", "decode", "last"):
            try:
                sender.send(value).block()
            except ConstellationError as error:
                print(value, f"{type(error).__name__}: {error}")
            else:
                print(value, receiver.recv().block())
        """,
        timeout=30,
    )
    lines = [line.strip() for line in done.stdout.splitlines()]
    starts = [
        "one ['got', 'one']",
        "raise PluginError: serializer 'bad' raised KeyError: 'no such shape', at ",
        "refuse SerializationError: value: cannot encode that",
        "bytes PluginError: serializer 'bad' returned b'bytes' from encode: expected a list of bytes, bytearray or memoryview",
        "none PluginError: serializer 'bad' ",
        "decode ['got', \"PluginError: serializer 'bad' raised KeyError: 'no such table', at ",
        "last ['got', 'last']",
    ]
    for start in starts:
        assert any(line.startswith(start) for line in lines), (start, done)
    assert done.returncode == 0


# -- Schedulers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (
            "def place(self, demand): raise KeyError('rack 7')",
            "scheduler 'bad' raised KeyError: 'rack 7', in place at ",
        ),
        (
            "def place(self, demand): return 77",
            "scheduler 'bad' placed 100 MiB, 0.0625 cores on node 77: there is no such node",
        ),
        ("def place(self, demand): return sorted(self.nodes)[0]", "free there: 0 B"),
        ("def place(self): return 1", "scheduler 'bad' raised TypeError: "),
    ],
)
def test_a_scheduler_that_raises_or_lies_fails_the_spawn(
    run_program: RunProgram, tmp_path: Path, method: str, words: str
) -> None:
    """With PluginError; what runs goes on."""
    faulty = f"class Bad(Pick):\n    {method}\n@hookimpl\ndef register_schedulers(): return [Bad()]\n"
    module(tmp_path, "bad", SCHEDULER.split("@hookimpl", maxsplit=1)[0], faulty)
    full = "sorted" in method
    done = run_program(
        tmp_path,
        f"""
        from constellation import PluginError, Resources, init, spawn, try_spawn
        def child(): pass
        init(Resources(mem="100 MiB"), plugins=["plug.bad"], capacity=Resources(mem="{"100 MiB" if full else "1 GiB"}", cpu=2))
        for make in (spawn, try_spawn, spawn):
            try:
                make(child, resources=Resources(mem="{"50 MiB" if full else "100 MiB"}", cpu=1/16)).block()
            except PluginError as error:
                print("failed:", error)
        print("went on")
        """,
        timeout=30,
    )
    lines = [line.strip() for line in done.stdout.splitlines()]
    failed = [line for line in lines if line.startswith("failed: ")]
    assert len(failed) == 3, done
    assert all(words in line for line in failed), failed
    assert "went on" in lines
    assert done.returncode == 0


def test_a_scheduler_that_misses_a_change_is_not_asked_any_more(run_program: RunProgram, tmp_path: Path) -> None:
    """The third change is the end of the first child: all spawns after it say why."""
    faulty = """
    class Bad(Pick):
        told = 0
        def node_changed(self, node):
            self.told += 1
            if self.told > 3: raise RuntimeError("lost count")
            super().node_changed(node)
    @hookimpl
    def register_schedulers(): return [Bad()]
    """
    module(tmp_path, "bad", SCHEDULER.split("@hookimpl", maxsplit=1)[0], faulty)
    done = run_program(
        tmp_path,
        """
        from constellation import PluginError, Resources, init, spawn, watch
        def child(): pass
        init(plugins=["plug.bad"], capacity=Resources(mem="1 GiB", cpu=2))
        watch(spawn(child).block()).block()
        for _ in range(2):
            try:
                watch(spawn(child).block()).block()
            except PluginError as error:
                print("failed:", error)
        """,
        timeout=30,
    )
    failed = [line for line in done.stdout.splitlines() if "failed: " in line]
    assert failed, done
    words = "scheduler 'bad' raised RuntimeError: lost count, in node_changed at "
    assert all(words in line and line.endswith("not asked any more") for line in failed)
    assert done.returncode == 0
