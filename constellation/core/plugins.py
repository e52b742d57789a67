"""Find, load and ask plugins; the only place that touches pluggy's manager.

How a name becomes a plugin: a default (one of `DEFAULT_PLUGINS`), else an entry point of the group ``constellation``,
else, where it has a dot, a module. Nothing is imported that is not enabled by name: entry points are scanned only when
a plugin is named (the scan costs more than all else at start-up), and a default's module is imported only when
something of its kind is asked for. The defaults come through the same hooks as everybody's.

Hooks are called for one plugin at a time, because pluggy's own call ends at the first exception, and because what two
plugins say must be kept apart to name both. A plugin's hook wrappers are run around every such call.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pluggy

from constellation.core import hooks
from constellation.core.errors import PluginError

if TYPE_CHECKING:
    import click

    from constellation.core.contracts import Launcher, Scheduler, Serializer, Transport

GROUP = "constellation"
SLOW_NEWS_S = 1.0
"""A news hook that takes longer holds up the whole node; pytest-like tools know no limit, so this one is generous."""


class _Kind(NamedTuple):
    """One kind of object that plugins offer, and which default modules offer it under which name; the first is chosen."""

    hook: str
    needs: tuple[str, ...]
    defaults: dict[str, str]


_KINDS = {
    "transport": _Kind("register_transports", ("pair", "adopt"), {"tcp": "constellation.transports.tcp"}),
    "serializer": _Kind(
        "register_serializers",
        ("encode", "decode"),
        {"pickle": "constellation.serializers.pickle", "msgpack": "constellation.serializers.msgpack"},
    ),
    "scheduler": _Kind(
        "register_schedulers",
        ("node_changed", "node_removed", "place"),
        {"bin_packing": "constellation.schedulers.bin_packing"},
    ),
    "launcher": _Kind("register_launchers", ("start", "stop"), {}),
}
DEFAULT_PLUGINS = tuple(module for kind in _KINDS.values() for module in kind.defaults.values())
_DEFAULT_NAMES = {name: module for kind in _KINDS.values() for name, module in kind.defaults.items()}


class PluginInfo(NamedTuple):
    """One line of ``constellation plugins``."""

    name: str
    """What ``--plugin`` takes."""
    source: str
    """"default", "entry point" or "module"."""
    module: str
    """The module that holds its hooks."""
    distribution: str
    """Distribution and version that brought it; empty for a plain module."""
    enabled: bool
    """Whether it is used; what is not enabled is not imported, so nothing is known of what it provides."""
    provides: tuple[str, ...]
    """What it offers, such as ``serializer msgpack``, and the news that it takes."""


class Plugins:
    """The plugins of one deployment in one process, made by `make_plugin_manager`.

    Attributes:
        names: The plugins that were enabled by name, in order, without the defaults.
    """

    def __init__(
        self,
        options: Mapping[str, str],
        *,
        clock: Callable[[], float] | None,
        report: Callable[[str], None],
    ) -> None:
        self.names: tuple[str, ...] = ()
        self._options = dict(options)
        self._clock = clock
        self._report = report
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(hooks)
        self._offers: dict[str, dict[str, tuple[Any, str]]] = {kind: {} for kind in _KINDS}
        self._asked: set[tuple[str, str]] = set()
        self._silenced: set[tuple[str, str]] = set()
        self._sources: dict[str, tuple[str, str, str]] = {}

    def transport(self, name: str | None = None) -> Transport:
        """Give a transport by name; None: the default one.

        Raises:
            PluginError: No enabled plugin offers it, or one is broken.
        """
        return cast("Transport", self._find("transport", name))

    def serializer(self, name: str | None = None) -> Serializer:
        """Give a serializer by name; None: the default one.

        Raises:
            PluginError: No enabled plugin offers it, or one is broken.
        """
        return cast("Serializer", self._find("serializer", name))

    def scheduler(self, name: str | None = None) -> Scheduler:
        """Give a scheduler by name; None: the default one.

        Raises:
            PluginError: No enabled plugin offers it, or one is broken.
        """
        return cast("Scheduler", self._find("scheduler", name))

    def launcher(self, name: str) -> Launcher:
        """Give a launcher by name; there is no default one.

        Raises:
            PluginError: No enabled plugin offers it, or one is broken.
        """
        return cast("Launcher", self._find("launcher", name))

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
                    raise PluginError(_conflict("command", command, owners[command], plugin))
                owners[command] = plugin

    def detect_resources(self) -> dict[str, float]:
        """Ask the plugins what this computer has beside memory and cores.

        Raises:
            PluginError: A hook raised, or two plugins name the same resource.
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
                    raise PluginError(_conflict("resource", name, owners[name], plugin))
                owners[name] = plugin
                found[name] = amount
        return found

    def news(self, hook: str, **arguments: Any) -> None:
        """Tell the plugins of something that has happened; never raises because of a plugin.

        Args:
            hook: Name of a news hook in `constellation.core.hooks`.
            **arguments: All of its arguments.
        """
        for plugin in self._implementers(hook):
            if (plugin, hook) in self._silenced:
                continue
            began = self._clock() if self._clock else 0.0
            try:
                self._caller(plugin, hook)(**arguments)
            except Exception as error:  # the border to foreign code: whatever it raises is its own
                self._silence(plugin, hook, f"raised {type(error).__name__}: {error}", _place_of_raise(error))
            else:
                took = self._clock() - began if self._clock else 0.0
                if took > SLOW_NEWS_S:
                    self._silence(
                        plugin,
                        hook,
                        f"took {took:.1f} s: expected at most {SLOW_NEWS_S:g} s",
                        self._place(plugin, hook),
                    )

    def listing(self) -> list[PluginInfo]:
        """List the defaults, the enabled plugins, and what could be enabled.

        Imports the defaults and the enabled ones, nothing else.

        Raises:
            PluginError: A plugin is broken.
        """
        for kind in _KINDS:
            self._load_defaults(kind)
            self._ask(kind)
        own = f"constellation {own_version()}"
        lines = [
            PluginInfo(
                name,
                source,
                module,
                own if source == "default" else distribution,
                enabled=True,
                provides=tuple(self._provided(name)),
            )
            for name, (source, module, distribution) in self._sources.items()
        ]
        for name, (module, distribution, _) in sorted(_scan().items()):
            if name not in self._sources:
                lines.append(PluginInfo(name, "entry point", module, distribution, enabled=False, provides=()))
        return lines

    def enable(self, name: str, found: Callable[[], Mapping[str, _Found]]) -> None:
        """Import and register one plugin; ``found`` gives the entry points, and is called only if they are needed."""
        if name in _DEFAULT_NAMES or name in DEFAULT_PLUGINS:
            return
        points = found()
        if name in points:
            module, distribution, load = points[name]
            source = ("entry point", module, distribution)
        elif "." in name:
            source, load = ("module", name, ""), partial(importlib.import_module, name)
        else:
            raise PluginError(_unknown("plugin", name, [*points, *_DEFAULT_NAMES]))
        self._register(name, source, load)
        self.names = (*self.names, name)

    def check(self) -> None:
        """Refuse functions marked as hooks that are none, and options for plugins that are not enabled.

        Raises:
            PluginError: Names the plugin and what is wrong.
        """
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            name = self._manager.get_name(error.plugin) or repr(error.plugin)
            # pluggy's text begins with: unknown hook 'NAME' in plugin ...
            known = [each for each, value in vars(hooks).items() if getattr(value, "__module__", "") == hooks.__name__]
            near = _near(str(error).partition("'")[2].partition("'")[0], known)
            raise PluginError(f"plugin {name!r} does not fit: {_one_line(error)}{near}") from error
        enabled = {*self.names, *_DEFAULT_NAMES}
        for key in self._options:
            owner, _, option = key.rpartition(".")
            if not owner or not option:
                raise PluginError(
                    f"cannot use plugin option {key!r}: expected NAME.KEY=VALUE with the name of a plugin"
                )
            if owner not in enabled:
                raise PluginError(
                    f"plugin option {key!r} is for a plugin that is not enabled: enable it with --plugin {owner}"
                )

    def _register(self, name: str, source: tuple[str, str, str], load: Callable[[], object]) -> None:
        try:
            plugin = load()
        except Exception as error:
            raise PluginError(
                f"cannot import plugin {name!r} ({_where(source)}): {type(error).__name__}: {error}; mend it, or do not enable it"
            ) from error
        try:
            self._manager.register(plugin, name)
        except pluggy.PluginValidationError as error:
            raise PluginError(f"plugin {name!r} ({_where(source)}) does not fit: {_one_line(error)}") from error
        except ValueError as error:
            other = self._manager.get_name(plugin)
            raise PluginError(
                f"plugin {name!r} ({_where(source)}) is enabled already, as {other!r}: name it once"
            ) from error
        if not self._manager.get_hookcallers(plugin):
            raise PluginError(
                f"plugin {name!r} ({_where(source)}) has no hooks: expected functions marked with constellation.plugin.hookimpl"
            )
        self._sources[name] = source

    def _load_defaults(self, kind: str, only: str | None = None) -> None:
        for name, module in _KINDS[kind].defaults.items():
            if only in (None, name) and name not in self._sources:
                self._register(name, ("default", module, ""), partial(importlib.import_module, module))

    def _find(self, kind: str, name: str | None) -> object:
        chosen = name if name is not None else next(iter(_KINDS[kind].defaults))
        offers = self._offers[kind]
        if chosen not in offers:
            # Without plugins of others there is nothing to conflict with, and the other defaults stay unimported.
            alone = not self.names and chosen in _KINDS[kind].defaults
            self._load_defaults(kind, chosen if alone else None)
            self._ask(kind)
        if chosen not in offers:
            raise PluginError(_unknown(kind, chosen, list(offers)))
        return offers[chosen][0]

    def _ask(self, kind: str) -> None:
        hook, needs, _ = _KINDS[kind]
        offers = self._offers[kind]
        for plugin in self._implementers(hook):
            if (plugin, kind) in self._asked:
                continue
            self._asked.add((plugin, kind))
            offered = self._call(plugin, hook, options=self._options_of(plugin))
            if not isinstance(offered, (list, tuple)):
                raise PluginError(f"plugin {plugin!r} returned {offered!r:.100} from {hook}: expected a list")
            for item in offered:
                name = getattr(item, "name", None)
                missing = [method for method in needs if not callable(getattr(item, method, None))]
                if not isinstance(name, str) or not name or missing:
                    lacks = ", ".join(["name", *missing] if not isinstance(name, str) or not name else missing)
                    raise PluginError(f"plugin {plugin!r} offers {item!r:.100} as a {kind}: it lacks {lacks}")
                if name in offers:
                    raise PluginError(_conflict(kind, name, offers[name][1], plugin))
                offers[name] = (item, plugin)

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
        try:
            results = self._caller(plugin, hook)(**arguments)
        except Exception as error:
            raise PluginError(
                f"plugin {plugin!r} failed in {hook} at {_place_of_raise(error)}: {type(error).__name__}: {error}"
            ) from error
        return results[0] if results else None

    def _options_of(self, plugin: str) -> dict[str, str]:
        return {
            key[len(plugin) + 1 :]: value for key, value in self._options.items() if key.rpartition(".")[0] == plugin
        }

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

    def _provided(self, plugin: str) -> Iterator[str]:
        for kind, offers in self._offers.items():
            for name, (_, owner) in offers.items():
                if owner == plugin:
                    yield f"{kind} {name}"
        registering = {kind.hook for kind in _KINDS.values()}
        callers = self._manager.get_hookcallers(self._manager.get_plugin(plugin)) or []
        yield from sorted(caller.name for caller in callers if caller.name not in registering)


