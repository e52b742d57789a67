"""`constellation doctor`: on this computer, on a fabric with planted faults, and on the addresses of a file."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from constellation.core.role import DEPLOYER, Role
from constellation.fabric import credential
from constellation.fabric.authority import Authority
from constellation.fabric.credential import NodeCredential
from tests.conftest import Leftovers
from tests.io.cluster import COMMAND, Cluster, cluster, daemon_below, free_ports, kill


def examine(made: Cluster, *words: str, code: int) -> list[dict[str, Any]]:
    """Run the doctor; what is not well, which must fit the exit code."""
    done = made.run("doctor", "--json", *words, timeout=60)
    assert done.returncode == code, done
    found = json.loads(done.stdout)
    assert any(each["state"] == "wrong" for each in found) == (code == 1), found
    return [each for each in found if each["state"] == "wrong"]


def plant(made: Cluster, source: str) -> None:
    """Have the daemons that are started from now on run something first."""
    folder = made.folder / "planted"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(source)
    path = made.environment.get("PYTHONPATH")
    made.environment = {**made.environment, "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), path]))}


def test_a_fabric_that_is_well(tmp_path: Path, leftovers: Leftovers) -> None:
    """Exit code 0; each node is reached by each other one; the bridge and the nodes of the file answer from here too."""
    with cluster(tmp_path, leftovers, 3) as made:
        made.wait_for_nodes()
        done = made.run("doctor", "--json", made.bridge)
        assert done.returncode == 0, done
        found = json.loads(done.stdout)
        ports = [each["value"] for each in found if each["what"].startswith("port ")]
        assert len(ports) == 3
        assert all(value.startswith("2 of 2 other nodes reached it") for value in ports)
        assert {each["where"] for each in found if each["what"] == "Python"} == {"n1", "n2", "n3"}
        done = made.run("doctor", "--all", str(made.file))
        assert done.returncode == 0, done
        assert done.stdout.count("answered in") == 4
        assert "0 wrong" in made.run("doctor", made.bridge).stdout
        assert "closed the connection" not in made.log("n2")


def test_clock_and_version_of_a_node_that_are_off_are_found(tmp_path: Path, leftovers: Leftovers) -> None:
    """Both are told with the value, what was expected, and the command for that node."""
    made = Cluster(tmp_path, leftovers, 2)
    try:
        made.start("n1")
        plant(
            made,
            "import time\n_real = time.time\ntime.time = lambda: _real() - 120.0\n"
            "import constellation\nconstellation.__version__ = '0.0.9'\n",
        )
        made.start("n2")
        made.wait_for_nodes()
        (clock,) = examine(made, made.bridge, code=1)
        assert (clock["where"], clock["what"]) == ("n2", "clock")
        assert clock["value"].startswith("1")
        assert "s behind the master's" in clock["value"]
        assert clock["mend"].startswith("on n2: timedatectl")
        done = made.run("doctor", made.bridge)
        assert "on n2: pip install constellation==" in done.stdout
    finally:
        made.stop()


def test_a_node_that_is_stopped_is_named_and_keeps_nobody_waiting(tmp_path: Path, leftovers: Leftovers) -> None:
    """The master had no answer from it, nor had the other node; from here it shows at the same step."""
    with cluster(tmp_path, leftovers, 3, lease=30.0) as made:
        made.wait_for_nodes()
        stopped = daemon_below(made.daemons["n2"])
        kill(stopped, signal.SIGSTOP)
        found = examine(made, made.bridge, code=1)
        assert {each["where"] for each in found} == {"n2", "n1 -> n2", "n3 -> n2"}
        assert all("stopped" in each["mend"] for each in found)
        (knock,) = examine(made, str(made.file), code=1)
        assert knock["where"] == "here -> n2"
        kill(stopped, signal.SIGCONT)
        assert examine(made, made.bridge, code=0) == []


def test_a_master_that_is_stopped_is_an_unreachable_fabric(tmp_path: Path, leftovers: Leftovers) -> None:
    """The bridge is there and gets no answer: that is said, with exit code 3."""
    with cluster(tmp_path, leftovers, 1) as made:
        made.wait_for_nodes()
        made.wait_for("n1", "a bridge listens")
        stopped = daemon_below(made.daemons["n1"])
        kill(stopped, signal.SIGSTOP)
        done = made.run("doctor", made.bridge, timeout=60)
        kill(stopped, signal.SIGCONT)
        assert done.returncode == 3, done
        assert "is the master stopped?" in done.stderr


def test_a_node_of_the_file_that_is_not_there_is_named_by_both_ways(tmp_path: Path, leftovers: Leftovers) -> None:
    """By the fabric, which waits for it, and by the file."""
    made = Cluster(tmp_path, leftovers, 2)
    try:
        made.start("n1")
        made.wait_for("n1", "a bridge listens")
        (missing,) = examine(made, made.bridge, code=1)
        assert missing["where"] == "n2"
        assert missing["value"] == "it has not joined: connection refused: nothing listens there"
        assert f"constellation node {made.addresses[1]}" in missing["mend"]
        (knock,) = examine(made, str(made.file), code=1)
        assert (knock["where"], knock["what"]) == ("here -> n2", f"port of {made.addresses[1]}")
    finally:
        made.stop()


def test_each_step_to_an_address_of_a_file_that_fails_is_told(tmp_path: Path, leftovers: Leftovers) -> None:
    """A name that nobody knows, a port where nobody listens, a stranger, a daemon of another fabric, and one of another kind."""
    with cluster(tmp_path, leftovers, 1) as made, socket.create_server(("127.0.0.1", 0)) as stranger:
        made.wait_for("n1", "a bridge listens")
        nobody = free_ports(1)[0]
        silent = stranger.getsockname()[1]
        file = tmp_path / "other.toml"
        addresses = ["no-such-host.invalid:5000", f"127.0.0.1:{nobody}", f"127.0.0.1:{silent}", made.bridge]
        file.write_text("\n".join(f'[[nodes]]\nfabric_addr = "{address}"' for address in addresses))
        found = examine(made, str(file), code=1)
        steps = {each["what"].partition(" of ")[2]: each["what"].partition(" of ")[0] for each in found}
        assert steps == {addresses[0]: "name", addresses[1]: "port", addresses[2]: "answer", addresses[3]: "TLS"}
        foreign = tmp_path / "foreign"
        subprocess.run([*COMMAND, "keygen", str(foreign)], env=made.environment, check=True, capture_output=True)
        files = ("--node-credential", str(foreign / "node.pem"), "--credential", str(foreign / "deployer.pem"))
        found = examine(made, *files, str(made.file), code=1)
        assert {each["what"].partition(" of ")[0] for each in found} == {"TLS"}
        assert all("node.pem" in each["mend"] for each in found)


def test_credentials_that_cannot_be_used_are_found(tmp_path: Path, leftovers: Leftovers) -> None:
    """A mode that lets others read, one that has expired; with a bridge it is refused as elsewhere."""
    made = Cluster(tmp_path, leftovers, 1)
    folder = tmp_path / "config" / "constellation"
    subprocess.run([*COMMAND, "keygen", str(folder)], env=made.environment, check=True, capture_output=True)
    assert examine(made, code=0) == []
    (folder / "node.pem").chmod(0o644)
    (loose,) = examine(made, code=1)
    assert (loose["what"], loose["mend"]) == ("node credential", f"chmod 600 {folder}/node.pem")
    (folder / "node.pem").chmod(0o600)
    _expire(folder)
    (expired,) = examine(made, code=1)
    assert expired["what"] == "deployer credential"
    assert "has expired on" in expired["value"]
    assert expired["mend"].startswith("constellation keygen --owner ann")
    done = made.run("doctor", made.bridge)
    assert done.returncode == 3, done
    assert "has expired" in done.stderr


def _expire(folder: Path) -> None:
    """Put a deployer credential there that was valid until yesterday."""
    node = NodeCredential.read(str(folder / "node.pem"))
    text = (folder / "node.pem").read_text()
    blocks = credential._blocks("", text, "node", ("CERTIFICATE", "PRIVATE KEY", credential._ROUTING_KEY))
    authority = Authority.from_pem(blocks["CERTIFICATE"], blocks["PRIVATE KEY"])
    now = dt.datetime.now(dt.UTC)
    leaf = authority.sign(Role(DEPLOYER, "ann"), now - dt.timedelta(days=9), now - dt.timedelta(days=1))
    said = f"owner: ann\nexpires: {leaf.expires.isoformat(timespec='seconds')}\n"
    made = node.deployer_text("ann", 1)
    key = made[made.index(f"-----BEGIN {credential._DEPLOY_KEY}") :]
    (folder / "deployer.pem").write_text(said + "".join(leaf.identity) + key)


def test_a_port_that_is_taken_is_found(tmp_path: Path, leftovers: Leftovers) -> None:
    """`--listen` says what a daemon would say."""
    made = Cluster(tmp_path, leftovers, 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        (found,) = examine(made, "--listen", address, code=1)
        assert found["what"] == f"port {address}"
        assert "another program listens there" in found["value"]
    assert examine(made, "--listen", address, code=0) == []


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("no-such.toml",), 2, "no-such.toml"),
        (("127.0.0.1",), 2, "the port is missing"),
        (("--listen", "here", "x"), 2, "cannot read the address"),
    ],
)
def test_wrong_use_is_refused(
    tmp_path: Path, leftovers: Leftovers, words: tuple[str, ...], code: int, text: str
) -> None:
    """As elsewhere: words and 2."""
    done = Cluster(tmp_path, leftovers, 1).run("doctor", *words)
    assert done.returncode == code, done
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bridge_that_is_not_there_is_unreachable(tmp_path: Path, leftovers: Leftovers) -> None:
    """Exit code 3, with the step that failed."""
    done = Cluster(tmp_path, leftovers, 1).run("doctor", f"127.0.0.1:{free_ports(1)[0]}", timeout=60)
    assert done.returncode == 3, done
    assert "connection refused" in done.stderr


def test_a_package_that_is_too_old_is_found(tmp_path: Path, leftovers: Leftovers) -> None:
    """By the metadata of what is installed; the command that mends it names this Python."""
    made = Cluster(tmp_path, leftovers, 1)
    plant(
        made,
        "import constellation.fabric.requirements as r\nfind = r._find_here\n"
        "r._find_here = lambda name: r.Installed('0.1', (), '') if name == 'msgpack' else find(name)\n",
    )
    found, *_ = examine(made, code=1)  # plugins that are installed may ask for it too
    assert (found["what"], found["value"]) == ("package", "0.1")
    assert found["mend"].startswith(f"{sys.executable} -m pip install 'msgpack")
