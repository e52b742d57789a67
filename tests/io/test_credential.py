"""Credentials: files that are made, found and refused, and the certificates made of them."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from constellation.core.errors import HandshakeError, UsageError
from constellation.core.pid import Pid
from constellation.core.preamble import Preamble, Purpose, pack, unpack
from constellation.core.role import Role
from constellation.fabric import credential as credentials
from constellation.fabric.credential import keygen, load_deployer, load_node, make_context
from constellation.process.secure import LinkContexts
from tests.conftest import Leftovers, RunProgram
from tests.io.security import make_node, make_old_authority


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder of the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "constellation"


def test_keygen_writes_two_files_for_the_user_alone(home: Path) -> None:
    """The folder is made, the files can be read by nobody else, and their paths are given."""
    assert keygen() == [str(home / "node.pem"), str(home / "deployer.pem")]
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert [stat.S_IMODE(each.stat().st_mode) for each in sorted(home.iterdir())] == [0o600, 0o600]


def test_keygen_never_overwrites(home: Path) -> None:
    """Neither of the files, nor one for somebody else."""
    keygen()
    keygen(owner="alice")
    before = {each.name: each.read_text() for each in home.iterdir()}
    for owner in (None, "alice"):
        with pytest.raises(UsageError, match="is not overwritten"):
            keygen(owner=owner)
    assert {each.name: each.read_text() for each in home.iterdir()} == before


def test_a_second_owner_joins_the_fabric_that_is_there(home: Path) -> None:
    """One authority, two owners, each with a key of their own."""
    keygen()
    assert keygen(owner="alice") == [str(home / "deployer-alice.pem")]
    mine, hers = (
        load_deployer(None, is_loopback=False),
        load_deployer(str(home / "deployer-alice.pem"), is_loopback=False),
    )
    assert (mine.owner, hers.owner) == (credentials.current_user(), "alice")
    assert mine.authority_pem == hers.authority_pem == load_node(None, is_loopback=False).authority_pem
    assert mine.identity.key_pem != hers.identity.key_pem


@pytest.mark.parametrize("owner", ["", "../x", "a/b", "a b", "x" * 129])
def test_a_name_that_is_none_is_refused(owner: str) -> None:
    """It becomes part of a file's name and of a certificate; an empty one is the user's own."""
    if owner:
        with pytest.raises(UsageError, match="expected 1 to 128 letters"):
            keygen(owner=owner)
    else:
        keygen(owner=owner)
        assert load_deployer(None, is_loopback=False).owner == credentials.current_user()


def test_no_second_fabric_is_begun_beside_a_credential_of_another(home: Path) -> None:
    """A deployer's file without the node's belongs to a fabric elsewhere."""
    keygen()
    (home / "node.pem").unlink()
    with pytest.raises(UsageError, match=r"copy its node\.pem here"):
        load_node(None, is_loopback=True)


def test_a_deployer_cannot_speak_as_anything_else() -> None:
    """Its file has neither the authority's key, nor the routing key, nor another preamble key than that of the bridge."""
    keygen()
    node, deployer = load_node(None, is_loopback=False), load_deployer(None, is_loopback=False)
    node_text, text = Path(node.path).read_text(), Path(deployer.path).read_text()
    secrets = [block for block in node_text.split("-----") if len(block.strip()) > 40 and "KEY" not in block]
    authority_certificate, authority_key, routing_key = (block.strip() for block in secrets[-3:])
    assert authority_certificate in text
    assert authority_key not in text
    assert routing_key not in text
    for purpose in Purpose:
        packet = pack(Preamble(purpose, b"n" * 16, 1.0), deployer.preamble_keys[Purpose.DEPLOY])
        if purpose is Purpose.DEPLOY:
            assert unpack(packet, node.preamble_keys).purpose is purpose
        else:
            with pytest.raises(HandshakeError):
                unpack(packet, node.preamble_keys)


