"""Activations on disk, memory-mapped: what frozen layers gave is computed once, for all epochs, folds and runs.

A store is a folder of segments, each a safetensors file that is written whole and never changed. A row carries a
checksum, and is as good as missing where it does not fit. So several processes may fill and read a store at once.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from graft.cache import cache_place, code_version, write_whole

logger = logging.getLogger(__name__)
KIND, SUFFIX = "activations", ".safetensors"
IN_USE_S = 3600  # since a segment was last used: so long, nobody throws it out
DTYPES = {"float16": torch.float16, "float32": torch.float32}


class NoRoomError(OSError):
    """The store would grow beyond its bound."""


@dataclass(frozen=True)
class Rows:
    """Rows ``[count, ...]`` as they are kept: ``values * scales``."""

    values: Tensor
    scales: Tensor

    @classmethod
    def joined(cls, several: list[Rows]) -> Rows:
        """All of them, one after another."""
        return cls(torch.cat([each.values for each in several]), torch.cat([each.scales for each in several]))

    def decoded(self) -> Tensor:
        """The values, float32 ``[count, ...]``."""
        return self.values.float().mul_(_beside(self.scales, self.values))

    def checksum(self, row: int, key: str) -> int:
        """CRC-32 of a row, its scale, its key, and how its bytes are to be read."""
        named = zlib.crc32(f"{key} {self.values.dtype} {tuple(self.values.shape[1:])}".encode())
        return zlib.crc32(_bytes(self.values[row]), zlib.crc32(_bytes(self.scales[row]), named))


class ActivationStore:
    """Rows float32 by key, all of one shape; ``key`` is all that decides what they hold.

    In ``float16``, each row is kept as multiples of a power of two of its own, so that it neither overflows nor
    vanishes. All stores together take at most ``max_bytes``: what was least recently used goes first, but nothing
    that was used during the last hour.
    """

    def __init__(self, *key: str, precision: Literal["float16", "float32"], max_bytes: int) -> None:
        self.folder = cache_place(KIND, *key, precision, code_version())
        self.precision, self.max_bytes = precision, max_bytes
        self._rows: dict[str, tuple[Rows, int]] = {}
        self._known: dict[str, tuple[Path, Rows, int, int]] = {}
        self._seen: set[Path] = set()
        self._used: set[Path] = set()
        self._added: list[Path] = []

    def missing(self, keys: list[str]) -> list[str]:
        """Those of the keys that have no sound row; the others can be read from here on."""
        if any(key not in self._rows for key in keys):
            self._look_around()
        missing = [key for key in keys if key not in self._rows and not self._is_sound(key)]
        self._used |= {self._known[key][0] for key in {*keys}.difference(missing)}
        self.touch()
        return missing

    def read(self, keys: list[str]) -> Tensor:
        """The rows of these keys ``[len(keys), ...]``; raises ``KeyError`` where one is not there."""
        found = [self._rows[key] for key in keys]
        values = torch.stack([rows.values[number] for rows, number in found])
        scales = torch.stack([rows.scales[number] for rows, number in found])
        return Rows(values, scales).decoded()

    def encode(self, values: Tensor) -> Rows:
        """Values float32 ``[count, ...]`` as they are kept."""
        scales = torch.ones(len(values))
        if self.precision == "float16":
            largest = values.abs().flatten(1).amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
            scales = torch.exp2(largest.log2().floor())
            values = values / _beside(scales, values)
        return Rows(values.to(DTYPES[self.precision]).contiguous(), scales)

    def add(self, keys: list[str], rows: Rows) -> None:
        """Keep rows; raises ``OSError`` where there is no room."""
        self._make_room(rows.values.nbytes)
        checks = torch.tensor([rows.checksum(number, key) for number, key in enumerate(keys)])
        tensors = {"values": rows.values, "scales": rows.scales, "checks": checks}
        path = self.folder / f"{uuid.uuid4().hex}{SUFFIX}"
        write_whole(path, save(tensors, {"keys": json.dumps(keys)}))
        self._added.append(path)
        self._open(path)
        if self.missing(keys):
            raise OSError(f"{path} was removed as soon as it was written")

    def take_back(self) -> None:
        """Remove what was added."""
        for path in self._added:
            _remove(path)
        self._added.clear()

    def require_room(self, needed: int) -> None:
        """Raise ``NoRoomError`` where so many bytes more would not fit, whatever may be thrown out."""
        held, now = _segments(self.folder.parent), time.time()
        total = sum(size for used, _, size in held if now - used < IN_USE_S) + needed
        if total > self.max_bytes:
            raise NoRoomError(
                f"{total / 1e9:.1f} GB would be in use, and training.cache.max_gb allows "
                f"{self.max_bytes / 1e9:.1f}; raise it, or lower training.cache.views"
            )

    def touch(self) -> None:
        """Say that what was found here is in use."""
        for path in self._used:
            with suppress(OSError):  # another's, or thrown out: what is mapped stays readable
                path.touch()

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Held while missing rows are computed: a second process waits, and finds them there."""
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

    def _look_around(self) -> None:
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if path not in self._seen:
                self._open(path)

    def _open(self, path: Path) -> None:
        """Map a segment; one that is none is removed."""
        self._seen.add(path)
        try:
            with safe_open(path, "pt") as file:
                keys: list[str] = json.loads(file.metadata()["keys"])
                rows, checks = (
                    Rows(file.get_tensor("values"), file.get_tensor("scales")),
                    file.get_tensor("checks"),
                )
            if not len(keys) == len(rows.values) == len(rows.scales) == len(checks):
                raise ValueError("as many keys as rows are needed")
            found = zip(keys, checks.tolist(), strict=True)
            self._known |= {key: (path, rows, number, check) for number, (key, check) in enumerate(found)}
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            logger.warning("%s cannot be read (%s); what it held is computed anew.", path, error)
            _remove(path)
        except OSError as error:  # thrown out by another process, or out of reach
            logger.debug("%s: %s", path, error)

    def _is_sound(self, key: str) -> bool:
        """Check a row and keep it at hand; a damaged one costs its segment."""
        if key not in self._known:
            return False
        path, rows, number, check = self._known[key]
        if rows.checksum(number, key) == check:
            self._rows[key] = rows, number
            return True
        if path.exists():
            logger.warning("%s is damaged; what is wrong in it is computed anew.", path)
            _remove(path)
        return False

    def _make_room(self, needed: int) -> None:
        """Throw out segments, the least recently used first, until there is room."""
        self.require_room(needed)
        held = sorted(_segments(self.folder.parent))
        total = sum(size for _, _, size in held) + needed
        for _, path, size in held:
            if total <= self.max_bytes:
                return
            _remove(path)
            total -= size


def _segments(folder: Path) -> list[tuple[float, Path, int]]:
    """When each file of all stores was last used, and its bytes; what a killed process left half-written, too."""
    found = []
    for path in (*folder.glob(f"*/*{SUFFIX}"), *folder.glob(f"*/.*{SUFFIX}.*")):
        try:
            facts = path.stat()
        except OSError:  # thrown out by another process
            continue
        found.append((facts.st_mtime, path, facts.st_size))
    return found


def _beside(scales: Tensor, values: Tensor) -> Tensor:
    return scales.view(-1, *[1] * (values.ndim - 1))


def _bytes(values: Tensor) -> memoryview:
    return values.contiguous().view(-1).view(torch.uint8).numpy().data


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # another's file, or one that is open elsewhere
        logger.debug("%s: %s", path, error)
