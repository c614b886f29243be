"""Where Graft keeps what it could always compute again: in ``$GRAFT_CACHE``, or the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
from functools import cache
from pathlib import Path

import PIL
import platformdirs
import torch
import torchvision


def cache_place(kind: str, *key: str) -> Path:
    """The place of what is cached under a key; nothing is made."""
    root = os.environ.get("GRAFT_CACHE") or platformdirs.user_cache_dir("graft")
    name = hashlib.sha256("\0".join(key).encode("utf-8", "surrogateescape")).hexdigest()[:24]
    return Path(root) / kind / name


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is either whole or as it was; raises ``OSError``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:50]}.")
    try:
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)  # others may read it, as any file: mkstemp thinks of secrets
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a power cut leaves an empty file in place of the old one
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@cache
def code_version() -> str:
    """What decides a computed result beside its inputs: Graft's own code, and what it computes with."""
    versions = (torch.__version__, torchvision.__version__, PIL.__version__)
    digest = hashlib.sha256(" ".join(versions).encode())
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        if path.parent.name not in {"reports", "runtime"}:
            digest.update(path.read_bytes())
    return digest.hexdigest()
