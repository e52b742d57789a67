"""The words of the command line: where options may stand, what they put into the environment, what is refused."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from constellation.cli.main import cli
from constellation.core.errors import ConstellationError
from constellation.core.finding import own_version
from constellation.core.resources import Resources


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in an empty folder with a program in it."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "prog.py"
    path.write_text("")
    return path


@pytest.fixture
def execed(program: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record exec's arguments in place of doing it."""
    calls: list[Any] = []

    def exec_(path: str, arguments: list[str], environ: dict[str, str]) -> None:
        calls[:] = [path, arguments, {key: value for key, value in environ.items() if key.startswith("CONSTELLATION_")}]
        raise SystemExit(0)

    monkeypatch.setattr(os, "execve", exec_)
    return calls


def invoke(*words: str) -> Result:
    """Run a command line in this process."""
    return CliRunner().invoke(cli, list(words), prog_name="constellation")


def refusal(*words: str) -> str:
    """Say how a command line is refused; it must end with 2."""
    result = invoke(*words)
    if isinstance(result.exception, ConstellationError):
        return str(result.exception)  # main() makes exit code 2 of it; tests of the real command see that
    assert result.exit_code == 2, result.output
    return result.output


def test_run_is_python(execed: list[Any]) -> None:
    """`constellation run prog.py ARGS` execs `python prog.py ARGS` and adds nothing."""
    invoke("run", "prog.py", "a", "--mem", "b")
    assert execed == [sys.executable, [sys.executable, "prog.py", "a", "--mem", "b"], {}]


def test_run_m_is_python_m(execed: list[Any]) -> None:
    """With -m the program is a module, and what follows is its own."""
    invoke("run", "-m", "json.tool", "-m", "--help")
    assert execed[1] == [sys.executable, "-m", "json.tool", "-m", "--help"]


@pytest.mark.parametrize(
    "words",
    [
        ("--format", "json", "--plugin", "pickle", "--plugin-option", "tcp.a=1=2", "run", "prog.py"),
        ("run", "--format", "json", "--plugin", "pickle", "--plugin-option", "tcp.a=1=2", "prog.py"),
        ("--format", "raw", "--plugin", "pickle", "run", "--format=json", "--plugin-option", "tcp.a=1=2", "prog.py"),
    ],
)
def test_shared_options_before_and_after_the_command(execed: list[Any], words: tuple[str, ...]) -> None:
    """The place of an option does not matter; said twice, the later counts."""
    invoke(*words)
    assert execed[2] == {
        "CONSTELLATION_FORMAT": "json",
        "CONSTELLATION_PLUGINS": "pickle",
        "CONSTELLATION_PLUGIN_OPTIONS": '{"tcp.a": "1=2"}',
    }


