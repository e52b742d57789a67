"""Nodes that are not alike: a program runs on those that fit it and each other, or is refused with words before it runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tests.conftest import ROOT, Leftovers
from tests.io.cluster import COMMAND, Cluster, daemon_below, kill

HERE = ".".join(map(str, sys.version_info[:3]))

# The first process has room on each, and a child beside it on none.
ROOM = ('mem = "200 MiB"\ncpu = 1', 'mem = "400 MiB"\ncpu = 1')

SPREAD = """
    import sys
    from constellation import Receiver, Resources, Sender, SpawnError, init, parent, spawn
    def child():
        Sender(parent()).send(list(sys.version_info[:2])).block()
    init({init})
    for size in {sizes}:
        try:
            pid = spawn(child, resources=Resources(mem=size, cpu=0.1){on}).block()
        except SpawnError as error:
            print(type(error).__name__, error)
        else:
            assert Receiver(pid).recv().block() == list(sys.version_info[:2])
            print("ran on", pid.node)
"""


def spread(init: str = "", sizes: tuple[str, ...] = ("10 MiB",), on: str = "") -> str:
    """A program that spawns children of these sizes."""
    return SPREAD.format(init=init, sizes=sizes, on=on)


class Unlike(Cluster):
    """Some nodes, of which one has something planted, or another Python."""

    def __init__(self, folder: Path, leftovers: Leftovers, lines: tuple[str, ...] = ROOM, nodes: int = 2) -> None:
        super().__init__(folder, leftovers, nodes, lines)
        self._plain = self.environment
        self._planted = 0
        self.pythons: dict[str, Path] = {}

    def command_on(self, name: str) -> list[str]:
        python = self.pythons.get(name)
        return COMMAND if python is None else [str(python), "-m", "constellation"]

    def plant(self, source: str) -> None:
        """Have the daemons that are started from now on run something first."""
        self._planted += 1  # a daemon may still be on its way to the one before
        folder = self.folder / f"planted{self._planted}"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(source)
        path = self._plain.get("PYTHONPATH")
        self.environment = {**self._plain, "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), path]))}

    def record(self, change: str) -> None:
        """Have them say another thing of their installation when they join."""
        self.plant(
            "import constellation.fabric.sending as sending\nwhole = sending.whole_installation\n"
            f"def planted(title):\n    found = whole(title)\n    return found._replace({change})\n"
            "sending.whole_installation = planted\n"
        )

    def unplant(self) -> None:
        """What is started from now on is as it is."""
        self.environment = self._plain

    def raw(self, source: str, *options: str) -> tuple[str, str, int]:
        """Deploy; stdout, stderr, exit code."""
        done = self.deploy(source, options=("--format", "raw", *options), timeout=60)
        return done.stdout, done.stderr, done.returncode


@pytest.fixture
def unlike(tmp_path: Path, leftovers: Leftovers) -> Iterator[Unlike]:
    """Not started as yet."""
    made = Unlike(tmp_path, leftovers)
    try:
        yield made
    finally:
        made.stop()


def test_a_node_with_another_python_is_left_out(unlike: Unlike) -> None:
    """What has room only there is refused with a table and the command; what fits elsewhere never goes there."""
    unlike.start("n1")
    unlike.record("python=(3, 99, 1)")
    unlike.start("n2")
    unlike.wait_for_nodes()
    out, err, code = unlike.raw(spread(sizes=("10 MiB", "300 MiB")))
    ran, refused, *table = out.splitlines()
    node = re.fullmatch(r"ran on (\d+)", ran)
    assert node is not None
    assert f"node {node[1]} 'n1'" in unlike.log("n1")
    assert refused.startswith(
        "Infeasible cannot place 300 MiB, 0.1 cores: the largest node that the program fits has 200 MiB"
    )
    assert [line.split() for line in table[:3]] == [
        ["cannot", "run", "prog.py", "on", "n2:", "it", "does", "not", "fit"],
        ["here", "n2"],
        ["Python", HERE, "3.99.1"],
    ]
    assert any("on n2: start the node with Python" in line for line in table)
    assert f"nodes that the program does not fit are left out: n2 (Python: 3.99.1, here: {HERE})" in err
    assert code == 0


def test_a_node_that_is_named_and_does_not_fit_is_refused(unlike: Unlike) -> None:
    """`on=` cannot bring a program where it does not run."""
    unlike.start("n1")
    unlike.record("python=(3, 99, 1)")
    unlike.start("n2")
    unlike.wait_for_nodes()
    out, _, code = unlike.raw(spread(on=', on="n2"'))
    assert out.startswith("Infeasible cannot place 10 MiB, 0.1 cores on node n2: the program does not fit n2")
    assert "3.99.1" in out
    assert code == 0


def test_a_program_that_fits_no_node_is_refused_with_the_table_of_each(unlike: Unlike) -> None:
    """Exit code 4, and nothing of it has run."""
    unlike.record("python=(3, 99, 1)")
    unlike.start("n1")
    unlike.record("python=(3, 98, 0)")
    unlike.start("n2")
    unlike.wait_for_nodes()
    out, err, code = unlike.raw("print('ran')\n" + spread().replace("\n    ", "\n"))
    assert (out, code) == ("", 4)
    assert "cannot run prog.py on n1: it does not fit" in err
    assert "3.99.1" in err
    assert "cannot run prog.py on n2: it does not fit" in err
    assert "3.98.0" in err
    assert err.count("to mend it:") == 2


def test_nodes_with_a_python_that_the_program_states_must_still_be_alike(unlike: Unlike) -> None:
    """Functions travel as code: with `requires-python` any node will do, and then only those like it."""
    unlike.start("n1")
    unlike.record("python=(3, 99, 1)")
    unlike.start("n2")
    unlike.wait_for_nodes()
    unlike.program("[project]\nname = 'x'\nversion = '1'\nrequires-python = '>=3.11'\n", "pyproject.toml")
    out, err, code = unlike.raw(spread(sizes=("10 MiB", "300 MiB")))
    assert "ran on" in out
    assert "Infeasible" in out
    assert f"left out: n2 (Python: 3.99.1, n1: {HERE})" in err
    assert code == 0


def test_a_node_that_joins_later_and_is_not_alike_gets_nothing(unlike: Unlike) -> None:
    """A spawn waits rather than go there."""
    source = """
        import time
        from constellation import Receiver, Resources, Sender, init, parent, spawn, watch
        def child(seconds):
            time.sleep(seconds)
        init()
        print("begun", flush=True)
        first = spawn(child, 3, resources=Resources(mem="80 MiB", cpu=0.1)).block()
        second = spawn(child, 0, resources=Resources(mem="80 MiB", cpu=0.1)).block()
        print(first.node == second.node, flush=True)
    """
    unlike.start("n1")
    unlike.wait_for("n1", "a bridge listens")
    client = unlike.begin(source, options=("--format", "raw"))
    assert client.stdout is not None
    assert client.stdout.readline() == "begun\n"
    unlike.record("python=(3, 99, 1)")
    unlike.start("n2")
    unlike.wait_for_nodes()
    out, _ = client.communicate(timeout=60)
    assert (out, client.returncode) == ("True\n", 0)


def test_a_node_on_which_the_program_does_not_come_to_its_init_is_left_out(unlike: Unlike) -> None:
    """A package that only the first node has: that is found where it is missing, said, and what was to run there runs elsewhere."""
    unlike.start("n1")
    bare = unlike.folder / "bare"
    bare.mkdir()
    unlike.environment = {**unlike.environment, "HOME": str(bare)}
    unlike.start("n2")
    unlike.wait_for_nodes()
    source = """
        import os
        if os.environ["HOME"].endswith("bare"):
            import constellation_no_such_module
    """ + spread(sizes=("80 MiB", "80 MiB", "300 MiB")).replace("\n    ", "\n        ")
    out, err, code = unlike.raw(source)
    lines = out.splitlines()
    assert [line.partition(" ")[0] for line in lines[:3]] == ["ran", "ran", "Infeasible"], out
    assert lines[0] == lines[1]
    assert "constellation: n2 is left out: the program, run again as a template, ended before it came to init()" in err
    assert "No module named 'constellation_no_such_module'" in err
    assert code == 0


@pytest.fixture(scope="module")
def without_msgspec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python like this one, but for the plugin msgspec."""
    if not any(metadata.distributions(name="constellation-msgspec")):
        pytest.skip("needs plugins/constellation-msgspec installed")
    folder = tmp_path_factory.mktemp("without")
    packages = folder / "packages"
    packages.mkdir()
    for path in (Path(each) for each in sys.path if each.endswith(("site-packages", "dist-packages"))):
        for entry in path.iterdir():
            target = packages / entry.name
            if "msgspec" not in entry.name and not entry.name.endswith(".pth") and not target.exists():
                target.symlink_to(entry)
    venv.create(folder / "env")
    for found in (folder / "env").glob("lib/python*/site-packages"):
        (found / "packages.pth").write_text(f"{packages}\n{ROOT}\n")
    python = folder / "env" / "bin" / "python"
    said = subprocess.run(
        [str(python), "-c", "from constellation.core.finding import scan; print('msgspec' in scan())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "False\n"
    return python


MSGSPEC = 'plugins=["msgspec"]'


def test_a_plugin_that_the_program_names_is_looked_for_on_other_nodes(unlike: Unlike, without_msgspec: Path) -> None:
    """The recce comes to the node that lacks it, and then to the one that has it; it is used there, and only there."""
    unlike.pythons["n1"] = without_msgspec
    unlike.start("n1")
    unlike.start("n2")
    unlike.wait_for_nodes()
    out, err, code = unlike.raw(spread(MSGSPEC, sizes=("10 MiB",)))
    assert out.startswith("ran on"), (out, err)
    version = metadata.version("constellation-msgspec")
    assert f"left out: n1 (plugin msgspec: not installed, the program: constellation-msgspec {version})" in err
    assert code == 0


def test_a_plugin_that_the_program_names_and_no_node_has_is_refused_by_name(
    unlike: Unlike, without_msgspec: Path
) -> None:
    """Exit code 4, with the command that mends it, as for `--plugin`."""
    unlike.pythons = {"n1": without_msgspec, "n2": without_msgspec}
    unlike.start_all()
    unlike.wait_for_nodes()
    out, err, code = unlike.raw(spread(MSGSPEC))
    assert (out, code) == ("", 4)
    for name in ("n1", "n2"):
        assert f"cannot run prog.py on {name}: it does not fit" in err
        assert f"on {name}: pip install constellation-msgspec; then start the node again" in err
    assert "plugin msgspec" in err
    out, named, code = unlike.raw(spread(), "--plugin", "msgspec")
    assert (out, code) == ("", 4)
    assert "plugin msgspec" in named
    assert "on n1: pip install constellation-msgspec" in named


def test_a_plugin_in_another_version_leaves_a_node_out(unlike: Unlike) -> None:
    """Whoever names it: the program, or the one who deploys."""
    if not any(metadata.distributions(name="constellation-msgspec")):
        pytest.skip("needs plugins/constellation-msgspec installed")
    unlike.start("n1")
    unlike.record("plugins={**found.plugins, 'msgspec': 'constellation-msgspec 9.9'}")
    unlike.start("n2")
    unlike.wait_for_nodes()
    version = metadata.version("constellation-msgspec")
    for init, options in ((MSGSPEC, ()), ("", ("--plugin", "msgspec"))):
        out, err, code = unlike.raw(spread(init, sizes=("10 MiB", "300 MiB")), *options)
        assert "ran on" in out
        assert "Infeasible" in out
        assert f"on n2: pip install constellation-msgspec=={version}" in out
        assert f"n2 (plugin msgspec: constellation-msgspec 9.9, n1: constellation-msgspec {version})" in err
        assert code == 0


def test_what_a_node_said_when_it_joined_is_not_believed_for_ever(unlike: Unlike, without_msgspec: Path) -> None:
    """A plugin that has gone from a node since is found where it is missing, and what was to run there runs elsewhere."""
    version = metadata.version("constellation-msgspec")
    unlike.start("n1")
    unlike.pythons["n2"] = without_msgspec
    unlike.record(f"plugins={{**found.plugins, 'msgspec': 'constellation-msgspec {version}'}}")
    unlike.start("n2")
    unlike.wait_for_nodes()
    out, err, code = unlike.raw(spread(MSGSPEC, sizes=("80 MiB", "80 MiB")))
    assert [line.partition(" ")[0] for line in out.splitlines()] == ["ran", "ran"], (out, err)
    assert "constellation: n2 is left out: unknown plugin 'msgspec'" in err
    assert code == 0


def other_python() -> tuple[str, str] | None:
    """Another minor version of Python that can run constellation, and the PYTHONPATH that it needs for that.

    The variable OTHER_PYTHON may name one that has what constellation asks for; else some can use the packages of this one.
    """
    paths = [found for minor in (11, 12, 13) if (found := shutil.which(f"python3.{minor}"))]
    paths += map(str, sorted(Path.home().glob(".pyenv/versions/3.1[123]*/bin/python")))
    for path in (*filter(None, [os.environ.get("OTHER_PYTHON")]), *paths):
        for folders in (str(ROOT), packages_path()):
            done = subprocess.run(
                [
                    path,
                    "-c",
                    "import sys, constellation.fabric.serving, cryptography.x509; print(*sys.version_info[:2])",
                ],
                env={"PYTHONPATH": folders, "PATH": os.environ["PATH"]},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode == 0 and done.stdout.split() != list(map(str, sys.version_info[:2])):
                return path, folders
    return None


def packages_path() -> str:
    """The folders with packages of this Python."""
    found = [each for each in sys.path if each.endswith(("site-packages", "dist-packages"))]
    return os.pathsep.join([str(ROOT), *found])


def test_two_real_pythons_in_one_fabric(unlike: Unlike) -> None:
    """A program runs on the node with the Python that it is deployed from, all of it, and says which one is left out."""
    found = other_python()
    if found is None:
        pytest.skip("needs another Python, 3.11 to 3.13, with what constellation asks for: OTHER_PYTHON names one")
    path, folders = found
    unlike.start("n2")
    unlike.environment = {**unlike.environment, "PYTHONPATH": folders}
    unlike.pythons["n1"] = Path(path)
    unlike.start("n1")
    unlike.wait_for_nodes()
    unlike.unplant()
    out, err, code = unlike.raw(spread(sizes=("10 MiB", "10 MiB", "500 MiB")))
    lines = out.splitlines()
    assert [line.partition(" ")[0] for line in lines[:3]] == ["ran", "ran", "Infeasible"], (out, err)
    assert "left out: n1 (Python: 3." in err
    assert f"here: {HERE}" in err
    assert code == 0


def test_a_master_that_is_started_again_still_knows_what_the_program_is(tmp_path: Path, leftovers: Leftovers) -> None:
    """The node that runs it has kept that: one that is not like it gets nothing, though all that is stated fits it."""
    source = """
        import os, sys, time
        from constellation import Resources, SpawnError, init, spawn
        def child():
            pass
        init()
        print("begun", flush=True)
        while not os.path.exists(sys.argv[1]):
            time.sleep(0.02)
        try:
            spawn(child, resources=Resources(mem="300 MiB", cpu=0.1)).block()
        except SpawnError as error:
            print(type(error).__name__, error)
    """
    made = Unlike(tmp_path, leftovers, ('mem = "1 MiB"', 'mem = "200 MiB"', 'mem = "400 MiB"'), nodes=3)
    try:
        made.start("n1")
        made.start("n2")
        made.record("python=(3, 99, 1)")
        made.start("n3")
        made.wait_for_nodes()
        made.unplant()
        made.program("[project]\nname = 'x'\nversion = '1'\nrequires-python = '>=3.11'\n", "pyproject.toml")
        signal = tmp_path / "go on"
        client = made.begin(source, str(signal), options=("--format", "raw"))
        assert client.stdout is not None
        assert client.stdout.readline() == "begun\n"
        daemon = daemon_below(made.daemons["n1"])
        kill(daemon)
        made.daemons["n1"].wait(30)
        made.start("n1")
        made.wait_for("n1", "is taken up")
        signal.touch()
        out, err = client.communicate(timeout=60)
        assert out.startswith("Infeasible cannot place 300 MiB"), (out, err)
        assert "3.99.1" in out
        assert client.returncode == 0
    finally:
        made.stop()
