"""Images at an address of any file system that fsspec knows, mirrored on this machine.

Each file is fetched once and again when the address says that it has changed; what reads pixels reads the mirror.
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

from graft.cache.files import cache_place, write_whole
from graft.data.storage import Found, StoredFile, passed_over
from graft.errors import DataError, said

CONNECTIONS = 16
NAME_BYTES = 255
RECORD = ".mirror.json"
CHANGES = {
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
        self.folder = cache_place("mirrors", address)
        try:
            self._files, self._prefix = fsspec.core.url_to_fs(address)
        # Each file system raises errors of its own where it cannot be reached or is not installed.
        except Exception as error:
            raise DataError(f"{address}: cannot be opened ({said(error)}); s3:// needs graft[s3].") from error

    def find(self) -> Found:
        """List every file below the address."""
        found = Found()
        for path, file in sorted(self._list().items()):
            hidden = next((reason for part in path.split("/") if (reason := passed_over(part))), "")
            if hidden:
                found.ignored.add(hidden, path)
            else:
                found.files.append(file)
        return found

    def look_up(self, paths: Sequence[str]) -> list[StoredFile]:
        """What the listing says of each path."""
        known = self._list()
        return [known.get(path, StoredFile(path, problem=f"is not at {self.address}")) for path in paths]

    def fetch(self, files: Sequence[StoredFile]) -> dict[str, str]:
        """Bring what is missing or has changed into the mirror; raises ``DataError`` where the way there fails."""
        mirrored = self._mirrored()
        wanted = {file.path: file for file in files if not file.problem and not self._holds(file, mirrored)}
        problems: dict[str, str] = {}
        if not wanted:
            return problems
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            results = zip(wanted.values(), pool.map(self._fetch_one, wanted.values()), strict=True)
            try:
                for file, problem in tqdm(
                    results, total=len(wanted), desc="Fetching images", unit="image", disable=None
                ):
                    if problem:
                        problems[file.path] = problem
                    else:
                        mirrored[file.path] = file.stamp
            finally:
                pool.shutdown(cancel_futures=True)
                self._remember(mirrored)
        return problems

    def _mirrored(self) -> dict[str, str]:
        """The stamp of each file in the mirror, by path."""
        try:
            return dict(json.loads((self.folder / RECORD).read_bytes()))
        except (OSError, ValueError):  # there is none, or it is torn: all is fetched again
            return {}

    def _remember(self, mirrored: dict[str, str]) -> None:
        try:
            write_whole(self.folder / RECORD, json.dumps(mirrored).encode())
        except OSError as error:
            logger.warning("%s cannot be written (%s): all is fetched again", self.folder / RECORD, error.strerror)

    def _holds(self, file: StoredFile, mirrored: dict[str, str]) -> bool:
        """Whether the mirror has a file as it is there; never where its address cannot tell of a change."""
        place = self.folder / file.path
        return (
            bool(file.stamp)
            and mirrored.get(file.path) == file.stamp
            and (place.is_file() and place.stat().st_size == file.size_bytes)
        )

    def _fetch_one(self, file: StoredFile) -> str:
        place, part = self.folder / file.path, self.folder / f".{uuid.uuid4().hex}"
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            part.touch()
            try:
                self._files.get_file(f"{self._prefix}/{file.path}", str(part))
            except (FileNotFoundError, PermissionError) as error:
                return f"cannot be fetched ({type(error).__name__})"
            part.replace(place)
        # Each file system raises errors of its own where the connection fails.
        except Exception as error:
            raise DataError(
                f"{self.address}/{file.path}: cannot be fetched into {self.folder} ({said(error)}); make sure of "
                f"the connection and of room on the disk, the same command goes on from here."
            ) from error
        finally:
            part.unlink(missing_ok=True)
        return ""

    def _list(self) -> dict[str, StoredFile]:
        """Every file by its path from the address."""
        try:
            self._files.invalidate_cache()
            listed: dict[str, dict[str, Any]] = self._files.find(self._prefix, detail=True)
        except Exception as error:
            raise DataError(
                f"{self.address}: cannot be listed ({said(error)}); check the address and your credentials."
            ) from error
        facts = {
            name.removeprefix(f"{self._prefix}/"): one
            for name, one in listed.items()
            if one.get("type", "file") == "file" and not name.endswith("/")
        }
        folders = {parent for path in facts for parent in _parents(path)}
        return {
            path: StoredFile(path, int(one.get("size") or 0), _stamp(one), _unfit(path, folders))
            for path, one in facts.items()
        }


def _stamp(facts: dict[str, Any]) -> str:
    """What changes when the file does; empty where the listing tells neither a time nor a tag."""
    if not any(name.lower() in CHANGES for name in facts):
        return ""
    return hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:24]


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _unfit(path: str, folders: Collection[str] = ()) -> str:
    """Why a path cannot be mirrored as a file of the same name."""
    if path in folders:
        return "has the name of a folder; rename one of them"
    parts = path.split("/")
    if any(part in ("", ".", "..") or len(part.encode()) > NAME_BYTES or "\0" in part for part in parts):
        return "has a name that no folder can hold; rename it"
    return ""