def test_plugins_of_all_places_are_joined(execed: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment enables stays enabled, each name once."""
    monkeypatch.setenv("CONSTELLATION_PLUGINS", "a.b, pickle")
    monkeypatch.setenv("CONSTELLATION_PLUGIN_OPTIONS", '{"a.b.x": "1", "a.b.y": "1"}')
    invoke("--plugin", "c.d,msgpack", "run", "--plugin", "pickle", "--plugin-option", "a.b.y=2", "prog.py")
    assert execed[2]["CONSTELLATION_PLUGINS"] == "c.d,msgpack,pickle,a.b"
    assert json.loads(execed[2]["CONSTELLATION_PLUGIN_OPTIONS"]) == {"a.b.x": "1", "a.b.y": "2"}


def test_capacity_travels_in_exact_amounts(execed: list[Any]) -> None:
    """--mem, --cpu and --resource become the fields of Resources."""
    invoke("run", "--mem", "2 GiB", "--cpu", "0.3", "--resource", "gpu=2", "--resource", "disk=0.5", "prog.py")
    given = Resources.from_fields(json.loads(execed[2]["CONSTELLATION_CAPACITY"]))
    assert given == Resources(mem="2 GiB", cpu=0.3, gpu=2, disk=0.5)


def test_capacity_left_out_is_the_computers(execed: list[Any]) -> None:
    """Only what is said is limited."""
    invoke("run", "--resource", "gpu=1", "prog.py")
    given = Resources.from_fields(json.loads(execed[2]["CONSTELLATION_CAPACITY"]))
    assert given.cpu == len(os.sched_getaffinity(0))
    assert given.mem > 1 << 26


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("run",), "no program given: expected constellation run prog.py ARGS"),
        (("run", "nothing.py"), "cannot run 'nothing.py': expected a file that exists"),
        (("run", "--mem", "10 GB of ram", "prog.py"), "cannot read mem='10 GB of ram': expected bytes"),
        (("run", "--mem=-5", "prog.py"), "cannot read mem='-5': expected bytes"),
        (("run", "--cpu", "nan", "prog.py"), "cannot use cpu=nan: expected a"),
        (("run", "--cpu", "-1", "prog.py"), "cannot use cpu=-1.0: expected a number from 0"),
        (("run", "--cpu", "many", "prog.py"), "'many' is not a valid float"),
        (("run", "--resource", "gpu", "prog.py"), "cannot read 'gpu': expected NAME=VALUE, such as gpu=2"),
        (("run", "--resource", "gpu=two", "prog.py"), "cannot use --resource gpu=two: expected a number after the '='"),
        (("run", "--resource", "mem=2", "prog.py"), "cannot use --resource mem=2: expected --mem 2"),
        (("run", "--resource", "g p=2", "prog.py"), "cannot use a resource named 'g p': expected letters"),
        (("run", "--format", "xml", "prog.py"), "'xml' is not one of 'human', 'json', 'raw'"),
        (("--format", "xml", "run", "prog.py"), "'xml' is not one of 'human', 'json', 'raw'"),
        (("run", "--plugin", "pikle", "prog.py"), "unknown plugin 'pikle'; did you mean 'pickle'?"),
        (("run", "--plugin", "", "prog.py"), "cannot use an empty name in '': expected the name of a plugin"),
        (("run", "--plugin-option", "tcp", "prog.py"), "cannot read 'tcp': expected NAME.KEY=VALUE"),
        (("run", "--plugin-option", "nodelay=1", "prog.py"), "cannot use the key 'nodelay': expected NAME.KEY"),
        (("rum", "prog.py"), "no such command 'rum'; did you mean 'run'?"),
        (("prog.py", "x"), "no such command 'prog.py'; to run a program: constellation run prog.py x"),
        (("xyzzy",), "no such command 'xyzzy'; expected one of "),
    ],
)
def test_bad_words_are_refused(program: Path, words: tuple[str, ...], text: str) -> None:
    """Each refusal says what, with which value, what was expected."""
    assert text in " ".join(refusal(*words).split())


def test_bad_options_in_the_environment_are_named(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is named, because the user did not write it on this line."""
    monkeypatch.setenv("CONSTELLATION_PLUGIN_OPTIONS", "[]")
    words = refusal("run", "--plugin-option", "tcp.a=1", "prog.py")
    assert "cannot use CONSTELLATION_PLUGIN_OPTIONS='[]': expected a JSON object" in words


def test_plugins_add_commands(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is not built in is looked for in the plugins, and help shows it."""
    (program.parent / "cmdplug").mkdir()
    (program.parent / "cmdplug" / "greet.py").write_text(
        "from constellation.plugin import hookimpl\n"
        "@hookimpl\n"
        "def register_commands(cli):\n"
        "    @cli.command()\n"
        "    def greet():\n"
        "        'Greet.'\n"
        "        print('hello')\n"
    )
    monkeypatch.syspath_prepend(str(program.parent))
    before = dict(cli.commands)
    try:
        assert "Greet." in invoke("--plugin", "cmdplug.greet", "--help").output
        cli.commands = dict(before)
        assert invoke("--plugin", "cmdplug.greet", "greet").output == "hello\n"
    finally:
        cli.commands = before
    assert "Greet." not in invoke("--help").output


def test_choices_travel_in_variables(execed: list[Any]) -> None:
    """--transport and its like are for programs that do not choose themselves."""
    invoke("run", "--transport", "a", "--scheduler", "b", "prog.py")
    assert execed[2] == {"CONSTELLATION_TRANSPORT": "a", "CONSTELLATION_SCHEDULER": "b"}


def test_plugins_lists_a_table(program: Path) -> None:
    """Each plugin has a line: kind, package, version, what enables it, hooks, state."""
    lines = invoke("plugins").output.splitlines()
    assert lines[0].split() == ["NAME", "KIND", "PACKAGE", "VERSION", "ENABLED", "BY", "HOOKS", "STATE"]
    [line] = [line for line in lines if line.startswith("bin_packing")]
    assert line.split()[1:] == ["scheduler", "constellation", own_version(), "default", "register_schedulers", "ok"]


@pytest.mark.parametrize("words", [("plugins", "--json"), ("--format", "json", "plugins")])
def test_plugins_lists_json(program: Path, words: tuple[str, ...]) -> None:
    """The same as data."""
    listed = {line["name"]: line for line in json.loads(invoke(*words).output)}
    assert listed["pickle"]["module"] == "constellation.serializers.pickle"
    assert listed["pickle"]["enabled_by"] == "default"
    assert listed["pickle"]["provides"] == ["serializer pickle"]
    assert (listed["pickle"]["state"], listed["pickle"]["reason"]) == ("ok", "")


def test_plugins_shows_what_enables_each_and_why_one_is_unusable(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The option wins over the variable, the variable over the file; a broken one ends with 1."""
    project = program.parent / "pyproject.toml"
    project.write_text('[tool.constellation]\nplugins = ["no.a", "no.b", "no.c"]\n')
    monkeypatch.setenv("CONSTELLATION_PLUGINS", "no.a,no.b")
    result = invoke("plugins", "--plugin", "no.a", "--json")
    listed = {line["name"]: line for line in json.loads(result.output)}
    enabled_by = [listed[name]["enabled_by"] for name in ("no.a", "no.b", "no.c")]
    assert enabled_by == ["--plugin", "CONSTELLATION_PLUGINS", str(project)]
    assert listed["no.a"]["state"] == "unusable"
    assert "cannot import plugin 'no.a'" in listed["no.a"]["reason"]
    assert result.exit_code == 1
    assert "\nno.a: cannot import plugin 'no.a'" in invoke("plugins", "--plugin", "no.a").output


def test_plugins_shows_the_options(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As --plugin-option takes them."""
    (program.parent / "optplug").mkdir()
    (program.parent / "optplug" / "takes.py").write_text(
        "from constellation.plugin import Option, hookimpl\n"
        "@hookimpl\n"
        "def register_options(): return [Option('depth', int, 3, 'How deep.'), Option('how', choices=('a', 'b'))]\n"
    )
    monkeypatch.syspath_prepend(str(program.parent))
    rows = [
        line.split(maxsplit=3)
        for line in invoke("plugins", "--options", "--plugin", "optplug.takes").output.splitlines()
    ]
    assert ["optplug.takes.depth", "int", "3", "How deep."] in rows
    assert ["optplug.takes.how", "a|b", "-"] in rows
    assert "no plugin that is imported takes options" in invoke("plugins", "--options").output


@pytest.mark.parametrize("name", ["Upper", "1st", "two words", "pickle", "../x", "a--b", ""])
def test_plugins_new_refuses_names_that_cannot_be(program: Path, name: str) -> None:
    """Nothing is written then."""
    assert f"cannot name a plugin {name!r}: expected small letters" in refusal("plugins", "new", name, "--kind", "news")
    assert [path.name for path in program.parent.iterdir()] == ["prog.py"]


def test_plugins_new_overwrites_nothing(program: Path) -> None:
    """A folder that is there stays as it is."""
    (program.parent / "constellation-mine").mkdir()
    words = refusal("plugins", "new", "mine", "--kind", "news")
    assert "cannot write 'constellation-mine': it is there already; name another with --folder" in words
    result = invoke("plugins", "new", "mine", "--kind", "news", "--folder", "elsewhere")
    assert result.exit_code == 0
    assert "next: cd elsewhere && pip install -e '.[test]' && pytest" in result.output
    assert (program.parent / "elsewhere" / "constellation_mine" / "__init__.py").exists()
