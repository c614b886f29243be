"""Decoding image files to upright RGB: the one implementation for inspection, training, evaluation and prediction.

Needs only Pillow and NumPy: ``graft predict`` decodes with it on the client.

=====================  =====================================================================
content of the file    result
=====================  =====================================================================
several frames         the first frame
EXIF orientation       applied
alpha, transparency    composited onto white
10 to 16 bits of grey  scaled from the range of the format (12-bit TIFF: 0..4095, else 0..65535) to 0..255
16 bits of colour      their upper 8 bits, as Pillow reads them
white is zero          inverted (TIFF)
grey, 1 bit, palette   expanded to RGB
CMYK, YCbCr, Lab, HSV  converted by Pillow
colour profile, text   ignored, as is all other metadata, however damaged
floating point         rejected: the value range is unknown
another format         rejected, whatever the file's extension
over 178 million px    rejected before decoding
=====================  =====================================================================
"""

from __future__ import annotations

import hashlib
import io
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from graft.config.image_sources import MAX_FILE_BYTES, MAX_PIXELS, Format
from graft.config.regular_file import read_regular_file
from graft.data.metadata import SIDEWAYS, TRANSPOSITIONS, UPRIGHT, orientation, strip_metadata
from graft.errors import DataError, error_summary, printable

# About damaged metadata, and large images below the limit: neither is an error of the image.
warnings.filterwarnings("ignore", module=r"PIL\.")

FORMAT_ALIASES = {"MPO": "JPEG"}  # several JPEGs in one file, as some phones write
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # TIFF tags, and a value


@dataclass(frozen=True)
class DecodedImage:
    """An image as upright RGB; the full size of the upright image; mode and format of the file.

    ``used_range`` is the fraction of the value range between the lowest and the highest value of a grey image of more
    than 8 bits; 1 for every other image.
    """

    rgb: Image.Image
    width_px: int
    height_px: int
    mode: str
    format: str
    used_range: float = 1.0


def decode(content: bytes, max_pixels: int = MAX_PIXELS, min_side_px: int | None = None) -> DecodedImage:
    """Decode an image file's content completely; raises ``DataError`` with the reason if that fails.

    With ``min_side_px``, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, no side below ``min_side_px``: the
    decoder still reads every byte, only the inverse transform is cheaper.
    """
    if not content:
        raise DataError("is empty")
    reason: Exception | None = None
    for version, exif in _versions(content):
        try:
            return _decode(version, exif, max_pixels, min_side_px)
        except (DataError, MemoryError):  # a MemoryError is not the fault of the file
            raise
        # Pillow's plugins raise errors of almost any type for damaged content.
        except Exception as error:
            reason = reason or error
    assert reason is not None
    raise DataError(f"cannot be decoded: {error_summary(reason)}") from reason


def _versions(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The file, then the file without its metadata and its EXIF block, if it has metadata."""
    yield content, b""
    stripped, exif = strip_metadata(content)
    if stripped != content:
        yield stripped, exif


def _decode(content: bytes, exif: bytes, max_pixels: int, min_side_px: int | None) -> DecodedImage:
    with Image.open(io.BytesIO(content), formats=get_args(Format)) as image:
        mode, image_format, (width, height) = image.mode, str(image.format), image.size
        if width * height > max_pixels:
            raise DataError(f"has {width} x {height} pixels, more than the limit of {max_pixels}")
        if min_side_px is not None:
            image.draft(None, (min_side_px, min_side_px))
        turn = orientation(image, exif)
        if image_format == "TIFF":  # its plugin makes the image upright
            image.load()
            turn, (width, height) = UPRIGHT, image.size
        elif turn in SIDEWAYS:
            width, height = height, width
        upright = image if turn == UPRIGHT else image.transpose(TRANSPOSITIONS[turn])
        image_format = FORMAT_ALIASES.get(image_format, image_format)
        if upright.mode.startswith("I"):
            rgb, used_range = _deep_grey_to_rgb(upright)
            return DecodedImage(rgb, width, height, mode, image_format, used_range)
        return DecodedImage(_to_rgb(upright), width, height, mode, image_format)


def read_rgb(path: Path, sha256: str | None = None, min_side_px: int | None = None) -> np.ndarray:
    """Read an image as uint8 ``[height, width, 3]``, upright RGB; raises a ``DataError`` that names the file.

    With ``sha256``, it is also raised if the content has another hash; without it, if the file is not a regular one of
    at most 200 MB. ``min_side_px`` is that of ``decode``.
    """
    try:
        content = read_regular_file(path, MAX_FILE_BYTES if sha256 is None else sys.maxsize)
    except OSError as error:
        raise DataError(f"{printable(path)}: cannot be read ({error.strerror}); run the same command again.") from error
    except DataError as error:
        raise DataError(f"{printable(path)}: {error}; replace or remove the file.") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{printable(path)}: has changed since it was scanned; run the same command again.")
    try:
        return np.asarray(decode(content, min_side_px=min_side_px).rgb)
    except DataError as error:
        raise DataError(f"{printable(path)}: {error}; replace or remove the file.") from error


def _deep_grey_to_rgb(image: Image.Image) -> tuple[Image.Image, float]:
    """A grey image of 10 to 16 bits as RGB, and the used fraction of its range; Pillow would only clip its values."""
    tiff_tags = getattr(image, "tag_v2", {})
    highest = 4095 if tiff_tags.get(BITS_PER_SAMPLE) == (12,) else 65535
    values = np.asarray(image).clip(0, highest).astype(np.uint16)
    used_range = float(np.ptp(values)) / highest
    white = values == image.info["transparency"] if "transparency" in image.info else np.False_
    if tiff_tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values = highest - values
    grey = np.rint(values * np.float32(255 / highest)).astype(np.uint8)
    return Image.fromarray(np.where(white, np.uint8(255), grey)).convert("RGB"), used_range


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise DataError("has floating-point pixels, whose value range is unknown")
    if image.has_transparency_data:
        pixels = image.convert("RGBA")
        white = Image.new("RGBA", pixels.size, "white")
        return Image.alpha_composite(white, pixels).convert("RGB")
    return image.convert("RGB")
