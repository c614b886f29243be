"""Thumbnails for reports."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

from graft.config.regular_file import read_regular_file
from graft.data.images import decode
from graft.errors import DataError

SIDE_PX = 160


def load_thumbnail(path: Path) -> Image.Image | None:
    """The image with sides of at most 160 px; None if the file cannot be decoded."""
    try:
        image = decode(read_regular_file(path, sys.maxsize), min_side_px=SIDE_PX).rgb
    except (DataError, OSError):
        return None
    image.thumbnail((SIDE_PX, SIDE_PX))
    return image


def thumbnail_jpeg(path: Path) -> bytes | None:
    """``load_thumbnail`` encoded as JPEG."""
    if (image := load_thumbnail(path)) is None:
        return None
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
