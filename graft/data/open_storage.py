"""From a root, as a config names it, to its storage."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from graft.config.image_sources import is_url
from graft.data.local_storage import LocalStorage
from graft.data.storage import Storage


def open_storage(root: str) -> Storage:
    """The storage of a local folder or a URL."""
    if not is_url(root):
        return LocalStorage(Path(root).resolve())
    from graft.data.remote_storage import RemoteStorage  # imports fsspec

    return RemoteStorage(root.rstrip("/"))


def local_folder(root: str, paths: Iterable[str]) -> Path:
    """The local folder that holds these files; those of a URL that the mirror lacks are fetched."""
    storage = open_storage(root)
    if is_url(root) and (missing := [path for path in paths if not (storage.folder / path).exists()]):
        storage.fetch(storage.stat(missing))
    return storage.folder