def test_on_loopback_a_credential_is_made(home: Path) -> None:
    """By whoever comes first, the daemon or its client; the other finds it."""
    deployer = load_deployer(None, is_loopback=True)
    assert deployer.authority_pem == load_node(None, is_loopback=True).authority_pem
    (home / "deployer.pem").unlink()
    assert load_deployer(None, is_loopback=True).authority_pem == deployer.authority_pem


def test_daemons_that_start_in_the_same_instant_agree(home: Path, leftovers: Leftovers) -> None:
    """One makes the credential, the others wait and read it."""
    program = (
        "import sys; from constellation.fabric.credential import *; sys.stdin.read()\n"
        "which = load_node(None, is_loopback=True) if len(sys.argv) > 1 else load_deployer(None, is_loopback=True)\n"
        "print(which.authority_pem)"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, *["node"] * (number % 2)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**leftovers.environment, "XDG_CONFIG_HOME": str(home.parent)},
        )
        for number in range(6)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
    said = set()
    for process in started:
        assert process.stdout is not None
        said.add(process.stdout.read())
        process.stdout.close()
        assert process.wait() == 0
    assert len(said) == 1
    assert "BEGIN CERTIFICATE" in said.pop()
    assert sorted(os.listdir(home)) == ["deployer.pem", "node.pem"]


def test_beyond_loopback_nothing_is_made(home: Path) -> None:
    """The refusal has the two commands that mend it."""
    with pytest.raises(UsageError, match=r"constellation keygen; then copy .*scp .*node\.pem HOST:"):
        load_node(None, is_loopback=False)
    with pytest.raises(UsageError, match=r"constellation keygen --owner .*scp HOST:.*deployer\.pem"):
        load_deployer(None, is_loopback=False)
    with pytest.raises(UsageError, match="No such file"):
        load_node(str(home / "named.pem"), is_loopback=True)
    assert not home.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_file_that_others_could_read_is_refused(home: Path, mode: int) -> None:
    """With its mode and the command that mends it."""
    keygen()
    for name, load in (("node.pem", load_node), ("deployer.pem", load_deployer)):
        (home / name).chmod(mode)
        with pytest.raises(UsageError, match=f"has mode {mode:04o}.*chmod 600 {home / name}"):
            load(None, is_loopback=True)


@pytest.mark.root
def test_a_file_of_somebody_else_is_refused(home: Path) -> None:
    """Whoever owns it could change it. Needs root, to give a file away."""
    keygen()
    os.chown(home / "node.pem", 65534, 65534)
    with pytest.raises(UsageError, match=f"belongs to uid 65534.*chown {os.geteuid()}"):
        load_node(None, is_loopback=True)


@pytest.mark.parametrize("kind", ["node", "deployer"])
def test_a_file_that_is_not_as_it_was_is_refused(home: Path, kind: str) -> None:
    """Cut short at any place, with a part changed, or something else altogether."""
    keygen()
    path = home / f"{kind}.pem"
    text = path.read_text()
    load = load_node if kind == "node" else load_deployer
    wrong = [text[:at] for at in range(0, len(text) - 1, 97)]
    wrong += [text.replace("A", "B"), "hello", "\N{SNOWMAN}", "x" * 100_000, text + text]
    wrong += [text.replace("CONSTELLATION", "OTHER"), text.replace("-----END CERTIFICATE-----\n", "")]
    for each in wrong:
        path.write_text(each)
        with pytest.raises(UsageError, match=str(path)):
            load(None, is_loopback=True)


def test_one_kind_in_the_place_of_the_other_is_named(home: Path) -> None:
    """The commonest slip."""
    keygen()
    with pytest.raises(UsageError, match="is a deployer credential: expected a node credential"):
        load_node(str(home / "deployer.pem"), is_loopback=True)
    with pytest.raises(UsageError, match="is a node credential: expected a deployer credential"):
        load_deployer(str(home / "node.pem"), is_loopback=True)


