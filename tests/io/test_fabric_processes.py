"""Spawns, ends, certificates and links, as the fabric sees them."""

from __future__ import annotations

import os
import signal
import socket
import time

from constellation.core import messages
from constellation.core.messages import Fork, ForkFailed, Ready
from constellation.core.pid import Pid
from constellation.core.resources import Resources
from constellation.core.status import ExitStatus
from tests.io import fabric_harness
from tests.io.fabric_harness import LIMIT_S


def test_a_spawn_gives_a_pid_output_and_an_end() -> None:
    """The events of a child come in the order in which they happened."""
    with fabric_harness.running() as harness:
        pid = harness.spawn("echo hello; exit 3")
        harness.reap()
        status = harness.watch(pid)
        harness.end_first()
        code, events, stderr = harness.finish()
    assert status is not None and status.code == 3 and status.place == "prog.py:7"
    assert [event["event"] for event in events if event["pid"] == pid.hex()] == ["spawn", "output", "exit"]
    assert (code, stderr) == (3, "")


def test_a_certificate_has_the_exception_and_the_last_lines_of_stderr() -> None:
    """What the process said of its exception is the cause; ten lines of stderr are kept."""
    with fabric_harness.running() as harness:
        pid = harness.spawn("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo line $i >&2; done; exit 1")
        harness.controls[pid.to_bytes()].send(messages.Raised("ValueError", "too small"))
        harness.reap()
        status = harness.watch(pid)
    assert status is not None and status.cause == "uncaught ValueError: too small"
    assert status.exception == ("ValueError", "too small")
    assert status.stderr == tuple(f"line {number}" for number in range(3, 13))


def test_a_good_certificate_is_only_pid_and_code() -> None:
    """What ended well needs no words, whatever it wrote to stderr."""
    with fabric_harness.running() as harness:
        pid = harness.spawn("echo warning >&2")
        harness.reap()
        assert harness.watch(pid) == ExitStatus(pid, 0, None)


def test_a_watch_before_the_end_is_answered_at_the_end() -> None:
    """Watching does not need to come late."""
    with fabric_harness.running() as harness:
        pid = harness.spawn("read x; exit 4")
        request = harness.request()
        harness.first.send(messages.Watch(request, pid.to_bytes()))
        next(iter(child for child in harness.children.values() if child is not harness.leader)).kill()
        harness.reap()
        status = harness.watch(pid)
        assert status is not None


def test_kill_says_who_and_escalates() -> None:
    """A process that ignores SIGTERM gets SIGKILL after the grace time, and its certificate says from whom."""
    with fabric_harness.running() as harness:
        pid = harness.spawn("trap '' TERM; echo ready; while :; do sleep 0.05; done")
        time.sleep(0.2)
        request = harness.request()
        harness.first.send(messages.Kill(request, pid.to_bytes(), 0.1, False))
        harness.reap()
        fields = harness.first.expect(messages.Exited).status
    assert fields is not None
    status = ExitStatus.from_fields(fields)
    assert (status.signal, status.cause) == ("SIGKILL", f"killed by process {harness.pid}")


def test_kill_of_a_tree_takes_the_descendants() -> None:
    """Children are ended too, and name the killer and whose tree it was."""
    with fabric_harness.running() as harness:
        child = harness.spawn("exec sleep 1000")
        mine = harness.controls[child.to_bytes()]
        mine.send(messages.Spawn(1, "prog:grandchild", "prog.py:9", Resources().to_fields(), True, b"exec sleep 1000"))
        harness.serve_fork()
        grandchild = Pid.from_bytes(mine.expect(messages.Spawned).pid)
        harness.first.send(messages.Kill(harness.request(), child.to_bytes(), 5.0, True))
        harness.reap(2)
        statuses = [
            ExitStatus.from_fields(harness.first.expect(messages.Exited).status or []),
            harness.watch(grandchild),
        ]
    whose = f"killed by process {harness.pid}"
    assert [status and (status.pid, status.signal, status.cause) for status in statuses] == [
        (child, "SIGTERM", whose),
        (grandchild, "SIGTERM", f"{whose}, with all below {child}"),
    ]


def test_an_unknown_pid_is_unknown_even_with_a_known_number() -> None:
    """The key counts, not the number."""
    with fabric_harness.running() as harness:
        pid = harness.spawn("exec sleep 1000")
        forged = Pid(pid.node, pid.process, bytes(16))
        assert harness.watch(forged) is None
        harness.first.send(messages.Connect(forged.to_bytes(), 0))
        assert harness.first.expect(messages.Refused).status is None


