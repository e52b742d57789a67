"""A fabric under kills for a while: ``make soak``, or ``python -m tests.soak SECONDS SEED``.

Three nodes on this computer; always some deployments that run, whose workers send numbered values to the first process; and
somebody who kills, stops and continues daemons, bridge and master, at random but by a seed. Of each deployment that came
to its end is asked: what it printed is without a gap and without a repetition; of each worker came a prefix of what it
sent, all of it where it ended well; what was lost names its cause. In the end nothing is left, and no daemon has grown.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.conftest import nothing_left
from tests.io.cluster import LIMIT_S, Cluster, children_of, cluster, daemon_below, kill

PROGRAM = """
    import json, time
    from constellation import ChannelClosed, PeerDied, Receiver, Resources, Sender, init, parent, spawn, watch, SpawnError
    def worker(count):
        to = Sender(parent())
        for n in range(count):
            to.send(n).block()
            time.sleep(0.005)
    init(Resources(mem="60 MiB", cpu=0.01))
    pids = []
    for _ in range(4):
        try:
            pids.append(spawn(worker, 200, resources=Resources(mem="60 MiB", cpu=0.01)).block())
        except SpawnError as error:
            print(json.dumps({"spawn": str(error)}), flush=True)
    for pid in pids:
        got = []
        try:
            for value in Receiver(pid):
                got.append(value)
        except PeerDied as error:
            pass
        status = watch(pid).block()
        print(json.dumps({"prefix": got == list(range(len(got))), "count": len(got), "code": status.code,
                          "cause": status.cause, "signal": status.signal}), flush=True)
    for n in range(50):
        print(n, flush=True)
"""
CLIENTS = 2
GROWTH = 64 << 20
"""Bytes by which a daemon may have grown in the end; each keeps some certificates and logs."""


class Soak:
    """One run.

    Args:
        made: The fabric.
        seed: Of all that is random.
        until: When to end, of the monotonic clock.
    """

    def __init__(self, made: Cluster, seed: int, until: float) -> None:
        self._made = made
        self._random = random.Random(seed)
        self._until = until
        self.faults: list[str] = []
        self.counts = {"good": 0, "lost": 0, "refused": 0, "kills": 0}

    def run(self) -> None:
        """Blocks. Until the time is over."""
        threads = [threading.Thread(target=self._deploy_again_and_again) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        while time.monotonic() < self._until and not self.faults:
            time.sleep(self._random.uniform(1.0, 4.0))
            self._disturb()
        for thread in threads:
            thread.join()

    def _disturb(self) -> None:
        made = self._made
        name = self._random.choice(["n1", "n2", "n3", "n2", "n3", "bridge"])
        how = self._random.choice([signal.SIGKILL, signal.SIGSTOP])
        self.counts["kills"] += 1
        if name == "bridge":
            for child in children_of(daemon_below(made.daemons["n1"])):
                if b"serving" in Path(f"/proc/{child}/cmdline").read_bytes():
                    kill(child)
            return
        daemon = daemon_below(made.daemons[name])
        kill(daemon, how)
        if how == signal.SIGSTOP:
            time.sleep(self._random.uniform(0.1, 1.5 * made.lease))
            kill(daemon, signal.SIGCONT)
            return
        made.daemons[name].wait(LIMIT_S)
        time.sleep(self._random.uniform(0.0, made.lease))
        made.start(name)

    def _deploy_again_and_again(self) -> None:
        while time.monotonic() < self._until and not self.faults:
            try:
                done = self._made.deploy(PROGRAM, options=("--format", "json"), timeout=120.0)
            except subprocess.TimeoutExpired as error:
                self.faults.append(f"a deployment hangs: {error.stdout!r:.2000}")
                return
            self._judge(done.stdout, done.stderr, done.returncode)

    def _judge(self, out: str, err: str, code: int) -> None:
        events = [json.loads(line) for line in out.splitlines()]
        spawned = [event for event in events if event["event"] == "spawn"]
        if not spawned:
            self.counts["refused"] += 1
            if code not in {1, 3, 4}:
                self.faults.append(f"nothing ran, and the code is {code}: {err}")
            return
        ends = {event["pid"]: event for event in events if event["event"] == "exit"}
        first = spawned[0]["pid"]
        said = "".join(each["data"] for each in events if each["event"] == "output" and each["pid"] == first)
        lines = said.splitlines()
        reports: list[dict[str, Any]] = [json.loads(line) for line in lines if line.startswith("{")]
        numbers = [line for line in lines if not line.startswith("{")]
        end = ends.get(first)
        if "Traceback" in said or "Traceback" in err:
            self.faults.append(f"an exception: {said[-3000:]} {err[-3000:]}")
        for report in reports:
            if "prefix" in report and (not report["prefix"] or (report["code"] == 0 and report["count"] != 200)):
                self.faults.append(f"values lost or twice: {report}")
            if "prefix" in report and report["code"] is None and not (report["cause"] or report["signal"]):
                self.faults.append(f"a death without a reason: {report}")
        if numbers != [str(n) for n in range(len(numbers))]:
            self.faults.append(f"output lost or twice: {numbers}")
        if end is not None and end["code"] == 0:
            self.counts["good"] += 1
            if len(numbers) != 50:
                self.faults.append(f"output lost at a good end: {numbers}")
        else:
            self.counts["lost"] += 1
            if end is not None and not (end["cause"] or end["signal"]):
                self.faults.append(f"a first process without a reason: {end}")


def main() -> int:
    """Blocks. Run, and print what came of it."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 30)
    print(f"soak: {seconds:g} s, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder, nothing_left() as left:
        with cluster(Path(folder), left, 3, lease=2.0, lines=('mem = "1 GiB"',) * 3) as made:
            made.wait_for_nodes()
            soak = Soak(made, seed, time.monotonic() + seconds)
            soak.run()
            print(soak.counts, flush=True)
            for fault in soak.faults:
                print("FAULT", fault)
            if soak.faults:
                for name in made.daemons:
                    print(f"-- {name}", made.log(name)[-6000:], sep="\n")
    return 1 if soak.faults else 0


if __name__ == "__main__":
    sys.exit(main())
