"""Reuses freed CPU memory between batches instead of returning it to the system each time."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of mallopt(3)
FRAGMENTED_BYTES = 128 * 2**20  # growth of held memory that is taken for fragmentation

T = TypeVar("T")


@contextmanager
def retain_freed_memory() -> Iterator[None]:
    """Let glibc retain memory that is freed within the ``with`` block; no effect with another C library.

    By default, glibc returns each block above 32 MB, so every large activation, to Linux at once, and the next one
    is mapped page by page: 460,000 page faults for a training step of MobileNetV2 on 32 images.
    """
    _malloc.retain()
    try:
        yield
    finally:
        _malloc.release()


def trim_between(batches: Iterable[T]) -> Iterator[T]:
    """Yield the batches, and return free memory to the system when the memory held between batches has grown.

    For use inside ``retain_freed_memory``. Tensors that outlive a batch fragment the memory that it frees, so that
    the next batch does not fit there and more is allocated.
    """
    baseline: int | None = None
    for batch in batches:
        yield batch
        held = _malloc.anonymous_bytes()
        if baseline is None:
            baseline = held
        elif held > baseline + FRAGMENTED_BYTES:
            _malloc.trim()
            baseline = None


class _Malloc:
    """glibc's allocator of this process, and the number of ``retain_freed_memory`` blocks that are active."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
        self.users = 0

    def retain(self) -> None:
        self.users += 1
        if self.libc:
            self.libc.mallopt(M_MMAP_MAX, 0)
            self.libc.mallopt(M_TRIM_THRESHOLD, -1)

    def release(self) -> None:
        self.users -= 1
        if self.libc and not self.users:
            # The values that glibc's dynamic thresholds reach once a block of nearly 32 MB has been freed.
            self.libc.mallopt(M_MMAP_MAX, 65536)
            self.libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
            self.libc.mallopt(M_TRIM_THRESHOLD, 64 * 2**20)
            self.trim()

    def anonymous_bytes(self) -> int:
        """Resident memory of this process without file-backed pages; 0 without glibc."""
        if not self.libc:
            return 0
        _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
        return (int(resident) - int(shared)) * mmap.PAGESIZE

    def trim(self) -> None:
        if self.libc:
            self.libc.malloc_trim(0)

    def reset_after_fork(self) -> None:
        """Release in a forked process: a data loader worker decodes images of different sizes."""
        if self.users:
            self.users = 1
            self.release()


_malloc = _Malloc()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_malloc.reset_after_fork)