def test_a_link_goes_to_both_ends_once() -> None:
    """Both get an end with the same number; who asks late for an old number is not answered twice."""
    with fabric_harness.running() as harness:
        pid = harness.spawn("exec sleep 1000")
        peer = harness.controls[pid.to_bytes()]
        harness.first.send(messages.Connect(pid.to_bytes(), 0))
        made = harness.first.receive()
        mine = harness.first.fds
        assert made == messages.LinkMade(pid.to_bytes(), 1)
        assert peer.receive() == messages.LinkMade(harness.pid.to_bytes(), 1)
        os.write(mine[0], b"x")
        assert os.read(peer.fds[0], 1) == b"x"
        peer.send(messages.Connect(harness.pid.to_bytes(), 0))
        peer.send(messages.Connect(harness.pid.to_bytes(), 1))
        assert harness.first.expect(messages.LinkMade).number == 2
        for fd in (*mine, *peer.fds):
            os.close(fd)


def test_a_link_to_the_dead_is_refused_with_the_certificate() -> None:
    """The certificate is the reason that a channel gives."""
    with fabric_harness.running() as harness:
        pid = harness.spawn("exit 5")
        harness.reap()
        assert harness.watch(pid) is not None
        harness.first.send(messages.Connect(pid.to_bytes(), 0))
        fields = harness.first.expect(messages.Refused).status
        assert fields is not None and ExitStatus.from_fields(fields).code == 5


def test_a_malformed_packet_ends_only_its_sender_s_connection() -> None:
    """The fabric goes on, and the certificate says why the connection ended."""
    with fabric_harness.running() as harness:
        pid = harness.spawn("sleep 0.3; exit 1")
        harness.controls[pid.to_bytes()].sock.send(b"\xc1garbage")
        harness.reap()
        status = harness.watch(pid)
        other = harness.spawn("exit 0")
        harness.reap()
        assert harness.watch(other) == ExitStatus(other, 0, None)
    assert status is not None and "malformed" in (status.cause or "")


def test_a_fork_that_fails_is_the_spawner_s_error() -> None:
    """Nothing of it is seen but the error."""
    with fabric_harness.running() as harness:
        harness.ask_spawn("exit 0")
        fork = harness.template.expect(Fork)
        for fd in harness.template.fds:
            os.close(fd)
        harness.template.send(ForkFailed(fork.process, "fork: Resource temporarily unavailable"))
        failed = harness.first.expect(messages.SpawnFailed)
        harness.end_first()
        code, events, _ = harness.finish()
    assert failed.kind == "SpawnError" and "temporarily unavailable" in failed.text
    assert code == 0 and len(events) == 2


def test_a_process_that_ends_before_it_is_ready_fails_its_spawn_with_its_words() -> None:
    """What it wrote to stderr is in the error."""
    with fabric_harness.running() as harness:
        harness.starts_ready = False
        harness.ask_spawn("echo no such module >&2; exit 1")
        harness.serve_fork()
        harness.reap()
        failed = harness.first.expect(messages.SpawnFailed)
    assert failed.kind == "SpawnError" and "no such module" in failed.text


def test_the_loss_of_the_template_ends_its_processes() -> None:
    """Their cause is the loss; what waits for a fork fails."""
    with fabric_harness.running() as harness:
        pid = harness.spawn("exec sleep 1000")
        harness.ask_spawn("exit 0")
        harness.template.expect(Fork)
        for fd in harness.template.fds:
            os.close(fd)
        harness.first.send(messages.Watch(77, pid.to_bytes()))
        harness.template.sock.close()
        failed = harness.first.expect(messages.SpawnFailed)
        assert failed.kind == "SpawnError" and "template" in failed.text
        for child in harness.children.values():
            child.wait(LIMIT_S)
        code, events, _ = harness.finish()
    assert {event["cause"] for event in events if event["event"] == "exit"} == {"template lost"}
    assert code == 1


def test_a_process_whose_template_is_lost_before_it_could_say_so_has_been() -> None:
    """It has told the node itself that it runs, and its spawner has its Pid: that gets a certificate, which claims no more."""
    with fabric_harness.running() as harness:
        harness.ask_spawn("exit 0")
        harness.template.expect(Fork)
        control = fabric_harness.Conversation(socket.socket(fileno=harness.template.fds[0]))
        control.send(messages.Ready(999_999_999))
        pid = Pid.from_bytes(harness.first.expect(messages.Spawned).pid)
        for fd in harness.template.fds[1:]:
            os.close(fd)
        harness.template.sock.close()
        status = harness.watch(pid)
        control.sock.close()
        for child in harness.children.values():
            child.wait(LIMIT_S)
        _, events, _ = harness.finish()
    assert status is not None and (status.code, status.signal, status.cause) == (None, None, "template lost")
    assert sorted(event["event"] for event in events if event["pid"] == pid.hex()) == ["exit", "spawn"]


