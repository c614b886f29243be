"""A disk cache of tensors by key, memory-mapped and shared by processes.

A store is a folder of segments. A segment is a safetensors file that is written atomically and never changed, so
any number of processes may read and fill a store at once. Each tensor has a checksum; one that does not match
counts as missing.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from graft.cache.files import cache_path, package_digest, write_atomically
from graft.cache.packed import PackedTensors

logger = logging.getLogger(__name__)
KIND, SUFFIX = "tensors", ".safetensors"
IN_USE_S = 3600  # a segment used within this time is never evicted


class CacheFullError(OSError):
    """All stores together would exceed ``max_bytes``, counting only what may not be evicted."""


class TensorStore:
    """Tensors by key; ``key`` is everything that determines their values.

    All stores together hold at most ``max_bytes``. The least recently used segments are evicted first, but none
    that was used within the last hour.
    """

    hint = "raise it"  # completes the error message when the cache is full

    def __init__(self, *key: str, max_bytes: int) -> None:
        self.folder = cache_path(KIND, *key, package_digest())
        self.max_bytes = max_bytes
        self._reset()

    def missing(self, keys: list[str]) -> list[str]:
        """The keys without a valid tensor; all others can be read with ``get`` from now on."""
        if any(key not in self._checked for key in keys):
            self._open_new_segments()
        missing = [key for key in keys if key not in self._checked and not self._is_valid(key)]
        self._used |= {self._index[key][0] for key in {*keys}.difference(missing)}
        self.mark_used()
        return missing

    def get(self, key: str) -> tuple[Tensor, Tensor]:
        """A stored tensor and its scale; raises ``KeyError`` if there is none."""
        if not self._opened:  # after unpickling in a data loader's worker process
            self._open_new_segments()
        if key not in self._checked and not self._is_valid(key):
            raise KeyError(key)
        packed, index = self._checked[key]
        return packed.tensor(index), packed.scales[index]

    def add(self, keys: list[str], packed: PackedTensors) -> None:
        """Write tensors as one segment; raises ``OSError`` if there is no room."""
        self._evict_for(packed.values.nbytes)
        checksums = torch.tensor([packed.checksum(index, key) for index, key in enumerate(keys)])
        tensors = {"values": packed.values, "shapes": packed.shapes, "scales": packed.scales, "checks": checksums}
        path = self.folder / f"{uuid.uuid4().hex}{SUFFIX}"
        write_atomically(path, save(tensors, {"keys": json.dumps(keys)}))
        self._written.append(path)
        self._open(path)
        if self.missing(keys):
            raise OSError(f"{path} was removed right after it was written")
        self._open(path)  # map it again: the pages read for the checksums are released
        self._checked |= {key: self._index[key][1:3] for key in keys}

    def discard_written(self) -> None:
        """Remove the segments that this object wrote."""
        for path in self._written:
            _remove(path)
        self._written.clear()

    def check_room(self, needed: int) -> None:
        """Raise ``CacheFullError`` if ``needed`` more bytes would not fit even after eviction."""
        self._check_room(needed, _segments(self.folder.parent))

    def mark_used(self) -> None:
        """Renew the time stamps of the segments in use, so that they are not evicted."""
        for path in self._used:
            with suppress(OSError):  # another user's file, or evicted: what is mapped stays readable
                path.touch()

    @contextmanager
    def fill_lock(self) -> Iterator[None]:
        """Hold this store's lock while missing tensors are computed; other processes wait and then find them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "filling.lock")
        try:
            lock.acquire(timeout=1)
        except Timeout:
            logger.info("Another process computes what is missing in %s; waiting for it.", self.folder)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the memory maps, which the receiving process reopens."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def _reset(self) -> None:
        self._checked: dict[str, tuple[PackedTensors, int]] = {}  # checksum verified
        self._index: dict[str, tuple[Path, PackedTensors, int, int]] = {}  # path, tensors, position, checksum
        self._opened: set[Path] = set()
        self._used: set[Path] = set()
        self._written: list[Path] = []

    def _open_new_segments(self) -> None:
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if path not in self._opened:
                self._open(path)

    def _open(self, path: Path) -> None:
        """Map a segment; an unreadable one is removed."""
        self._opened.add(path)
        try:
            with safe_open(path, "pt") as file:
                keys: list[str] = json.loads(file.metadata()["keys"])
                packed = PackedTensors(*(file.get_tensor(name) for name in ("values", "shapes", "scales")))
                checksums = file.get_tensor("checks")
            packed.check_consistent(keys, checksums)
            entries = zip(keys, checksums.tolist(), strict=True)
            self._index |= {key: (path, packed, index, checksum) for index, (key, checksum) in enumerate(entries)}
        except (SafetensorError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            logger.warning("%s cannot be read (%s); its content is computed again.", path, error)
            _remove(path)
        except OSError as error:  # evicted by another process, or unreachable
            logger.debug("%s: %s", path, error)

    def _is_valid(self, key: str) -> bool:
        """Verify a tensor's checksum once; a mismatch removes its segment."""
        if key not in self._index:
            return False
        path, packed, index, checksum = self._index[key]
        if packed.checksum(index, key) == checksum:
            self._checked[key] = packed, index
            return True
        if path.exists():
            logger.warning("%s is damaged; the damaged part is computed again.", path)
            _remove(path)
        return False

    def _evict_for(self, needed: int) -> None:
        """Remove the least recently used segments until ``needed`` bytes fit."""
        segments = sorted(_segments(self.folder.parent))
        self._check_room(needed, segments)
        total = sum(size for _, _, size in segments) + needed
        for _, path, size in segments:
            if total <= self.max_bytes:
                return
            _remove(path)
            total -= size

    def _check_room(self, needed: int, segments: list[tuple[float, Path, int]]) -> None:
        now = time.time()
        total = sum(size for used, _, size in segments if now - used < IN_USE_S) + needed
        if total > self.max_bytes:
            raise CacheFullError(
                f"{total / 1e9:.1f} GB would be in use, and training.cache.max_gb allows "
                f"{self.max_bytes / 1e9:.1f}; {self.hint}"
            )


def _segments(folder: Path) -> list[tuple[float, Path, int]]:
    """Time of last use, path and size in bytes of every file of all stores, partial writes included."""
    segments = []
    for path in (*folder.glob(f"*/*{SUFFIX}"), *folder.glob(f"*/.*{SUFFIX}.*")):
        try:
            status = path.stat()
        except OSError:  # evicted by another process
            continue
        segments.append((status.st_mtime, path, status.st_size))
    return segments


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # another user's file, or open elsewhere
        logger.debug("%s: %s", path, error)