_Found = tuple[str, str, Callable[[], object]]
"""Of an entry point: its module, "distribution version", and what loads it."""


def make_plugin_manager(
    names: Sequence[str] = (),
    options: Mapping[str, str] | None = None,
    *,
    clock: Callable[[], float] | None = None,
    report: Callable[[str], None] | None = None,
) -> Plugins:
    """Make the plugins of one deployment in this process.

    Args:
        names: Plugins to enable beside the defaults: names of entry points, or dotted module names. Double ones count once.
        options: Values by ``NAME.KEY``; each plugin gets its own, by KEY.
        clock: Seconds, such as time.monotonic; without it slow news hooks are not noticed.
        report: Where words about failing news hooks go; None: to stderr.

    Raises:
        PluginError: A plugin is unknown (with near names and how to install it), cannot be imported, does not fit, or an
            option is for none of them.
    """
    plugins = Plugins(options or {}, clock=clock, report=report or _to_stderr)
    if os.environ.get("CONSTELLATION_TRACE_PLUGINS"):
        plugins._manager.trace.root.setwriter(_to_stderr)  # one unit, apart for its size
        plugins._manager.enable_tracing()
    scanned: list[dict[str, _Found]] = []

    def found() -> Mapping[str, _Found]:
        if not scanned:
            scanned.append(_scan())
        return scanned[0]

    for name in dict.fromkeys(names):
        plugins.enable(name, found)
    plugins.check()
    return plugins


