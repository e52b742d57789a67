"""Reads what a program in a folder asks for, and asks whether a Python satisfies it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import constellation
from constellation.core.errors import DeployError
from constellation.core.fitting import Lack
from constellation.core.requirements import (
    Lines,
    Stated,
    extras_of_project,
    from_lines,
    from_project,
    from_script,
)

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_LARGEST_TEXT = 4 << 20
_DEEPEST = 20
"""Files that include each other."""
NODE_DISTRIBUTION = "constellation"


def stated(root: str, script: str = "") -> Stated:
    """Read what the program in a root asks for.

    Args:
        root: The root of the program, here or on a node.
        script: The script below it, or the folder with ``__main__.py``; empty where a module is run.

    Raises:
        DeployError: A file that says it cannot be read; says which line.
    """
    reader = _Reader(os.path.realpath(root))
    if script:
        name = os.path.join(script, "__main__.py") if os.path.isdir(os.path.join(root, script)) else script
        text = reader.text(name)
        found = from_script(text, name) if text is not None and "# /// script" in text else None
        if found is not None:
            return found
    project = reader.text("pyproject.toml")
    by_project = from_project(project, "pyproject.toml") if project is not None else Stated()
    if reader.text("requirements.txt") is None:
        return by_project
    everything = list(reader.lines("requirements.txt", "requirement"))
    requirements = [each for kind, lines in everything if kind == "requirement" for each in lines.requirements]
    own = [lines.own_extras for _, lines in everything if lines.own_extras is not None]
    if own:
        requirements += by_project.requirements
        requirements += extras_of_project(project or "", "pyproject.toml", frozenset().union(*own))
    return Stated(
        "requirements.txt",
        tuple(dict.fromkeys(requirements)),
        by_project.python,
        tuple(dict.fromkeys(each for _, lines in everything for each in lines.options)),
        tuple(dict.fromkeys(each for kind, lines in everything if kind == "constraint" for each in lines.requirements)),
        tuple(dict.fromkeys(each for _, lines in everything for each in lines.local)),
    )


class _Reader:
    """Reads texts below a root, and nothing outside."""

    def __init__(self, root: str) -> None:
        self._root = root

    def text(self, name: str) -> str | None:
        """The text of a file; None if it is not there."""
        path = os.path.realpath(os.path.join(self._root, name))
        if not path.startswith(self._root.rstrip("/") + "/"):
            raise DeployError(f"{name} lies outside of the program's folder, and so does not travel: put it inside")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DeployError(f"cannot read {name}: {error.strerror}") from error
        try:
            with os.fdopen(fd, "rb") as file:
                data = file.read(_LARGEST_TEXT + 1)
        except OSError as error:
            raise DeployError(f"cannot read {name}: {error.strerror}") from error
        if len(data) > _LARGEST_TEXT:
            raise DeployError(f"cannot read {name}: it has more than {_LARGEST_TEXT} bytes")
        return data.decode("utf-8", "replace").removeprefix("\ufeff")

    def lines(self, name: str, kind: str, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Lines]]:
        """The requirements.txt of a name, then those that it includes; with the kind in which each counts."""
        text = self.text(name)
        if text is None:
            raise DeployError(f"{above[-1] if above else name} includes {name}, which is not there")
        read = from_lines(text, name)
        yield kind, read
        if len(above) == _DEEPEST:
            raise DeployError(f"{name} is included {_DEEPEST} files deep: {' -> '.join(above[:3])} -> ...")
        for each in read.includes:
            # Below a constraint everything is one.
            inner = "constraint" if kind == "constraint" else each.kind
            path = os.path.normpath(os.path.join(os.path.dirname(name), each.path))
            if path in {*above, name}:
                continue
            yield from self.lines(path, inner, (*above, name))


class Installed(NamedTuple):
    """One distribution of a Python."""

    version: str
    requires: tuple[str, ...]
    url: str
    """Where it was installed from, if not from an index (PEP 610)."""


class Environment(NamedTuple):
    """What is known of a Python."""

    python: str
    """Such as ``3.11.7``."""
    find: Callable[[str], Installed | None]
    """A distribution by name, or None."""


def this_environment() -> Environment:
    """The Python that runs this."""
    return Environment(platform.python_version(), _find_here)


def _find_here(name: str) -> Installed | None:
    import json

    import importlib_metadata  # late: for deployments only

    try:
        found = importlib_metadata.distribution(name)
        origin = found.read_text("direct_url.json")
        url = str(json.loads(origin).get("url", "")) if origin else ""
        return Installed(found.version, tuple(found.requires or ()), url)
    except (importlib_metadata.PackageNotFoundError, ValueError, TypeError, KeyError):
        # An installation that is broken in itself, such as one without a version, is as good as none. Constellation itself
        # is there in any case, be it as a folder on the path.
        return Installed(constellation.__version__, (), "") if name.lower() == NODE_DISTRIBUTION else None


def satisfied_by(program: Stated, environment: Environment) -> list[Lack]:
    """Say what a Python lacks of what a program asks for; empty: it satisfies.

    Of packages that are installed it is taken that they have what they need themselves, but for their extras.

    Raises:
        DeployError: A requirement cannot be read; names it.
    """
    return [*python_lacks(program, environment), *_package_lacks(program, environment)]


def python_lacks(program: Stated, environment: Environment) -> list[Lack]:
    """Say whether the Python itself does."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # late: for deployments only

    if not program.python:
        return []
    try:
        does = SpecifierSet(program.python).contains(environment.python, prereleases=True)
    except InvalidSpecifier as error:
        raise DeployError(
            f"{program.source}: requires-python is {program.python!r}: expected text such as '>=3.11'"
        ) from error
    return [] if does else [Lack(f"Python {program.python}", environment.python)]


