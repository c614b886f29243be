"""One way from any image file to upright RGB, for training, evaluation and prediction alike.

Needs Pillow and NumPy only: ``graft predict`` reads images with it at the client.

=====================  =====================================================================
what the file holds    what becomes of it
=====================  =====================================================================
several frames         the first
EXIF orientation       turned upright
alpha, transparency    laid over white
16 bits a channel      divided by 257, rounded
grey, 1 bit, palette   expanded to RGB
CMYK, YCbCr, Lab, HSV  converted by Pillow
floating point         refused: its range is not known
over 178 million px    refused by Pillow, before it is decoded
=====================  =====================================================================
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from graft.errors import DataError

# Of damaged metadata and of large images below Pillow's limit; neither is an error of the picture.
warnings.filterwarnings("ignore", module=r"PIL\.")

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


@dataclass(frozen=True)
class Decoded:
    """An image as upright RGB, with the mode and format of its file."""

    rgb: Image.Image
    mode: str
    format: str


def decode(path: Path) -> Decoded:
    """Decode a whole image file; raises ``DataError`` with the reason where that fails."""
    try:
        with Image.open(path) as image:
            mode, kind = image.mode, image.format or "unknown"
            return Decoded(_to_rgb(ImageOps.exif_transpose(image)), mode, kind)
    except DataError:
        raise
    # Pillow's plugins raise nearly anything on damaged bytes; each of them means the same to us.
    except Exception as error:
        raise DataError(f"cannot be decoded ({type(error).__name__}: {' '.join(str(error).split())})") from error


def read_rgb(path: Path) -> np.ndarray:
    """Read an image as uint8 ``[height, width, 3]``, upright RGB; raises ``DataError`` that names the file."""
    try:
        return np.asarray(decode(path).rgb)
    except DataError as error:
        raise DataError(f"{path}: {error}; replace or remove the file.") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise DataError("holds floating-point pixels, whose range is not known")
    if image.mode.startswith("I"):
        values = np.clip(np.asarray(image, dtype=np.int64), 0, 65535)
        return Image.fromarray(np.rint(values / 257).astype(np.uint8), mode="L").convert("RGB")
    if image.has_transparency_data:
        pixels = image.convert("RGBA")
        white = Image.new("RGBA", pixels.size, "white")
        return Image.alpha_composite(white, pixels).convert("RGB")
    return image.convert("RGB")
