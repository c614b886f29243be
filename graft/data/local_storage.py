"""The storage of a local folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.config.image_sources import skip_reason
from graft.data.storage import FileListing, StoredFile

NOT_UTF_8 = "has a name that is not valid UTF-8; rename it"


@dataclass(frozen=True)
class _PendingFolder:
    """A folder to list, by its path relative to the root; ``linked`` if it was reached through a link."""

    path: str
    linked: bool = False


class LocalStorage:
    """A local folder. Links are followed inside it, not out of it, and not from a linked folder to another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = str(folder)

    def list_files(self) -> FileListing:
        """Walk the folder."""
        listing = FileListing()
        pending = [_PendingFolder("")]
        while pending:
            pending += self._list_folder(pending.pop(), listing)
        listing.files.sort(key=lambda file: file.path)
        listing.folders.sort()
        return listing

    def stat(self, paths: Sequence[str]) -> list[StoredFile]:
        """Stat each path; a table may name files outside the folder."""
        return [_stat_file(path, str(self.folder / path)) for path in paths]

    def fetch(self, files: Sequence[StoredFile]) -> dict[str, str]:  # noqa: ARG002
        """Do nothing: the files are local."""
        return {}

    def _list_folder(self, folder: _PendingFolder, listing: FileListing) -> list[_PendingFolder]:
        """Add one folder's entries to ``listing``; returns its subfolders."""
        try:
            entries = sorted(os.scandir(self.folder / folder.path), key=lambda entry: entry.name)
        except OSError as error:
            listing.skipped.add(f"folders that cannot be read ({error.strerror})", folder.path or ".")
            return []
        subfolders = []
        for entry in entries:
            path = f"{folder.path}/{entry.name}" if folder.path else entry.name
            target = os.path.realpath(entry.path) if entry.is_symlink() else ""
            if reason := skip_reason(entry.name):
                listing.skipped.add(reason, path)
            elif target and not Path(target).is_relative_to(self.folder):
                listing.skipped.add("links out of the folder", path)
            elif target and _is_inside(entry.path, target):
                listing.skipped.add("circular links", path)
            elif target and folder.linked and Path(target).is_dir():
                listing.skipped.add("links to folders in linked folders", path)
            elif Path(target).is_dir() if target else entry.is_dir():
                subfolders.append(_PendingFolder(path, folder.linked or bool(target)))
                listing.folders.append(_utf8_path(path))
            else:
                listing.files.append(_stat_file(path, entry.path))
        return subfolders


def _is_inside(path: str, folder: str) -> bool:
    """Whether a path is in a folder once links are resolved."""
    return Path(os.path.realpath(Path(path).parent)).is_relative_to(folder)


def _stat_file(path: str, full_path: str) -> StoredFile:
    printable_path = _utf8_path(path)
    if printable_path != path:
        return StoredFile(printable_path, problem=NOT_UTF_8)
    try:
        status = os.stat(full_path)  # noqa: PTH116 - a Path for each of 100,000 files costs more than the call
    except ValueError as error:
        return StoredFile(path, problem=f"has an invalid name ({error})")
    except OSError as error:
        is_link = os.path.islink(full_path)  # noqa: PTH114
        return StoredFile(path, problem="is a broken link" if is_link else f"cannot be read ({error.strerror})")
    if not stat.S_ISREG(status.st_mode):
        return StoredFile(path, problem="is not a regular file")
    stamp = f"{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_size}-{status.st_ino}"
    return StoredFile(path, status.st_size, stamp)


def _utf8_path(path: str) -> str:
    """A path that can be encoded as UTF-8; bytes that are not UTF-8 become escapes."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "backslashreplace")
