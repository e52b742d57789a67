"""What the author of a plugin imports: the hook marker, the contracts, and the types that they speak of.

A plugin is a module with functions marked ``@hookimpl``, named after the hooks in `constellation.core.hooks`:

    from constellation.plugin import Scheduler, hookimpl

    @hookimpl
    def register_schedulers() -> list[Scheduler]:
        return [FirstNode()]

and an entry point of the group ``constellation`` that points to it, or its dotted name given to ``--plugin``.
This module imports no socket and starts nothing.
"""

from constellation.core.contracts import CONTRACT_VERSION as CONTRACT_VERSION
from constellation.core.contracts import Buffer as Buffer
from constellation.core.contracts import BufferingLink as BufferingLink
from constellation.core.contracts import Codec as Codec
from constellation.core.contracts import DiallingTransport as DiallingTransport
from constellation.core.contracts import Launcher as Launcher
from constellation.core.contracts import Link as Link
from constellation.core.contracts import Listener as Listener
from constellation.core.contracts import NodeCommand as NodeCommand
from constellation.core.contracts import NodeView as NodeView
from constellation.core.contracts import PlacesAmong as PlacesAmong
from constellation.core.contracts import RemoteTransport as RemoteTransport
from constellation.core.contracts import Scheduler as Scheduler
from constellation.core.contracts import Serializer as Serializer
from constellation.core.contracts import SerializesTyped as SerializesTyped
from constellation.core.contracts import Transport as Transport
from constellation.core.contracts import WaitingLink as WaitingLink
from constellation.core.errors import ConstellationError as ConstellationError
from constellation.core.errors import HandshakeError as HandshakeError
from constellation.core.errors import Infeasible as Infeasible
from constellation.core.errors import LaunchError as LaunchError
from constellation.core.errors import PluginError as PluginError
from constellation.core.errors import SerializationError as SerializationError
from constellation.core.errors import UsageError as UsageError
from constellation.core.hooks import hookimpl as hookimpl
from constellation.core.options import Option as Option
from constellation.core.pid import Pid as Pid
from constellation.core.resources import Resources as Resources
from constellation.core.status import ExitStatus as ExitStatus

__all__ = [
    "CONTRACT_VERSION",
    "Buffer",
    "BufferingLink",
    "Codec",
    "ConstellationError",
    "DiallingTransport",
    "ExitStatus",
    "HandshakeError",
    "Infeasible",
    "LaunchError",
    "Launcher",
    "Link",
    "Listener",
    "NodeCommand",
    "NodeView",
    "Option",
    "Pid",
    "PlacesAmong",
    "PluginError",
    "RemoteTransport",
    "Resources",
    "Scheduler",
    "SerializationError",
    "Serializer",
    "SerializesTyped",
    "Transport",
    "UsageError",
    "WaitingLink",
    "hookimpl",
]
