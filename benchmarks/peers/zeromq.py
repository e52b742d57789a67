"""pyzmq: one PAIR socket on each side, objects by send_pyobj, large values as multipart without a copy, as its guide says."""

from __future__ import annotations

import os
import pickle
import tempfile

import zmq

from benchmarks import links
from benchmarks.peers.sockets import fork


class ZmqLink:
    """Objects as pyzmq pickles them."""

    def __init__(self, sock: zmq.Socket[bytes]) -> None:
        self.sock = sock

    def send(self, value: object) -> None:
        """Queue one value."""
        self.sock.send_pyobj(value)

    def recv(self) -> object:
        """Take the next value."""
        return self.sock.recv_pyobj()

    def flush(self) -> None:
        """Do nothing: zmq's own thread sends."""

    def ready(self) -> bool:
        """Tell whether a value is there."""
        return bool(self.sock.poll(0))


class ZmqBulkLink(ZmqLink):
    """Large values in parts, not copied by the sender."""

    def send(self, value: object) -> None:
        """Queue one value from where it lies."""
        if isinstance(value, bytes):
            self.sock.send_multipart([b"", value], copy=False)
            return
        buffers: list[pickle.PickleBuffer] = []
        head = pickle.dumps(value, 5, buffer_callback=buffers.append)
        self.sock.send_multipart([head, *(buffer.raw() for buffer in buffers)], copy=False)

    def recv(self) -> object:
        """Take the next value; bytes are copied out of zmq's frame, so that they are bytes."""
        head, *rest = self.sock.recv_multipart(copy=False)
        if not len(head.buffer):
            return rest[0].bytes
        return pickle.loads(head.buffer, buffers=[part.buffer for part in rest])


def run(carrier: str, workload: str, scale: float) -> None:
    """Measure one workload between this process and a forked one.

    Args:
        carrier: "tcp" or "ipc".
        workload: As in `links.near`.
        scale: As in `measure.scaled`.
    """
    make = ZmqBulkLink if workload == "bulk" else ZmqLink
    reader, writer = os.pipe()  # brings the address to the child: a context does not survive a fork
    with tempfile.TemporaryDirectory() as folder:

        def far() -> None:
            context = zmq.Context()
            sock = context.socket(zmq.PAIR)
            sock.connect(os.read(reader, 4096).decode())
            links.far(make(sock), workload, scale)
            context.destroy()

        os_pid = fork(far)
        context = zmq.Context()
        sock = context.socket(zmq.PAIR)
        sock.bind("tcp://127.0.0.1:*" if carrier == "tcp" else f"ipc://{folder}/s")
        endpoint = sock.get(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        os.write(writer, endpoint.rstrip(b"\0"))
        links.near(make(sock), workload, scale)
        os.waitpid(os_pid, 0)
        context.destroy()
