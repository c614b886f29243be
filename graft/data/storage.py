"""What a folder of files holds, wherever it lies; and such a folder on this machine."""

from __future__ import annotations

import os
import stat
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pandas as pd

from graft.errors import shown

SYSTEM = frozenset({"Thumbs.db", "ehthumbs.db", "desktop.ini", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found"})
NOT_UTF_8 = "has a name that is not valid UTF-8; rename it"
EXAMPLES = 3


@dataclass(frozen=True)
class StoredFile:
    """A file by its path from the root, with forward slashes.

    ``stamp`` changes when the content may have changed; empty where that cannot be known. ``problem`` says why
    the file cannot be read, where that is known before it is opened.
    """

    path: str
    size_bytes: int = 0
    stamp: str = ""
    problem: str = ""


class Ignored:
    """What was passed over, counted by reason."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, path: str) -> None:
        """Count one file or folder."""
        self._counts[reason] += 1
        if len(self._examples[reason]) < EXAMPLES:
            self._examples[reason].append(shown(path))

    def table(self) -> pd.DataFrame:
        """The columns ``reason, count, examples``, the most frequent reason first."""
        rows = [
            (shown(reason), count, ", ".join(self._examples[reason]))
            for reason, count in self._counts.most_common()
        ]
        return pd.DataFrame(rows, columns=["reason", "count", "examples"]).astype(
            {"reason": "str", "count": "int64", "examples": "str"}
        )


@dataclass(frozen=True)
class Found:
    """All files and folders below a root, sorted by path, and what was passed over."""

    files: list[StoredFile] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    ignored: Ignored = field(default_factory=Ignored)


class Storage(Protocol):
    """A root and the files below it."""

    @property
    def address(self) -> str:
        """Where the root is, in full."""

    @property
    def folder(self) -> Path:
        """The folder on this machine that holds every file that has been fetched."""

    def find(self) -> Found:
        """List what lies below the root; raises ``DataError`` where that cannot be told."""

    def look_up(self, paths: Sequence[str]) -> list[StoredFile]:
        """What is known of these paths, in their order."""

    def fetch(self, files: Sequence[StoredFile]) -> dict[str, str]:
        """Bring files into ``folder``; returns what went wrong, by path."""


@dataclass(frozen=True)
class _Folder:
    """A folder that is yet to be listed, by its path from the root; ``linked`` where a link has led to it."""

    path: str
    linked: bool = False


class LocalStorage:
    """A folder on this machine. Links are followed inside it, not out of it, and not from a linked folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = str(folder)

    def find(self) -> Found:
        """Walk the folder."""
        found = Found()
        waiting = [_Folder("")]
        while waiting:
            waiting += self._look_into(waiting.pop(), found)
        found.files.sort(key=lambda file: file.path)
        found.folders.sort()
        return found

    def look_up(self, paths: Sequence[str]) -> list[StoredFile]:
        """Look at each path; a table may name files anywhere on this machine."""
        return [_look_at(path, str(self.folder / path)) for path in paths]

    def fetch(self, files: Sequence[StoredFile]) -> dict[str, str]:  # noqa: ARG002
        """Nothing is to be done: they are here."""
        return {}

    def _look_into(self, folder: _Folder, found: Found) -> list[_Folder]:
        """List one folder; returns those in it."""
        try:
            entries = sorted(os.scandir(self.folder / folder.path), key=lambda entry: entry.name)
        except OSError as error:
            found.ignored.add(f"folders that cannot be read ({error.strerror})", folder.path or ".")
            return []
        folders = []
        for entry in entries:
            path = f"{folder.path}/{entry.name}" if folder.path else entry.name
            target = os.path.realpath(entry.path) if entry.is_symlink() else ""
            if reason := passed_over(entry.name):
                found.ignored.add(reason, path)
            elif target and not Path(target).is_relative_to(self.folder):
                found.ignored.add("links out of the folder", path)
            elif target and _holds(target, entry.path):
                found.ignored.add("links in a circle", path)
            elif target and folder.linked and Path(target).is_dir():
                found.ignored.add("links to folders in linked folders", path)
            elif Path(target).is_dir() if target else entry.is_dir():
                folders.append(_Folder(path, folder.linked or bool(target)))
                found.folders.append(_written(path))
            else:
                found.files.append(_look_at(path, entry.path))
        return folders


def _holds(folder: str, path: str) -> bool:
    """Whether a path lies, through whatever links, in a folder."""
    return Path(os.path.realpath(Path(path).parent)).is_relative_to(folder)


def is_address(root: str) -> bool:
    """Whether a root is an address such as ``s3://bucket/photos``."""
    return "://" in root


def passed_over(name: str) -> str:
    """Why a file or folder of this name is no part of the data; empty where it is."""
    if name in SYSTEM:
        return "system files"
    return "hidden files" if name.startswith(".") else ""


def _look_at(path: str, place: str) -> StoredFile:
    written = _written(path)
    if written != path:
        return StoredFile(written, problem=NOT_UTF_8)
    try:
        facts = os.stat(place)  # noqa: PTH116 - a Path for each of 100,000 files costs more than the call
    except ValueError as error:
        return StoredFile(path, problem=f"has an impossible name ({error})")
    except OSError as error:
        what = "is a link to nothing" if os.path.islink(place) else f"cannot be read ({error.strerror})"  # noqa: PTH114
        return StoredFile(path, problem=what)
    if not stat.S_ISREG(facts.st_mode):
        return StoredFile(path, problem="is no regular file")
    return StoredFile(
        path, facts.st_size, f"{facts.st_mtime_ns}-{facts.st_ctime_ns}-{facts.st_size}-{facts.st_ino}"
    )


def _written(path: str) -> str:
    """A path as text that every encoding can hold; bytes that are not UTF-8 become escapes."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "backslashreplace")
