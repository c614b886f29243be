"""The image stats of an earlier scan of the same root, so that only new and changed files are read again."""

from __future__ import annotations

import io
import logging
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from graft.cache.files import cache_path, write_atomically
from graft.config.parameters import LimitsConfig
from graft.data import images, inspection, metadata
from graft.places import describe_write_error

logger = logging.getLogger(__name__)
RACY_NS = 2_000_000_000  # some file systems give time stamps no finer than two seconds


class ScanIndex:
    """Image stats and stamp of each file, by path.

    There is one index for each root, limits and version of the inspecting code; after a change it starts empty.
    """

    def __init__(self, root: str, limits: LimitsConfig) -> None:
        self._path = cache_path("scans", root, limits.model_dump_json(), _code_version())
        self._started_ns = time.time_ns()

    def load(self) -> pd.DataFrame:
        """The latest scan's image stats with ``path`` and ``stamp``; empty if there is none."""
        try:
            table = pd.read_parquet(self._path)[["path", "stamp", *inspection.EMPTY_STATS]]
            if table.isna().any(axis=None):
                raise ValueError("it has missing values")
            return table.astype(
                {"path": "str", "stamp": "str"} | {k: type(v) for k, v in inspection.EMPTY_STATS.items()}
            )
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("%s is damaged and will be rebuilt (%s)", self._path, error)
        return pd.DataFrame(columns=["path", "stamp", *inspection.EMPTY_STATS])

    def save(self, stats: pd.DataFrame) -> None:
        """Store this scan's image stats; if that fails, the next scan reads everything again.

        A file that changed within two seconds before the scan could change again with the same stamp, so its stamp
        is dropped.
        """
        newest_ns = stats["stamp"].str.split("-").map(lambda stamps: max(map(_nanoseconds, stamps[:2]), default=0))
        stats = stats.assign(stamp=stats["stamp"].mask(newest_ns > self._started_ns - RACY_NS, ""))
        content = io.BytesIO()
        stats[stats["sha256"] != ""].to_parquet(content, index=False)
        try:
            write_atomically(self._path, content.getvalue())
        except OSError as error:
            logger.warning("%s; the next scan reads every image.", describe_write_error(error, self._path))


def _nanoseconds(stamp: str) -> int:
    return int(stamp) if stamp.isdecimal() else 0


def _code_version() -> str:
    """Everything that image stats depend on, besides the file and the limits."""
    sources = [str(Path(str(module.__file__)).read_text(encoding="utf-8")) for module in (images, metadata, inspection)]
    return "\n".join([*sources, *(version(library) for library in ("pillow", "imagehash", "numpy", "scipy"))])