def refuse_unknown(names: Sequence[str]) -> None:
    """Check names without importing a plugin; dotted ones are let pass, for they may be the program's own modules.

    Raises:
        PluginError: A name is neither a default nor an entry point.
    """
    plain = [name for name in names if "." not in name and name not in _DEFAULT_NAMES]
    points = _scan() if plain else {}
    for name in plain:
        if name not in points:
            raise PluginError(_unknown("plugin", name, [*points, *_DEFAULT_NAMES]))


def configured_plugins(cwd: str, environ: Mapping[str, str]) -> list[str]:
    """Say which plugins the surroundings enable.

    They are those of CONSTELLATION_PLUGINS (separated by commas), then those of ``[tool.constellation] plugins`` in the
    nearest pyproject.toml, in ``cwd`` or above it. What the program names itself comes before them.

    Args:
        cwd: Where to look for pyproject.toml first.
        environ: The environment.

    Raises:
        PluginError: The nearest pyproject.toml cannot be read, or its ``plugins`` is not a list of names.
    """
    names = [name.strip() for name in environ.get("CONSTELLATION_PLUGINS", "").split(",")]
    names.extend(_project_plugins(cwd))
    return [name for name in dict.fromkeys(names) if name]


def _project_plugins(cwd: str) -> list[str]:
    folder = os.path.abspath(cwd)
    path = os.path.join(folder, "pyproject.toml")
    while not os.path.isfile(path):
        above = os.path.dirname(folder)
        if above == folder:
            return []
        folder, path = above, os.path.join(above, "pyproject.toml")
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise PluginError(
            f"cannot read {path}: {error.strerror}; it may name plugins in [tool.constellation]"
        ) from error
    if b"constellation" not in data:  # tomllib costs 10 ms at start-up, and most projects have no such table
        return []
    import tomllib  # late, for the same reason

    try:
        tables = tomllib.loads(data.decode())
    except ValueError as error:
        raise PluginError(f"cannot read {path}: {error}; it may name plugins in [tool.constellation]") from error
    tool = tables.get("tool", {})
    own = tool.get("constellation", {}) if isinstance(tool, dict) else {}
    names = own.get("plugins", []) if isinstance(own, dict) else own
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise PluginError(f"cannot use [tool.constellation] plugins = {names!r} in {path}: expected a list of names")
    return names


