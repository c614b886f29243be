"""Activations on disk, memory-mapped: what frozen layers gave is computed once, for all epochs, folds and runs.

A store is a folder of segments, each a safetensors file that is written whole and never changed. A row carries a
checksum, and one that does not fit it is as good as missing. So several processes, also on several machines with
one volume, may fill and read a store at once.
"""

from __future__ import annotations

import json
import logging
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from graft.cache import cache_place, code_version, write_whole

logger = logging.getLogger(__name__)
KIND, SUFFIX = "activations", ".safetensors"
SEGMENT_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Segment:
    """Rows as a file holds them: ``values * scales``."""

    values: Tensor
    scales: Tensor

    def checksum(self, row: int) -> int:
        """CRC-32 of a row and its scale."""
        return zlib.crc32(_bytes(self.values[row]), zlib.crc32(_bytes(self.scales[row])))


class NoRoomError(OSError):
    """The store would grow beyond its bound."""


class ActivationStore:
    """Rows float32 by key, all of one shape; ``key`` is all that decides what they hold.

    In ``float16``, each row is kept as multiples of a power of two of its own, so that it neither overflows nor
    vanishes. All stores together take at most ``max_bytes``: what was least recently used goes first.
    """

    def __init__(self, *key: str, precision: Literal["float16", "float32"], max_bytes: int) -> None:
        self.folder = cache_place(KIND, *key, precision, code_version())
        self.precision, self.max_bytes = precision, max_bytes
        self._rows: dict[str, tuple[Segment, int]] = {}
        self._open: set[Path] = set()

    def missing(self, keys: list[str]) -> list[str]:
        """Those of the keys that have no sound row; the others can be read from here on."""
        wanted = {key for key in keys if key not in self._rows}
        for path in sorted(self.folder.glob(f"*{SUFFIX}")) if wanted else ():
            if path not in self._open:
                wanted -= self._map(path, wanted)
        return [key for key in keys if key in wanted]

    def read(self, keys: list[str]) -> Tensor:
        """The rows of these keys ``[len(keys), ...]``; raises ``KeyError`` where one is not there."""
        rows = [self._rows[key] for key in keys]
        values = torch.stack([held.values[number] for held, number in rows]).float()
        scales = torch.stack([held.scales[number] for held, number in rows])
        return values.mul_(scales.view(-1, *[1] * (values.ndim - 1)))

    def add(self, keys: list[str], values: Tensor) -> None:
        """Keep rows ``[len(keys), ...]``; raises ``OSError`` where there is no room."""
        scales = torch.ones(len(keys))
        if self.precision == "float16":
            largest = values.abs().flatten(1).amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
            scales = torch.exp2(largest.log2().floor())
            values = (values / scales.view(-1, *[1] * (values.ndim - 1))).half()
        segment = Segment(values.contiguous(), scales)
        self._make_room(segment.values.nbytes)
        checks = torch.tensor([segment.checksum(row) for row in range(len(keys))])
        tensors = {"values": segment.values, "scales": scales, "checks": checks}
        path = self.folder / f"{uuid.uuid4().hex}{SUFFIX}"
        write_whole(path, save(tensors, {"keys": json.dumps(keys)}))
        self._map(path, set(keys))

    def bytes_of(self, rows: Tensor) -> int:
        """How many bytes these rows take here."""
        return rows.numel() * (2 if self.precision == "float16" else 4)

    def filling(self) -> FileLock:
        """Held while missing rows are computed: a second process waits, and finds them there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / "filling.lock")

    def _map(self, path: Path, wanted: set[str]) -> set[str]:
        """Open a segment; returns those of the keys that it holds soundly. A damaged one is removed."""
        try:
            with safe_open(path, "pt") as file:
                keys: list[str] = json.loads(file.metadata()["keys"])
                segment, checks = (
                    Segment(file.get_tensor("values"), file.get_tensor("scales")),
                    file.get_tensor("checks"),
                )
            asked = [(number, key) for number, key in enumerate(keys) if key in wanted]
            sound = {key: (segment, n) for n, key in asked if segment.checksum(n) == int(checks[n])}
            if asked:
                path.touch()  # used now, as far as throwing out is concerned
        except FileNotFoundError:  # thrown out by another process
            return set()
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, IndexError) as error:
            logger.warning("%s cannot be read (%s); what it held is computed anew.", path, error)
            _remove(path)
            return set()
        if len(sound) < len(asked):
            logger.warning("%s is damaged; %d rows are computed anew.", path, len(asked) - len(sound))
            _remove(path)
        else:
            self._open.add(path)
        self._rows |= sound
        return set(sound)

    def _make_room(self, needed: int) -> None:
        """Throw out segments, the least recently used first, until there is room; raises ``NoRoomError``."""
        held = sorted(_segments(self.folder.parent))
        total = sum(size for _, _, size in held) + needed
        for _, path, size in held:
            if total <= self.max_bytes:
                return
            if path not in self._open:
                _remove(path)
                total -= size
        if total > self.max_bytes:
            raise NoRoomError(f"{total / 1e9:.1f} GB are needed, and training.cache.max_gb allows less")


def _segments(folder: Path) -> list[tuple[float, Path, int]]:
    found = []
    for path in folder.glob(f"*/*{SUFFIX}"):
        try:
            facts = path.stat()
        except FileNotFoundError:  # thrown out by another process
            continue
        found.append((facts.st_mtime, path, facts.st_size))
    return found


def _bytes(values: Tensor) -> memoryview:
    return values.contiguous().view(-1).view(torch.uint8).numpy().data


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # another's file, or one that is open elsewhere
        logger.debug("%s: %s", path, error)
