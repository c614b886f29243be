"""Measures near duplicates: recall on edited copies, what is found among the originals, and the cost beside the scan.

    python benchmarks/near_duplicates.py PHOTOS... [--images 150] [--sheets FOLDER] [--json FILE]
    python benchmarks/near_duplicates.py --clusters 100000

For each folder of photographs: the share of edited copies that end in the cluster of their original, per edit, in the
same class and in another one; the pairs found among the photographs themselves, and how many of them look alike (a
correlation of thumbnails above 0.9, as they are or mirrored); the training images left out if ``val/`` is given; and
the CPU seconds of the comparison and of the scan, both on one core. With ``--sheets``, the pairs are drawn to be looked
at: the correlation is a proxy. ``--clusters`` times the comparison of random thumbnails.
"""

from __future__ import annotations

import argparse
import io
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance, ImageOps

from graft.config.image_sources import EXTENSIONS
from graft.config.parameters import ValidationConfig
from graft.data.duplicates import cluster_duplicates
from graft.data.images import decode
from graft.data.inspection import THUMBNAIL_PX, grey_thumbnail, inspect
from graft.data.thumbnail_cache import NO_LIMITS
from saving import save_results

Edit = Callable[[Image.Image], Image.Image]
BITS = ValidationConfig().near_duplicate_bits
SHEET_PX = 200


def crop(left: float, top: float, right: float, bottom: float) -> Edit:
    """Remove a fraction of the width or height at each side."""

    def edit(image: Image.Image) -> Image.Image:
        width, height = image.size
        box = (width * left, height * top, width * (1 - right), height * (1 - bottom))
        return image.crop(tuple(round(side) for side in box))  # type: ignore[arg-type]

    return edit


def border(fraction: float, colour: str) -> Edit:
    """Add a border; its width is a fraction of the shorter side."""
    return lambda image: ImageOps.expand(image, max(1, round(fraction * min(image.size))), colour)


