"""Addresses as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core.address import Address, parse_address
from constellation.core.errors import UsageError
from constellation.core.role import is_name

RIGHT = {
    "127.0.0.1:7000": ("127.0.0.1", 7000, True),
    "10.0.0.1:0": ("10.0.0.1", 0, False),
    "localhost:1": ("localhost", 1, True),
    "LocalHost.:1": ("LocalHost.", 1, True),
    "[::1]:65535": ("::1", 65535, True),
    "[0:0::1]:5": ("::1", 5, True),
    "[::ffff:127.0.0.1]:3": ("::ffff:7f00:1", 3, True),
    "[fe80::1%eth0]:3": ("fe80::1%eth0", 3, False),
    "a_b.example:7": ("a_b.example", 7, False),
    "  127.1.2.3:9 ": ("127.1.2.3", 9, True),
}


@pytest.mark.parametrize("text", RIGHT)
def test_right_addresses_are_read(text: str) -> None:
    """Numbers of both families and names, and which of them only this computer can reach."""
    address = parse_address(text)
    assert (address.host, address.port, address.is_loopback) == RIGHT[text]
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "host is missing"),
        (":7", "host is missing"),
        ("[]:7", "host is missing"),
        ("host", "port is missing"),
        ("[::1]", "port is missing"),
        ("host:", "no port"),
        ("host:x", "no port"),
        ("host:-1", "no port"),
        ("host:65536", "no port"),
        ("host:²", "no port"),
        ("::1", "brackets"),
        ("::1:7000", "brackets"),
        ("[::1:7", "bracket must be closed"),
        ("[::1]7", "bracket must be closed"),
        ("[host]:7", "no IPv6 address"),
        ("10.0.0.300:7", "neither an IPv4 address nor a name"),
        ("a b:7", "neither"),
        ("-a:7", "neither"),
        ("*:7", "neither"),
        ("a" * 254 + ":7", "neither"),
    ],
)
def test_wrong_addresses_are_refused_with_what_is_wrong(text: str, words: str) -> None:
    """The text repeats what was given, and says what is expected."""
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert words in str(caught.value)
    assert repr(text) in str(caught.value)
    assert "expected" in str(caught.value)


def test_a_port_may_be_left_out_where_there_is_a_default() -> None:
    """Then only the host has to be right."""
    assert parse_address("host", default_port=7) == Address("host", 7)
    assert parse_address("[::1]", default_port=7) == Address("::1", 7)


def test_all_addresses_are_told_from_one() -> None:
    """What is good to listen on is not always good to dial."""
    assert parse_address("0.0.0.0:1").is_any
    assert parse_address("[::]:1").is_any
    assert not parse_address("127.0.0.1:1").is_any
    assert not parse_address("host:1").is_any


def test_what_a_socket_tells_is_an_address() -> None:
    """An IPv4 peer of an IPv6 listener is shown as IPv4."""
    assert Address.of(("::ffff:10.0.0.1", 7, 0, 0)) == Address("10.0.0.1", 7)
    assert str(Address.of(("::1", 7, 0, 0))) == "[::1]:7"


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Never another exception."""
    try:
        address = parse_address(text)
    except UsageError:
        return
    assert parse_address(str(address)) == address


URLS = {
    "wss://h.example/x": ("h.example", 0, False, False),
    "ws://127.0.0.1:7000/n1": ("127.0.0.1", 7000, True, False),
    "WS://[::]:7000": ("::", 7000, False, True),
    "websocket+wss://h.example:443/x?y": ("h.example", 443, False, False),
    "a+b+ws://h/": ("h", 0, False, False),
    "unix:///run/x": ("", 0, False, False),
}


@pytest.mark.parametrize("text", URLS)
def test_urls_are_addresses_of_plugins(text: str) -> None:
    """What only this computer can reach is known of them too; the transport that they are for may stand before them."""
    address = parse_address(text)
    assert (address.host, address.port, address.is_loopback, address.is_any) == URLS[text]
    assert address.url.startswith(f"{address.scheme}://")
    assert parse_address(str(address)) == address
    assert is_name(address.as_name)


def test_a_url_says_which_transport_it_is_for_where_its_scheme_does_not() -> None:
    """So somebody who has not enabled the plugin can name it."""
    address = parse_address("wss://h.example/x")
    assert str(address._replace(transport="websocket")) == "websocket+wss://h.example/x"
    assert str(parse_address("line://h:5")._replace(transport="line")) == "line://h:5"
    assert str(parse_address("line://h:5")._replace(transport="Line")) == "line://h:5"


def test_tcp_may_be_written_as_a_url() -> None:
    """It is the one transport that everybody has."""
    assert parse_address("tcp://10.0.0.1:7000") == Address("10.0.0.1", 7000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wss://", "host is missing"),
        ("wss:///", "host is missing"),
        ("ws://10.0.0.300/x", "neither an IPv4 address nor a name"),
        ("ws://h:x/", "no port"),
        ("ws://h:65536/", "no port"),
        ("ws://[::1/", "bracket must be closed"),
        ("ws://[h]/", "no IPv6 address"),
        ("ws://me@h/", "nobody is named"),
        ("ws://h/a b", "SCHEME://"),
        ("ws://h/\x00", "SCHEME://"),
        ("1s://h", "SCHEME://"),
        ("://h", "SCHEME://"),
        ("ws://h/" + "x" * 1000, "SCHEME://"),
        ("tcp://10.0.0.1", "port is missing"),
    ],
)
def test_wrong_urls_are_refused_with_what_is_wrong(text: str, words: str) -> None:
    """As other addresses are."""
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert words in str(caught.value)
    assert "expected" in str(caught.value)
