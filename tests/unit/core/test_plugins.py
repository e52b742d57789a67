"""Plugins are found, loaded, asked and, when they fail, named."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import click
import pytest

from constellation.core.errors import PluginError
from constellation.core.plugins import DEFAULT_PLUGINS, Plugins, configured_plugins, make_plugin_manager, refuse_unknown

HEAD = "from constellation.plugin import hookimpl\n"
SCHEDULER = """
class First:
    def __init__(self, name, options=None): self.name, self.options = name, options
    def node_changed(self, node): ...
    def node_removed(self, node_id): ...
    def place(self, demand): return None
"""

Write = Callable[..., None]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Give a function that writes a module of a package ``plug``, or an installed distribution with an entry point."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "plug").mkdir()
    (tmp_path / "plug" / "__init__.py").write_text("")
    before = set(sys.modules)

    def write(name: str, source: str, *, point: str = "", distribution: str = "") -> None:
        (tmp_path / "plug" / f"{name}.py").write_text(HEAD + source)
        if point:
            info = tmp_path / f"{distribution or point}-1.5.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution or point}\nVersion: 1.5\n")
            (info / "entry_points.txt").write_text(f"[constellation]\n{point} = plug.{name}\n")

    yield write
    for loaded in set(sys.modules) - before:
        if loaded.split(".")[0] == "plug":
            del sys.modules[loaded]


# -- Finding -----------------------------------------------------------------------------------------------------------


def test_default_plugins_are_modules_of_the_package() -> None:
    """The defaults are found by their module names, like a third party's."""
    assert DEFAULT_PLUGINS == (
        "constellation.transports.tcp",
        "constellation.serializers.pickle",
        "constellation.serializers.msgpack",
        "constellation.schedulers.bin_packing",
    )


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        (Plugins.transport, "tcp"),
        (Plugins.serializer, "pickle"),
        (Plugins.scheduler, "bin_packing"),
    ],
)
def test_no_name_gives_the_default(ask: Callable[[Plugins], object], name: str) -> None:
    """Each kind but launchers has a default."""
    assert getattr(ask(make_plugin_manager()), "name", None) == name


def test_asking_twice_gives_the_same_object() -> None:
    """There is one object of a name per process, for it may hold state."""
    plugins = make_plugin_manager()
    assert plugins.scheduler() is plugins.scheduler("bin_packing")


def test_a_default_may_be_named_as_a_plugin() -> None:
    """Naming what is there anyway changes nothing."""
    assert make_plugin_manager(["pickle", "constellation.transports.tcp"]).names == ()


def test_a_dotted_name_is_a_module(module: Write) -> None:
    """A plugin of one's own program needs no installation."""
    module("mine", SCHEDULER + "@hookimpl\ndef register_schedulers(): return [First('mine')]\n")
    plugins = make_plugin_manager(["plug.mine"])
    assert plugins.scheduler("mine").name == "mine"
    assert plugins.names == ("plug.mine",)


def test_an_entry_point_is_imported_only_when_named(module: Write) -> None:
    """What is only installed does not run."""
    module("other", "@hookimpl\ndef detect_resources(): return {'gpu': 2}\n", point="fancy")
    make_plugin_manager().listing()
    assert "plug.other" not in sys.modules
    assert make_plugin_manager(["fancy"]).detect_resources() == {"gpu": 2}


def test_unknown_plugin_names_the_near_ones(module: Write) -> None:
    """A slip of the pen is found at once, and a missing package can be installed."""
    module("other", "@hookimpl\ndef detect_resources(): return {}\n", point="fancy")
    with pytest.raises(
        PluginError, match=r"unknown plugin 'fanzy'; did you mean 'fancy'\?.*pip install constellation-fanzy"
    ):
        make_plugin_manager(["fanzy"])


def test_unknown_plugin_is_refused_without_import(module: Write) -> None:
    """The command line checks names before the program runs, and lets pass what only the program can import."""
    module("other", "raise SystemExit", point="fancy")
    refuse_unknown(["fancy", "pickle", "my.own"])
    with pytest.raises(PluginError, match="unknown plugin 'fanzy'"):
        refuse_unknown(["fanzy"])


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (lambda plugins: plugins.transport("tpc"), r"unknown transport 'tpc'; did you mean 'tcp'\?; found: tcp"),
        (
            lambda plugins: plugins.serializer("pikle"),
            r"unknown serializer 'pikle'; did you mean 'pickle'\?; found: msgpack, pickle",
        ),
        (lambda plugins: plugins.launcher("ssh"), r"unknown launcher 'ssh'; found: none; enable the plugin"),
    ],
)
def test_unknown_object_names_what_there_is(ask: Callable[[Plugins], object], text: str) -> None:
    """A wrong transport=, serializer= or scheduler= says what could have been meant."""
    with pytest.raises(PluginError, match=text):
        ask(make_plugin_manager())


