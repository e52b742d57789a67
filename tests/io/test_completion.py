"""Completion in real shells: bash always, zsh and fish where they are installed; names come from a real bridge."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pexpect
import pytest

from tests.conftest import Leftovers
from tests.io.cluster import Cluster, cluster, free_ports

WORK = """
    import time
    from constellation import init
    init()
    time.sleep(600)
"""

needs = {
    name: pytest.mark.skipif(shutil.which(name) is None, reason=f"needs the shell {name}")
    for name in ("bash", "zsh", "fish")
}


def shell_environment(folder: Path, environment: dict[str, str]) -> dict[str, str]:
    """An environment in which the command ``constellation`` is this copy."""
    binaries = folder / "bin"
    binaries.mkdir(exist_ok=True)
    command = binaries / "constellation"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m constellation "$@"\n')
    command.chmod(0o755)
    return {**environment, "PATH": f"{binaries}{os.pathsep}{environment['PATH']}", "TERM": "dumb", "HOME": str(folder)}


def bash(folder: Path, environment: dict[str, str], *words: str) -> list[str]:
    """What bash is given for the last word, which it has parted at colons as readline does."""
    listed = " ".join(f"'{word}'" for word in ("constellation", *words))
    script = (
        'eval "$(constellation completion bash)"\n'
        f"COMP_WORDS=({listed}); COMP_CWORD={len(words)}\n"
        '_constellation_completion constellation; printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "--noprofile", "-c", script],
        env=shell_environment(folder, environment),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr.replace("compopt: not currently executing completion function", "").count("rror") == 0, done
    return [line for line in done.stdout.splitlines() if line]


def wait_for_deployment(made: Cluster) -> str:
    """The name of the deployment that runs."""
    deadline = time.monotonic() + 30
    while True:
        rows = made.run("ps", made.bridge).stdout.splitlines()[1:]
        if rows and "running" in rows[0]:
            return rows[0].split()[0]
        assert time.monotonic() < deadline, rows
        time.sleep(0.1)


@needs["bash"]
def test_bash_completes_commands_nodes_and_deployments(tmp_path: Path, leftovers: Leftovers) -> None:
    """The address of the bridge stands in three words there, and names come from the bridge."""
    with cluster(tmp_path, leftovers, 2) as made:
        made.wait_for_nodes()
        made.wait_for("n1", "a bridge listens")
        host, port = made.bridge.split(":")
        environment = made.environment
        assert bash(tmp_path, environment, "dep") == ["deploy"]
        assert sorted(bash(tmp_path, environment, "drain", host, ":", port, "n")) == ["n1", "n2"]
        assert bash(tmp_path, environment, "ps", host, ":") == [port]
        made.begin(WORK)
        name = wait_for_deployment(made)
        assert bash(tmp_path, environment, "kill", host, ":", port, name[:3]) == [name]
        assert bash(tmp_path, environment, "logs", host, ":", port, "") == [name]
        assert made.run("kill", made.bridge, name).returncode == 0


@needs["bash"]
def test_a_tab_in_bash_completes_the_line(tmp_path: Path, leftovers: Leftovers) -> None:
    """In an interactive one, as a person meets it; what is offered ends the word."""
    (tmp_path / "nodes.toml").write_text('[[nodes]]\nfabric_addr = "10.1.2.3:50"\nbridge_bind = "10.1.2.3:51"\n')
    child = pexpect.spawn(
        "bash",
        ["--norc", "--noprofile", "-i"],
        env=shell_environment(tmp_path, leftovers.environment),
        cwd=str(tmp_path),
        encoding="utf-8",
        timeout=60,
    )
    try:
        child.sendline(
            'PS1="READY> "; bind "set enable-bracketed-paste off"; eval "$(constellation completion bash)"; echo do"ne"'
        )
        child.expect("done\r\n.*READY> ")
        child.send("constellation drai\t")
        child.expect("drain ")
        child.send("10.1.2.3:\t")
        child.expect("10.1.2.3:51 ")
    finally:
        child.close(force=True)


@needs["zsh"]
def test_a_tab_in_zsh_completes_the_line(tmp_path: Path, leftovers: Leftovers) -> None:
    """A name with a colon in it stays whole."""
    (tmp_path / "nodes.toml").write_text('[[nodes]]\nfabric_addr = "10.1.2.3:50"\nbridge_bind = "10.1.2.3:51"\n')
    child = pexpect.spawn(
        "zsh",
        ["-f", "-i"],
        env=shell_environment(tmp_path, leftovers.environment),
        cwd=str(tmp_path),
        encoding="utf-8",
        timeout=60,
    )
    try:
        child.sendline(
            "unsetopt zle_bracketed_paste; PS1='READY> '; autoload -Uz compinit; compinit -u -D; "
            'eval "$(constellation completion zsh)"; echo do"ne"'
        )
        child.expect("done\r\n")
        child.expect("READY> ")
        child.send("constellation drai\t")
        child.expect("drain ")
        child.send("10.1\t")
        child.expect("10.1.2.3:51")
    finally:
        child.close(force=True)


@needs["fish"]
def test_fish_is_offered_nodes_of_the_bridge(tmp_path: Path, leftovers: Leftovers) -> None:
    """With their state as a description."""
    with cluster(tmp_path, leftovers, 2) as made:
        made.wait_for_nodes()
        made.wait_for("n1", "a bridge listens")
        script = f"constellation completion fish | source; complete -C 'constellation drain {made.bridge} n'"
        done = subprocess.run(
            ["fish", "--no-config", "-c", script],
            env=shell_environment(tmp_path, made.environment),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert sorted(done.stdout.splitlines()) == ["n1\tpresent", "n2\tpresent"], done


@needs["bash"]
def test_a_bridge_that_is_not_there_offers_nothing_and_says_nothing(tmp_path: Path, leftovers: Leftovers) -> None:
    """The line stays as it is, and no credential is made for it; one that is frozen is given up within a moment."""
    environment = Cluster(tmp_path, leftovers, 1).environment
    assert bash(tmp_path, environment, "drain", "127.0.0.1", ":", str(free_ports(1)[0]), "n") == []
    assert bash(tmp_path, environment, "drain", "nonsense", "n") == []
    assert not (tmp_path / "config").exists()


def test_what_was_asked_about_and_is_not_there_is_wrong_use(tmp_path: Path, leftovers: Leftovers) -> None:
    """2, as the help says; 3 is for a bridge."""
    with cluster(tmp_path, leftovers, 1) as made:
        made.wait_for_nodes()
        made.wait_for("n1", "a bridge listens")
        done = made.run("drain", made.bridge, "nobody")
        assert (done.returncode, done.stdout) == (2, ""), done
        assert "no node is called 'nobody': there are n1" in done.stderr
        assert made.run("kill", made.bridge, "abcd").returncode == 2
        found = json.loads(made.run("doctor", "--json", made.bridge).stdout)
        assert all(each["state"] != "wrong" for each in found)
