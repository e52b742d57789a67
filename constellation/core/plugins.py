"""Find, load and ask plugins; the only place that touches pluggy's manager.

How a name becomes a plugin: a default (one of `DEFAULT_PLUGINS`), else an entry point of the group ``constellation``,
else, where it has a dot, a module. Nothing is imported that is not enabled by name: entry points are scanned only when
a plugin is named (the scan costs more than all else at start-up), and a default's module is imported only when
something of its kind is asked for. The defaults come through the same hooks as everybody's.

Hooks are called for one plugin at a time, because pluggy's own call ends at the first exception, and because what two
plugins say must be kept apart to name both. A plugin's hook wrappers are run around every such call.

Which object of a kind is used where nobody says: the first that an enabled plugin offers, for it was enabled to be used;
the first default, where no enabled plugin offers any; where two plugins do, the program must say which.

`core/finding.py` has the names and the scan, `core/enabling.py` says which plugins the surroundings enable,
`core/options.py` what their options are, `core/listing.py` what `constellation plugins` shows.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pluggy

from constellation.core import hooks, options
from constellation.core.contracts import CONTRACT_VERSION, OLDEST_CONTRACT
from constellation.core.errors import ConstellationError, PluginError
from constellation.core.finding import (
    DEFAULT_NAMES,
    DEFAULT_PLUGINS,
    GROUP,
    KINDS,
    NAME,
    Found,
    Source,
    Stated,
    conflict,
    near,
    place_of_raise,
    scan,
    unknown,
)

if TYPE_CHECKING:
    import click

    from constellation.core.contracts import Launcher, Scheduler, Serializer, Transport
    from constellation.core.options import Option

SLOW_NEWS_S = 1.0
"""A news hook that takes longer holds up the whole node; pytest-like tools know no limit, so this one is generous."""


class Plugins:
    """The plugins of one deployment in one process, made by `make_plugin_manager`.

    Attributes:
        names: The plugins that were enabled by name, in order, without the defaults.
    """

    def __init__(
        self,
        given: Mapping[str, object],
        *,
        clock: Callable[[], float] | None,
        report: Callable[[str], None],
    ) -> None:
        self.names: tuple[str, ...] = ()
        self._given = dict(given)
        self._clock = clock
        self._report = report
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hooks)
        self._offers: dict[str, dict[str, tuple[Any, str]]] = {kind: {} for kind in KINDS}
        self._asked: set[tuple[str, str]] = set()
        self._silenced: set[tuple[str, str]] = set()
        self._sources: dict[str, Source] = {}
        self._declared: dict[str, tuple[Option, ...]] = {}
        self._values: dict[str, dict[str, Any]] = {}

    def transport(self, name: str | None = None) -> Transport:
        """Give a transport by name; None: the enabled plugins' one, else the default one.

        Raises:
            PluginError: No enabled plugin offers it, several do and none was named, or one is broken.
        """
        return cast("Transport", self._find("transport", name))

    def transports(self) -> list[tuple[Transport, str]]:
        """Give all transports of the plugins that were enabled by name, each with its plugin. Without these nothing is asked.

        Raises:
            PluginError: One is broken, or two have one name.
        """
        for plugin in self._implementers(KINDS["transport"].hook):
            if plugin in self.names:
                self._ask("transport", plugin)
        return [(made, owner) for made, owner in self._offers["transport"].values() if owner in self.names]

    def serializer(self, name: str | None = None) -> Serializer:
        """Give a serializer by name; None: the enabled plugins' one, else the default one.

        Raises:
            PluginError: No enabled plugin offers it, several do and none was named, or one is broken.
        """
        return cast("Serializer", self._find("serializer", name))

    def scheduler(self, name: str | None = None) -> Scheduler:
        """Give a scheduler by name; None: the enabled plugins' one, else the default one.

        Raises:
            PluginError: No enabled plugin offers it, several do and none was named, or one is broken.
        """
        return cast("Scheduler", self._find("scheduler", name))

    def launcher(self, name: str) -> Launcher:
        """Give a launcher by name; none is chosen by itself, for where nodes are to run is never clear.

        Raises:
            PluginError: No enabled plugin offers it, or one is broken.
        """
        return cast("Launcher", self._find("launcher", name))

    def owner(self, kind: str, name: str) -> str:
        """Say which plugin offers an object that has been given by one of the methods above."""
        return self._offers[kind][name][1]

    def register_commands(self, cli: click.Group) -> None:
        """Let the enabled plugins add their commands.

        Raises:
            PluginError: A hook raised, or two commands have one name.
        """
        owners = dict.fromkeys(cli.commands, GROUP)
        for plugin in self._implementers("register_commands"):
            before = dict(cli.commands)
            self._call(plugin, "register_commands", cli=cli)
            for command, made in cli.commands.items():
                if before.get(command) is made:
                    continue
                if command in owners:
                    raise PluginError(conflict("command", command, owners[command], plugin))
                owners[command] = plugin

    def detect_resources(self) -> dict[str, float]:
        """Ask the plugins what this computer has beside memory and cores.

        Raises:
            PluginError: A hook raised or returned no amounts, or two plugins name the same resource.
        """
        found: dict[str, float] = {}
        owners: dict[str, str] = {}
        for plugin in self._implementers("detect_resources"):
            amounts = self._call(plugin, "detect_resources")
            if not isinstance(amounts, Mapping):
                raise PluginError(
                    f"plugin {plugin!r} returned {amounts!r:.100} from detect_resources: expected amounts by name"
                )
            for name, amount in amounts.items():
                if name in owners:
                    raise PluginError(conflict("resource", name, owners[name], plugin))
                owners[name] = plugin
                found[name] = amount
        return found

    def news(self, hook: str, **arguments: Any) -> None:
        """Tell the plugins of something that has happened; never raises because of a plugin.

        Args:
            hook: Name of a news hook in `constellation.core.hooks`.
            **arguments: All of its arguments but the options.
        """
        for plugin in self._implementers(hook):
            if (plugin, hook) in self._silenced:
                continue
            began = self._clock() if self._clock else 0.0
            try:
                self._caller(plugin, hook)(**arguments, options=self._values.get(plugin, {}))
            except (Exception, SystemExit) as error:  # the border to foreign code: whatever it raises is its own
                self._silence(plugin, hook, f"raised {type(error).__name__}: {error}", place_of_raise(error))
            else:
                took = self._clock() - began if self._clock else 0.0
                if took > SLOW_NEWS_S:
                    self._silence(
                        plugin,
                        hook,
                        f"took {took:.1f} s: expected at most {SLOW_NEWS_S:g} s",
                        self._place(plugin, hook),
                    )

    def stated(self) -> list[Stated]:
        """State the plugins that were enabled by name, with their versions."""
        return [Stated(name, self._sources[name].package, self._sources[name].version) for name in self.names]

    # What `core/listing.py` shows

    def source(self, plugin: str) -> Source:
        """Where a plugin comes from."""
        return self._sources[plugin]

    def declared(self, plugin: str) -> tuple[Option, ...]:
        """The options that a plugin declares."""
        return self._declared.get(plugin, ())

    def hooks(self, plugin: str) -> list[str]:
        """The hooks that a plugin implements."""
        return sorted(caller.name for caller in self._manager.get_hookcallers(self._manager.get_plugin(plugin)) or [])

    def offered(self, plugin: str) -> list[str]:
        """Ask a plugin for all that it offers, such as ``serializer msgpack``.

        Raises:
            PluginError: The plugin is broken, or offers what another one offers too.
        """
        for kind, (hook, _, _) in KINDS.items():
            if plugin in self._implementers(hook):
                self._ask(kind, plugin)
        return [
            f"{kind} {name}" for kind in KINDS for name, (_, owner) in self._offers[kind].items() if owner == plugin
        ]

    def load_default(self, name: str) -> None:
        """Import a default plugin, unless that has been done."""
        if name not in self._sources:
            module = DEFAULT_NAMES[name]
            self._register(name, Source("default", module), partial(importlib.import_module, module))

    # Enabling

    def enable(self, name: str, found: Callable[[], Mapping[str, Sequence[Found]]]) -> None:
        """Import and register one plugin, and read its options.

        Args:
            name: Of an entry point or of a module.
            found: Gives the entry points; called only if they are needed.

        Raises:
            PluginError: It is unknown, claimed twice, broken, or an option of it cannot be used.
        """
        if name in DEFAULT_NAMES or name in DEFAULT_PLUGINS:
            return
        claims = found().get(name, ())
        if len(claims) > 1:
            raise PluginError(conflict("plugin", name, *(str(claim.source) for claim in claims[:2])))
        if claims:
            source, load = claims[0].source, claims[0].load
        elif "." in name:
            source, load = Source("module", name), partial(importlib.import_module, name)
        else:
            raise PluginError(unknown("plugin", name, [*found(), *DEFAULT_NAMES]))
        self._register(name, source, load)
        self.names = (*self.names, name)

    def check_options(self) -> None:
        """Refuse options for plugins that are not enabled.

        Raises:
            PluginError: Names the option and what to do.
        """
        for key in self._given:
            owner, _, option = key.rpartition(".")
            if not owner or not option:
                raise PluginError(
                    f"cannot use plugin option {key!r}: expected NAME.KEY=VALUE with the name of a plugin"
                )
            if owner in DEFAULT_NAMES:
                self.load_default(owner)  # it holds its options against what it declares
            elif owner not in self.names:
                hint = near(owner, self.names) or f": enable it with --plugin {owner}"
                raise PluginError(f"plugin option {key!r} is for a plugin that is not enabled{hint}")

    def _register(self, name: str, source: Source, load: Callable[[], object]) -> None:
        try:
            plugin = load()
        except (Exception, SystemExit) as error:  # the border to foreign code
            raise PluginError(
                f"cannot import plugin {name!r} ({source}): {type(error).__name__}: {error}{_remedy(source, error)}"
            ) from error
        contract = getattr(plugin, "contract_version", None)
        if contract is not None and contract not in range(OLDEST_CONTRACT, CONTRACT_VERSION + 1):
            raise PluginError(
                f"plugin {name!r} ({source}) was written for version {contract!r} of the contracts, and this constellation "
                f"has {_versions()}: install {_matching(source, contract)}"
            )
        try:
            self._manager.register(plugin, name)
        except pluggy.PluginValidationError as error:
            raise PluginError(f"plugin {name!r} ({source}) does not fit: {_one_line(error)}") from error
        except ValueError as error:
            other = self._manager.get_name(plugin)
            raise PluginError(f"plugin {name!r} ({source}) is enabled already, as {other!r}: name it once") from error
        try:
            self._check_hooks(name, source, plugin)
            self._sources[name] = source
            self._read_options(name)
        except PluginError:
            self._manager.unregister(name=name)
            self._sources.pop(name, None)
            raise

    def _check_hooks(self, name: str, source: Source, plugin: object) -> None:
        """Refuse what is marked as a hook and is none: it would never be called."""
        callers = self._manager.get_hookcallers(plugin)
        if not callers:
            raise PluginError(
                f"plugin {name!r} ({source}) has no hooks: expected functions marked with constellation.plugin.hookimpl"
            )
        known = [each for each, value in vars(hooks).items() if getattr(value, "__module__", "") == hooks.__name__]
        for caller in callers:
            mine = [each for each in caller.get_hookimpls() if each.plugin is plugin]
            if not caller.has_spec() and not all(each.optionalhook for each in mine):
                raise PluginError(
                    f"plugin {name!r} ({source}) does not fit: unknown hook {caller.name!r}{near(caller.name, known)}"
                )

    def _read_options(self, name: str) -> None:
        declared: tuple[Option, ...] = ()
        if name in self._implementers("register_options"):
            declared = options.check_declared(name, self._call_plain(name, "register_options"))
        given = {key.rpartition(".")[2]: value for key, value in self._given.items() if key.rpartition(".")[0] == name}
        self._declared[name] = declared
        self._values[name] = options.read(name, declared, given) if declared or given else {}

    # Asking

    def _find(self, kind: str, name: str | None) -> object:
        defaults, offers = KINDS[kind].defaults, self._offers[kind]
        # Without plugins of others there is nothing to conflict with, and the other defaults stay unimported.
        chosen = name if name is not None or self.names else next(iter(defaults), None)
        if chosen not in offers:
            for default in [chosen] if not self.names and chosen in defaults else defaults:
                self.load_default(str(default))
            for plugin in self._implementers(KINDS[kind].hook):
                self._ask(kind, plugin)
        if chosen is None:
            others: dict[str, str] = {}  # of a plugin that offers several, the first
            for offer, (_, owner) in offers.items():
                if owner in self.names and owner not in others.values():
                    others[offer] = owner
            if len(others) > 1:
                listed = " and ".join(f"{offer!r} of {owner!r}" for offer, owner in others.items())
                raise PluginError(
                    f"the enabled plugins offer several {kind}s: {listed}; say which with --{kind} NAME or "
                    f"init({kind}=...)"
                )
            chosen = next(iter(others or defaults))
        if chosen not in offers:
            raise PluginError(unknown(kind, chosen, list(offers)))
        return offers[chosen][0]

    def _ask(self, kind: str, plugin: str) -> None:
        if (plugin, kind) in self._asked:
            return
        hook, needs, _ = KINDS[kind]
        offers = self._offers[kind]
        offered = self._call(plugin, hook)
        if not isinstance(offered, (list, tuple)):
            raise PluginError(f"plugin {plugin!r} returned {offered!r:.100} from {hook}: expected a list")
        for item in offered:
            name = getattr(item, "name", None)
            missing = [method for method in needs if not callable(getattr(item, method, None))]
            if not isinstance(name, str) or not name or missing:
                lacks = ", ".join(["name", *missing] if not isinstance(name, str) or not name else missing)
                raise PluginError(f"plugin {plugin!r} offers {item!r:.100} as a {kind}: it lacks {lacks}")
            for what in ("name", "link_version"):
                text = getattr(item, what, "")
                if text != "" and (not isinstance(text, str) or not NAME.fullmatch(text)):
                    raise PluginError(
                        f"plugin {plugin!r} offers a {kind} with the {what} {text!r:.100}: expected up to 64 letters, "
                        "digits and any of _ . + -"
                    )
            if name in offers:
                raise PluginError(conflict(kind, name, self._described(offers[name][1]), self._described(plugin)))
            offers[name] = (item, plugin)
        self._asked.add((plugin, kind))

    def _described(self, plugin: str) -> str:
        source = self._sources[plugin]
        return f"{plugin} ({source.package} {source.version})" if source.package else plugin

    def _implementers(self, hook: str) -> list[str]:
        caller: pluggy.HookCaller = getattr(self._manager.hook, hook)
        owners = {id(implementation.plugin) for implementation in caller.get_hookimpls() if not implementation.wrapper}
        return [name for name, plugin in self._manager.list_name_plugin() if id(plugin) in owners]

    def _caller(self, plugin: str, hook: str) -> pluggy.HookCaller:
        every: pluggy.HookCaller = getattr(self._manager.hook, hook)
        own = self._manager.get_plugin(plugin)
        others = [each.plugin for each in every.get_hookimpls() if each.plugin is not own and not each.wrapper]
        return self._manager.subset_hook_caller(hook, others)

    def _call(self, plugin: str, hook: str, **arguments: Any) -> Any:
        return self._call_plain(plugin, hook, **arguments, options=self._values.get(plugin, {}))

    def _call_plain(self, plugin: str, hook: str, **arguments: Any) -> Any:
        try:
            results = self._caller(plugin, hook)(**arguments)
        except ConstellationError as error:
            raise PluginError(f"plugin {plugin!r}: {error}") from error  # the plugin's own words
        except (Exception, SystemExit) as error:  # the border to foreign code
            raise PluginError(
                f"plugin {plugin!r} failed in {hook} at {place_of_raise(error)}: {type(error).__name__}: {error}"
            ) from error
        return results[0] if results else None

    def _silence(self, plugin: str, hook: str, what: str, place: str) -> None:
        self._silenced.add((plugin, hook))
        self._report(
            f"constellation: plugin {plugin!r}, hook {hook}, at {place}: {what}; not called again in this run\n"
        )

    def _place(self, plugin: str, hook: str) -> str:
        own = self._manager.get_plugin(plugin)
        caller: pluggy.HookCaller = getattr(self._manager.hook, hook)
        for implementation in caller.get_hookimpls():
            code = getattr(implementation.function, "__code__", None)
            if implementation.plugin is own and code is not None:
                return f"{code.co_filename}:{code.co_firstlineno}"
        return "an unknown place"

    def trace(self) -> None:
        """Print every call of a hook on stderr."""
        self._manager.trace.root.setwriter(_to_stderr)
        self._manager.enable_tracing()


def make_plugin_manager(
    names: Sequence[str] = (),
    given: Mapping[str, object] | None = None,
    *,
    clock: Callable[[], float] | None = None,
    report: Callable[[str], None] | None = None,
) -> Plugins:
    """Make the plugins of one deployment in this process.

    Args:
        names: Plugins to enable beside the defaults: names of entry points, or dotted module names. Double ones count once.
        given: What was given for options, by ``NAME.KEY``: texts, or values as TOML has them.
        clock: Seconds, such as time.monotonic; without it slow news hooks are not noticed.
        report: Where words about failing news hooks go; None: to stderr.

    Raises:
        PluginError: A plugin is unknown (with near names and how to install it), cannot be imported, does not fit, or an
            option is for none of them or cannot be used.
    """
    plugins = Plugins(given or {}, clock=clock, report=report or _to_stderr)
    if os.environ.get("CONSTELLATION_TRACE_PLUGINS"):
        plugins.trace()
    scanned: list[dict[str, list[Found]]] = []

    def found() -> Mapping[str, Sequence[Found]]:
        if not scanned:
            scanned.append(scan())
        return scanned[0]

    for name in dict.fromkeys(names):
        plugins.enable(name, found)
    plugins.check_options()
    return plugins


def _remedy(source: Source, error: BaseException) -> str:
    """Say what to do about a plugin that cannot be imported."""
    missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else ""
    if not missing or source.module.partition(":")[0].startswith(missing):
        return "; mend it, or do not enable it"
    if source.package:
        return (
            f"; it needs {missing!r}, which is not installed here: `pip install --upgrade {source.package}` brings it"
        )
    return f"; it needs {missing!r}, which is not installed here: `pip install {missing.partition('.')[0]}`"


def _versions() -> str:
    only = OLDEST_CONTRACT == CONTRACT_VERSION
    return f"version {CONTRACT_VERSION}" if only else f"versions {OLDEST_CONTRACT} to {CONTRACT_VERSION}"


def _matching(source: Source, contract: object) -> str:
    other = source.package or "version of the plugin"
    if isinstance(contract, int) and contract > CONTRACT_VERSION:
        return f"a newer constellation, or an older {other}"
    return f"a newer {other}, or an older constellation"


def _one_line(error: BaseException) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())


def _to_stderr(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(text)
        sys.stderr.flush()
