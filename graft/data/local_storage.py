"""The storage of a local folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.config.image_sources import SYSTEM_FILES, TOOL_FOLDERS, skip_reason
from graft.data.storage import LINKS_OUT, MISSING, FileListing, StoredFile

NOT_UTF_8 = "has a name that is not valid UTF-8; rename it"


@dataclass(frozen=True)
class _PendingFolder:
    """A folder to list, by its path relative to the root; ``linked`` if it was reached through a link."""

    path: str
    linked: bool = False


class LocalStorage:
    """A local folder. Links are followed inside it, and not from a linked folder to another.

    Links out of it are followed only with ``follow_links``.
    """

    def __init__(self, folder: Path, follow_links: bool = False) -> None:
        self.folder = folder
        self.address = str(folder)
        self._follow_links = follow_links

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

    def names(self, folder: str) -> list[str]:
        """List one folder."""
        try:
            return os.listdir(self.folder / folder)  # noqa: PTH208 - names alone
        except (OSError, ValueError):
            return []

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
                for skipped in self._images_below(path, entry) or [path]:
                    listing.skipped.add(skip_reason(skipped) or reason, skipped)
            elif target and not self._follow_links and not Path(target).is_relative_to(self.folder):
                listing.skipped.add(LINKS_OUT, path)
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

    def _images_below(self, path: str, entry: os.DirEntry[str]) -> list[str]:
        """The images below a hidden folder, which may be a class; none below those of tools and systems."""
        if entry.name in TOOL_FOLDERS | SYSTEM_FILES or not entry.is_dir(follow_symlinks=False):
            return []
        files = (Path(folder, name) for folder, _, names in os.walk(entry.path) for name in names)
        below = [f"{path}/{file.relative_to(entry.path).as_posix()}" for file in files]
        return sorted(name for name in below if skip_reason(name) == "images in hidden folders")


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
    except (FileNotFoundError, NotADirectoryError):
        return StoredFile(path, problem="is a broken link" if os.path.islink(full_path) else MISSING)  # noqa: PTH114
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
