"""The built-in launcher passes the suite that every launcher must pass."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from constellation.core.plugins import make_plugin_manager
from constellation.launchers.local import LocalLauncher
from constellation.plugin import Launcher, LaunchError, NodeCommand
from constellation.testing import LAUNCHER_CHECKS, Check, check_launcher, nothing_left


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the output of nodes out of the user's folders."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "constellation" / "nodes"


@pytest.mark.parametrize("check", LAUNCHER_CHECKS, ids=str)
def test_local_launcher_conforms(check: Check[Launcher], _own_folder: Path) -> None:
    """Each check by its name; and no file of a node is left when it has been stopped."""
    check(LocalLauncher)
    assert not _own_folder.exists() or list(_own_folder.iterdir()) == []


def test_local_launcher_is_a_default() -> None:
    """It is there without a plugin being named."""
    assert make_plugin_manager().launcher("local").name == "local"


def test_a_place_is_refused() -> None:
    """There is none but this computer."""
    with pytest.raises(
        LaunchError, match=r"cannot start node 'n' at 'h1': the launcher 'local' knows this computer only"
    ):
        LocalLauncher().start(NodeCommand("n", ("true",), {}, b""), "h1")


@pytest.mark.parametrize(
    "handle", ["", "7", "{}", '{"pid": 1}', '["a"]', json.dumps({"name": "n", "pid": "1", "start": 1, "output": ""})]
)
def test_a_foreign_handle_is_refused(handle: str) -> None:
    """Nothing is killed by a handle of somebody else."""
    for call in (LocalLauncher().ended, lambda handle: LocalLauncher().stop(handle, 1.0)):
        with pytest.raises(LaunchError, match="is no handle of the launcher 'local'"):
            call(handle)


def test_a_number_that_is_used_again_is_left_alone() -> None:
    """The process of that number is not the node if it began at another time; its session is not swept either."""
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    handle = json.dumps({"name": "n", "pid": other.pid, "start": 1, "output": "/nonexistent"})
    assert LocalLauncher().ended(handle) == "it has ended"
    LocalLauncher().stop(handle, 1.0)
    assert other.poll() is None
    other.communicate(b"\n")
    assert other.returncode == 0


def test_how_it_ended_is_said() -> None:
    """With the code or the signal, where this process is the parent."""
    launcher = LocalLauncher()
    handles = {
        text: launcher.start(NodeCommand("n", ("sh", "-c", f"echo some words; {text}"), {}, b""), "")
        for text in ("exit 7", "kill -KILL $$")
    }
    for handle, how in zip(handles.values(), ("code 7", "SIGKILL"), strict=True):
        os.waitid(os.P_PID, json.loads(handle)["pid"], os.WEXITED | os.WNOWAIT)
        assert launcher.ended(handle) == f"it ended with {how}; it said:\n    some words"
        launcher.stop(handle, 1.0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_right_launcher_passes_a_hundred_runs() -> None:
    """Whatever the chances."""
    with nothing_left():
        for seed in range(100):
            check_launcher(LocalLauncher, seed=seed)
