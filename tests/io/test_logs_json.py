"""With --log-format json every line of every daemon is one object: in a fabric in which much goes wrong."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Leftovers
from tests.io.cluster import COMMAND, LIMIT_S, Cluster, children_of, daemon_below, kill

NOISY = """
import sys, warnings
from constellation.plugin import hookimpl

@hookimpl
def node_joined(node):
    print("a plugin's words", file=sys.stderr)
    warnings.warn("a plugin's warning")
    raise RuntimeError("a plugin's error")
"""


def _lines(made: Cluster, name: str) -> list[dict[str, Any]]:
    found = []
    for line in made.log(name).splitlines():
        read = json.loads(line)  # every single one
        assert isinstance(read, dict), line
        assert {"time", "level", "role", "node", "message"} <= set(read), line
        assert set(read) <= {"time", "level", "role", "node", "message", "deployment", "peer", "traceback"}, line
        assert read["level"] in {"info", "warning", "error"}
        assert isinstance(read["time"], float)
        found.append(read)
    return found


def test_every_line_of_a_lively_fabric_is_an_object(tmp_path: Path, leftovers: Leftovers) -> None:
    """Strangers, programs that fail, a bridge, a daemon and a keeper's daemon that are killed, a node that drains."""
    made = Cluster(tmp_path, leftovers, 3, lease=2.0)
    try:
        for name in ("n1", "n2", "n3"):
            made.start(name, "--log-format", "json")
        made.wait_for_nodes()
        made.wait_for("n1", "a bridge listens on")
        for address in (made.addresses[1], made.bridge):
            with socket.create_connection(tuple_of(address)) as stranger:
                stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
                with contextlib.suppress(ConnectionError):
                    assert stranger.recv(1) == b""
        assert made.run("nodes", made.addresses[1]).returncode == 3  # a node's port is no bridge's
        assert made.deploy("no program").returncode == 4
        assert made.deploy("from constellation import init\ninit()\nprint(1)").returncode == 0
        client = made.begin(
            "from constellation import init\ninit()\nprint(1, flush=True)\nimport time; time.sleep(600)"
        )
        assert client.stdout is not None
        client.stdout.readline()
        (bridge,) = [each for each in children_of(daemon_below(made.daemons["n1"])) if _is_bridge(each)]
        kill(bridge)
        made.wait_for("n1", "the bridge has ended")
        kill(daemon_below(made.daemons["n3"]))
        assert made.daemons["n3"].wait(LIMIT_S) == 1
        client.kill()
        client.communicate()
        made.daemons["n2"].terminate()
        assert made.daemons["n2"].wait(LIMIT_S) == 0
        made.wait_for("n1", "'n2' is lost")
        made.wait_for("n1", "'n3' is lost")
    finally:
        made.stop()
    lines = {name: _lines(made, name) for name in ("n1", "n2", "n3")}
    assert {line["role"] for line in lines["n1"]} == {"master", "bridge"}
    assert {line["role"] for line in lines["n3"]} == {"node", "keeper"}
    assert lines["n3"][-1]["message"].startswith("the fabric was killed by SIGKILL")
    assert lines["n3"][-1]["level"] == "error"
    assert {line["node"] for line in lines["n2"]} == {made.addresses[1], "n2"}
    refused = [line for line in lines["n2"] if "does not speak our protocol" in line["message"]]
    assert refused[0]["peer"].startswith("127.0.0.1:")
    assert refused[0]["level"] == "warning"
    assert [line for line in lines["n1"] if line["role"] == "bridge" and "does not speak our" in line["message"]]
    assert all(len(line["deployment"]) == 32 for line in lines["n1"] if "deployment" in line)
    assert [line for line in lines["n1"] if "deployment" in line]


def test_what_a_plugin_says_in_a_daemon_is_an_object_too(tmp_path: Path, leftovers: Leftovers) -> None:
    """Words, a warning, the traceback of a hook that raises."""
    (tmp_path / "noisy").mkdir()
    (tmp_path / "noisy" / "__init__.py").touch()
    (tmp_path / "noisy" / "news.py").write_text(NOISY)
    made = Cluster(tmp_path, leftovers, 1)
    made.environment["PYTHONPATH"] = ":".join([str(tmp_path), made.environment.get("PYTHONPATH", "")]).strip(":")
    try:
        made.start("n1", "--log-format", "json", "--plugin", "noisy.news")
        made.wait_for("n1", "a plugin's error")
        made.wait_for("n1", "a bridge listens on")
    finally:
        made.stop()
    messages = " ".join(line["message"] for line in _lines(made, "n1"))
    for words in ("a plugin's words", "a plugin's warning", "a plugin's error"):
        assert words in messages


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("node", "192.0.2.1:5000"), 2, "no credential"),
        (("node", "nonsense"), 2, "the port is missing"),
        (("master", "127.0.0.1:5000", "/no/such.toml"), 2, "cannot read /no/such.toml"),
        (("node", "127.0.0.1:0", "--credential", "/no/such.pem"), 2, "/no/such.pem"),
    ],
)
def test_a_refusal_is_an_object_too(
    tmp_path: Path, leftovers: Leftovers, words: tuple[str, ...], code: int, text: str
) -> None:
    """Whether the command or the daemon refuses."""
    made = Cluster(tmp_path, leftovers, 1)
    done = subprocess.run(
        [*COMMAND, *words, "--log-format", "json"],
        env=made.environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == code, done
    assert done.stdout == ""
    read = [json.loads(line) for line in done.stderr.splitlines()]
    assert text in read[-1]["message"]
    assert read[-1]["level"] == "error"
    assert read[-1]["role"] == words[0]


def test_an_error_of_ours_is_one_object(tmp_path: Path, leftovers: Leftovers) -> None:
    """A daemon that breaks says so with the traceback, and ends with 1."""
    made = Cluster(tmp_path, leftovers)
    (tmp_path / "broken").write_text("a file where a folder should be")
    done = made.run("node", "127.0.0.1:0", "--state", str(tmp_path / "broken"), "--log-format", "json")
    assert done.returncode == 1
    last = [json.loads(line) for line in done.stderr.splitlines()][-1]
    assert (last["level"], last["role"]) == ("error", "node")
    assert last["message"].startswith(("NotADirectoryError", "FileExistsError"))
    assert "Traceback" in last["traceback"]


def tuple_of(address: str) -> tuple[str, int]:
    """Host and port."""
    host, _, port = address.rpartition(":")
    return host, int(port)


def _is_bridge(os_pid: int) -> bool:
    return b"bridge" in Path(f"/proc/{os_pid}/cmdline").read_bytes().split(b"\0")