EDITS: dict[str, tuple[Edit, int]] = {  # and the JPEG quality
    "resized to 50 %": (lambda image: image.resize((image.width // 2, image.height // 2)), 90),
    "resized to 200 %": (lambda image: image.resize((image.width * 2, image.height * 2)), 90),
    "quality 30": (lambda image: image, 30),
    "cropped 5 %, centred": (crop(0.025, 0.025, 0.025, 0.025), 90),
    "cropped 5 %, one corner": (crop(0.05, 0.05, 0, 0), 90),
    "cropped 5 %, each side": (crop(0.05, 0.05, 0.05, 0.05), 90),
    "brightness + 20 %": (lambda image: ImageEnhance.Brightness(image).enhance(1.2), 90),
    "brightness + 40 %": (lambda image: ImageEnhance.Brightness(image).enhance(1.4), 90),
    "brightness - 30 %": (lambda image: ImageEnhance.Brightness(image).enhance(0.7), 90),
    "turned grey": (lambda image: image.convert("L"), 90),
    "mirrored": (ImageOps.mirror, 90),
    "white border of 5 %": (border(0.05, "white"), 90),
    "black border of 5 %": (border(0.05, "black"), 90),
}


def thumbnail(content: bytes) -> np.ndarray:
    """The grey thumbnail of an image file, as a scan computes it: uint8 ``[64, 64]``."""
    pixels = grey_thumbnail(decode(content, min_side_px=THUMBNAIL_PX).rgb)
    return np.frombuffer(pixels, np.uint8).reshape(THUMBNAIL_PX, THUMBNAIL_PX)


def clusters(pixels: np.ndarray, labels: list[str]) -> np.ndarray:
    """The cluster of each thumbnail."""
    return cluster_duplicates(pixels, np.arange(len(pixels)), pd.Series(labels, dtype="str"), BITS)


def recall(paths: list[Path]) -> dict[str, list[float]]:
    """For each edit, the share of copies found in the class of their original, and in another class."""
    contents = [path.read_bytes() for path in paths]
    originals, labels, count = [thumbnail(content) for content in contents], [p.parent.name for p in paths], len(paths)
    found = {}
    for name, (edit, quality) in EDITS.items():
        copies = []
        for content in contents:
            buffer = io.BytesIO()
            edit(decode(content).rgb).save(buffer, "JPEG", quality=quality)
            copies.append(thumbnail(buffer.getvalue()))
        results = [clusters(np.stack(originals + copies), labels + others) for others in (labels, ["other"] * count)]
        found[name] = [round(float((result[:count] == result[count:]).mean()), 3) for result in results]
    return found


def found_pairs(result: np.ndarray) -> list[tuple[int, int]]:
    """The pairs of images in one cluster."""
    groups = pd.Series(range(len(result))).groupby(result).agg(list)
    return [(left, right) for group in groups for left in group for right in group if left < right]


def look_alike(pixels: np.ndarray, pair: tuple[int, int]) -> bool:
    """Whether the thumbnails of a pair correlate by over 0.9, as they are or mirrored."""
    left, right = (pixels[index].astype(float) for index in pair)
    return bool(max(np.corrcoef(left.ravel(), other.ravel())[0, 1] for other in (right, right[:, ::-1])) > 0.9)


def draw_pairs(paths: list[Path], pairs: list[tuple[int, int]], target: Path) -> None:
    """Save a contact sheet of pairs, four in a row."""
    sheet = Image.new("RGB", (4 * (2 * SHEET_PX + 12), -(-len(pairs) // 4) * (SHEET_PX + 6)), "white")
    for number, pair in enumerate(pairs):
        for side, index in enumerate(pair):
            image = decode(paths[index].read_bytes()).rgb.resize((SHEET_PX, SHEET_PX))
            sheet.paste(image, (number % 4 * (2 * SHEET_PX + 12) + side * SHEET_PX, number // 4 * (SHEET_PX + 6)))
    sheet.save(target)


def measure(folder: Path, images: int, sheets: Path | None) -> dict[str, Any]:
    """All figures of one folder."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in EXTENSIONS]
    start = time.process_time()
    for path in paths:
        inspect(path, NO_LIMITS.max_file_bytes, NO_LIMITS.max_pixels)
    scan_s = time.process_time() - start
    pixels = np.stack([thumbnail(path.read_bytes()) for path in paths])
    labels = [path.parent.name for path in paths]
    start = time.process_time()
    result = clusters(pixels, labels)
    compare_s = time.process_time() - start
    pairs = found_pairs(result)
    if sheets and pairs:
        draw_pairs(paths, pairs, sheets / f"{folder.name}.png")
    trains = np.array(["train" in path.relative_to(folder).parts for path in paths])
    held_out = set(result[~trains]) if trains.any() else set()
    sample = np.random.default_rng(0).permutation(len(paths))[:images]
    return {
        "data": folder.name, "images": len(paths), "pairs": len(pairs),
        "pairs_that_look_alike": sum(map(partial(look_alike, pixels), pairs)),
        "pairs_of_two_classes": sum(labels[left] != labels[right] for left, right in pairs),
        "training_images": int(trains.sum()),
        "left_out": sum(bool(train) and cluster in held_out for train, cluster in zip(trains, result, strict=True)),
        "scan_cpu_s": round(scan_s, 3), "compare_cpu_s": round(compare_s, 3),
        "recall": recall([paths[index] for index in sample]),
    }  # fmt: skip


def time_clusters(count: int) -> dict[str, Any]:
    """Time the comparison of random thumbnails, a tenth of which are noisy copies of others."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (count, 8, 8), dtype=np.uint8)
    coarse[: count // 10] = coarse[count // 10 : 2 * (count // 10)]
    pixels = np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2)
    pixels ^= generator.integers(0, 4, pixels.shape, dtype=np.uint8)
    start = time.process_time()
    result = clusters(pixels, ["a"] * count)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"images": count, "clusters": len(np.unique(result)), "cpu_s": round(seconds, 1), "peak_mib": round(peak)}


def main() -> None:
    """Run the requested measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="*")
    parser.add_argument("--images", type=int, default=150, help="originals that are edited; default: %(default)s")
    parser.add_argument(
        "--sheets", type=Path, metavar="FOLDER", help="save a contact sheet of the pairs of each folder"
    )
    parser.add_argument("--clusters", type=int, metavar="N", help="time the comparison of N random thumbnails")
    parser.add_argument("--json", type=Path, help="save the results to this file")
    options = parser.parse_args()
    results = []
    if options.clusters:
        results.append(time_clusters(options.clusters))
        print(results[-1])
    for folder in options.photos:
        results.append(measure(folder, options.images, options.sheets))
        save_results(results, options.json)
        print(results[-1], flush=True)


if __name__ == "__main__":
    main()
