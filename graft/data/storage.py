"""What a storage is: listing and fetching the files below a root, local or remote."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pandas as pd

from graft.errors import printable

LINKS_OUT = "links out of the folder"
REMEDIES = {
    LINKS_OUT: "data.follow_links: true reads them",
    "images in hidden folders": "rename a folder that is a class, so that its name does not begin with a dot",
}
EXAMPLES = 3
MISSING = "does not exist"  # the start of a problem


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

    def remedies(self) -> list[str]:
        """A sentence for each reason about which something can be done."""
        return [
            f"{count:,} {reason} are skipped ({', '.join(self._examples[reason])}); {REMEDIES[reason]}."
            for reason, count in self._counts.most_common()
            if reason in REMEDIES
        ]


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
        """Size, stamp and problem of each path, in order; the problem of a missing one begins with ``MISSING``."""

    def names(self, folder: str) -> list[str]:
        """The names of the files and folders in a folder below the root; empty if there is no such folder."""

    def fetch(self, files: Sequence[StoredFile]) -> dict[str, str]:
        """Copy files into ``folder``; returns the error of each file that failed, by path."""
