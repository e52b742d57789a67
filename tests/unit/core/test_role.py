"""What a certificate says about its holder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core.errors import HandshakeError
from constellation.core.role import KINDS, Role, check_role, is_name, link_name, read_role


def certificate(*uris: str) -> dict[str, object]:
    return {"subjectAltName": (("DNS", "elsewhere"), *(("URI", uri) for uri in uris))}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a", "alice@lab", "10.0.0.1:7000", "[::1]:5", "00ff"])
def test_a_role_is_read_from_its_uri(kind: str, name: str) -> None:
    """For every kind and the names that there are."""
    role = Role(kind, name)
    assert read_role(certificate(role.uri)) == role


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        {},
        {"subjectAltName": ()},
        certificate(),
        certificate("constellation:node/a", "constellation:bridge/a"),
        certificate("constellation:node"),
        certificate("constellation:node/"),
        certificate("constellation:node/a/b"),
        certificate("constellation:node/a\n"),
        certificate("constellation:root/a"),
        certificate("node/a"),
        certificate("https://constellation:node/a"),
        certificate("constellation:node/" + "a" * 129),
    ],
)
def test_what_is_no_role_is_refused(wrong: dict[str, object] | None) -> None:
    """None, several, of another kind, or with a name that is none."""
    with pytest.raises(HandshakeError):
        read_role(wrong)


def test_a_role_is_held_to_kinds_and_to_whole_roles() -> None:
    """A deployer is no node, and one node is not another where that matters."""
    node = Role("node", "a")
    assert check_role(node, "node") == node
    assert check_role(node, Role("node", "b"), Role("node", "a")) == node
    for expected in (("deployer",), ("process", "bridge"), (Role("node", "b"),), ()):
        with pytest.raises(HandshakeError, match="it is node a: expected"):
            check_role(node, *expected)


def test_the_name_of_a_kind_is_not_taken_for_the_kind() -> None:
    """An owner may be called `node`."""
    with pytest.raises(HandshakeError):
        check_role(Role("deployer", "node"), "node")


@given(st.text(max_size=200))
def test_any_uri_is_a_role_or_refused(text: str) -> None:
    """And a role is written as it was read."""
    try:
        role = read_role(certificate(text))
    except HandshakeError:
        return
    assert role.uri == text
    assert is_name(role.name)


def test_every_link_has_a_name_of_its_own() -> None:
    """Which says who dialled whom."""
    a, b = b"a" * 32, b"b" * 32
    names = {link_name(a, b, 1), link_name(b, a, 1), link_name(a, b, 2), link_name(a, a, 1)}
    assert len(names) == 4
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in names)
