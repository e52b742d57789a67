"""Deployments of different people on a node that was started as root. Needs root, and says so where it is skipped."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Leftovers, Result, nothing_left
from tests.io.cluster import COMMAND, Cluster, daemon_below
from tests.io.test_environments import has_pip, wheel

ALICE, BOB = "games", "daemon"
"""Unix users that every computer has."""


def why_not() -> str:
    """Why these tests cannot run here; empty: they can."""
    if os.geteuid() != 0:
        return "needs root, to run programs as two users"
    if shutil.which("unshare") is None and _is_hidden(sys.executable):
        return "needs `unshare`: no user but root can run this Python where it is"
    for name in (ALICE, BOB):
        try:
            pwd.getpwnam(name)
        except KeyError:
            return f"needs a user {name!r}"
    return ""


def _is_hidden(path: str) -> Path | None:
    """The uppermost folder above a path which other users may not enter."""
    folders = [*reversed(Path(os.path.realpath(path)).parents)]
    return next((each for each in folders if not each.stat().st_mode & 0o001), None)


pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(why_not()), reason=why_not() or "can be run")]


def with_python_for_all(folder: Path) -> list[str]:
    """What stands before a command so that all users can run this Python: its installation alone shows in a hidden folder."""
    hidden = _is_hidden(sys.executable)
    if hidden is None:
        return []
    base, aside, top = (shlex.quote(each) for each in (sys.base_prefix, str(folder / "python"), str(hidden)))
    script = (
        f"mkdir -p {aside} && mount --bind {base} {aside} && mount -t tmpfs -o mode=755 none {top} && "
        f'mkdir -p {base} && mount --bind {aside} {base} && exec "$@"'
    )
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


class UserCluster(Cluster):
    """One node, started as root, with two owners who have credentials of their own and are mapped to two users."""

    def __init__(self, folder: Path, leftovers: Leftovers) -> None:
        super().__init__(folder, leftovers, 1)
        self.environment["UNTOLD"] = "of root's environment"
        wheels = folder / "wheels"
        wheels.mkdir()
        wheel(wheels, "granite", "1.0")
        self.environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
        self.users = folder / "users.toml"
        self.users.write_text(f'[users]\nalice = "{ALICE}"\nbob = "{BOB}"\n')
        self.credentials = folder / "credentials"
        for owner in ((), ("--owner", "alice"), ("--owner", "bob"), ("--owner", "carol")):
            command = [*COMMAND, "keygen", str(self.credentials), *owner]
            subprocess.run(command, env=self.environment, check=True, capture_output=True)

    def command_on(self, name: str) -> list[str]:
        """What starts a daemon."""
        return [*with_python_for_all(self.folder), *COMMAND]

    def start(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        """Start the daemon."""
        credential = str(self.credentials / "node.pem")
        return super().start(name, "--credential", credential, "--users", str(self.users), *options)

    @contextlib.contextmanager
    def by(self, owner: str) -> Iterator[None]:
        """Deploy as an owner."""
        self.credential = ("--credential", str(self.credentials / f"deployer-{owner}.pem"))
        yield

    def deploy_by(self, owner: str, source: str, *args: str) -> Result:
        """Deploy a program, with its files, and wait for its end."""
        path = self._program_of(owner, source)
        with self.by(owner):
            return self.run("deploy", *self._marked(), self.bridge, path.name, *args, cwd=path.parent)

    def begin_by(self, owner: str, source: str) -> subprocess.Popen[str]:
        """Deploy a program, with its files, and go on."""
        path = self._program_of(owner, source)
        with self.by(owner):
            client = subprocess.Popen(
                [*self.command, "deploy", *self.credential, *self._marked(), self.bridge, path.name],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=path.parent,
            )
        self.clients.append(client)
        return client

    def _program_of(self, owner: str, source: str) -> Path:
        path = self.program(source)
        folder = self.folder / owner
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder)
        (folder / "own.txt").write_text(f"only for {owner}")
        return folder / path.name

    def _marked(self) -> tuple[str, ...]:
        return ("--format", "raw", "--env", f"CONSTELLATION_TEST_MARK={self.mark}")


@contextlib.contextmanager
def user_cluster(leftovers: Leftovers, kind: type[UserCluster] = UserCluster) -> Iterator[UserCluster]:
    """A running node of root with two owners."""
    with tempfile.TemporaryDirectory(prefix="cstl-users-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # pytest's own folders let nobody else in
        made = kind(folder, leftovers)
        try:
            made.start_all()
            made.wait_for_nodes()
            yield made
        finally:
            made.stop()


@pytest.fixture(scope="module")
def shared() -> Iterator[UserCluster]:
    """A fabric for the whole module."""
    with nothing_left() as left, user_cluster(left) as made:
        yield made


WHO = """
    import json, os, resource
    from constellation import Receiver, Sender, init, parent, spawn

    def who():
        mask = os.umask(0)
        os.umask(mask)
        names = ("HOME", "USER", "LOGNAME", "UNTOLD")
        return {
            "uids": os.getresuid(), "gids": os.getresgid(), "groups": sorted(os.getgroups()), "umask": mask,
            "environment": [os.environ.get(name) for name in names], "cwd_owner": os.stat(".").st_uid,
            "cwd_mode": os.stat(".").st_mode & 0o777, "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
            "rtprio": resource.getrlimit(resource.RLIMIT_RTPRIO), "own": open("own.txt").read(),
            "capabilities": [line.split()[1] for line in open("/proc/self/status") if line[:6] in ("CapEff", "CapPrm")],
        }

    def child():
        Sender(parent()).send(who()).block()

    init()
    pid = spawn(child).block()
    print(json.dumps([who(), Receiver(pid).recv().block()]))
