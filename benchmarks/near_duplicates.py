"""Measures how well near duplicates are detected on edited photographs, and how fast hashes are clustered.

    python benchmarks/near_duplicates.py [PHOTOS]

Without a folder of photographs, only the clustering of 100,000 random hashes is timed.
"""

from __future__ import annotations

import argparse
import io
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance, ImageOps

from graft.config.image_sources import EXTENSIONS
from graft.config.parameters import ValidationConfig
from graft.data.duplicates import MIRROR, cluster_duplicates
from graft.data.images import decode
from graft.data.inspection import DRAFT_PX, image_stats

Edit = Callable[[Image.Image], Image.Image]
DISTANCES = (0, 2, 4, 6, 8, 10, 12)


def crop(image: Image.Image, left: float, right: float) -> Image.Image:
    """Remove a fraction of the width and height at the left and top, and another at the right and bottom."""
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


def perceptual_hash(content: bytes) -> int:
    """The 64-bit perceptual hash, as a scan computes it."""
    return int(str(image_stats(decode(content, min_side_px=DRAFT_PX).rgb)["phash"]), 16)


def hamming_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The number of different bits of each pair, as they are or mirrored, whichever is smaller."""
    difference = left ^ right
    return np.asarray(np.minimum(np.bitwise_count(difference), np.bitwise_count(difference ^ MIRROR)))


def quality(folder: Path) -> None:
    """Print recall for each edit, and false pairs among different photographs, for several thresholds."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in EXTENSIONS]
    contents = [path.read_bytes() for path in paths]
    originals = np.array([perceptual_hash(content) for content in contents], dtype=np.uint64)
    print(f"{len(paths)} photographs; fraction of edited copies within this number of bits")
    print(f"{'':26}" + "".join(f"{bits:>8}" for bits in DISTANCES))
    for name, (edit, file_format, jpeg_quality) in EDITS.items():
        edited = []
        for content in contents:
            buffer = io.BytesIO()
            edit(decode(content).rgb).save(buffer, file_format, quality=jpeg_quality)
            edited.append(perceptual_hash(buffer.getvalue()))
        distances = hamming_distances(originals, np.array(edited, dtype=np.uint64))
        print(f"{name:26}" + "".join(f"{(distances <= bits).mean():8.3f}" for bits in DISTANCES))
    first, second = np.triu_indices(len(originals), 1)
    distances = hamming_distances(originals[first], originals[second])
    print(f"{'different photographs':26}" + "".join(f"{int((distances <= bits).sum()):8}" for bits in DISTANCES))
    print(f"(false pairs of {len(distances):,}; the minimum distance is {distances.min()} bits)")


def speed(count: int) -> None:
    """Time the clustering of random hashes, a tenth of which are a few bits from another one."""
    generator = np.random.default_rng(0)
    bits = np.argsort(generator.random((count, 64)), axis=1) < 32  # half are set, as in a hash by median
    values = np.packbits(bits, axis=1).view(">u8").astype(np.uint64).ravel()
    near = count // 10
    for _ in range(3):
        values[:near] = values[near : 2 * near] ^ (np.uint64(1) << generator.integers(0, 64, near, dtype=np.uint64))
    hashes = pd.Series([f"{value:016x}" for value in values])
    start = time.perf_counter()
    clusters = cluster_duplicates(hashes, ValidationConfig().near_duplicate_bits)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count:,} hashes, {len(np.unique(clusters)):,} clusters: {seconds:.1f} s, peak {peak:.0f} MiB")


def main() -> None:
    """Time the clustering, then measure recall and false pairs if a folder is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?")
    options = parser.parse_args()
    speed(100_000)
    if options.photos:
        quality(options.photos)


if __name__ == "__main__":
    main()
