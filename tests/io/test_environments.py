"""What programs ask for: read out of real folders, asked of a real Python, installed from wheels made here, without a network."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest

from constellation.core.errors import DeployError
from constellation.core.fitting import Lack
from constellation.core.requirements import Stated
from constellation.fabric.environments import Environments
from constellation.fabric.requirements import (
    Environment,
    Installed,
    node_distributions,
    satisfied_by,
    stated,
    this_environment,
    without_provided,
)

ROOT = Path(__file__).resolve().parents[2]
has_pip = pytest.mark.skipif(
    importlib.util.find_spec("pip") is None and importlib.util.find_spec("ensurepip") is None,
    reason="this Python has neither pip nor ensurepip",
)


def wheel(folder: Path, name: str, version: str, *requires: str, code: str = "") -> Path:
    """Make a wheel with one module and one script."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {each}\n" for each in requires)
    metadata += "".join("Provides-Extra: more\n" for each in requires if "extra" in each)
    files = {
        f"{name}.py": code or f"VERSION = {version!r}\ndef main():\n    print({name!r}, VERSION)\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: here\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}-tool = {name}:main\n",
    }
    record = ""
    for file, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        record += f"{file},sha256={digest},{len(content)}\n"
    with zipfile.ZipFile(path, "w") as made:
        for file, content in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            made.writestr(file, content)
    return path


