"""The four ways to enable a plugin, their order, options and choices, in real programs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.conftest import Leftovers, RunProgram
from tests.io.plugin_harness import SCHEDULER, SERIALIZER, TRANSPORT, install, module

NEWS = """
@hookimpl
def register_options(): return [Option("depth", int, 3, "How deep."), Option("loud", bool, False)]
@hookimpl
def deployment_started(first, options): print(NAME, options["depth"], options["loud"], file=sys.stderr, flush=True)
"""
Run = Callable[..., str]
EMPTY = "from constellation import init\ninit({})\n"


def environment(leftovers: Leftovers, more: Mapping[str, str]) -> dict[str, str]:
    """The clean environment with what is installed for a test, which goes first."""
    path = (
        [more["PYTHONPATH"], *filter(None, [leftovers.environment.get("PYTHONPATH")])] if "PYTHONPATH" in more else []
    )
    return {**more, "PYTHONPATH": ":".join(path)} if path else dict(more)


def said(stderr: str) -> list[str]:
    """What the plugins have said, in order."""
    return [line for line in stderr.splitlines() if line.split()[0] in {"one", "two", "three", "four"}]


@pytest.fixture
def run(run_program: RunProgram, leftovers: Leftovers, tmp_path: Path) -> Run:
    """Give a function that runs a program after writing four news plugins beside it."""
    for name in ("one", "two", "three", "four"):
        module(tmp_path, name, NEWS)

    def run(source: str, *words: str, env: Mapping[str, str] | None = None) -> str:
        command = ("-m", "constellation", *words, "run") if words else ()
        done = run_program(
            tmp_path, source, env=environment(leftovers, {"PYTHONPATH": str(tmp_path), **(env or {})}), command=command
        )
        assert done.returncode == 0, done
        return done.stderr

    return run


def test_the_four_ways_add_up_in_their_order(run: Run, tmp_path: Path) -> None:
    """The program's own first, then the option's, the variable's, the project's; each once."""
    (tmp_path / "pyproject.toml").write_text('[tool.constellation]\nplugins = ["plug.four", "plug.one"]\n')
    stderr = run(
        EMPTY.format('plugins=["plug.one"]'),
        "--plugin",
        "plug.two",
        env={"CONSTELLATION_PLUGINS": "plug.three,plug.two"},
    )
    assert [line.split()[0] for line in said(stderr)] == ["one", "two", "three", "four"]


@pytest.mark.parametrize("way", ["init", "--plugin", "CONSTELLATION_PLUGINS", "pyproject.toml"])
def test_each_way_is_enough(run: Run, tmp_path: Path, way: str) -> None:
    """By itself."""
    if way == "pyproject.toml":
        (tmp_path / "pyproject.toml").write_text('[tool.constellation]\nplugins = ["plug.one"]\n')
    stderr = run(
        EMPTY.format('plugins=["plug.one"]' if way == "init" else ""),
        *(("--plugin", "plug.one") if way == "--plugin" else ()),
        env={"CONSTELLATION_PLUGINS": "plug.one"} if way == "CONSTELLATION_PLUGINS" else {},
    )
    assert said(stderr) == ["one 3 False"]


def test_options_of_the_command_win_over_the_variable_and_that_over_the_project(run: Run, tmp_path: Path) -> None:
    """Each option by itself, with its type."""
    (tmp_path / "pyproject.toml").write_text(
        '[tool.constellation]\nplugins = ["plug.one", "plug.two"]\n'
        '[tool.constellation."plug.one"]\ndepth = 4\nloud = true\n[tool.constellation."plug.two"]\ndepth = 5\n'
        "[tool.constellation.absent]\nwhatever = 1\n"
    )
    variable = {"CONSTELLATION_PLUGIN_OPTIONS": json.dumps({"plug.one.depth": "6", "plug.two.depth": "7"})}
    stderr = run(EMPTY.format(""), "--plugin-option", "plug.two.depth=8", env=variable)
    assert said(stderr) == ["one 6 True", "two 8 False"]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("plug.one.dept=1", "no option 'dept' of plugin 'plug.one': did you mean 'depth'?"),
        ("plug.one.depth=deep", "cannot use plug.one.depth='deep': expected a whole number, such as 3"),
        (
            "plug.ones.depth=1",
            "plugin option 'plug.ones.depth' is for a plugin that is not enabled; did you mean 'plug.one'?",
        ),
    ],
)
def test_an_option_that_cannot_be_used_ends_the_program(
    run_program: RunProgram, tmp_path: Path, option: str, words: str
) -> None:
    """At init(), with the near name."""
    module(tmp_path, "one", NEWS)
    done = run_program(
        tmp_path,
        EMPTY.format('plugins=["plug.one"]'),
        command=("-m", "constellation", "run", "--plugin-option", option),
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"constellation.core.errors.PluginError: {words}"


CHOOSES = """
from constellation import Receiver, Resources, Sender, init, parent, pid, spawn
import constellation.process.runtime as runtime
def child():
    Sender(parent()).send([runtime.current().transport.name, runtime.current().serializer.name]).block()
deployment = init(capacity=Resources(mem="1 GiB", cpu=2), PLUGINS)
print(Receiver(spawn(child).block()).recv().block(), [tuple(each) for each in deployment.plugins])
"""


def test_one_flag_switches_to_an_installed_plugin(
    run_program: RunProgram, leftovers: Leftovers, tmp_path: Path
) -> None:
    """Transport, serializer and scheduler of strangers' packages; the deployment states their versions."""
    env = install(tmp_path, "pairs", TRANSPORT)
    install(tmp_path, "plain", SERIALIZER, version="2.0")
    install(tmp_path, "pick", SCHEDULER)
    done = run_program(
        tmp_path,
        CHOOSES.replace("PLUGINS", ""),
        env=environment(leftovers, env),
        command=("-m", "constellation", "run", "--plugin", "pairs,plain,pick"),
    )
    stated = [
        ("pairs", "constellation-pairs", "1.5"),
        ("plain", "constellation-plain", "2.0"),
        ("pick", "constellation-pick", "1.5"),
    ]
    assert f"    ['pairs', 'plain'] {stated}" in done.stdout.splitlines(), done


