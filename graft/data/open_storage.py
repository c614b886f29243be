"""From a root, as a config names it, to its storage."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from graft.config.image_sources import is_url
from graft.config.parameters import LimitsConfig
from graft.data.local_storage import LocalStorage
from graft.data.storage import Storage


def open_storage(root: str, limits: LimitsConfig, follow_links: bool = False) -> Storage:
    """The storage of a local folder or a URL; raises ``DataError`` if a URL cannot be opened."""
    if not is_url(root):
        return LocalStorage(Path(root).resolve(), follow_links)
    from graft.data.remote_storage import RemoteStorage  # imports fsspec

    return RemoteStorage(root.rstrip("/"), limits)


def local_folder(root: str, paths: Iterable[str]) -> Path:
    """The local folder that holds these files; those of a URL that the mirror lacks are fetched."""
    storage = open_storage(root, LimitsConfig(max_file_bytes=sys.maxsize))  # the scan has applied the user's limits
    if is_url(root) and (missing := [path for path in paths if not (storage.folder / path).exists()]):
        storage.fetch(storage.stat(missing))
    return storage.folder