def _scan() -> dict[str, _Found]:
    # The package and not the standard library's module: it is the same on all versions of Python that we run on.
    import importlib_metadata  # late: importing it and scanning cost more than the rest of the start

    found: dict[str, _Found] = {}
    for point in importlib_metadata.entry_points(group=GROUP):
        distribution = f"{point.dist.name} {point.dist.version}" if point.dist is not None else ""
        if point.name in found and found[point.name][:2] != (point.value, distribution):
            raise PluginError(_conflict("plugin", point.name, found[point.name][1], distribution))
        found[point.name] = (point.value, distribution, point.load)
    return found


def own_version() -> str:
    """Say which version of constellation is installed."""
    import importlib_metadata  # late, as above

    try:
        return importlib_metadata.version(GROUP)
    except importlib_metadata.PackageNotFoundError:
        return "(not installed)"


def _near(name: str, known: Sequence[str]) -> str:
    import difflib  # late: for an error only

    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(each) for each in near)}?" if near else ""


def _unknown(kind: str, name: str, known: list[str]) -> str:
    names = ", ".join(sorted(known)) or "none"
    if kind == "plugin":
        hint = f"install the package that has it, such as `pip install constellation-{name}`, or name a module as pkg.module"
    else:
        hint = "enable the plugin that offers it with --plugin, or install it with `pip install` first"
    return f"unknown {kind} {name!r}{_near(name, known)}; found: {names}; {hint}"


def _conflict(kind: str, name: str, first: str, second: str) -> str:
    return f"two plugins claim the {kind} {name!r}: {first!r} and {second!r}; enable only one of them"


def _where(source: tuple[str, str, str]) -> str:
    return f"{source[0]} {source[1]}, {source[2]}" if source[2] else f"{source[0]} {source[1]}"


def _one_line(error: BaseException) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())


def _place_of_raise(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "an unknown place"


def _to_stderr(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(text)
        sys.stderr.flush()
