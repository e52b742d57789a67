"""Reads a nodes.toml from the disk; what it may say is in `constellation.core.nodesfile`."""

from __future__ import annotations

import os
import stat

from constellation.core.errors import UsageError
from constellation.core.nodesfile import LARGEST_FILE, Complaint, NodesFile, NodesFileError, read


def load(path: str | os.PathLike[str]) -> NodesFile:
    """Read a nodes.toml.

    Raises:
        UsageError: It is not there, or cannot be read; says why.
        NodesFileError: What stands in it cannot be used; has all that is wrong, with line and field.
    """
    where = os.fspath(path)
    try:
        # Not blocking, because a pipe of this name would be waited for without end.
        fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UsageError(f"cannot read {where}: it is no file; expected a file with [[nodes]]")
            with os.fdopen(fd, "rb", closefd=False) as file:
                data = file.read(LARGEST_FILE + 1)
        finally:
            os.close(fd)
    except OSError as error:
        raise UsageError(
            f"cannot read {where}: {error.strerror}; expected the file that lists the nodes of the fabric"
        ) from error
    if len(data) > LARGEST_FILE:
        raise UsageError(f"cannot read {where}: it has more than {LARGEST_FILE} bytes; is it the right file?")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise NodesFileError(
            where, (Complaint(line, "", f"not UTF-8: byte {data[error.start]:#04x}; save the file as UTF-8"),)
        ) from None
    return read(text.removeprefix("\ufeff"), where)
