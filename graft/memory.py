"""Memory of a process: what one batch frees, the next takes, instead of asking the system anew."""

from __future__ import annotations

import ctypes
import platform
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)


@cache
def keep_freed_memory() -> None:
    """Have glibc keep what is freed for the rest of this process; does nothing where another library allocates.

    By itself it returns each block above 32 MB, so each large activation, to Linux at once, which then hands out
    the next one page by page: 300,000 page faults for 32 images in MobileNetV2, and half the time of a pass.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
