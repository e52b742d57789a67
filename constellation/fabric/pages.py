"""Serves a daemon's metrics to Prometheus: on loopback, from threads, which never touch the daemon.

The loop leaves a `Reading` once a second, and a thread that is asked makes a page of the last one. So nobody who asks, be it
slowly, often or not at all, is waited for by the loop. A port on loopback is open to every user of the computer, so what asks
is bounded too: few at a time, each for a few seconds, and with a pause between two.

`prometheus_client` is imported with this module, and this module only where metrics are wanted.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from constellation.core.address import Address
from constellation.core.errors import UsageError
from constellation.core.gauges import BY_NAME, COUNTER, EXPECTED, METRICS, Sample
from constellation.fabric.front import listen
from constellation.fabric.loop import Loop
from constellation.fabric.readings import Reading

EVERY_S: Final = 1.0
"""Between two readings; Prometheus asks every 15 or 60 seconds."""

MOST_AT_ONCE: Final = 4
"""Who asks meanwhile is closed."""

LONGEST_S: Final = 10.0
"""For one request and its answer: Prometheus itself gives up after ten."""

_PAUSE_S: Final = 0.02
"""Before a request is taken: somebody who asks all the time gets at most fifty pages a second, and no core."""


class Pages:
    """The metrics of one daemon.

    Args:
        loop: The daemon's loop.
        address: Where to serve them; port 0 takes a free one.
        read: Takes a reading; called in the loop.

    Attributes:
        address: Where they are.

    Raises:
        UsageError: It cannot be served there; says why.
    """

    def __init__(self, loop: Loop, address: Address, read: Callable[[], Reading]) -> None:
        try:
            listener = listen(address)
        except UsageError as error:
            raise UsageError(f"cannot serve metrics: {error}") from error
        self.address = Address.of(listener.getsockname())
        if not self.address.is_loopback:  # a name can be given to any address
            listener.close()
            raise UsageError(f"cannot serve metrics at {address}, which is {self.address} here: {EXPECTED}")
        self._loop = loop
        self._read = read
        self._reading = read()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Page(self._families))
        self._server = _Server(listener, make_wsgi_app(registry))
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        loop.call_later(EVERY_S, self._take)

    def _take(self) -> None:
        self._loop.call_later(EVERY_S, self._take)
        self._reading = self._read()

    def _families(self) -> Iterable[Metric]:
        """Called in a thread."""
        reading = self._reading
        now = self._loop.now()
        return families(
            [
                *reading.samples,
                Sample("constellation_snapshot_age_seconds", now - reading.made_at),
                Sample("constellation_node_lease_age_seconds", now - reading.heard),
            ]
        )


def families(samples: Iterable[Sample]) -> list[Metric]:
    """Samples as prometheus_client has them, in the order of the table; metrics without any are left out."""
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        by_name.setdefault(sample.name, []).append(sample)
    assert by_name.keys() <= BY_NAME.keys()
    made: list[Metric] = []
    for metric in METRICS:
        found = by_name.get(metric.name)
        if found is None:
            continue
        kind = CounterMetricFamily if metric.kind == COUNTER else GaugeMetricFamily
        family = kind(metric.name, metric.text, labels=metric.labels)
        for sample in found:
            family.add_metric(sample.labels, sample.value)
        made.append(family)
    return made


class _Page(Collector):
    """What a registry asks."""

    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """All metrics."""
        return self._families()


class _Handler(WSGIRequestHandler):
    """One request."""

    timeout = LONGEST_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Say nothing: who reads the metrics is no news."""


class _Server(ThreadingMixIn, WSGIServer):
    """Serves some requests at a time, each in a thread that ends with the daemon."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, app: Any) -> None:
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        listener.settimeout(LONGEST_S)
        self.socket = listener
        host, port = listener.getsockname()[:2]
        self.server_name, self.server_port = str(host), int(port)  # without a question to a name server
        self.setup_environ()
        self.set_app(app)
        self._lock = threading.Lock()
        self._asking: dict[socket.socket, float] = {}

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take the next one."""
        time.sleep(_PAUSE_S)
        return super().get_request()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for one more."""
        with self._lock:
            if len(self._asking) >= MOST_AT_ONCE:
                return False
            self._asking[request] = time.monotonic()
            return True

    def shutdown_request(self, request: Any) -> None:
        """It has been answered, or is not to be."""
        with self._lock:
            self._asking.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut off who takes too long; called between requests, and twice a second without any."""
        now = time.monotonic()
        with self._lock:
            late = [request for request, since in self._asking.items() if now - since > LONGEST_S]
            for request in late:
                try:
                    request.shutdown(socket.SHUT_RDWR)
                except OSError:  # it has gone meanwhile
                    pass

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Somebody who has gone while being answered is no news; what is our fault is."""
        error = sys.exception()
        if not isinstance(error, OSError | ValueError):  # ValueError: the file of a socket that was cut off is closed
            super().handle_error(request, client_address)
