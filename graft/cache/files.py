"""Cache paths, atomic writes, and the digest of Graft's code that cache keys contain."""

from __future__ import annotations

import hashlib
import os
import tempfile
from functools import cache
from pathlib import Path

import PIL
import torch
import torchvision

from graft.places import cache_root

# Rooms that present or orchestrate results and never compute a cached one.
NOT_IN_DIGEST = {"cli", "inference", "integrations", "promotion", "reports"}


def cache_path(kind: str, *key: str) -> Path:
    """The path of a cache entry below ``$GRAFT_CACHE`` or the user's cache folder; nothing is created."""
    name = hashlib.sha256("\0".join(key).encode("utf-8", "surrogateescape")).hexdigest()[:24]
    return cache_root() / kind / name


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file by a complete new one, or leave it as it was; raises ``OSError`` with its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:50]}.")
    try:
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)  # mkstemp's 0600 would hide the file from other users of a shared cache
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # without it, a power failure could leave an empty file under the final name
        Path(name).replace(path)
    except OSError as error:  # writing itself, unlike opening, does not name the file
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        Path(name).unlink(missing_ok=True)


@cache
def package_digest() -> str:
    """SHA-256 of the code that computes cached results, and of the versions of torch, torchvision and Pillow."""
    versions = (torch.__version__, torchvision.__version__, PIL.__version__)
    digest = hashlib.sha256(" ".join(versions).encode())
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        if path.relative_to(package).parts[0] not in NOT_IN_DIGEST:
            digest.update(path.read_bytes())
    return digest.hexdigest()
