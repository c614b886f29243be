"""What a storage is: listing and fetching the files below a root, local or remote."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pandas as pd

from graft.errors import printable

EXAMPLES = 3


@dataclass(frozen=True)
class StoredFile:
    """A file by its path relative to the root, with forward slashes.

    ``stamp`` changes when the content may have changed; empty if the storage cannot tell. ``problem`` says why the
    file cannot be read, if that is clear before it is opened.
    """

    path: str
    size_bytes: int = 0
    stamp: str = ""
    problem: str = ""


class SkippedFiles:
    """Counts skipped files and folders by reason."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, path: str) -> None:
        """Count one file or folder."""
        self._counts[reason] += 1
        if len(self._examples[reason]) < EXAMPLES:
            self._examples[reason].append(printable(path))

    def table(self) -> pd.DataFrame:
        """The columns ``reason, count, examples``, the most frequent reason first."""
        rows = [
            (printable(reason), count, ", ".join(self._examples[reason]))
            for reason, count in self._counts.most_common()
        ]
        return pd.DataFrame(rows, columns=["reason", "count", "examples"]).astype(
            {"reason": "str", "count": "int64", "examples": "str"}
        )


@dataclass(frozen=True)
class FileListing:
    """All files and folders below a root, sorted by path, and those that were skipped."""

    files: list[StoredFile] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    skipped: SkippedFiles = field(default_factory=SkippedFiles)


class Storage(Protocol):
    """A root and the files below it."""

    @property
    def address(self) -> str:
        """The root as an absolute path or a URL."""

    @property
    def folder(self) -> Path:
        """The local folder that holds every fetched file."""

    def list_files(self) -> FileListing:
        """List the files below the root; raises ``DataError`` if that fails."""

    def stat(self, paths: Sequence[str]) -> list[StoredFile]:
        """Size, stamp and problem of each path, in order."""

    def fetch(self, files: Sequence[StoredFile]) -> dict[str, str]:
        """Copy files into ``folder``; returns the error of each file that failed, by path."""
