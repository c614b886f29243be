"""Reading a file within a limit of bytes. Imports only the standard library."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from graft.errors import DataError


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file; checks kind and size first, so that a pipe or a device is never read.

    Raises ``OSError`` if the file cannot be opened, and ``DataError`` without its path if it is of another kind, is too
    large, or changes meanwhile.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise DataError("is not a regular file")
        if before.st_size > max_bytes:
            raise DataError(f"has {before.st_size} bytes, more than the limit of {max_bytes}")
        content = file.read(before.st_size)
        after = os.fstat(file.fileno())
    if len(content) != after.st_size or before.st_mtime_ns != after.st_mtime_ns:
        raise DataError("changed while it was read")
    return content
