"""Programs that are brought to a fabric whole: their files, what they ask for, and what is said where something is missing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from constellation.core.fitting import Installation
from constellation.core.specification import fields_of_installation
from tests.conftest import MARK, ROOT, Leftovers, Result, nothing_left
from tests.io.cluster import LIMIT_S, Cluster, cluster, free_ports
from tests.io.original_programs import FOLDER, PROGRAMS, check, expectation, read_run
from tests.io.test_environments import has_pip, wheel

LIMITED = {"resource_limit": 'mem = "3 GiB"', "resource_limit_stress": "mem = 1073741824"}
"""Programs that fill the capacity, and what the fabric must have."""


class Programs:
    """A fabric of two nodes with wheels that its nodes can install, and folders to deploy from."""

    def __init__(self, made: Cluster, wheels: Path) -> None:
        self.cluster = made
        self.wheels = wheels

    def deploy(
        self, folder: Path, *args: str, options: tuple[str, ...] = ("--format", "raw"), timeout: float = 90.0
    ) -> Result:
        """Deploy with raw output."""
        mark = ("--env", f"{MARK}={self.cluster.mark}")
        before = args[: args.index("-m")] if "-m" in args else ()
        module = ("-m",) if "-m" in args else ()
        rest = args[len(before) + len(module) :]
        return self.cluster.run(
            "deploy", *mark, *options, *before, *module, self.cluster.bridge, *rest, cwd=folder, timeout=timeout
        )

    def moved(self) -> list[int]:
        """Bytes of chunks that clients have sent, by deployment, as the bridge says it."""
        return [int(each) for each in re.findall(r"bridge: (\d+) bytes of files came", self.cluster.log("n1"))]

    def copies(self) -> list[str]:
        """Copies of programs that are on the nodes now."""
        state = self.cluster.folder / "state" / "constellation"
        return [str(each) for each in state.glob("*/deployments/*")]


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """Two nodes with room for one process of 200 MiB each beside small ones; pip has an index of our own wheels only."""
    folder = tmp_path_factory.mktemp("fabric")
    wheels = folder / "wheels"
    for version in ("1.0", "1.1"):
        wheel(wheels, "granite", version)
    with nothing_left() as left:
        made = Cluster(folder, left, 2, lines=('mem = "300 MiB"\ncpu = 2', 'mem = "300 MiB"\ncpu = 2'))
        made.environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
        try:
            made.start_all()
            made.wait_for_nodes()
            yield Programs(made, wheels)
        finally:
            made.stop()


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write a program's files."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(content))
    return folder


def git(folder: Path) -> None:
    """Make a repository of a folder."""
    subprocess.run(["git", "init", "-q", str(folder)], check=True)


HELLO = "from constellation import init\ninit()\nprint('hello')\n"


def test_the_root_travels_as_git_sees_it_and_the_working_folder_is_the_same_place(
    fabric: Programs, tmp_path: Path
) -> None:
    """What is ignored stays here; untracked files go; a sibling module and a data file are found from below the root."""
    write(
        tmp_path,
        {
            ".gitignore": "*.secret\nbig/\n",
            "key.secret": "x",
            "big/model.bin": "x" * 100_000,
            "data/words.txt": "one two\n",
            "work/side.py": "VALUE = 6\n",
            "work/prog.py": """
                import os, side, sys
                from constellation import init
                init()
                print(open("../data/words.txt").read().strip(), side.VALUE, sys.argv)
                print(os.path.basename(os.getcwd()), sorted(os.listdir("..")))
            """,
        },
    )
    git(tmp_path)
    done = fabric.deploy(tmp_path / "work", "prog.py", "a", "-b")
    assert done.returncode == 0, done
    first, second = done.stdout.splitlines()
    assert first == "one two 6 ['prog.py', 'a', '-b']"
    assert second == "work ['.gitignore', 'data', 'work']"


def test_modules_folders_and_packages_of_a_project_run_as_they_do_here(fabric: Programs, tmp_path: Path) -> None:
    """With -m, as a folder with __main__.py, and with packages in src, which come after everything else."""
    show = "import sys\nfrom constellation import init\ninit()\n"
    write(
        tmp_path,
        {
            "pyproject.toml": "[project]\nname = 'x'\nversion = '1'\n",
            "src/lib/__init__.py": "VALUE = 5\n",
            "src/queue.py": "raise ImportError('this is not the standard library')\n",
            "pkg/__init__.py": "",
            "pkg/__main__.py": f"{show}import queue, lib\nprint('package', __package__, lib.VALUE, sys.argv[1:])\n",
            "pkg/tool.py": f"{show}from pkg import __main__ as other\nprint('module', __name__)\n",
            "app/__main__.py": f"{show}import near\nprint('folder', near.VALUE)\n",
            "app/near.py": "VALUE = 4\n",
            "env.py": f"{show}import os\nprint(os.environ.get('PYTHONPATH'))\n",
        },
    )
    assert fabric.deploy(tmp_path, "-m", "pkg", "x").stdout == "package pkg 5 ['x']\n"
    assert fabric.deploy(tmp_path / "app", ".").stdout == "folder 4\n"
    assert fabric.deploy(tmp_path, "app").stdout == "folder 4\n"
    assert fabric.deploy(tmp_path, "env.py").stdout == "None\n"


def test_processes_on_both_nodes_read_the_files_of_the_program(fabric: Programs, tmp_path: Path) -> None:
    """Each node has its own copy; all are gone soon after the end."""
    write(
        tmp_path,
        {
            "data.txt": "datum",
            "prog.py": """
                import os
                from constellation import Receiver, Resources, Sender, init, parent, spawn
                def child():
                    Sender(parent()).send((open("data.txt").read(), os.getcwd())).block()
                init(Resources(mem="200 MiB", cpu=0.1))
                pid = spawn(child, resources=Resources(mem="200 MiB", cpu=0.1)).block()
                text, where = Receiver(pid).recv().block()
                print(text, open("data.txt").read(), where != os.getcwd())
            """,
        },
    )
    done = fabric.deploy(tmp_path, "prog.py")
    assert (done.stdout, done.returncode) == ("datum datum True\n", 0), done
    deadline = time.monotonic() + LIMIT_S
    while fabric.copies():
        assert time.monotonic() < deadline, fabric.copies()
        time.sleep(0.05)


def test_a_second_deployment_after_a_change_of_one_line_moves_under_100_kb(fabric: Programs, tmp_path: Path) -> None:
    """Counted are the bytes of all chunks that the client sends, the list of files included."""
    lines = [f"{number} {number * number}" for number in range(100_000)]
    files = {f"pkg/module_{number}.py": f"VALUE = {number}\n" * 50 for number in range(200)}
    write(tmp_path, {**files, "table.txt": "\n".join(lines), "prog.py": HELLO})
    assert fabric.deploy(tmp_path, "prog.py").stdout == "hello\n"
    first = fabric.moved()[-1]
    lines.insert(50_000, "a line that is new")
    (tmp_path / "table.txt").write_text("\n".join(lines))
    assert fabric.deploy(tmp_path, "prog.py").stdout == "hello\n"
    second = fabric.moved()[-1]
    print(f"first deployment {first} bytes, second {second} bytes")  # a figure that was promised
    assert first > 1_000_000
    assert second < 100_000
    count = len(fabric.moved())
    assert fabric.deploy(tmp_path, "prog.py").stdout == "hello\n"
    assert len(fabric.moved()) == count, "a third one with no change moves nothing"


GRANITE = "from constellation import init\ninit()\nimport granite\nprint(granite.VERSION)\n"


@has_pip
def test_requirements_are_installed_once_and_the_steps_are_shown(fabric: Programs, tmp_path: Path) -> None:
    """From requirements.txt; the second deployment finds the environment made."""
    write(tmp_path, {"requirements.txt": "granite<1.1\n", "prog.py": GRANITE})
    # Both nodes may be chosen: the second and third time at least one of them has it already.
    results = [fabric.deploy(tmp_path, "prog.py") for _ in range(3)]
    assert [done.stdout for done in results] == ["1.0\n"] * 3, results
    assert "installing what requirements.txt asks for, once on this node: granite<1.1" in results[0].stderr
    assert sum("installing what" in done.stderr for done in results) <= 2


@has_pip
def test_the_block_of_a_script_is_installed_for_two_deployments_at_once(fabric: Programs, tmp_path: Path) -> None:
    """PEP 723; neither disturbs the other."""
    block = "# /// script\n# dependencies = ['granite==1.1', 'constellation']\n# ///\n"
    write(tmp_path, {"prog.py": block + GRANITE})
    results: list[Result] = []
    threads = [threading.Thread(target=lambda: results.append(fabric.deploy(tmp_path, "prog.py"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(done.stdout, done.returncode) for done in results] == [("1.1\n", 0)] * 2, results


@has_pip
def test_a_requirement_that_does_not_exist_is_named(fabric: Programs, tmp_path: Path) -> None:
    """What pip said, in words; nothing has run."""
    write(tmp_path, {"requirements.txt": "granite==9\n", "prog.py": "print('ran')\n" + HELLO})
    done = fabric.deploy(tmp_path, "prog.py")
    assert done.returncode == 4
    assert "cannot install what requirements.txt asks for: there is no granite==9" in done.stderr
    assert "1.0, 1.1" in done.stderr
    assert done.stdout == ""


def test_the_nodes_python_is_used_as_it_is_when_that_is_wanted(fabric: Programs, tmp_path: Path) -> None:
    """--env-of-node installs nothing, and says what is lacking."""
    write(tmp_path, {"requirements.txt": "granite==1.0\n", "prog.py": HELLO})
    done = fabric.deploy(tmp_path, "prog.py", options=("--format", "raw", "--env-of-node"))
    assert (done.stdout, done.returncode) == ("hello\n", 0), done
    assert "this node's Python is used as it is, without granite==1.0 (not installed)" in done.stderr
    assert "installing" not in done.stderr


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ("requires-python = '>=3.99'", ["Python", ">=3.99", "start the node with a Python that is >=3.99"]),
        ("dependencies = ['constellation>=99']", ["package", "constellation>=99", "pip install 'constellation>=99'"]),
    ],
)
def test_what_does_not_fit_is_refused_with_a_table_before_it_runs(
    fabric: Programs, tmp_path: Path, stated: str, words: list[str]
) -> None:
    """Two columns, what mends it, and exit code 4."""
    project = f"[project]\nname = 'x'\nversion = '1'\n{stated}\n"
    write(tmp_path, {"pyproject.toml": project, "prog.py": "print('ran')\n" + HELLO})
    done = fabric.deploy(tmp_path, "prog.py")
    assert done.returncode == 4, done
    assert "cannot run prog.py on n" in done.stderr
    assert re.search(r"^ +here +n\d$", done.stderr, re.MULTILINE), done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert "ran" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("python", "wire", "code", "words"),
    [
        ((3, sys.version_info[1], 99), 0, 0, f"Python is 3.{sys.version_info[1]}.99 here and"),
        ((3, 99, 0), 0, 4, "start the node with Python 3.99"),
        ((3, sys.version_info[1], 0), 1, 4, "wire version"),
    ],
)
def test_patch_levels_may_differ_and_minor_and_wire_versions_may_not(
    fabric: Programs, tmp_path: Path, python: tuple[int, int, int], wire: int, code: int, words: str
) -> None:
    """As a client with another Python or another constellation says it of itself."""
    write(tmp_path, {"prog.py": HELLO})
    from constellation.core.settings import WIRE_VERSION

    fields = fields_of_installation(Installation("here", python, WIRE_VERSION + wire, "9.9", {}))
    source = f"""
        import sys
        import constellation.core.specification as specification
        specification.fields_of_installation = lambda installation: {fields!r}
        from constellation.cli.main import main
        main()
    """
    (tmp_path / "other.py").write_text(textwrap.dedent(source))
    made = fabric.cluster
    before, made.command = made.command, [sys.executable, str(tmp_path / "other.py")]
    try:
        done = fabric.deploy(tmp_path, "prog.py")
    finally:
        made.command = before
    assert done.returncode == code, done
    assert words in done.stderr
    assert done.stdout == ("hello\n" if code == 0 else "")


def test_a_deployment_let_go_is_found_watched_and_killed(fabric: Programs, tmp_path: Path) -> None:
    """--detach, ps, logs, attach, kill: the files are there as long as it runs, and gone then."""
    source = """
        import time
        from constellation import init
        init()
        print("begun", flush=True)
        while True:
            time.sleep(0.1)
    """
    write(tmp_path, {"prog.py": source})
    made = fabric.cluster
    name = fabric.deploy(tmp_path, "prog.py", options=("--detach",)).stdout.strip()
    assert re.fullmatch("[0-9a-f]{12}", name)
    deadline = time.monotonic() + LIMIT_S
    while "begun" not in made.run("logs", "--format", "raw", made.bridge, name).stdout:
        assert time.monotonic() < deadline
    assert f"{name}  prog.py" in made.run("ps", made.bridge).stdout
    assert any(name in each for each in fabric.copies())
    watching = subprocess.Popen(
        [*made.command, "attach", "--format", "raw", made.bridge, name],
        env=made.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    made.clients.append(watching)
    assert watching.stdout is not None
    assert watching.stdout.readline() == "begun\n"
    made.run("kill", made.bridge, name)
    watching.communicate(timeout=LIMIT_S)
    assert watching.returncode != 0
    while any(name in each for each in fabric.copies()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@has_pip
def test_ctrl_c_during_an_installation_ends_it(fabric: Programs, tmp_path: Path) -> None:
    """130, and neither the installer nor a half-made environment is left."""
    archive = tmp_path / "slow-1.0"
    write(archive, {"setup.py": "import time\nprint('x', flush=True)\ntime.sleep(600)\n"})
    shutil.make_archive(str(fabric.wheels / "slow-1.0"), "gztar", tmp_path, "slow-1.0")
    shutil.rmtree(archive)
    write(tmp_path, {"requirements.txt": "slow\n", "prog.py": HELLO})
    made = fabric.cluster
    client = subprocess.Popen(
        [*made.command, "deploy", "--env", f"{MARK}={made.mark}", made.bridge, "prog.py"],
        env=made.environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    made.clients.append(client)
    assert client.stderr is not None
    assert "installing what requirements.txt asks for" in client.stderr.readline()
    client.send_signal(signal.SIGINT)
    client.communicate(timeout=LIMIT_S)
    assert client.returncode == 130
    deadline = time.monotonic() + LIMIT_S
    while installers(made.mark):
        assert time.monotonic() < deadline, installers(made.mark)
        time.sleep(0.05)


def installers(mark: str) -> list[str]:
    """Processes of the fabric that install something."""
    found: list[str] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found += [command] if "installing" in command or "pip" in command else []
        except OSError:
            continue
    return found


def test_too_much_is_refused_at_once_with_the_largest_files_named(fabric: Programs, tmp_path: Path) -> None:
    """5 GB; nothing is read, and nothing sent."""
    write(tmp_path, {"prog.py": HELLO})
    with open(tmp_path / "weights.bin", "wb") as file:
        file.truncate(5 << 30)
    count = len(fabric.moved())
    done = fabric.deploy(tmp_path, "prog.py")
    assert done.returncode == 4
    assert "GiB along, the limit is 256 MiB; the largest files:\n       5 GiB  weights.bin" in done.stderr
    assert len(fabric.moved()) == count


def test_a_bridge_that_cannot_be_reached_is_told_by_the_step_that_failed(
    leftovers: Leftovers, fabric: Programs, tmp_path: Path
) -> None:
    """Name, port, TLS, role; exit code 3."""
    write(tmp_path, {"prog.py": HELLO})
    made = fabric.cluster
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    sock, _ = server.accept()
                except OSError:
                    return
                with sock:
                    sock.recv(4096)
                    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        targets = {
            "no-such-host.invalid:5001": "the name 'no-such-host.invalid' is not known here",
            f"127.0.0.1:{port}": "connection refused: nothing listens there",
            f"127.0.0.1:{server.getsockname()[1]}": "is refused: ",
            made.addresses[1]: f"the bridge at {made.addresses[1]} has",  # closed the connection, or reset it
        }
        clients = {
            target: subprocess.Popen(
                [*made.command, "deploy", target, "prog.py"],
                env={**made.environment, MARK: leftovers.mark},
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path,
            )
            for target in targets
        }
        said = {target: client.communicate(timeout=60)[1] for target, client in clients.items()}
        server.shutdown(socket.SHUT_RDWR)
    for target, words in targets.items():
        assert words in said[target], said
        assert clients[target].returncode == 3, said


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_fills_in_the_middle_is_said_and_nothing_half_made_stays(
    leftovers: Leftovers, tmp_path: Path
) -> None:
    """On the bridge's computer while chunks come; the fabric goes on, and a smaller program runs."""
    state = tmp_path / "fabric" / "state"
    state.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(state)], check=True)
    try:
        with cluster(tmp_path / "fabric", leftovers, 1) as made:
            made.wait_for_nodes()
            big = write(tmp_path / "big", {"prog.py": HELLO})
            (big / "noise.bin").write_bytes(os.urandom(4 << 20))
            mark = ("--env", f"{MARK}={made.mark}", "--format", "raw")
            done = made.run("deploy", *mark, made.bridge, "prog.py", cwd=big)
            assert done.returncode == 4, done
            assert "No space left on device; make room on that disk, and deploy again" in done.stderr
            stores = list(state.glob("constellation/*/store/*"))
            assert [each for store in stores for each in (store / "incoming").iterdir()] == []
            for each in stores:
                shutil.rmtree(each / "chunks")
                (each / "chunks").mkdir(0o700)
            # Its chunks fit, and its copy does not.
            (big / "noise.bin").write_bytes(os.urandom(1800 << 10))
            done = made.run("deploy", *mark, made.bridge, "prog.py", cwd=big)
            assert done.returncode == 4, done
            assert "cannot lay the program out in" in done.stderr
            (big / "noise.bin").unlink()
            done = made.run("deploy", *mark, made.bridge, "prog.py", cwd=big)
            assert (done.stdout, done.returncode) == ("hello\n", 0), done
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)


