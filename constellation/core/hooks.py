"""The hooks that a plugin may implement: what each is for, when it is called and in which process.

A plugin is a module (or an object) with functions of these names, marked with ``@hookimpl``; it defines those that it
needs and takes the arguments that it needs. All hooks are plain functions and must not block.

Each plugin is called apart from the others, so one's failure is not another's. Two kinds:

* Registering hooks (``register_...``, ``detect_resources``) return what the plugin offers. They are called at most once
  in a process, when something of their kind is first asked for. One that raises, or returns what does not satisfy the
  contract, ends the program with a PluginError that names plugin and hook; of an error of ours the text is shown as it is.
* News hooks (past tense) return nothing. One that raises, or takes more than a second, is reported once on stderr with
  plugin, hook and place, and that plugin's hook is not called again in this run. Nothing else is disturbed. All are called
  in one process: in local mode the fabric, with the program's plugins; else the master, with those that it was started with.

Every hook but `register_options` may take ``options``: the values of the options that the plugin declares there, by name
and of the types declared; those that nobody has given have their defaults. They are the same in every process of a
deployment.

No hook is called per message: the objects that are registered do the hot work. Arguments may be added to a hook later,
none is ever renamed or removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

    from constellation.core.contracts import Launcher, NodeView, Scheduler, Serializer, Transport
    from constellation.core.options import Option
    from constellation.core.pid import Pid
    from constellation.core.resources import Resources
    from constellation.core.status import ExitStatus

hookspec = pluggy.HookspecMarker("constellation")
hookimpl = pluggy.HookimplMarker("constellation")


# -- What a plugin offers ----------------------------------------------------------------------------------------------


@hookspec
def register_options() -> list[Option]:  # type: ignore[empty-body]  # a specification
    """Declare the options that the plugin takes.

    Called in every process in which the plugin is enabled, before every other hook of it. What was given is then held
    against it: an option that is not declared, or a value of another type, is a PluginError with the near name. A plugin
    without this hook takes no options.

    :returns: One `Option` per option.
    """


@hookspec
def register_transports(options: Mapping[str, Any]) -> list[Transport]:  # type: ignore[empty-body]  # a specification
    """Offer ways to carry bytes between two processes.

    Called in the program, while its ``init()`` runs and before a process is forked from it: the processes inherit what is
    offered, so it must not hold a thread, a lock or a descriptor yet. Called in the fabric (in a node) when it makes the
    first pair. Both must offer the same transport.

    :param options: The values of the plugin's options, by name.
    :returns: One object per transport; its ``name`` is what ``init(transport=...)`` selects.
    """


@hookspec
def register_serializers(options: Mapping[str, Any]) -> list[Serializer]:  # type: ignore[empty-body]  # a specification
    """Offer ways to turn values into bytes.

    Called in the program, while its ``init()`` runs and before a process is forked from it: the processes inherit what is
    offered, so it must not hold a thread, a lock or a descriptor yet. Never called in the fabric, which does not look into
    values.

    :param options: The values of the plugin's options, by name.
    :returns: One object per serializer; its ``name`` is what ``init(serializer=...)`` selects.
    """


@hookspec
def register_schedulers(options: Mapping[str, Any]) -> list[Scheduler]:  # type: ignore[empty-body]  # a specification
    """Offer ways to choose a node for a demand.

    Called in the master (in local mode: the fabric), when it starts. Called before that in the program, where ``init()``
    names plugins or a scheduler, so that a fault is told at once; what is offered there is never asked.

    :param options: The values of the plugin's options, by name.
    :returns: One object per scheduler; its ``name`` is what ``init(scheduler=...)`` selects.
    """


@hookspec
def register_launchers(options: Mapping[str, Any]) -> list[Launcher]:  # type: ignore[empty-body]  # a specification
    """Offer ways to start nodes on somebody else's engine (ssh, Slurm, containers).

    Called in the command line, when a launcher is named.

    :param options: The values of the plugin's options, by name.
    :returns: One object per launcher; its ``name`` is what selects it.
    """


@hookspec
def register_commands(cli: click.Group, options: Mapping[str, Any]) -> None:
    """Add commands to ``constellation``.

    Called in the command line only, when a command is named that is not built in, and for ``constellation --help``.
    A built-in command cannot be replaced.

    :param cli: The group to add to, as in ``@cli.command()``.
    :param options: The values of the plugin's options, by name.
    """


@hookspec
def detect_resources(options: Mapping[str, Any]) -> Mapping[str, float]:  # type: ignore[empty-body]  # a specification
    """Say what this computer has beside memory and cores, such as ``{"gpu": 2}``.

    Called in each node of a fabric, once, before it joins. An amount that is given by hand counts as it is given. Not
    called in local mode, where nothing is refused but by a capacity that is given by hand.

    :param options: The values of the plugin's options, by name.
    :returns: Custom amounts by name. Two plugins that name the same resource: PluginError.
    """


# -- News --------------------------------------------------------------------------------------------------------------


@hookspec
def deployment_started(first: Pid, program: Sequence[str], options: Mapping[str, Any]) -> None:
    """A deployment has begun: its first process is about to leave ``init()``.

    Called in the master (in local mode: the fabric), before the first process's `process_spawned`.

    :param first: The first process; its Pid names the deployment.
    :param program: The command line of the program: in local mode as ``sys.orig_argv`` gives it, else without the
        interpreter.
    :param options: The values of the plugin's options, by name.
    """


@hookspec
def process_spawned(
    pid: Pid, parent: Pid | None, function: str, node: str, resources: Resources, options: Mapping[str, Any]
) -> None:
    """A process runs; its spawner is being told.

    Called in the master (in local mode: the fabric).

    :param pid: The new process.
    :param parent: The process that spawned it, or None for the first one.
    :param function: ``module:qualified name`` of what it runs.
    :param node: Name of the node.
    :param resources: Its demand.
    :param options: The values of the plugin's options, by name.
    """


@hookspec
def process_exited(status: ExitStatus, options: Mapping[str, Any]) -> None:
    """A process has ended, and its output up to then has been read.

    Called in the master (in local mode: the fabric), before those who watch it are told.

    :param status: Its death certificate; ``status.pid`` is the process.
    :param options: The values of the plugin's options, by name.
    """


@hookspec
def node_joined(node: NodeView, options: Mapping[str, Any]) -> None:
    """A node may be used from now on.

    Called in the master (in local mode: the fabric, once, for its only node), after the scheduler has been told.

    :param node: The node with its capacity.
    :param options: The values of the plugin's options, by name.
    """


@hookspec
def node_lost(node: NodeView, reason: str, options: Mapping[str, Any]) -> None:
    """A node is not used any more: it has left, or its lease has run out.

    Called in the master, after the scheduler has been told. Never called in local mode.

    :param node: The node as it was last known.
    :param reason: One sentence.
    :param options: The values of the plugin's options, by name.
    """


@hookspec
def deployment_ended(first: Pid, code: int, options: Mapping[str, Any]) -> None:
    """The last process of a deployment has ended.

    Called in the master (in local mode: the fabric, right before it ends, when all output has been shown).

    :param first: The first process, as in `deployment_started`.
    :param code: The exit code of the whole run.
    :param options: The values of the plugin's options, by name.
    """