# -- Broken plugins ----------------------------------------------------------------------------------------------------


def test_import_error_names_plugin_and_cause(module: Write) -> None:
    """A plugin whose own imports fail is named, not only the module that it lacks."""
    module("broken", "import there_is_no_such_module\n")
    with pytest.raises(
        PluginError, match=r"cannot import plugin 'plug\.broken'.*ModuleNotFoundError.*there_is_no_such_module"
    ):
        make_plugin_manager(["plug.broken"])


def test_a_module_without_hooks_is_no_plugin(module: Write) -> None:
    """Naming any module by mistake is noticed."""
    module("empty", "")
    with pytest.raises(
        PluginError, match=r"plugin 'plug\.empty' \(module plug\.empty\) has no hooks: expected functions marked"
    ):
        make_plugin_manager(["plug.empty"])


def test_misspelt_hook_names_the_right_one(module: Write) -> None:
    """A hook that would never be called is refused."""
    module("typo", "@hookimpl\ndef register_schedulerz(): return []\n")
    with pytest.raises(
        PluginError,
        match=r"'plug\.typo' does not fit: unknown hook 'register_schedulerz'.*did you mean 'register_schedulers'",
    ):
        make_plugin_manager(["plug.typo"])


def test_unknown_hook_argument_is_named(module: Write) -> None:
    """A hook that asks for what there is not is refused when loaded, not when called."""
    module("args", "@hookimpl\ndef process_exited(status, colour): ...\n")
    with pytest.raises(PluginError, match=r"'plug\.args' .*does not fit.*process_exited.*colour"):
        make_plugin_manager(["plug.args"])


def test_two_that_claim_one_name_are_both_named(module: Write) -> None:
    """Nobody wins by the order of loading."""
    for name in ("one", "two"):
        module(name, SCHEDULER + "@hookimpl\ndef register_schedulers(): return [First('same')]\n")
    with pytest.raises(PluginError, match=r"two plugins claim the scheduler 'same': 'plug\.one' and 'plug\.two'"):
        make_plugin_manager(["plug.one", "plug.two"]).scheduler("same")


def test_a_default_cannot_be_replaced_unseen(module: Write) -> None:
    """A plugin that takes a default's name conflicts with it like with any other."""
    module("one", SCHEDULER + "@hookimpl\ndef register_schedulers(): return [First('bin_packing')]\n")
    with pytest.raises(PluginError, match=r"claim the scheduler 'bin_packing': 'plug\.one' and 'bin_packing'"):
        make_plugin_manager(["plug.one"]).scheduler()


def test_two_distributions_with_one_plugin_name(module: Write) -> None:
    """Two installed packages that claim one plugin name are both named."""
    module("one", "", point="same", distribution="first")
    module("two", "", point="same", distribution="second")
    with pytest.raises(PluginError, match=r"claim the plugin 'same': '(first|second) 1\.5' and '(first|second) 1\.5'"):
        make_plugin_manager(["same"])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("return 5", "returned 5 from register_schedulers: expected a list"),
        ("return None", "returned None from register_schedulers: expected a list"),
        ("return [object()]", "as a scheduler: it lacks name, node_changed, node_removed, place"),
        ("return [First('')]", "as a scheduler: it lacks name"),
        ("return [1 / 0]", r"failed in register_schedulers at .*bad\.py:\d+: ZeroDivisionError: division by zero"),
    ],
)
def test_what_is_offered_must_satisfy_the_contract(module: Write, body: str, text: str) -> None:
    """A registering hook that answers wrongly stops the program and is named."""
    module("bad", SCHEDULER + f"@hookimpl\ndef register_schedulers(): {body}\n")
    with pytest.raises(PluginError, match=r"plugin 'plug\.bad' .*" + text):
        make_plugin_manager(["plug.bad"]).scheduler()