def test_a_payload_in_a_descriptor_reaches_the_template() -> None:
    """Large calls travel beside the message."""
    with fabric_harness.running() as harness:
        payload = os.memfd_create("payload")
        os.write(payload, b"exit 6")
        request = harness.request()
        spawn = messages.Spawn(request, "prog:child", "prog.py:7", Resources().to_fields(), True, b"")
        harness.first.send(spawn, [payload])
        os.close(payload)
        harness.template.expect(Fork)
        assert len(harness.template.fds) == 5
        assert os.pread(harness.template.fds[4], 100, 0) == b"exit 6"
        for fd in harness.template.fds:
            os.close(fd)


def test_a_full_deployment_queues_and_a_queued_spawn_can_be_cancelled() -> None:
    """With a capacity, spawn waits, try_spawn fails, and an end gives the room to the next."""
    capacity = Resources(mem="250 MiB", cpu=4).to_fields()
    with fabric_harness.running(capacity=capacity) as harness:
        pid = harness.spawn("exec sleep 1000")
        harness.ask_spawn("exit 0", wait=False)
        assert harness.first.expect(messages.SpawnFailed).kind == "NoCapacity"
        harness.ask_spawn("exit 0", mem="1 TiB")
        assert harness.first.expect(messages.SpawnFailed).kind == "Infeasible"
        request = harness.ask_spawn("exit 0")
        harness.first.send(messages.Cancel(request))
        assert harness.first.expect(messages.SpawnFailed) == messages.SpawnFailed(request, "Cancelled", "")
        harness.ask_spawn("exit 0")
        harness.first.send(messages.Kill(harness.request(), pid.to_bytes(), 5.0, False))
        harness.reap()
        harness.serve_fork()
        assert harness.first.expect(messages.Spawned)


def test_spawns_that_can_never_get_room_are_stalled() -> None:
    """When all wait and lending does not help, the waiting spawn fails and says who holds what."""
    with fabric_harness.running(capacity=Resources(mem="150 MiB", cpu=4).to_fields()) as harness:
        harness.ask_spawn("exit 0")
        harness.first.send(messages.Waiting(True))
        failed = harness.first.expect(messages.SpawnFailed)
    assert failed.kind == "SpawnStalled" and str(harness.pid) in failed.text


def test_close_kills_the_others_and_then_answers() -> None:
    """The first process goes on; the deployment ends with it."""
    with fabric_harness.running() as harness:
        pid = harness.spawn("exec sleep 1000")
        request = harness.request()
        harness.first.send(messages.Close(request, True))
        harness.reap()
        assert harness.first.expect(messages.Closed).request == request
        status = harness.watch(pid)
        assert status is not None and status.cause == "killed by close()"
        harness.end_first()
        assert harness.finish()[0] == 128 + signal.SIGTERM


def test_output_is_read_to_its_end_before_the_exit() -> None:
    """What was in the pipe when the process ended comes before its exit event, whole."""
    with fabric_harness.running() as harness:
        pid = harness.spawn("head -c 60000 /dev/zero | tr '\\0' x; exit 0")
        harness.reap()
        harness.watch(pid)
        harness.end_first()
        _, events, _ = harness.finish()
    mine = [event for event in events if event["pid"] == pid.hex()]
    assert mine[-1]["event"] == "exit"
    assert sum(len(event["data"]) for event in mine if event["event"] == "output") == 60000


def test_a_grandchild_s_output_is_read_until_the_deployment_ends() -> None:
    """A pipe that outlives its process is still read."""
    with fabric_harness.running() as harness:
        pid = harness.spawn("(sleep 0.3; echo late) & exit 0")
        harness.reap()
        harness.watch(pid)
        time.sleep(0.6)
        harness.end_first()
        _, events, _ = harness.finish()
    assert [event["data"] for event in events if event["event"] == "output"] == ["late\n"]


def test_ready_twice_is_one_spawn() -> None:
    """The second word changes nothing."""
    with fabric_harness.running() as harness:
        pid = harness.spawn("exit 0")
        harness.controls[pid.to_bytes()].send(Ready(1))
        harness.reap()
        harness.watch(pid)
        harness.end_first()
        _, events, _ = harness.finish()
    assert sum(event["event"] == "spawn" for event in events) == 2


def test_exhausted_descriptors_fail_the_spawn_with_words_and_nothing_hangs() -> None:
    """What runs goes on, and there is room again when something has ended."""
    with fabric_harness.running(hard_file_limit=100) as harness:
        pids: list[Pid] = []
        while len(pids) < 20:
            harness.ask_spawn("exec sleep 1000")
            message = harness.serve_fork_or_failure()
            if message is not None:
                break
            pids.append(Pid.from_bytes(harness.first.expect(messages.Spawned).pid))
        assert message is not None and message.kind == "SpawnError" and "open files" in message.text
        assert len(pids) >= 4
        harness.first.send(messages.Connect(pids[0].to_bytes(), 0))
        harness.first.expect(messages.LinkMade)
        harness.first.send(messages.Kill(harness.request(), pids[1].to_bytes(), 5.0, False))
        harness.reap()
        harness.first.expect(messages.Exited)
        assert harness.spawn("exec sleep 1000")