def program(folder: Path, files: dict[str, str]) -> str:
    """Write a program's files."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(content))
    return str(folder)


def test_the_block_of_the_script_counts_before_everything_else(tmp_path: Path) -> None:
    """Then requirements.txt, then pyproject.toml."""
    root = program(
        tmp_path,
        {
            "one.py": '# /// script\n# dependencies = ["a"]\n# ///\n',
            "two.py": "pass\n",
            "app/__main__.py": '# /// script\n# dependencies = ["d"]\n# ///\n',
            "requirements.txt": "b\n",
            "pyproject.toml": '[project]\nrequires-python = ">=3.11"\ndependencies = ["c"]\n',
        },
    )
    assert stated(root, "one.py").requirements == ("a",)
    assert stated(root, "app").requirements == ("d",)
    second = stated(root, "two.py")
    assert (second.source, second.requirements, second.python) == ("requirements.txt", ("b",), ">=3.11")
    (tmp_path / "requirements.txt").unlink()
    third = stated(root)
    assert (third.source, third.requirements, third.python) == ("pyproject.toml", ("c",), ">=3.11")
    (tmp_path / "pyproject.toml").unlink()
    assert stated(root, "two.py") == Stated()


def test_files_that_requirements_include_are_read_from_where_they_lie(tmp_path: Path) -> None:
    """Also in circles; below a constraint everything is one; the project itself stands for what it depends on."""
    root = program(
        tmp_path,
        {
            "requirements.txt": "-r req/base.txt\n-c req/limits.txt\n-e .[more]\n./w/x.whl\n",
            "req/base.txt": "a\n-r more.txt\n--no-index\n",
            "req/more.txt": "b\n-r ../requirements.txt\n",
            "req/limits.txt": "c<2\n-r more-limits.txt\n",
            "req/more-limits.txt": "d<3\n",
            "pyproject.toml": '[project]\ndependencies = ["own"]\n[project.optional-dependencies]\nmore = ["extra"]\n',
        },
    )
    found = stated(root)
    assert found.requirements == ("./w/x.whl", "a", "b", "own", "extra")
    assert (found.constraints, found.options, found.local) == (("c<2", "d<3"), ("--no-index",), ("./w/x.whl",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("-r gone.txt\n", r"requirements\.txt includes gone\.txt, which is not there"),
        ("-r ../outside.txt\n", "lies outside of the program's folder"),
        ("-r folder\n", "cannot read folder: Is a directory"),
    ],
)
def test_an_include_that_cannot_be_read_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """What is outside does not travel; a link that leads there does not help."""
    (tmp_path / "outside.txt").write_text("x\n")
    root = program(tmp_path / "root", {"requirements.txt": text, "folder/x": ""})
    with pytest.raises(DeployError, match=words):
        stated(root)
    (tmp_path / "root/requirements.txt").unlink()
    (tmp_path / "root/requirements.txt").symlink_to(tmp_path / "outside.txt")
    with pytest.raises(DeployError, match="lies outside"):
        stated(root)


KNOWN = {
    "lib": Installed("1.5", ("dep>=2", 'gone; extra == "more"', 'dep>=3; extra == "most"'), ""),
    "dep": Installed("2.0", (), ""),
    "direct": Installed("1.0", (), "https://example.org/direct.zip"),
    "pre": Installed("2.0rc1", (), ""),
    "me": Installed("1", ('me[all]; extra == "all"',), ""),
}
PYTHON = Environment("3.11.7", lambda name: KNOWN.get(name.lower()))


@pytest.mark.parametrize(
    ("requirement", "lacks"),
    [
        ("lib", []),
        ("Lib>=1.5,<2", []),
        ("lib==1.*", []),
        ("lib>=2", [Lack("lib>=2", "1.5")]),
        ("none", [Lack("none", "not installed")]),
        ("none; sys_platform == 'win32'", []),
        ("none>2; python_version >= '3'", [Lack("none>2; python_version >= '3'", "not installed")]),
        ("lib[more]", [Lack('gone; extra == "more"', "not installed")]),
        ("lib[most]", [Lack('dep>=3; extra == "most"', "2.0")]),
        ("lib[unheard]", []),
        ("me[all]", []),
        ("pre>=2.0rc1", []),
        ("direct @ https://example.org/direct.zip", []),
        ("direct @ https://example.org/other.zip", [Lack("direct @ https://example.org/other.zip", "1.0 from https://example.org/direct.zip")]),
        ("lib @ https://example.org/lib.zip", [Lack("lib @ https://example.org/lib.zip", "1.5 from an index")]),
        ("lib==1.5 --hash=sha256:aa", []),
        ("./w/lib-1-py3-none-any.whl", [Lack("./w/lib-1-py3-none-any.whl", "a file of the program")]),
    ],
)  # fmt: skip
def test_what_a_python_lacks_is_said(requirement: str, lacks: list[Lack]) -> None:
    """Versions, markers, extras and what they need, addresses, hashes, files."""
    assert satisfied_by(Stated("r.txt", (requirement,)), PYTHON) == lacks


def test_python_and_constraints_count_too() -> None:
    """A package that is there in a version that a constraint forbids does not do."""
    assert satisfied_by(Stated("r.txt", python=">=3.12"), PYTHON) == [Lack("Python >=3.12", "3.11.7")]
    assert satisfied_by(Stated("r.txt", python=">=3.11"), PYTHON) == []
    limited = Stated("r.txt", ("lib",), constraints=("LIB<1.2", "other<1", "dep<1; sys_platform == 'win32'"))
    assert satisfied_by(limited, PYTHON) == [Lack("lib<1.2", "1.5")]


def test_what_cannot_be_read_is_refused_by_name() -> None:
    """With the file that says it."""
    with pytest.raises(DeployError, match=r"r\.txt: cannot read the requirement 'a b c'"):
        satisfied_by(Stated("r.txt", ("a b c",)), PYTHON)
    with pytest.raises(DeployError, match=r"r\.txt: requires-python is 'three'"):
        satisfied_by(Stated("r.txt", python="three"), PYTHON)


def test_this_python_has_what_runs_the_tests() -> None:
    """And not what nobody has."""
    asked = Stated("r.txt", ("pytest>=8", "hypothesis", "no-such-package-here>1"))
    assert satisfied_by(asked, this_environment()) == [Lack("no-such-package-here>1", "not installed")]


def test_constellation_and_its_plugins_are_the_node_s() -> None:
    """They are never installed for a program, but what it asks of them must hold."""
    asked = Stated("r.txt", ("Constellation>=9", "constellation_spread", "lib", "./x.whl"), python=">=3.99")
    wanted, provided = without_provided(asked, ["constellation", "constellation-spread"])
    assert (wanted.requirements, wanted.python) == (("lib", "./x.whl"), ">=3.99")
    assert (provided.requirements, provided.python) == (("Constellation>=9", "constellation_spread"), "")


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """Give a folder of wheels."""
    folder = tmp_path / "wheels"
    wheel(folder, "cstl_one", "1.0")
    wheel(folder, "cstl_one", "2.0")
    wheel(folder, "cstl_two", "1.0", "cstl_one<2", 'cstl_three; extra == "more"')
    wheel(folder, "cstl_three", "1.0")
    return folder


@pytest.fixture
def environments(tmp_path: Path, wheels: Path) -> Environments:
    """Give environments that are filled from these wheels and from nowhere else."""
    return Environments(tmp_path / "envs", options=("--no-index", "--find-links", str(wheels)))


def run(python: str, code: str, *, cwd: str = "/") -> str:
    """What a program prints with some Python."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, timeout=60, cwd=cwd, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_where_nothing_is_asked_or_all_is_there_the_node_s_python_is_used(environments: Environments) -> None:
    """And nothing is made."""
    log: list[str] = []
    assert environments.ensure(Stated(), log=log.append) == sys.executable
    assert environments.ensure(Stated("r.txt", ("pytest", "msgpack>=1"), ">=3.11"), log=log.append) == sys.executable
    assert (log, os.listdir(environments.folder)) == ([], [])


