"""Roots as a config names them: a path on this machine, or an address."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from graft.data.remote import RemoteStorage
from graft.data.storage import LocalStorage, Storage, is_address


def open_storage(root: str) -> Storage:
    """The storage of a folder's path or address."""
    return RemoteStorage(root.rstrip("/")) if is_address(root) else LocalStorage(Path(root).resolve())


def local_folder(root: str, paths: Iterable[str]) -> Path:
    """The folder on this machine that holds these files; what an address holds is fetched where it is not here."""
    storage = open_storage(root)
    if is_address(root) and (missing := [path for path in paths if not (storage.folder / path).exists()]):
        storage.fetch(storage.look_up(missing))
    return storage.folder
