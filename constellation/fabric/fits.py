"""Which nodes a deployment can be on, as far as the master knows it before anything is sent there.

A node says what it has when it joins. It is held against what the program is deployed from and states, and, once the program
has come to its init() on one node, against that node and the plugins that the program names itself (core/fitting.py says what
must be equal). What only the node can find out, such as a package that is missing there, it says when it is asked to run it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from constellation.core.finding import DEFAULT_NAMES
from constellation.core.fitting import Fitting, Installation, Made, Row, alike, fit
from constellation.core.requirements import Stated
from constellation.core.specification import installation_of
from constellation.fabric.requirements import Environment, python_lacks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from constellation.core.trunk import Specification

_MOST_TABLES: Final = 4
"""In one refusal: nodes mostly lack the same."""


class Reason(NamedTuple):
    """Why a node is left out."""

    title: str
    """Of the node."""
    text: str
    """With the table and what mends it."""
    brief: str


class Fits:
    """What one deployment asks of nodes.

    Args:
        specification: The deployment.
        program: What it is called.

    Attributes:
        left_out: By number, the nodes that do not fit, each with the reason.
    """

    def __init__(self, specification: Specification, program: str) -> None:
        self.left_out: dict[int, Reason] = {}
        self._program = program
        self._client = installation_of("here", specification.client)
        self._python = specification.python
        self._is_forced = specification.is_forced
        self._plugins = [str(name) for name in specification.plugins]
        self._home: Installation | None = None
        self._named: dict[str, str] = {}
        """Plugins that the program wants and some node did not have, with the distribution where one is known."""

    def reached(self, home: Installation | None, made: Made) -> None:
        """The program has come to its init() on a node; None: that has gone."""
        self._plugins = list(dict.fromkeys([*self._plugins, *(name for name, _ in made.plugins)]))
        if home is not None:
            self._home = home._replace(plugins={**home.plugins, **dict(made.plugins)})

    def wants(self, plugins: Iterable[str], nodes: Iterable[Installation]) -> None:
        """The program names plugins that a node does not have; others may."""
        known = {name: text for node in nodes for name, text in node.plugins.items() if text}
        self._named.update((name, known.get(name, "")) for name in plugins)

    def judge(self, node: Installation) -> Reason | None:
        """Why a node does not fit; None: nothing is known that speaks against it."""
        own = {name: "" for name in self._plugins if "." in name or name in DEFAULT_NAMES}
        node = node._replace(plugins={**own, **node.plugins})
        for fitting in (self._against_client(node), self._against_home(node), self._against_named(node)):
            if fitting is not None and not fitting.fits:
                return Reason(node.title, fitting.refusal(self._program), fitting.brief)
        return None

    def _against_client(self, node: Installation) -> Fitting:
        version = ".".join(map(str, node.python))
        environment = Environment(version, lambda _name: None)
        lacks = python_lacks(Stated("the program", python=self._python), environment)
        named = [name for name in self._plugins if name in self._client.plugins]
        if self._is_forced:
            return fit(self._client, node, plugins=named, python=self._python or ">=3")
        return fit(self._client, node, plugins=named, python=self._python, lacks=lacks)

    def _against_home(self, node: Installation) -> Fitting | None:
        return None if self._home is None else alike(self._home, node, self._plugins)

    def _against_named(self, node: Installation) -> Fitting:
        lacking = {name: package for name, package in self._named.items() if name not in node.plugins}
        rows = tuple(
            Row(f"plugin {name}", package or "enabled", "not installed", is_wrong=True)
            for name, package in lacking.items()
        )
        wanted = [package.replace(" ", "==") or f"constellation-{name}" for name, package in lacking.items()]
        mend = f"on {node.title}: pip install {' '.join(wanted)}; then start the node again"
        return Fitting(("the program", node.title), rows, (), (mend,) if lacking else ())

    def explained(self, text: str, nodes: Collection[int]) -> str:
        """A refusal with the reasons of the nodes that are left out.

        Args:
            text: Why a demand cannot be placed.
            nodes: All nodes that there are.
        """
        reasons = list(self.left_out.values())
        if not reasons:
            return text
        shown = [reason.text for reason in reasons[:_MOST_TABLES]]
        if len(reasons) > len(shown):
            shown.append(f"and {len(reasons) - len(shown)} more nodes do not fit it")
        if not set(nodes) <= set(self.left_out):
            shown.insert(0, text)
        return "\n".join(shown)

    def in_a_line(self) -> str:
        """The nodes that are left out, briefly; empty: none is."""
        shown = "; ".join(f"{reason.title} ({reason.brief})" for reason in list(self.left_out.values())[:8])
        more = f" and {len(self.left_out) - 8} more" if len(self.left_out) > 8 else ""
        return f"{shown}{more}"