def test_the_node_s_python_can_be_forced(environments: Environments) -> None:
    """What it lacks is said; that it may fail is the person's will."""
    log: list[str] = []
    asked = Stated("r.txt", ("cstl_one",), ">=3.99")
    assert environments.ensure(asked, log=log.append, force=True) == sys.executable
    assert log[1] == "the node's Python is used as it is, without cstl_one (not installed)"
    assert os.listdir(environments.folder) == []


@has_pip
def test_an_environment_has_what_is_asked_and_constellation_from_the_node(
    environments: Environments, tmp_path: Path
) -> None:
    """It is made once; scripts in it run; the node's own packages are behind it."""
    import constellation

    log: list[str] = []
    asked = Stated("requirements.txt", ("cstl_two[more]", "constellation>=0"))
    python = environments.ensure(asked, log=log.append)
    assert python.startswith(environments.folder)
    assert run(python, "import cstl_one, cstl_three; print(cstl_one.VERSION)") == "1.0"
    assert run(python, "import constellation as c, msgpack, pluggy; print(*c.__path__)") == constellation.__path__[0]
    assert run(python, "import sys; print(sys.prefix)") == str(Path(python).parent.parent)
    script = Path(python).with_name("cstl_one-tool")
    assert subprocess.run([script], capture_output=True, text=True, check=True, timeout=60).stdout == "cstl_one 1.0\n"
    assert log[0] == "installing what requirements.txt asks for, once on this node: cstl_two[more]"
    assert log[-1].startswith("installed in ")
    assert any(line.startswith("Successfully installed") for line in log)
    again: list[str] = []
    assert environments.ensure(asked, log=again.append) == python
    assert again == []
    other = environments.ensure(Stated("requirements.txt", ("cstl_one>=2",)))
    assert other != python
    assert run(other, "import cstl_one; print(cstl_one.VERSION)") == "2.0"


@has_pip
def test_a_package_that_the_node_has_in_another_version_is_the_program_s(
    environments: Environments, wheels: Path
) -> None:
    """What is installed for it comes before what the node has; the node's stays as it is."""
    wheel(wheels, "iniconfig", "99.0")
    python = environments.ensure(Stated("r.txt", ("iniconfig>=99",)))
    assert run(python, "import iniconfig; print(iniconfig.VERSION)") == "99.0"
    import iniconfig

    assert not hasattr(iniconfig, "VERSION")


@has_pip
@pytest.mark.skipif(
    "constellation" not in node_distributions(), reason="constellation is not installed, only on the path"
)
def test_a_package_that_constellation_does_not_bear_is_refused(environments: Environments, wheels: Path) -> None:
    """Else its processes would fail in the middle."""
    wheel(wheels, "msgpack", "0.1")
    with pytest.raises(DeployError, match=r"(?s)r\.txt asks for.*msgpack"):
        environments.ensure(Stated("r.txt", ("msgpack<1",)))
    assert [name for name in os.listdir(environments.folder) if not name.endswith(".lock")] == []


@has_pip
def test_wheels_that_travel_with_the_program_are_installed_from_its_copy(tmp_path: Path) -> None:
    """Their content counts: another one under the same name gets another environment."""
    root = tmp_path / "copy"
    root.mkdir()
    wheel(root / "w", "cstl_own", "1.0")
    (root / "requirements.txt").write_text("--no-index\n--find-links w\ncstl_own\n")
    environments = Environments(tmp_path / "envs")
    first = environments.ensure(stated(str(root)), root=str(root))
    assert run(first, "import cstl_own; print(cstl_own.VERSION)") == "1.0"
    wheel(root / "w", "cstl_own", "1.0", code="VERSION = 'changed'")
    second = environments.ensure(stated(str(root)), root=str(root))
    assert run(second, "import cstl_own; print(cstl_own.VERSION)") == "changed"
    (root / "requirements.txt").write_text("--no-index\n./w/cstl_own-1.0-py3-none-any.whl\n")
    third = environments.ensure(stated(str(root)), root=str(root))
    assert run(third, "import cstl_own; print(cstl_own.VERSION)") == "changed"


