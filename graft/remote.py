"""Images at an address of any file system that fsspec knows, mirrored on this machine.

Each file is fetched once and again when the address says that it has changed; what reads pixels reads the mirror.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
from tqdm import tqdm

from graft.cache import cache_place, write_whole
from graft.errors import DataError, said
from graft.storage import Found, StoredFile, passed_over

CONNECTIONS = 16
NAME_BYTES = 255


class RemoteStorage:
    """The files below an address such as ``s3://bucket/photos``."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.folder = cache_place("mirrors", address)
        try:
            self._files, self._prefix = fsspec.core.url_to_fs(address)
        except (ImportError, ValueError) as error:
            raise DataError(f"{address}: cannot be opened ({error}); for s3:// install graft[s3].") from error

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
        record = self.folder / ".mirror.json"
        mirrored: dict[str, str] = json.loads(record.read_bytes()) if record.exists() else {}
        wanted = [
            file
            for file in files
            if not file.problem and not (mirrored.get(file.path) == file.stamp and self._holds(file.path))
        ]
        problems: dict[str, str] = {}
        if not wanted:
            return problems
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            try:
                results = tqdm(
                    zip(wanted, pool.map(self._fetch_one, wanted), strict=True),
                    total=len(wanted), desc="Fetching images", unit="image", disable=None,
                )  # fmt: skip
                for file, problem in results:
                    if problem:
                        problems[file.path] = problem
                    else:
                        mirrored[file.path] = file.stamp
            finally:
                pool.shutdown(cancel_futures=True)
                write_whole(record, json.dumps(mirrored).encode())
        return problems

    def _holds(self, path: str) -> bool:
        return (self.folder / path).is_file()

    def _fetch_one(self, file: StoredFile) -> str:
        place = self.folder / file.path
        part = self.folder / f".{_hashed(file.path)}"
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            self._files.get_file(f"{self._prefix}/{file.path}", str(part))
            part.replace(place)
        except (FileNotFoundError, PermissionError) as error:
            return f"cannot be fetched ({type(error).__name__})"
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            return "has the name of a folder; rename one of them"
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
        paths = {name.removeprefix(f"{self._prefix}/"): facts for name, facts in listed.items()}
        return {
            path: StoredFile(path, int(facts["size"] or 0), _hashed(repr(sorted(facts.items()))), _unfit(path))
            for path, facts in paths.items()
            if facts["type"] == "file" and not path.endswith("/")
        }


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _unfit(path: str) -> str:
    """Why a path cannot be mirrored as a file of the same name."""
    parts = path.split("/")
    if any(part in ("", ".", "..") or len(part.encode()) > NAME_BYTES or "\0" in part for part in parts):
        return "has a name that no folder can hold; rename it"
    return ""
