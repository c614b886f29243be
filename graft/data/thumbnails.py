"""Small pictures for reports."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from graft.data.images import decode
from graft.errors import DataError

SIDE_PX = 160


def small(path: Path) -> Image.Image | None:
    """The picture with at most 160 px a side; None where the file cannot be shown."""
    try:
        image = decode(path.read_bytes(), at_least=SIDE_PX).rgb
    except (DataError, OSError):
        return None
    image.thumbnail((SIDE_PX, SIDE_PX))
    return image


def thumbnail(path: Path) -> bytes | None:
    """The same as a JPEG."""
    if (image := small(path)) is None:
        return None
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
