"""Write, debug and deploy programs that run as many processes, on one machine or many.

Processes own nothing together and talk over typed, ordered channels:

    from constellation import Receiver, Sender, init, parent, spawn

    def child(n: int) -> None:
        Sender[int](parent()).send(n * n).block()

    if __name__ == "__main__":
        init()
        print(Receiver[int](spawn(child, 12).block()).recv().block())

Names are loaded at their first use, so that `import constellation` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from constellation.core.childspec import ChildSpec as ChildSpec
    from constellation.core.errors import ChannelClosed as ChannelClosed
    from constellation.core.errors import ChannelError as ChannelError
    from constellation.core.errors import ChannelInUse as ChannelInUse
    from constellation.core.errors import ConstellationError as ConstellationError
    from constellation.core.errors import HandshakeError as HandshakeError
    from constellation.core.errors import Infeasible as Infeasible
    from constellation.core.errors import InternalError as InternalError
    from constellation.core.errors import NameInUse as NameInUse
    from constellation.core.errors import NoCapacity as NoCapacity
    from constellation.core.errors import PeerDied as PeerDied
    from constellation.core.errors import PluginError as PluginError
    from constellation.core.errors import SerializationError as SerializationError
    from constellation.core.errors import SpawnError as SpawnError
    from constellation.core.errors import SpawnStalled as SpawnStalled
    from constellation.core.errors import SupervisionError as SupervisionError
    from constellation.core.errors import TypeMismatch as TypeMismatch
    from constellation.core.errors import UsageError as UsageError
    from constellation.core.errors import WouldBlock as WouldBlock
    from constellation.core.pid import Pid as Pid
    from constellation.core.resources import Resources as Resources
    from constellation.core.status import ExitStatus as ExitStatus
    from constellation.core.where import AwayFrom as AwayFrom
    from constellation.process.channel import Receiver as Receiver
    from constellation.process.channel import Sender as Sender
    from constellation.process.names import link as link
    from constellation.process.names import register as register
    from constellation.process.names import try_whereis as try_whereis
    from constellation.process.names import unlink as unlink
    from constellation.process.names import unregister as unregister
    from constellation.process.names import whereis as whereis
    from constellation.process.operations import Operation as Operation
    from constellation.process.operations import join as join
    from constellation.process.operations import select as select
    from constellation.process.requests import kill as kill
    from constellation.process.requests import spawn as spawn
    from constellation.process.requests import try_spawn as try_spawn
    from constellation.process.requests import watch as watch
    from constellation.process.runtime import parent as parent
    from constellation.process.runtime import pid as pid
    from constellation.process.runtime import resources as resources
    from constellation.process.start import Deployment as Deployment
    from constellation.process.start import init as init
    from constellation.supervisor import Supervisor as Supervisor

__version__ = "0.1.0"

_ERRORS = (
    "ChannelClosed", "ChannelError", "ChannelInUse", "ConstellationError", "HandshakeError", "Infeasible", "InternalError",
    "NameInUse", "NoCapacity", "PeerDied", "PluginError", "SerializationError", "SpawnError", "SpawnStalled",
    "SupervisionError", "TypeMismatch", "UsageError", "WouldBlock",
)  # fmt: skip
_HOMES = {
    **dict.fromkeys(_ERRORS, "core.errors"),
    "Pid": "core.pid",
    "Resources": "core.resources",
    "ExitStatus": "core.status",
    "AwayFrom": "core.where",
    "ChildSpec": "core.childspec",
    "Supervisor": "supervisor",
    **dict.fromkeys(("Receiver", "Sender"), "process.channel"),
    **dict.fromkeys(("link", "register", "try_whereis", "unlink", "unregister", "whereis"), "process.names"),
    **dict.fromkeys(("Operation", "join", "select"), "process.operations"),
    **dict.fromkeys(("kill", "spawn", "try_spawn", "watch"), "process.requests"),
    **dict.fromkeys(("parent", "pid", "resources"), "process.runtime"),
    **dict.fromkeys(("Deployment", "init"), "process.start"),
}
__all__ = [  # written out, because type checkers and the reference builder read it; a test compares the two
    "AwayFrom", "ChannelClosed", "ChannelError", "ChannelInUse", "ChildSpec", "ConstellationError", "Deployment", "ExitStatus",
    "HandshakeError", "Infeasible", "InternalError", "NameInUse", "NoCapacity", "Operation", "PeerDied", "Pid",
    "PluginError", "Receiver", "Resources", "Sender", "SerializationError", "SpawnError", "SpawnStalled",
    "SupervisionError", "Supervisor", "TypeMismatch", "UsageError", "WouldBlock", "init", "join", "kill", "link",
    "parent", "pid", "register", "resources", "select", "spawn", "try_spawn", "try_whereis", "unlink", "unregister",
    "watch", "whereis",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'constellation' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"constellation.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