def test_a_word_count_over_two_nodes_gives_what_it_gives_here(fabric: Programs, tmp_path: Path) -> None:
    """The example, with texts that travel beside it, as a person would bring it."""
    shutil.copy(ROOT / "examples" / "wordcount.py", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "texts")
    arguments = ("--counters", "3", "texts")
    here = subprocess.run(
        [sys.executable, "wordcount.py", *arguments],
        env={**fabric.cluster.environment, "CONSTELLATION_FORMAT": "raw"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=True,
    )
    done = fabric.deploy(tmp_path, "wordcount.py", *arguments, options=("--format", "json"))
    assert done.returncode == 0, done
    events = [json.loads(line) for line in done.stdout.splitlines()]
    text = "".join(event["data"] for event in events if event["event"] == "output")
    counted = [line for line in here.stdout.splitlines() if " MB" not in line]
    assert [line for line in text.splitlines() if " MB" not in line] == counted
    assert len(counted) > 5
    assert {event["node"] for event in events if event["event"] == "spawn"} == {"n1", "n2"}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Path]]:
    """Two nodes with room for whatever the programs of the original ask for, and a copy of those."""
    folder = tmp_path_factory.mktemp("wide")
    programs = folder / "programs"
    shutil.copytree(FOLDER, programs, ignore=shutil.ignore_patterns("__pycache__"))
    with nothing_left() as left, cluster(folder, left, 2) as made:
        made.wait_for_nodes()
        yield made, programs


