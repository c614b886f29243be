"""Grey thumbnails of the images of a scan, cached on disk: near duplicates are compared by them.

A scan decodes each image once; without this cache, comparing images would decode them again.
"""

from __future__ import annotations

import base64
import logging
import sys
import tempfile
import weakref
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from graft.cache.files import cache_path
from graft.config.image_sources import MAX_PIXELS
from graft.config.parameters import LimitsConfig
from graft.data import images, inspection
from graft.data.inspection import THUMBNAIL_PX, ImageStats
from graft.data.workers import inspect_all
from graft.errors import StorageError

logger = logging.getLogger(__name__)
RECORD = np.dtype([("sha256", "S64"), ("pixels", "u1", (THUMBNAIL_PX, THUMBNAIL_PX))])
BLOCK_RECORDS = 4096  # 16 MiB
# What the scan has decoded is decoded again; its limits may have been wider than the defaults.
NO_LIMITS = LimitsConfig(max_file_bytes=sys.maxsize, max_pixels=MAX_PIXELS, max_seconds=86_400)


class ThumbnailCache:
    """The grey thumbnails of the images below ``root`` by the SHA-256 of their files, in one file of ``RECORD``."""

    def __init__(self, root: str) -> None:
        sources = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in (images, inspection)]
        self._path = cache_path("thumbnails", root, *sources)
        self._added: IO[bytes] | None = None  # the next version of the file
        self._records = self._open()

    def add(self, stats: Iterable[ImageStats | None]) -> None:
        """Write the thumbnails of inspected images; takes ``thumbnail`` out of their stats."""
        decoded = [each for each in stats if each and "thumbnail" in each]
        records = np.empty(len(decoded), RECORD)
        for record, each in zip(records, decoded, strict=True):
            thumbnail = base64.b64decode(str(each.pop("thumbnail")))
            record["sha256"] = str(each["sha256"]).encode()
            record["pixels"] = np.frombuffer(thumbnail, np.uint8).reshape(THUMBNAIL_PX, THUMBNAIL_PX)
        if len(records):
            self._write(records)

    def save(self, sha256: pd.Series) -> None:
        """Keep what was added and the earlier thumbnails of these files, for later processes too if possible."""
        if self._added is None:
            return
        kept = np.flatnonzero(np.isin(self._records["sha256"], sha256.to_numpy(dtype="S64")))
        for start in range(0, len(kept), BLOCK_RECORDS):
            self._write(self._records[kept[start : start + BLOCK_RECORDS]])
        added, self._added = self._added, None
        added.flush()
        self._records = np.memmap(added, RECORD, mode="r")
        try:
            Path(added.name).chmod(0o644)  # mkstemp's 0600 would hide it from other users of a shared cache
            Path(added.name).replace(self._path)
        except (OSError, TypeError) as error:  # TypeError: an unnamed file
            logger.debug("%s is not replaced: %s", self._path, error)

    def load(self, folder: Path, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Thumbnails uint8 ``[m, 64, 64]``, mapped, and the position of that of each row of ``path, sha256``.

        Images without one are decoded. The position is -1 if an image cannot be read any more.
        """
        positions = self._positions(table["sha256"])
        if missing := list(table["path"][positions < 0]):
            inspected = inspect_all(folder, [(path, "") for path in missing], NO_LIMITS)
            while stats := list(islice(inspected, BLOCK_RECORDS)):
                self.add(stats)
            self.save(table["sha256"])
            positions = self._positions(table["sha256"])
        return self._records["pixels"], positions

    def _positions(self, sha256: pd.Series) -> np.ndarray:
        position = {key: number for number, key in enumerate(self._records["sha256"].tolist())}
        return np.array([position.get(key.encode(), -1) for key in sha256], dtype=np.int64)

    def _open(self) -> np.ndarray:
        try:
            return np.memmap(self._path, RECORD, mode="r")
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:  # ValueError: empty or cut off
            logger.warning("%s is damaged and will be rebuilt (%s)", self._path, error)
        return np.empty(0, RECORD)

    def _write(self, records: np.ndarray) -> None:
        if self._added is None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._added = tempfile.NamedTemporaryFile(dir=self._path.parent, prefix=".", delete=False)  # noqa: SIM115
                weakref.finalize(self, Path(self._added.name).unlink, missing_ok=True)  # after an interrupted scan
            except OSError as error:
                logger.warning("%s cannot be written (%s): every run decodes images again", self._path, error.strerror)
                self._added = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._added.write(records.tobytes())
        except OSError as error:
            raise StorageError(f"{self._added.name}: cannot be written ({error.strerror}); free some space.") from error
