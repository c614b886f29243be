"""Decoding image files to upright RGB: the one implementation for inspection, training, evaluation and prediction.

Needs only Pillow and NumPy: ``graft predict`` decodes with it on the client.

=====================  =====================================================================
content of the file    result
=====================  =====================================================================
several frames         the first frame
EXIF orientation       applied
alpha, transparency    composited onto white
16 bits of grey        divided by 257, rounded
16 bits of colour      their upper 8 bits, as Pillow reads them
grey, 1 bit, palette   expanded to RGB
CMYK, YCbCr, Lab, HSV  converted by Pillow
colour profile         ignored
floating point         rejected: the value range is unknown
another format         rejected, whatever the file's extension
over 178 million px    rejected before decoding
=====================  =====================================================================
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image, ImageOps

from graft.config.image_sources import MAX_PIXELS, Format
from graft.data.bounded_read import read_file
from graft.errors import DataError, error_summary, printable

# About damaged metadata, and large images below the limit: neither is an error of the image.
warnings.filterwarnings("ignore", module=r"PIL\.")

FORMAT_ALIASES = {"MPO": "JPEG"}  # several JPEGs in one file, as some phones write
ORIENTATION, UPRIGHT, SIDEWAYS = 0x0112, 1, (5, 6, 7, 8)  # the EXIF tag, and values; the last swap width and height


@dataclass(frozen=True)
class DecodedImage:
    """An image as upright RGB; the full size of the upright image; mode and format of the file."""

    rgb: Image.Image
    width_px: int
    height_px: int
    mode: str
    format: str


def decode(content: bytes, max_pixels: int = MAX_PIXELS, min_side_px: int | None = None) -> DecodedImage:
    """Decode an image file's content completely; raises ``DataError`` with the reason if that fails.

    With ``min_side_px``, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, no side below ``min_side_px``: the
    decoder still reads every byte, only the inverse transform is cheaper.
    """
    if not content:
        raise DataError("is empty")
    try:
        with Image.open(io.BytesIO(content), formats=get_args(Format)) as image:
            mode, image_format, (width, height) = image.mode, str(image.format), image.size
            if width * height > max_pixels:
                raise DataError(f"has {width} x {height} pixels, more than the limit of {max_pixels}")
            if min_side_px is not None:
                image.draft(None, (min_side_px, min_side_px))
            orientation = image.getexif().get(ORIENTATION, UPRIGHT)
            if orientation in SIDEWAYS and image_format != "TIFF":  # its plugin returns the upright size
                width, height = height, width
            upright = image if orientation == UPRIGHT else ImageOps.exif_transpose(image)
            return DecodedImage(_to_rgb(upright), width, height, mode, FORMAT_ALIASES.get(image_format, image_format))
    except (DataError, MemoryError):  # a MemoryError is not the fault of the file
        raise
    # Pillow's plugins raise errors of almost any type for damaged content.
    except Exception as error:
        raise DataError(f"cannot be decoded: {error_summary(error)}") from error


def read_rgb(path: Path, sha256: str | None = None, min_side_px: int | None = None) -> np.ndarray:
    """Read an image as uint8 ``[height, width, 3]``, upright RGB; raises a ``DataError`` that names the file.

    With ``sha256``, it is also raised if the content has another hash. ``min_side_px`` is that of ``decode``.
    """
    try:
        content = read_file(path)
    except DataError as error:
        raise DataError(f"{printable(path)}: {error}; run the same command again.") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{printable(path)}: has changed since it was scanned; run the same command again.")
    try:
        return np.asarray(decode(content, min_side_px=min_side_px).rgb)
    except DataError as error:
        raise DataError(f"{printable(path)}: {error}; replace or remove the file.") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise DataError("has floating-point pixels, whose value range is unknown")
    if image.mode.startswith("I"):
        values = np.asarray(image).clip(0, 65535).astype(np.uint16)
        return Image.fromarray(np.rint(values / np.float32(257)).astype(np.uint8), mode="L").convert("RGB")
    if image.has_transparency_data:
        pixels = image.convert("RGBA")
        white = Image.new("RGBA", pixels.size, "white")
        return Image.alpha_composite(white, pixels).convert("RGB")
    return image.convert("RGB")
