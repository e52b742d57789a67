"""Plugins are found, loaded, asked and, when they fail, named."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from constellation.core.errors import PluginError
from constellation.core.finding import DEFAULT_PLUGINS, Stated, refuse_different, refuse_unknown
from constellation.core.listing import listing
from constellation.core.plugins import Plugins, make_plugin_manager

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
        "constellation.launchers.local",
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
    """Each kind but launchers has one that is chosen by itself."""
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
    listing({}, {})
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
        (lambda plugins: plugins.launcher("ssh"), r"unknown launcher 'ssh'; found: local; enable the plugin"),
    ],
)
def test_unknown_object_names_what_there_is(ask: Callable[[Plugins], object], text: str) -> None:
    """A wrong transport=, serializer= or scheduler= says what could have been meant."""
    with pytest.raises(PluginError, match=text):
        ask(make_plugin_manager())


# -- Broken plugins ----------------------------------------------------------------------------------------------------


def test_a_missing_dependency_says_what_brings_it(module: Write) -> None:
    """Of an installed package, pip knows."""
    module("broken", "import there_is_no_such_module\n", point="needy", distribution="needy-package")
    with pytest.raises(
        PluginError, match=r"needs 'there_is_no_such_module'.*`pip install --upgrade needy-package` brings it"
    ):
        make_plugin_manager(["needy"])


def test_a_plugin_that_exits_when_imported_is_named(module: Write) -> None:
    """SystemExit is no way to end the program either."""
    module("quits", "raise SystemExit(4)\n")
    with pytest.raises(PluginError, match=r"cannot import plugin 'plug\.quits'.*SystemExit: 4"):
        make_plugin_manager(["plug.quits"])


def test_a_plugin_s_own_words_are_shown(module: Write) -> None:
    """An error of ours that a plugin raises is a message to the user, and not its failure."""
    module(
        "says",
        "from constellation.plugin import UsageError\n@hookimpl\ndef register_schedulers(): raise UsageError('choose a rack')\n",
    )
    with pytest.raises(PluginError, match=r"^plugin 'plug\.says': choose a rack$"):
        make_plugin_manager(["plug.says"]).scheduler()


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
        match=r"'plug\.typo' .*does not fit: unknown hook 'register_schedulerz'.*did you mean 'register_schedulers'",
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
    with pytest.raises(
        PluginError, match=r"claim the plugin 'same': '.*(first|second) 1\.5' and '.*(first|second) 1\.5'"
    ):
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

DECLARES = (
    SCHEDULER
    + """
