"""One way from any image file to upright RGB, for inspection, training, evaluation and prediction alike.

Needs Pillow and NumPy only: ``graft predict`` reads images with it at the client.

=====================  =====================================================================
what the file holds    what becomes of it
=====================  =====================================================================
several frames         the first
EXIF orientation       turned upright
alpha, transparency    laid over white
16 bits of grey        divided by 257, rounded
16 bits of colour      their upper 8 bits, as Pillow reads them
grey, 1 bit, palette   expanded to RGB
CMYK, YCbCr, Lab, HSV  converted by Pillow
colour profile         ignored
floating point         refused: its range is not known
another format         refused, whatever the file's name says
over 178 million px    refused, before it is decoded
=====================  =====================================================================
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageOps

from graft.errors import DataError, said, shown

# Of damaged metadata and of large images below the limit; neither is an error of the picture.
warnings.filterwarnings("ignore", module=r"PIL\.")

Format = Literal["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]
NAMES = {"MPO": "JPEG"}  # several JPEGs in one file, as some telephones write
EXTENSIONS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".webp": "WEBP",
    ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF",
}  # fmt: skip
MAX_PIXELS = 178_956_970  # where Pillow itself refuses
ORIENTATION, UPRIGHT, LYING = 0x0112, 1, (5, 6, 7, 8)  # the EXIF tag; its values that swap width and height


@dataclass(frozen=True)
class Decoded:
    """An image as upright RGB, with its own size, and the mode and format of its file."""

    rgb: Image.Image
    width_px: int
    height_px: int
    mode: str
    format: str


def decode(content: bytes, max_pixels: int = MAX_PIXELS, at_least: int | None = None) -> Decoded:
    """Decode the whole of an image file's content; raises ``DataError`` with the reason where that fails.

    With ``at_least``, a JPEG may come out smaller, by 2, 4 or 8, with no side below so many pixels: every byte
    still goes through the decoder, only the inverse transform is cheaper.
    """
    try:
        with Image.open(io.BytesIO(content), formats=get_args(Format)) as image:
            mode, kind, (width, height) = image.mode, str(image.format), image.size
            if width * height > max_pixels:
                raise DataError(f"has {width} x {height} pixels, more than the limit of {max_pixels}")
            if at_least is not None:
                image.draft(None, (at_least, at_least))
            orientation = image.getexif().get(ORIENTATION, UPRIGHT)
            if orientation in LYING and kind != "TIFF":  # whose plugin gives the upright size
                width, height = height, width
            upright = image if orientation == UPRIGHT else ImageOps.exif_transpose(image)
            return Decoded(_to_rgb(upright), width, height, mode, NAMES.get(kind, kind))
    except (DataError, MemoryError):  # which is no fault of the file
        raise
    # Pillow's plugins raise nearly anything on damaged bytes; each of them means the same to us.
    except Exception as error:
        raise DataError(f"cannot be decoded: {said(error)}") from error


def read_rgb(path: Path, sha256: str | None = None, at_least: int | None = None) -> np.ndarray:
    """Read an image as uint8 ``[height, width, 3]``, upright RGB; raises ``DataError`` that names the file.

    With ``sha256``, also where the file no longer holds what was scanned. ``at_least`` is that of ``decode``.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{shown(path)}: cannot be read ({error.strerror}); run the same command again."
        ) from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{shown(path)}: has changed since it was scanned; run the same command again.")
    try:
        return np.asarray(decode(content, at_least=at_least).rgb)
    except DataError as error:
        raise DataError(f"{shown(path)}: {error}; replace or remove the file.") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise DataError("holds floating-point pixels, whose range is not known")
    if image.mode.startswith("I"):
        values = np.asarray(image).clip(0, 65535).astype(np.uint16)
        return Image.fromarray(np.rint(values / np.float32(257)).astype(np.uint8), mode="L").convert("RGB")
    if image.has_transparency_data:
        pixels = image.convert("RGBA")
        white = Image.new("RGBA", pixels.size, "white")
        return Image.alpha_composite(white, pixels).convert("RGB")
    return image.convert("RGB")