def run_program(made: Cluster, folder: Path, program: Path) -> None:
    """Deploy a program of the original, and hold the run against what stands in its file."""
    done = subprocess.run(
        [*made.command, "deploy", "--format", "json", "--env", f"{MARK}={made.mark}", made.bridge,
         program.name, *expectation(program).arguments],
        env=made.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=folder,
        timeout=150,
        check=False,
    )  # fmt: skip
    check(read_run(done.stdout, done.stderr, done.returncode), program)


@pytest.mark.parametrize(
    "program", [each for each in PROGRAMS if each.stem not in LIMITED], ids=lambda program: program.stem
)
def test_program_of_the_original_shows_the_same_tree_when_it_is_deployed(
    program: Path, wide: tuple[Cluster, Path]
) -> None:
    """The tree of output and ends that stands in its file, over two nodes."""
    run_program(*wide, program)


@pytest.mark.slow
@pytest.mark.parametrize(
    "program", [each for each in PROGRAMS if each.stem in LIMITED], ids=lambda program: program.stem
)
def test_program_that_fills_the_capacity_shows_the_same_tree_on_a_fabric_that_has_it(
    program: Path, tmp_path: Path, leftovers: Leftovers
) -> None:
    """To the last byte: the fabric has what the program names, on one node as it wants."""
    programs = tmp_path / "programs"
    shutil.copytree(FOLDER, programs, ignore=shutil.ignore_patterns("__pycache__"))
    with cluster(tmp_path, leftovers, 1, lines=(LIMITED[program.stem],)) as made:
        made.wait_for_nodes()
        run_program(made, programs, program)