def test_an_expired_authority_is_refused(home: Path) -> None:
    """It says when, and what to make."""
    keygen()
    path = home / "node.pem"
    rest = path.read_text()[path.read_text().index("-----BEGIN CONSTELLATION ROUTING KEY") :]
    path.write_text("".join(make_old_authority(3651)) + rest)
    with pytest.raises(HandshakeError, match=f"{path} has expired on .*constellation keygen"):
        load_node(None, is_loopback=True)


def test_an_expired_deployer_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it dials, by what its file says."""
    keygen()
    later = credentials._now() + dt.timedelta(days=credentials.DEPLOYER_DAYS + 1)
    monkeypatch.setattr(credentials, "_now", lambda: later)
    with pytest.raises(HandshakeError, match=f"{home / 'deployer.pem'} has expired on .*constellation keygen --owner"):
        load_deployer(None, is_loopback=True)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """With where another place is named."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="XDG_CONFIG_HOME"):
        keygen(str(tmp_path / "file"))


def test_a_daemon_renews_its_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One context for all connections, another one before the certificate expires."""
    node = make_node(tmp_path)
    role = Role("node", "a")
    first = node.context(role, server=True)
    assert node.context(role, server=True) is first
    assert node.context(role, server=False) is not first
    later = credentials._now() + dt.timedelta(hours=13)
    monkeypatch.setattr(credentials, "_now", lambda: later)
    assert node.context(role, server=True) is not first


def test_nothing_of_a_key_is_left_on_the_disk(tmp_path: Path, leftovers: Leftovers, run_program: RunProgram) -> None:
    """A daemon's key is in memory only: no file but the two of keygen, whatever is made of them."""
    node = make_node(tmp_path / "made")
    node.context(Role("node", "a"), server=True)
    node.deployment_identity(b"d" * 16)
    assert sorted(os.listdir(tmp_path / "made")) == ["deployer.pem", "node.pem"]


def test_a_credential_comes_on_standard_input_too(tmp_path: Path, run_program: RunProgram) -> None:
    """For a node that is started on somebody else's engine: the secret stands in no file and no command line."""
    node = make_node(tmp_path / "made")
    program = """
        import hashlib
        from constellation.fabric.credential import load_node
        print(hashlib.sha256(load_node("-", is_loopback=False).authority_pem.encode()).hexdigest())
    """
    done = run_program(tmp_path, program, input=Path(node.path).read_text())
    assert done.stdout.strip() == hashlib.sha256(node.authority_pem.encode()).hexdigest(), done.stderr
    assert "cannot be read" in run_program(tmp_path, program, input="hello").stderr


def test_contexts_of_links_are_as_strict_as_those_of_daemons(tmp_path: Path) -> None:
    """Two modules make them, since a process has nothing of the fabric."""
    node = make_node(tmp_path)
    identity = node.deployment_identity(b"d" * 16)
    for server in (True, False):
        ours = make_context(identity, server=server)
        links = LinkContexts(identity, b"d" * 16).of_link(
            server=server, target=Pid(1, 1, b"a" * 16), source=Pid(1, 2, b"b" * 16), number=1
        )
        for name in (
            "protocol",
            "minimum_version",
            "maximum_version",
            "verify_mode",
            "verify_flags",
            "check_hostname",
            "options",
            "num_tickets",
        ):
            assert getattr(ours, name) == getattr(links, name), name
        assert ours.cert_store_stats() == links.cert_store_stats() == {"x509": 1, "crl": 0, "x509_ca": 1}


def test_a_user_process_needs_nothing_of_the_fabric(tmp_path: Path, run_program: RunProgram) -> None:
    """What makes certificates is not loaded there: it costs 60 ms."""
    done = run_program(
        tmp_path,
        """
        import sys
        import constellation.process.secure, constellation.transports.tls
        assert not [name for name in sys.modules if name.startswith(("cryptography", "constellation.fabric"))]
        """,
    )
    assert done.returncode == 0, done.stderr
