"""Names of processes, and the ties between their ends: what `register`, `whereis` and `link` ask for.

A name belongs to a process until that has been waited for, never longer: so who finds a name finds a process that the
node counts among the living, and a process started in its place can take the name at once. A tie says who ends when
somebody else ends badly. Both outlive nothing: the book is empty when the processes are gone.

To link with a process that has ended already is as if that had been done before, so that it is no matter who was faster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from constellation.core import messages
from constellation.core.lifecycle import LINKED
from constellation.core.messages import Message
from constellation.core.pid import Pid
from constellation.core.settings import LARGEST_NAME
from constellation.core.status import ExitStatus
from constellation.fabric.books import Member

MOST_NAMES = 1024
"""Names that one process may have, and names that it may wait for at a time: a program that has more has a loop."""
_LONGEST_CAUSE = 500
"""A chain of links makes each cause longer than the one before."""

Request: TypeAlias = messages.Register | messages.Unregister | messages.Whereis | messages.Tie | messages.Untie


class Registry:
    """Names and ties of the processes of one deployment.

    Args:
        send: Sends a message to a process.
        find: Gives a living process by its key.
        status_of: Gives the certificate of a dead one; None where the key is not known.
        end: Asks a process to end, with the cause.
    """

    def __init__(
        self,
        send: Callable[[Member, Message], None],
        find: Callable[[bytes], Member | None],
        status_of: Callable[[bytes], ExitStatus | None],
        end: Callable[[Member, str], None],
    ) -> None:
        self._send = send
        self._find = find
        self._status_of = status_of
        self._end = end
        self._owners: dict[str, Member] = {}
        self._names: dict[bytes, dict[str, None]] = {}
        self._searches: dict[str, dict[tuple[bytes, int], Member]] = {}
        self._searching: dict[bytes, dict[int, str]] = {}
        self._dependents: dict[bytes, dict[bytes, None]] = {}
        """Whose end ends whom."""
        self._tied_to: dict[bytes, dict[bytes, None]] = {}
        """The same, the other way round."""

    def on_message(self, process: Member, message: Request) -> None:
        """Do what a process asks for."""
        match message:
            case messages.Register(request, name):
                self._register(process, request, name)
            case messages.Unregister(request, name):
                self._unregister(process, request, name)
            case messages.Whereis(request, name, wait):
                self._search(process, request, name, wait=wait)
            case messages.Tie(request, key, both):
                self._tie(process, request, key, both=both)
            case messages.Untie(request, key):
                self._cut(process.key, key)
                self._cut(key, process.key)
                self._done(process, request)

    def _done(self, process: Member, request: int, kind: str = "", text: str = "") -> None:
        self._send(process, messages.Done(request, kind, text))

    # Names

    def _register(self, process: Member, request: int, name: str) -> None:
        owner = self._owners.get(name)
        names = self._names.setdefault(process.key, {})
        if owner is not None and owner is not process:
            text = f"cannot register {name!r}: process {owner.pid} has that name; wait for its end, or take another"
            self._done(process, request, "NameInUse", text)
            return
        if not name or len(name.encode(errors="replace")) > LARGEST_NAME:
            text = f"cannot register {name[:50]!r}: expected 1 to {LARGEST_NAME} bytes"
            self._done(process, request, "UsageError", text)
            return
        if len(names) >= MOST_NAMES and owner is None:
            text = f"cannot register {name!r}: process {process.pid} has {len(names)} names already"
            self._done(process, request, "UsageError", text)
            return
        self._owners[name] = process
        names[name] = None
        self._done(process, request)
        for (key, number), searcher in self._searches.pop(name, {}).items():
            self._searching[key].pop(number, None)
            self._send(searcher, messages.Found(number, process.key))

    def _unregister(self, process: Member, request: int, name: str) -> None:
        if self._owners.get(name) is not process:
            text = f"cannot unregister {name!r}: process {process.pid} does not have that name"
            self._done(process, request, "UsageError", text)
            return
        del self._owners[name]
        del self._names[process.key][name]
        self._done(process, request)

    def _search(self, process: Member, request: int, name: str, *, wait: bool) -> None:
        owner = self._owners.get(name)
        if owner is not None or not wait:
            self._send(process, messages.Found(request, b"" if owner is None else owner.key))
            return
        searching = self._searching.setdefault(process.key, {})
        if len(searching) >= MOST_NAMES:
            text = f"cannot wait for {name!r}: process {process.pid} waits for {len(searching)} names already"
            self._done(process, request, "UsageError", text)
            return
        searching[request] = name
        self._searches.setdefault(name, {})[process.key, request] = process

    def cancel(self, process: Member, request: int) -> None:
        """Forget a search."""
        name = self._searching.get(process.key, {}).pop(request, None)
        if name is not None:
            self._forget_search(name, process.key, request)

    def _forget_search(self, name: str, key: bytes, request: int) -> None:
        searches = self._searches[name]
        del searches[key, request]
        if not searches:
            del self._searches[name]

    def clear(self) -> None:
        """Begin anew: the deployment has been closed, and nobody will take a name any more."""
        for name, searches in self._searches.items():
            for (_, request), process in searches.items():
                text = f"cannot wait for {name!r} any more: the deployment has been closed"
                self._done(process, request, "UsageError", text)
        for table in (self._owners, self._names, self._searches, self._searching, self._dependents, self._tied_to):
            table.clear()

    # Ties

    def _tie(self, process: Member, request: int, key: bytes, *, both: bool) -> None:
        other = self._find(key)
        if other is not None:
            if other is not process:
                self._add(key, process.key)
                if both:
                    self._add(process.key, key)
            self._done(process, request)
            return
        status = self._status_of(key)
        if status is None:
            text = (
                f"cannot link with process {Pid.from_bytes(key)}: it is not known on this node: "
                "it belongs to another deployment, or never was"
            )
            self._done(process, request, "UsageError", text)
            return
        self._done(process, request)
        if not status.ok:
            self._end(process, _cause(status))

    def _add(self, key: bytes, dependent: bytes) -> None:
        self._dependents.setdefault(key, {})[dependent] = None
        self._tied_to.setdefault(dependent, {})[key] = None

    def _cut(self, key: bytes, dependent: bytes) -> None:
        for table, one, two in ((self._dependents, key, dependent), (self._tied_to, dependent, key)):
            known = table.get(one)
            if known is not None:
                known.pop(two, None)
                if not known:
                    del table[one]

    # Ends

    def ended(self, process: Member, status: ExitStatus | None) -> None:
        """Free the names of a process that has been waited for; end those that are linked with a bad end."""
        key = process.key
        for name in self._names.pop(key, ()):
            del self._owners[name]
        for request, name in self._searching.pop(key, {}).items():
            self._forget_search(name, key, request)
        for other in self._tied_to.pop(key, ()):
            self._dependents[other].pop(key, None)
        dependents = self._dependents.pop(key, {})
        for dependent in dependents:
            self._tied_to[dependent].pop(key, None)
            other_process = self._find(dependent)
            if other_process is not None and status is not None and not status.ok:
                self._end(other_process, _cause(status))


def _cause(status: ExitStatus) -> str:
    return f"{LINKED} {status.pid} died: {status.describe()}"[:_LONGEST_CAUSE]
