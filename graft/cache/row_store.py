"""Rows on disk, memory-mapped: what is computed once is there for all epochs, folds and runs.

A store is a folder of segments, each a safetensors file that is written whole and never changed. A row carries a
checksum, and is as good as missing where it does not fit. So several processes may fill and read a store at once.
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

from graft.cache.files import cache_place, code_version, write_whole
from graft.cache.rows import Rows

logger = logging.getLogger(__name__)
KIND, SUFFIX = "kept", ".safetensors"
IN_USE_S = 3600  # since a segment was last used: so long, nobody throws it out


class NoRoomError(OSError):
    """All stores together would grow beyond their bound."""


class RowStore:
    """Rows by key; ``parts`` are all that decides what they hold.

    All stores together take at most ``max_bytes``: what was least recently used goes first, but nothing that was
    used during the last hour.
    """

    advice = "raise it"  # where there is no room

    def __init__(self, *parts: str, max_bytes: int) -> None:
        self.folder = cache_place(KIND, *parts, code_version())
        self.max_bytes = max_bytes
        self._forget()

    def missing(self, keys: list[str]) -> list[str]:
        """Those of the keys that have no sound row; the others can be read from here on."""
        if any(key not in self._rows for key in keys):
            self._look_around()
        missing = [key for key in keys if key not in self._rows and not self._is_sound(key)]
        self._used |= {self._known[key][0] for key in {*keys}.difference(missing)}
        self.touch()
        return missing

    def find(self, key: str) -> tuple[Tensor, Tensor]:
        """A row as it is kept, and its scale; raises ``KeyError`` where none was there when last looked for."""
        if not self._seen:  # in a process to which the store was sent
            self._look_around()
        if key not in self._rows and not self._is_sound(key):
            raise KeyError(key)
        rows, number = self._rows[key]
        return rows.row(number), rows.scales[number]

    def add(self, keys: list[str], rows: Rows) -> None:
        """Keep rows; raises ``OSError`` where there is no room."""
        self._make_room(rows.values.nbytes)
        checks = torch.tensor([rows.checksum(number, key) for number, key in enumerate(keys)])
        tensors = {"values": rows.values, "shapes": rows.shapes, "scales": rows.scales, "checks": checks}
        path = self.folder / f"{uuid.uuid4().hex}{SUFFIX}"
        write_whole(path, save(tensors, {"keys": json.dumps(keys)}))
        self._added.append(path)
        self._open(path)
        if self.missing(keys):
            raise OSError(f"{path} was removed as soon as it was written")
        self._open(path)  # anew: then memory does not hold what was read to check it
        self._rows |= {key: self._known[key][1:3] for key in keys}

    def take_back(self) -> None:
        """Remove what was added."""
        for path in self._added:
            _remove(path)
        self._added.clear()

    def require_room(self, needed: int) -> None:
        """Raise ``NoRoomError`` where so many bytes more would not fit, whatever may be thrown out."""
        self._require_room(needed, _segments(self.folder.parent))

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

    def __getstate__(self) -> dict[str, Any]:
        """Without what is mapped: a process to which it is sent maps it anew."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._rows: dict[str, tuple[Rows, int]] = {}
        self._known: dict[str, tuple[Path, Rows, int, int]] = {}
        self._seen: set[Path] = set()
        self._used: set[Path] = set()
        self._added: list[Path] = []

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
                rows = Rows(*(file.get_tensor(name) for name in ("values", "shapes", "scales")))
                checks = file.get_tensor("checks")
            rows.require_sense(keys, checks)
            found = zip(keys, checks.tolist(), strict=True)
            self._known |= {key: (path, rows, number, check) for number, (key, check) in enumerate(found)}
        except (SafetensorError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
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
        held = sorted(_segments(self.folder.parent))
        self._require_room(needed, held)
        total = sum(size for _, _, size in held) + needed
        for _, path, size in held:
            if total <= self.max_bytes:
                return
            _remove(path)
            total -= size

    def _require_room(self, needed: int, held: list[tuple[float, Path, int]]) -> None:
        now = time.time()
        total = sum(size for used, _, size in held if now - used < IN_USE_S) + needed
        if total > self.max_bytes:
            raise NoRoomError(
                f"{total / 1e9:.1f} GB would be in use, and training.cache.max_gb allows "
                f"{self.max_bytes / 1e9:.1f}; {self.advice}"
            )


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


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # another's file, or one that is open elsewhere
        logger.debug("%s: %s", path, error)