def test_what_is_said_in_code_wins_over_what_is_chosen_outside(
    run_program: RunProgram, leftovers: Leftovers, tmp_path: Path
) -> None:
    """init(transport=) over --transport over the variable over the project over the enabled plugin."""
    for name in ("aaa", "bbb", "ccc", "ddd"):
        module(tmp_path, name, TRANSPORT)
    names = "plug.aaa,plug.bbb,plug.ccc,plug.ddd"
    (tmp_path / "pyproject.toml").write_text('[tool.constellation]\ntransport = "ddd"\n')

    def used(in_code: str, *words: str, **env: str) -> str:
        env = {"CONSTELLATION_PLUGINS": names, "PYTHONPATH": str(tmp_path), **env}
        done = run_program(
            tmp_path,
            CHOOSES.replace("PLUGINS", in_code),
            env=environment(leftovers, env),
            command=("-m", "constellation", "run", *words),
        )
        assert done.returncode == 0, done
        return done.stdout

    assert "['ddd', 'pickle']" in used("")
    assert "['ccc', 'pickle']" in used("", CONSTELLATION_TRANSPORT="ccc")
    assert "['bbb', 'pickle']" in used("", "--transport", "bbb", CONSTELLATION_TRANSPORT="ccc")
    assert "['aaa', 'pickle']" in used("transport='aaa'", "--transport", "bbb")
    assert "['tcp', 'pickle']" in used("", "--transport", "tcp")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("plug.aaa,plug.bbb", ("the enabled plugins offer several transports: 'aaa' of 'plug.aaa' and 'bbb' of 'plug.bbb'; "
                              "say which with --transport NAME or init(transport=...)")),
        ("plug.aaa,plug.same", "two plugins claim the transport 'aaa': 'plug.aaa' and 'plug.same'; enable only one of them"),
    ],
)  # fmt: skip
def test_two_that_cannot_both_be_meant_are_both_named(
    run_program: RunProgram, tmp_path: Path, names: str, words: str
) -> None:
    """Before anything runs."""
    module(tmp_path, "aaa", TRANSPORT)
    module(tmp_path, "bbb", TRANSPORT)
    module(tmp_path, "same", TRANSPORT.replace("NAME", "'aaa'"))
    done = run_program(tmp_path, EMPTY.format(""), env={"CONSTELLATION_PLUGINS": names})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"constellation.core.errors.PluginError: {words}"


def test_a_plugin_works_where_the_program_is_run_again(
    run_program: RunProgram, leftovers: Leftovers, tmp_path: Path
) -> None:
    """A program with threads has a template that runs it anew: it enables the same."""
    env = install(tmp_path, "pairs", TRANSPORT)
    threaded = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    done = run_program(
        tmp_path, threaded + CHOOSES.replace("PLUGINS", "plugins=['pairs']"), env=environment(leftovers, env)
    )
    assert "['pairs', 'pickle'] [('pairs', 'constellation-pairs', '1.5')]" in done.stdout, done


def test_installed_plugins_that_are_not_enabled_are_not_even_looked_for(
    run_program: RunProgram, leftovers: Leftovers, tmp_path: Path
) -> None:
    """Not in the program, not in what it spawns, not in the fabric: the scan costs more than the whole start."""
    env = install(tmp_path, "pairs", TRANSPORT, "open('imported', 'w').close()")
    done = run_program(
        tmp_path,
        """
        import sys
        from constellation import Receiver, Sender, init, parent, spawn
        def scanned():
            return sorted({"importlib.metadata", "importlib_metadata", "tomllib", "difflib"} & set(sys.modules))
        def child():
            Sender(parent()).send(scanned()).block()
        init()
        print(scanned(), Receiver(spawn(child).block()).recv().block())
        """,
        env=environment(leftovers, env),
    )
    assert "    [] []" in done.stdout.splitlines(), done
    assert not (tmp_path / "imported").exists()


def test_the_fabric_scans_only_for_names(leftovers: Leftovers, tmp_path: Path) -> None:
    """The same manager is made there."""
    code = (
        "import sys; from constellation.core.plugins import make_plugin_manager as make; "
        "plugins = make(); plugins.scheduler(); plugins.transport(); "
        "print(sorted({'importlib.metadata', 'importlib_metadata'} & set(sys.modules))); "
        "make(['constellation.schedulers.bin_packing']); print('importlib_metadata' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=leftovers.environment, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "[]\nFalse\n"


def test_plugins_lists_a_strangers_package(leftovers: Leftovers, tmp_path: Path) -> None:
    """With package and version, before it is ever imported; and all of it when it is enabled."""
    env = environment(leftovers, install(tmp_path, "pairs", TRANSPORT))

    def listed(*words: str) -> dict[str, object]:
        done = subprocess.run(
            [sys.executable, "-m", "constellation", "plugins", "--json", *words],
            cwd=tmp_path,
            env={**leftovers.environment, **env},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return next(line for line in json.loads(done.stdout) if line["name"] == "pairs")

    assert listed()["state"] == "not imported"
    line = listed("--plugin", "pairs")
    assert [line[key] for key in ("kinds", "provides", "package", "version", "enabled_by", "hooks", "state")] == [
        ["transport"], ["transport pairs"], "constellation-pairs", "1.5", "--plugin", ["register_transports"], "ok"
    ]  # fmt: skip
