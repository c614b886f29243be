"""The folders that Graft and its libraries write to, and the environment variable that moves each of them."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import platformdirs

from graft.errors import StorageError, error_chain, printable

FULL = {errno.ENOSPC, errno.EDQUOT}
NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP}
SQLITE_ERRORS = ("disk is full", "readonly database", "unable to open database", "disk I/O error")
ALMOST_FULL_BYTES = 2**20


def cache_root() -> Path:
    """Graft's cache: ``$GRAFT_CACHE``, or a folder in the user's cache."""
    return Path(os.environ.get("GRAFT_CACHE") or platformdirs.user_cache_dir("graft"))


def folders() -> dict[str, Path]:
    """Each folder by the environment variable that moves it; one that may contain others comes last."""
    defaults = {
        "ZENML_CONFIG_PATH": platformdirs.user_config_dir("zenml"),
        "MPLCONFIGDIR": platformdirs.user_cache_dir("matplotlib"),
        "TORCH_HOME": platformdirs.user_cache_dir("torch"),
        "TMPDIR": "/tmp",
    }
    moved = {variable: Path(os.environ.get(variable) or default) for variable, default in defaults.items()}
    return {"GRAFT_CACHE": cache_root()} | moved


def moving_variables(path: object) -> str:
    """The variable that moves the folder of this path, or those of all folders in it; empty if there is none."""
    absolute = Path(str(path)).absolute()
    known = {variable: folder.absolute() for variable, folder in folders().items()}
    inside = [variable for variable, folder in known.items() if _is_in(absolute, variable, folder)]
    above = [variable for variable, folder in known.items() if folder.is_relative_to(absolute)]
    return " and ".join(inside[:1] or above)


def _is_in(path: Path, variable: str, folder: Path) -> bool:
    """Whether a path lies in the folder of a variable; in that of temporary files, whether it is one."""
    if variable == "TMPDIR":
        return path.is_relative_to(folder) and path.relative_to(folder).as_posix().startswith(tempfile.gettempprefix())
    return path.is_relative_to(folder)


def describe_write_error(error: OSError, path: object) -> str:
    """That a path cannot be written, why, and which variable moves it: the start of a warning."""
    variables = moving_variables(path)
    hint = f"; {variables} moves it" if variables else ""
    return f"{printable(path)} cannot be written ({error.strerror or printable(error)}{hint})"


def unwritable(error: OSError, path: object) -> StorageError:
    """The error for a path that cannot be written."""
    variables = moving_variables(path)
    first = "make room" if error.errno in FULL or "full" in str(error.strerror) else "allow writing"
    second = f"set {variables} to another folder" if variables else "choose another path"
    return StorageError(
        f"{printable(path)}: cannot be written ({error.strerror or printable(error)}); {first} there or {second}, "
        f"then run the same command again."
    )


def storage_error(error: BaseException) -> StorageError | None:
    """The error to report if this one, or one that caused it, comes from a place that cannot be written."""
    for cause in error_chain(error):
        if isinstance(cause, sqlite3.OperationalError) and any(text in str(cause) for text in SQLITE_ERRORS):
            return unwritable(OSError(None, str(cause)), folders()["ZENML_CONFIG_PATH"])
        if isinstance(cause, OSError):
            if cause.errno in FULL | NOT_WRITABLE or _is_missing_folder(cause):
                return unwritable(cause, cause.filename or _full_folder())
            if "No usable temporary directory" in str(cause):
                return StorageError("no folder for temporary files can be written; set TMPDIR to one that can.")
    return None


def _is_missing_folder(error: OSError) -> bool:
    """Whether a folder was to be created in one that does not exist, as below ``/proc``."""
    return error.errno == errno.ENOENT and any(
        folder.absolute().is_relative_to(str(error.filename)) for folder in folders().values()
    )


def _full_folder() -> str:
    """The folder whose disk is full: an error while a file is written does not name it."""
    for folder in folders().values():
        existing = next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), Path("/"))
        if shutil.disk_usage(existing).free < ALMOST_FULL_BYTES:
            return str(folder)
    return "a file"
