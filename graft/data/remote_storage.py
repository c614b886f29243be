"""Remote images, on any file system that fsspec supports, mirrored into a local folder.

A file is fetched once, and again when the remote listing reports a change. Pixels are always read from the mirror.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import uuid
from collections import defaultdict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import fsspec
from tqdm import tqdm

from graft.cache.files import cache_path, write_atomically
from graft.config.image_sources import skip_reason
from graft.config.parameters import LimitsConfig
from graft.data.deadline import call_within
from graft.data.storage import MISSING, FileListing, StoredFile
from graft.errors import DataError, error_summary, printable
from graft.places import describe_write_error

CONNECTIONS = 16
LISTING_FACTOR = 20  # a listing of 1,000,000 files takes minutes
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


class _TooManyBytesError(Exception):
    """A file with more bytes than allowed; its listing may not have told."""


class RemoteStorage:
    """The files below an address such as ``s3://bucket/photos``; ``limits`` apply to each request and file."""

    def __init__(self, address: str, limits: LimitsConfig) -> None:
        self.address = address
        self.folder = cache_path("mirrors", address)
        self._limits = limits
        try:
            self._filesystem, self._prefix = call_within(limits.max_silence_s, lambda: fsspec.core.url_to_fs(address))
        # Each file system raises its own errors if it is unreachable or not installed.
        except Exception as error:
            raise DataError(
                f"{printable(address)}: cannot be opened ({error_summary(error)}); check the address; "
                f"s3:// needs graft[s3]."
            ) from error

    def list_files(self) -> FileListing:
        """List every file below the address."""
        listing = FileListing()
        for path, file in sorted(self._list().items()):
            if reason := skip_reason(path):
                listing.skipped.add(reason, path)
            else:
                listing.files.append(file)
        return listing

    def stat(self, paths: Sequence[str]) -> list[StoredFile]:
        """Look up each path in the remote listing."""
        listed = self._list()
        return [listed.get(path, StoredFile(path, problem=f"{MISSING} at {self.address}")) for path in paths]

    def names(self, folder: str) -> list[str]:
        """Look up a folder in the remote listing."""
        return self._names.get(folder, [])

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        """The names of the files and folders in each folder."""
        files = self._list()
        names = defaultdict(list)
        for path in {*files, *chain.from_iterable(map(_parents, files))}:
            folder, _, name = path.rpartition("/")
            names[folder].append(name)
        return names

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
                self._download(file.path, partial)
            except (FileNotFoundError, PermissionError) as error:
                return f"cannot be fetched ({type(error).__name__})"
            except _TooManyBytesError:
                return f"has more bytes than the limit of {self._limits.max_file_bytes}"
            partial.replace(path)
        # Each file system raises its own errors if the connection fails.
        except Exception as error:
            raise DataError(
                f"{printable(f'{self.address}/{file.path}')}: cannot be fetched into {self.folder} "
                f"({error_summary(error)}); check the connection and the free disk space, then run the same command "
                f"again: it resumes."
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        return ""

    def _download(self, path: str, target: Path) -> None:
        """Download one file; raises ``TimeoutError`` or ``_TooManyBytesError`` if it exceeds the limits."""
        stopped = threading.Event()

        def check(_: object, value: int) -> None:
            if stopped.is_set() or value > self._limits.max_file_bytes:
                raise _TooManyBytesError

        progress = fsspec.Callback(hooks={"limit": check})
        try:
            call_within(
                self._limits.max_silence_s,
                lambda: self._filesystem.get_file(f"{self._prefix}/{path}", str(target), callback=progress),
                received=lambda: int(progress.value),
            )
        except TimeoutError:
            stopped.set()  # a server that goes on later must not fill the disk
            raise

    def _ask(self) -> None:
        """One small request."""
        with suppress(PermissionError):  # it may still be allowed to list and to read
            self._filesystem.exists(self._prefix)

    def _list(self) -> dict[str, StoredFile]:
        """Every file by its path relative to the address."""
        silence_s = self._limits.max_silence_s
        try:
            self._filesystem.invalidate_cache()
            # A short question first: whether a long listing makes progress cannot be seen from outside.
            call_within(silence_s, self._ask)
            entries: dict[str, dict[str, Any]] = call_within(
                LISTING_FACTOR * silence_s, lambda: self._filesystem.find(self._prefix, detail=True)
            )
        except Exception as error:
            raise DataError(
                f"{printable(self.address)}: cannot be listed ({error_summary(error)}); check the address and your "
                f"credentials."
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
