"""Image formats and limits, files that are skipped, and the two forms of ``data.root``: path and URL.

Imports only the standard library.
"""

from __future__ import annotations

from typing import Literal

Format = Literal["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]
EXTENSIONS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".webp": "WEBP",
    ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF",
}  # fmt: skip
MAX_PIXELS = 178_956_970  # Pillow raises DecompressionBombError above this
MAX_FILE_BYTES = 200_000_000
SYSTEM_FILES = frozenset(
    {"Thumbs.db", "ehthumbs.db", "desktop.ini", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found"}
)


def is_url(root: str) -> bool:
    """Whether ``data.root`` is a URL such as ``s3://bucket/photos`` rather than a local path."""
    return "://" in root


def skip_reason(name: str) -> str:
    """The reason to skip a file or folder of this name; empty if there is none."""
    if name in SYSTEM_FILES:
        return "system files"
    return "hidden files" if name.startswith(".") else ""
