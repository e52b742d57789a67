"""users.toml: who runs as whom, and what is refused."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from constellation.core.errors import HandshakeError, UsageError
from constellation.fabric.users import Mapped, Users, load_users, read_users

ME = pwd.getpwuid(os.geteuid())


def test_owners_are_read_in_both_forms() -> None:
    """A name, or a table that says that it may be root."""
    text = '[users]\nalice = "al"\n"bob@lab" = {user = "bob"}\ncarol = {user = "root", run_as_root = true}\n'
    assert read_users(text, "f") == {
        "alice": Mapped("al", False),
        "bob@lab": Mapped("bob", False),
        "carol": Mapped("root", True),
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("users = 3", "f:1: users: 3: expected a table"),
        ("[users]\n\nalice = 3", "f:3: users.alice: 3: expected the name of a Unix user"),
        ('[users]\nalice = ""', "f:2: users.alice: ''"),
        ("[users]\nalice = {}", "f:2: users.alice: None"),
        ('[users]\nalice = {user = "a", uid = 3}', "f:2: users.alice.uid: unknown field"),
        ('[users]\nalice = {user = "a", run_as_root = 1}', "f:2: users.alice.run_as_root: 1: expected true or false"),
        ('[users]\n"a b" = "a"', "f:2: users.a b: no owner's name"),
        ('[users]\na = "a"\n[groups]\n', "f:3: groups: unknown field"),
        ("[users", "f is not TOML"),
        ("", "there is nobody in it"),
        ("[users]", "there is nobody in it"),
    ],
)
def test_every_complaint_names_line_and_field(text: str, complaint: str) -> None:
    """So that a stranger can mend it."""
    with pytest.raises(UsageError) as caught:
        read_users(text, "f")
    assert complaint in str(caught.value)


def test_all_complaints_come_at_once() -> None:
    """Nobody mends one thing at a time."""
    with pytest.raises(UsageError) as caught:
        read_users("[users]\na = 1\nb = 2\n", "f")
    assert [line.split(" ")[0] for line in str(caught.value).splitlines()] == ["f:2:", "f:3:"]


@given(st.text(max_size=100))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Never another exception."""
    try:
        read_users(text, "f")
    except UsageError:
        pass


def test_an_owner_gets_the_account_of_his_user() -> None:
    """With all its groups."""
    account = Users("f", {"me": Mapped(ME.pw_name, True)}).account_of("me")
    assert (account.name, account.uid, account.gid, account.home) == (ME.pw_name, ME.pw_uid, ME.pw_gid, ME.pw_dir)
    assert ME.pw_gid in account.groups


@pytest.mark.parametrize(
    ("owner", "words"),
    [
        ("stranger", '"stranger" = "USER"'),
        ("gone", "useradd no-such-user"),
        ("careless", "run_as_root = true"),
    ],
)
def test_an_owner_without_a_user_is_refused(owner: str, words: str) -> None:
    """Unmapped, mapped to nobody, or to root by a slip: the refusal says what to write."""
    users = Users("f", {"gone": Mapped("no-such-user", False), "careless": Mapped("root", False)})
    with pytest.raises(HandshakeError) as caught:
        users.account_of(owner)
    assert words in str(caught.value)


def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    """Who can write it can become anybody."""
    path = tmp_path / "users.toml"
    path.write_text('[users]\nalice = "al"\n')
    path.chmod(0o666)
    with pytest.raises(UsageError, match=r"mode 0666.*chmod 644"):
        load_users(str(path))
    path.chmod(0o644)
    assert load_users(str(path)).mapped == {"alice": Mapped("al", False)}


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    """Not there, a folder, not text: each with its path."""
    for path in (tmp_path / "none", tmp_path, tmp_path / "bytes"):
        if path.name == "bytes":
            path.write_bytes(b"\xff")
            path.chmod(0o600)
        with pytest.raises(UsageError) as caught:
            load_users(str(path))
        assert str(path) in str(caught.value)