"""


@pytest.mark.parametrize(("owner", "user"), [("alice", ALICE), ("bob", BOB)])
def test_all_processes_are_the_mapped_user_with_its_groups_and_environment(
    shared: UserCluster, owner: str, user: str
) -> None:
    """The first process and its children, with files of their own; nothing of root's environment comes along."""
    done = shared.deploy_by(owner, WHO)
    assert done.returncode == 0, done
    account = pwd.getpwnam(user)
    for found in json.loads(done.stdout):
        assert found == {
            "uids": [account.pw_uid] * 3,
            "gids": [account.pw_gid] * 3,
            "groups": sorted({account.pw_gid, *os.getgrouplist(user, account.pw_gid)}),
            "umask": 0o077,
            "environment": [account.pw_dir, user, user, None],
            "cwd_owner": account.pw_uid,
            "cwd_mode": 0o700,
            "core": 0,
            "rtprio": [0, 0],
            "own": f"only for {owner}",
            "capabilities": ["0" * 16] * 2,
        }


VICTIM = """
    import json, os, sys
    from constellation import init, pid
    init()
    print(json.dumps([os.getpid(), os.getcwd(), pid().to_bytes().hex(), os.getppid()]), flush=True)
    sys.stdin.read()
"""

ATTACK = """
    import ctypes, json, os, signal, sys
    from constellation import ChannelError, Pid, Receiver, Sender, init

    PTRACE_ATTACH = 16

    def trace(os_pid):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.ptrace(PTRACE_ATTACH, os_pid, None, None) < 0:
            raise OSError(ctypes.get_errno(), "ptrace")

    def dial(kind):
        end = kind(Pid.from_bytes(bytes.fromhex(victim["pid"])))
        if kind is Receiver:
            end.recv().block(20)
        for _ in range(1000):  # the first ones wait for a link to be made
            end.send(bytes(100_000)).block(20)

    def tried(name, attempt):
        try:
            attempt()
        except (OSError, ChannelError) as error:
            outcomes[name] = type(error).__name__
        else:
            outcomes[name] = "done"

    init()
    victim = json.loads(sys.argv[1])
    outcomes = {}
    for name, os_pid in victim["os_pids"].items():
        tried(f"signal {name}", lambda: os.kill(os_pid, signal.SIGTERM))
        tried(f"trace {name}", lambda: trace(os_pid))
        tried(f"environ {name}", lambda: open(f"/proc/{os_pid}/environ").read())
        tried(f"memory {name}", lambda: open(f"/proc/{os_pid}/mem", "rb").read(1))
        tried(f"fd {name}", lambda: os.listdir(f"/proc/{os_pid}/fd"))
        tried(f"cwd {name}", lambda: os.stat(f"/proc/{os_pid}/cwd/own.txt"))
    for path in victim["files"]:
        tried(path, lambda: open(path).read())
    for path in victim["folders"]:
        tried(path, lambda: os.listdir(path))
    tried("send", lambda: dial(Sender))
    tried("receive", lambda: dial(Receiver))
    print(json.dumps(outcomes))
"""


