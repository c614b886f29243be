"""Image formats and limits, files that are skipped, and the two forms of ``data.root``: path and URL.

Imports only the standard library.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

Format = Literal["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]
EXTENSIONS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".webp": "WEBP",
    ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF",
}  # fmt: skip
MAX_FILE_BYTES = 200_000_000  # of one image
MAX_PIXELS = 178_956_970  # Pillow raises DecompressionBombError above this
SYSTEM_FILES = frozenset(
    {"Thumbs.db", "ehthumbs.db", "desktop.ini", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found"}
)
TOOL_FOLDERS = frozenset({".git", ".hg", ".svn", ".dvc", ".cache", ".venv", ".ipynb_checkpoints", ".thumbnails"})


def is_url(root: str) -> bool:
    """Whether ``data.root`` is a URL such as ``s3://bucket/photos`` rather than a local path."""
    return "://" in root


def skip_reason(path: str) -> str:
    """The reason to skip a file or folder for a name in its path; empty if there is none."""
    *folders, name = path.split("/")
    if not SYSTEM_FILES.isdisjoint((*folders, name)):
        return "system files"
    if not any(part.startswith(".") for part in (*folders, name)):
        return ""
    is_class_image = (
        PurePosixPath(name).suffix.lower() in EXTENSIONS
        and any(part.startswith(".") for part in folders)
        and TOOL_FOLDERS.isdisjoint(folders)
        and not name.startswith(".")
    )
    return "images in hidden folders" if is_class_image else "hidden files"
