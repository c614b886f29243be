"""Remote images, on any file system that fsspec supports, mirrored into a local folder.

A file is fetched once, and again when the remote listing reports a change. Pixels are always read from the mirror.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
from tqdm import tqdm

from graft.cache.files import cache_path, write_atomically
from graft.data.storage import FileListing, StoredFile, skip_reason
from graft.errors import DataError, error_summary
from graft.places import describe_write_error

CONNECTIONS = 16
MAX_NAME_BYTES = 255
STAMPS_FILE = ".mirror.json"
# The keys of a listing entry by which some file system reports a change.
CHANGE_KEYS = {
    "etag",
    "lastmodified",
    "last_modified",
    "mtime",
    "modified",
    "updated",
    "created",
    "generation",
    "md5",
    "sha",
}
logger = logging.getLogger(__name__)


class RemoteStorage:
    """The files below an address such as ``s3://bucket/photos``."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.folder = cache_path("mirrors", address)
        try:
            self._filesystem, self._prefix = fsspec.core.url_to_fs(address)
        # Each file system raises its own errors if it is unreachable or not installed.
        except Exception as error:
            raise DataError(f"{address}: cannot be opened ({error_summary(error)}); s3:// needs graft[s3].") from error

    def list_files(self) -> FileListing:
        """List every file below the address."""
        listing = FileListing()
        for path, file in sorted(self._list().items()):
            reason = next((reason for part in path.split("/") if (reason := skip_reason(part))), "")
            if reason:
                listing.skipped.add(reason, path)
            else:
                listing.files.append(file)
        return listing

    def stat(self, paths: Sequence[str]) -> list[StoredFile]:
        """Look up each path in the remote listing."""
        listed = self._list()
        return [listed.get(path, StoredFile(path, problem=f"is not at {self.address}")) for path in paths]

    def fetch(self, files: Sequence[StoredFile]) -> dict[str, str]:
        """Fetch missing and changed files into the mirror; raises ``DataError`` if the connection or the disk fails."""
        stamps = self._read_stamps()
        outdated = {file.path: file for file in files if not file.problem and not self._is_current(file, stamps)}
        problems: dict[str, str] = {}
        if not outdated:
            return problems
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            results = zip(outdated.values(), pool.map(self._fetch_one, outdated.values()), strict=True)
            try:
                for file, problem in tqdm(
                    results, total=len(outdated), desc="Fetching images", unit="image", disable=None
                ):
                    if problem:
                        problems[file.path] = problem
                    else:
                        stamps[file.path] = file.stamp
            finally:
                pool.shutdown(cancel_futures=True)
                self._write_stamps(stamps)
        return problems

    def _read_stamps(self) -> dict[str, str]:
        """The stamp of each file in the mirror, by path."""
        try:
            return dict(json.loads((self.folder / STAMPS_FILE).read_bytes()))
        except (OSError, ValueError):  # missing or damaged: every file is fetched again
            return {}

    def _write_stamps(self, stamps: dict[str, str]) -> None:
        path = self.folder / STAMPS_FILE
        try:
            write_atomically(path, json.dumps(stamps).encode())
        except OSError as error:
            logger.warning("%s; every file will be fetched again.", describe_write_error(error, path))

    def _is_current(self, file: StoredFile, stamps: dict[str, str]) -> bool:
        """Whether the mirror has the remote version of a file; never if the listing does not report changes."""
        path = self.folder / file.path
        return (
            bool(file.stamp)
            and stamps.get(file.path) == file.stamp
            and (path.is_file() and path.stat().st_size == file.size_bytes)
        )

    def _fetch_one(self, file: StoredFile) -> str:
        """Fetch one file; returns what is wrong with it, or an empty string."""
        path, partial = self.folder / file.path, self.folder / f".{uuid.uuid4().hex}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.touch()
            try:
                self._filesystem.get_file(f"{self._prefix}/{file.path}", str(partial))
            except (FileNotFoundError, PermissionError) as error:
                return f"cannot be fetched ({type(error).__name__})"
            partial.replace(path)
        # Each file system raises its own errors if the connection fails.
        except Exception as error:
            raise DataError(
                f"{self.address}/{file.path}: cannot be fetched into {self.folder} ({error_summary(error)}); check the "
                f"connection and the free disk space, then run the same command again: it resumes."
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        return ""

    def _list(self) -> dict[str, StoredFile]:
        """Every file by its path relative to the address."""
        try:
            self._filesystem.invalidate_cache()
            entries: dict[str, dict[str, Any]] = self._filesystem.find(self._prefix, detail=True)
        except Exception as error:
            raise DataError(
                f"{self.address}: cannot be listed ({error_summary(error)}); check the address and your credentials."
            ) from error
        files = {
            name.removeprefix(f"{self._prefix}/"): entry
            for name, entry in entries.items()
            if entry.get("type", "file") == "file" and not name.endswith("/")
        }
        folders = {parent for path in files for parent in _parents(path)}
        return {
            path: StoredFile(path, int(entry.get("size") or 0), _stamp(entry), _path_problem(path, folders))
            for path, entry in files.items()
        }


def _stamp(entry: dict[str, Any]) -> str:
    """A hash that changes with the file; empty if the listing reports neither a time nor a tag."""
    if not any(name.lower() in CHANGE_KEYS for name in entry):
        return ""
    return hashlib.sha256(repr(sorted(entry.items())).encode()).hexdigest()[:24]


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _path_problem(path: str, folders: Collection[str] = ()) -> str:
    """Why a path cannot be mirrored as a local file of the same name; empty if it can."""
    if path in folders:
        return "has the name of a folder; rename one of them"
    parts = path.split("/")
    if any(part in ("", ".", "..") or len(part.encode()) > MAX_NAME_BYTES or "\0" in part for part in parts):
        return "has a name that is not valid in a local folder; rename it"
    return ""