def test_what_one_user_runs_cannot_read_signal_trace_or_dial_what_another_runs(shared: UserCluster) -> None:
    """Nor the monitor processes, the node's daemon, its keeper, its credential, or its files: the kernel refuses each."""
    victim = shared.begin_by("alice", VICTIM)
    assert victim.stdout is not None
    os_pid, cwd, pid, template = json.loads(victim.stdout.readline())
    daemon = daemon_below(shared.daemons["n1"])
    os_pids = {"process": os_pid, "parent": template, "daemon": daemon, "keeper": shared.daemons["n1"].pid}
    state = shared.folder / "state" / "constellation"
    own = next(state.iterdir())
    assert (own / "store").exists()
    assert (own / "events").exists()
    told: dict[str, Any] = {
        "pid": pid,
        "os_pids": os_pids,
        "files": [str(Path(cwd, "own.txt")), str(shared.credentials / "node.pem")],
        "folders": [cwd, str(own), *map(str, own.iterdir())],
    }
    done = shared.deploy_by("bob", ATTACK, json.dumps(told))
    assert done.returncode == 0, done
    outcomes = json.loads(done.stdout)
    assert len(outcomes) == 6 * 4 + len(told["files"]) + len(told["folders"]) + 2
    assert outcomes.pop("send") == "ChannelError"
    assert outcomes.pop("receive") == "ChannelError"
    assert {name: outcome for name, outcome in outcomes.items() if outcome != "PermissionError"} == {}
    victim.communicate("", timeout=20)
    assert victim.returncode == 0


def test_what_the_node_reads_for_a_deployment_it_reads_as_its_user(shared: UserCluster) -> None:
    """Else somebody could have the text of a file told that he may not read, by an error message about it."""
    folder = shared.folder / "of-root"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "prog.py").write_text("from constellation import init\ninit()\n")
    secret = folder / "requirements.txt"
    secret.write_text("hidden words here\n")
    secret.chmod(0o600)
    with shared.by("bob"):
        done = shared.run("deploy", "--in-place", shared.bridge, "prog.py", cwd=folder)
    assert done.returncode == 4, done
    assert "hidden" not in done.stdout + done.stderr
    assert "ermission denied" in done.stderr, done


def test_an_owner_without_a_user_is_refused_until_a_line_is_written(leftovers: Leftovers) -> None:
    """Code 4, with the line to write and the file; written, it counts at once, without a restart."""
    with user_cluster(leftovers) as made:
        done = made.deploy_by("carol", WHO)
        assert done.returncode == 4, done
        assert f"the owner 'carol' is mapped to no user of this computer: add a line to [users] in {made.users}" in (
            done.stderr
        )
        assert '"carol" = "USER"' in done.stderr
        assert "is refused" in made.log("n1")
        with made.users.open("a") as file:
            file.write('carol = "root"\n')
        done = made.deploy_by("carol", WHO)
        assert (done.returncode, "run_as_root = true" in done.stderr) == (4, True), done
        made.users.write_text(f'[users]\ncarol = "{BOB}"\n')
        assert made.deploy_by("carol", WHO).returncode == 0


STRAY = """
    import ctypes, os, signal, sys, time
    from constellation import init
    init()
    template = os.getppid()
    with open(f"/proc/{template}/status") as file:
        monitor = next(int(line.split()[1]) for line in file if line.startswith("PPid"))
    print("kills", flush=True)
    if os.fork() == 0:
        os.setsid()
        ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # whoever starts it may end
        for os_pid, number in ((monitor, signal.SIGSTOP), (template, signal.SIGKILL), (monitor, signal.SIGKILL)):
            os.kill(os_pid, number)
    time.sleep(600)
"""