from constellation.plugin import Option
@hookimpl
def register_options(): return [Option("depth", int, 2, "How deep."), Option("where", str)]
@hookimpl
def register_schedulers(options): return [First('mine', options)]
"""
)


def test_options_reach_their_plugin_with_their_types(module: Write) -> None:
    """Each plugin gets its own options, by the key alone; what was not given has its default."""
    module("mine", DECLARES)
    plugins = make_plugin_manager(["plug.mine"], {"plug.mine.depth": "3"})
    assert getattr(plugins.scheduler("mine"), "options", None) == {"depth": 3, "where": None}
    assert [option.name for option in plugins.declared("plug.mine")] == ["depth", "where"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"depth": "3"}, "cannot use plugin option 'depth': expected NAME.KEY=VALUE"),
        (
            {"fancy.depth": "3"},
            "plugin option 'fancy.depth' is for a plugin that is not enabled: enable it with --plugin fancy",
        ),
        (
            {"plug.mind.depth": "3"},
            r"'plug.mind.depth' is for a plugin that is not enabled; did you mean 'plug.mine'\?",
        ),
        ({"plug.mine.dephts": "3"}, r"no option 'dephts' of plugin 'plug.mine': did you mean 'depth'\?"),
        ({"plug.mine.depth": "deep"}, "cannot use plug.mine.depth='deep': expected a whole number, such as 2"),
        ({"tcp.nodelay": "1"}, "no option 'nodelay' of plugin 'tcp': it takes none"),
    ],
)
def test_option_that_nobody_takes_is_refused(module: Write, given: dict[str, str], text: str) -> None:
    """An option that nobody would read, or not as it was meant, is a mistake."""
    module("mine", DECLARES)
    with pytest.raises(PluginError, match=text):
        make_plugin_manager(["plug.mine"], given)


def test_a_wrong_declaration_names_the_plugin(module: Write) -> None:
    """The author sees what he declared."""
    module("bad", "@hookimpl\ndef register_options(): return ['depth']\n")
    with pytest.raises(
        PluginError, match=r"plugin 'plug.bad' returned \['depth'\] from register_options: expected a list"
    ):
        make_plugin_manager(["plug.bad"])


# -- Choosing, stating, versions ---------------------------------------------------------------------------------------


def offers(*names: str) -> str:
    """The source of a plugin that offers schedulers."""
    made = ", ".join(f"First({name!r})" for name in names)
    return SCHEDULER + f"@hookimpl\ndef register_schedulers(): return [{made}]\n"


def test_an_enabled_plugin_is_used_where_nobody_says(module: Write) -> None:
    """One flag is enough to switch; of several that one plugin offers it is the first; a name still wins."""
    module("mine", offers("mine", "other"))
    plugins = make_plugin_manager(["plug.mine"])
    assert plugins.scheduler().name == "mine"
    assert plugins.scheduler("other").name == "other"
    assert plugins.scheduler("bin_packing").name == "bin_packing"
    assert plugins.serializer().name == "pickle"
    assert plugins.owner("scheduler", "mine") == "plug.mine"


def test_two_plugins_of_one_kind_must_be_chosen_from(module: Write) -> None:
    """Nobody wins by the order in which they were enabled."""
    module("one", offers("one"))
    module("two", offers("two"))
    with pytest.raises(
        PluginError, match=r"several schedulers: 'one' of 'plug.one' and 'two' of 'plug.two'; .*--scheduler NAME"
    ):
        make_plugin_manager(["plug.one", "plug.two"]).scheduler()


def test_a_deployment_states_its_plugins(module: Write) -> None:
    """Name, package and version, in the order in which they were enabled."""
    module("mine", offers("mine"))
    module("other", offers("other"), point="fancy", distribution="fancy-package")
    stated = make_plugin_manager(["plug.mine", "fancy"]).stated()
    assert stated == [Stated("plug.mine", "", ""), Stated("fancy", "fancy-package", "1.5")]


def test_another_version_elsewhere_is_refused() -> None:
    """Both versions are named, and the command that mends it."""
    ours, theirs = Stated("fancy", "fancy-package", "1.5"), Stated("fancy", "fancy-package", "1.4")
    refuse_different([ours], [ours], "node a")
    with pytest.raises(
        PluginError,
        match=r"fancy \(fancy-package 1.5\), and node a has fancy \(fancy-package 1.4\): `pip install fancy-package==1.5`",
    ):
        refuse_different([ours], [theirs], "node a")


@pytest.mark.parametrize(
    ("version", "text"),
    [
        (
            "99",
            "was written for version 99 of the contracts, .* has version 1: install a newer constellation, or an older",
        ),
        ("0", "was written for version 0 .*: install a newer version of the plugin, or an older constellation"),
        ("'one'", "was written for version 'one'"),
    ],
)
def test_a_contract_that_does_not_fit_is_refused(module: Write, version: str, text: str) -> None:
    """What was written for other promises is not used."""
    module("far", f"contract_version = {version}\n" + offers("far"))
    with pytest.raises(PluginError, match=r"plugin 'plug\.far' .*" + text):
        make_plugin_manager(["plug.far"])


def test_a_contract_that_fits_is_taken(module: Write) -> None:
    """The current version is right."""
    module("near", "contract_version = 1\n" + offers("near"))
    assert make_plugin_manager(["plug.near"]).scheduler().name == "near"


@pytest.mark.parametrize(
    ("key", "value"), [("name", "two words"), ("name", "a/b"), ("link_version", 2), ("link_version", "1 2")]
)
def test_names_that_cannot_travel_are_refused(module: Write, key: str, value: object) -> None:
    """Names and versions stand in the first frame of a link, with blanks and slashes between them."""
    body = f"made = First('fine'); made.{key} = {value!r}; return [made]"
    module("bad", SCHEDULER + f"@hookimpl\ndef register_schedulers():\n    {body}\n")
    with pytest.raises(PluginError, match=rf"plugin 'plug.bad' offers a scheduler with the {key} {value!r}"):
        make_plugin_manager(["plug.bad"]).scheduler()


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