@has_pip
def test_hashes_and_constraints_are_held(environments: Environments, wheels: Path) -> None:
    """A wheel with another hash than stated is not installed; a constraint limits what others ask for."""
    digest = hashlib.sha256((wheels / "cstl_one-2.0-py3-none-any.whl").read_bytes()).hexdigest()
    good = environments.ensure(Stated("r.txt", (f"cstl_one==2.0 --hash=sha256:{digest}",)))
    assert run(good, "import cstl_one; print(cstl_one.VERSION)") == "2.0"
    with pytest.raises(DeployError, match="does not have the hash that is stated"):
        environments.ensure(Stated("r.txt", (f"cstl_one==2.0 --hash=sha256:{'0' * 64}",)))
    limited = environments.ensure(Stated("r.txt", ("cstl_one",), constraints=("cstl_one<2",)))
    assert run(limited, "import cstl_one; print(cstl_one.VERSION)") == "1.0"


@has_pip
@pytest.mark.parametrize(
    ("requirements", "words"),
    [
        (("cstl_nothing>=1",), "cannot install what r.txt asks for: there is no package cstl_nothing>=1"),
        (("cstl_one==3",), "there is no cstl_one==3 for this node's Python; there are 1.0, 2.0"),
        (
            ("cstl_two", "cstl_one>=2"),
            r"(?s): cstl_two and cstl_one>=2 do not go together.*cstl.two 1\.0 depends on cstl.one<2",
        ),
    ],
)
def test_what_cannot_be_installed_is_said_in_words_and_leaves_nothing(
    environments: Environments, requirements: tuple[str, ...], words: str
) -> None:
    """A package that is not there, a version, two that do not go together."""
    with pytest.raises(DeployError, match=words):
        environments.ensure(Stated("r.txt", requirements))
    assert [name for name in os.listdir(environments.folder) if not name.endswith(".lock")] == []


def test_a_node_that_cannot_be_made_to_fit_is_refused_before_anything_is_made(environments: Environments) -> None:
    """No environment brings another Python or another constellation."""
    with pytest.raises(DeployError, match=r"it must have Python >=3\.99, and has 3\.1"):
        environments.ensure(Stated("r.txt", ("cstl_one",), ">=3.99"))
    with pytest.raises(DeployError, match="it must have constellation>=99, and has"):
        environments.ensure(Stated("r.txt", ("constellation>=99",)))
    assert os.listdir(environments.folder) == []


INSTALLING = """
    import sys
    from constellation.core.requirements import Stated
    from constellation.fabric.environments import Environments
    envs = Environments(sys.argv[1], options=("--no-index", "--find-links", sys.argv[2]))
    print("python", envs.ensure(Stated("r.txt", tuple(sys.argv[3:])), log=lambda line: print(line, flush=True)))
    """


def installing(environments: Environments, wheels: Path, *requirements: str) -> subprocess.Popen[str]:
    """Start a process that makes an environment."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(INSTALLING), environments.folder, str(wheels), *requirements],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@has_pip
def test_deployments_that_ask_for_the_same_at_once_make_it_once(environments: Environments, wheels: Path) -> None:
    """The others wait, say so, and use it; one that asks for something else is not kept waiting by them."""
    running = [installing(environments, wheels, "cstl_two") for _ in range(3)]
    running.append(installing(environments, wheels, "cstl_three"))
    said = [each.communicate(timeout=100)[0] for each in running]
    assert [each.returncode for each in running] == [0] * 4, said
    pythons = [text.splitlines()[-1].removeprefix("python ") for text in said]
    assert len(set(pythons[:3])) == 1
    assert pythons[3] != pythons[0]
    assert sum("Successfully installed" in text for text in said[:3]) == 1
    assert run(pythons[0], "import cstl_two, cstl_one; print(cstl_one.VERSION)") == "1.0"


@has_pip
@pytest.mark.parametrize("whom", ["pip", "both"])
def test_a_killed_installation_leaves_nothing_half_made(
    environments: Environments, wheels: Path, tmp_path: Path, whom: str
) -> None:
    """Whether pip is killed or who runs it: the next one makes it anew, whole."""
    # A package whose build stops: so pip is in the middle of its work for as long as the test wants.
    source = tmp_path / "slow"
    (source / "cstl_slow-1.0").mkdir(parents=True)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (source / "cstl_slow-1.0/setup.py").write_text(
        f"open({str(tmp_path / 'begun')!r}, 'w').close()\nopen({str(gate)!r}).read()\n"
    )
    (source / "cstl_slow-1.0/PKG-INFO").write_text("Metadata-Version: 2.1\nName: cstl_slow\nVersion: 1.0\n")
    shutil.make_archive(str(wheels / "cstl_slow-1.0"), "gztar", source, "cstl_slow-1.0")
    backend = '[build-system]\nrequires = []\nbuild-backend = "setup"\nbackend-path = ["."]\n'
    (source / "cstl_slow-1.0/pyproject.toml").write_text(backend)
    shutil.make_archive(str(wheels / "cstl_slow-1.0"), "gztar", source, "cstl_slow-1.0")
    first = installing(environments, wheels, "cstl_slow")
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (inside,) = [name for name in os.listdir(environments.folder) if not name.endswith(".lock")]
    assert not (Path(environments.folder) / inside / "ready").exists()
    pips = [pid for pid in children(first.pid) if b"pip" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert pips
    if whom == "both":
        first.send_signal(signal.SIGKILL)
        first.wait()
    for pid in pips:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    # Whoever opens the other end lets the build go on and fail, if it lives still.
    with contextlib.suppress(OSError):
        os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
    said = first.communicate(timeout=60)[0]
    assert first.returncode != 0, said
    wheel(wheels, "cstl_slow", "1.0")
    (wheels / "cstl_slow-1.0.tar.gz").unlink()
    python = environments.ensure(Stated("r.txt", ("cstl_slow",)))
    assert os.path.dirname(os.path.dirname(python)) == os.path.join(environments.folder, inside)
    assert run(python, "import cstl_slow; print(cstl_slow.VERSION)") == "1.0"


def children(pid: int) -> list[int]:
    """The children of a process, by the kernel's list."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in found]


