"""How well near duplicates are found, on photographs with known edits, and how fast clusters are.

python benchmarks/near_duplicates.py photos
"""

from __future__ import annotations

import io
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance, ImageOps

from graft.config import ValidationConfig
from graft.data.duplicates import MIRROR, clusters
from graft.data.images import EXTENSIONS, decode
from graft.data.inspection import DRAFT_PX, describe

Edit = Callable[[Image.Image], Image.Image]
DISTANCES = (0, 2, 4, 6, 8, 10, 12)


def crop(image: Image.Image, left: float, right: float) -> Image.Image:
    """Cut fractions of both sides away."""
    width, height = image.size
    return image.crop(
        (round(width * left), round(height * left), round(width * (1 - right)), round(height * (1 - right)))
    )


EDITS: dict[str, tuple[Edit, str, int]] = {
    "resized to 50 %": (lambda image: image.resize((image.width // 2, image.height // 2)), "JPEG", 90),
    "resized to 200 %": (lambda image: image.resize((image.width * 2, image.height * 2)), "JPEG", 90),
    "recompressed, quality 30": (lambda image: image, "JPEG", 30),
    "saved as PNG": (lambda image: image, "PNG", 0),
    "cropped 5 %, centred": (lambda image: crop(image, 0.025, 0.025), "JPEG", 90),
    "cropped 5 %, one corner": (lambda image: crop(image, 0.05, 0), "JPEG", 90),
    "brightness + 20 %": (lambda image: ImageEnhance.Brightness(image).enhance(1.2), "JPEG", 90),
    "brightness - 30 %": (lambda image: ImageEnhance.Brightness(image).enhance(0.7), "JPEG", 90),
    "contrast + 30 %": (lambda image: ImageEnhance.Contrast(image).enhance(1.3), "JPEG", 90),
    "turned grey": (lambda image: image.convert("L"), "JPEG", 90),
    "flipped": (ImageOps.mirror, "JPEG", 90),
}


def hashed(content: bytes) -> int:
    """The perceptual hash as a scan computes it."""
    return int(str(describe(decode(content, at_least=DRAFT_PX).rgb)["phash"]), 16)


def distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Bits that differ, mirrored or not, whichever is less."""
    difference = left ^ right
    return np.asarray(np.minimum(np.bitwise_count(difference), np.bitwise_count(difference ^ MIRROR)))


def quality(folder: Path) -> None:
    """Recall for each edit and false pairs among different photographs, by distance."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in EXTENSIONS]
    contents = [path.read_bytes() for path in paths]
    known = np.array([hashed(content) for content in contents], dtype=np.uint64)
    print(f"{len(paths)} photographs; share of edited copies found within so many bits")
    print(f"{'':26}" + "".join(f"{bits:>8}" for bits in DISTANCES))
    for name, (edit, kind, grade) in EDITS.items():
        found = []
        for content in contents:
            buffer = io.BytesIO()
            edit(decode(content).rgb).save(buffer, kind, quality=grade)
            found.append(hashed(buffer.getvalue()))
        apart = distances(known, np.array(found, dtype=np.uint64))
        print(f"{name:26}" + "".join(f"{(apart <= bits).mean():8.3f}" for bits in DISTANCES))
    first, second = np.triu_indices(len(known), 1)
    apart = distances(known[first], known[second])
    print(f"{'different photographs':26}" + "".join(f"{int((apart <= bits).sum()):8}" for bits in DISTANCES))
    print(f"(false pairs of {len(apart):,}; the nearest two are {apart.min()} bits apart)")


def speed(count: int) -> None:
    """Clusters of random hashes, a tenth of which are a few bits from another."""
    generator = np.random.default_rng(0)
    halves = np.argsort(generator.random((count, 64)), axis=1) < 32  # as a median makes them
    values = np.packbits(halves, axis=1).view(">u8").astype(np.uint64).ravel()
    near = count // 10
    for _ in range(3):
        values[:near] = values[near : 2 * near] ^ (
            np.uint64(1) << generator.integers(0, 64, near, dtype=np.uint64)
        )
    hashes = pd.Series([f"{value:016x}" for value in values])
    start = time.perf_counter()
    found = clusters(hashes, ValidationConfig().near_duplicate_bits)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count:,} hashes, {len(np.unique(found)):,} clusters: {seconds:.1f} s, peak {peak:.0f} MiB")


if __name__ == "__main__":
    speed(100_000)
    quality(Path(sys.argv[1]))