# -- Options -----------------------------------------------------------------------------------------------------------


def test_options_reach_their_plugin_only(module: Write) -> None:
    """Each plugin gets its own options, by the key alone."""
    module("mine", SCHEDULER + "@hookimpl\ndef register_schedulers(options): return [First('mine', options)]\n")
    plugins = make_plugin_manager(["plug.mine"], {"plug.mine.depth": "3", "tcp.nodelay": "1"})
    assert getattr(plugins.scheduler("mine"), "options", None) == {"depth": "3"}


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("depth", "cannot use plugin option 'depth': expected NAME.KEY=VALUE"),
        (
            "fancy.depth",
            "plugin option 'fancy.depth' is for a plugin that is not enabled: enable it with --plugin fancy",
        ),
    ],
)
def test_option_for_nobody_is_refused(key: str, text: str) -> None:
    """An option that nobody would read is a mistake."""
    with pytest.raises(PluginError, match=text):
        make_plugin_manager((), {key: "3"})


# -- Other registering hooks -------------------------------------------------------------------------------------------


def test_resources_named_twice_are_refused(module: Write) -> None:
    """Two plugins that count the same thing would count it double."""
    for name in ("one", "two"):
        module(name, "@hookimpl\ndef detect_resources(): return {'gpu': 1}\n")
    with pytest.raises(PluginError, match=r"claim the resource 'gpu': 'plug\.one' and 'plug\.two'"):
        make_plugin_manager(["plug.one", "plug.two"]).detect_resources()


def test_commands_are_added_but_none_is_replaced(module: Write) -> None:
    """A plugin adds commands; it cannot take over a built-in one."""
    body = "import click\n@hookimpl\ndef register_commands(cli): cli.add_command(click.Command({name!r}))\n"
    module("adds", body.format(name="greet"))
    module("takes", body.format(name="run"))
    cli = click.Group("constellation", commands={"run": click.Command("run")})
    make_plugin_manager(["plug.adds"]).register_commands(cli)
    assert sorted(cli.commands) == ["greet", "run"]
    with pytest.raises(PluginError, match=r"claim the command 'run': 'constellation' and 'plug\.takes'"):
        make_plugin_manager(["plug.takes"]).register_commands(cli)


def test_a_wrapper_sees_the_calls_of_others(module: Write) -> None:
    """Wrappers are run around each plugin's call."""
    module("one", "@hookimpl\ndef detect_resources(): return {'gpu': 1}\n")
    module(
        "around",
        "@hookimpl(wrapper=True)\n"
        "def detect_resources():\n"
        "    found = yield\n"
        "    return [{name: amount * 2 for name, amount in each.items()} for each in found]\n",
    )
    assert make_plugin_manager(["plug.one", "plug.around"]).detect_resources() == {"gpu": 2}


# -- News --------------------------------------------------------------------------------------------------------------

NEWS = "heard = []\n@hookimpl\ndef node_lost(node, reason): heard.append(reason); {body}\n"


def told(plugins: Plugins, times: int = 2) -> None:
    """Give out the same news some times."""
    for number in range(times):
        plugins.news("node_lost", node=None, reason=str(number))


def heard(name: str) -> list[str]:
    """Say which news a module has taken."""
    words: list[str] = sys.modules[name].heard
    return words


def test_news_reach_all_that_take_them(module: Write) -> None:
    """Each plugin that implements a news hook is told, others are not disturbed."""
    module("one", NEWS.format(body="pass"))
    module("two", "@hookimpl\ndef detect_resources(): return {}\n")
    told(make_plugin_manager(["plug.one", "plug.two"]))
    assert heard("plug.one") == ["0", "1"]


def test_a_raising_news_hook_is_named_once_and_silenced(module: Write) -> None:
    """Its failure is its own: the others are told, and it is not called again."""
    module("bad", NEWS.format(body="1 / 0"))
    module("good", NEWS.format(body="pass"))
    reports: list[str] = []
    told(make_plugin_manager(["plug.bad", "plug.good"], report=reports.append), 3)
    assert heard("plug.good") == ["0", "1", "2"]
    assert heard("plug.bad") == ["0"]
    [report] = reports
    assert report.startswith("constellation: plugin 'plug.bad', hook node_lost, at ")
    assert "bad.py:4: raised ZeroDivisionError: division by zero; not called again" in report