@has_pip
def test_an_installation_that_takes_too_long_is_ended(environments: Environments, wheels: Path, tmp_path: Path) -> None:
    """With all that pip has started."""
    source = tmp_path / "slow/cstl_slow-1.0"
    source.mkdir(parents=True)
    os.mkfifo(tmp_path / "gate")
    (source / "setup.py").write_text(f"open({str(tmp_path / 'gate')!r}).read()\n")
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "setup"\nbackend-path = ["."]\n'
    )
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: cstl_slow\nVersion: 1.0\n")
    shutil.make_archive(str(wheels / "cstl_slow-1.0"), "gztar", tmp_path / "slow", "cstl_slow-1.0")
    with pytest.raises(DeployError, match=r"gave up installing what r\.txt asks for: it took too long"):
        environments.ensure(Stated("r.txt", ("cstl_slow",)), limit_s=3.0)
    assert [name for name in os.listdir(environments.folder) if not name.endswith(".lock")] == []


@has_pip
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, wheels: Path) -> None:
    """In the middle of an installation."""
    wheel(wheels, "cstl_large", "1.0", code="X = '" + "x" * (3 << 20) + "'\n")
    where = tmp_path / "disk"
    where.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", where], check=False)
    if mounted.returncode:
        pytest.skip("cannot mount a small disk here")
    try:
        environments = Environments(where / "envs", options=("--no-index", "--find-links", str(wheels)))
        with pytest.raises(DeployError, match="make room"):
            environments.ensure(Stated("r.txt", ("cstl_large",)))
        assert [name for name in os.listdir(environments.folder) if not name.endswith(".lock")] == []
    finally:
        subprocess.run(["umount", where], check=True)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """With its name."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DeployError, match=r"cannot keep environments in .*file/envs"):
        Environments(tmp_path / "file" / "envs")


@has_pip
def test_trim_keeps_what_was_used_last_and_what_is_held(environments: Environments) -> None:
    """And sweeps what a killed installation has left."""
    pythons = [environments.ensure(Stated("r.txt", (f"cstl_one=={version}",))) for version in ("1.0", "2.0")]
    pythons.append(environments.ensure(Stated("r.txt", ("cstl_three",))))
    for age, python in enumerate(reversed(pythons)):
        os.utime(Path(python).parent.parent / "ready", (1e9 - age, 1e9 - age))
    (Path(environments.folder) / "half").mkdir()
    (Path(environments.folder) / "half.lock").touch()
    with environments.hold(pythons[0]), environments.hold(sys.executable):
        gone = environments.trim(1)
    assert sorted(gone) == sorted(["half", Path(pythons[1]).parent.parent.name])
    assert [Path(python).exists() for python in pythons] == [True, False, True]
    assert environments.ensure(Stated("r.txt", ("cstl_one==2.0",))) == pythons[1]
    assert run(pythons[1], "import cstl_one; print(cstl_one.VERSION)") == "2.0"
