"""A transport for constellation over WebSocket, for networks that let only HTTP through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from constellation.plugin import Option, Transport, hookimpl
from constellation_websocket.transport import Settings as Settings
from constellation_websocket.transport import WebSocketTransport as WebSocketTransport

__all__ = ["Settings", "WebSocketTransport", "register_options", "register_transports"]


@hookimpl
def register_options() -> list[Option]:
    """What may be said."""
    standard = Settings()
    return [
        Option("path", str, standard.path, "Path of the listener, and of addresses that have none."),
        Option("ping_s", float, standard.ping_s, "Seconds without sending after which a ping is sent; 0: never."),
        Option("ca", str, "", "File of the authorities that a wss:// server may be certified by; else the system's."),
        Option("certificate", str, "", "File of the listener's certificate: it then speaks TLS itself."),
        Option("key", str, "", "File of the certificate's key, where it is not in the same file."),
    ]


@hookimpl
def register_transports(options: Mapping[str, Any]) -> list[Transport]:
    """Offer `WebSocketTransport`."""
    return [WebSocketTransport(Settings(**options))]
