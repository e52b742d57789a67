"""docs/wire.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from constellation.core import framing, messages, settings
from constellation.core.door import DOOR

PAGE = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()


def _rows(title: str) -> list[list[str]]:
    section = PAGE.split(f"## {title}", 1)[1].split("\n## ", 1)[0]
    return [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in section.splitlines()
        if re.match(r"\| \d+ \|", row)
    ]


def test_every_frame_kind_is_in_the_table() -> None:
    """Number and name of each kind."""
    kinds = {
        value: name
        for name, value in vars(framing).items()
        if name.isupper() and isinstance(value, int) and name in framing.__annotations__
    }
    documented = {int(number): name.strip("`") for number, name, *_ in _rows("Frames")}

    assert sorted(documented) == list(range(framing.LAST_KIND + 1))
    for number, name in documented.items():
        assert getattr(framing, name) == number, kinds


def test_every_control_message_is_in_the_table_with_its_fields() -> None:
    """Number, name and fields of each message, in order."""
    rows = [
        (int(number), name.strip("`"), re.findall(r"`(\w+)`", fields))
        for number, name, fields, *_ in _rows("Control messages")
    ]

    assert rows == [(number, kind.__name__, list(kind._fields)) for number, kind in enumerate(messages.CONTROL.kinds)]


def test_the_version_and_the_limits_are_those_of_the_code() -> None:
    """The numbers in the text."""
    assert f"Version {settings.WIRE_VERSION} " in PAGE
    assert settings.LARGEST_FRAME == 1 << 20
    assert settings.CHUNK == 256 << 10
    assert settings.WINDOW == 64 << 10
    assert settings.LARGEST_NAME == 4096
    assert messages.PAYLOAD_INLINE == 48 << 10


def test_every_question_at_a_door_is_in_the_table_with_its_fields() -> None:
    """Number, name and fields of each message, in order."""
    rows = [
        (int(number), name.strip("`"), re.findall(r"`(\w+)`", fields))
        for number, name, fields, *_ in _rows("Questions at a door")
    ]

    assert rows == [(number, kind.__name__, list(kind._fields)) for number, kind in enumerate(DOOR.kinds)]