def _package_lacks(program: Stated, environment: Environment) -> list[Lack]:
    lacks: list[Lack] = []
    limits = _limits(program)
    for text in program.requirements:
        lacks += _lacks_of(text, program, environment, limits, frozenset())
    return list(dict.fromkeys(lacks))


def _limits(program: Stated) -> dict[str, list[str]]:
    from packaging.utils import canonicalize_name

    limits: dict[str, list[str]] = {}
    for text in program.constraints:
        requirement = parsed(text, program.source)
        if requirement is not None and (requirement.marker is None or requirement.marker.evaluate()):
            limits.setdefault(canonicalize_name(requirement.name), []).append(str(requirement.specifier))
    return limits


def _lacks_of(
    text: str,
    program: Stated,
    environment: Environment,
    limits: dict[str, list[str]],
    above: frozenset[tuple[str, frozenset[str]]],
    extra: str = "",
) -> Iterator[Lack]:
    """What is lacking for one requirement, and for the extras that it names."""
    from packaging.specifiers import SpecifierSet
    from packaging.utils import canonicalize_name

    requirement = parsed(text, program.source)
    if requirement is None:
        yield Lack(text, "a file of the program")
        return
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
        return
    name = canonicalize_name(requirement.name)
    found = environment.find(requirement.name)
    if found is None:
        yield Lack(_plain(text), "not installed")
        return
    if requirement.url is not None and requirement.url.rstrip("/") != found.url.rstrip("/"):
        yield Lack(_plain(text), f"{found.version} from {found.url or 'an index'}")
        return
    for limit in (str(requirement.specifier), *limits.get(name, ())):
        if not SpecifierSet(limit).contains(found.version, prereleases=True):
            shown = _plain(text) if limit == str(requirement.specifier) else f"{requirement.name}{limit}"
            yield Lack(shown, found.version)
            return
    at = (name, frozenset(requirement.extras))
    if at in above:
        return
    for wanted in sorted(requirement.extras):
        for inner in found.requires:
            read = parsed(inner, f"the metadata of {requirement.name}")
            # Only what the extra adds: what is needed without it stands without such a marker.
            if read is not None and read.marker is not None and "extra" in str(read.marker):
                yield from _lacks_of(inner, program, environment, limits, above | {at}, wanted)


def parsed(text: str, source: str) -> Requirement | None:
    """A requirement as packaging reads it, without pip's options; None for a path.

    Raises:
        DeployError: It cannot be read.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return Requirement(_plain(text))
    except InvalidRequirement as error:
        if (
            text.startswith((".", "/", "~", "file:"))
            or "://" in text
            or text.split(" ", maxsplit=1)[0].endswith((".whl", ".zip", ".gz", ".bz2"))
        ):
            return None
        reason = str(error).splitlines()[0]
        raise DeployError(f"{source}: cannot read the requirement {text!r}: {reason}") from error


def _plain(text: str) -> str:
    """A requirement without pip's options."""
    return text.split(" --", 1)[0].strip()


def without_provided(program: Stated, provided: Iterable[str]) -> tuple[Stated, Stated]:
    """Part what is to be installed from what the node provides: constellation and its plugins.

    Args:
        program: What is asked for.
        provided: Names of distributions.

    Returns:
        What is to be installed, and what must be there already.
    """
    from packaging.utils import canonicalize_name

    names = {canonicalize_name(each) for each in provided}
    own: list[str] = []
    rest: list[str] = []
    for text in program.requirements:
        requirement = parsed(text, program.source)
        is_own = requirement is not None and canonicalize_name(requirement.name) in names
        (own if is_own else rest).append(text)
    return program._replace(requirements=tuple(rest)), program._replace(requirements=tuple(own), python="")


def node_distributions() -> dict[str, str]:
    """Name and version of constellation, if it is installed, and of every distribution with plugins, of this Python."""
    import importlib_metadata  # late: for deployments only

    found = {
        point.dist.name: point.dist.version
        for point in importlib_metadata.entry_points(group="constellation")
        if point.dist is not None
    }
    found.update((each.name, each.version) for each in importlib_metadata.distributions(name=NODE_DISTRIBUTION))
    return found


def all_distributions() -> list[str]:
    """``name==version`` of everything that this Python has, sorted."""
    import importlib_metadata  # late: for deployments only

    return sorted(
        {f"{each.name}=={each.version}" for each in importlib_metadata.distributions(path=sys.path) if each.name}
    )
