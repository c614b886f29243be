"""What is to be known of one image file: decoded whole, hashed and described.

``python -m graft.data.inspection`` answers a list of files with the facts of each, one line a file, until its
input ends. ``graft/data/workers.py`` runs several of it: what a damaged file does to a process, it does to one of
those.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import sys
import time
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from graft.data.images import decode
from graft.errors import DataError

Facts = dict[str, str | int | float]
NOTHING: Facts = {
    "width_px": 0, "height_px": 0, "mode": "", "format": "", "size_bytes": 0, "sha256": "", "phash": "",
    "brightness": 0.0, "contrast": 0.0, "sharpness": 0.0, "chroma": 0.0, "error": "",
}  # fmt: skip
DRAFT_PX = 64
ANALYSED_PX = 64
HASHED_PX = 32
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
TELL_S = 0.05


def inspect(path: Path, max_file_bytes: int, max_pixels: int, known_sha256: str = "") -> Facts | None:
    """Read and describe one file; a failure becomes its ``error``. None where its content is the known one."""
    facts = dict(NOTHING)
    try:
        content = _read(path, max_file_bytes)
    except OSError as error:
        return facts | {"error": f"cannot be read ({error.strerror})"}
    except DataError as error:
        return facts | {"error": str(error)}
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 == known_sha256:
        return None
    facts |= {"size_bytes": len(content), "sha256": sha256}
    try:
        if not content:
            raise DataError("is empty")
        decoded = decode(content, max_pixels, at_least=DRAFT_PX)
    except DataError as error:
        return facts | {"error": str(error)}
    facts |= {"width_px": decoded.width_px, "height_px": decoded.height_px}
    return facts | {"mode": decoded.mode, "format": decoded.format} | describe(decoded.rgb)


def describe(rgb: Image.Image) -> Facts:
    """Perceptual hash, brightness, contrast and chroma, from the picture at 32 x 32 px; sharpness, at 64 px.

    Few calls on small arrays: for small photographs each call more is a percent of the time that a scan takes.
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


def _read(path: Path, max_file_bytes: int) -> bytes:
    """A regular file's whole content; the size is looked at first, so that nothing endless is read."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise DataError("is no regular file")
        if before.st_size > max_file_bytes:
            raise DataError(f"has {before.st_size} bytes, more than the limit of {max_file_bytes}")
        content = file.read(before.st_size)
        after = os.fstat(file.fileno())
    if len(content) != after.st_size or before.st_mtime_ns != after.st_mtime_ns:
        raise DataError("changed while it was read")
    return content


def _laplacian_variance(rgb: Image.Image) -> float:
    """How sharp a picture is; Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", 2000."""
    scale = min(1.0, ANALYSED_PX / max(rgb.size))
    sides = (max(3, round(rgb.width * scale)), max(3, round(rgb.height * scale)))
    small = rgb if sides == rgb.size else rgb.resize(sides, Image.Resampling.BOX, reducing_gap=2)
    grey = np.asarray(small.convert("L"), dtype=np.float32)
    around = grey[1:-1, :-2] + grey[1:-1, 2:] + grey[:-2, 1:-1] + grey[2:, 1:-1]
    return float((around - 4 * grey[1:-1, 1:-1]).var())


def main() -> None:
    """Answer each line of tasks with a line of facts for each, in their order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends this process
    folder, max_file_bytes, max_pixels = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    print("ready", flush=True)
    told = time.monotonic()
    for line in sys.stdin:
        for path, sha256 in json.loads(line):
            facts = inspect(folder / path, max_file_bytes, max_pixels, sha256)
            # Several answers at a time: the parent wakes less often, on a core that this process could use.
            late = time.monotonic() - told > TELL_S
            print(json.dumps(facts), flush=late)
            told = time.monotonic() if late else told
        sys.stdout.flush()


if __name__ == "__main__":
    main()
