"""Links that hold bytes of which their descriptor does not tell, as encryption does: nothing stays unread."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import RunProgram

AHEAD = '''
import socket

from constellation.plugin import hookimpl
from constellation.transports.tcp import SOCKET_BUFFER, TcpTransport


class AheadLink:
    """Reads records of up to 16 KiB, and gives out as little of one as it is asked for."""

    def __init__(self, sock):
        sock.setblocking(False)
        self.sock, self.ahead = sock, b""
        self.send, self.send_many, self.fileno, self.close = sock.send, sock.sendmsg, sock.fileno, sock.close

    def pending(self):
        if {faulty!r} == "raises":
            raise RuntimeError("out of order")
        return bool(self.ahead) or {faulty!r} == "always"

    def receive(self, size):
        if not self.ahead:
            self.ahead = self.sock.recv(16 << 10)
        data, self.ahead = self.ahead[:size], self.ahead[size:]
        return data

    def receive_into(self, view):
        data = self.receive(len(view))
        view[:len(data)] = data
        return len(data)


class Ahead(TcpTransport):
    name = "ahead"

    def adopt(self, fd):
        return AheadLink(socket.socket(fileno=fd))


@hookimpl
def register_transports():
    return [Ahead()]
'''

PROGRAM = """
    import random
    from constellation import PeerDied, Receiver, Sender, init, parent, spawn

    def child():
        to, asked = Sender(parent()), Receiver(parent())
        for value in values():
            asked.recv().block()  # so that nothing comes after it that would wake the reader
            to.send(value).block()

    def values():
        chance = random.Random(1)
        for near in (60, 16 << 10, 64 << 10, 128 << 10, (256 << 10) + 60, (256 << 10) + 9000, 700_000):
            for _ in range(8):
                yield chance.randbytes(near + chance.randrange(-40, 40))

    init(plugins=["plug_pkg.ahead"])
    pid = spawn(child).block()
    come, ask = Receiver(pid), Sender(pid)
    try:
        for value in values():
            ask.send(None).block()
            assert come.recv().block(timeout=10) == value
        print("all")
    except PeerDied as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("faulty", "said"),
    [("", "all\n"), ("always", "all\n"), ("raises", "transport 'ahead': raised RuntimeError: out of order")],
)
def test_what_a_link_holds_is_read(tmp_path: Path, run_program: RunProgram, faulty: str, said: str) -> None:
    """One that says so gives all of its bytes; one that lies about it spins nobody; one that raises is named."""
    (tmp_path / "plug_pkg").mkdir()
    (tmp_path / "plug_pkg" / "ahead.py").write_text(AHEAD.replace("{faulty!r}", repr(faulty)))
    done = run_program(tmp_path, PROGRAM, env={"CONSTELLATION_FORMAT": "raw"}, timeout=60)
    assert said in done.stdout, done
