"""The log of a daemon: one line an event on stderr, for people or as JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import Final

FORMATS: Final = ("text", "json")


class Journal:
    """Writes lines.

    Args:
        form: One of `FORMATS`.
        role: What this daemon is.
    """

    def __init__(self, form: str, role: str) -> None:
        self._is_json = form == "json"
        self._role = role

    def write(self, text: str) -> None:
        """Write one line; a log that nobody reads does not stop the daemon."""
        now = time.time()
        if self._is_json:
            line = json.dumps({"time": now, "role": self._role, "message": text})
        else:
            line = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))} {self._role}: {text}"
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except OSError:
            pass