def test_a_program_that_kills_its_own_monitor_process_leaves_nothing(shared: UserCluster) -> None:
    """It may, and its template, being the same user; what is left becomes a child of the node's daemon, which ends it."""
    done = shared.deploy_by("bob", STRAY)
    assert (done.stdout, done.returncode != 0) == ("kills\n", True), done
    assert shared.deploy_by("alice", WHO).returncode == 0
    daemon = daemon_below(shared.daemons["n1"])
    uid = pwd.getpwnam(BOB).pw_uid
    children = Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split()
    lines = [line for child in children for line in Path(f"/proc/{child}/status").read_text().splitlines()]
    assert not [line for line in lines if line.split()[:2] == ["Uid:", str(uid)]]


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_root_elsewhere_than_on_loopback_must_have_a_list_of_users(
    tmp_path: Path, leftovers: Leftovers, address: str
) -> None:
    """It does not start, and says what to write."""
    made = Cluster(tmp_path, leftovers, 1)
    subprocess.run([*COMMAND, "keygen"], env=made.environment, check=True, capture_output=True)
    done = made.run("node", address, "--users", str(tmp_path / "users.toml"), timeout=20)
    assert done.returncode == 2, done
    assert f"this node runs as root and {tmp_path / 'users.toml'} does not exist" in done.stderr
    assert "[users]" in done.stderr


@pytest.mark.skipif(os.path.lexists("/etc/constellation/users.toml"), reason="this computer has a list of users")
def test_root_on_loopback_without_a_list_runs_its_own_as_root_and_says_so(tmp_path: Path, leftovers: Leftovers) -> None:
    """A first try works; whoever else has a credential of this fabric is refused."""
    made = Cluster(tmp_path, leftovers, 1)
    try:
        made.start_all()
        made.wait_for_nodes()
        assert "runs everything as root" in made.log("n1")
        done = made.deploy("import os\nfrom constellation import init\ninit()\nprint(os.getuid())")
        assert (done.returncode, "0" in done.stdout) == (0, True), done
        subprocess.run([*COMMAND, "keygen", "--owner", "alice"], env=made.environment, check=True, capture_output=True)
        made.credential = ("--credential", str(tmp_path / "config" / "constellation" / "deployer-alice.pem"))
        path = made.program("from constellation import init\ninit()")
        done = made.run("deploy", *made.credential, made.bridge, path.name, cwd=path.parent)
        assert done.returncode == 4, done
        assert '"alice" = "USER"' in done.stderr
        assert "/etc/constellation/users.toml" in done.stderr
    finally:
        made.stop()


def test_a_node_of_a_person_says_that_deployments_could_read_each_other(leftovers: Leftovers) -> None:
    """Once, in its log."""
    with tempfile.TemporaryDirectory(prefix="cstl-users-") as name:
        folder = Path(name)
        os.chown(folder, pwd.getpwnam(BOB).pw_uid, -1)
        made = Cluster(folder, leftovers, 1)
        script = ["setpriv", f"--reuid={BOB}", "--clear-groups"]
        log = folder / "n1.log"
        with log.open("ab") as file:
            made.daemons["n1"] = subprocess.Popen(
                [*with_python_for_all(folder / "m"), *script, *COMMAND, "node", "127.0.0.1:0"],
                env=made.environment,
                stderr=file,
            )
        try:
            made.wait_for("n1", "listens on")
            words = f"runs everything as {BOB!r}: deployments of different people on it could read each other"
            assert made.log("n1").count(words) == 1
        finally:
            made.stop()


GRANITE = """
    # /// script
    # dependencies = ["granite"]
    # ///
    import os, granite
    from constellation import init
    init()
    print(os.getuid(), os.stat(granite.__file__).st_uid, oct(os.stat(os.environ["VIRTUAL_ENV"] + "/..").st_mode)[-3:])
"""


@has_pip
def test_packages_are_installed_as_the_user(shared: UserCluster) -> None:
    """An installation runs what it installs; each user has the environments of its own, made once."""
    for owner, user in (("alice", ALICE), ("bob", BOB), ("bob", BOB)):
        done = shared.deploy_by(owner, GRANITE)
        assert done.stdout == "{0} {0} 700\n".format(pwd.getpwnam(user).pw_uid), done
    assert "installing" not in done.stderr
