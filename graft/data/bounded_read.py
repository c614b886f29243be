"""Reading a file from outside under limits."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from graft.errors import DataError


def read_file(path: Path, max_bytes: int = sys.maxsize) -> bytes:
    """The content of a regular file; raises ``DataError`` with the reason if it cannot be read.

    Checks type and size before it reads, so that a pipe or a device is never waited for or read without end.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise DataError("is not a regular file")
            if before.st_size > max_bytes:
                raise DataError(f"has {before.st_size} bytes, more than the limit of {max_bytes}")
            content = file.read(before.st_size)
            after = os.fstat(file.fileno())
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})") from error
    if len(content) != after.st_size or before.st_mtime_ns != after.st_mtime_ns:
        raise DataError("changed while it was read")
    return content
