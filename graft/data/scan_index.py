"""What an earlier scan of the same root found, so that only new and changed files are read again."""

from __future__ import annotations

import io
import logging
import time
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from graft.cache.files import cache_place, write_whole
from graft.config import LimitsConfig
from graft.data import images, inspection

logger = logging.getLogger(__name__)
RACY_NS = 2_000_000_000  # some file systems give time stamps no finer than two seconds


class ScanIndex:
    """The facts of each file by its path, with the stamp that the file had.

    It is kept by root, limits and the code that inspects: where one of these differs, it begins empty.
    """

    def __init__(self, root: str, limits: LimitsConfig) -> None:
        self._place = cache_place("scans", root, limits.model_dump_json(), _code())
        self._began_ns = time.time_ns()

    def load(self) -> pd.DataFrame:
        """The facts of the latest scan with ``path`` and ``stamp``; empty where there is none."""
        try:
            found = pd.read_parquet(self._place)[["path", "stamp", *inspection.NOTHING]]
            if found.isna().any(axis=None):
                raise ValueError("it has gaps")
            return found.astype(
                {"path": "str", "stamp": "str"} | {k: type(v) for k, v in inspection.NOTHING.items()}
            )
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("%s is damaged and will be made anew (%s)", self._place, error)
        return pd.DataFrame(columns=["path", "stamp", *inspection.NOTHING])

    def save(self, facts: pd.DataFrame) -> None:
        """Keep the facts of this scan; without room for them the next scan reads everything again.

        A file that changed within two seconds of this scan might change again unseen: it keeps no stamp.
        """
        newest = facts["stamp"].str.split("-").map(lambda stamps: max(map(_nanoseconds, stamps[:2]), default=0))
        settled = facts.assign(stamp=facts["stamp"].mask(newest > self._began_ns - RACY_NS, ""))
        content = io.BytesIO()
        settled[facts["sha256"] != ""].to_parquet(content, index=False)
        try:
            write_whole(self._place, content.getvalue())
        except OSError as error:
            logger.warning(
                "%s cannot be written (%s): the next scan reads every image", self._place, error.strerror
            )


def _nanoseconds(stamp: str) -> int:
    return int(stamp) if stamp.isdecimal() else 0


def _code() -> str:
    """Whatever a fact could depend on, beside the file and the limits."""
    sources = [str(Path(str(module.__file__)).read_text(encoding="utf-8")) for module in (images, inspection)]
    return "\n".join([*sources, *(version(library) for library in ("pillow", "imagehash", "numpy", "scipy"))])
