"""Inspecting one image file: decode it completely, hash it, and compute its image stats.

``python -m graft.data.inspection`` reads lists of files from standard input and prints the image stats of each file
as one line of JSON. ``graft/data/workers.py`` runs several such processes: a file that kills or hangs the decoder
affects only one of them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import signal
import sys
import time
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from graft.config.regular_file import read_regular_file
from graft.data.images import decode
from graft.errors import DataError

ImageStats = dict[str, str | int | float]
EMPTY_STATS: ImageStats = {
    "width_px": 0, "height_px": 0, "mode": "", "format": "", "size_bytes": 0, "sha256": "", "phash": "",
    "brightness": 0.0, "contrast": 0.0, "sharpness": 0.0, "chroma": 0.0, "used_range": 1.0, "error": "",
}  # fmt: skip
DRAFT_PX = 64
THUMBNAIL_PX = 64
SHARPNESS_PX = 64
HASHED_PX = 32
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
FLUSH_INTERVAL_S = 0.05


def inspect(path: Path, max_file_bytes: int, max_pixels: int, previous_sha256: str = "") -> ImageStats | None:
    """The stats of one file, a failure as its ``error``; None if its content still has the previous hash.

    If the file decodes, ``thumbnail`` is added: its grey thumbnail of 64 x 64 px, one byte a pixel, in base 64.
    """
    stats = dict(EMPTY_STATS)
    try:
        content = read_regular_file(path, max_file_bytes)
    except OSError as error:
        return stats | {"error": f"cannot be read ({error.strerror})"}
    except DataError as error:
        return stats | {"error": str(error)}
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 == previous_sha256:
        return None
    stats |= {"size_bytes": len(content), "sha256": sha256}
    try:
        decoded = decode(content, max_pixels, min_side_px=DRAFT_PX)
    except DataError as error:
        return stats | {"error": str(error)}
    stats |= {"width_px": decoded.width_px, "height_px": decoded.height_px}
    stats |= {"mode": decoded.mode, "format": decoded.format, "used_range": decoded.used_range}
    stats |= image_stats(decoded.rgb)
    return stats | {"thumbnail": base64.b64encode(grey_thumbnail(decoded.rgb)).decode()}


def image_stats(rgb: Image.Image) -> ImageStats:
    """Perceptual hash, brightness, contrast and chroma of the image at 32 x 32 px; sharpness at 64 px.

    Few calls on small arrays: for small photographs, each additional call costs a percent of the scan's time.
    """
    square = rgb.resize((HASHED_PX, HASHED_PX), Image.Resampling.BILINEAR, reducing_gap=3)
    pixels = np.asarray(square, dtype=np.float32)
    grey = pixels @ LUMA
    return {
        "phash": np.packbits(imagehash.phash(square).hash).tobytes().hex(),
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "chroma": float(np.abs(pixels[..., ::2] - pixels[..., 1:2]).mean()),
        "sharpness": _laplacian_variance(rgb),
    }


def grey_thumbnail(rgb: Image.Image) -> bytes:
    """The image squeezed into 64 x 64 grey pixels, row by row."""
    square = rgb.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BILINEAR, reducing_gap=3)
    return square.convert("L").tobytes()


def _laplacian_variance(rgb: Image.Image) -> float:
    """Sharpness; Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", 2000."""
    scale = min(1.0, SHARPNESS_PX / max(rgb.size))
    size = (max(3, round(rgb.width * scale)), max(3, round(rgb.height * scale)))
    small = rgb if size == rgb.size else rgb.resize(size, Image.Resampling.BOX, reducing_gap=2)
    grey = np.asarray(small.convert("L"), dtype=np.float32)
    neighbours = grey[1:-1, :-2] + grey[1:-1, 2:] + grey[:-2, 1:-1] + grey[2:, 1:-1]
    return float((neighbours - 4 * grey[1:-1, 1:-1]).var())


def main() -> None:
    """For each line of tasks, print the stats of each file, in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it, and ends this process
    folder, max_file_bytes, max_pixels = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    print("ready", flush=True)
    flushed_at = time.monotonic()
    for line in sys.stdin:
        for path, previous_sha256 in json.loads(line):
            stats = inspect(folder / path, max_file_bytes, max_pixels, previous_sha256)
            # Several results per flush: the parent wakes less often, on a core that this process could use.
            flush = time.monotonic() - flushed_at > FLUSH_INTERVAL_S
            print(json.dumps(stats), flush=flush)
            flushed_at = time.monotonic() if flush else flushed_at
        sys.stdout.flush()


if __name__ == "__main__":
    main()
