"""Image formats, and the two forms of ``data.root``: path and URL. Imports only the standard library."""

from __future__ import annotations

from typing import Literal

Format = Literal["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]
EXTENSIONS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".webp": "WEBP",
    ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF",
}  # fmt: skip
MAX_FILE_BYTES = 200_000_000  # of one image
MAX_PIXELS = 178_956_970  # Pillow raises DecompressionBombError above this


def is_url(root: str) -> bool:
    """Whether ``data.root`` is a URL such as ``s3://bucket/photos`` rather than a local path."""
    return "://" in root