def test_a_slow_news_hook_is_named_once_and_silenced(module: Write) -> None:
    """A hook that holds up the node is called once."""
    module("slow", NEWS.format(body="pass"))
    reports: list[str] = []
    times = iter([10.0, 11.5, 20.0, 20.1])
    told(make_plugin_manager(["plug.slow"], clock=lambda: next(times), report=reports.append), 2)
    assert heard("plug.slow") == ["0"]
    [report] = reports
    assert "plugin 'plug.slow', hook node_lost, at " in report
    assert "slow.py:3: took 1.5 s: expected at most 1 s" in report


def test_reports_go_to_stderr(module: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a place to report to, words go to stderr."""
    module("bad", NEWS.format(body="1 / 0"))
    told(make_plugin_manager(["plug.bad"]))
    assert capsys.readouterr().err.count("ZeroDivisionError") == 1


def test_calls_are_printed_when_asked_for(
    module: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """CONSTELLATION_TRACE_PLUGINS shows each call with its arguments."""
    module("one", NEWS.format(body="pass"))
    monkeypatch.setenv("CONSTELLATION_TRACE_PLUGINS", "1")
    told(make_plugin_manager(["plug.one"]), 1)
    words = capsys.readouterr().err
    assert "node_lost" in words
    assert "reason: 0" in words


# -- Settings ----------------------------------------------------------------------------------------------------------


def configured(folder: Path, environ: Mapping[str, str] | None = None) -> Sequence[str]:
    """Say which plugins a folder enables."""
    return configured_plugins(str(folder), environ or {})


def test_names_come_from_the_environment_and_the_nearest_project(tmp_path: Path) -> None:
    """Both places count, each name once, the environment first."""
    (tmp_path / "pyproject.toml").write_text('[tool.constellation]\nplugins = ["a.b", "c.d"]\n')
    inner = tmp_path / "src" / "deep"
    inner.mkdir(parents=True)
    assert configured(inner, {"CONSTELLATION_PLUGINS": " x, a.b,,"}) == ["x", "a.b", "c.d"]


def test_a_nearer_project_hides_the_one_above(tmp_path: Path) -> None:
    """Only the nearest pyproject.toml is read, also if it says nothing of us."""
    (tmp_path / "pyproject.toml").write_text('[tool.constellation]\nplugins = ["a.b"]\n')
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "pyproject.toml").write_text("[project]\n")
    assert configured(tmp_path / "inner") == []


@pytest.mark.parametrize(
    "text",
    [
        "[tool.other]\nconstellation = 1\n",
        "[tool]\nconstellation.x = 1\n",
        "tool = 5  # constellation\n",
        "not TOML at all",
    ],
)
def test_projects_that_name_no_plugins(tmp_path: Path, text: str) -> None:
    """Other contents of a pyproject.toml are none of our business."""
    (tmp_path / "pyproject.toml").write_text(text)
    assert configured(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '[tool.constellation]\nplugins = "a"\n',
            "cannot use .*plugins = 'a' in .*pyproject.toml: expected a list of names",
        ),
        ("[tool.constellation]\nplugins = [1]\n", r"plugins = \[1\].*expected a list of names"),
        ("[tool.constellation\n", "cannot read .*pyproject.toml: "),
        ("[tool]\nconstellation = 3\n", "plugins = 3 in"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, text: str, words: str) -> None:
    """A setting that cannot be used says the file, the value and what was expected."""
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(PluginError, match=words):
        configured(tmp_path)


# -- Listing -----------------------------------------------------------------------------------------------------------


def test_listing_says_what_where_from_and_what_for(module: Write) -> None:
    """Defaults, enabled ones and those that could be enabled stand in one list."""
    module("on", SCHEDULER + "@hookimpl\ndef register_schedulers(): return [First('on')]\n" + NEWS.format(body="pass"))
    module("off", "", point="off", distribution="off-package")
    lines = {line.name: line for line in make_plugin_manager(["plug.on"]).listing()}
    assert lines["plug.on"][1:] == ("module", "plug.on", "", True, ("scheduler on", "node_lost"))
    assert lines["off"][1:] == ("entry point", "plug.off", "off-package 1.5", False, ())
    assert lines["pickle"].provides == ("serializer pickle",)
    assert lines["pickle"].source == "default"
    assert {"tcp", "msgpack", "bin_packing"} <= set(lines)
